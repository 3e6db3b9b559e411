package scenario

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" // to look at the database beside the server

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/wire/sas"
)

// The names of the server. They resolve nowhere: the wires know its address.
const (
	dpsHost = "dps.example"
	hubHost = "hub.example"
)

// A world is what one script plays in.
type world struct {
	ts   *testscript.TestScript // of the command that runs
	env  *testscript.Env
	wire wire

	offset  atomic.Int64 // of the server's clock, nanoseconds
	data    string       // the server's data directory
	scope   string
	address string
	mqtts   string // the address for MQTT over TLS
	roots   *x509.CertPool
	owner   policy   // of the provisioning service
	hub     policy   // of the first hub
	foreign *foreign // or nil

	keys   map[string]device.SymmetricKey
	cas    map[string]*pki.Issuer
	leaves map[string]*pki.Leaf
	chips  map[string]*chip

	answered  answer // to the last device call
	operation string // the last one that was begun

	anonymous *http.Client // without a certificate
}

func newWorld(env *testscript.Env) *world {
	return &world{
		env: env, data: filepath.Join(env.WorkDir, "server"),
		keys: map[string]device.SymmetricKey{}, cas: map[string]*pki.Issuer{},
		leaves: map[string]*pki.Leaf{}, chips: map[string]*chip{},
	}
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// initialise makes a data directory for a server that takes a great many calls
// from one address, in PostgreSQL where a file has its connection string.
func initialise(data string, polling bool, dsnFile string) error {
	return app.Init(context.Background(), app.InitOptions{
		Data: data, Hosts: []string{dpsHost}, Hub: hubHost, Listen: "127.0.0.1:0", PostgresDSNFile: dsnFile,
		Config: func(c *app.Config) {
			c.Limits.PerAddress, c.Limits.PerDevice = "off", "off"
			c.Provisioning.AnswerAtOnce = !polling
		},
	}, time.Now())
}

func serve(w *world, neg bool, args []string, _ map[string]string) {
	w.must(neg)
	for _, a := range args {
		if a != "polling" && a != "elsewhere" {
			w.ts.Fatalf("%s is not known here; polling and elsewhere are", a)
		}
	}
	w.ts.Check(initialise(w.data, slices.Contains(args, "polling"), ""))
	if slices.Contains(args, "elsewhere") {
		w.startForeign()
	}
	config, err := app.LoadConfig(w.data)
	w.ts.Check(err)
	config.Now = w.now
	server, err := app.Open(context.Background(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	w.ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	w.env.Defer(func() {
		stop()
		if err := <-done; err != nil {
			w.env.T().Log("the server ended with:", err)
			w.env.T().FailNow()
		}
	})
	w.ts.Check(w.meet(server.Address().String()))
	w.mqtts = server.MQTTAddress().String()
	w.ts.Setenv("SCOPE", w.scope)
}

// meet learns what there is to know about the server of a data directory.
func (w *world) meet(address string) (err error) {
	config, err := app.LoadConfig(w.data)
	if err != nil {
		return err
	}
	w.address, w.scope = address, config.IDScope
	pem, err := os.ReadFile(filepath.Join(w.data, app.CAFile))
	if err != nil {
		return err
	}
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(pem)
	if w.owner, err = readPolicy(filepath.Join(w.data, app.ServiceConnectionFile)); err != nil {
		return err
	}
	w.hub, err = readPolicy(filepath.Join(w.data, app.HubConnectionFile))
	return err
}

// dial connects to the server, whatever it is called.
func (w *world) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", w.address)
}

// tls is how a client with a certificate, or without, connects. It shows an
// expired one as well.
func (w *world) tls(certificate *tls.Certificate) *tls.Config {
	c := &tls.Config{RootCAs: w.roots, ServerName: dpsHost}
	if certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return c
}

// A policy is a shared access policy with its key.
type policy struct {
	name string
	key  device.SymmetricKey
}

func readPolicy(file string) (policy, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return policy{}, err
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(strings.TrimSpace(string(b)), ";") {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	key, err := device.ParseSymmetricKey(fields["SharedAccessKey"])
	return policy{fields["SharedAccessKeyName"], key}, err
}

func (p policy) token(resource string, now time.Time) string {
	return sas.Sign(p.key.Bytes(), resource, now.Add(time.Hour), p.name)
}

// database is everything that the server keeps, as text: each row of each
// table.
func (w *world) database() string {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.data, "berth.db")+"?mode=ro")
	w.ts.Check(err)
	defer db.Close()
	var all strings.Builder
	for _, table := range column(w, db, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name") {
		rows, err := db.Query("SELECT * FROM " + table)
		w.ts.Check(err)
		names, err := rows.Columns()
		w.ts.Check(err)
		values := make([]any, len(names))
		for i := range values {
			values[i] = new(any)
		}
		for rows.Next() {
			w.ts.Check(rows.Scan(values...))
			fmt.Fprintf(&all, "%s:", table)
			for i, v := range values {
				fmt.Fprintf(&all, " %s=%q", names[i], fmt.Sprint(*v.(*any)))
			}
			all.WriteByte('\n')
		}
		w.ts.Check(rows.Err())
		rows.Close()
	}
	return all.String()
}

func column(w *world, db *sql.DB, query string) (found []string) {
	rows, err := db.Query(query)
	w.ts.Check(err)
	defer rows.Close()
	for rows.Next() {
		var s string
		w.ts.Check(rows.Scan(&s))
		found = append(found, s)
	}
	w.ts.Check(rows.Err())
	return found
}

// unchanged runs a call that must leave the database as it is.
func (w *world) unchanged(call func()) {
	before := w.database()
	call()
	if after := w.database(); after != before {
		w.ts.Fatalf("the call changed the database:\n%s\nwas before:\n%s", after, before)
	}
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func drawKey(w *world, neg bool, args []string, _ map[string]string) {
	w.must(neg)
	size := 64
	if len(args) == 2 {
		_, err := fmt.Sscan(args[1], &size)
		w.ts.Check(err)
	}
	key, err := device.GenerateSymmetricKey(rand.Reader, size)
	w.ts.Check(err)
	w.keys[args[0]] = key
}

// named looks a thing up by its name in the script.
func named[T any](w *world, kind string, all map[string]T, name string) T {
	v, ok := all[name]
	if !ok {
		w.ts.Fatalf("there is no %s %q", kind, name)
	}
	return v
}
