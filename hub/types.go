// Package hub is the IoT hub a device lands on: the registry of devices and modules
// and who may speak for them, their twins and the queries over those, the telemetry
// stream and the routes that take it on, the queues of messages to devices, direct
// methods, and the configurations that go to many twins. One process can hold several
// hubs, told apart by host name; each has its own devices.
package hub

import (
	"context"
	"encoding/json"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
)

// An AuthenticationType says how a device proves itself to the hub, spelled as
// in the registry's JSON.
type AuthenticationType string

// The authentication types this hub knows.
const (
	AuthSAS                  AuthenticationType = "sas"
	AuthSelfSigned           AuthenticationType = "selfSigned"
	AuthCertificateAuthority AuthenticationType = "certificateAuthority"
	AuthNone                 AuthenticationType = "none"
)

// An Authentication is how one device or module proves itself. SAS uses Keys,
// self-signed the thumbprints: SHA-1 (40) or SHA-256 (64 hexadecimal digits).
// Certificate authority and none use neither.
type Authentication struct {
	Type                                   AuthenticationType
	Keys                                   attest.SymmetricKeys
	PrimaryThumbprint, SecondaryThumbprint string
}

// A Place is where an identity is: a device at a hub, or a module of a device.
type Place struct {
	Hub    string // the hub's host name in lower case, without the port
	ID     device.ID
	Module device.ID // empty for the device itself
}

// Device is the place of the device that a module is of, or the device's own.
func (p Place) Device() Place { return Place{Hub: p.Hub, ID: p.ID} }

// String returns the ID of the device, followed by a slash and that of the module
// where it is one: what clients call themselves.
func (p Place) String() string {
	if p.Module == "" {
		return string(p.ID)
	}
	return string(p.ID) + "/" + string(p.Module)
}

// An Identity is one entry of the identity registry: that of a device or of a
// module. Modules have no status: they are as enabled as their device.
type Identity struct {
	Place
	GenerationID  string // changes when the ID is deleted and created again
	ETag          string
	Disabled      bool   // of a device
	StatusReason  string // of a device: at most 128 characters
	StatusUpdated time.Time
	IoTEdge       bool   // of a device
	ParentScope   string // of a device: the device scope of the IoT Edge device that it is a child of, or empty
	ManagedBy     string // of a module: at most 128 characters
	Auth          Authentication
}

// A Twin is the document of a device or a module at the hub. Tags, Desired and
// Reported are JSON objects without $metadata and $version, which are made from
// the other members.
type Twin struct {
	Tags, Desired, Reported         json.RawMessage
	Version                         int64 // of the whole document; a fresh one has 2
	DesiredVersion, ReportedVersion int64 // of each section; a fresh one has 1
	DesiredUpdated, ReportedUpdated time.Time
	// DesiredMetadata and ReportedMetadata are $metadata, or nil where all of a
	// section was written at once: with its version, at its time.
	DesiredMetadata, ReportedMetadata json.RawMessage
	Configurations                    json.RawMessage // a JSON object of what stands under "configurations", or nil
	ModelID                           string          // the DTDL model that the device names when it connects, or empty
}

// A Message is one device-to-cloud message.
type Message struct {
	Sequence   uint64 // position in the stream, assigned on append
	Hub        string
	DeviceID   device.ID
	ModuleID   device.ID // empty for the device itself
	Enqueued   time.Time
	System     map[string]string // system properties, by their names without prefix: "message-id"
	Properties map[string]string // application properties
	Body       []byte
}

// Registry keeps identities and twins. Each write is atomic and durable when
// it returns.
type Registry interface {
	// Identity returns the identity, or an error of kind errs.NotFound.
	Identity(ctx context.Context, at Place) (*Identity, error)
	// Twin returns the twin of a device or a module, or an error of kind errs.NotFound.
	Twin(ctx context.Context, at Place) (*Twin, error)
	// Devices returns up to limit identities of devices of a hub with IDs above
	// after, in the order of the bytes of their IDs.
	Devices(ctx context.Context, hub string, after device.ID, limit int) ([]*Identity, error)
	// Modules returns the identities of a device's modules, in the order of the
	// bytes of their IDs.
	Modules(ctx context.Context, hub string, id device.ID) ([]*Identity, error)
	// Children returns up to limit identities of devices of a hub whose parent has
	// the device scope, which is not empty, with IDs above after, in the order of
	// the bytes of their IDs.
	Children(ctx context.Context, hub, scope string, after device.ID, limit int) ([]*Identity, error)
	// Statistics counts the devices of a hub.
	Statistics(ctx context.Context, hub string) (Statistics, error)
	// Change reads the identity and twin (nil, nil when there is none), lets
	// decide say what they become and writes that, all without another write
	// to the same place in between. Returning a nil Identity removes both, and
	// with a device its modules. Where a module of a device that does not exist is
	// written, the error is of kind errs.NotFound with the code of a missing device. An
	// error from decide is returned as it is, and nothing is written. decide
	// must not call the store and may be called more than once.
	Change(ctx context.Context, at Place, decide func(*Identity, *Twin) (*Identity, *Twin, error)) error
	// Move is Change for a device that leaves the place from, which is another
	// one: decide is given the identity and twin at the destination, and those
	// left behind (each nil when there is none). What was at from is removed
	// with the same commit, its modules included.
	Move(ctx context.Context, from, to Place, decide func(at *Identity, twin *Twin, left *Identity, leftTwin *Twin) (*Identity, *Twin, error)) error
	// Together makes one commit of everything that do writes to the store with the
	// context that it is given, or of nothing when do fails. What do reads with that
	// context, it finds as it wrote it. do may be called more than once.
	Together(ctx context.Context, do func(context.Context) error) error
	Finder
}

