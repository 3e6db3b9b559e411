package peers

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// warnInterval bounds how often the log has that messages are refused.
const warnInterval = time.Minute

var (
	errRepeated = errors.New("it was sent before")
	errOld      = fmt.Errorf("it is of a server that is not known, and its time is more than %v off: is one of the clocks wrong?", maxSkew)
)

// toAll takes a message to all servers. Messages of one server come one after the
// other, in order.
func (p *Peers) toAll(frame *nats.Msg) {
	m, from, err := p.hear(frame.Data, time.Now())
	if err != nil {
		p.refuse(err)
		return
	}
	switch m.kind {
	case hello:
		p.tell(message{kind: alive})
	case called:
		p.asked(from, m)
	case connected, desired, disabled, deleted:
		p.service.Heard(m.news)
	}
}

// hear opens a message to all and keeps account of who sent it. A message of a
// server that is not known is its first one, or others were missed.
func (p *Peers) hear(frame []byte, now time.Time) (message, identity, error) {
	h, err := parseHeader(frame)
	if err != nil {
		return message{}, identity{}, err
	}
	if h.from == p.self {
		return message{}, identity{}, errRepeated // by somebody else
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o, known, err := p.otherLocked(h.from)
	if err != nil {
		return message{}, identity{}, err
	}
	m, err := p.open(o, toAll, h, p.everybody(), frame)
	switch {
	case err != nil:
		return message{}, identity{}, err
	case h.number <= o.last:
		return message{}, identity{}, errRepeated
	case !known && now.Sub(m.sent).Abs() > maxSkew:
		return message{}, identity{}, errOld
	}
	if h.number != o.last+1 {
		p.lost()
		if known {
			p.missed.Add(1)
		}
	}
	if !known || o.gone {
		p.config.Logger.Info("another server is there", "peer", h.from.String())
		p.others[h.from] = o
	}
	o.left = m.kind == leaving
	o.last, o.heard, o.gone = h.number, now, o.left
	if o.left {
		p.config.Logger.Info("another server has left", "peer", h.from.String())
		p.abandonLocked(h.from)
	}
	return m, h.from, nil
}

// otherLocked returns what is known of another server, or makes the account of a new
// one.
func (p *Peers) otherLocked(i identity) (o *other, known bool, err error) {
	if o := p.others[i]; o != nil {
		return o, true, nil
	}
	aead, err := p.keys.of(i)
	return &other{aead: aead}, false, err
}

func (p *Peers) open(o *other, c channel, h header, subject string, frame []byte) (message, error) {
	plain, err := openFrame(o.aead, c, h, subject, frame)
	if err != nil {
		return message{}, err
	}
	return decode(plain)
}

// refuse counts a message that is not taken.
func (p *Peers) refuse(why error) {
	n := p.refused.Add(1)
	p.mu.Lock()
	warn := time.Since(p.warned) > warnInterval
	if warn {
		p.warned = time.Now()
	}
	p.mu.Unlock()
	if warn {
		p.config.Logger.Warn("refusing messages on NATS", "prefix", p.config.Prefix, "refused", n, "error", why)
	}
}

// missing looks for servers that are not heard of any more. What they told last may
// not have arrived.
func (p *Peers) missing(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.others {
		silence := now.Sub(o.heard)
		switch {
		case silence > forgetAfter:
			delete(p.others, i)
		case silence > goneAfter && !o.gone:
			o.gone = true
			p.config.Logger.Warn("another server is gone", "peer", i.String(), "silent_for", silence.Round(time.Millisecond).String())
			p.lost()
			p.abandonLocked(i)
		}
	}
}

// presentLocked are the other servers that were heard of lately.
func (p *Peers) presentLocked() map[identity]bool {
	there := make(map[identity]bool)
	for i, o := range p.others {
		if !o.gone {
			there[i] = true
		}
	}
	return there
}

// blind reports whether there may be servers that this one does not hear.
func (p *Peers) blind() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.connected.IsZero() || len(p.presentLocked()) == 0 {
		return true
	}
	for _, o := range p.others {
		if o.gone && !o.left {
			return true
		}
	}
	return false
}
