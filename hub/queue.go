package hub

import (
	"time"

	"github.com/berth-iot/berth/errs"
)

// The documented limits of cloud-to-device messages.
const (
	MaxQueued           = 50       // messages of one device
	MaxCloudMessageSize = 64 << 10 // bytes, properties included
	MaxDeliveries       = 10       // of one message
	MaxTimeToLive       = 48 * time.Hour
	usualTimeToLive     = time.Hour
	MinMessageLock      = 5 * time.Second
	MaxMessageLock      = 300 * time.Second
	UsualMessageLock    = time.Minute
)

// A Settlement is what a device says about a message that it has locked.
type Settlement int

// The settlements.
const (
	Completed Settlement = iota + 1
	Rejected             // it is not to be delivered any more
	Abandoned            // it is to be delivered again
)

// A queue is a device's queue while one operation decides about it. It gathers
// what becomes of it; nothing else happens here.
type queue struct {
	at         Place
	generation string // of the device
	now        time.Time
	messages   []*CloudMessage // in order
	change     QueueChange
}

// openQueue returns the queue as it is at an instant: expired messages are gone,
// and locks that have expired are off. Such a delivery does not count.
func openQueue(at Place, generation string, messages []*CloudMessage, now time.Time) *queue {
	q := &queue{at: at, generation: generation, now: now}
	for _, m := range messages {
		if !now.Before(m.Expiry) {
			q.end(m, OutcomeExpired)
			continue
		}
		if m.LockToken != "" && !now.Before(m.LockedUntil) {
			m.Deliveries--
			q.unlock(m)
		}
		q.messages = append(q.messages, m)
	}
	return q
}

// end takes m out of the queue, with feedback where its sender wants it.
func (q *queue) end(m *CloudMessage, outcome Outcome) {
	q.change.Remove = append(q.change.Remove, m.Sequence)
	for i, other := range q.messages {
		if other == m {
			q.messages = append(q.messages[:i:i], q.messages[i+1:]...)
			break
		}
	}
	wanted := m.Ack == AckFull || m.Ack == AckPositive && outcome == OutcomeSuccess || m.Ack == AckNegative && outcome != OutcomeSuccess
	if wanted {
		q.change.Feedback = append(q.change.Feedback, Feedback{
			Hub: q.at.Hub, DeviceID: q.at.ID, GenerationID: q.generation,
			MessageID: m.System[messageID], Ended: q.now, Outcome: outcome,
		})
	}
}

func (q *queue) unlock(m *CloudMessage) {
	m.LockToken, m.LockedUntil = "", time.Time{}
	q.change.Update = append(q.change.Update, m)
}

// add puts m behind the others, unless there are too many.
func (q *queue) add(m *CloudMessage) error {
	if len(q.messages) >= MaxQueued {
		return errs.New(errs.Forbidden, errs.CodeQueueFull, "The device has %d messages waiting; no more are taken", len(q.messages))
	}
	q.change.Add = append(q.change.Add, m)
	return nil
}

// lock gives out the first message that is not locked, or nil. Those that were
// given out too often end here.
func (q *queue) lock(token string, until time.Time) *CloudMessage {
	for _, m := range q.messages {
		switch {
		case m.LockToken != "":
		case m.Deliveries >= MaxDeliveries:
			q.end(m, OutcomeDeliveryCountExceeded)
		default:
			m.LockToken, m.LockedUntil = token, until
			return q.given(m)
		}
	}
	return nil
}

// deliver gives out the first message behind a sequence number, or nil, to a
// connection that it is the connection's alone: a lock of before is off.
func (q *queue) deliver(after uint64) *CloudMessage {
	for _, m := range q.messages {
		switch {
		case m.Sequence <= after:
		case m.Deliveries >= MaxDeliveries:
			q.end(m, OutcomeDeliveryCountExceeded)
		default:
			m.LockToken, m.LockedUntil = "", time.Time{}
			return q.given(m)
		}
	}
	return nil
}

func (q *queue) given(m *CloudMessage) *CloudMessage {
	m.Deliveries++
	q.change.Update = append(q.change.Update, m)
	return m
}

// settle does what a device says about the message with a lock.
func (q *queue) settle(token string, how Settlement) error {
	for _, m := range q.messages {
		if m.LockToken == "" || m.LockToken != token {
			continue
		}
		switch {
		case how == Completed:
			q.end(m, OutcomeSuccess)
		case how == Rejected:
			q.end(m, OutcomeRejected)
		case m.Deliveries >= MaxDeliveries:
			q.end(m, OutcomeDeliveryCountExceeded)
		default:
			q.unlock(m)
		}
		return nil
	}
	return errs.New(errs.Precondition, errs.CodeMessageLockLost, "The lock of the message has expired, or never was")
}

// complete ends the message of a sequence number, if it is still there.
func (q *queue) complete(sequence uint64) {
	for _, m := range q.messages {
		if m.Sequence == sequence {
			q.end(m, OutcomeSuccess)
			return
		}
	}
}

// purge ends all messages, and returns how many these are.
func (q *queue) purge() int {
	n := len(q.messages)
	for _, m := range q.messages {
		q.end(m, OutcomePurged)
	}
	return n
}
