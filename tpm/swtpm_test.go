package tpm_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// A softTPM is a blank TPM 2.0 in a process of its own, gone when the test ends.
// It serves one connection at a time.
type softTPM struct {
	path string // of its Unix socket; the control socket is path + ".ctrl"
}

func startTPM(t *testing.T) softTPM {
	t.Helper()
	program, err := exec.LookPath("swtpm")
	if err != nil {
		t.Fatal("this test needs a software TPM: apt-get install swtpm")
	}
	// Not t.TempDir: with a long test name the path may exceed what a socket takes.
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tpm := softTPM{filepath.Join(dir, "tpm")}

	// The control socket is ours from the start, so that connecting to it needs
	// no waiting.
	control, err := net.Listen("unix", tpm.path+".ctrl")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	control.(*net.UnixListener).SetUnlinkOnClose(false)
	controlFile, err := control.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer controlFile.Close()

	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+tpm.path, "--ctrl", "type=unixio,fd=3",
		"--flags", "not-need-init,startup-clear")
	cmd.ExtraFiles = []*os.File{controlFile}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	tpm.awaitReady(t)
	return tpm
}

// awaitReady asks for the capabilities on the control channel. Once there is an
// answer the other socket is open, too.
func (tpm softTPM) awaitReady(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("unix", tpm.path+".ctrl")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	const getCapability = 1
	conn.Write(binary.BigEndian.AppendUint32(nil, getCapability))
	if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
		t.Fatalf("swtpm does not answer: %v", err)
	}
}

// open returns a connection for go-tpm. It holds the TPM only during a command.
func (tpm softTPM) open(t *testing.T) transport.TPM {
	t.Helper()
	conn, err := linuxudstpm.Open(tpm.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// tool runs one of the tpm2-tools against the TPM and returns what it prints.
func (tpm softTPM) tool(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("this test needs %s: apt-get install tpm2-tools", name)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+tpm.path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
