package hubhttp

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/hub"
)

// boundDevice makes d1 and returns how it calls.
func (s *server) boundDevice() func(method, path string, headers ...string) reply {
	s.Helper()
	spec := hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}
	spec.Auth.Keys.Primary = testKey(1)
	if _, err := s.service.PutDevice(s.Context(), access.Caller{Rights: access.AllHub}, hub.Place{Hub: host, ID: "d1"}, spec, nil); err != nil {
		s.Fatal(err)
	}
	return func(method, path string, headers ...string) reply {
		s.Helper()
		return s.send(method, "/devices/d1/messages"+path, "", append(headers, "Authorization", deviceToken(testKey(1), "d1"))...)
	}
}

func (s *server) tell(id string, m hub.CloudMessage) {
	s.Helper()
	m.Body, m.Ack = []byte("body of "+id), hub.AckFull
	if m.System == nil {
		m.System = map[string]string{}
	}
	m.System["message-id"] = id
	if _, err := s.service.Send(s.Context(), access.Caller{Rights: access.ServiceConnect}, host, "d1", m); err != nil {
		s.Fatal(err)
	}
}

func TestADeviceTakesItsMessages(t *testing.T) {
	s := start(t)
	call := s.boundDevice()
	if r := call("GET", "/devicebound"); r.status != 204 || r.body != "" {
		t.Fatalf("%+v", r)
	}
	s.tell("m1", hub.CloudMessage{
		System:     map[string]string{"correlation-id": "c1", "user-id": "u1", "content-type": "text/plain", "content-encoding": "utf-8"},
		Properties: map[string]string{"Unit": "a b"}, Expiry: time.Now().Add(time.Hour),
	})
	s.tell("m2", hub.CloudMessage{})
	for _, path := range []string{"/devices/d1", "/twins/d1", "/devices"} {
		if r := s.as("GET", path, ""); !strings.Contains(r.body, `"cloudToDeviceMessageCount":2`) {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	got := call("GET", "/deviceBound")
	if got.status != 200 || got.body != "body of m1" {
		t.Fatalf("%+v", got)
	}
	for name, want := range map[string]string{
		"iothub-messageid": "m1", "iothub-correlationid": "c1", "iothub-userid": "u1", "iothub-to": "/devices/d1/messages/deviceBound",
		"iothub-ack": "full", "iothub-deliverycount": "1", "ContentType": "text/plain", "ContentEncoding": "utf-8", "iothub-app-Unit": "a b",
	} {
		if v := got.header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	for _, name := range []string{"iothub-expiry", "iothub-enqueuedtime"} {
		if v := got.header.Get(name); !strings.HasSuffix(v, "Z") {
			t.Errorf("%s: %q", name, v)
		}
	}
	first := strings.Trim(got.header.Get("ETag"), `"`)
	next := call("GET", "/devicebound", "IotHub-MessageLockTimeout", "300")
	second := strings.Trim(next.header.Get("ETag"), `"`)
	if next.body != "body of m2" || call("GET", "/devicebound").status != 204 {
		t.Errorf("%+v", next)
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/devicebound/" + first + "/abandon", 204},
		{"DELETE", "/devicebound/" + first, 412}, // its lock is off
		{"DELETE", "/devicebound/" + second + "?api-version=2021-04-12&reject=perhaps", 400},
		{"DELETE", "/deviceBound/" + second + "?api-version=2021-04-12&reject=true", 204},
		{"DELETE", "/devicebound/nothing", 412},
	} {
		if r := call(c.method, c.path); r.status != c.status {
			t.Errorf("%s %s: %+v", c.method, c.path, r)
		}
	}
	if r := call("DELETE", "/devicebound/"+first); !strings.Contains(r.body, "ErrorCode:DeviceMessageLockLost;") || r.header.Get("iothub-errorcode") != "DeviceMessageLockLost" {
		t.Errorf("%+v", r)
	}
	again := call("GET", "/devicebound")
	if again.header.Get("iothub-deliverycount") != "2" || again.body != "body of m1" {
		t.Errorf("%+v", again)
	}
	if r := call("DELETE", "/devicebound/"+strings.Trim(again.header.Get("ETag"), `"`)); r.status != 204 {
		t.Errorf("%+v", r)
	}
}

func TestMessagesOfADeviceAreItsOwn(t *testing.T) {
	s := start(t)
	call := s.boundDevice()
	s.tell("m1", hub.CloudMessage{})
	for what, r := range map[string]reply{
		"nobody":            s.send("GET", "/devices/d1/messages/devicebound", ""),
		"another device":    s.send("GET", "/devices/d1/messages/devicebound", "", "Authorization", deviceToken(testKey(2), "d1")),
		"an operator":       s.send("GET", "/devices/d1/messages/devicebound", "", "Authorization", token(s.reader)),
		"purge by a device": s.send("DELETE", "/devices/d1/commands", "", "Authorization", deviceToken(testKey(1), "d1")),
		"purge by a reader": s.send("DELETE", "/devices/d1/commands", "", "Authorization", token(s.reader)),
		"feedback":          s.send("GET", "/messages/serviceBound/feedback", "", "Authorization", token(s.reader)),
	} {
		if r.status != 401 {
			t.Errorf("%s: %+v", what, r)
		}
	}
	for _, timeout := range []string{"x", "4", "301", "-1"} {
		if r := call("GET", "/devicebound", "IotHub-MessageLockTimeout", timeout); r.status != 400 {
			t.Errorf("%s: %+v", timeout, r)
		}
	}
}

func TestPurgeAndFeedback(t *testing.T) {
	s := start(t)
	s.boundDevice()
	if r := s.as("GET", "/messages/serviceBound/feedback", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
	for i := range 3 {
		s.tell(fmt.Sprint("m", i), hub.CloudMessage{})
	}
	if r := s.as("DELETE", "/devices/d1/commands", ""); r.status != 200 || r.body != `{"totalMessagesPurged":3,"deviceId":"d1","moduleId":null}` {
		t.Errorf("%+v", r)
	}
	if r := s.as("DELETE", "/devices/unknown/commands", ""); r.status != 404 {
		t.Errorf("%+v", r)
	}
	r := s.as("GET", "/messages/servicebound/feedback", "")
	var batch []map[string]string
	if err := json.Unmarshal([]byte(r.body), &batch); err != nil || len(batch) != 3 || r.header.Get("ContentType") != feedbackType {
		t.Fatalf("%+v", r)
	}
	if f := batch[1]; f["originalMessageId"] != "m1" || f["statusCode"] != "Purged" || f["description"] != "Purged" || f["deviceId"] != "d1" ||
		f["deviceGenerationId"] == "" || !strings.HasSuffix(f["enqueuedTimeUtc"], "Z") {
		t.Errorf("%v", f)
	}
	lock := strings.Trim(r.header.Get("ETag"), `"`)
	if r := s.as("GET", "/messages/serviceBound/feedback", ""); r.status != 204 {
		t.Errorf("while it is locked: %+v", r)
	}
	if r := s.as("POST", "/messages/serviceBound/feedback/"+lock+"/abandon", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
	if r := s.as("DELETE", "/messages/serviceBound/feedback/"+lock, ""); r.status != 412 {
		t.Errorf("%+v", r)
	}
	lock = strings.Trim(s.as("GET", "/messages/serviceBound/feedback", "").header.Get("ETag"), `"`)
	if r := s.as("DELETE", "/messages/serviceBound/feedback/"+lock, ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
	if r := s.as("GET", "/messages/serviceBound/feedback", ""); r.status != 204 {
		t.Errorf("%+v", r)
	}
}
