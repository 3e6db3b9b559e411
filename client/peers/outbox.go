package peers

import (
	"errors"
	"sync"

	"github.com/nats-io/nats.go"
)

// maxWaiting bounds the messages, in bytes, that wait for NATS to take them.
const maxWaiting = 32 << 20

var errFull = errors.New("NATS takes too long to take messages")

// An outbox has messages on their way to NATS, so that nobody has to wait for that:
// it can take seconds to see that the other end of a connection is not there.
type outbox struct {
	ready chan struct{} // holds one when there is something to do

	mu      sync.Mutex // guards what follows
	waiting []*nats.Msg
	size    int
	closed  bool
	emptied chan struct{} // closed when send has returned
}

func newOutbox() *outbox {
	return &outbox{ready: make(chan struct{}, 1), emptied: make(chan struct{})}
}

// add puts a message behind the others, unless there are too many.
func (o *outbox) add(subject string, data []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.size+len(data) > maxWaiting {
		return errFull
	}
	o.waiting = append(o.waiting, &nats.Msg{Subject: subject, Data: data})
	o.size += len(data)
	o.wake()
	return nil
}

// close has send return when it has sent what waits.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake()
}

func (o *outbox) wake() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

func (o *outbox) take() (waiting []*nats.Msg, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	waiting, o.waiting, o.size = o.waiting, nil, 0
	return waiting, o.closed
}

// send sends what is added, until close. What cannot be sent is lost, as it would be
// on its way: it has its number.
func (o *outbox) send(conn *nats.Conn) {
	defer close(o.emptied)
	for range o.ready {
		waiting, closed := o.take()
		for _, m := range waiting {
			conn.Publish(m.Subject, m.Data)
		}
		if closed {
			return
		}
	}
}
