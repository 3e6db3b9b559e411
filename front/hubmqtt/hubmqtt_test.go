package hubmqtt

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	machine "github.com/berth-iot/berth/front/internal/mqtt"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/sqlite"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

const hubName = "hub.example"

var (
	limits = machine.Limits{Packet: 1 << 19, Window: 8, WindowBytes: 1 << 20, Pending: 1 << 20, Connect: 20 * time.Second, Write: 20 * time.Second, Silence: time.Minute}
	owner  = access.Caller{Policy: "owner", Rights: access.AllHub}
)

type hubs struct{}

func (hubs) Hub(name string) (hub.Host, bool) { return hub.Host{Name: hubName}, name == hubName }

// A world is a hub over a fresh database.
type world struct {
	*testing.T
	store   *sqlite.Store
	service *hub.Service
	front   *Front
}

func begin(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	key, err := soft.Open(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{T: t, store: store}
	w.restart()
	return w
}

// restart forgets everything that is not in the database.
func (w *world) restart() {
	w.service = hub.New(hub.Config{Registry: w.store, Stream: w.store, Queues: w.store, Presences: w.store, Configurations: w.store, Policies: w.store, Now: time.Now, Random: rand.Reader})
	w.front = New(Config{Service: w.service, Hubs: hubs{}, Now: time.Now, Logger: slog.New(slog.DiscardHandler), Random: rand.Reader})
}

// enroll makes a device and returns its key.
func (w *world) enroll(id device.ID) device.SymmetricKey {
	w.Helper()
	d, err := w.service.PutDevice(w.Context(), owner, hub.Place{Hub: hubName, ID: id}, hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}, nil)
	if err != nil {
		w.Fatal(err)
	}
	return d.Auth.Keys.Primary
}

// A client is a device's end of a connection.
type client struct {
	*testing.T
	net.Conn
	rest  []byte
	ended chan error
}

func (w *world) dial() *client {
	w.Helper()
	here, there := net.Pipe()
	c := &client{T: w.T, Conn: here, ended: make(chan error, 1)}
	if err := here.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.Fatal(err)
	}
	go func() {
		c.ended <- machine.Serve(w.Context(), there, limits, func(ctx context.Context, conn *machine.Conn, m *mqtt.Connect) (machine.Session, mqtt.ReturnCode, error) {
			return w.front.Greet(ctx, conn, machine.Peer{Address: "192.0.2.7:4711"}, m)
		})
	}()
	w.Cleanup(func() { here.Close() })
	return c
}

func token(key device.SymmetricKey, resource string, expiry time.Time) []byte {
	return []byte(sas.Sign(key.Bytes(), resource, expiry, ""))
}

// connect connects as a device and returns the answer.
func (w *world) connect(id string, password []byte) (*client, mqtt.ReturnCode) {
	w.Helper()
	c := w.dial()
	username := hubName + "/" + id + "/?api-version=2021-04-12&DeviceClientType=test"
	c.send(&mqtt.Connect{Level: 4, ClientID: id, CleanSession: true, Username: &username, Password: password})
	a, ok := c.hear().(*mqtt.Connack)
	if !ok {
		w.Fatal("no CONNACK")
	}
	return c, a.Code
}

// live is a device that is connected and subscribed to everything.
func (w *world) live(id device.ID, key device.SymmetricKey) *client {
	w.Helper()
	c, code := w.connect(string(id), token(key, hubName+"/devices/"+string(id), time.Now().Add(time.Hour)))
	if code != mqtt.Accepted {
		w.Fatal(code)
	}
	c.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{
		{Filter: "$iothub/twin/res/#"}, {Filter: "$iothub/twin/PATCH/properties/desired/#", QoS: 1}, {Filter: "$iothub/methods/POST/#"},
	}})
	c.want(&mqtt.Suback{ID: 1, Codes: []byte{0, 1, 0}})
	return c
}

func (c *client) send(packets ...mqtt.Packet) {
	c.Helper()
	for _, p := range packets {
		b, err := p.Append(nil)
		if err != nil {
			c.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			c.Fatal(err)
		}
	}
}

func (c *client) hear() mqtt.Packet {
	c.Helper()
	b := make([]byte, 4096)
	for {
		first, body, size, err := mqtt.Next(c.rest, 1<<20)
		if err == nil {
			c.rest = c.rest[size:]
			p, err := mqtt.Decode(first, body)
			if err != nil {
				c.Fatal(err)
			}
			return p
		}
		n, err := c.Read(b)
		if err != nil {
			c.Fatalf("hearing: %v", err)
		}
		c.rest = append(c.rest, b[:n]...)
	}
}

