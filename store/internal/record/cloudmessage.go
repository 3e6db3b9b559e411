package record

import (
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// Columns are in the order in which their readers and values go through them.
// The first one of a message in a queue is assigned when it is added, and an
// element of the queue has no body.
const (
	QueueElementColumns = "sequence, enqueued, expiry, lock_token, locked_until, deliveries, ack, system, properties"
	CloudMessageColumns = QueueElementColumns + ", body"
	NewMessageColumns   = "hub, device_id, enqueued, expiry, lock_token, locked_until, deliveries, ack, system, properties, body"
	FeedbackColumns     = "hub, device_id, generation_id, message_id, ended, outcome"
)

// QueueElement reads the row of a message in a queue.
func QueueElement(r *Row) (*hub.CloudMessage, error) {
	m := &hub.CloudMessage{
		Sequence: uint64(r.Number()), Enqueued: r.Time(), Expiry: r.Time(), LockToken: r.Text(), LockedUntil: r.Time(),
		Deliveries: int(r.Number()), Ack: hub.Ack(r.Text()),
	}
	if err := r.decode(&m.System); err != nil {
		return nil, err
	}
	return m, r.decode(&m.Properties)
}

// CloudMessage is QueueElement with the body.
func CloudMessage(r *Row) (*hub.CloudMessage, error) {
	m, err := QueueElement(r)
	if err == nil {
		m.Body = r.Blob()
	}
	return m, err
}

// NewMessageValues returns the row of a message that is added to a queue.
func NewMessageValues(at hub.Place, m *hub.CloudMessage) []any {
	return []any{
		at.Hub, string(at.ID), Nanoseconds(m.Enqueued), Nanoseconds(m.Expiry), m.LockToken, nanoseconds(m.LockedUntil),
		int64(m.Deliveries), string(m.Ack), Properties(m.System), Properties(m.Properties), m.Body,
	}
}

// DeliveryValues returns what changes of a message in a queue: lock_token,
// locked_until and deliveries, with the key behind them.
func DeliveryValues(at hub.Place, m *hub.CloudMessage) []any {
	return []any{m.LockToken, nanoseconds(m.LockedUntil), int64(m.Deliveries), at.Hub, string(at.ID), Above(m.Sequence)}
}

// Feedback reads the row of a feedback.
func Feedback(r *Row) (*hub.Feedback, error) {
	return &hub.Feedback{
		Hub: r.Text(), DeviceID: device.ID(r.Text()), GenerationID: r.Text(), MessageID: r.Text(), Ended: r.Time(), Outcome: hub.Outcome(r.Text()),
	}, nil
}

// FeedbackValues returns the row of a feedback.
func FeedbackValues(f hub.Feedback) []any {
	return []any{f.Hub, string(f.DeviceID), f.GenerationID, f.MessageID, Nanoseconds(f.Ended), string(f.Outcome)}
}

// Place reads a device's hub and ID.
func Place(r *Row) (hub.Place, error) { return hub.Place{Hub: r.Text(), ID: device.ID(r.Text())}, nil }

// QoS reads a quality of service of MQTT.
func QoS(r *Row) *byte {
	qos := byte(r.Number())
	return &qos
}
