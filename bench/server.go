package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/sas"
)

// host is the name in the servers' certificates.
const host = "localhost"

// A place is a process that listens.
type place struct {
	*process
	name    string
	address string
	roots   *x509.CertPool

	sent, received atomic.Int64 // bytes of TLS, by those who visit
}

// A server is Berth in a process of its own.
type server struct {
	place
	spec
	fleet       int // how many devices of each kind are measured
	dir         string
	data        string    // its data directory
	database    *database // nil for SQLite
	scope       string
	mqttAddress string
	operator    *service.Client
	hub         *service.Hub
	client      *http.Client // for the hub, with
	hubToken    string
	profiler    *profiler // nil without -profile

	loaded loadReport
	memory struct{ started, resident, peak int64 } // resident, in bytes: before the first device, after the last, at most
}

// build builds cmd/berth.
func build(ctx context.Context, dir string) (string, error) {
	berth := filepath.Join(dir, "berth")
	return berth, command(ctx, "go", "build", "-buildvcs=false", "-o", berth, "github.com/berth-iot/berth/cmd/berth")
}

// open makes a data directory, fills its database by load and serves it.
func (s *server) open(ctx context.Context, b *bencher, load func(context.Context, *fleet) error) (err error) {
	if err := s.create(ctx); err != nil {
		return err
	}
	if err := load(ctx, b.fleet); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	return s.serve(ctx, b)
}

// create makes a data directory and a database.
func (s *server) create(ctx context.Context) (err error) {
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return err
	}
	s.name, s.data = s.spec.String(), filepath.Join(s.dir, "data")
	for _, address := range []*string{&s.address, &s.mqttAddress} {
		if *address, err = freeAddress(); err != nil {
			return err
		}
	}
	if err := s.init(ctx); err != nil {
		return err
	}
	return s.readData()
}

// serve starts the server.
func (s *server) serve(ctx context.Context, b *bencher) (err error) {
	if b.profile != "" {
		err = s.startProfiled(ctx, filepath.Join(b.profile, filepath.Base(s.dir)))
	} else {
		s.process, err = start(ctx, filepath.Join(s.dir, "server.log"), nil, b.berth, "serve", "--data", s.data)
	}
	if err != nil {
		return err
	}
	return s.awaitReady(ctx)
}

// init makes the data directory that "berth init" makes. Only what one address
// may do is changed, for all devices come from the same, and the port of MQTT.
func (s *server) init(ctx context.Context) (err error) {
	o := app.InitOptions{
		Data: s.data, Hosts: []string{host}, Listen: s.address,
		Config: func(c *app.Config) {
			c.Limits.PerAddress, c.Limits.ConnectionsPerAddress = "1000000/1s", c.MaxConnections
			c.MQTT.Listen = s.mqttAddress
		},
	}
	if s.engine == postgresEngine {
		if s.database, err = startDatabase(ctx); err != nil {
			return err
		}
		o.PostgresDSNFile = filepath.Join(s.dir, "dsn")
		if err := os.WriteFile(o.PostgresDSNFile, []byte(s.database.DSN()), 0o600); err != nil {
			return err
		}
	}
	return app.Init(ctx, o, time.Now())
}

// close ends what was opened.
func (s *server) close() {
	if s.process != nil {
		s.stop()
	}
	if s.database != nil {
		s.database.stop()
	}
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
	options := client.HTTP{RootCAs: s.roots, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	connection, err := os.ReadFile(filepath.Join(s.data, app.ServiceConnectionFile))
	if err != nil {
		return err
	}
	if s.operator, err = service.New(strings.TrimSpace(string(connection)), options); err != nil {
		return err
	}
	if connection, err = os.ReadFile(filepath.Join(s.data, app.HubConnectionFile)); err != nil {
		return err
	}
	if s.hub, err = service.NewHub(strings.TrimSpace(string(connection)), options); err != nil {
		return err
	}
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots, ServerName: host}}}
	s.hubToken, err = token(strings.TrimSpace(string(connection)))
	return err
}

// token makes a token for the hub with the key in a connection string.
func token(connection string) (string, error) {
	parts := map[string]string{}
	for part := range strings.SplitSeq(connection, ";") {
		name, value, _ := strings.Cut(part, "=")
		parts[name] = value
	}
	key, err := device.ParseSymmetricKey(parts["SharedAccessKey"])
	if err != nil {
		return "", err
	}
	return sas.Sign(key.Bytes(), host, time.Now().Add(deadline), parts["SharedAccessKeyName"]), nil
}

// query asks for the first page of what a query finds among the devices of the
// hub, and returns how many rows it has.
func (s *server) query(ctx context.Context, text string) (rows int, err error) {
	body, err := json.Marshal(map[string]string{"query": text})
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+s.address+"/devices/query?api-version=2021-04-12", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Host = host
	request.Header.Set("Authorization", s.hubToken)
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("x-ms-max-item-count", strconv.Itoa(pageSize))
	response, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d: %s", response.StatusCode, answer)
	}
	var page []json.RawMessage
	err = json.Unmarshal(answer, &page)
	return len(page), err
}

// awaitReady returns when the place accepts connections.
func (p *place) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", p.address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return p.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
