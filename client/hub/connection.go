package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/client/internal/websocket"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/sas"
)

// A Transport is what MQTT goes over. Both are TLS.
type Transport int

// The transports.
const (
	MQTT      Transport = iota // on port 8883
	WebSocket                  // on port 443, which most networks let out
)

// webSocketPath is where IoT Hub takes WebSockets.
const webSocketPath = "/$iothub/websocket"

const (
	defaultKeepAlive = 4 * time.Minute
	// maxKeepAlive is the longest that IoT Hub tolerates.
	maxKeepAlive   = 1177 * time.Second
	defaultPending = 64
	maxPending     = 1000

	// openTimeout bounds an attempt to connect, from the dial to the last
	// subscription.
	openTimeout = 30 * time.Second
	// patience is how long a hub may take to answer a ping.
	patience = 30 * time.Second
	// tokenLifetime is how long a token is good for.
	tokenLifetime = time.Hour
	// drainTimeout bounds the wait for what is under way when a token is renewed.
	drainTimeout = 10 * time.Second

	// firstBackoff and maxBackoff bound the wait before the first and the last
	// attempts to connect again.
	firstBackoff, maxBackoff = time.Second, time.Minute
	// stable is how long a connection stands that was a good one: two devices with
	// one identity, who put each other out, never come that far.
	stable = 10 * time.Second
	// maxRefusals is how often in a row a hub turns a device away before it is
	// taken at its word: one that has just been told of a device may not know it
	// everywhere.
	maxRefusals = 3
)

// A ConnectionConfig says how a device lives at its hub. Host, DeviceID and
// Credential are required.
type ConnectionConfig struct {
	// Host is the hub's name with an optional :port, which is that of HTTPS.
	Host string
	// DeviceID is the device's name there.
	DeviceID device.ID
	// ModuleID makes this a module of the device: an identity of its own, with its
	// own twin and methods. Empty for the device itself.
	ModuleID device.ID
	// Credential is what the device proves itself with. Tokens are made for an
	// hour; the connection is made anew before they expire.
	Credential client.Credential
	// Transport is what MQTT goes over.
	Transport Transport
	// Port is where the hub takes the transport; zero means 8883 for MQTT, and for
	// WebSocket the port of Host, or else 443.
	Port int
	// RootCAs are the authorities that may vouch for the hub; nil means the
	// system's.
	RootCAs *x509.CertPool
	// Dial makes TCP connections; nil means a [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// KeepAlive is how long the hub waits for a sign of life; at three quarters of
	// it there is a ping. Zero means four minutes, and 1177 seconds is the most.
	KeepAlive time.Duration
	// Pending is how many messages may wait for the hub to acknowledge them, 1 to
	// 1000; zero means 64. They are kept in memory, each of up to MaxMessage bytes.
	Pending int

	// OnDesired is told of the desired properties, one call after the other: all of
	// them first, then each change. After every reconnect they are compared with
	// those at the hub, so no change is missed. nil for no interest.
	OnDesired func(context.Context, Desired)
	// OnMethod answers direct methods, up to 16 at the same time. payload is any
	// JSON value, and so is the answer's; nil is null. An error is answered as
	// status 500 with its text. nil for no methods.
	OnMethod func(ctx context.Context, name string, payload json.RawMessage) (status int, answer json.RawMessage, err error)
	// OnMessage takes the messages that operators sent to the device, one after the
	// other. With nil the message is acknowledged, and the hub is done with it. With
	// an error it is not: the hub gives it again on another connection, for which
	// this one is given up soon, and ever later while errors go on. A hub gives a
	// message ten times, or as often as it was configured to. One whose
	// acknowledgement was lost with the connection is given again, too: messages
	// arrive at least once. nil for no interest: they stay at the hub. Modules are
	// sent none.
	OnMessage func(context.Context, CloudMessage) error
	// Reprovision is asked where the device lives now, when its hub has turned it
	// away several times in a row; messages that wait go there. Without it such a
	// connection ends with a [RefusedError]. nil for nobody to ask.
	Reprovision func(context.Context) (host string, id device.ID, err error)
	// Changed is told when the connection is there, and when it is lost or an
	// attempt failed, and why. It must not block. nil for nobody.
	Changed func(connected bool, why error)
}