func (c *client) want(want mqtt.Packet) {
	c.Helper()
	if got := c.hear(); !reflect.DeepEqual(got, want) {
		c.Fatalf("heard %#v, want %#v", got, want)
	}
}

// message wants a message and returns its payload.
func (c *client) message(topic string) string {
	c.Helper()
	p, ok := c.hear().(*mqtt.Publish)
	if !ok || p.Topic != topic {
		c.Fatalf("heard %#v, want a message for %s", p, topic)
	}
	return string(p.Payload)
}

func (c *client) hungUp(why string) {
	c.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		c.Errorf("heard more, or %v", err)
	}
	if err := <-c.ended; !strings.Contains(err.Error(), why) {
		c.Errorf("it ended with: %v, want: %s", err, why)
	}
}

func TestTelemetry(t *testing.T) {
	w := begin(t)
	c := w.live("d1", w.enroll("d1"))
	c.send(&mqtt.Publish{QoS: 1, ID: 7, Retain: true, Topic: "devices/d1/messages/events/%24.mid=m%2F1&$.ct=application%2Fjson&%24.cdid=another&alarm=a%20b&empty=", Payload: []byte(`{"t":1}`)},
		&mqtt.Publish{QoS: 1, ID: 8, Topic: "devices/d1/messages/events/"})
	c.want(&mqtt.Puback{ID: 7})
	c.want(&mqtt.Puback{ID: 8})
	c.send(&mqtt.Publish{Topic: "devices/d1/messages/events", Payload: []byte("zero")}, &mqtt.Publish{QoS: 1, ID: 9, Topic: "devices/d1/messages/events/"})
	c.want(&mqtt.Puback{ID: 9}) // messages stay in order, so the one before is there, too
	ms, err := w.store.Read(t.Context(), hubName, 0, 10)
	if err != nil || len(ms) != 4 {
		t.Fatalf("%d messages (%v)", len(ms), err)
	}
	m := ms[0]
	if string(m.Body) != `{"t":1}` || m.DeviceID != "d1" || m.System["message-id"] != "m/1" || m.System["content-type"] != "application/json" ||
		m.System["connection-device-id"] != "d1" || !strings.Contains(m.System["connection-auth-method"], `"scope":"device","type":"sas"`) {
		t.Errorf("%+v", m)
	}
	if want := map[string]string{"alarm": "a b", "empty": "", "mqtt-retain": "true"}; !reflect.DeepEqual(m.Properties, want) {
		t.Errorf("properties %v", m.Properties)
	}
	if string(ms[2].Body) != "zero" {
		t.Errorf("third: %q", ms[2].Body)
	}
}

