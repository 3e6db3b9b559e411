package hub

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/hubtopic"
)

const (
	// FeedbackBatch is how much feedback is given out at once.
	FeedbackBatch = 64
	feedbackLock  = time.Minute
	// feedbackKept is how long feedback waits for somebody who takes it.
	feedbackKept = 48 * time.Hour
	// expireBatch is how many queues are looked at between two looks for more.
	expireBatch = 100

	maxMessageID = 128       // characters
	maxTopic     = 1<<16 - 1 // bytes, of MQTT
)

// The system properties of a message to a device.
const (
	messageID      = "message-id"
	destination    = "to"
	absoluteExpiry = "absolute-expiry-time"
)

// senderProperties are the system properties that a sender sets. All of them are
// text without a form of its own.
var senderProperties = []string{messageID, "correlation-id", "user-id", "content-type", "content-encoding"}

// Send puts a message into a device's queue and returns its message-id, which is
// drawn where there is none. Of m only System (message-id, correlation-id,
// user-id, content-type, content-encoding), Properties, Body, Ack and Expiry are
// taken; without an Expiry it is an hour. It takes ServiceConnect. The message is
// durable when Send returns nil; a device that is connected gets it at once.
//
// Errors: errs.Forbidden with the code of a full queue; errs.TooLarge;
// errs.Invalid for properties that some client could not read.
func (s *Service) Send(ctx context.Context, caller access.Caller, hub string, id device.ID, m CloudMessage) (string, error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return "", err
	}
	sent, err := s.sent(id, m)
	if err != nil {
		return "", err
	}
	err = s.changeQueue(ctx, Place{Hub: hub, ID: id}, func(q *queue) error { return q.add(sent) })
	if err != nil {
		return "", fmt.Errorf("sending to device %q of %s: %w", id, hub, err)
	}
	s.Wake(Place{Hub: hub, ID: id})
	return sent.System[messageID], nil
}

// sent checks a message and returns what of it goes into the queue.
func (s *Service) sent(id device.ID, m CloudMessage) (*CloudMessage, error) {
	now := s.now()
	kept := &CloudMessage{Enqueued: now, Expiry: now.Add(usualTimeToLive), Ack: m.Ack, System: make(map[string]string), Properties: m.Properties, Body: m.Body}
	switch m.Ack {
	case "":
		kept.Ack = AckNone
	case AckNone, AckPositive, AckNegative, AckFull:
	default:
		return nil, invalid("ack must be none, positive, negative or full")
	}
	if !m.Expiry.IsZero() {
		if !m.Expiry.After(now) || m.Expiry.After(now.Add(MaxTimeToLive)) {
			return nil, invalid("the expiry is not within the next %d hours", MaxTimeToLive/time.Hour)
		}
		kept.Expiry = m.Expiry
		kept.System[absoluteExpiry] = systemTime(m.Expiry)
	}
	kept.System[destination] = hubtopic.Destination(string(id))
	for _, name := range senderProperties {
		if value := m.System[name]; value != "" {
			kept.System[name] = value
		}
	}
	if kept.System[messageID] == "" {
		var err error
		if kept.System[messageID], err = s.newUUID(); err != nil {
			return nil, err
		}
	}
	if err := checkProperties(kept.System, kept.Properties); err != nil {
		return nil, err
	}
	if n := (Message{System: kept.System, Properties: kept.Properties, Body: kept.Body}).size(); n > MaxCloudMessageSize {
		return nil, errs.New(errs.TooLarge, errs.CodeMessageTooLarge, "over %d bytes, properties included", MaxCloudMessageSize)
	}
	if len(kept.Topic(id)) > maxTopic {
		return nil, errs.New(errs.TooLarge, errs.CodeMessageTooLarge, "the properties do not fit into a topic of MQTT")
	}
	return kept, nil
}

