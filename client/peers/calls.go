package peers

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/berth-iot/berth/hub"
)

var errServerGone = errors.New("the server that the device was connected to is gone")

// A call is a method that waits for an answer of another server.
type call struct {
	waiting map[identity]bool // servers that have not said whether they have the device
	settled bool              // waiting were all there are
	// having are those that have it: more than one while the device moves.
	having  map[identity]bool
	failure error         // of one that had it
	heard   chan struct{} // gets one when something changed
	done    bool          // a device has answered
	status  int
	answer  json.RawMessage
}

// Call implements hub.Peers.
func (p *Peers) Call(ctx context.Context, invoke hub.Call) (int, json.RawMessage, error) {
	id, c := p.begin()
	defer p.end(id)
	if c == nil {
		return 0, nil, hub.ErrUnreachable
	}
	if err := p.tell(message{kind: called, call: id, invoke: invoke}); err != nil {
		return 0, nil, hub.ErrUnreachable
	}
	looking := time.NewTimer(answerWithin)
	defer looking.Stop()
	var answering <-chan time.Time // once somebody has the device
	for {
		where, status, answer, err := p.state(c)
		switch {
		case where == callOver:
			return status, answer, err
		case where == callFound && answering == nil:
			limit := time.NewTimer(invoke.Response)
			defer limit.Stop()
			answering = limit.C
		}
		select {
		case <-c.heard:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		case <-answering:
			return 0, nil, context.DeadlineExceeded
		case <-looking.C:
			p.unheard(c)
		}
	}
}

// begin notes a call, or returns nil while there is no connection.
func (p *Peers) begin() (uint64, *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastCall++
	if p.connected.IsZero() {
		return p.lastCall, nil
	}
	c := &call{waiting: p.presentLocked(), settled: time.Since(p.connected) > settleWithin, having: make(map[identity]bool), heard: make(chan struct{}, 1)}
	p.calls[p.lastCall] = c
	return p.lastCall, c
}

func (p *Peers) end(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, id)
}

// Where a call is.
type callState int

const (
	callAsking callState = iota
	callFound            // a server has the device, and is asking it
	callOver
)

func (p *Peers) state(c *call) (where callState, status int, answer json.RawMessage, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case c.done:
		return callOver, c.status, c.answer, nil
	case len(c.having) > 0:
		return callFound, 0, nil, nil
	case len(c.waiting) > 0:
		return callAsking, 0, nil, nil
	case c.failure != nil:
		return callOver, 0, nil, c.failure
	case c.settled:
		return callOver, 0, nil, hub.ErrNotConnected
	}
	return callAsking, 0, nil, nil
}

// unheard ends the search for the device: whoever has said nothing by now says
// nothing.
func (p *Peers) unheard(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(c.waiting) > 0 && c.failure == nil {
		c.failure = hub.ErrUnreachable // it may be connected there
	}
	c.waiting, c.settled = nil, true
	c.tell()
}

// asked answers another server that calls a method, at once, and then when the
// device has answered.
func (p *Peers) asked(from identity, m message) {
	invoke := p.service.Called(m.invoke)
	if invoke == nil {
		p.send(toOne, p.subject(from), message{kind: absent, call: m.call})
		return
	}
	p.send(toOne, p.subject(from), message{kind: mine, call: m.call})
	go func() {
		status, answer, err := invoke(context.Background()) // which bounds itself
		p.send(toOne, p.subject(from), result(m.call, status, answer, err))
	}()
}

func result(call uint64, status int, answer json.RawMessage, err error) message {
	m := message{kind: unanswerable, call: call, failure: failedOtherwise}
	switch {
	case err == nil:
		return message{kind: answered, call: call, status: status, payload: answer}
	case errors.Is(err, hub.ErrNoMethods):
		m.failure = failedNoMethods
	case errors.Is(err, context.DeadlineExceeded):
		m.failure = failedTimeout
	default:
		m.reason = err.Error()
	}
	return m
}

func (m message) err() error {
	switch m.failure {
	case failedNoMethods:
		return hub.ErrNoMethods
	case failedTimeout:
		return context.DeadlineExceeded
	}
	return errors.New(m.reason)
}

// toOne takes a message to this server alone: what becomes of a call.
func (p *Peers) toOne(frame *nats.Msg) {
	if err := p.told(frame.Data); err != nil {
		p.refuse(err)
	}
}

// told notes what another server says of a call. A call that is over has nobody who
// wants to know, and so has one that is sent again.
func (p *Peers) told(frame []byte) error {
	h, err := parseHeader(frame)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o, _, err := p.otherLocked(h.from) // who answers a server that has just come may not be known to it
	if err != nil {
		return err
	}
	m, err := p.open(o, toOne, h, p.subject(p.self), frame)
	if err != nil {
		return err
	}
	c := p.calls[m.call]
	if c == nil || c.done {
		return nil
	}
	delete(c.waiting, h.from)
	switch m.kind {
	case mine:
		if c.having[h.from] = true; o.gone {
			c.failed(h.from, errServerGone)
		}
	case answered:
		c.done, c.status, c.answer = true, m.status, m.payload
	case unanswerable:
		c.failed(h.from, m.err())
	}
	c.tell()
	return nil
}

// abandonLocked ends the calls that wait for a server that is gone.
func (p *Peers) abandonLocked(gone identity) {
	for _, c := range p.calls {
		if c.having[gone] {
			c.failed(gone, errServerGone)
			c.tell()
		}
	}
}

// failed is for a server that does not get an answer of the device. Another one may.
func (c *call) failed(at identity, err error) {
	delete(c.having, at)
	c.failure = err
}

func (c *call) tell() {
	select {
	case c.heard <- struct{}{}:
	default:
	}
}
