// Package mqtt is the server's side of MQTT connections: it reads and writes
// packets, keeps order, bounds what is under way and drops who is silent or does
// not read. What topics mean is its fronts' business.
//
// An idle connection costs one goroutine that waits for a byte; writers, timers
// and buffers exist while there is something to write.
package mqtt

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/berth-iot/berth/wire/mqtt"
)

// Limits bound one connection. All members are required.
type Limits struct {
	Packet int // the largest packet of the client, in bytes
	Window int // the client's messages that are not accepted yet, and the server's of QoS 1 that are not acknowledged
	// WindowBytes is how many bytes the client's have, the last one aside: who sends
	// large messages without end leaves room for others.
	WindowBytes int
	Pending     int           // bytes that wait for the client to read
	Connect     time.Duration // how long the CONNECT may take
	Write       time.Duration // how long the client may leave what is written to it unread
	// Silence is the longest time without a packet: one and a half times the
	// client's keep-alive counts where that is shorter.
	Silence time.Duration
}

// A Peer is who is at the other end of a connection.
type Peer struct {
	Address string              // host:port
	Chain   []*x509.Certificate // leaf first; TLS proved possession of the leaf's key
}

// A Greeter judges a CONNECT. It returns what serves the connection; or an error,
// for which the client is told code and the connection closed. The server does
// not keep sessions, so none is ever present.
type Greeter func(ctx context.Context, c *Conn, connect *mqtt.Connect) (s Session, code mqtt.ReturnCode, err error)

// A Session gives the packets of one connection their meaning. Its methods are
// called one after the other; none of them is called after Ended.
type Session interface {
	// Publish takes a message. It calls accepted, now or later and from any
	// goroutine, when the message is as safe as its QoS promises: the client is
	// told then. Messages are to be accepted in the order in which they came. p is
	// the session's to keep. With an error the connection is closed.
	Publish(ctx context.Context, p *mqtt.Publish, accepted func()) error
	// Subscribe returns the QoS that is granted, or mqtt.SubscriptionFailed.
	// The client has heard that when subscribed is called.
	Subscribe(ctx context.Context, s mqtt.Subscription) (granted byte)
	// Subscribed is called when the answer to the last Subscribes is on its way:
	// what is sent from now on arrives behind it.
	Subscribed(ctx context.Context)
	// Unsubscribe ends a subscription, if there is one.
	Unsubscribe(ctx context.Context, filter string)
	// Ended is called when the connection is over. will is what the client wanted
	// to be published for it then: nil when it said farewell.
	Ended(will *mqtt.Will, why error)
}

// Reasons why a connection is over.
var (
	// ErrLeft is that of a client that sent DISCONNECT.
	ErrLeft = errors.New("the client disconnected")
	// ErrSilent is that of one that did not keep it alive.
	ErrSilent = errors.New("the client was silent for longer than its keep-alive allows")
	// ErrSlow is that of one that does not read.
	ErrSlow = errors.New("the client does not read what it is sent")
	// ErrFull is what Send returns while too much is under way to the client.
	ErrFull = errors.New("too many messages wait for the client to acknowledge them")
)

// A Conn is one client's connection. Its methods may be called at the same time.
type Conn struct {
	limits Limits
	raw    net.Conn

	mu      sync.Mutex // guards what follows
	out     []byte     // waits to be written
	writing bool       // whether a goroutine writes, or is to once the CONNACK is
	unacked int        // of the client's messages
	bytes   int        // of those
	room    chan struct{}
	sent    map[uint16]func() // the server's messages of QoS 1, and who waits for their PUBACK
	lastID  uint16
	closed  error // why, once it is
	done    chan struct{}
}

// A Refusal is why a connection is over whose CONNECT was not granted.
type Refusal struct {
	ClientID string
	Code     mqtt.ReturnCode
	Err      error
}

// Error is that of Err.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns Err.
func (r *Refusal) Unwrap() error { return r.Err }

// Serve speaks with a client until the connection is over, and closes it. It
// returns why it is, a *Refusal where that is so. When ctx ends, the connection
// does.
func Serve(ctx context.Context, raw net.Conn, limits Limits, greet Greeter) error {
	c := &Conn{limits: limits, raw: raw, writing: true, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { c.Close(context.Cause(ctx)) })
	defer stop()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	err := c.serve(serving, greet)
	c.Close(err)
	return c.reason()
}