// A RefusedError is a hub that turns the device away and will go on to: the
// identity is gone or disabled, its key or certificate is another one, or the
// device's clock is wrong. Registering again helps with most of it.
type RefusedError struct {
	Host     string
	DeviceID device.ID
	ModuleID device.ID // empty for the device itself
	// Code is the return code of the CONNACK (MQTT 3.1.1 section 3.2.2.3), mostly
	// 5, "not authorized".
	Code mqtt.ReturnCode
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s refuses the connection of %s: %s", e.Host, place{id: e.DeviceID, module: e.ModuleID}.clientID(), e.Code)
}

var (
	// ErrClosed is what operations on a closed Connection return.
	ErrClosed = errors.New("the connection to the hub was closed")
	// ErrInterrupted says that the connection was lost before the hub answered a
	// change that must not be made twice. The twin tells whether it was made.
	ErrInterrupted = errors.New("the connection was lost before the hub answered")

	errRenewal = errors.New("the connection is made anew")
	errUnsent  = errors.New("the connection was lost before anything was sent")
)

// A Connection is a device's life at its hub over MQTT. It connects again as often
// as it takes, with exponential backoff and jitter; what was not acknowledged
// before is sent again, in order. It is safe for concurrent use.
type Connection struct {
	config ConnectionConfig
	ctx    context.Context // of all that happens until Close
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
	room   chan struct{} // has one member for each message that waits
	calls  chan struct{} // and for each method that is run
	inbox  chan given    // messages that wait for OnMessage
	hands  chan struct{} // has a member while it is called
	follow follower

	mu       sync.Mutex // guards what follows
	place    place
	line     *line              // nil while there is none, or it is about to be given up
	present  chan struct{}      // closed while there is one
	outbox   []*outgoing        // what the hub has not acknowledged, in order
	requests map[string]request // that wait for an answer, by request ID
	lastID   uint16
	lastRID  uint64
	setbacks int   // how many lines in a row were given up for a message
	trouble  error // of the last attempt to connect
	err      error // why it ended, once it has
}

// A place is where a device lives.
type place struct {
	host       string
	id, module device.ID
}

// clientID is how MQTT calls the device, or its module.
func (p place) clientID() string {
	if p.module != "" {
		return string(p.id + "/" + p.module)
	}
	return string(p.id)
}

// path is what stands behind devices/ in the topics and resources that are its
// own.
func (p place) path() string {
	if p.module != "" {
		return string(p.id + "/modules/" + p.module)
	}
	return string(p.id)
}

// An outgoing message is one that the hub has not acknowledged.
type outgoing struct {
	mqtt.Publish
	properties map[string]string
	on         *line // that it was last sent on, or nil
	done       func(error)
}