// checkProperties refuses properties that do not reach every device: the names
// are those of HTTP headers, and some clients cannot read an empty value.
func checkProperties(system, application map[string]string) error {
	if id := system[messageID]; len(id) > maxMessageID {
		return invalid("message-id has %d characters; %d are allowed", len(id), maxMessageID)
	}
	for name, value := range application {
		switch {
		case name == "" || strings.ContainsFunc(name, notInName):
			return invalid("the property name %.50q is not made of ASCII letters, digits and !#$%%&'*+-.^_`|~", name)
		case strings.HasPrefix(name, "$.") || strings.HasPrefix(strings.ToLower(name), "iothub-"):
			return invalid("the property name %.50q is one of the hub's own", name)
		case value == "":
			return invalid("the property %.50q has no value", name)
		}
	}
	for _, properties := range []map[string]string{system, application} {
		for name, value := range properties {
			if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' }) {
				return invalid("the value of the property %.50q is not printable ASCII", name)
			}
		}
	}
	return nil
}

func notInName(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", c))
}

// Topic is the MQTT topic on which the device is sent the message.
func (m *CloudMessage) Topic(id device.ID) string {
	application := m.Properties
	if m.Ack != AckNone {
		if application = maps.Clone(m.Properties); application == nil {
			application = make(map[string]string)
		}
		application["iothub-ack"] = string(m.Ack)
	}
	return hubtopic.CloudMessage(string(id), m.System, application)
}

// changeQueue opens a device's queue and keeps what do makes of it. do may be
// called more than once.
func (s *Service) changeQueue(ctx context.Context, at Place, do func(*queue) error) error {
	return s.queues.ChangeQueue(ctx, at, func(generation string, messages []*CloudMessage) (QueueChange, error) {
		if generation == "" {
			return QueueChange{}, notFound(at)
		}
		q := openQueue(at, generation, messages, s.now())
		if err := do(q); err != nil {
			return QueueChange{}, err
		}
		return q.change, nil
	})
}

// ownQueue is changeQueue for the device itself.
func (s *Service) ownQueue(ctx context.Context, from Sender, do func(*queue) error) error {
	err := s.changeQueue(ctx, from.Place, func(q *queue) error {
		if q.generation != from.GenerationID {
			return notFound(from.Place) // another one has its name now
		}
		return do(q)
	})
	if err != nil {
		return fmt.Errorf("the queue of device %q of %s: %w", from.ID, from.Hub, err)
	}
	return nil
}

// Lock gives the device its first message that is not locked, and locks that for
// a time, or returns nil when there is none. What is not settled by then is there
// again.
func (s *Service) Lock(ctx context.Context, from Sender, lock time.Duration) (*CloudMessage, error) {
	if lock < MinMessageLock || lock > MaxMessageLock {
		return nil, invalid("the lock timeout is not between %d and %d seconds", MinMessageLock/time.Second, MaxMessageLock/time.Second)
	}
	token, err := s.newUUID()
	if err != nil {
		return nil, err
	}
	return s.take(ctx, from, func(q *queue) *CloudMessage { return q.lock(token, q.now.Add(lock)) })
}

// Deliver gives the device's connection its first message behind a sequence
// number, zero for all, or returns nil when there is none. Until it is
// [Service.Delivered] another connection is given it again.
func (s *Service) Deliver(ctx context.Context, from Sender, after uint64) (*CloudMessage, error) {
	return s.take(ctx, from, func(q *queue) *CloudMessage { return q.deliver(after) })
}

func (s *Service) take(ctx context.Context, from Sender, choose func(*queue) *CloudMessage) (*CloudMessage, error) {
	s.active(from, s.now())
	at := from.Place
	for {
		// Most queues are empty most of the time, and to see that takes no write.
		waiting, err := s.Waiting(ctx, from.Hub, from.ID, from.ID)
		if err != nil || waiting[from.ID] == 0 {
			return nil, err
		}
		var chosen *CloudMessage
		err = s.ownQueue(ctx, from, func(q *queue) error {
			chosen = choose(q)
			return nil
		})
		if err != nil || chosen == nil {
			return nil, err
		}
		body, err := s.queues.Queued(ctx, at, chosen.Sequence)
		if errs.KindOf(err) == errs.NotFound {
			continue // purged since
		}
		if err != nil {
			return nil, fmt.Errorf("reading a message to device %q of %s: %w", from.ID, from.Hub, err)
		}
		chosen.Body = body.Body
		return chosen, nil
	}
}

