package scenario

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/sqlite"
	"github.com/berth-iot/berth/wire/sas"
)

const elsewhereIP = "127.0.0.1"

// A foreign server is a whole one whose hub is linked by its connection string, as
// anybody's would be.
type foreign struct {
	data    string
	address string // once it has been up
	roots   *x509.CertPool
	policy  policy
	stop    func() error // nil while it is down
}

func newForeign(data string) (*foreign, error) {
	f := &foreign{data: data, roots: x509.NewCertPool()}
	err := app.Init(context.Background(), app.InitOptions{
		Data: data, Hosts: []string{elsewhereIP}, Listen: elsewhereIP + ":0",
		Config: func(c *app.Config) { c.Limits.PerAddress, c.Limits.PerDevice = "off", "off" },
	}, time.Now())
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(f.caFile())
	if err != nil {
		return nil, err
	}
	f.roots.AppendCertsFromPEM(pem)
	f.policy, err = readPolicy(filepath.Join(data, app.HubConnectionFile))
	return f, err
}

func (f *foreign) caFile() string { return filepath.Join(f.data, app.CAFile) }

// up starts the server, at the address that it had before.
func (f *foreign) up() error {
	config, err := app.LoadConfig(f.data)
	if err != nil {
		return err
	}
	if f.address != "" {
		config.Listen = f.address
	}
	server, err := app.Open(context.Background(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return err
	}
	f.address = server.Address().String()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	f.stop = func() error {
		stop()
		f.stop = nil
		return <-done
	}
	return nil
}

// down stops the server, if it is up.
func (f *foreign) down() error {
	if f.stop == nil {
		return nil
	}
	return f.stop()
}

// roll gives the policy of the hub another key, of which nobody is told.
func (f *foreign) roll() error {
	if err := f.down(); err != nil {
		return err
	}
	err := change(f.data, func(db *sqlite.Store) error {
		rolled, err := access.NewPolicy(f.policy.name, access.AllHub, rand.Reader)
		if err != nil {
			return err
		}
		return db.PutPolicy(context.Background(), access.HubOwner(hub.HostName(elsewhereIP)), rolled)
	})
	if err != nil {
		return err
	}
	return f.up()
}

// linkTo links the foreign hub to the server of a data directory, which is down,
// for enrollments that name it.
func (f *foreign) linkTo(data string) error {
	config, err := app.LoadConfig(data)
	if err != nil {
		return err
	}
	path := filepath.Join(data, "berth.toml")
	written, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := strings.Replace(string(written), "[linked_hubs]\n  ca_file = \"\"", fmt.Sprintf("[linked_hubs]\n  ca_file = %q", f.caFile()), 1)
	if text == string(written) {
		return errors.New("berth.toml has no linked_hubs.ca_file")
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return change(data, func(db *sqlite.Store) error {
		return db.PutLinkedHub(context.Background(), device.IDScope(config.IDScope), provision.LinkedHub{
			Host: f.address, Weight: 1, Connection: &provision.Connection{Policy: f.policy.name, Key: f.policy.key},
		})
	})
}

// change changes the database of a server that is down.
func change(data string, do func(*sqlite.Store) error) error {
	key, err := soft.Open(filepath.Join(data, "server.key"))
	if err != nil {
		return err
	}
	db, err := sqlite.Open(context.Background(), filepath.Join(data, "berth.db"), key)
	if err != nil {
		return err
	}
	return errors.Join(do(db), db.Close())
}

// client connects to the server, with a certificate or without.
func (f *foreign) client(certificate *tls.Certificate) *http.Client {
	config := &tls.Config{RootCAs: f.roots}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

// has reports whether the hub has an identity for the device.
func (f *foreign) has(t *testing.T, id string) bool {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "https://"+f.address+"/devices/"+id+"?api-version=2021-04-12", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", f.policy.token(f.address, time.Now()))
	a, err := exchange(f.client(nil), request)
	if err != nil || a.status != http.StatusOK && a.status != http.StatusNotFound {
		t.Fatalf("status %d, %v: %s", a.status, err, a.body)
	}
	return a.status == http.StatusOK
}

// elsewhere is the command for the server elsewhere.
func elsewhere(w *world, neg bool, args []string, _ map[string]string) {
	w.must(neg)
	do, ok := map[string]func() error{"up": w.foreign.up, "down": w.foreign.down, "roll": w.foreign.roll}[args[0]]
	if !ok {
		w.ts.Fatalf("%s is not known here; up, down and roll are", args[0])
	}
	w.ts.Check(do())
}

// startForeign starts the server elsewhere and links it to the one that is about
// to be started.
func (w *world) startForeign() {
	var err error
	w.foreign, err = newForeign(filepath.Join(w.env.WorkDir, "elsewhere"))
	w.ts.Check(err)
	w.ts.Check(w.foreign.up())
	w.env.Defer(func() {
		if err := w.foreign.down(); err != nil {
			w.env.T().Log("the server elsewhere ended with:", err)
			w.env.T().FailNow()
		}
	})
	w.ts.Check(w.foreign.linkTo(w.data))
	w.ts.Setenv("ELSEWHERE", w.foreign.address)
}

// clientOf connects to the server that has a hub, with a certificate or without.
func (w *world) clientOf(host string, certificate *tls.Certificate) *http.Client {
	if w.foreign != nil && host == w.foreign.address {
		return w.foreign.client(certificate)
	}
	return w.client(certificate)
}

// await polls until a registration is not under way any more.
func await(w *world, neg bool, args []string, set map[string]string) {
	w.must(neg)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		w.answered = w.carry(w.call("poll", args[0], set))
		var polled struct{ Status string }
		if w.answered.status >= 400 {
			w.ts.Fatalf("refused with %d: %s", w.answered.status, w.answered.body)
		}
		w.ts.Check(json.Unmarshal(w.answered.body, &polled))
		if polled.Status != "assigning" {
			w.show(w.answered)
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			w.ts.Fatalf("%s is assigned for ever", args[0])
		}
	}
}

// A server is killed at any moment while it gives devices their homes elsewhere,
// and moves them. The next one finishes what it left, without being asked.
func TestAKilledServerLeavesNoRegistrationUnderWay(t *testing.T) {
	const devices = 6
	d := initialised(t, "")
	away, err := newForeign(filepath.Join(t.TempDir(), "elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	if err := away.up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := away.down(); err != nil {
			t.Error(err)
		}
	})
	if err := away.linkTo(d.data); err != nil {
		t.Fatal(err)
	}
	group, err := device.GenerateSymmetricKey(rand.Reader, 64)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{data: d.data}
	homes := []string{away.address, hubHost}
	enrol := func(home string, headers ...string) {
		t.Helper()
		a := w.plain(t, http.MethodPut, dpsHost, "/enrollmentGroups/units", w.owner.token(dpsHost, time.Now()), fmt.Sprintf(
			`{"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":%q}},"iotHubHostName":%q}`, group.Base64(), home), headers...)
		if a.status != http.StatusOK {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
	}
	token := func(id string) string {
		return sas.Sign(symkey.DeriveDeviceKey(group, id).Bytes(), sas.DeviceResource(w.scope, id), time.Now().Add(time.Hour), "registration")
	}
	under := 0
	for round := range *kills {
		// Each server's clock is ahead of the last one's by more than a lease.
		server := startProcess(t, d.data, fmt.Sprintf("%s=%s", serveAhead, time.Duration(round)*150*time.Second))
		if err := w.meet(server.address); err != nil {
			t.Fatal(err)
		}
		w.anonymous = nil
		// Of the last round, all are at home, or soon.
		for i := range devices {
			id := fmt.Sprint("unit-", i)
			for deadline := time.Now().Add(time.Minute); round > 0; {
				a := w.plain(t, http.MethodPost, dpsHost, "/"+w.scope+"/registrations/"+id, token(id), "{}")
				var state struct{ Status, AssignedHub string }
				if err := json.Unmarshal(a.body, &state); err != nil {
					t.Fatal(err)
				}
				if home := homes[(round+1)%2]; state.Status == "assigned" && state.AssignedHub == home {
					here := w.plain(t, http.MethodGet, hubHost, "/devices/"+id, w.hub.token(hubHost, time.Now()), "").status == http.StatusOK
					if there := away.has(t, id); here != (home == hubHost) || there == here {
						t.Fatalf("round %d: %s is at home at %s; there is an identity here: %v, elsewhere: %v", round, id, home, here, there)
					}
					break
				}
				if under++; state.Status != "assigning" || time.Now().After(deadline) {
					t.Fatalf("round %d: %s is %s at %s", round, id, state.Status, state.AssignedHub)
				}
				<-time.After(20 * time.Millisecond)
			}
		}
		if round == 0 {
			enrol(homes[0])
		} else {
			enrol(homes[round%2], "If-Match", "*")
		}
		for i := range devices {
			id := fmt.Sprint("unit-", i)
			a := w.plain(t, http.MethodPut, dpsHost, "/"+w.scope+"/registrations/"+id+"/register", token(id), "{}")
			if a.status != http.StatusAccepted {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
		}
		<-time.After(time.Duration(mathrand.IntN(15_000)) * time.Microsecond)
		server.kill()
	}
	t.Logf("%d times a device was seen under way after a kill", under)
}

// plain makes a call without a script.
func (w *world) plain(t *testing.T, method, host, path, token, body string, headers ...string) answer {
	t.Helper()
	if w.anonymous == nil {
		w.anonymous = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: w.dial, TLSClientConfig: w.tls(nil)}}
		t.Cleanup(w.anonymous.CloseIdleConnections)
	}
	request, err := http.NewRequest(method, "https://"+host+path+"?api-version=2021-10-01", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", token)
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	a, err := exchange(w.anonymous, request)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
