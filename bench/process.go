package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is what a child gets to end by itself.
const stopTimeout = 10 * time.Second

// A process is a child whose CPU time is measured.
type process struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	in     io.WriteCloser
	done   chan struct{} // closed when it has ended
	err    error         // how it ended; read after done
	log    string        // file with its standard error
}

// start runs a program with its standard error in the file log and its standard
// output in out. It ends with ctx or with stop.
func start(ctx context.Context, log string, out io.Writer, program string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{done: make(chan struct{}), log: log}
	ctx, p.cancel = context.WithCancel(ctx)
	p.cmd = exec.CommandContext(ctx, program, args...)
	p.cmd.Stdout, p.cmd.Stderr = out, f
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTimeout
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	if err := p.cmd.Start(); err != nil {
		p.cancel()
		return nil, fmt.Errorf("starting %s: %w", filepath.Base(program), err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// stop ends the process and returns when it has gone.
func (p *process) stop() {
	p.cancel()
	<-p.done
}

// failure says why a process that should be running is not, with the end of its
// log.
func (p *process) failure() error {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%s ended: %v\n%s", filepath.Base(p.cmd.Path), p.err, strings.Join(lines[max(0, len(lines)-5):], "\n"))
}

// errNoAccount is of a process that has gone, or a kernel that does not count.
var errNoAccount = errors.New("the kernel keeps no account of threads in /proc/PID/task/TID/schedstat")

// cpu returns the CPU time, in user and system mode, that the threads of a
// process have used, to the nanosecond (/proc/PID/task/TID/schedstat). It
// misses threads that have ended, which those of a Go server do not.
func cpu(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, err
		}
		used, _, _ := bytes.Cut(text, []byte(" "))
		n, err := strconv.ParseInt(string(used), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += time.Duration(n)
	}
	if sum == 0 {
		return 0, errNoAccount
	}
	return sum, nil
}

func (p *process) cpu() (time.Duration, error) { return cpu(p.cmd.Process.Pid) }

// quiet returns the CPU time once the process has stopped using any: after the
// last answer it still closes connections.
func (p *process) quiet() (time.Duration, error) {
	const (
		pause = 10 * time.Millisecond
		idle  = 200 * time.Microsecond // in a pause
		tries = 200
	)
	last, err := p.cpu()
	for range tries {
		if err != nil {
			return 0, err
		}
		time.Sleep(pause)
		before := last
		if last, err = p.cpu(); err == nil && last-before < idle {
			return last, nil
		}
	}
	return 0, errors.Join(err, errors.New("the server does not come to rest"))
}

// resident returns the resident memory of the process now and at its peak, in
// bytes (VmRSS and VmHWM of /proc/PID/status).
func (p *process) resident() (now, peak int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			now = kib << 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			peak = kib << 10
		}
	}
	return now, peak, nil
}

// filesystem returns the type of the file system that path is on, as
// /proc/self/mounts has it.
func filesystem(path string) string {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "unknown"
	}
	best, kind := "", "unknown"
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < len(best) {
			continue
		}
		if rel, err := filepath.Rel(f[1], path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			best, kind = f[1], f[2]
		}
	}
	return kind
}
