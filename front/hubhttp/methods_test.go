package hubhttp

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/hub"
)

// A link is a device that answers every call in the same way.
type link struct {
	status int
	answer string
	err    error
	called string
}

func (l *link) Close(error)                    {}
func (l *link) Desired(json.RawMessage, int64) {}
func (l *link) Queued()                        {}
func (l *link) Invoke(_ context.Context, name string, payload json.RawMessage) (int, json.RawMessage, error) {
	l.called = name + " " + string(payload)
	return l.status, json.RawMessage(l.answer), l.err
}

func TestDirectMethods(t *testing.T) {
	s := start(t)
	r := s.as("PUT", "/devices/d1", `{"deviceId":"d1"}`)
	var identity struct{ GenerationID string }
	if err := json.Unmarshal([]byte(r.body), &identity); r.status != 200 || err != nil {
		t.Fatal(r.status, r.body, err)
	}
	call := func(body string) reply { return s.as("POST", "/twins/d1/methods", body) }
	if r := call(`{"methodName":"reboot"}`); r.status != 404 || r.header.Get("iothub-errorcode") != "DeviceNotOnline" || !strings.Contains(r.body, "Timed out waiting for device to connect.") {
		t.Errorf("of a device that is not there: %d %s", r.status, r.body)
	}
	d := &link{status: 500, answer: `{"ok":false}`}
	detach := s.service.Attach(t.Context(), hub.Sender{Place: hub.Place{Hub: host, ID: "d1"}, GenerationID: identity.GenerationID}, d)
	if r := call(`{"methodName":"reboot","payload":{"in":5},"responseTimeoutInSeconds":10}`); r.status != 200 || r.body != `{"status":500,"payload":{"ok":false}}` || d.called != `reboot {"in":5}` {
		t.Errorf("%d %s after %s", r.status, r.body, d.called)
	}
	if r := s.as("GET", "/twins/d1", ""); !strings.Contains(r.body, `"connectionState":"Connected"`) {
		t.Error(r.body)
	}
	d.answer = ""
	if r := call(`{"methodName":"reboot"}`); r.status != 200 || r.body != `{"status":500,"payload":null}` {
		t.Errorf("%d %s", r.status, r.body)
	}
	d.answer = "no JSON"
	if r := call(`{"methodName":"reboot"}`); r.status != 502 || r.header.Get("iothub-errorcode") != "GenericBadGateway" {
		t.Errorf("of a device that answers something else: %d %s", r.status, r.body)
	}
	d.err = context.DeadlineExceeded
	if r := call(`{"methodName":"reboot"}`); r.status != 504 || r.header.Get("iothub-errorcode") != "GatewayTimeout" {
		t.Errorf("of a device that does not answer: %d %s", r.status, r.body)
	}
	d.err = hub.ErrNoMethods
	if r := call(`{"methodName":"reboot"}`); r.status != 404 || r.header.Get("iothub-errorcode") != "DeviceNotOnline" {
		t.Errorf("of a device that takes no calls: %d %s", r.status, r.body)
	}
	detach()
	if r := s.as("GET", "/devices/d1", ""); !strings.Contains(r.body, `"connectionState":"Disconnected"`) {
		t.Error(r.body)
	}
	for _, body := range []string{``, `{}`, `{"methodName":"a/b"}`, `{"methodName":"a","responseTimeoutInSeconds":4}`, `{"methodName":"a","responseTimeoutInSeconds":301}`} {
		if r := call(body); r.status != 400 {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	if r := s.as("POST", "/twins/d2/methods", `{"methodName":"reboot"}`); r.status != 404 || r.header.Get("iothub-errorcode") != "DeviceNotFound" {
		t.Errorf("of no device: %d %s", r.status, r.body)
	}
	if r := s.send("POST", "/twins/d1/methods", `{"methodName":"reboot"}`, "Authorization", token(s.reader)); r.status != 401 {
		t.Errorf("without ServiceConnect: %d %s", r.status, r.body)
	}
}

func TestDecodeMethod(t *testing.T) {
	for body, want := range map[string]hub.Method{
		`{"methodName":"reboot"}`: {Name: "reboot"},
		`{"methodName":"reboot","payload":{"a":1},"responseTimeoutInSeconds":10,"connectTimeoutInSeconds":5}`: {Name: "reboot", Payload: json.RawMessage(`{"a":1}`), Response: 10 * time.Second, Connect: 5 * time.Second},
		`{"MethodName":"reboot","timeoutInSeconds":7,"payload":null}`:                                         {Name: "reboot", Payload: json.RawMessage(`null`), Response: 7 * time.Second},
	} {
		got, err := decodeMethod([]byte(body))
		if err != nil || got.Name != want.Name || string(got.Payload) != string(want.Payload) || got.Response != want.Response || got.Connect != want.Connect {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
	for _, body := range []string{``, `[]`, `{"methodName":1}`, `{"methodName":"a","responseTimeoutInSeconds":-1}`, `{"methodName":"a","connectTimeoutInSeconds":9223372036854775807}`} {
		if m, err := decodeMethod([]byte(body)); err == nil {
			t.Errorf("%s: %+v", body, m)
		}
	}
}
