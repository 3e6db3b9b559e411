package hub_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

func TestWhatMayBeSentToADevice(t *testing.T) {
	s, _ := open(t)
	provision(t, s, first)
	long := strings.Repeat("x", 200)
	for name, c := range map[string]struct {
		m    hub.CloudMessage
		kind errs.Kind
	}{
		"an unknown acknowledgement":       {hub.CloudMessage{Ack: "perhaps"}, errs.Invalid},
		"an expiry in the past":            {hub.CloudMessage{Expiry: t0.Add(-time.Hour)}, errs.Invalid},
		"an expiry in a week":              {hub.CloudMessage{Expiry: t0.AddDate(0, 0, 7)}, errs.Invalid},
		"a long message-id":                {hub.CloudMessage{System: map[string]string{"message-id": long}}, errs.Invalid},
		"a line break in a content type":   {hub.CloudMessage{System: map[string]string{"content-type": "a\r\nb"}}, errs.Invalid},
		"a property without a name":        {hub.CloudMessage{Properties: map[string]string{"": "x"}}, errs.Invalid},
		"a property without a value":       {hub.CloudMessage{Properties: map[string]string{"x": ""}}, errs.Invalid},
		"a name that no header can have":   {hub.CloudMessage{Properties: map[string]string{"a b": "x"}}, errs.Invalid},
		"a name with a colon":              {hub.CloudMessage{Properties: map[string]string{"a:b": "x"}}, errs.Invalid},
		"a name that is not ASCII":         {hub.CloudMessage{Properties: map[string]string{"ä": "x"}}, errs.Invalid},
		"a value that is not ASCII":        {hub.CloudMessage{Properties: map[string]string{"x": "ä"}}, errs.Invalid},
		"a line break in a value":          {hub.CloudMessage{Properties: map[string]string{"x": "a\nb"}}, errs.Invalid},
		"a system property as another":     {hub.CloudMessage{Properties: map[string]string{"$.to": "x"}}, errs.Invalid},
		"the hub's own property":           {hub.CloudMessage{Properties: map[string]string{"IoTHub-Ack": "none"}}, errs.Invalid},
		"a long body":                      {hub.CloudMessage{Body: make([]byte, hub.MaxCloudMessageSize)}, errs.TooLarge},
		"properties longer than any topic": {hub.CloudMessage{Properties: map[string]string{"x": strings.Repeat("/", 30000)}}, errs.TooLarge},
	} {
		if _, err := s.Send(t.Context(), owner, host, "d1", c.m); errs.KindOf(err) != c.kind || errs.Public(err).Message == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Send(t.Context(), access.Caller{Rights: access.AllHub &^ access.ServiceConnect}, host, "d1", hub.CloudMessage{}); errs.KindOf(err) != errs.Denied {
		t.Errorf("without ServiceConnect: %v", err)
	}
	if _, err := s.Send(t.Context(), owner, host, "d2", hub.CloudMessage{}); errs.Public(err).Code != errs.CodeDeviceNotFound {
		t.Errorf("an unknown device: %v", err)
	}
	for i := range hub.MaxQueued {
		id, err := s.Send(t.Context(), owner, host, "d1", hub.CloudMessage{})
		if err != nil || len(id) != 36 {
			t.Fatalf("message %d: %q, %v", i, id, err)
		}
	}
	if _, err := s.Send(t.Context(), owner, host, "d1", hub.CloudMessage{}); errs.Public(err).Code != errs.CodeQueueFull {
		t.Errorf("one too many: %v", err)
	}
}

func TestMessagesEndWithTheirDevice(t *testing.T) {
	s, m := open(t)
	provision(t, s, first)
	d, err := m.Identity(t.Context(), hub.Place{Hub: host, ID: "d1"})
	if err != nil {
		t.Fatal(err)
	}
	from := hub.Sender{Place: hub.Place{Hub: host, ID: "d1"}, GenerationID: d.GenerationID}
	send := func() {
		t.Helper()
		if _, err := s.Send(t.Context(), owner, host, "d1", hub.CloudMessage{Ack: hub.AckFull}); err != nil {
			t.Fatal(err)
		}
	}
	send()
	locked, err := s.Lock(t.Context(), from, hub.UsualMessageLock)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, nil); err != nil {
		t.Fatal(err)
	}
	provision(t, s, first)
	if n, err := s.Waiting(t.Context(), host, "a", "z"); err != nil || len(n) != 0 {
		t.Errorf("%v, %v", n, err)
	}
	send()
	// Who was the device before is not this one.
	if got, err := s.Lock(t.Context(), from, hub.UsualMessageLock); errs.KindOf(err) != errs.NotFound {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.Settle(t.Context(), from, locked.LockToken, hub.Completed); errs.KindOf(err) != errs.NotFound {
		t.Error(err)
	}
	if err := s.Delivered(t.Context(), from, locked.Sequence+1); errs.KindOf(err) != errs.NotFound {
		t.Error(err)
	}
}

func TestExpiredMessagesAreSwept(t *testing.T) {
	s, m := open(t)
	provision(t, s, first)
	for i := range 3 { // the clock goes on by itself
		sent := hub.CloudMessage{System: map[string]string{"message-id": fmt.Sprint(i)}, Ack: hub.AckNegative}
		if i < 2 {
			sent.Expiry = t0.Add(time.Minute)
		}
		if _, err := s.Send(t.Context(), owner, host, "d1", sent); err != nil {
			t.Fatal(err)
		}
	}
	for range 60 {
		if _, err := s.Waiting(t.Context(), host, "d1", "d1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := m.ExpiredQueues(t.Context(), t0.Add(30*time.Minute), 9)
	if err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	_, batch, err := s.Feedback(t.Context(), owner, host)
	if err != nil || len(batch) != 2 || batch[0].Outcome != hub.OutcomeExpired || batch[0].MessageID != "0" || batch[1].MessageID != "1" {
		t.Errorf("%+v, %v", batch, err)
	}
	if n, err := s.Waiting(t.Context(), host, "d1", "d1"); err != nil || n["d1"] != 1 {
		t.Errorf("%v, %v", n, err)
	}
}