// Statistics count the devices of a hub.
type Statistics struct{ Total, Disabled int }

// A Stream keeps telemetry in order of arrival.
type Stream interface {
	// Append gives each message its sequence number and keeps them all or
	// none. They are durable when it returns.
	Append(ctx context.Context, ms []*Message) error
	// Read returns up to limit messages with sequence numbers above after, in
	// order, of one hub, or of all when hub is empty.
	Read(ctx context.Context, hub string, after uint64, limit int) ([]*Message, error)
	// LastSequence returns the newest sequence number, zero when there is none.
	LastSequence(ctx context.Context) (uint64, error)
	// Trim removes messages that need not be kept, the oldest first. A stream that
	// removes many at once removes them when all of them may go, except that it
	// keeps to the size.
	Trim(ctx context.Context, keep Retention) (removed int, err error)
}

// A Retention says which messages a stream keeps. The zero value is all of them.
type Retention struct {
	// Before is the time before which a message was enqueued that may go. The zero
	// time is never.
	Before time.Time
	// Bytes is how much a stream keeps at most; older messages go. Zero is without
	// end.
	Bytes int64
}

// An Ack says of which ends of a message to a device its sender wants to hear,
// spelled as in the message property iothub-ack.
type Ack string

// The kinds of acknowledgement.
const (
	AckNone     Ack = "none"
	AckPositive Ack = "positive" // when the device completed it
	AckNegative Ack = "negative" // when it did not
	AckFull     Ack = "full"
)

// A CloudMessage is a cloud-to-device message in its device's queue. It is
// enqueued, or else locked: then it has a LockToken, and is enqueued again at
// LockedUntil.
type CloudMessage struct {
	Sequence    uint64 // its place in the queue, assigned when it is added
	Enqueued    time.Time
	Expiry      time.Time
	LockToken   string    // empty unless it is locked
	LockedUntil time.Time // zero unless it is locked
	Deliveries  int       // how often the device was given it
	Ack         Ack
	System      map[string]string // as in Message
	Properties  map[string]string // application properties
	Body        []byte
}

// An Outcome is how a message to a device ended, spelled as in feedback.
type Outcome string

// The outcomes.
const (
	OutcomeSuccess               Outcome = "Success"
	OutcomeExpired               Outcome = "Expired"
	OutcomeDeliveryCountExceeded Outcome = "DeliveryCountExceeded"
	OutcomeRejected              Outcome = "Rejected"
	OutcomePurged                Outcome = "Purged"
)

// A Feedback says how one message to a device ended.
type Feedback struct {
	Hub          string // as in Place
	DeviceID     device.ID
	GenerationID string // of the device
	MessageID    string
	Ended        time.Time
	Outcome      Outcome
}

// A QueueChange is what becomes of a device's queue.
type QueueChange struct {
	Add      []*CloudMessage // behind what is there; their Sequence is assigned
	Update   []*CloudMessage // LockToken, LockedUntil and Deliveries of those in the queue
	Remove   []uint64        // sequence numbers
	Feedback []Feedback
}

// Queues keeps messages to devices until they are settled, and the feedback
// about them until somebody took it. Each write is atomic and durable when it
// returns. A queue goes with its device's identity.
type Queues interface {
	// ChangeQueue gives decide the generation ID of the device, empty when there
	// is none, and its queue in order, without the bodies, and makes the change
	// that decide returns, all without another write to the same queue in
	// between. An error from decide is returned as it is, and nothing is
	// written. decide must not call the store and may be called more than once.
	ChangeQueue(ctx context.Context, at Place, decide func(generation string, queue []*CloudMessage) (QueueChange, error)) error
	// Queued returns one message of a queue with its body, or an error of kind
	// errs.NotFound.
	Queued(ctx context.Context, at Place, sequence uint64) (*CloudMessage, error)
	// CountQueued counts the messages that have not expired of those devices of a
	// hub whose IDs are between first and last, both included, in the order of
	// the bytes of their IDs. Those without any are left out.
	CountQueued(ctx context.Context, hub string, first, last device.ID, now time.Time) (map[device.ID]int, error)
	// ExpiredQueues returns up to limit devices in whose queues messages have
	// expired.
	ExpiredQueues(ctx context.Context, now time.Time, limit int) ([]Place, error)
	// LockFeedback puts a hub's oldest feedback, up to limit of what is not
	// locked, under the lock token until a time, and returns it in order.
	LockFeedback(ctx context.Context, hub, token string, now, until time.Time, limit int) ([]*Feedback, error)
	// SettleFeedback removes what is locked under token, or else unlocks it, and
	// returns how many that are: zero when the lock has expired.
	SettleFeedback(ctx context.Context, hub, token string, now time.Time, remove bool) (settled int, err error)
	// TrimFeedback removes the feedback about messages that ended before the
	// given time.
	TrimFeedback(ctx context.Context, before time.Time) error
	// Subscription returns with which quality of service a device is to have its
	// messages without asking for them, nil for only when it asks.
	Subscription(ctx context.Context, at Place) (qos *byte, err error)
	// KeepSubscription keeps that until the identity goes. Of a device that is not
	// there it keeps nothing.
	KeepSubscription(ctx context.Context, at Place, qos *byte) error
}
