// Package hub is the IoT hub a device lands on: the identity registry, device
// twins and the telemetry stream. One process can hold several hubs, told apart
// by host name; each has its own devices.
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
	AuthSAS        AuthenticationType = "sas"
	AuthSelfSigned AuthenticationType = "selfSigned"
)

// An Authentication is how one device proves itself. SAS uses Keys,
// self-signed the thumbprints: SHA-1 (40) or SHA-256 (64 hexadecimal digits).
type Authentication struct {
	Type                                   AuthenticationType
	Keys                                   attest.SymmetricKeys
	PrimaryThumbprint, SecondaryThumbprint string
}

// A Device is one entry of the identity registry.
type Device struct {
	Hub           string // the hub's host name in lower case, without the port
	ID            device.ID
	GenerationID  string // changes when the ID is deleted and created again
	ETag          string
	Disabled      bool
	StatusReason  string // at most 128 characters
	StatusUpdated time.Time
	IoTEdge       bool
	Auth          Authentication
}

// A Twin is a device's document at the hub. Tags, Desired and Reported are
// JSON objects without $metadata and $version, which are made from the other
// members.
type Twin struct {
	Tags, Desired, Reported         json.RawMessage
	Version                         int64 // of the whole document; a fresh one has 2
	DesiredVersion, ReportedVersion int64 // of each section; a fresh one has 1
	DesiredUpdated, ReportedUpdated time.Time
}

// A Message is one device-to-cloud message.
type Message struct {
	Sequence   uint64 // position in the stream, assigned on append
	Hub        string
	DeviceID   device.ID
	Enqueued   time.Time
	System     map[string]string // system properties, by their names without prefix: "message-id"
	Properties map[string]string // application properties
	Body       []byte
}

// Registry keeps identities and twins. Each write is atomic and durable when
// it returns.
type Registry interface {
	// Device returns the identity, or an error of kind errs.NotFound.
	Device(ctx context.Context, hub string, id device.ID) (*Device, error)
	// Twin returns the device's twin, or an error of kind errs.NotFound.
	Twin(ctx context.Context, hub string, id device.ID) (*Twin, error)
	// Devices returns up to limit identities of a hub with IDs above after, in
	// the order of the bytes of their IDs.
	Devices(ctx context.Context, hub string, after device.ID, limit int) ([]*Device, error)
	// Statistics counts the devices of a hub.
	Statistics(ctx context.Context, hub string) (Statistics, error)
	// Change reads the identity and twin (nil, nil when there is none), lets
	// decide say what they become and writes that, all without another write
	// to the same device in between. Returning a nil Device removes both. An
	// error from decide is returned as it is, and nothing is written. decide
	// must not call the store and may be called more than once.
	Change(ctx context.Context, hub string, id device.ID, decide func(*Device, *Twin) (*Device, *Twin, error)) error
	// Move is Change for a device that leaves the place from, which is another
	// one: decide is given the identity and twin at the destination, and those
	// left behind (each nil when there is none). What was at from is removed
	// with the same commit.
	Move(ctx context.Context, from Place, hub string, id device.ID, decide func(at *Device, twin *Twin, left *Device, leftTwin *Twin) (*Device, *Twin, error)) error
}

// Statistics count the devices of a hub.
type Statistics struct{ Total, Disabled int }

// A Place is a device identity at a hub.
type Place struct {
	Hub string // as in Device
	ID  device.ID
}

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
	// Trim removes messages enqueued before the given time.
	Trim(ctx context.Context, before time.Time) (removed int, err error)
}
