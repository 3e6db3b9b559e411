// Package peers lets the servers of an installation find each other's devices
// through NATS. It is the hub.Peers of a server: it carries news to all others, and
// calls of direct methods to the one that a device is connected to.
//
// Core NATS delivers at most once, so that every server numbers what it tells:
// whoever misses a number, or does not hear of a server any more, has its hub check
// the devices that are connected. Messages are encrypted and authenticated under a
// key that comes from the server key.
package peers

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/hub"
)

const (
	// aliveInterval is how often a server says that it is there, and goneAfter how
	// long others go without before they take it for gone.
	aliveInterval = 2 * time.Second
	goneAfter     = 7 * time.Second
	// answerWithin is how long others may take to say whether they have a device,
	// and settleWithin how long a server that has just connected to NATS does not
	// know who else is there.
	answerWithin = time.Second
	settleWithin = time.Second
	// blindCheck is how often a server that hears nobody, or not everybody, compares
	// its devices with the database.
	blindCheck = time.Minute
	// checkPause is between two checks, and checkAgain when the first one failed.
	checkPause = time.Second
	checkAgain = 5 * time.Second
	// maxSkew is how old the first message of an unknown server may be, and how far
	// its clock may be ahead. A server that is gone is remembered for longer, so
	// that nobody can send again what it sent.
	maxSkew     = 5 * time.Minute
	forgetAfter = 2*maxSkew + time.Minute

	// Of the connection to NATS.
	connectTimeout = 5 * time.Second
	pingInterval   = 5 * time.Second
	reconnectWait  = 250 * time.Millisecond
	jitter         = 500 * time.Millisecond
	pendingBytes   = 256 << 20 // of messages that wait to be handled; further ones are lost
	pendingCount   = 1 << 20
	closeWithin    = time.Second
)

// A Config says how a server reaches the others.
type Config struct {
	// URL has the addresses of NATS, "nats://host:4222" or with tls:, several with
	// commas between them.
	URL string
	// CredentialsFile is a file of NATS credentials (a JWT and a seed), NKeyFile one
	// with the seed of an NKey; or there are User and Password. All may be empty.
	CredentialsFile, NKeyFile, User string
	// Password is asked for at every connection.
	Password func() (string, error)
	// RootCAs are the authorities that NATS is trusted by; nil for the system's.
	RootCAs *x509.CertPool
	// Prefix begins every subject. Installations that share a NATS differ in it.
	Prefix string
	// Key is the server key.
	Key    hsm.Deriver
	Logger *slog.Logger
}

// A Service is the hub of a server.
type Service interface {
	// Heard takes news of another server. It does not wait.
	Heard(hub.News)
	// Called says how to call a method of a device that is connected here, or
	// returns nil.
	Called(hub.Call) func(context.Context) (status int, answer json.RawMessage, err error)
	// Recheck is for when news may have been lost.
	Recheck(context.Context) error
}

// Peers are the other servers. It implements hub.Peers.
type Peers struct {
	config  Config
	self    identity
	keys    keys
	conn    *nats.Conn
	service Service
	recheck chan struct{} // holds one when devices are to be checked

	outbox *outbox

	sending sync.Mutex // held from taking a number until the message is in the outbox
	aead    cipher.AEAD
	last    [channels]uint64 // number of each channel

	mu        sync.Mutex // guards what follows
	others    map[identity]*other
	calls     map[uint64]*call
	lastCall  uint64
	connected time.Time // to NATS; zero while it is not
	fault     string    // why not
	// When the log last had that there is no connection, and that messages are
	// refused.
	complained, warned time.Time

	refused, missed, checks atomic.Int64
}

// An other is another server.
type other struct {
	aead  cipher.AEAD
	last  uint64    // the number of its last message to all
	heard time.Time // when that was
	gone  bool      // it is not heard any more
	left  bool      // as it said it would
}

// Health is how a server and the others hear of each other.
type Health struct {
	Connected bool   // to NATS
	Fault     string // why not, where that is known
	Others    int    // servers that were heard of lately
	// Refused counts messages that are none of this installation's or were sent
	// again, Missed the times when news of others were lost, and Checks the times
	// when all devices that are connected were compared with the database.
	Refused, Missed, Checks int64
}

// Connect returns the peers of a server. It does not wait for NATS, and connects
// again whenever the connection is lost. Before it is used there must be a Serve.
func Connect(c Config) (*Peers, error) {
	p, err := prepare(c)
	if err != nil {
		return nil, err
	}
	options, err := p.options()
	if err != nil {
		return nil, err
	}
	if p.conn, err = nats.Connect(c.URL, options...); err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	go p.outbox.send(p.conn)
	return p, nil
}

