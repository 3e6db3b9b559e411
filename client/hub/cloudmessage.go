package hub

import (
	"time"

	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
)

// maxWaiting is how many messages to the device wait for OnMessage: as many as a
// hub queues for one. What comes beyond them is left at the hub.
const maxWaiting = 50

// A CloudMessage is what an operator sent to the device.
type CloudMessage struct {
	Body            []byte
	MessageID       string // stays the same however often the message is given
	CorrelationID   string
	UserID          string // who sent it, by the operator's word
	ContentType     string // of the body: "application/json"
	ContentEncoding string // "utf-8"
	// Expiry is when the hub gives the message up; zero where the hub does not say.
	Expiry time.Time
	// Ack is what the sender hears of the message's end: "positive", "negative" or
	// "full"; "none" or empty for nothing.
	Ack string
	// Properties are the application's own.
	Properties map[string]string
}

// ackProperty stands among the application's properties in a topic.
const ackProperty = "iothub-ack"

// A given message waits for OnMessage, and its line for the acknowledgement.
type given struct {
	CloudMessage
	on  *line
	qos byte
	id  uint16
}

// given takes a message to the device. What is not taken stays at the hub, which
// gives it again on another connection.
func (c *Connection) given(l *line, d hubtopic.Delivery, p *mqtt.Publish) {
	system, application := hubtopic.Split(d.Properties)
	g := given{on: l, qos: p.QoS, id: p.ID, CloudMessage: CloudMessage{
		Body: p.Payload, MessageID: system["message-id"], CorrelationID: system["correlation-id"], UserID: system["user-id"],
		ContentType: system["content-type"], ContentEncoding: system["content-encoding"], Ack: application[ackProperty], Properties: application,
	}}
	delete(application, ackProperty)
	if expiry, err := time.Parse(time.RFC3339, system["absolute-expiry-time"]); err == nil {
		g.Expiry = expiry
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.retired {
		return // it would never be left
	}
	select {
	case c.inbox <- g:
		l.given++
	default:
		l.unsettle()
	}
}

// receive hands messages to OnMessage, one after the other, and acknowledges those
// that it took.
func (c *Connection) receive() {
	for {
		select {
		case g := <-c.inbox:
			select {
			case c.hands <- struct{}{}:
				c.hand(g)
				<-c.hands
			case <-c.done:
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *Connection) hand(g given) {
	select {
	case <-g.on.done: // it cannot be acknowledged any more, and is given again
		return
	default:
	}
	err := c.config.OnMessage(c.ctx, g.CloudMessage)
	if err == nil && g.qos > 0 {
		_ = g.on.write(&mqtt.Puback{ID: g.id}) // if the line is over it is given again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g.on.given--
	if err == nil {
		c.setbacks = 0
	} else {
		g.on.unsettle()
	}
	c.part(g.on)
}

// setback counts the lines that were given up for a message in a row.
func (c *Connection) setback() (before int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setbacks++
	return c.setbacks - 1
}

// rest lets the message that is being handled be acknowledged, if that does not
// take long, and no other one be handled.
func (c *Connection) rest() {
	select {
	case c.hands <- struct{}{}:
	case <-time.After(farewellTimeout):
	}
}
