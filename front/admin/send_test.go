package admin

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

func TestMessagesToDevices(t *testing.T) {
	s := linked(t)
	at := hub.Place{Hub: "hub1.example", ID: "d1"}
	err := s.store.Change(t.Context(), at, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		return &hub.Identity{Place: hub.Place{Hub: at.Hub, ID: at.ID}, GenerationID: "g1"}, &hub.Twin{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const path = "/berth/v1/hubs/hub1.example:8443/devices/d1/messages"
	soon := time.Now().Add(time.Minute).UTC().Truncate(time.Second)
	s.want("POST", path, `{"body":"on","properties":{"zone":"b"},"messageId":"m1","correlationId":"c1","userId":"u1","contentType":"text/plain",`+
		`"contentEncoding":"utf-8","ack":"full","expiry":"`+soon.Format(time.RFC3339)+`"}`, 200, `{"messageId":"m1"}`)
	if status, answer := s.send("POST", path, `{"bodyBase64":"AP8="}`, token(s.owner)); status != 200 || len(answer) != len(`{"messageId":""}`)+36 {
		t.Errorf("%d %s", status, answer)
	}
	var queue []*hub.CloudMessage
	if err := s.store.ChangeQueue(t.Context(), at, func(_ string, q []*hub.CloudMessage) (hub.QueueChange, error) {
		queue = q
		return hub.QueueChange{}, nil
	}); err != nil || len(queue) != 2 {
		t.Fatalf("%v, %v", queue, err)
	}
	m := queue[0]
	if m.Ack != hub.AckFull || !m.Expiry.Equal(soon) || m.Properties["zone"] != "b" || m.System["message-id"] != "m1" || m.System["correlation-id"] != "c1" ||
		m.System["user-id"] != "u1" || m.System["content-type"] != "text/plain" || m.System["content-encoding"] != "utf-8" {
		t.Errorf("%+v", m)
	}
	for i, want := range []string{"on", "\x00\xff"} {
		if m, err := s.store.Queued(context.Background(), at, queue[i].Sequence); err != nil || string(m.Body) != want {
			t.Errorf("%+v, %v", m, err)
		}
	}

	for _, body := range []string{
		`{"body":"a","bodyBase64":"AP8="}`, `{"bodyBase64":"?"}`, `{"ack":"perhaps"}`, `{"expiry":"2020-01-01T00:00:00Z"}`, `{"expiry":"soon"}`,
		`{"properties":{"a b":"c"}}`, `{"properties":{"a":""}}`, `{"properties":{"a":"ä"}}`, `{"something":1}`, `[]`,
	} {
		s.refuses("POST", path, body, token(s.owner), 400, errs.Invalid)
	}
	s.refuses("POST", path, `{"body":"`+strings.Repeat("x", hub.MaxCloudMessageSize)+`"}`, token(s.owner), 413, errs.TooLarge)
	s.refuses("POST", path, `{}`, "", 401, errs.Denied)
	s.refuses("POST", path, `{}`, token(s.policy("reader", access.AllProvisioning&^access.ServiceConfig)), 401, errs.Denied)
	s.refuses("POST", strings.Replace(path, "d1", "d2", 1), `{}`, token(s.owner), 404, errs.NotFound)
	s.refuses("POST", strings.Replace(path, "hub1.example:8443", "hub3.example", 1), `{}`, token(s.owner), 404, errs.NotFound)
	for range hub.MaxQueued - 2 {
		if status, answer := s.send("POST", path, `{}`, token(s.owner)); status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
	}
	s.refuses("POST", path, `{}`, token(s.owner), 403, errs.Forbidden)
}
