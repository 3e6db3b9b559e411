package hub

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Reader is who goes through a hub's stream and remembers how far.
type Reader struct {
	Hub  string // as in Place
	Kind ReaderKind
	Name string
}

// A ReaderKind is a sort of reader.
type ReaderKind string

// The kinds of readers.
const (
	OfRoute ReaderKind = "route"
	OfGroup ReaderKind = "group" // a consumer group
)

// A Position is how far a reader has come, and who reads for it. One at a time
// does: its Owner, until the Lease is over.
type Position struct {
	Reader
	// Sequence is that of the last message of the stream which is done with: it
	// was delivered, or was not to be.
	Sequence uint64
	// Delivered counts the messages that the sink, or the reader of a group, took.
	Delivered uint64
	// Lost counts the numbers of the stream that were removed before the reader
	// came to them: its messages among them are lost to it. It is no less than
	// those, and more where other hubs share the stream.
	Lost  uint64
	Owner string    // who reads; empty when nobody does
	Lease time.Time // the end of it
	// FailingSince is when the sink began to refuse, the zero time while it does
	// not; LastError is what it said last, also afterwards.
	FailingSince time.Time
	LastError    string
	Delivery     time.Time // the last that succeeded
}

// Positions keeps how far readers have come. Each write is atomic and durable
// when it returns.
type Positions interface {
	// Positions returns those of a hub, or of all when hub is empty, ordered by
	// hub, kind and name.
	Positions(ctx context.Context, hub string) ([]Position, error)
	// ChangePosition reads the position of a reader (nil when there is none), lets
	// decide say what it becomes and writes that, all without another change to it
	// in between. Returning nil removes it. An error from decide is returned as it
	// is, and nothing is written. decide must not call the store and may be called
	// more than once.
	ChangePosition(ctx context.Context, of Reader, decide func(*Position) (*Position, error)) error
}

// A lease is held by one process at a time, as long as the servers' clocks differ
// by less than leaseTime-renewAfter-deliverTime: who delivers for a lease has
// renewed it lately, and gives up well before it is over.
const (
	leaseTime   = 30 * time.Second
	renewAfter  = 8 * time.Second
	deliverTime = 15 * time.Second
)

var (
	// errLeased is why a lease is not to be had: somebody else reads.
	errLeased = errors.New("another server reads")
	// errLeaseLost is why it ends: somebody else reads by now, or the reader was
	// removed.
	errLeaseLost = errors.New("the reader is not ours any more")
)

// A lease is the right to read for a reader. It is not for concurrent use.
type lease struct {
	positions Positions
	now       func() time.Time
	at        Position // as it was written last, and what has come to it since
	saved     time.Time
	unsaved   int // messages that were delivered since
}

// take takes the lease of a reader for owner. A reader without a position begins
// behind the message that has the number start. The error is errLeased while
// somebody else has it.
func take(ctx context.Context, positions Positions, now func() time.Time, of Reader, owner string, start uint64) (*lease, error) {
	l := &lease{positions: positions, now: now}
	err := positions.ChangePosition(ctx, of, func(old *Position) (*Position, error) {
		next := Position{Reader: of, Sequence: start}
		if old != nil {
			next = *old
		}
		if next.Owner != "" && next.Owner != owner && now().Before(next.Lease) {
			return nil, errLeased
		}
		next.Owner, next.Lease = owner, now().Add(leaseTime)
		l.at = next
		return &next, nil
	})
	return l, err
}

// commit writes the position, and renews the lease.
func (l *lease) commit(ctx context.Context) error {
	next := l.at
	err := l.positions.ChangePosition(ctx, l.at.Reader, func(old *Position) (*Position, error) {
		if old == nil || old.Owner != l.at.Owner {
			return nil, errLeaseLost
		}
		next.Lease = l.now().Add(leaseTime)
		written := next
		return &written, nil
	})
	if err != nil {
		return fmt.Errorf("writing the position: %w", err)
	}
	l.at, l.saved, l.unsaved = next, l.now(), 0
	return nil
}

// A position is written when saveAfter messages were delivered, and saveEvery while
// fewer are. What was delivered in between comes again when the server is killed.
const (
	saveAfter = 64
	saveEvery = 100 * time.Millisecond
)

// due is how long it takes until the position is to be written.
func (l *lease) due() time.Duration {
	due := l.at.Lease.Add(renewAfter - leaseTime)
	if soon := l.saved.Add(saveEvery); l.unsaved > 0 && soon.Before(due) {
		due = soon
	}
	if l.unsaved >= saveAfter {
		return 0
	}
	return max(0, due.Sub(l.now()))
}

// renew is commit where that is due.
func (l *lease) renew(ctx context.Context) error {
	if l.due() > 0 {
		return nil
	}
	return l.commit(ctx)
}

// hold waits until the time is over, and keeps the lease.
func (l *lease) hold(ctx context.Context, d time.Duration) error {
	for end := l.now().Add(d); ; {
		left := end.Sub(l.now())
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(min(left, max(l.due(), time.Millisecond)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		if err := l.renew(ctx); err != nil {
			return err
		}
	}
}

// release gives the lease back, so that another process need not wait for its
// end. What has come to the position since it was written goes with it.
func (l *lease) release(ctx context.Context) error {
	return l.positions.ChangePosition(ctx, l.at.Reader, func(old *Position) (*Position, error) {
		if old == nil || old.Owner != l.at.Owner {
			return nil, errLeaseLost
		}
		next := l.at
		next.Owner, next.Lease = "", time.Time{}
		return &next, nil
	})
}