func (c *Conn) serve(ctx context.Context, greet Greeter) error {
	r := &reader{raw: c.raw, limit: c.limits.Packet}
	if err := c.raw.SetReadDeadline(time.Now().Add(c.limits.Connect)); err != nil {
		return err
	}
	p, err := r.packet()
	if err != nil {
		return fmt.Errorf("waiting for a CONNECT: %w", err)
	}
	connect, ok := p.(*mqtt.Connect)
	if !ok {
		return errors.New("the first packet is not a CONNECT")
	}
	session, code, err := c.greet(ctx, greet, connect)
	if err != nil {
		c.refuse(code)
		return &Refusal{connect.ClientID, code, err}
	}
	will := connect.Will
	defer func() { session.Ended(will, c.reason()) }()
	if err := c.welcome(); err != nil {
		c.Close(err)
		return err
	}
	silence := c.limits.Silence
	if k := time.Duration(connect.KeepAlive) * time.Second * 3 / 2; k > 0 && k < silence {
		silence = k
	}
	connect = nil // its password, among others
	err = c.converse(ctx, r, session, silence)
	if errors.Is(err, ErrLeft) {
		will = nil
	}
	c.Close(err)
	return err
}

func (c *Conn) greet(ctx context.Context, greet Greeter, connect *mqtt.Connect) (Session, mqtt.ReturnCode, error) {
	switch {
	case connect.Level != 3 && connect.Level != 4:
		return nil, mqtt.UnacceptableProtocolVersion, fmt.Errorf("the protocol level is %d", connect.Level)
	case connect.ClientID == "" && !connect.CleanSession:
		return nil, mqtt.IdentifierRejected, errors.New("a client without an identifier wants its session kept")
	}
	return greet(ctx, c, connect)
}

// welcome answers a CONNECT that is granted, ahead of what was sent meanwhile.
func (c *Conn) welcome() error {
	b, err := (&mqtt.Connack{Code: mqtt.Accepted}).Append(nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return c.closed
	}
	c.out = append(b, c.out...)
	go c.flush()
	return nil
}

// refuse answers a CONNECT that is not granted. Nobody else writes yet.
func (c *Conn) refuse(code mqtt.ReturnCode) {
	b, err := (&mqtt.Connack{Code: code}).Append(nil)
	if err == nil && c.raw.SetWriteDeadline(time.Now().Add(c.limits.Write)) == nil {
		_, _ = c.raw.Write(b) // it is hung up on either way
	}
}

// converse handles packets until the connection is over.
func (c *Conn) converse(ctx context.Context, r *reader, s Session, silence time.Duration) error {
	for {
		if err := c.raw.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		p, err := r.packet()
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			return ErrSilent
		}
		if err != nil {
			return err
		}
		if err := c.handle(ctx, s, p); err != nil {
			return err
		}
	}
}

func (c *Conn) handle(ctx context.Context, s Session, p mqtt.Packet) error {
	switch p := p.(type) {
	case *mqtt.Publish:
		return c.publish(ctx, s, p)
	case *mqtt.Puback:
		c.acknowledged(p.ID)
		return nil
	case *mqtt.Subscribe:
		return c.subscribe(ctx, s, p)
	case *mqtt.Unsubscribe:
		for _, f := range p.Filters {
			s.Unsubscribe(ctx, f)
		}
		return c.write(&mqtt.Unsuback{ID: p.ID})
	case *mqtt.Pingreq:
		return c.write(&mqtt.Pingresp{})
	case *mqtt.Disconnect:
		return ErrLeft
	case *mqtt.Connect:
		return errors.New("a second CONNECT")
	}
	return fmt.Errorf("a client does not send %T", p)
}

func (c *Conn) publish(ctx context.Context, s Session, p *mqtt.Publish) error {
	if p.QoS == 2 {
		return errors.New("a message of QoS 2, which is not offered")
	}
	id, acknowledged, size := p.ID, p.QoS == 1, len(p.Topic)+len(p.Payload)
	if err := c.takeRoom(size); err != nil {
		return err
	}
	var once sync.Once
	return s.Publish(ctx, p, func() {
		once.Do(func() {
			c.giveRoom(size)
			if acknowledged {
				_ = c.write(&mqtt.Puback{ID: id}) // who is gone needs none
			}
		})
	})
}

