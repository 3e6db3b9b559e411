package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/deviceclient"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/internal/app"
)

// A life is one device that lives on, and the operator who watches it.
type life struct {
	*fleet
	database  *database
	id        string
	transport hub.Transport
	server    atomic.Pointer[process]

	*hub.Connection
	up      chan time.Time   // when it was connected
	desired chan hub.Desired // what it was told

	queued int
	acked  atomic.Int64
}

// beginLife starts a server, and a device that is connected to it: one with a key
// of its group's, or with a TPM.
func beginLife(t *testing.T, transport hub.Transport, chip *tpm2.TPM) *life {
	t.Helper()
	d := newDatabase(t, "sqlite")
	l := &life{
		fleet: newFleet(t, d.data), database: d, id: "key-group-live", transport: transport,
		up: make(chan time.Time, 100), desired: make(chan hub.Desired, 100),
	}
	l.server.Store(startProcess(t, d.data))
	l.connect(l.server.Load())
	l.enroll()
	credential := client.SymmetricKey(symkey.DeriveDeviceKey(l.group, l.id))
	if chip != nil {
		l.id, credential = "tpm-live", client.TPM(chip)
		ek, err := chip.EndorsementKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.put("/enrollments/"+l.id, attest.TypeTPM, map[string]any{"endorsementKey": ek})
	}
	var err error
	l.Connection, err = deviceclient.Connect(t.Context(), deviceclient.Config{
		Provisioning: provisioning.Config{
			Host: dpsHost, IDScope: l.world.scope, RegistrationID: l.id,
			Credential: credential,
			HTTP:       client.HTTP{RootCAs: l.world.roots, Transport: &http.Transport{DialContext: l.dial}},
		},
		Hub: hub.ConnectionConfig{
			Transport: transport, Dial: l.dialHub,
			Changed: func(connected bool, _ error) {
				if connected {
					l.up <- time.Now()
				}
			},
			OnDesired: func(_ context.Context, d hub.Desired) { l.desired <- d },
			OnMethod: func(_ context.Context, name string, payload json.RawMessage) (int, json.RawMessage, error) {
				if name != "echo" {
					return 0, nil, errors.New("there is no " + name)
				}
				return 200, payload, nil
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	<-l.up
	return l
}

func (l *life) dialHub(ctx context.Context, network, _ string) (net.Conn, error) {
	server := l.server.Load()
	address := server.mqtts
	if l.transport == hub.WebSocket {
		address = server.address
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// restart kills the server and starts it again. It returns when it listens.
func (l *life) restart() time.Time {
	l.server.Load().kill()
	next := startProcess(l.t, l.database.data)
	l.server.Store(next)
	l.serveFrom(next)
	return time.Now()
}

// next is the next of the numbered messages.
func (l *life) next() hub.Message {
	m := hub.Message{Body: []byte(strconv.Itoa(l.queued)), Properties: map[string]string{"at": "sea & land"}}
	l.queued++
	return m
}

// send queues messages for some time.
func (l *life) send(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until); {
		err := l.Queue(l.t.Context(), l.next(), func(err error) {
			if err == nil {
				l.acked.Add(1)
			}
		})
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

// want wants the device to hear of desired properties.
func (l *life) want(version int64) {
	l.t.Helper()
	patience := time.After(time.Minute)
	for {
		select {
		case d := <-l.desired:
			if d.Version > version {
				l.t.Errorf("heard of version %d, want %d", d.Version, version)
			}
			if d.Version >= version {
				return
			}
		case <-patience:
			l.t.Fatalf("the device never hears of version %d", version)
		}
	}
}

// set changes a desired property and returns the version of all of them.
func (l *life) set(rate int) int64 {
	l.t.Helper()
	var twin struct {
		Properties struct {
			Desired struct {
				Version int64 `json:"$version"`
			}
		}
	}
	change := map[string]any{"properties": map[string]any{"desired": map[string]any{"rate": rate}}}
	if status := l.operate("PATCH", hubHost, "/twins/"+l.id, change, &twin, "If-Match", "*"); status != http.StatusOK {
		l.t.Fatalf("changing the twin: status %d", status)
	}
	return twin.Properties.Desired.Version
}

// check reads what the hub has: each message, those that were sent first in their
// order, and only those twice that were under way when the hub was killed.
func (l *life) check(kills int) (again int) {
	l.t.Helper()
	owner, err := os.ReadFile(filepath.Join(l.database.data, app.ServiceConnectionFile))
	if err != nil {
		l.t.Fatal(err)
	}
	operator, err := admin.New(string(owner), client.HTTP{RootCAs: l.world.roots, Transport: &http.Transport{DialContext: l.dial}})
	if err != nil {
		l.t.Fatal(err)
	}
	next := 0
	for m, err := range operator.Messages(l.t.Context(), hubHost, admin.Selection{}) {
		if err != nil {
			l.t.Fatal(err)
		}
		n, err := strconv.Atoi(string(m.Body))
		switch {
		case err != nil || n > next || string(m.DeviceID) != l.id || m.Properties["at"] != "sea & land":
			l.t.Fatalf("%+v, want message %d", m, next)
		case n == next:
			next++
		default:
			again++
		}
	}
	if next != l.queued {
		l.t.Errorf("%d messages arrived of %d", next, l.queued)
	}
	if most := 64 * kills; again > most {
		l.t.Errorf("%d messages were sent twice, %d may have been under way", again, most)
	}
	return again
}

// realTPM starts a software TPM, whose keys nobody but it has.
func realTPM(t *testing.T) *tpm2.TPM {
	t.Helper()
	instance, err := swtpm.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatalf("%v\nswtpm is needed: apt-get install swtpm swtpm-tools", err)
	}
	t.Cleanup(func() { instance.Stop() })
	chip, err := tpm2.Open(t.Context(), instance.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Close() })
	return chip
}

// A device lives on over kills of its hub, and the loss of its identity: nothing
// that it sent is lost, no change of its twin is missed, and nobody has to help. One
// with a TPM has each of its tokens signed there, by the key that it was given
// last.
func TestADeviceLivesOn(t *testing.T) {
	for name, c := range map[string]struct {
		transport hub.Transport
		tpm       bool
	}{"mqtt": {hub.MQTT, false}, "websocket": {hub.WebSocket, false}, "tpm": {hub.MQTT, true}} {
		t.Run(name, func(t *testing.T) {
			var chip *tpm2.TPM
			if c.tpm {
				chip = realTPM(t)
			}
			l := beginLife(t, c.transport, chip)
			l.want(1)
			began := time.Now()
			l.send(time.Second)
			rate := float64(l.acked.Load()) / time.Since(began).Seconds()
			// Its identity goes, and it registers for another.
			if status := l.operate("DELETE", hubHost, "/devices/"+l.id, nil, nil, "If-Match", "*"); status != http.StatusNoContent {
				t.Fatalf("deleting the identity: status %d", status)
			}
			lost := time.Now()
			l.want(1)
			registered := (<-l.up).Sub(lost)

			var back []time.Duration
			deaths := max(2, *kills/3)
			for round := range deaths {
				var listens time.Time
				restarted := make(chan struct{})
				go func() {
					defer close(restarted)
					<-time.After(200 * time.Millisecond)
					listens = l.restart()
				}()
				l.send(500 * time.Millisecond)
				<-restarted
				version := l.set(round) // perhaps before the device is back
				l.want(version)
				back = append(back, max(0, (<-l.up).Sub(listens)))
			}
			if err := l.Send(t.Context(), l.next()); err != nil { // behind all the others
				t.Fatal(err)
			}
			again := l.check(deaths)

			version, err := l.Report(t.Context(), map[string]any{"rate": 1})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.ReportIf(t.Context(), map[string]any{"rate": 2}, version-1); !isStatus(err, http.StatusPreconditionFailed) {
				t.Errorf("reported on top of another version: %v", err)
			}
			var result struct {
				Status  int
				Payload json.RawMessage
			}
			call := map[string]any{"methodName": "echo", "payload": map[string]int{"a": 1}, "responseTimeoutInSeconds": 20}
			if status := l.operate("POST", hubHost, "/twins/"+l.id+"/methods", call, &result); status != 200 || result.Status != 200 || string(result.Payload) != `{"a":1}` {
				t.Errorf("a method: %d %+v", status, result)
			}

			t.Logf("%.0f messages a second; after %d kills of the server, none of %d messages lost and %d sent twice, connected again after %s; after the loss of its identity, after %s",
				rate, deaths, l.queued, again, spread(back), registered.Round(time.Millisecond))
		})
	}
}

func isStatus(err error, status int) bool {
	refused, ok := errors.AsType[*client.Error](err)
	return ok && refused.Status == status
}
