package sqlite

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// maxBatch bounds how many writes share a transaction, and so how long the
	// first of them waits for the others.
	maxBatch = 256
	// maxQueue bounds the writes that wait for a transaction. Those who come to
	// a full queue wait outside, in no order.
	maxQueue = 4 * maxBatch
)

// A write waits in the queue for its transaction.
type write struct {
	do func(*tx) error
	// taken is set by the writer who begins the write or by the caller who
	// gives up waiting, whoever is first.
	taken atomic.Bool
	// done is closed when the write is over; err and panicked are set before.
	done     chan struct{}
	err      error
	panicked any
}

// A tx is the transaction of a batch, as one of its writes sees it.
type tx struct {
	*conn
	writes int      // statements so far that write
	after  []func() // run after the commit or what came of it
}

// exec is conn.exec for statements that write.
func (t *tx) exec(query string, args ...any) error {
	t.writes++
	return t.conn.exec(query, args...)
}

// then has f called when the transaction is over and before anybody is
// answered.
func (t *tx) then(f func()) { t.after = append(t.after, f) }

// write runs do in a transaction and returns when that is durable, or with
// do's error when nothing was written. Other writes may be in the same
// transaction; do is called again, alone, when one of them fails halfway.
//
// When ctx ends before do has begun, it never begins. When ctx ends later, the
// write goes on and its own result is returned: the caller always knows whether
// it happened, and what do uses is not touched after write has returned.
//
// With a context of Together it is a part of that transaction.
func (s *Store) write(ctx context.Context, do func(*tx) error) error {
	if g := s.together(ctx); g != nil {
		return g.write(do)
	}
	w := &write{do: do, done: make(chan struct{})}
	if err := s.enqueue(ctx, w); err != nil {
		return err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		if w.taken.CompareAndSwap(false, true) {
			return fmt.Errorf("waiting to write: %w", ctx.Err())
		}
		<-w.done
	}
	if w.panicked != nil {
		panic(w.panicked)
	}
	return w.err
}

func (s *Store) enqueue(ctx context.Context, w *write) error {
	s.closing.RLock()
	defer s.closing.RUnlock()
	select {
	case <-s.closed:
		return record.Unavailable()
	case <-ctx.Done():
		return fmt.Errorf("waiting to write: %w", ctx.Err())
	default:
	}
	select {
	case s.queue <- w:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting to write: %w", ctx.Err())
	}
}

// runWriter writes what is queued until the queue is closed and empty. While
// one transaction goes to the disk the next batch gathers.
func (s *Store) runWriter() {
	defer close(s.written)
	batch := make([]*write, 0, maxBatch)
	for first := range s.queue {
		batch = s.gather(append(batch[:0], first))
		if !s.transact(batch) {
			for i := range batch {
				s.transact(batch[i : i+1])
			}
		}
		for _, w := range batch {
			close(w.done)
		}
	}
}

// gather adds to batch what else is waiting, and removes the writes whose
// callers have gone.
func (s *Store) gather(batch []*write) []*write {
	for len(batch) < maxBatch {
		select {
		case w, ok := <-s.queue:
			if ok {
				batch = append(batch, w)
				continue
			}
		default:
		}
		break
	}
	live := batch[:0]
	for _, w := range batch {
		if w.taken.CompareAndSwap(false, true) {
			live = append(live, w)
		}
	}
	return live
}

// transact runs the writes of batch in one transaction and sets their results.
// It returns false, with nothing committed, when one of several failed after it
// had begun to write: then each needs a transaction of its own. Savepoints
// would isolate them too, but cost every write a copy of each page it changes.
func (s *Store) transact(batch []*write) bool {
	if len(batch) == 0 {
		return true
	}
	t := &tx{conn: s.writer}
	if err := s.writer.exec("BEGIN IMMEDIATE"); err != nil {
		fail(batch, fmt.Errorf("beginning a transaction: %w", err))
		return true
	}
	for _, w := range batch {
		began := t.writes
		if !t.run(w) && t.writes > began {
			s.rollback()
			return len(batch) == 1
		}
	}
	if err := s.writer.exec("COMMIT"); err != nil {
		s.rollback()
		fail(batch, record.Unavailable().WithCause(fmt.Errorf("committing: %w", err)))
	}
	for _, f := range t.after {
		f()
	}
	return true
}

// run runs one write and reports whether it succeeded.
func (t *tx) run(w *write) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			w.panicked = fmt.Sprintf("%v\n\nwhile writing:\n%s", p, debug.Stack())
			ok = false
		}
	}()
	w.err, w.panicked = nil, nil
	w.err = w.do(t)
	return w.err == nil
}

// rollback ends a failed transaction. The engine may have ended it already,
// which is the one reason why this fails.
func (s *Store) rollback() { _ = s.writer.exec("ROLLBACK") }

// fail gives err to the writes that have no worse news yet.
func fail(batch []*write, err error) {
	for _, w := range batch {
		if w.err == nil && w.panicked == nil {
			w.err = err
		}
	}
}
