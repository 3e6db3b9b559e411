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
	// settled says that waiting are all there are.
	settled bool
	// having are those that have it: more than one while the device moves.
	having map[identity]bool
	heard  chan struct{} // gets one when something changed
	done   bool
	status int
	answer json.RawMessage
	err    error
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
	limit := looking.C
	found := false
	for {
		where, status, answer, err := p.state(c)
		switch {
		case where == callDone:
			return status, answer, err
		case where == callNowhere:
			return 0, nil, hub.ErrNotConnected
		case where == callFound && !found:
			found = true
			answering := time.NewTimer(invoke.Response)
			defer answering.Stop()
			limit = answering.C
		}
		select {
		case <-c.heard:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		case <-limit:
			return 0, nil, p.expired(c)
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
	callAsking  callState = iota
	callFound             // a server has the device, and is asking it
	callNowhere           // none has it
	callDone
)

func (p *Peers) state(c *call) (where callState, status int, answer json.RawMessage, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case c.done:
		return callDone, c.status, c.answer, c.err
	case len(c.having) > 0:
		return callFound, 0, nil, nil
	case len(c.waiting) == 0 && c.settled:
		return callNowhere, 0, nil, nil
	}
	return callAsking, 0, nil, nil
}

// expired says what a call comes to when its time is over.
func (p *Peers) expired(c *call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(c.having) > 0:
		return context.DeadlineExceeded
	case len(c.waiting) > 0:
		return hub.ErrUnreachable // to a server that does not answer it may be connected
	}
	return hub.ErrNotConnected
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
	switch m.kind {
	case mine:
		if c.having[h.from] = true; o.gone {
			c.failed(h.from, errServerGone)
		}
	case absent:
		delete(c.waiting, h.from)
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

// failed ends a call, unless another server has the device as well.
func (c *call) failed(at identity, err error) {
	if delete(c.having, at); len(c.having) == 0 {
		c.done, c.err = true, err
	}
}

func (c *call) tell() {
	select {
	case c.heard <- struct{}{}:
	default:
	}
}
