package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// A queue changes under the lock of its device's row.
	lockGeneration     = "SELECT generation_id FROM device WHERE hub = $1 AND id = $2 FOR UPDATE"
	selectQueue        = "SELECT " + record.QueueElementColumns + " FROM cloud_message WHERE hub = $1 AND device_id = $2 ORDER BY sequence"
	selectCloudMessage = "SELECT " + record.CloudMessageColumns + " FROM cloud_message WHERE hub = $1 AND device_id = $2 AND sequence = $3"
	updateCloudMessage = "UPDATE cloud_message SET lock_token = $1, locked_until = $2, deliveries = $3 WHERE hub = $4 AND device_id = $5 AND sequence = $6"
	deleteCloudMessage = "DELETE FROM cloud_message WHERE hub = $1 AND device_id = $2 AND sequence = $3"
	countQueued        = `SELECT device_id, count(*) FROM cloud_message
		WHERE hub = $1 AND device_id BETWEEN $2 AND $3 AND expiry > $4 GROUP BY device_id`
	selectExpiredQueues = "SELECT DISTINCT hub, device_id FROM cloud_message WHERE expiry <= $1 LIMIT $2"

	// Others may be locking at the same time; each gets its own.
	lockFeedback = `UPDATE feedback SET lock_token = $1, locked_until = $2 WHERE sequence IN (
		SELECT sequence FROM feedback WHERE hub = $3 AND locked_until <= $4 ORDER BY sequence LIMIT $5 FOR UPDATE SKIP LOCKED)`
	selectFeedback = "SELECT " + record.FeedbackColumns + " FROM feedback WHERE hub = $1 AND lock_token = $2 ORDER BY sequence"
	lockedFeedback = " WHERE hub = $1 AND lock_token = $2 AND locked_until > $3"
	unlockFeedback = "UPDATE feedback SET lock_token = '', locked_until = 0"
	deleteFeedback = "DELETE FROM feedback WHERE ended < $1"

	selectSubscription = "SELECT qos FROM subscription WHERE hub = $1 AND id = $2"
	deleteSubscription = "DELETE FROM subscription WHERE hub = $1 AND id = $2"
	putSubscription    = `INSERT INTO subscription (hub, id, qos) SELECT hub, id, $3::bigint FROM device WHERE hub = $1 AND id = $2
		ON CONFLICT (hub, id) DO UPDATE SET qos = excluded.qos`
)

var (
	insertCloudMessage = insert("cloud_message", record.NewMessageColumns)
	insertFeedback     = insert("feedback", record.FeedbackColumns)
)

const tellQueued = "SELECT pg_notify('" + queueChannel + "', $1)"

// OnQueued has tell called, from now on, with every device to which this server
// or another one has queued messages; with the zero Place where that may be any
// device. tell must not wait. Should a notification be lost, so is that call.
func (s *Store) OnQueued(tell func(hub.Place)) { s.queued.Store(&tell) }

func (s *Store) tellQueued(at hub.Place) {
	if tell := s.queued.Load(); tell != nil {
		(*tell)(at)
	}
}

// ChangeQueue implements hub.Queues.
func (s *Store) ChangeQueue(ctx context.Context, at hub.Place, decide func(generation string, queue []*hub.CloudMessage) (hub.QueueChange, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		generation, queue := "", []*hub.CloudMessage(nil)
		err := t.read(ctx,
			query{func(r *record.Row) error { generation = r.Text(); return nil }, lockGeneration, []any{at.Hub, string(at.ID)}},
			query{func(r *record.Row) error {
				m, err := record.QueueElement(r)
				queue = append(queue, m)
				return err
			}, selectQueue, []any{at.Hub, string(at.ID)}})
		if err != nil {
			return err
		}
		change, err := decide(generation, queue)
		if err != nil {
			return err
		}
		for _, m := range change.Update {
			t.write(updateCloudMessage, record.DeliveryValues(at, m)...)
		}
		for _, sequence := range change.Remove {
			t.write(deleteCloudMessage, at.Hub, string(at.ID), record.Above(sequence))
		}
		for _, m := range change.Add {
			t.write(insertCloudMessage, record.NewMessageValues(at, m)...)
		}
		if len(change.Add) > 0 {
			t.write(tellQueued, place(at))
		}
		for _, f := range change.Feedback {
			t.write(insertFeedback, record.FeedbackValues(f)...)
		}
		return nil
	})
}

// Queued implements hub.Queues.
func (s *Store) Queued(ctx context.Context, at hub.Place, sequence uint64) (*hub.CloudMessage, error) {
	return find(ctx, s, record.NoCloudMessage(), record.CloudMessage, selectCloudMessage, at.Hub, string(at.ID), record.Above(sequence))
}

// CountQueued implements hub.Queues.
func (s *Store) CountQueued(ctx context.Context, host string, first, last device.ID, now time.Time) (map[device.ID]int, error) {
	counted := make(map[device.ID]int)
	err := s.query(ctx, func(r *record.Row) error {
		id := device.ID(r.Text())
		counted[id] = int(r.Number())
		return nil
	}, countQueued, host, string(first), string(last), record.Nanoseconds(now))
	return counted, err
}

// ExpiredQueues implements hub.Queues.
func (s *Store) ExpiredQueues(ctx context.Context, now time.Time, limit int) ([]hub.Place, error) {
	return list(ctx, s, record.Place, selectExpiredQueues, record.Nanoseconds(now), record.Limit(limit))
}

// LockFeedback implements hub.Queues.
func (s *Store) LockFeedback(ctx context.Context, host, token string, now, until time.Time, limit int) ([]*hub.Feedback, error) {
	err := s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(lockFeedback, token, record.Nanoseconds(until), host, record.Nanoseconds(now), record.Limit(limit))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list(ctx, s, record.Feedback, selectFeedback, host, token)
}

// SettleFeedback implements hub.Queues.
func (s *Store) SettleFeedback(ctx context.Context, host, token string, now time.Time, remove bool) (settled int, err error) {
	settle := unlockFeedback + lockedFeedback
	if remove {
		settle = "DELETE FROM feedback" + lockedFeedback
	}
	err = s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(settle, host, token, record.Nanoseconds(now)).Exec(func(tag pgconn.CommandTag) error {
			settled = int(tag.RowsAffected())
			return nil
		})
		return nil
	})
	return settled, err
}

// TrimFeedback implements hub.Queues.
func (s *Store) TrimFeedback(ctx context.Context, before time.Time) error {
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(deleteFeedback, record.Nanoseconds(before))
		return nil
	})
}

// Subscription implements hub.Queues.
func (s *Store) Subscription(ctx context.Context, at hub.Place) (qos *byte, err error) {
	err = s.query(ctx, func(r *record.Row) error { qos = record.QoS(r); return nil }, selectSubscription, at.Hub, string(at.ID))
	return qos, err
}

// KeepSubscription implements hub.Queues.
func (s *Store) KeepSubscription(ctx context.Context, at hub.Place, qos *byte) error {
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		if qos == nil {
			t.write(deleteSubscription, at.Hub, string(at.ID))
			return nil
		}
		t.write(putSubscription, at.Hub, string(at.ID), int64(*qos))
		return nil
	})
}