// Connect connects a device to its hub. It returns once it is connected, and
// tries until it is, or ctx ends. Afterwards the Connection keeps itself up until
// Close.
//
// Errors: a [RefusedError], where there is no Reprovision; a server that nobody
// vouches for; the end of ctx, with what stood in the way.
func Connect(ctx context.Context, config ConnectionConfig) (*Connection, error) {
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	c := &Connection{
		config: config, done: make(chan struct{}), room: make(chan struct{}, config.Pending), calls: make(chan struct{}, maxCalls), inbox: make(chan given, maxWaiting), hands: make(chan struct{}, 1),
		place: place{config.Host, config.DeviceID, config.ModuleID}, present: make(chan struct{}), requests: make(map[string]request),
		follow: follower{wake: make(chan struct{}, 1)},
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	connected := c.present
	go c.run()
	if config.OnDesired != nil {
		go c.followDesired()
	}
	if config.OnMessage != nil {
		go c.receive()
	}
	select {
	case <-connected:
		return c, nil
	case <-c.done:
		return nil, fmt.Errorf("connecting to the hub: %w", c.Err())
	case <-ctx.Done():
		c.mu.Lock()
		trouble := c.trouble
		c.mu.Unlock()
		c.Close()
		if trouble != nil {
			return nil, fmt.Errorf("connecting to the hub: %w; %w", context.Cause(ctx), trouble)
		}
		return nil, fmt.Errorf("connecting to the hub: %w", context.Cause(ctx))
	}
}

// check finds faults and fills in what may be left out.
func (c *ConnectionConfig) check() error {
	if err := checkPlace(c.Host, c.DeviceID); err != nil {
		return err
	}
	if c.ModuleID != "" {
		if err := checkID("module", c.ModuleID); err != nil {
			return err
		}
	}
	if err := c.Credential.Check(); err != nil {
		return err
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = defaultKeepAlive
	}
	if c.Pending == 0 {
		c.Pending = defaultPending
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	switch {
	case c.ModuleID != "" && c.OnMessage != nil:
		return errors.New("modules are sent no messages: OnMessage is for devices")
	case c.Transport != MQTT && c.Transport != WebSocket:
		return errors.New("the transport is neither MQTT nor WebSocket")
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("there is no port %d", c.Port)
	case c.KeepAlive < time.Second || c.KeepAlive > maxKeepAlive:
		return fmt.Errorf("the keep-alive is %v, not 1s to %v", c.KeepAlive, maxKeepAlive)
	case c.Pending < 0 || c.Pending > maxPending:
		return fmt.Errorf("%d messages may wait, not 1 to %d", c.Pending, maxPending)
	}
	return nil
}

func checkPlace(host string, id device.ID) error {
	if err := rest.CheckHost(host); err != nil {
		return err
	}
	return checkID("device", id)
}

func checkID(of string, id device.ID) error {
	if _, err := device.ParseID(string(id)); err != nil {
		return fmt.Errorf("the %s ID %w", of, err)
	}
	if strings.ContainsAny(string(id), "#+") {
		return fmt.Errorf("the %s ID %q has a character that the topics of MQTT have not", of, id)
	}
	return nil
}

// Done is closed when the Connection has ended: it was closed, or the hub refuses
// the device for good.
func (c *Connection) Done() <-chan struct{} { return c.done }

// Err returns why the Connection has ended: [ErrClosed] or a [RefusedError]; nil
// as long as it has not.
func (c *Connection) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Home returns where the device lives, which Reprovision may have changed.
func (c *Connection) Home() (host string, id device.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.place.host, c.place.id
}

// Close says farewell to the hub and ends the Connection. Messages that wait are
// given up; one that OnMessage is taking gets two seconds. It is not for the
// function given to Queue, nor for OnMessage or Changed.
func (c *Connection) Close() error {
	c.cancel()
	<-c.done
	return nil
}

// run connects as often as it takes.
func (c *Connection) run() {
	var failures, refusals int
	met, moved := false, false
	for c.ctx.Err() == nil {
		l, err := c.open()
		if err == nil {
			began := time.Now()
			met = true
			c.up(l)
			err = c.converse(l)
			c.down(l, err)
			if moved || time.Since(began) > stable {
				failures = 0
			}
			refusals, moved = 0, false
			if errors.Is(err, errRenewal) {
				continue
			}
		}
		if c.ctx.Err() != nil {
			break
		}
		c.failed(err)
		if _, refused := errors.AsType[*RefusedError](err); refused {
			refusals++
		}
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		switch {
		case untrusted && !met, refusals >= maxRefusals && c.config.Reprovision == nil:
			c.end(err)
			return
		case refusals >= maxRefusals:
			if err = c.reprovision(); err == nil {
				refusals, moved = 0, true
				continue
			}
			c.failed(err)
		}
		rest.Wait(c.ctx, backoff(failures))
		failures++
	}
	c.end(ErrClosed)
}

// backoff is how long to wait after so many failures: all of it is jitter, for
// when a hub comes back all of its devices do.
func backoff(failures int) time.Duration {
	return rand.N(min(maxBackoff, firstBackoff<<min(failures, 10)))
}

// failed tells of an attempt that came to nothing, and of a connection that is
// over.
func (c *Connection) failed(err error) {
	c.mu.Lock()
	c.trouble = err
	c.mu.Unlock()
	if c.config.Changed != nil {
		c.config.Changed(false, err)
	}
}

// reprovision asks where the device lives now.
func (c *Connection) reprovision() error {
	host, id, err := c.config.Reprovision(c.ctx)
	if err != nil {
		return fmt.Errorf("asking where the device lives now: %w", err)
	}
	if err := checkPlace(host, id); err != nil {
		return fmt.Errorf("where the device is said to live now: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.place = place{host, id, c.config.ModuleID}
	for _, m := range c.outbox {
		m.Dup = false // whoever is there now has not seen it
	}
	c.follow.moved()
	return nil
}

// end tells everybody who waits that there is no more.
func (c *Connection) end(why error) {
	c.cancel()
	c.mu.Lock()
	left := c.outbox
	c.outbox, c.err = nil, why
	close(c.done)
	c.mu.Unlock()
	for _, m := range left {
		m.done(why)
	}
}

// open makes a line to the hub, up to the last subscription.
func (c *Connection) open() (_ *line, err error) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, openTimeout, fmt.Errorf("no connection within %s", openTimeout))
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	home := c.place // written by this goroutine alone
	raw, err := c.config.Dial(ctx, "tcp", c.config.address(home.host))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	l, err := c.greet(ctx, raw, home)
	if err != nil {
		stop()
		raw.Close()
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return l, nil
}

// address is where a host takes the transport.
func (c *ConnectionConfig) address(host string) string {
	port := "8883"
	if c.Transport == WebSocket {
		port = "443"
		if _, own, err := net.SplitHostPort(host); err == nil {
			port = own
		}
	}
	if c.Port != 0 {
		port = fmt.Sprint(c.Port)
	}
	return net.JoinHostPort(rest.Hostname(host), port)
}

func (c *Connection) greet(ctx context.Context, raw net.Conn, home place) (*line, error) {
	config := &tls.Config{ServerName: rest.Hostname(home.host), RootCAs: c.config.RootCAs, MinVersion: tls.VersionTLS12}
	if certificate := c.config.Credential.Certificate(); certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	secure := tls.Client(raw, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	l := newLine(secure)
	if c.config.Transport == WebSocket {
		stream, err := websocket.Upgrade(secure, home.host, webSocketPath, "mqtt")
		if err != nil {
			return nil, err
		}
		l = newLine(stream)
	}
	connect, err := c.connect(ctx, home)
	if err != nil {
		return nil, err
	}
	if err := l.write(connect); err != nil {
		return nil, err
	}
	p, err := l.read()
	if err != nil {
		return nil, fmt.Errorf("waiting for the hub to answer: %w", err)
	}
	switch answer, ok := p.(*mqtt.Connack); {
	case !ok:
		return nil, fmt.Errorf("the hub answers with %T", p)
	case answer.Code == mqtt.ServerUnavailable:
		return nil, fmt.Errorf("the hub answers: %s", answer.Code)
	case answer.Code != mqtt.Accepted:
		return nil, &RefusedError{home.host, home.id, home.module, answer.Code}
	}
	return l, c.subscribe(l, home)
}

// connect makes the packet that says who the device is.
func (c *Connection) connect(ctx context.Context, home place) (*mqtt.Connect, error) {
	host := rest.Hostname(home.host)
	username := hubtopic.Username{Host: host, DeviceID: string(home.id), ModuleID: string(home.module), Parameters: map[string]string{
		"api-version": apiVersion, "DeviceClientType": "berth-go",
	}}.String()
	p := &mqtt.Connect{Level: 4, ClientID: home.clientID(), KeepAlive: uint16(c.config.KeepAlive / time.Second), Username: &username}
	// Everything is subscribed to each time. Only who wants no messages says so: a
	// hub that remembers another program's wish would go on sending them here.
	p.CleanSession = c.config.OnMessage == nil
	if c.config.Credential.Certificate() != nil {
		return p, nil
	}
	token, err := c.config.Credential.Token(ctx, sas.HubDeviceResource(host, home.path()), "", time.Now().Add(tokenLifetime).Round(0))
	if err != nil {
		return nil, fmt.Errorf("signing a token: %w", err)
	}
	p.Password = []byte(token)
	return p, nil
}

func (c *Connection) subscribe(l *line, home place) error {
	c.mu.Lock()
	p := &mqtt.Subscribe{ID: c.nextID(), Subscriptions: []mqtt.Subscription{{Filter: hubtopic.TwinResponses}}}
	c.mu.Unlock()
	if c.config.OnDesired != nil {
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: hubtopic.TwinDesired})
	}
	if c.config.OnMethod != nil {
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: hubtopic.Methods})
	}
	if c.config.OnMessage != nil {
		p.Subscriptions = append(p.Subscriptions, mqtt.Subscription{Filter: hubtopic.CloudToDevice(string(home.id)), QoS: 1})
	}
	if err := l.write(p); err != nil {
		return err
	}
	for {
		answer, err := l.read()
		if err != nil {
			return fmt.Errorf("waiting for the hub to take subscriptions: %w", err)
		}
		granted, ok := answer.(*mqtt.Suback)
		switch {
		case !ok: // what is subscribed to may be sent before
			if err := c.handle(l, answer); err != nil {
				return err
			}
		case granted.ID != p.ID || len(granted.Codes) != len(p.Subscriptions):
			return errors.New("the hub answers another subscription")
		case slices.Contains(granted.Codes, mqtt.SubscriptionFailed):
			return errors.New("the hub refuses a subscription")
		default:
			return nil
		}
	}
}