// Settle does what the device says about a message that it has locked. Where the
// lock has expired the error is of kind errs.Precondition.
func (s *Service) Settle(ctx context.Context, from Sender, lockToken string, how Settlement) error {
	return s.ownQueue(ctx, from, func(q *queue) error { return q.settle(lockToken, how) })
}

// Delivered completes a message that the device's connection has handed over.
func (s *Service) Delivered(ctx context.Context, from Sender, sequence uint64) error {
	return s.ownQueue(ctx, from, func(q *queue) error { q.complete(sequence); return nil })
}

// Purge removes all messages of a device's queue and returns how many these were.
// It takes ServiceConnect.
func (s *Service) Purge(ctx context.Context, caller access.Caller, hub string, id device.ID) (purged int, err error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return 0, err
	}
	err = s.changeQueue(ctx, Place{Hub: hub, ID: id}, func(q *queue) error { purged = q.purge(); return nil })
	if err != nil {
		return 0, fmt.Errorf("purging the queue of device %q of %s: %w", id, hub, err)
	}
	return purged, nil
}

// Waiting counts the messages in the queues of those devices of a hub whose IDs
// are between first and last, both included.
func (s *Service) Waiting(ctx context.Context, hub string, first, last device.ID) (map[device.ID]int, error) {
	counted, err := s.queues.CountQueued(ctx, hub, first, last, s.now())
	if err != nil {
		return nil, fmt.Errorf("counting the messages that wait at %s: %w", hub, err)
	}
	return counted, nil
}

// Feedback gives out the oldest feedback of a hub, up to [FeedbackBatch], under a
// lock of a minute, or nothing. It takes ServiceConnect.
func (s *Service) Feedback(ctx context.Context, caller access.Caller, hub string) (lockToken string, batch []*Feedback, err error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return "", nil, err
	}
	if lockToken, err = s.newUUID(); err != nil {
		return "", nil, err
	}
	now := s.now()
	if batch, err = s.queues.LockFeedback(ctx, hub, lockToken, now, now.Add(feedbackLock), FeedbackBatch); err != nil {
		return "", nil, fmt.Errorf("reading the feedback of %s: %w", hub, err)
	}
	return lockToken, batch, nil
}

// SettleFeedback removes a batch of feedback, or gives it back. Where its lock has
// expired the error is of kind errs.Precondition. It takes ServiceConnect.
func (s *Service) SettleFeedback(ctx context.Context, caller access.Caller, hub, lockToken string, how Settlement) error {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return err
	}
	n, err := s.queues.SettleFeedback(ctx, hub, lockToken, s.now(), how == Completed)
	if err != nil {
		return fmt.Errorf("settling feedback of %s: %w", hub, err)
	}
	if n == 0 {
		return errs.New(errs.Precondition, errs.CodeMessageLockLost, "The lock of the feedback has expired, or never was")
	}
	return nil
}

// Expire removes the messages to devices, of all hubs, that have expired, and old
// feedback that nobody took.
func (s *Service) Expire(ctx context.Context) error {
	for {
		places, err := s.queues.ExpiredQueues(ctx, s.now(), expireBatch)
		if err != nil {
			return fmt.Errorf("looking for expired messages: %w", err)
		}
		for _, at := range places {
			err := s.changeQueue(ctx, at, func(*queue) error { return nil })
			if err != nil && errs.KindOf(err) != errs.NotFound {
				return fmt.Errorf("expiring messages to device %q of %s: %w", at.ID, at.Hub, err)
			}
		}
		if len(places) < expireBatch {
			break
		}
	}
	if err := s.queues.TrimFeedback(ctx, s.now().Add(-feedbackKept)); err != nil {
		return fmt.Errorf("trimming feedback: %w", err)
	}
	return nil
}

// newUUID draws a random UUID.
func (s *Service) newUUID() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		return "", fmt.Errorf("drawing a UUID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}
