package sqlite

import (
	"context"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectGeneration   = "SELECT generation_id FROM device WHERE hub = ? AND id = ?"
	selectQueue        = "SELECT " + record.QueueElementColumns + " FROM cloud_message WHERE hub = ? AND device_id = ? ORDER BY sequence"
	selectCloudMessage = "SELECT " + record.CloudMessageColumns + " FROM cloud_message WHERE hub = ? AND device_id = ? AND sequence = ?"
	insertCloudMessage = "INSERT INTO cloud_message (" + record.NewMessageColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	updateCloudMessage = "UPDATE cloud_message SET lock_token = ?, locked_until = ?, deliveries = ? WHERE hub = ? AND device_id = ? AND sequence = ?"
	deleteCloudMessage = "DELETE FROM cloud_message WHERE hub = ? AND device_id = ? AND sequence = ?"
	countQueued        = `SELECT device_id, count(*) FROM cloud_message
		WHERE hub = ? AND device_id BETWEEN ? AND ? AND expiry > ? GROUP BY device_id`
	selectExpiredQueues = "SELECT DISTINCT hub, device_id FROM cloud_message WHERE expiry <= ? LIMIT ?"

	insertFeedback = "INSERT INTO feedback (" + record.FeedbackColumns + ") VALUES (?, ?, ?, ?, ?, ?)"
	lockFeedback   = `UPDATE feedback SET lock_token = ?1, locked_until = ?2 WHERE sequence IN (
		SELECT sequence FROM feedback WHERE hub = ?3 AND locked_until <= ?4 ORDER BY sequence LIMIT ?5)`
	selectFeedback = "SELECT " + record.FeedbackColumns + " FROM feedback WHERE hub = ? AND lock_token = ? ORDER BY sequence"
	lockedFeedback = " FROM feedback WHERE hub = ? AND lock_token = ? AND locked_until > ?"
	unlockFeedback = "UPDATE feedback SET lock_token = '', locked_until = 0 WHERE hub = ? AND lock_token = ? AND locked_until > ?"
	deleteFeedback = "DELETE FROM feedback WHERE ended < ?"

	selectSubscription = "SELECT qos FROM subscription WHERE hub = ? AND id = ?"
	deleteSubscription = "DELETE FROM subscription WHERE hub = ? AND id = ?"
	putSubscription    = `INSERT INTO subscription (hub, id, qos) SELECT hub, id, ?3 FROM device WHERE hub = ?1 AND id = ?2
		ON CONFLICT (hub, id) DO UPDATE SET qos = excluded.qos`
)

// ChangeQueue implements hub.Queues.
func (s *Store) ChangeQueue(ctx context.Context, at hub.Place, decide func(generation string, queue []*hub.CloudMessage) (hub.QueueChange, error)) error {
	return s.write(ctx, func(t *tx) error {
		generation := ""
		err := t.each(func(r *record.Row) error { generation = r.Text(); return nil }, selectGeneration, at.Hub, string(at.ID))
		if err != nil {
			return err
		}
		queue, err := all(t.conn, record.QueueElement, selectQueue, at.Hub, string(at.ID))
		if err != nil {
			return err
		}
		change, err := decide(generation, queue)
		if err != nil {
			return err
		}
		return t.changeQueue(at, change)
	})
}

func (t *tx) changeQueue(at hub.Place, change hub.QueueChange) error {
	for _, m := range change.Update {
		if err := t.exec(updateCloudMessage, record.DeliveryValues(at, m)...); err != nil {
			return err
		}
	}
	for _, sequence := range change.Remove {
		if err := t.exec(deleteCloudMessage, at.Hub, string(at.ID), record.Above(sequence)); err != nil {
			return err
		}
	}
	for _, m := range change.Add {
		if err := t.exec(insertCloudMessage, record.NewMessageValues(at, m)...); err != nil {
			return err
		}
	}
	for _, f := range change.Feedback {
		if err := t.exec(insertFeedback, record.FeedbackValues(f)...); err != nil {
			return err
		}
	}
	return nil
}

// Queued implements hub.Queues.
func (s *Store) Queued(ctx context.Context, at hub.Place, sequence uint64) (*hub.CloudMessage, error) {
	return find(ctx, s, record.NoCloudMessage(), record.CloudMessage, selectCloudMessage, at.Hub, string(at.ID), record.Above(sequence))
}

// CountQueued implements hub.Queues.
func (s *Store) CountQueued(ctx context.Context, host string, first, last device.ID, now time.Time) (map[device.ID]int, error) {
	counted := make(map[device.ID]int)
	err := s.read(ctx, func(c *conn) error {
		return c.each(func(r *record.Row) error {
			id := device.ID(r.Text())
			counted[id] = int(r.Number())
			return nil
		}, countQueued, host, string(first), string(last), record.Nanoseconds(now))
	})
	return counted, err
}

// ExpiredQueues implements hub.Queues.
func (s *Store) ExpiredQueues(ctx context.Context, now time.Time, limit int) ([]hub.Place, error) {
	return list(ctx, s, record.Place, selectExpiredQueues, record.Nanoseconds(now), record.Limit(limit))
}

// LockFeedback implements hub.Queues.
func (s *Store) LockFeedback(ctx context.Context, host, token string, now, until time.Time, limit int) (locked []*hub.Feedback, err error) {
	err = s.write(ctx, func(t *tx) (err error) {
		if err := t.exec(lockFeedback, token, record.Nanoseconds(until), host, record.Nanoseconds(now), record.Limit(limit)); err != nil {
			return err
		}
		locked, err = all(t.conn, record.Feedback, selectFeedback, host, token)
		return err
	})
	return locked, err
}

// SettleFeedback implements hub.Queues.
func (s *Store) SettleFeedback(ctx context.Context, host, token string, now time.Time, remove bool) (settled int, err error) {
	settle := unlockFeedback
	if remove {
		settle = "DELETE" + lockedFeedback
	}
	err = s.write(ctx, func(t *tx) error {
		n, err := t.number("SELECT count(*)"+lockedFeedback, host, token, record.Nanoseconds(now))
		if settled = int(n); err != nil || n == 0 {
			return err
		}
		return t.exec(settle, host, token, record.Nanoseconds(now))
	})
	return settled, err
}

// TrimFeedback implements hub.Queues.
func (s *Store) TrimFeedback(ctx context.Context, before time.Time) error {
	return s.write(ctx, func(t *tx) error { return t.exec(deleteFeedback, record.Nanoseconds(before)) })
}

// Subscription implements hub.Queues.
func (s *Store) Subscription(ctx context.Context, at hub.Place) (qos *byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.each(func(r *record.Row) error { qos = record.QoS(r); return nil }, selectSubscription, at.Hub, string(at.ID))
	})
	return qos, err
}

// KeepSubscription implements hub.Queues.
func (s *Store) KeepSubscription(ctx context.Context, at hub.Place, qos *byte) error {
	return s.write(ctx, func(t *tx) error {
		if qos == nil {
			return t.exec(deleteSubscription, at.Hub, string(at.ID))
		}
		return t.exec(putSubscription, at.Hub, string(at.ID), int64(*qos))
	})
}
