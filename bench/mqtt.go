package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

// maxAnswer is the largest packet that a device here is sent, in bytes.
const maxAnswer = 64 << 10

// A livingDevice is a device on an MQTT connection. It is a client of few
// manners: what it costs is taken from the server.
type livingDevice struct {
	id   string
	conn net.Conn
	buf  []byte // what was read and not used
}

// greeting is the CONNECT of a device, with a token made with its key.
func greeting(id string, key device.SymmetricKey) ([]byte, error) {
	username := hubtopic.Username{Host: host, DeviceID: id, Parameters: map[string]string{"api-version": "2021-04-12"}}.String()
	token := sas.Sign(key.Bytes(), sas.HubDeviceResource(host, id), time.Now().Add(time.Hour), "")
	return (&mqtt.Connect{Level: 4, ClientID: id, CleanSession: true, Username: &username, Password: []byte(token)}).Append(nil)
}

// enter makes a connection that of a device: CONNECT, and CONNACK.
func enter(conn net.Conn, id string, greeting []byte) (*livingDevice, error) {
	d := &livingDevice{id: id, conn: conn}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(greeting); err != nil {
		return nil, err
	}
	p, err := d.next()
	if err != nil {
		return nil, fmt.Errorf("waiting for CONNACK: %w", err)
	}
	if ack, ok := p.(*mqtt.Connack); !ok || ack.Code != mqtt.Accepted {
		return nil, fmt.Errorf("CONNECT was answered %+v", p)
	}
	return d, nil
}

// connect is the way of a device from nothing to its CONNACK.
func (p *place) connect(ctx context.Context, f *fleet, id string) (*livingDevice, error) {
	hello, err := greeting(id, f.derived(id))
	if err != nil {
		return nil, err
	}
	conn, err := p.dial(ctx, visitor{})
	if err != nil {
		return nil, err
	}
	d, err := enter(conn, id, hello)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return d, nil
}

// next reads a packet. What it returns is good until the next call.
func (d *livingDevice) next() (mqtt.Packet, error) {
	for {
		first, body, size, err := mqtt.Next(d.buf, maxAnswer)
		if err == nil {
			p, err := mqtt.Decode(first, body)
			d.buf = d.buf[size:]
			return p, err
		}
		if !errors.Is(err, mqtt.ErrIncomplete) {
			return nil, err
		}
		if err := d.read(); err != nil {
			return nil, err
		}
	}
}