// nextID returns a packet identifier that no message has, with mu held.
func (c *Connection) nextID() uint16 {
	for {
		if c.lastID++; c.lastID != 0 && !slices.ContainsFunc(c.outbox, func(m *outgoing) bool { return m.ID == c.lastID }) {
			return c.lastID
		}
	}
}

// up sends what waits, and lets the others send.
func (c *Connection) up(l *line) {
	c.mu.Lock()
	c.line, c.trouble = l, nil
	for _, m := range c.outbox {
		c.transmit(m)
	}
	c.follow.look()
	close(c.present)
	c.mu.Unlock()
	if c.config.Changed != nil {
		c.config.Changed(true, nil)
	}
}

// down forgets a line that is over.
func (c *Connection) down(l *line, why error) {
	l.close(why)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retire(l)
}

// retire makes nothing go to a line any more, with mu held.
func (c *Connection) retire(l *line) {
	l.retired = true
	if c.line == l {
		c.line, c.present = nil, make(chan struct{})
	}
}

// transmit sends a message on the line there is, with mu held. A line that fails
// tells its reader.
func (c *Connection) transmit(m *outgoing) {
	m.Topic = hubtopic.Events(c.place.path(), m.properties)
	m.on = c.line
	_ = c.line.write(&m.Publish)
	m.Dup = true
}

