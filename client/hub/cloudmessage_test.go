package hub_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
)

// give gives the device a message of QoS 1.
func (p *peer) give(id uint16, name, body string) {
	p.Helper()
	topic := hubtopic.CloudMessage("pump-7", map[string]string{"message-id": name}, nil)
	p.say(&mqtt.Publish{QoS: 1, ID: id, Topic: topic, Payload: []byte(body)})
}

// taken wants messages to be acknowledged, and nothing else to be said.
func (p *peer) taken(ids ...uint16) {
	p.Helper()
	for _, id := range ids {
		if got := expect[*mqtt.Puback](p).ID; got != id {
			p.Errorf("message %d is acknowledged, want %d", got, id)
		}
	}
}

func TestAMessageToTheDeviceArrivesWhole(t *testing.T) {
	got := make(chan hub.CloudMessage, 1)
	take := func(c *hub.ConnectionConfig) {
		c.OnMessage = func(_ context.Context, m hub.CloudMessage) error { got <- m; return nil }
	}
	live(t, take, func(t *testing.T, cloud *cloud, _ *hub.Connection, p *peer) {
		if p.connect.CleanSession {
			t.Error("a device that wants messages wants no session")
		}
		expiry := time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC)
		p.say(&mqtt.Publish{QoS: 1, ID: 7, Payload: []byte("\x00\xff"), Topic: hubtopic.CloudMessage("pump-7", map[string]string{
			"message-id": "m/1", "correlation-id": "c&1", "user-id": "u=1", "absolute-expiry-time": expiry.Format("2006-01-02T15:04:05.0000000Z"),
			"content-type": "application/json", "content-encoding": "utf-8",
		}, map[string]string{"iothub-ack": "full", "at": "sea & land", "100%": "+"})})
		want := hub.CloudMessage{
			Body: []byte("\x00\xff"), MessageID: "m/1", CorrelationID: "c&1", UserID: "u=1", ContentType: "application/json", ContentEncoding: "utf-8",
			Expiry: expiry, Ack: "full", Properties: map[string]string{"at": "sea & land", "100%": "+"},
		}
		if m := <-got; !reflect.DeepEqual(m, want) {
			t.Errorf("got  %+v\nwant %+v", m, want)
		}
		p.taken(7)
		p.tell(hubtopic.CloudMessage("pump-7", nil, nil), "x") // QoS 0 has nothing to acknowledge
		if m := <-got; string(m.Body) != "x" || !m.Expiry.IsZero() {
			t.Errorf("%+v", m)
		}
	})
}

// Messages are handled one after the other, in their order, and acknowledged
// when they have been and not before.
func TestAMessageIsAcknowledgedWhenItWasTaken(t *testing.T) {
	var heard chan string
	var goOn chan struct{}
	take := func(c *hub.ConnectionConfig) {
		heard, goOn = make(chan string), make(chan struct{})
		c.OnMessage = func(_ context.Context, m hub.CloudMessage) error { heard <- m.MessageID; <-goOn; return nil }
	}
	live(t, take, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		p.give(1, "a", "")
		p.give(2, "b", "")
		if got := <-heard; got != "a" {
			t.Error(got)
		}
		go c.Send(t.Context(), text("meanwhile"))
		p.say(&mqtt.Puback{ID: expect[*mqtt.Publish](p).ID}) // and not an acknowledgement of a
		goOn <- struct{}{}
		p.taken(1)
		if got := <-heard; got != "b" {
			t.Error(got)
		}
		// The connection is lost while b is handled. It is given again, and what waited
		// behind it is not handled twice.
		p.give(3, "c", "")
		synctest.Wait()
		p.Close()
		synctest.Wait()
		goOn <- struct{}{}
		p = cloud.accept()
		defer p.Close()
		for i, name := range []string{"b", "c"} {
			p.give(uint16(i+1), name, "")
			if got := <-heard; got != name {
				t.Errorf("heard of %s, want %s", got, name)
			}
			goOn <- struct{}{}
			p.taken(uint16(i + 1))
		}
	})
}

// A message that is not taken costs the connection: that is how it is given
// again. The others are not held up, and a message that nobody can take does not
// make the device connect all the time.
func TestAMessageThatIsNotTakenIsGivenAgain(t *testing.T) {
	var handled []string
	refuse := map[string]int{"bad": 1}
	take := func(c *hub.ConnectionConfig) {
		c.OnMessage = func(_ context.Context, m hub.CloudMessage) error {
			handled = append(handled, m.MessageID)
			if refuse[m.MessageID]--; refuse[m.MessageID] >= 0 {
				return errors.New("not now")
			}
			return nil
		}
	}
	live(t, take, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		began := time.Now()
		p.give(1, "bad", "")
		p.give(2, "good", "")
		p.taken(2)
		if m, ok := p.hear().(*mqtt.Disconnect); !ok || time.Since(began) > time.Second {
			t.Errorf("%T after %v, want a farewell", m, time.Since(began))
		}
		p = cloud.accept()
		p.give(1, "bad", "")
		p.taken(1)
		if got := fmt.Sprint(handled); got != "[bad good bad]" {
			t.Error(got)
		}

		refuse["poison"] = 10
		began = time.Now()
		for range 10 {
			p.give(1, "poison", "")
			expect[*mqtt.Disconnect](p)
			p = cloud.accept()
		}
		defer p.Close()
		if took := time.Since(began); took < 30*time.Second || took > 6*time.Minute {
			t.Errorf("ten attempts took %v", took)
		}
		p.give(1, "poison", "")
		p.taken(1)
	})
}

