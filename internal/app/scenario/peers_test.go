package scenario

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/natstest"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/hubjson"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

// aMoment is what may take one, on a machine that is busy.
const aMoment = 30 * time.Second

// An installation is two servers on one PostgreSQL, which find each other through
// NATS.
type installation struct {
	*fleet
	t      *testing.T
	data   string
	broker *natstest.Server
	a, b   *process
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	d := newDatabase(t, "postgres")
	i := &installation{fleet: newFleet(t, d.data), t: t, data: d.data, broker: natstest.Start(t)}
	config := filepath.Join(d.data, "berth.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(text), "[nats]\n  url = \"\"")
	if !found {
		t.Fatalf("there is no [nats] in %s", text)
	}
	text = []byte(before + "[nats]\n  url = \"" + i.broker.URL() + "\"" + after)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	i.a, i.b = startProcess(t, d.data), startProcess(t, d.data)
	if err := i.world.meet(""); err != nil {
		t.Fatal(err)
	}
	return i
}

// at makes calls of an operator at one server.
func (i *installation) at(p *process) *service.Hub {
	i.t.Helper()
	connection, err := os.ReadFile(filepath.Join(i.data, app.HubConnectionFile))
	if err != nil {
		i.t.Fatal(err)
	}
	h, err := service.NewHub(strings.TrimSpace(string(connection)), i.to(p))
	if err != nil {
		i.t.Fatal(err)
	}
	return h
}

func (i *installation) to(p *process) client.HTTP {
	return client.HTTP{RootCAs: i.world.roots, Attempts: 1, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", p.address)
		},
	}}
}

// A visitor is a device that connects to a server of the test's choice.
type visitor struct {
	*hub.Connection
	t       *testing.T
	to      atomic.Pointer[process] // nil while it stays away
	up      chan struct{}
	down    chan error
	desired chan hub.Desired
	letters chan string // to the device
	asleep  chan struct{}
}

var errAway = errors.New("the device stays away")

func (i *installation) visit(p *process, id device.ID, key device.SymmetricKey) *visitor {
	i.t.Helper()
	v := &visitor{
		t: i.t, up: make(chan struct{}, 100), down: make(chan error, 10000),
		desired: make(chan hub.Desired, 1000), letters: make(chan string, 100), asleep: make(chan struct{}, 10),
	}
	v.to.Store(p)
	c, err := hub.Connect(i.t.Context(), hub.ConnectionConfig{
		Host: hubHost, DeviceID: id, Credential: client.SymmetricKey(key), RootCAs: i.world.roots,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			p := v.to.Load()
			if p == nil {
				return nil, errAway
			}
			return new(net.Dialer).DialContext(ctx, network, p.mqtts)
		},
		Changed: func(connected bool, why error) {
			if connected {
				v.up <- struct{}{}
			} else if !errors.Is(why, errAway) {
				v.down <- why
			}
		},
		OnDesired: func(_ context.Context, d hub.Desired) { v.desired <- d },
		OnMethod: func(ctx context.Context, name string, payload json.RawMessage) (int, json.RawMessage, error) {
			if name == "sleep" {
				v.asleep <- struct{}{}
				<-ctx.Done()
			}
			return 200, payload, nil
		},
		OnMessage: func(_ context.Context, m hub.CloudMessage) error { v.letters <- string(m.Body); return nil },
	})
	if err != nil {
		i.t.Fatal(err)
	}
	v.Connection = c
	i.t.Cleanup(func() { c.Close() })
	within(i.t, "the device connects", v.up)
	return v
}

func within[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(aMoment):
		t.Fatalf("%s: not within %v", what, aMoment)
		panic("unreachable")
	}
}

// gets waits until the device has a message, behind those that it is given again.
func (v *visitor) gets(text string) {
	v.t.Helper()
	for within(v.t, "the message "+text, v.letters) != text {
	}
}

// hears waits until the device hears of a version, behind earlier ones.
func (v *visitor) hears(version int64) {
	v.t.Helper()
	for {
		d := within(v.t, fmt.Sprintf("the device hears of version %d", version), v.desired)
		if d.Version > version {
			v.t.Errorf("the device hears of version %d, want %d", d.Version, version)
		}
		if d.Version >= version {
			return
		}
	}
}

func (i *installation) create(id device.ID) device.SymmetricKey {
	i.t.Helper()
	d, err := i.at(i.a).CreateDevice(i.t.Context(), hubjson.Device{DeviceID: id})
	if err != nil {
		i.t.Fatal(err)
	}
	return d.Authentication.SymmetricKey.PrimaryKey.SymmetricKey
}

