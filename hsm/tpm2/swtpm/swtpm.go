// Package swtpm runs swtpm, the software TPM 2.0, as a child process. It stands
// in for a chip in demonstrations and tests. Its keys lie in files: it is no
// security.
package swtpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/berth-iot/berth/hsm/tpm2"
)

const (
	// startTimeout bounds the time to the first answer; a new TPM takes about
	// 50 ms.
	startTimeout = 10 * time.Second
	// stopTimeout is what swtpm gets to end by itself.
	stopTimeout = 5 * time.Second
	// maxSocketPath is what the kernel's sun_path holds, less its final zero.
	maxSocketPath = 107
)

// An Instance is a running software TPM.
type Instance struct {
	address string
	cancel  context.CancelFunc
	done    chan struct{} // closed when the process has ended
	err     error         // how it ended; read after done
	sockets string        // temporary directory of the socket, or empty
}

// Start runs a software TPM whose state is in dir, which is created where it is
// missing. An empty dir becomes a new TPM; a dir used before gives the same TPM
// with the same seeds and persistent keys. Start returns when the TPM answers.
// The process ends with ctx, with Stop and, on Linux, with this program.
func Start(ctx context.Context, dir string) (*Instance, error) {
	program, err := exec.LookPath("swtpm")
	if err != nil {
		return nil, fmt.Errorf("starting a software TPM: swtpm is not installed; run apt-get install swtpm: %w", err)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("starting a software TPM: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("starting a software TPM: %w", err)
	}
	i := &Instance{done: make(chan struct{})}
	socket, err := i.socketPath(dir)
	if err != nil {
		return nil, fmt.Errorf("starting a software TPM: %w", err)
	}
	i.address = "unix:" + socket
	if err := i.run(ctx, program, dir, socket); err != nil {
		return nil, fmt.Errorf("starting a software TPM: %w", err)
	}
	return i, nil
}

// Address returns where the TPM listens, in the form that tpm2.Open takes. It
// is the same for every Start in one dir unless the dir's name is too long for
// a socket.
func (i *Instance) Address() string { return i.address }

// Stop ends the TPM and returns when its process has gone. Its state stays.
// Stopping twice is harmless.
func (i *Instance) Stop() error {
	i.cancel()
	<-i.done
	if i.err != nil && !errors.Is(i.err, context.Canceled) {
		return fmt.Errorf("stopping the software TPM: %w", i.err)
	}
	return nil
}

// socketPath chooses a path in dir, or in a temporary directory where that is
// too long.
func (i *Instance) socketPath(dir string) (string, error) {
	if path := filepath.Join(dir, "socket"); len(path) <= maxSocketPath {
		return path, nil
	}
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		short, err := os.MkdirTemp(parent, "swtpm")
		if err != nil {
			return "", err
		}
		if path := filepath.Join(short, "socket"); len(path) <= maxSocketPath {
			i.sockets = short
			return path, nil
		}
		os.Remove(short)
	}
	return "", fmt.Errorf("no directory with a name short enough for a socket (%d octets)", maxSocketPath)
}

// run starts the process and waits until it serves.
func (i *Instance) run(ctx context.Context, program, dir, socket string) error {
	if err := unserved(ctx, socket); err != nil {
		return err
	}
	ctx, i.cancel = context.WithCancel(ctx)
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "socket", "--tpm2",
		"--tpmstate", "dir="+dir+",mode=0600",
		"--server", "type=unixio,path="+socket+",mode=0600",
		"--flags", "not-need-init,startup-clear")
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = dieWithParent()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout

	started := make(chan error, 1)
	go i.tend(cmd, started)
	if err := <-started; err != nil {
		i.cancel()
		return err
	}
	if err := i.await(ctx); err != nil {
		i.cancel()
		<-i.done
		if said := strings.TrimSpace(output.String()); said != "" {
			return fmt.Errorf("%w; swtpm said: %s", err, said)
		}
		return err
	}
	return nil
}

// unserved makes sure that nobody serves the socket: that would be another
// program's TPM, and swtpm takes a socket away from whoever has it before it
// finds the state locked.
func unserved(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err == nil {
		conn.Close()
		return fmt.Errorf("another program runs the software TPM of this directory, at unix:%s; use that one or stop it", socket)
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil // never used, or left behind
	}
	return fmt.Errorf("looking at the socket of this directory: %w", err)
}

// tend starts the process and stays with it to its end, on one thread: the
// kernel counts the thread that forked as the parent to die with.
func (i *Instance) tend(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(i.done)
	err := cmd.Start()
	started <- err
	if err == nil {
		i.err = cmd.Wait()
	}
	if i.sockets != "" {
		os.RemoveAll(i.sockets)
	}
}

// await returns when the TPM answers, or says why it never will.
func (i *Instance) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		t, err := tpm2.Open(ctx, i.address)
		if err == nil {
			return t.Close()
		}
		select {
		case <-i.done:
			return fmt.Errorf("swtpm ended: %w", i.err)
		case <-ctx.Done():
			return fmt.Errorf("swtpm does not answer: %w", err)
		case <-tick.C:
		}
	}
}