// converse handles packets until the line is over.
func (c *Connection) converse(l *line) error {
	go c.tend(l)
	stop := context.AfterFunc(c.ctx, func() {
		c.rest()
		l.leave(ErrClosed)
	})
	defer stop()
	for {
		err := l.raw.SetReadDeadline(time.Now().Add(c.config.KeepAlive + patience))
		if err == nil {
			var p mqtt.Packet
			if p, err = l.read(); err == nil {
				err = c.handle(l, p)
			}
		}
		if err == nil {
			continue
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			err = errors.New("the hub does not answer pings")
		}
		l.close(err)
		return l.why()
	}
}

// tend keeps a line alive, and gives it up in time for the next token.
func (c *Connection) tend(l *line) {
	ping := time.NewTicker(c.config.KeepAlive * 3 / 4)
	defer ping.Stop()
	var renew, drained <-chan time.Time
	if c.config.Credential.Certificate() == nil {
		renew = time.After(tokenLifetime*13/20 + rand.N(tokenLifetime/5)) // devices that came together part
	}
	retire := func() {
		if drained == nil {
			drained = time.After(drainTimeout)
		}
		c.mu.Lock()
		c.retire(l)
		c.part(l)
		c.mu.Unlock()
	}
	var again <-chan time.Time
	for {
		select {
		case <-ping.C:
			_ = l.write(&mqtt.Pingreq{}) // the reader hears of it
		case <-renew:
			retire()
		case <-l.unsettled:
			if again == nil {
				again = time.After(backoff(c.setback()))
			}
		case <-again:
			retire()
		case <-drained:
			l.leave(errRenewal)
		case <-l.done:
			return
		}
	}
}

// part leaves a retired line once nothing is under way on it, with mu held.
func (c *Connection) part(l *line) {
	if !l.retired || l.given > 0 || slices.ContainsFunc(c.outbox, func(m *outgoing) bool { return m.on == l }) {
		return
	}
	for _, r := range c.requests {
		if r.on == l {
			return
		}
	}
	l.leave(errRenewal)
}

// handle does what a packet is for.
func (c *Connection) handle(l *line, p mqtt.Packet) error {
	switch p := p.(type) {
	case *mqtt.Puback:
		c.acknowledged(l, p.ID)
		return nil
	case *mqtt.Publish:
		return c.delivered(l, p)
	case *mqtt.Pingresp:
		return nil
	}
	return fmt.Errorf("a hub does not send %T", p)
}

