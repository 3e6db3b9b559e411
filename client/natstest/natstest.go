// Package natstest runs NATS servers for tests. They listen on this machine alone.
package natstest

import (
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Server is a NATS server, which can be killed and started again at the same
// address.
type Server struct {
	address string
	options []string

	mu      sync.Mutex // guards running
	running *exec.Cmd
}

// Start runs a server until the test ends, and returns when it listens. options are
// further arguments of nats-server.
func Start(t *testing.T, options ...string) *Server {
	t.Helper()
	s := New(t, options...)
	s.Start(t)
	for !t.Failed() {
		if c, err := net.Dial("tcp", s.address); err == nil {
			c.Close()
			return s
		}
		select {
		case <-t.Context().Done():
			t.Fatal("nats-server does not listen")
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.FailNow()
	return nil
}

// New is [Start] for a server that does not run yet.
func New(t *testing.T, options ...string) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Server{address: l.Addr().String(), options: options}
	t.Cleanup(s.Kill)
	return s
}

// Address returns where it is, as host:port.
func (s *Server) Address() string { return s.address }

// URL returns where it is, as clients are told.
func (s *Server) URL() string { return "nats://" + s.address }

// Start starts the server. It does not wait until that listens.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	path, err := exec.LookPath("nats-server")
	if err != nil {
		t.Error("nats-server is missing; run: apt-get install nats-server")
		return
	}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Error(err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	running := exec.Command(path, append([]string{"-a", host, "-p", port}, s.options...)...)
	if err := running.Start(); err != nil {
		t.Error(err)
		return
	}
	s.running = running
}

// Freeze has the server do nothing any more, as one whose machine hangs: its
// connections remain, and take in what the kernel has room for. thaw ends that, and so
// does Kill.
func (s *Server) Freeze(t *testing.T) (thaw func()) {
	t.Helper()
	signal := func(sent os.Signal) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.running.Process.Signal(sent); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }
}

// Kill kills the server, if it runs.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		_ = s.running.Process.Kill()
		_ = s.running.Wait() // which says that it was killed
		s.running = nil
	}
}
