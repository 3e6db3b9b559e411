package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/internal/app"
)

// host is the name in the server's certificate.
const host = "localhost"

// A server is Berth in a process of its own.
type server struct {
	*process
	dir         string // temporary, of the bench
	data        string // its data directory
	address     string
	scope       string
	roots       *x509.CertPool
	operator    *service.Client
	profiler    *profiler // nil without -profile
	enrollments int       // individual ones and groups
}

// startServer builds cmd/berth, makes a data directory and serves it.
func startServer(ctx context.Context, dir, profiles string, log io.Writer) (_ *server, err error) {
	s := &server{dir: dir, data: filepath.Join(dir, "data")}
	berth := filepath.Join(dir, "berth")
	fmt.Fprintln(log, "bench: building cmd/berth")
	if err := command(ctx, "go", "build", "-buildvcs=false", "-o", berth, "github.com/berth-iot/berth/cmd/berth"); err != nil {
		return nil, err
	}
	if s.address, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := command(ctx, berth, "init", "--data", s.data, "--host", host, "--listen", s.address); err != nil {
		return nil, err
	}
	if err := s.readData(); err != nil {
		return nil, err
	}
	if profiles != "" {
		err = s.startProfiled(ctx, profiles)
	} else {
		s.process, err = start(ctx, filepath.Join(dir, "server.log"), nil, berth, "serve", "--data", s.data)
	}
	if err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func command(ctx context.Context, program string, args ...string) error {
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), args[0], err, out)
	}
	return nil
}

// freeAddress returns an address that nobody listens on. The connection strings
// that init writes hold the port, so it has to be known before the server runs.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// readData reads what a device and an operator are given by init.
func (s *server) readData() error {
	config, err := app.LoadConfig(s.data)
	if err != nil {
		return err
	}
	s.scope = config.IDScope
	pem, err := os.ReadFile(filepath.Join(s.data, app.CAFile))
	if err != nil {
		return err
	}
	s.roots = x509.NewCertPool()
	if !s.roots.AppendCertsFromPEM(pem) {
		return errors.New("the server's CA is not there")
	}
	connection, err := os.ReadFile(filepath.Join(s.data, app.ServiceConnectionFile))
	if err != nil {
		return err
	}
	s.operator, err = service.New(strings.TrimSpace(string(connection)), client.HTTP{
		RootCAs: s.roots, Transport: &http.Transport{MaxIdleConnsPerHost: enrollers},
	})
	return err
}

// awaitReady returns when the server accepts connections.
func (s *server) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-s.done:
			return s.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