// read waits for more.
func (d *livingDevice) read() error {
	if cap(d.buf)-len(d.buf) < 512 {
		d.buf = append(make([]byte, 0, 4096+len(d.buf)), d.buf...)
	}
	n, err := d.conn.Read(d.buf[len(d.buf):cap(d.buf)])
	d.buf = d.buf[:len(d.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

func (d *livingDevice) send(packets ...mqtt.Packet) (err error) {
	var b []byte
	for _, p := range packets {
		if b, err = p.Append(b); err != nil {
			return err
		}
	}
	_, err = d.conn.Write(b)
	return err
}

// leave says farewell and hangs up.
func (d *livingDevice) leave() error {
	return errors.Join(d.send(&mqtt.Disconnect{}), d.conn.Close())
}

// publish sends n messages of QoS 1, so many at a time, and returns when all are
// acknowledged. It writes how long that took each to took. More are sent when half
// of those under way are acknowledged: a write for every answer would make who
// sends the slowest of all.
func (d *livingDevice) publish(n, window int, message mqtt.Publish, took []time.Duration) error {
	if err := d.conn.SetDeadline(time.Now().Add(roundTimeout)); err != nil {
		return err
	}
	message.QoS = 1
	sent, acknowledged := 0, 0
	began := make([]time.Time, n)
	var out []byte
	for acknowledged < n {
		if sent < n && sent-acknowledged <= window/2 {
			var err error
			now := time.Now()
			for out = out[:0]; sent < n && sent-acknowledged < window; sent++ {
				message.ID, began[sent] = uint16(sent+1), now
				if out, err = message.Append(out); err != nil {
					return err
				}
			}
			if _, err := d.conn.Write(out); err != nil {
				return err
			}
		}
		if err := d.read(); err != nil {
			return err
		}
		for now := time.Now(); ; acknowledged++ {
			first, body, size, err := mqtt.Next(d.buf, maxAnswer)
			if errors.Is(err, mqtt.ErrIncomplete) {
				break
			}
			if err != nil {
				return err
			}
			p, err := mqtt.Decode(first, body)
			if err != nil {
				return err
			}
			ack, ok := p.(*mqtt.Puback)
			if !ok || int(ack.ID) > sent {
				return fmt.Errorf("a message was answered %+v", p)
			}
			took[acknowledged] = now.Sub(began[ack.ID-1])
			d.buf = d.buf[size:]
		}
	}
	return nil
}

const (
	// maxBurst is how many messages publish sends at most: each has a packet
	// identifier of its own.
	maxBurst = 65535
	// roundTimeout bounds what a device does in one round.
	roundTimeout = 5 * time.Minute
)

// A companion is a device that does what it is asked: it answers methods, and
// hears of changes of its twin.
type companion struct {
	*livingDevice
	heard chan int64 // versions of its desired properties, and answers to what it reported

	mu      sync.Mutex // guards what follows
	lastRID int
	failed  error
}

// accompany connects a device that listens until its connection ends.
func (p *place) accompany(ctx context.Context, f *fleet, id string) (*companion, error) {
	d, err := p.connect(ctx, f, id)
	if err != nil {
		return nil, err
	}
	c := &companion{livingDevice: d, heard: make(chan int64, 16)}
	err = d.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: hubtopic.Methods}, {Filter: hubtopic.TwinDesired}, {Filter: hubtopic.TwinResponses}}})
	if err != nil {
		return nil, err
	}
	if answer, err := d.next(); err != nil {
		return nil, err
	} else if _, ok := answer.(*mqtt.Suback); !ok {
		return nil, fmt.Errorf("SUBSCRIBE was answered %+v", answer)
	}
	go func() {
		err := c.listen()
		c.mu.Lock()
		c.failed = err
		c.mu.Unlock()
		close(c.heard)
	}()
	return c, d.conn.SetDeadline(time.Time{})
}

func (c *companion) listen() error {
	for {
		p, err := c.next()
		if err != nil {
			return err
		}
		publish, ok := p.(*mqtt.Publish)
		if !ok {
			return fmt.Errorf("%+v came unasked", p)
		}
		d, err := hubtopic.ParseDelivery(publish.Topic)
		if err != nil {
			return err
		}
		switch d.Occasion {
		case hubtopic.MethodCalled:
			if err := c.send(&mqtt.Publish{Topic: hubtopic.AnswerMethod(200, d.RequestID), Payload: publish.Payload}); err != nil {
				return err
			}
		case hubtopic.DesiredChanged:
			c.heard <- *d.Version
		case hubtopic.TwinAnswered:
			if d.Status != 204 {
				return fmt.Errorf("what was reported is answered %d: %s", d.Status, publish.Payload)
			}
			c.heard <- *d.Version
		}
	}
}

// hear waits for what the device is told next.
func (c *companion) hear(ctx context.Context) error {
	select {
	case _, ok := <-c.heard:
		if ok {
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.failed
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return fmt.Errorf("device %s hears nothing", c.id)
	}
}

// report changes the device's reported properties, and waits for the answer.
func (c *companion) report(ctx context.Context, properties json.RawMessage) error {
	c.mu.Lock()
	c.lastRID++
	rid := strconv.Itoa(c.lastRID)
	c.mu.Unlock()
	if err := c.send(&mqtt.Publish{Topic: hubtopic.PatchReported(rid, nil), Payload: properties}); err != nil {
		return err
	}
	return c.hear(ctx)
}