// takeRoom waits while as many messages of the client are under way as may be, or
// as many bytes: meanwhile nothing is read of it.
func (c *Conn) takeRoom(size int) error {
	for {
		c.mu.Lock()
		if c.closed != nil {
			defer c.mu.Unlock()
			return c.closed
		}
		if c.unacked < c.limits.Window && c.bytes < c.limits.WindowBytes {
			c.unacked++
			c.bytes += size
			c.mu.Unlock()
			return nil
		}
		c.room = make(chan struct{})
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-c.done:
		}
	}
}

func (c *Conn) giveRoom(size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unacked--
	c.bytes -= size
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

func (c *Conn) subscribe(ctx context.Context, s Session, p *mqtt.Subscribe) error {
	answer := &mqtt.Suback{ID: p.ID}
	for _, f := range p.Subscriptions {
		answer.Codes = append(answer.Codes, s.Subscribe(ctx, f))
	}
	if err := c.write(answer); err != nil {
		return err
	}
	s.Subscribed(ctx)
	return nil
}

// Send sends the client a message of QoS 0, or of QoS 1 where acknowledged is
// given: that is called when the client has it, and never if the connection ends
// before. It does not wait for the client.
//
// Errors: ErrFull, of QoS 1 alone; why the connection is over; what the topic
// lacks.
func (c *Conn) Send(topic string, payload []byte, acknowledged func()) error {
	p := &mqtt.Publish{Topic: topic, Payload: payload}
	if acknowledged == nil {
		return c.write(p)
	}
	p.QoS = 1
	c.mu.Lock()
	if len(c.sent) >= c.limits.Window {
		c.mu.Unlock()
		return ErrFull
	}
	if c.sent == nil {
		c.sent = make(map[uint16]func())
	}
	for p.ID == 0 || c.sent[p.ID] != nil {
		c.lastID++
		p.ID = c.lastID
	}
	c.sent[p.ID] = acknowledged
	c.mu.Unlock()
	err := c.write(p)
	if err != nil {
		c.mu.Lock()
		delete(c.sent, p.ID)
		c.mu.Unlock()
	}
	return err
}

// acknowledged tells who waits for it. A PUBACK that nobody waits for is one of
// those that a client repeats.
func (c *Conn) acknowledged(id uint16) {
	c.mu.Lock()
	f := c.sent[id]
	if delete(c.sent, id); len(c.sent) == 0 {
		c.sent = nil // a map keeps the room it once had
	}
	c.mu.Unlock()
	if f != nil {
		f()
	}
}

// write has a packet written, behind those before it.
func (c *Conn) write(p mqtt.Packet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return c.closed
	}
	if len(c.out) > c.limits.Pending {
		c.closeLocked(ErrSlow)
		return ErrSlow
	}
	out, err := p.Append(c.out)
	if err != nil {
		return err
	}
	c.out = out
	if !c.writing {
		c.writing = true
		go c.flush()
	}
	return nil
}

// flush writes until there is nothing to write.
func (c *Conn) flush() {
	var b []byte
	for {
		c.mu.Lock()
		b, c.out = c.out, b[:0]
		if len(b) == 0 || c.closed != nil {
			c.out, c.writing = nil, false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		err := c.raw.SetWriteDeadline(time.Now().Add(c.limits.Write))
		if err == nil {
			_, err = c.raw.Write(b)
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			err = ErrSlow
		}
		if err != nil {
			c.Close(err)
		}
	}
}

// Close ends the connection; the first reason given is why. It does not wait for
// anything.
func (c *Conn) Close(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked(why)
}

func (c *Conn) closeLocked(why error) {
	if c.closed != nil {
		return
	}
	if why == nil {
		why = io.EOF
	}
	c.closed = why
	close(c.done)
	go c.raw.Close() // a WebSocket may want to say farewell
}

func (c *Conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Done is closed when the connection is over.
func (c *Conn) Done() <-chan struct{} { return c.done }
