package sqlite

import (
	"context"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

// trimBatch bounds how many messages one transaction removes, so that other
// writes do not wait long.
const trimBatch = 1000

const (
	selectMessages    = "SELECT " + record.MessageColumns + " FROM message WHERE sequence > ? ORDER BY sequence LIMIT ?"
	selectHubMessages = "SELECT " + record.MessageColumns + " FROM message WHERE hub = ? AND sequence > ? ORDER BY sequence LIMIT ?"
	insertMessage     = "INSERT INTO message (" + record.MessageColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)

// Append implements hub.Stream.
func (s *Store) Append(ctx context.Context, ms []*hub.Message) error {
	if s.together(ctx) != nil {
		return record.NoMessagesTogether()
	}
	var first uint64
	err := s.write(ctx, func(t *tx) error {
		first = t.sequence + 1
		for _, m := range ms {
			t.sequence++
			err := t.exec(insertMessage, int64(t.sequence), m.Hub, string(m.DeviceID), string(m.ModuleID), record.Nanoseconds(m.Enqueued),
				record.Properties(m.System), record.Properties(m.Properties), m.Body)
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
	above := record.Above(after)
	if host == "" {
		return list(ctx, s, record.Message, selectMessages, above, record.Limit(limit))
	}
	return list(ctx, s, record.Message, selectHubMessages, host, above, record.Limit(limit))
}

// LastSequence implements hub.Stream. It stays when the message is trimmed.
func (s *Store) LastSequence(context.Context) (uint64, error) { return s.news.Last(), nil }

// Wait returns when there is a message with a sequence number above after.
func (s *Store) Wait(ctx context.Context, after uint64) error {
	for {
		last, changed := s.news.Watch()
		if last > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return record.Unavailable()
		}
	}
}

// Trim implements hub.Stream. It removes the messages in several transactions,
// and returns how many went also when one of them fails.
func (s *Store) Trim(ctx context.Context, before time.Time) (removed int, err error) {
	if s.together(ctx) != nil {
		return 0, record.NoMessagesTogether()
	}
	for {
		var n int64
		err := s.write(ctx, func(t *tx) (err error) {
			const old = "SELECT sequence FROM message WHERE enqueued < ? LIMIT ?"
			if n, err = t.number("SELECT count(*) FROM ("+old+")", record.Nanoseconds(before), int64(trimBatch)); err != nil || n == 0 {
				return err
			}
			if err := t.exec("UPDATE message_trimmed SET sequence = ?", int64(t.sequence)); err != nil {
				return err
			}
			return t.exec("DELETE FROM message WHERE sequence IN ("+old+")", record.Nanoseconds(before), int64(trimBatch))
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
