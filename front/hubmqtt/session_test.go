package hubmqtt

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/mqtt"
)

// One client subscribes once in its life, wants its session kept, and does not
// look whether it was.
func TestAClientThatWantsItsSessionKeptNeedNotSubscribeAgain(t *testing.T) {
	w := begin(t)
	password := token(w.enroll("d1"), hubName+"/devices/d1", time.Now().Add(time.Hour))
	username := hubName + "/d1/?api-version=2021-04-12"
	reach := func(cleanSession bool) *client {
		t.Helper()
		c := w.dial()
		c.send(&mqtt.Connect{Level: 4, ClientID: "d1", CleanSession: cleanSession, Username: &username, Password: password})
		c.want(&mqtt.Connack{})
		return c
	}
	change := func(rate string) {
		t.Helper()
		if _, _, err := w.service.PatchTwin(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"}, hub.TwinChange{Desired: json.RawMessage(`{"rate":` + rate + `}`)}, nil); err != nil {
			t.Fatal(err)
		}
	}

	c := reach(false)
	change("1")
	if got := c.message("$iothub/twin/PATCH/properties/desired/?$version=2"); got != `{"rate":1,"$version":2}` {
		t.Error(got)
	}
	c.send(&mqtt.Publish{Topic: "$iothub/twin/GET/?$rid=7"})
	c.message("$iothub/twin/res/200/?$rid=7")
	c.send(&mqtt.Unsubscribe{ID: 2, Filters: []string{"$iothub/twin/PATCH/properties/desired/#"}})
	c.want(&mqtt.Unsuback{ID: 2})
	change("2")
	c.send(&mqtt.Pingreq{})
	c.want(&mqtt.Pingresp{})

	c = reach(true)
	change("3")
	c.send(&mqtt.Publish{Topic: "$iothub/twin/GET/?$rid=8"}, &mqtt.Pingreq{})
	c.want(&mqtt.Pingresp{})
}

// Messages to a device wait for a client that once subscribed to them, and are
// not for one that never did.
func TestAClientThatWantsItsSessionKeptGetsItsMessages(t *testing.T) {
	w := begin(t)
	password := token(w.enroll("d1"), hubName+"/devices/d1", time.Now().Add(time.Hour))
	username := hubName + "/d1/?api-version=2021-04-12"
	reach := func(cleanSession bool) *client {
		t.Helper()
		c := w.dial()
		c.send(&mqtt.Connect{Level: 4, ClientID: "d1", CleanSession: cleanSession, Username: &username, Password: password})
		c.want(&mqtt.Connack{})
		return c
	}
	w.tell("m1", nil)
	c := reach(false)
	c.settled()
	c.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: bound + "#", QoS: 1}}})
	c.want(&mqtt.Suback{ID: 1, Codes: []byte{1}})
	c.send(&mqtt.Puback{ID: c.told("m1", 1)})
	c.settled()

	c = reach(false)
	w.tell("m2", nil)
	c.send(&mqtt.Puback{ID: c.told("m2", 1)})
	c.send(&mqtt.Unsubscribe{ID: 2, Filters: []string{bound + "#"}})
	c.want(&mqtt.Unsuback{ID: 2})
	w.tell("m3", nil)
	for _, cleanSession := range []bool{false, true, false} {
		reach(cleanSession).settled()
	}
	if n := w.waiting(); n != 1 {
		t.Errorf("%d messages wait", n)
	}
}

// What a client subscribed to outlives the process that it was connected to, and
// nothing but the client's own word ends it.
func TestAClientThatWantsItsSessionKeptGetsItsMessagesFromAnotherProcess(t *testing.T) {
	w := begin(t)
	password := token(w.enroll("d1"), hubName+"/devices/d1", time.Now().Add(time.Hour))
	username := hubName + "/d1/?api-version=2021-04-12"
	reach := func(cleanSession bool) *client {
		t.Helper()
		c := w.dial()
		c.send(&mqtt.Connect{Level: 4, ClientID: "d1", CleanSession: cleanSession, Username: &username, Password: password})
		c.want(&mqtt.Connack{})
		return c
	}
	subscribe := func(c *client, qos byte) {
		t.Helper()
		c.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: bound + "#", QoS: qos}}})
		c.want(&mqtt.Suback{ID: 1, Codes: []byte{qos}})
	}
	subscribe(reach(false), 1)
	w.restart()
	c := reach(false)
	w.tell("m1", nil)
	c.send(&mqtt.Puback{ID: c.told("m1", 1)})
	subscribe(c, 0)
	w.restart()
	c = reach(false)
	w.tell("m2", nil)
	c.told("m2", 0)

	reach(true).settled() // it wants nothing kept, also not what was
	w.restart()
	c = reach(false)
	w.tell("m3", nil)
	c.settled()
	if n := w.waiting(); n != 1 {
		t.Errorf("%d messages wait", n)
	}
}
