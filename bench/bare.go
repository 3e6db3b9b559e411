package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// patience bounds every connection of the bench.
const patience = 30 * time.Second

// bareRole makes this program a server of what provisioning is held against.
// Its arguments are the data directory of a Berth server, which it is like in
// all that TLS and the collection of garbage go by, and the key of what is to be
// served:
//
//	bare        accept, handshake, one byte, and wait until the client hangs up
//	bare_https  one HTTP request, with an answer that is always the same
const bareRole = "serve-bare"

func serveBare(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	if len(args) != 2 {
		return errors.New(bareRole + " takes a directory and a key")
	}
	berth, err := app.LoadConfig(args[0])
	if err != nil {
		return err
	}
	app.TuneMemory(berth)
	config, err := app.ListenerTLS(berth)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { // the bench that started this is gone when its pipe is
		io.Copy(io.Discard, in)
		listener.Close()
	}()
	context.AfterFunc(ctx, func() { listener.Close() })
	fmt.Fprintln(out, listener.Addr())
	if args[1] == bareHTTPS {
		err = serveFixed(listener, config)
	} else {
		err = serveHandshakes(listener, config, log)
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func serveHandshakes(listener net.Listener, config *tls.Config, log io.Writer) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := handshake(conn, config); err != nil {
				fmt.Fprintln(log, err)
			}
		}()
	}
}

// serveFixed reads every request and answers as Berth answers a device, with
// what it always says.
func serveFixed(listener net.Listener, config *tls.Config) error {
	now := dpsjson.Time(time.Now())
	body, err := json.Marshal(dpsjson.OperationStatus{
		OperationID: "1.0123456789abcdef.00000000-0000-4000-8000-000000000000", Status: dpsjson.Assigned,
		RegistrationState: &dpsjson.RegistrationState{
			RegistrationID: "device", DeviceID: "device", AssignedHub: host, Status: dpsjson.Assigned, Substatus: "initialAssignment",
			CreatedDateTimeUTC: now, LastUpdatedDateTimeUTC: now, ETag: dpsjson.EncodeETag("00000000-0000-4000-8000-000000000000"),
			SymmetricKey: &dpsjson.SymmetricKeyState{EnrollmentGroupID: "group"},
		},
	})
	if err != nil {
		return err
	}
	s := http.Server{TLSConfig: config, ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusAccepted)
		w.Write(body)
	})}
	return s.ServeTLS(listener, "", "")
}

func handshake(conn net.Conn, config *tls.Config) error {
	c := tls.Server(conn, config)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte{0}); err != nil { // after the handshake
		return err
	}
	_, err := io.Copy(io.Discard, c)
	return err
}

// startBare runs a child in the bareRole, with the certificate of a server.
func (b *bencher) startBare(ctx context.Context, key string, s *server) (*place, error) {
	p, _, err := s.startChild(ctx, key, bareRole, s.data, key)
	return p, err
}

// startChild runs a child in a role that prints where it listens. What it prints
// after that is for the reader.
func (s *server) startChild(ctx context.Context, name string, args ...string) (*place, *bufio.Reader, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	p := &place{name: name, roots: s.roots}
	r, w := io.Pipe()
	if p.process, err = start(ctx, filepath.Join(s.dir, name+".log"), w, program, args...); err != nil {
		return nil, nil, err
	}
	go func() {
		<-p.done
		w.Close()
	}()
	out := bufio.NewReader(r)
	address, err := out.ReadString('\n')
	if err != nil {
		p.stop()
		return nil, nil, p.failure()
	}
	p.address = strings.TrimSpace(address)
	return p, out, nil
}
