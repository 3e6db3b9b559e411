package hubmqtt

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/mqtt"
)

const bound = "devices/d1/messages/devicebound/"

// tell sends a message to d1.
func (w *world) tell(id string, properties map[string]string) {
	w.Helper()
	_, err := w.service.Send(w.Context(), owner, hubName, "d1", hub.CloudMessage{
		Ack: hub.AckFull, System: map[string]string{"message-id": id}, Properties: properties, Body: []byte("body of " + id),
	})
	if err != nil {
		w.Fatal(err)
	}
}

// waiting returns how many messages are in the queue of d1.
func (w *world) waiting() int {
	w.Helper()
	counted, err := w.service.Waiting(w.Context(), hubName, "d1", "d1")
	if err != nil {
		w.Fatal(err)
	}
	return counted["d1"]
}

// bind connects as d1 and subscribes to its messages.
func (w *world) bind(key device.SymmetricKey, qos byte) *client {
	w.Helper()
	c := w.live("d1", key)
	c.send(&mqtt.Subscribe{ID: 2, Subscriptions: []mqtt.Subscription{{Filter: bound + "#", QoS: qos}}})
	c.want(&mqtt.Suback{ID: 2, Codes: []byte{min(qos, 1)}})
	return c
}

// told wants the message and returns its packet ID.
func (c *client) told(id string, qos byte) uint16 {
	c.Helper()
	p, ok := c.hear().(*mqtt.Publish)
	if !ok || p.QoS != qos || !strings.HasPrefix(p.Topic, bound+"%24.mid="+id+"&") || !bytes.Equal(p.Payload, []byte("body of "+id)) {
		c.Fatalf("heard %#v, want message %s", p, id)
	}
	return p.ID
}

// settled waits until the hub has read what was sent before.
func (c *client) settled() {
	c.Helper()
	c.send(&mqtt.Pingreq{})
	c.want(&mqtt.Pingresp{})
}

func (w *world) outcomes() string {
	w.Helper()
	_, batch, err := w.service.Feedback(w.Context(), owner, hubName)
	if err != nil {
		w.Fatal(err)
	}
	var list []string
	for _, f := range batch {
		list = append(list, f.MessageID+" "+string(f.Outcome))
	}
	return strings.Join(list, ", ")
}

func TestMessagesWaitForTheDevice(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	w.tell("1", map[string]string{"unit": "a/b c=d"})
	w.tell("2", nil)
	c := w.live("d1", key)
	c.settled() // it did not ask for them
	c.send(&mqtt.Subscribe{ID: 2, Subscriptions: []mqtt.Subscription{{Filter: bound + "#", QoS: 2}}})
	c.want(&mqtt.Suback{ID: 2, Codes: []byte{1}})
	p, ok := c.hear().(*mqtt.Publish)
	want := bound + "%24.mid=1&%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound&iothub-ack=full&unit=a%2Fb%20c%3Dd"
	if !ok || p.Topic != want || p.QoS != 1 || string(p.Payload) != "body of 1" {
		t.Fatalf("heard %#v", p)
	}
	second := c.told("2", 1)
	if n := w.waiting(); n != 2 {
		t.Errorf("%d messages wait before they were acknowledged", n)
	}
	c.send(&mqtt.Puback{ID: p.ID}, &mqtt.Puback{ID: p.ID}, &mqtt.Puback{ID: second})
	c.settled()
	if n := w.waiting(); n != 0 {
		t.Errorf("%d messages wait after they were", n)
	}
	w.tell("3", nil) // while it is connected
	c.send(&mqtt.Puback{ID: c.told("3", 1)})
	c.settled()
	if got := w.outcomes(); got != "1 Success, 2 Success, 3 Success" {
		t.Error(got)
	}
}

func TestWhatWasNotAcknowledgedIsDeliveredAgain(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	for i := range 3 {
		w.tell(fmt.Sprint(i), nil)
	}
	c := w.bind(key, 1)
	c.told("0", 1)
	second := c.told("1", 1)
	c.told("2", 1)
	c.send(&mqtt.Puback{ID: second})
	c.settled()
	c.Close()
	<-c.ended
	c = w.bind(key, 1)
	c.send(&mqtt.Puback{ID: c.told("0", 1)}, &mqtt.Puback{ID: c.told("2", 1)})
	c.settled()
	if n := w.waiting(); n != 0 {
		t.Errorf("%d messages wait", n)
	}
}

func TestTheDeviceSetsThePace(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	c := w.bind(key, 1)
	for i := range 20 {
		w.tell(fmt.Sprint(i), nil)
	}
	var ids []uint16
	for i := range maxHanded {
		ids = append(ids, c.told(fmt.Sprint(i), 1))
	}
	c.settled() // no more of them
	for i := maxHanded; i < 20; i++ {
		c.send(&mqtt.Puback{ID: ids[0]})
		ids = append(ids[1:], c.told(fmt.Sprint(i), 1))
	}
	for _, id := range ids {
		c.send(&mqtt.Puback{ID: id})
	}
	c.settled()
	if n := w.waiting(); n != 0 {
		t.Errorf("%d messages wait", n)
	}
}

func TestQoS0CompletesOnSending(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	w.tell("1", nil)
	c := w.bind(key, 0)
	c.told("1", 0)
	w.tell("2", nil)
	c.told("2", 0)
	c.send(&mqtt.Unsubscribe{ID: 3, Filters: []string{bound + "#"}})
	c.want(&mqtt.Unsuback{ID: 3})
	w.tell("3", nil)
	c.settled() // it is not told
	c.send(&mqtt.Subscribe{ID: 4, Subscriptions: []mqtt.Subscription{{Filter: bound + "#"}}})
	c.want(&mqtt.Suback{ID: 4, Codes: []byte{0}})
	c.told("3", 0)
	for deadline := time.Now().Add(10 * time.Second); w.waiting() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d messages wait", w.waiting())
		}
	}
}

func TestAnotherServerSends(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	c := w.bind(key, 1)
	here := w.service
	w.service = hub.New(hub.Config{Registry: w.store, Stream: w.store, Queues: w.store, Presences: w.store, Configurations: w.store, Policies: w.store, Now: time.Now, Random: rand.Reader})
	for i, told := range []hub.Place{{Hub: hubName, ID: "d1"}, {}} {
		w.tell(fmt.Sprint(i), nil)
		here.Wake(hub.Place{Hub: hubName, ID: "d2"})
		c.settled() // that is not for this device
		here.Wake(told)
		c.send(&mqtt.Puback{ID: c.told(fmt.Sprint(i), 1)})
		c.settled()
	}
}
