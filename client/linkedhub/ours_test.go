package linkedhub_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client"
	devicehub "github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/linkedhub"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/sqlite"
	"github.com/berth-iot/berth/wire/hubjson"
)

// A foreign hub is a whole server of ours on loopback.
type foreign struct {
	address  string
	http     client.HTTP
	hub      *linkedhub.Hub
	operator *service.Hub
}

func start(t *testing.T) foreign {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	err := app.Init(t.Context(), app.InitOptions{Data: data, Hosts: []string{"127.0.0.1"}, Listen: "127.0.0.1:0"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config, err := app.LoadConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	s, err := app.Open(t.Context(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	pem, err := os.ReadFile(filepath.Join(data, app.CAFile))
	if err != nil {
		t.Fatal(err)
	}
	connection, err := os.ReadFile(filepath.Join(data, app.HubConnectionFile))
	if err != nil {
		t.Fatal(err)
	}
	f := foreign{address: s.Address().String(), http: client.HTTP{RootCAs: x509.NewCertPool(), Transport: &http.Transport{}}}
	f.http.RootCAs.AppendCertsFromPEM(pem)
	text := strings.Replace(string(connection), "HostName=127.0.0.1;", "HostName="+f.address+";", 1)
	if f.hub, err = linkedhub.Open(text, linkedhub.Options{HTTP: f.http}); err != nil {
		t.Fatal(err)
	}
	if f.operator, err = service.NewHub(text, f.http); err != nil {
		t.Fatal(err)
	}
	return f
}

func key(letter byte) device.SymmetricKey {
	k, _ := device.NewSymmetricKey(bytes.Repeat([]byte{letter}, 32))
	return k
}

func assignment(primary byte) provision.Assignment {
	a := provision.Assignment{DeviceID: "pump-7", Twin: &enroll.InitialTwin{Tags: json.RawMessage(`{"site":"a"}`), Desired: json.RawMessage(`{"rate":1}`)}}
	a.Keys.Primary, a.Keys.Secondary = key(primary), key('z')
	return a
}

// send lets the device send a message to the hub.
func (f foreign) send(t *testing.T, k device.SymmetricKey) error {
	t.Helper()
	c, err := devicehub.New(devicehub.Config{Host: f.hub.Host(), DeviceID: "pump-7", Credential: client.SymmetricKey(k), HTTP: f.http})
	if err != nil {
		t.Fatal(err)
	}
	return c.Send(t.Context(), devicehub.Message{Body: []byte("{}")})
}

func (f foreign) sections(t *testing.T) string {
	t.Helper()
	twin, err := f.operator.Twin(t.Context(), "pump-7")
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Code == errs.CodeDeviceNotFound {
		return "nothing"
	}
	if err != nil {
		t.Fatal(err)
	}
	desired, _, err := twin.Properties.Desired.Split()
	if err != nil {
		t.Fatal(err)
	}
	return string(twin.Tags) + string(desired)
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// Our own hub is linked as if it were somebody else's.
func TestOurOwnHubFromElsewhere(t *testing.T) {
	f, ctx := start(t), t.Context()
	if err := f.hub.Check(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := f.operator.Statistics(ctx); err != nil || n != (hubjson.Statistics{}) {
		t.Errorf("%+v, %v", n, err)
	}
	for _, k := range []byte("aab") {
		if err := f.hub.Assign(ctx, assignment(k)); err != nil {
			t.Fatal(err)
		}
		if err := f.send(t, key(k)); err != nil {
			t.Errorf("the device's message: %v", err)
		}
		want(t, "twin", f.sections(t), `{"site":"a"}{"rate":1}`)
	}
	if err := f.send(t, key('a')); err == nil {
		t.Error("the key before is good")
	}

	// The operator's word counts.
	d, err := f.operator.Device(ctx, "pump-7")
	if err != nil {
		t.Fatal(err)
	}
	d.Status, d.StatusReason = hubjson.Disabled, "stolen"
	if d, err = f.operator.UpdateDevice(ctx, *d); err != nil {
		t.Fatal(err)
	}
	if _, err := f.operator.PatchTwin(ctx, "pump-7", hubjson.TwinChange{Tags: json.RawMessage(`{"site":null,"floor":2}`)}, ""); err != nil {
		t.Fatal(err)
	}
	if err := f.hub.Assign(ctx, assignment('c')); err != nil {
		t.Fatal(err)
	}
	if err := f.send(t, key('c')); err == nil {
		t.Error("a disabled device may send")
	}
	want(t, "twin", f.sections(t), `{"floor":2}{"rate":1}`)
	if n, err := f.operator.Statistics(ctx); err != nil || n != (hubjson.Statistics{Total: 1, Disabled: 1}) {
		t.Errorf("%+v, %v", n, err)
	}
	left, err := f.hub.Export(ctx, "pump-7")
	if err != nil || !left.Disabled || left.StatusReason != "stolen" || left.GenerationID != d.GenerationID || left.ETag == d.ETag {
		t.Errorf("%+v, %v", left, err)
	}
	if err := f.hub.Delete(ctx, "pump-7", d.ETag); errs.KindOf(err) != errs.Precondition {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := f.hub.Delete(ctx, "pump-7", left.ETag); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.hub.Export(ctx, "pump-7"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("%v", err)
	}
	a := assignment('a')
	a.Twin.Tags = json.RawMessage(`{"a.b":1}`)
	e := errs.Public(f.hub.Assign(ctx, a))
	if e.Kind != errs.Invalid || e.Code != errs.CodeArgumentInvalid || !strings.Contains(e.Message, "ErrorCode:ArgumentInvalid;tags: the name") {
		t.Errorf("%+v", e)
	}
}

func TestMoveBetweenTwoServers(t *testing.T) {
	from, to := start(t), start(t)
	for migrate, twin := range map[bool]string{true: `{"site":"a"}{"rate":5}`, false: `{"site":"a"}{"rate":1}`} {
		if err := from.hub.Assign(t.Context(), assignment('a')); err != nil {
			t.Fatal(err)
		}
		if _, err := from.operator.ReplaceTwin(t.Context(), "pump-7", hubjson.TwinChange{Tags: json.RawMessage(`{"site":"a"}`), Desired: json.RawMessage(`{"rate":5}`)}, service.AnyETag); err != nil {
			t.Fatal(err)
		}
		a := assignment('b')
		a.Hub, a.From, a.MigrateTwin = to.hub.Host(), provision.Place{Hub: from.hub.Host(), DeviceID: "pump-7"}, migrate
		for range 2 {
			if err := provision.Move(t.Context(), a, from.hub, to.hub); err != nil {
				t.Fatal(err)
			}
			want(t, "old hub", from.sections(t), "nothing")
			want(t, "new hub", to.sections(t), twin)
		}
		if err := to.send(t, key('b')); err != nil {
			t.Error(err)
		}
	}
}

// A local hub is one in this process, as an end of a move.
type local struct {
	service *hub.Service
	host    string
}

func (l local) owner() access.Caller {
	return access.Caller{Policy: "provisioning", Rights: access.AllHub}
}

func (l local) Export(ctx context.Context, id device.ID) (*provision.Departure, error) {
	d, twin, err := l.service.Twin(ctx, l.owner(), hub.Place{Hub: l.host, ID: id})
	if err != nil {
		return nil, err
	}
	return &provision.Departure{
		Twin:     enroll.InitialTwin{Tags: twin.Tags, Desired: twin.Desired},
		Disabled: d.Disabled, StatusReason: d.StatusReason, GenerationID: d.GenerationID, ETag: d.ETag,
	}, nil
}

func (l local) Delete(ctx context.Context, id device.ID, etag string) error {
	err := l.service.Delete(ctx, l.owner(), hub.Place{Hub: l.host, ID: id}, func(current string) bool { return current == etag })
	if errs.KindOf(err) == errs.NotFound {
		return nil
	}
	return err
}

func (l local) Assign(ctx context.Context, a provision.Assignment) error {
	p := hub.Provisioning{Hub: l.host, DeviceID: a.DeviceID, IoTEdge: a.IoTEdge, Keys: a.Keys, Thumbprint: a.Thumbprint}
	if a.Twin != nil {
		p.Twin = &hub.InitialTwin{Tags: a.Twin.Tags, Desired: a.Twin.Desired}
	}
	return l.service.Provision(ctx, p)
}

func (l local) Receive(ctx context.Context, a provision.Assignment, left provision.Departure) (string, error) {
	tags, desired := left.Sections()
	p := hub.Provisioning{
		Hub: l.host, DeviceID: a.DeviceID, IoTEdge: a.IoTEdge, Keys: a.Keys, Thumbprint: a.Thumbprint,
		Twin:    &hub.InitialTwin{Tags: tags, Desired: desired},
		Arrival: &hub.Arrival{Disabled: left.Disabled, StatusReason: left.StatusReason},
	}
	if err := l.service.Provision(ctx, p); err != nil {
		return "", err
	}
	d, err := l.service.Identity(ctx, l.owner(), hub.Place{Hub: l.host, ID: a.DeviceID})
	if err != nil {
		return "", err
	}
	return d.GenerationID, nil
}

func openLocal(t *testing.T) local {
	t.Helper()
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k, err := soft.Open(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"), k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return local{hub.New(hub.Config{Registry: db, Stream: db, Queues: db, Presences: db, Configurations: db, Policies: db, Now: time.Now, Random: rand.Reader}), "hub.example"}
}

// A device goes from a hub of this process to one elsewhere and back, disabled
// on the way.
func TestMoveOutAndBack(t *testing.T) {
	home, away, ctx := openLocal(t), start(t), t.Context()
	if err := home.Assign(ctx, assignment('a')); err != nil {
		t.Fatal(err)
	}
	_, _, err := home.service.PatchTwin(ctx, home.owner(), hub.Place{Hub: home.host, ID: "pump-7"}, hub.TwinChange{Desired: json.RawMessage(`{"rate":5}`)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := assignment('b')
	out.Hub, out.From, out.MigrateTwin = away.hub.Host(), provision.Place{Hub: home.host, DeviceID: "pump-7"}, true
	for range 2 {
		if err := provision.Move(ctx, out, home, away.hub); err != nil {
			t.Fatal(err)
		}
		want(t, "away", away.sections(t), `{"site":"a"}{"rate":5}`)
		if _, err := home.Export(ctx, "pump-7"); errs.KindOf(err) != errs.NotFound {
			t.Errorf("still at home: %v", err)
		}
	}
	if err := away.send(t, key('b')); err != nil {
		t.Error(err)
	}
	d, err := away.operator.Device(ctx, "pump-7")
	if err != nil {
		t.Fatal(err)
	}
	d.Status, d.StatusReason = hubjson.Disabled, "stolen"
	if _, err := away.operator.UpdateDevice(ctx, *d); err != nil {
		t.Fatal(err)
	}
	back := assignment('c')
	back.Hub, back.From, back.MigrateTwin = home.host, provision.Place{Hub: away.hub.Host(), DeviceID: "pump-7"}, true
	for range 2 {
		if err := provision.Move(ctx, back, away.hub, home); err != nil {
			t.Fatal(err)
		}
		want(t, "away", away.sections(t), "nothing")
		left, err := home.Export(ctx, "pump-7")
		if err != nil || !left.Disabled || left.StatusReason != "stolen" || string(left.Twin.Desired) != `{"rate":5}` {
			t.Errorf("%+v, %v", left, err)
		}
	}
}

func TestAKeyThatWasRolled(t *testing.T) {
	f := start(t)
	stale := "HostName=" + f.address + ";SharedAccessKeyName=iothubowner;SharedAccessKey=" + key('x').Base64()
	h, err := linkedhub.Open(stale, linkedhub.Options{HTTP: f.http})
	if err != nil {
		t.Fatal(err)
	}
	e := errs.Public(h.Assign(t.Context(), assignment('a')))
	if e.Kind != errs.Denied || e.Code != errs.CodeUnauthorizedAccess || !strings.HasPrefix(e.Message, `{"Message":"ErrorCode:IotHubUnauthorizedAccess;Unauthorized","ExceptionMessage":"Tracking ID:`) {
		t.Errorf("%+v", e)
	}
	if err := h.Check(t.Context()); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), `does not accept the key of policy "iothubowner"`) {
		t.Errorf("%v", err)
	}
	untrusting, err := linkedhub.Open(stale, linkedhub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := untrusting.Check(t.Context()); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "certificate") || time.Since(begun) > 5*time.Second {
		t.Errorf("a server that nobody vouches for, after %s: %v", time.Since(begun), err)
	}
}