func TestTwin(t *testing.T) {
	w := begin(t)
	c := w.live("d1", w.enroll("d1"))
	get := func(rid string) string {
		c.send(&mqtt.Publish{Topic: "$iothub/twin/GET/?$rid=" + rid, Payload: []byte(" ")})
		return c.message("$iothub/twin/res/200/?$rid=" + rid)
	}
	if got := get("a-1"); got != `{"desired":{"$version":1},"reported":{"$version":1}}` {
		t.Error(got)
	}
	c.send(&mqtt.Publish{QoS: 1, ID: 2, Topic: "$iothub/twin/PATCH/properties/reported/?$rid=2", Payload: []byte(`{"fw":"1.2","x":null}`)})
	c.want(&mqtt.Puback{ID: 2})
	if got := c.message("$iothub/twin/res/204/?$rid=2&$version=2"); got != "" {
		t.Error(got)
	}
	c.send(&mqtt.Publish{Topic: "$iothub/twin/PATCH/properties/reported/?$rid=3&$version=2", Payload: []byte(`{"fw":"1.2"}`)})
	c.message("$iothub/twin/res/204/?$rid=3&$version=2") // nothing changed

	for rid, refused := range map[string]struct {
		topic, payload, status string
		code                   int
	}{
		"4": {"?$rid=4&$version=1", `{"fw":"1.3"}`, "412", 412001},
		"5": {"?$rid=5", `[1]`, "400", 400004},
		"6": {"?$rid=6", `{"a b":1}`, "400", 400004},
		"7": {"?$rid=7", ``, "400", 400004}, // it must not empty the section
		"8": {"?$rid=8", ` null`, "400", 400004},
	} {
		c.send(&mqtt.Publish{Topic: "$iothub/twin/PATCH/properties/reported/" + refused.topic, Payload: []byte(refused.payload)})
		p, ok := c.hear().(*mqtt.Publish)
		if !ok {
			t.Fatal("no answer")
		}
		var body errorBody
		if err := json.Unmarshal(p.Payload, &body); err != nil || p.Topic != "$iothub/twin/res/"+refused.status+"/?$rid="+rid || int(body.ErrorCode) != refused.code || body.Message == "" || body.TrackingID == "" {
			t.Errorf("%s %s (%v)", p.Topic, p.Payload, err)
		}
		if strings.Contains(string(p.Payload), "null") {
			t.Errorf("%s has a null, which one client cannot read", p.Payload)
		}
	}

	// What an operator writes arrives as a patch, in the order of its versions.
	for i, change := range []string{`{"rate":1,"net":{"a":1,"b":2}}`, `{"net":{"a":null}}`} {
		if _, _, err := w.service.PatchTwin(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, hub.TwinChange{Desired: json.RawMessage(change)}, nil); err != nil {
			t.Fatal(err)
		}
		want := []string{`{"rate":1,"net":{"a":1,"b":2},"$version":2}`, `{"net":{"a":null},"$version":3}`}[i]
		p, ok := c.hear().(*mqtt.Publish)
		if !ok || p.QoS != 1 || p.Topic != fmt.Sprint("$iothub/twin/PATCH/properties/desired/?$version=", i+2) || string(p.Payload) != want {
			t.Errorf("%#v, want %s", p, want)
		}
		c.send(&mqtt.Puback{ID: p.ID})
	}
	if _, _, err := w.service.ReplaceTwin(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, hub.TwinChange{Desired: json.RawMessage(`{"rate":2}`)}, nil); err != nil {
		t.Fatal(err)
	}
	if got := c.message("$iothub/twin/PATCH/properties/desired/?$version=4"); got != `{"rate":2,"net":null,"$version":4}` {
		t.Error(got)
	}
	// Tags are none of its business.
	if _, _, err := w.service.PatchTwin(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, hub.TwinChange{Tags: json.RawMessage(`{"a":1}`)}, nil); err != nil {
		t.Fatal(err)
	}
	if got := get("9"); got != `{"desired":{"rate":2,"$version":4},"reported":{"fw":"1.2","$version":2}}` {
		t.Error(got)
	}
	c.send(&mqtt.Unsubscribe{ID: 9, Filters: []string{"$iothub/twin/res/#"}}, &mqtt.Publish{Topic: "$iothub/twin/GET/?$rid=9"}, &mqtt.Pingreq{})
	c.want(&mqtt.Unsuback{ID: 9})
	c.want(&mqtt.Pingresp{})
}