// prepare returns what Connect does, without a connection.
func prepare(c Config) (*Peers, error) {
	master, err := c.Key.Derive([]byte("berth peers"), 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of what servers tell each other: %w", err)
	}
	p := &Peers{
		config: c, keys: master, recheck: make(chan struct{}, 1), outbox: newOutbox(),
		others: make(map[identity]*other), calls: make(map[uint64]*call),
	}
	rand.Read(p.self[:]) // never fails
	if p.aead, err = p.keys.of(p.self); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Peers) options() ([]nats.Option, error) {
	c := p.config
	options := []nats.Option{
		nats.Name("berth " + p.self.String()),
		nats.NoEcho(),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(jitter, jitter),
		// What cannot be sent now is lost: it would be stale later, and nobody would
		// know that it is on its way.
		nats.ReconnectBufSize(-1),
		nats.Timeout(connectTimeout), nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(2), nats.FlusherTimeout(connectTimeout),
		nats.ConnectHandler(func(c *nats.Conn) { p.up(c.ConnectedServerName()) }),
		nats.ReconnectHandler(func(c *nats.Conn) { p.up(c.ConnectedServerName()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { p.down(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { p.down(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.Logger.Warn("nats", "error", err)
		}),
	}
	if c.RootCAs != nil {
		options = append(options, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.RootCAs}))
	}
	switch {
	case c.CredentialsFile != "":
		options = append(options, nats.UserCredentials(c.CredentialsFile))
	case c.NKeyFile != "":
		o, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("the NKey for NATS: %w", err)
		}
		options = append(options, o)
	case c.User != "":
		options = append(options, nats.UserInfoHandler(func() (string, string) {
			password, err := c.Password()
			if err != nil {
				p.config.Logger.Error("reading the password for NATS", "error", err)
			}
			return c.User, password
		}))
	}
	return options, nil
}

// Serve has what others tell and ask answered by service. It is called once.
func (p *Peers) Serve(service Service) error {
	p.service = service
	for subject, handle := range map[string]nats.MsgHandler{p.everybody(): p.toAll, p.subject(p.self): p.toOne} {
		s, err := p.conn.Subscribe(subject, handle)
		if err == nil {
			err = s.SetPendingLimits(pendingCount, pendingBytes)
		}
		if err != nil {
			return fmt.Errorf("subscribing to %s: %w", subject, err)
		}
	}
	p.tell(message{kind: hello})
	return nil
}

// everybody is the subject that all servers listen to, and subject that of one.
func (p *Peers) everybody() string          { return p.config.Prefix + ".all" }
func (p *Peers) subject(of identity) string { return p.config.Prefix + ".to." + of.String() }

// Run says that this server is there, until ctx ends, notices who is gone, and has
// devices checked when news may have been lost. Then it says that this server leaves,
// which so is what it says last.
func (p *Peers) Run(ctx context.Context) {
	beat := time.NewTicker(aliveInterval)
	defer beat.Stop()
	blind := time.NewTicker(blindCheck)
	defer blind.Stop()
	var checking sync.WaitGroup
	checking.Go(func() { p.check(ctx) })
	defer checking.Wait()
	for {
		select {
		case <-ctx.Done():
			p.tell(message{kind: leaving})
			return
		case <-beat.C:
			p.tell(message{kind: alive})
			p.missing(time.Now())
		case <-blind.C:
			if p.blind() {
				p.lost()
			}
		}
	}
}

// lost has the devices checked that are connected here.
func (p *Peers) lost() {
	select {
	case p.recheck <- struct{}{}:
	default: // it will be, anyway
	}
}

// check checks one time after the other.
func (p *Peers) check(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.recheck:
		}
		p.checks.Add(1)
		pause := checkPause
		if err := p.service.Recheck(ctx); err != nil && ctx.Err() == nil {
			p.config.Logger.Error("checking the devices that are connected", "error", err)
			p.lost()
			pause = checkAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// Close ends the connection, when what was told is sent.
func (p *Peers) Close() {
	p.outbox.close()
	select {
	case <-p.outbox.emptied:
		p.conn.FlushTimeout(closeWithin)
	case <-time.After(closeWithin):
	}
	p.conn.Close()
}

// Self implements hub.Peers.
func (p *Peers) Self() uint64 { return p.self.number() }

// Tell implements hub.Peers.
func (p *Peers) Tell(n hub.News) { p.tell(message{kind: newsKinds[n.Kind], news: n}) }

// Health says how this server and the others hear of each other.
func (p *Peers) Health() Health {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Health{
		Connected: !p.connected.IsZero(), Fault: p.fault, Others: len(p.presentLocked()),
		Refused: p.refused.Load(), Missed: p.missed.Load(), Checks: p.checks.Load(),
	}
}

// up is called when there is a connection to NATS.
func (p *Peers) up(server string) {
	p.mu.Lock()
	p.connected, p.fault = time.Now(), ""
	p.mu.Unlock()
	p.config.Logger.Info("connected to NATS", "server", server)
	p.tell(message{kind: hello})
}

// down is called when there is none any more, and when there is none again.
func (p *Peers) down(err error) {
	fault := "the connection was closed"
	if err != nil {
		fault = err.Error()
	}
	p.mu.Lock()
	now := time.Now()
	news := !p.connected.IsZero() || fault != p.fault && now.Sub(p.complained) > warnInterval // and not every attempt to connect again
	p.connected, p.fault = time.Time{}, fault
	if news {
		p.complained = now
	}
	p.mu.Unlock()
	if news {
		p.config.Logger.Warn("no connection to NATS: devices at other servers are out of reach", "error", fault)
	}
}

// tell sends to all others. What cannot be sent has its number all the same, by
// which the others see that they missed something.
func (p *Peers) tell(m message) error {
	return p.send(toAll, p.everybody(), m)
}

func (p *Peers) send(c channel, subject string, m message) error {
	m.sent = time.Now()
	plain := m.encode()
	p.sending.Lock()
	defer p.sending.Unlock()
	p.last[c]++
	return p.outbox.add(subject, seal(p.aead, c, header{p.self, p.last[c]}, subject, plain))
}