func (i *installation) set(p *process, id device.ID, rate int) (version int64) {
	i.t.Helper()
	twin, err := i.at(p).PatchTwin(i.t.Context(), id, hubjson.TwinChange{Desired: json.RawMessage(fmt.Sprintf(`{"rate":%d}`, rate))}, "")
	if err != nil {
		i.t.Fatal(err)
	}
	_, version, err = twin.Properties.Desired.Split()
	if err != nil {
		i.t.Fatal(err)
	}
	return version
}

// echo calls a method at a server, until the answer has the status: servers hear of
// each other a moment later.
func (i *installation) echo(p *process, id device.ID, status int) {
	i.t.Helper()
	m := hubjson.Method{Name: "echo", Payload: json.RawMessage(`{"a":1}`)}
	for late := time.After(aMoment); ; {
		r, err := i.at(p).Invoke(i.t.Context(), id, m)
		if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == status || err == nil && status == 200 && r.Status == 200 && string(r.Payload) == `{"a":1}` {
			return
		}
		select {
		case <-late:
			i.t.Fatalf("a method: %+v, %v; want status %d", r, err, status)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (i *installation) status(p *process, id device.ID, status hubjson.Status) {
	i.t.Helper()
	d, err := i.at(p).Device(i.t.Context(), id)
	if err == nil {
		d.Status = status
		_, err = i.at(p).UpdateDevice(i.t.Context(), *d)
	}
	if err != nil {
		i.t.Fatal(err)
	}
}

func TestServersFindEachOthersDevices(t *testing.T) {
	if *engine == "sqlite" {
		return
	}
	i := newInstallation(t)
	const id = "wanderer"
	key := i.create(id)
	v := i.visit(i.b, id, key)
	i.echo(i.b, id, 200)
	i.echo(i.a, id, 200)

	t.Run("methods take little longer", func(t *testing.T) {
		here, there := i.timed(i.b, id), i.timed(i.a, id)
		t.Logf("a method at the server that has the device: p50 %v, p99 %v; at the other one: p50 %v, p99 %v",
			here[len(here)/2], here[len(here)*99/100], there[len(there)/2], there[len(there)*99/100])
	})
	t.Run("versions arrive in order", func(t *testing.T) {
		v.hears(1)
		for n := range 40 {
			version := i.set([]*process{i.a, i.b}[n%2], id, n)
			d := within(t, "a version", v.desired)
			if d.Version != version {
				t.Fatalf("the device hears of version %d, want %d", d.Version, version)
			}
		}
		select {
		case why := <-v.down:
			t.Errorf("the connection was ended: %v", why)
		default:
		}
	})
	t.Run("messages arrive", func(t *testing.T) {
		i.write(i.a, id, "hello")
		v.gets("hello")
	})
	t.Run("a session is kept wherever it was", func(t *testing.T) {
		const id = "once-subscribed"
		key := i.create(id)
		first := i.raw(i.a, id, key)
		if err := first.subscribe(hubtopic.CloudToDevice(id)); err != nil {
			t.Fatal(err)
		}
		second := i.raw(i.b, id, key)
		if p, err := first.hear(); err == nil {
			t.Errorf("the first connection goes on with %#v", p)
		}
		i.write(i.a, id, "still here")
		p, err := second.hear()
		if m, ok := p.(*mqtt.Publish); !ok || string(m.Payload) != "still here" || m.QoS != 1 {
			t.Errorf("got %#v, %v", p, err)
		}
	})
	t.Run("the last connection wins", func(t *testing.T) {
		v.to.Store(nil)
		again := i.visit(i.a, id, key)
		within(t, "the first connection is ended", v.down)
		i.echo(i.b, id, 200)
		i.write(i.b, id, "here, too")
		again.gets("here, too")
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("who calls waits for the device", func(t *testing.T) {
		i.echo(i.a, id, http.StatusNotFound)
		called := make(chan error, 1)
		go func() { called <- i.patiently(i.a, id) }()
		select {
		case err := <-called:
			t.Fatalf("a device that is not there has answered: %v", err)
		case <-time.After(time.Second):
		}
		v.to.Store(i.b)
		if err := within(t, "the answer", called); err != nil {
			t.Error(err)
		}
		within(t, "the device connects", v.up)
	})
	t.Run("who is disabled is cut off", func(t *testing.T) {
		drain(v.down)
		began := time.Now()
		i.status(i.a, id, hubjson.Disabled)
		within(t, "the connection is ended", v.down)
		t.Logf("after %v", time.Since(began).Round(time.Millisecond))
		i.status(i.b, id, hubjson.Enabled)
		within(t, "the device connects", v.up)
		i.echo(i.a, id, 200)
	})
	t.Run("without NATS each server goes on", func(t *testing.T) {
		drain(v.down)
		i.broker.Kill()
		i.echo(i.a, id, http.StatusServiceUnavailable)
		i.echo(i.b, id, 200)
		i.write(i.a, id, "by the database")
		v.gets("by the database")
		missed := i.set(i.a, id, 1000)
		other := i.create("disabled-meanwhile")
		cut := i.visit(i.b, "disabled-meanwhile", other)
		i.status(i.a, "disabled-meanwhile", hubjson.Disabled)
		i.broker.Start(i.t)
		began := time.Now()
		v.hears(missed)
		within(t, "who was disabled is cut off", cut.down)
		i.echo(i.a, id, 200)
		t.Logf("all is as it should be %v after NATS is back", time.Since(began).Round(time.Millisecond))
	})
	t.Run("a server is killed", func(t *testing.T) {
		drain(v.up)
		i.echo(i.b, id, 200)
		called := make(chan error, 1)
		var ended time.Time
		go func() {
			_, err := i.at(i.a).Invoke(t.Context(), id, hubjson.Method{Name: "sleep", ResponseTimeout: 60})
			ended = time.Now()
			called <- err
		}()
		within(t, "the device sleeps", v.asleep)
		v.to.Store(i.a)
		i.b.kill()
		began := time.Now()
		within(t, "the device connects elsewhere", v.up)
		back := time.Since(began)
		i.echo(i.a, id, 200)
		if err := within(t, "the call ends", called); err == nil {
			t.Error("a device that was asleep has answered")
		} else {
			t.Logf("the device was back after %v, and its call ended after %v: %v", back.Round(time.Millisecond), ended.Sub(began).Round(time.Millisecond), err)
		}
		i.b = startProcess(t, i.data)
		i.echo(i.b, id, 200)
		v.hears(i.set(i.b, id, 2000))
	})
	if t.Failed() {
		t.Logf("the servers said: %s\n%s", &i.a.output, &i.b.output)
	}
}

func drain[T any](c <-chan T) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

// raw connects a device that wants its session kept.
func (i *installation) raw(p *process, id device.ID, key device.SymmetricKey) *mqttClient {
	i.t.Helper()
	m := &mqtts{w: &i.world, dial: func(w *world, c *tls.Certificate) (net.Conn, error) { return dialTLS(p.mqtts, w.tls(c)) }}
	c, refused, err := m.open(connection{
		clientID: string(id), username: hubHost + "/" + string(id) + "/?api-version=2021-04-12",
		password: sas.Sign(key.Bytes(), hubHost+"/devices/"+string(id), time.Now().Add(time.Hour), ""),
	})
	if c == nil {
		i.t.Fatalf("%+v, %v", refused, err)
	}
	i.t.Cleanup(func() { c.Close() })
	return c
}

// patiently calls a method with a time to connect, which the SDK does not have.
func (i *installation) patiently(p *process, id device.ID) error {
	i.fleet.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: i.to(p).Transport.DialContext, TLSClientConfig: i.world.tls(nil)}}
	call := map[string]any{"methodName": "echo", "payload": 1, "connectTimeoutInSeconds": 25}
	if status := i.operate("POST", hubHost, "/twins/"+string(id)+"/methods", call, nil); status != http.StatusOK {
		return errors.New("status " + strconv.Itoa(status))
	}
	return nil
}

// write sends a message to the device.
func (i *installation) write(p *process, id device.ID, text string) {
	i.t.Helper()
	owner, err := os.ReadFile(filepath.Join(i.data, app.ServiceConnectionFile))
	if err != nil {
		i.t.Fatal(err)
	}
	operator, err := admin.New(strings.TrimSpace(string(owner)), i.to(p))
	if err != nil {
		i.t.Fatal(err)
	}
	if _, err := operator.Send(i.t.Context(), hubHost, string(id), admin.MessageToDevice{Body: []byte(text)}); err != nil {
		i.t.Fatal(err)
	}
}

// timed calls a method many times and returns how long that took, in order.
func (i *installation) timed(p *process, id device.ID) []time.Duration {
	i.t.Helper()
	h := i.at(p)
	took := make([]time.Duration, 300)
	for n := range took {
		began := time.Now()
		if _, err := h.Invoke(i.t.Context(), id, hubjson.Method{Name: "echo"}); err != nil {
			i.t.Fatal(err)
		}
		took[n] = time.Since(began).Round(10 * time.Microsecond)
	}
	slices.Sort(took)
	return took
}