func TestMethods(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	call := func(m hub.Method) (hub.MethodResult, error) {
		return w.service.Invoke(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, m)
	}
	if _, err := call(hub.Method{Name: "reboot"}); err == nil || !strings.Contains(err.Error(), "Timed out waiting for device to connect.") {
		t.Errorf("of a device that is not there: %v", err)
	}
	type outcome struct {
		hub.MethodResult
		error
	}
	done := make(chan outcome, 1)
	begun := func(m hub.Method) {
		go func() {
			r, err := call(m)
			done <- outcome{r, err}
		}()
	}
	begun(hub.Method{Name: "reboot", Payload: json.RawMessage(`{"in":5}`), Connect: 20 * time.Second}) // it waits for the device
	c, code := w.connect("d1", token(key, hubName, time.Now().Add(time.Hour)))
	if code != mqtt.Accepted {
		t.Fatal(code)
	}
	if _, err := call(hub.Method{Name: "reboot"}); !errors.Is(err, hub.ErrNoMethods) {
		t.Errorf("of a device that takes no calls: %v", err)
	}
	c.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: "$iothub/methods/POST/#", QoS: 1}}}) // who waited calls it now
	c.want(&mqtt.Suback{ID: 1, Codes: []byte{1}})
	if got := c.message("$iothub/methods/POST/reboot/?$rid=1"); got != `{"in":5}` {
		t.Error(got)
	}
	c.send(&mqtt.Publish{Topic: "$iothub/methods/res/500/?$rid=99", Payload: []byte(`"nobody waits for this"`)},
		&mqtt.Publish{QoS: 1, ID: 3, Topic: "$iothub/methods/res/207/?$rid=1", Payload: []byte(`{"ok":true}`)},
		&mqtt.Publish{Topic: "$iothub/methods/res/200/?$rid=1", Payload: []byte(`"once more"`)})
	c.want(&mqtt.Puback{ID: 3})
	if o := <-done; o.error != nil || o.Status != 207 || string(o.Payload) != `{"ok":true}` {
		t.Errorf("%+v", o)
	}
	begun(hub.Method{Name: "stop"})
	if got := c.message("$iothub/methods/POST/stop/?$rid=2"); got != "" {
		t.Error(got)
	}
	c.send(&mqtt.Publish{Topic: "$iothub/methods/res/200/?$rid=2"})
	if o := <-done; o.error != nil || o.Status != 200 || string(o.Payload) != "null" {
		t.Errorf("%+v", o)
	}
	begun(hub.Method{Name: "fall"})
	c.message("$iothub/methods/POST/fall/?$rid=3")
	c.Close()
	if o := <-done; o.error == nil {
		t.Errorf("of a device that is gone: %+v", o)
	}
	for _, m := range []hub.Method{
		{}, {Name: "a/b"}, {Name: "a#"}, {Name: strings.Repeat("a", 101)}, {Name: "a", Payload: json.RawMessage(`{`)}, {Name: "a", Payload: make([]byte, hub.MaxMethodPayload+1)},
		{Name: "a", Response: time.Second}, {Name: "a", Response: 301 * time.Second}, {Name: "a", Connect: -1}, {Name: "a", Connect: 301 * time.Second},
	} {
		if _, err := call(m); err == nil {
			t.Errorf("%.40q was called", m.Name)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	other := w.enroll("d2")
	hour := time.Now().Add(time.Hour)
	for name, c := range map[string]struct {
		id       string
		password []byte
		code     mqtt.ReturnCode
	}{
		"another device's key": {"d1", token(other, hubName+"/devices/d1", hour), mqtt.NotAuthorized},
		"another audience":     {"d1", token(key, hubName+"/devices/d2", hour), mqtt.NotAuthorized},
		"an expired token":     {"d1", token(key, hubName+"/devices/d1", time.Now().Add(-time.Hour)), mqtt.NotAuthorized},
		"nothing":              {"d1", nil, mqtt.NotAuthorized},
		"a password":           {"d1", []byte("secret"), mqtt.BadUserNameOrPassword},
		"an unknown device":    {"d3", token(key, hubName+"/devices/d3", hour), mqtt.NotAuthorized},
		"a module":             {"d1/m1", token(key, hubName+"/devices/d1", hour), mqtt.NotAuthorized},
	} {
		if _, code := w.connect(c.id, c.password); code != c.code {
			t.Errorf("%s: %v, want %v", name, code, c.code)
		}
	}
	for name, c := range map[string]struct {
		username string
		clientID string
		will     string
		code     mqtt.ReturnCode
	}{
		"another hub":         {"other.example/d1/?api-version=2021-04-12", "d1", "", mqtt.NotAuthorized},
		"another client":      {hubName + "/d1/?api-version=2021-04-12", "d2", "", mqtt.IdentifierRejected},
		"no device":           {hubName, "d1", "", mqtt.BadUserNameOrPassword},
		"a will of another":   {hubName + "/d1/?api-version=2021-04-12", "d1", "devices/d2/messages/events/", mqtt.NotAuthorized},
		"a will to the twin":  {hubName + "/d1/?api-version=2021-04-12", "d1", "$iothub/twin/GET/?$rid=1", mqtt.NotAuthorized},
		"an ID that is not":   {hubName + "/d 1/?api-version=2021-04-12", "d 1", "", mqtt.IdentifierRejected},
		"a module, as client": {hubName + "/d1/m1/?api-version=2021-04-12", "d1/m1", "", mqtt.NotAuthorized},
	} {
		d := w.dial()
		connect := &mqtt.Connect{Level: 4, ClientID: c.clientID, Username: &c.username, Password: token(key, hubName+"/devices/d1", hour)}
		if c.will != "" {
			connect.Will = &mqtt.Will{Topic: c.will}
		}
		d.send(connect)
		if a, ok := d.hear().(*mqtt.Connack); !ok || a.Code != c.code {
			t.Errorf("%s: %#v, want %v", name, a, c.code)
		}
	}
}

// Some clients count the expiry of their tokens in milliseconds.
func TestATokenForAgesIsGood(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	c, code := w.connect("d1", token(key, hubName+"/devices/d1", time.Unix(time.Now().Add(time.Hour).UnixMilli(), 0)))
	if code != mqtt.Accepted {
		t.Fatal(code)
	}
	for range 10 { // an end would come with the first, or soon after it
		c.send(&mqtt.Pingreq{})
		c.want(&mqtt.Pingresp{})
	}
}

func TestForeignTopicsEndTheConnection(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	w.enroll("d2")
	for topic, why := range map[string]string{
		"devices/d2/messages/events/":            "a message in the name of another device",
		"devices/d1/modules/m1/messages/events/": "a message in the name of another device",
		"devices/d1/messages/devicebound/":       "is not one that devices publish to",
		"anything":                               "is not one that devices publish to",
		"devices/d1/messages/events/a=%zz":       "property bag",
	} {
		c := w.live("d1", key)
		c.send(&mqtt.Publish{QoS: 1, ID: 1, Topic: topic})
		c.hungUp(why)
	}
	c := w.live("d1", key)
	c.send(&mqtt.Publish{QoS: 1, ID: 1, Topic: "devices/d1/messages/events/", Payload: make([]byte, hub.MaxMessageSize+1)})
	c.hungUp("262144 bytes")
	if ms, err := w.store.Read(t.Context(), hubName, 0, 10); err != nil || len(ms) != 0 {
		t.Errorf("%d messages were kept (%v)", len(ms), err)
	}
	c = w.live("d1", key)
	c.send(&mqtt.Subscribe{ID: 2, Subscriptions: []mqtt.Subscription{{Filter: "#"}, {Filter: "devices/d2/messages/devicebound/#"}, {Filter: "devices/d1/messages/devicebound/#", QoS: 1}}})
	c.want(&mqtt.Suback{ID: 2, Codes: []byte{mqtt.SubscriptionFailed, mqtt.SubscriptionFailed, 1}})
}

func TestOneConnectionADevice(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	first := w.live("d1", key)
	second := w.live("d1", key)
	first.hungUp("connected again elsewhere")
	second.send(&mqtt.Pingreq{})
	second.want(&mqtt.Pingresp{})
	if _, _, err := w.service.PatchTwin(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, hub.TwinChange{Desired: json.RawMessage(`{"a":1}`)}, nil); err != nil {
		t.Fatal(err)
	}
	second.message("$iothub/twin/PATCH/properties/desired/?$version=2") // the first one's end did not detach it
}

func TestDisabledAndDeletedDevicesAreCutOff(t *testing.T) {
	w := begin(t)
	any := func(string) bool { return true }
	key := w.enroll("d1")
	c := w.live("d1", key)
	spec := hub.DeviceSpec{Disabled: true, Auth: hub.Authentication{Type: hub.AuthSAS}}
	spec.Auth.Keys.Primary, spec.Auth.Keys.Secondary = key, key
	if _, err := w.service.PutDevice(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, spec, any); err != nil {
		t.Fatal(err)
	}
	c.hungUp("the device was disabled")
	if _, code := w.connect("d1", token(key, hubName+"/devices/d1", time.Now().Add(time.Hour))); code != mqtt.NotAuthorized {
		t.Error(code)
	}
	spec.Disabled = false
	if _, err := w.service.PutDevice(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, spec, any); err != nil {
		t.Fatal(err)
	}
	c = w.live("d1", key)
	if err := w.service.Delete(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, any); err != nil {
		t.Fatal(err)
	}
	c.hungUp("the device was deleted")
}

func TestWill(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	for _, farewell := range []bool{true, false} {
		c := w.dial()
		username := hubName + "/d1/?api-version=2021-04-12"
		c.send(&mqtt.Connect{Level: 4, ClientID: "d1", Username: &username, Password: token(key, hubName+"/devices/d1", time.Now().Add(time.Hour)),
			Will: &mqtt.Will{Topic: "devices/d1/messages/events/why=lost", Payload: []byte("gone")}})
		c.want(&mqtt.Connack{})
		if farewell {
			c.send(&mqtt.Disconnect{})
		}
		c.Close()
		<-c.ended
	}
	for try := 0; ; try++ {
		ms, err := w.store.Read(t.Context(), hubName, 0, 10)
		if err != nil || len(ms) > 1 {
			t.Fatal(len(ms), err)
		}
		if len(ms) == 1 {
			if string(ms[0].Body) != "gone" || ms[0].Properties["why"] != "lost" || ms[0].Properties["iothub-MessageType"] != "Will" {
				t.Errorf("%+v", ms[0])
			}
			return
		}
		wait, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err = w.store.Wait(wait, 0)
		cancel()
		if err != nil || try > 10 {
			t.Fatal("the will did not come: ", err)
		}
	}
}