// delivered takes what the hub publishes. What it does not know it leaves alone,
// unacknowledged: that may be for somebody who does.
func (c *Connection) delivered(l *line, p *mqtt.Publish) error {
	d, err := hubtopic.ParseDelivery(p.Topic)
	if err != nil {
		return nil
	}
	if d.Occasion == hubtopic.MessageSent {
		if c.config.OnMessage != nil {
			c.given(l, d, p)
		}
		return nil
	}
	if p.QoS == 1 {
		if err := l.write(&mqtt.Puback{ID: p.ID}); err != nil {
			return err
		}
	}
	switch d.Occasion {
	case hubtopic.TwinAnswered:
		c.answered(l, d, p.Payload)
	case hubtopic.DesiredChanged:
		if c.config.OnDesired != nil {
			c.follow.changed(*d.Version, p.Payload)
		}
	case hubtopic.MethodCalled:
		if c.config.OnMethod != nil {
			c.called(l, d, p.Payload)
		}
	}
	return nil
}

// acknowledged lets go of a message that the hub has. An acknowledgement that
// nobody waits for is one that was repeated.
func (c *Connection) acknowledged(l *line, id uint16) {
	c.mu.Lock()
	i := slices.IndexFunc(c.outbox, func(m *outgoing) bool { return m.ID == id && m.on == l })
	if i < 0 {
		c.mu.Unlock()
		return
	}
	m := c.outbox[i]
	c.outbox = slices.Delete(c.outbox, i, i+1)
	c.part(l)
	c.mu.Unlock()
	<-c.room
	m.done(nil)
}

// Send sends a message and returns when the hub has it for good. It survives a
// lost connection: then it is sent again, so it arrives at least once. While as
// many messages wait as may, Send does too.
//
// When ctx ends while the hub has not acknowledged the message, it is still sent.
// Otherwise an error is one of the message, or that of [Connection.Err].
func (c *Connection) Send(ctx context.Context, m Message) error {
	acknowledged := make(chan error, 1)
	if err := c.Queue(ctx, m, func(err error) { acknowledged <- err }); err != nil {
		return err
	}
	select {
	case err := <-acknowledged:
		if err != nil {
			return fmt.Errorf("sending a message: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the hub to acknowledge a message: %w", context.Cause(ctx))
	}
}

// Queue puts a message behind those that wait, and waits while there are as many
// as may be. done is called once and must not block: with nil when the hub has
// the message for good, and otherwise with why the Connection ended. If Queue
// returns an error it is not called. Messages of one caller arrive in its order.
func (c *Connection) Queue(ctx context.Context, m Message, done func(error)) error {
	properties, err := m.bag()
	if err != nil {
		return fmt.Errorf("sending a message: %w", err)
	}
	select {
	case c.room <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for room for a message: %w", context.Cause(ctx))
	case <-c.done:
		return fmt.Errorf("sending a message: %w", c.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Errorf("sending a message: %w", c.err)
	}
	o := &outgoing{Publish: mqtt.Publish{QoS: 1, ID: c.nextID(), Payload: slices.Clone(m.Body)}, properties: properties, done: done}
	c.outbox = append(c.outbox, o)
	if c.line != nil {
		c.transmit(o)
	}
	return nil
}

// bag returns the message's properties by the names they have in a topic.
func (m Message) bag() (map[string]string, error) {
	if m.size() > MaxMessage {
		return nil, fmt.Errorf("it has %d bytes, %d are allowed", m.size(), MaxMessage)
	}
	system := map[string]string{}
	for name, value := range map[string]string{
		"content-type": m.ContentType, "content-encoding": m.ContentEncoding, "message-id": m.MessageID, "correlation-id": m.CorrelationID,
	} {
		if value != "" {
			system[name] = value
		}
	}
	if !m.CreationTime.IsZero() {
		system["creation-time-utc"] = m.CreationTime.UTC().Format("2006-01-02T15:04:05.999Z")
	}
	bag, err := hubtopic.Join(system, m.Properties)
	if err != nil {
		return nil, err
	}
	if n := len(hubtopic.Events(strings.Repeat("x", 128+len("/modules/")+128), bag)); n > 65535 {
		return nil, fmt.Errorf("its properties make a topic of %d bytes, 65535 are possible", n)
	}
	return bag, nil
}