// What waits for OnMessage is bounded; the rest stays at the hub until the next
// connection.
func TestSlowDevicesAreNotDrownedInMessages(t *testing.T) {
	var goOn chan struct{}
	taken := 0
	take := func(c *hub.ConnectionConfig) {
		goOn = make(chan struct{})
		c.OnMessage = func(context.Context, hub.CloudMessage) error { <-goOn; taken++; return nil }
	}
	live(t, take, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		for i := range 60 {
			p.give(uint16(i+1), fmt.Sprint(i), "")
		}
		synctest.Wait()
		close(goOn)
		for i := range uint16(51) { // one is being handled, and fifty wait
			p.taken(i + 1)
		}
		expect[*mqtt.Disconnect](p)
		p = cloud.accept()
		p.Close()
		if taken != 51 {
			t.Errorf("%d were taken", taken)
		}
	})
}

// A token that is renewed loses no message: one that is being handled is
// acknowledged on the connection that it came from.
func TestARenewalWaitsForTheMessageThatIsHandled(t *testing.T) {
	var heard chan string
	var goOn chan struct{}
	take := func(c *hub.ConnectionConfig) {
		heard, goOn = make(chan string), make(chan struct{})
		c.OnMessage = func(_ context.Context, m hub.CloudMessage) error { heard <- m.MessageID; <-goOn; return nil }
	}
	live(t, take, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		p.give(1, "a", "")
		<-heard
		said := make(chan mqtt.Packet, 10)
		go func() {
			defer close(said)
			for m := p.pinged(); m != nil; m = p.pinged() {
				said <- m
			}
		}()
		for ; ; <-time.After(time.Second) {
			if err := c.Queue(t.Context(), text("x"), func(error) {}); err != nil {
				t.Fatal(err)
			}
			if synctest.Wait(); len(said) == 0 {
				break // it takes nothing more to this connection
			}
			p.say(&mqtt.Puback{ID: (<-said).(*mqtt.Publish).ID})
		}
		p.give(2, "b", "") // too late for this connection
		goOn <- struct{}{}
		if m, ok := (<-said).(*mqtt.Puback); !ok || m.ID != 1 {
			t.Errorf("%T %+v, want the acknowledgement", m, m)
		}
		if m, ok := (<-said).(*mqtt.Disconnect); !ok {
			t.Errorf("%T, want a farewell", m)
		}
		p = cloud.accept()
		defer p.Close()
		expect[*mqtt.Publish](p)
		p.give(1, "b", "")
		if got := <-heard; got != "b" {
			t.Error(got)
		}
		goOn <- struct{}{}
		p.taken(1)
	})
}

// A device without interest says so, and acknowledges nothing that a hub sends it
// for another program that had its name before.
func TestMessagesThatNobodyTakesStayAtTheHub(t *testing.T) {
	live(t, nil, func(t *testing.T, cloud *cloud, c *hub.Connection, p *peer) {
		if !p.connect.CleanSession {
			t.Error("a device that wants no messages wants its session kept")
		}
		p.give(1, "a", "")
		go c.Send(t.Context(), text("x"))
		if m, ok := p.hear().(*mqtt.Publish); !ok {
			t.Errorf("got %T, want the device's own message", m)
		}
	})
}

// What is being handled when the device leaves is acknowledged, if it does not
// take too long.
func TestAMessageIsTakenBeforeTheFarewell(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration
		acked bool
	}{"soon": {time.Second, true}, "never": {time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			var heard chan string
			take := func(config *hub.ConnectionConfig) {
				heard = make(chan string, 2)
				config.OnMessage = func(_ context.Context, m hub.CloudMessage) error {
					heard <- m.MessageID
					<-time.After(c.takes)
					return nil
				}
			}
			live(t, take, func(t *testing.T, cloud *cloud, connection *hub.Connection, p *peer) {
				p.give(1, "a", "")
				p.give(2, "b", "")
				<-heard
				synctest.Wait()
				began := time.Now()
				go connection.Close()
				if c.acked {
					p.taken(1)
				}
				expect[*mqtt.Disconnect](p)
				p.Close()
				<-connection.Done()
				if took := time.Since(began); took > 2*time.Second || len(heard) > 0 {
					t.Errorf("it left after %v, and %d more messages", took, len(heard))
				}
				<-time.After(time.Hour)
			})
		})
	}
}
