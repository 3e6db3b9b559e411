package sqlite

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// trimBatch bounds how many messages one transaction removes, so that other
// writes do not wait long.
const trimBatch = 1000

const (
	selectMessages    = "SELECT sequence, hub, device_id, enqueued, system, properties, body FROM message WHERE sequence > ? ORDER BY sequence LIMIT ?"
	selectHubMessages = "SELECT sequence, hub, device_id, enqueued, system, properties, body FROM message WHERE hub = ? AND sequence > ? ORDER BY sequence LIMIT ?"
	insertMessage     = "INSERT INTO message (sequence, hub, device_id, enqueued, system, properties, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
)

// Append implements hub.Stream.
func (s *Store) Append(ctx context.Context, ms []*hub.Message) error {
	var first uint64
	err := s.write(ctx, func(t *tx) error {
		first = t.sequence + 1
		for _, m := range ms {
			t.sequence++
			err := t.exec(insertMessage, int64(t.sequence), m.Hub, string(m.DeviceID), unixNano(m.Enqueued),
				encoded(m.System, m.System == nil), encoded(m.Properties, m.Properties == nil), m.Body)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, m := range ms {
		m.Sequence = first + uint64(i)
	}
	return nil
}

// Read implements hub.Stream.
func (s *Store) Read(ctx context.Context, host string, after uint64, limit int) ([]*hub.Message, error) {
	above := int64(min(after, math.MaxInt64))
	if host == "" {
		return list(ctx, s, readMessage, selectMessages, above, atMost(limit))
	}
	return list(ctx, s, readMessage, selectHubMessages, host, above, atMost(limit))
}

func readMessage(r *row) (*hub.Message, error) {
	m := &hub.Message{Sequence: uint64(r.number()), Hub: r.text(), DeviceID: device.ID(r.text()), Enqueued: r.time()}
	if err := r.decode(&m.System); err != nil {
		return nil, err
	}
	if err := r.decode(&m.Properties); err != nil {
		return nil, err
	}
	m.Body = r.blob()
	return m, nil
}

// LastSequence implements hub.Stream. It stays when the message is trimmed.
func (s *Store) LastSequence(context.Context) (uint64, error) { return s.news.last(), nil }

// Wait returns when there is a message with a sequence number above after.
func (s *Store) Wait(ctx context.Context, after uint64) error {
	for {
		last, changed := s.news.get()
		if last > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return unavailable()
		}
	}
}

// Trim implements hub.Stream. It removes the messages in several transactions,
// and returns how many went also when one of them fails.
func (s *Store) Trim(ctx context.Context, before time.Time) (removed int, err error) {
	for {
		var n int64
		err := s.write(ctx, func(t *tx) (err error) {
			const old = "SELECT sequence FROM message WHERE enqueued < ? LIMIT ?"
			if n, err = t.number("SELECT count(*) FROM ("+old+")", unixNano(before), int64(trimBatch)); err != nil || n == 0 {
				return err
			}
			if err := t.exec("UPDATE message_trimmed SET sequence = ?", int64(t.sequence)); err != nil {
				return err
			}
			return t.exec("DELETE FROM message WHERE sequence IN ("+old+")", unixNano(before), int64(trimBatch))
		})
		if err != nil {
			return removed, err
		}
		removed += int(n)
		if n < trimBatch {
			return removed, nil
		}
	}
}

// News tells those who wait that messages were committed.
type news struct {
	mu       sync.Mutex // guards the rest
	sequence uint64
	changed  chan struct{} // closed at the next change; made when somebody waits
}

func (n *news) publish(sequence uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if sequence == n.sequence {
		return
	}
	n.sequence = sequence
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}

func (n *news) last() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sequence
}

func (n *news) get() (sequence uint64, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.sequence, n.changed
}
