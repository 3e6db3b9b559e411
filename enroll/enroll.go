// Package enroll holds the rules about who may come in: individual enrollments
// and enrollment groups, what makes one valid, and how changes to one are
// guarded by entity tags. It stores nothing.
package enroll

import (
	"context"
	"encoding/json"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
)

// A Kind tells an individual enrollment from an enrollment group.
type Kind string

// The two kinds of enrollment.
const (
	Individual Kind = "individual"
	Group      Kind = "group"
)

// An Entry is one enrollment, individual or group. The two share all but three
// members, which are marked.
type Entry struct {
	Scope device.IDScope
	Kind  Kind
	// ID is the registration ID or the enrollment group ID as its creator
	// spelled it; it is compared without case (see Key).
	ID string
	// DeviceID is the name at the hub; empty means the registration ID.
	// Individual only.
	DeviceID device.ID
	// OptionalDeviceInformation is a JSON object kept for its owner.
	// Individual only.
	OptionalDeviceInformation json.RawMessage

	Attestation          attest.Mechanism
	Disabled             bool // provisioningStatus "disabled"
	IoTEdge              bool // capabilities.iotEdge
	InitialTwin          *InitialTwin
	Reprovision          *ReprovisionPolicy
	Allocation           AllocationPolicy // empty means the service's default
	IoTHubs              []string         // host names; empty means every linked hub
	IoTHub               string           // iotHubHostName: the legacy pin to one hub
	Custom               *CustomAllocation
	CredentialPolicyName string

	ETag    string // opaque token, unquoted
	Created time.Time
	Updated time.Time
}

// Key returns the form of the ID by which entries are told apart.
func (e *Entry) Key() device.RegistrationID {
	id, _ := device.ParseRegistrationID(e.ID)
	return id
}

// An InitialTwin is what a device's twin starts with. Each member is a JSON
// object or nil.
type InitialTwin struct{ Tags, Desired json.RawMessage }

// A ReprovisionPolicy says what happens when an assigned device registers
// again. A nil policy means both true.
type ReprovisionPolicy struct {
	UpdateHubAssignment bool `json:"updateHubAssignment"`
	MigrateDeviceData   bool `json:"migrateDeviceData"`
}

// An AllocationPolicy says how a hub is chosen among the candidates.
type AllocationPolicy string

// The allocation policies, spelled as the service API answers them.
const (
	Hashed     AllocationPolicy = "hashed"
	GeoLatency AllocationPolicy = "geoLatency"
	Static     AllocationPolicy = "static"
	Custom     AllocationPolicy = "custom"
)

// A CustomAllocation says who chooses under allocation policy "custom": a
// webhook or an expression.
type CustomAllocation struct {
	// WebhookURL is where to ask. Its query may hold a key: it is a secret.
	WebhookURL string `json:"webhookUrl,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"` // of the webhook: YYYY-MM-DD with an optional -preview
	// Expression is in the Common Expression Language (CEL) and evaluated by the
	// service itself.
	Expression string `json:"expression,omitempty"`
}

// Store keeps enrollments. Each write is atomic and durable when it returns.
type Store interface {
	// Entry returns one enrollment, or an error of kind errs.NotFound.
	Entry(ctx context.Context, scope device.IDScope, kind Kind, key device.RegistrationID) (*Entry, error)
	// ChangeEntry reads one enrollment (nil when there is none), lets decide
	// say what it becomes and writes that, with no other write to it in
	// between. Returning nil removes it. An error from decide is returned as it
	// is and nothing is written. decide must not call the store and may be
	// called more than once.
	ChangeEntry(ctx context.Context, scope device.IDScope, kind Kind, key device.RegistrationID, decide func(*Entry) (*Entry, error)) error
	// ChangeEntryUnshared is ChangeEntry, but nothing is written and the error is
	// of kind errs.Conflict, with the IDs of SharedKeys in it, when an individual
	// enrollment gets a symmetric key that another one of the scope has. A key
	// that it had before is no reason: what is shared already can be changed, and
	// disabled.
	ChangeEntryUnshared(ctx context.Context, scope device.IDScope, kind Kind, key device.RegistrationID, decide func(*Entry) (*Entry, error)) error
	// Entries returns up to limit enrollments with keys above after, ordered
	// by key.
	Entries(ctx context.Context, scope device.IDScope, kind Kind, after device.RegistrationID, limit int) ([]*Entry, error)
	// SharedKeys returns the IDs, as they are spelled, of up to ten individual
	// enrollments of scope other than except that have one of keys, each in
	// either slot, ordered by key.
	SharedKeys(ctx context.Context, scope device.IDScope, keys attest.SymmetricKeys, except device.RegistrationID) ([]string, error)
}
