// Package provision is the provisioning service: it decides whether a device
// may come in, which hub becomes its home and what the hub is told, and keeps
// the registration record. It does not know how the bytes arrived.
package provision

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// A Request is one call of a device, whatever wire it came in on.
type Request struct {
	Scope      string            // as the device spelled it
	ID         string            // as the device spelled it
	Credential attest.Credential // what it showed
	Payload    json.RawMessage   // any JSON value, or nil
	APIVersion string            // YYYY-MM-DD with an optional -preview
	TrackingID errs.TrackingID
	Wire       string // "https", for the decision record
	Remote     string // the address of the peer, for geoLatency and the decision record
}

// An Outcome is what a call came to. Exactly one member is set; every other
// way a call can end is an error.
type Outcome struct {
	Challenge *Challenge // prove that the key is in that TPM, then ask again
	Operation *Operation // accepted; poll it until it is final
}

// A Challenge is a key that only the TPM it was made for can use.
type Challenge struct {
	Blob    []byte // the activation blob
	KeyName string // the skn of the token to sign with it
}

// An Operation is a registration under way or finished.
type Operation struct {
	ID           string
	Registration Registration
	// RetryAfter is how long to wait before polling; zero when final.
	RetryAfter time.Duration
}

// A Status is where a registration stands, spelled as on the wire.
type Status string

// The registration statuses.
const (
	Unassigned Status = "unassigned"
	Assigning  Status = "assigning"
	Assigned   Status = "assigned"
	Failed     Status = "failed"
	Disabled   Status = "disabled"
)

// A Substatus says how an assignment came about.
type Substatus string

// The substatuses. Api-versions up to 2021-10-01 are answered
// InitialAssignment where later ones see ReprovisionedToInitialAssignment.
const (
	InitialAssignment                Substatus = "initialAssignment"
	DeviceDataMigrated               Substatus = "deviceDataMigrated"
	DeviceDataReset                  Substatus = "deviceDataReset"
	ReprovisionedToInitialAssignment Substatus = "reprovisionedToInitialAssignment"
)

// A Registration is the record of a device's last registration. The device
// and the operator see the same one.
type Registration struct {
	Scope        device.IDScope
	Key          device.RegistrationID // canonical, the record's key
	ID           string                // as enrolled, or as the device spelled it
	GroupID      string                // the enrollment group it came through, or empty
	Attestation  attest.Type
	Status       Status
	Substatus    Substatus
	Hub          string // host name
	DeviceID     device.ID
	ErrorCode    errs.Code
	ErrorMessage string
	Payload      json.RawMessage // what a custom allocation returned to the device
	OperationID  string
	ETag         string // opaque token, unquoted
	Created      time.Time
	Updated      time.Time

	// HubKeyBlob is the activation blob that carries the hub key of a TPM
	// device; useless without that TPM.
	HubKeyBlob []byte
	// StorageRootKey is the SRK (TPM2B_PUBLIC) the blob was made for.
	StorageRootKey []byte
	// EndorsementKey is the EK (TPM2B_PUBLIC) of a device of a TPM group, nil for
	// every other: an individual enrollment holds its device's.
	EndorsementKey []byte

	// Pending is what the registration still needs while its status is
	// Assigning, and nil otherwise.
	Pending *Pending
}

// A Pending is the durable part of a registration that is under way: with it
// and the enrollment any server can finish it. It holds no key.
type Pending struct {
	// Due is when somebody is to work on it, and not before.
	Due time.Time `json:"-"`
	// Lease is until when somebody may be telling hubs about the device, for this
	// registration or one before it; zero when nobody is.
	Lease     time.Time `json:"lease,omitzero"`
	Attempts  int       `json:"attempts"`            // begun so far
	LastError string    `json:"lastError,omitempty"` // of the last one that failed, for the operator

	// What the device showed and said, as in Request.
	Chain      []byte          `json:"chain,omitempty"`   // its certificates, DER, one after the other, the leaf first
	KeyName    string          `json:"keyName,omitempty"` // the registration ID that its key is derived from, in a group
	Payload    json.RawMessage `json:"payload,omitempty"`
	APIVersion string          `json:"apiVersion"`
	TrackingID errs.TrackingID `json:"trackingId"`
	Wire       string          `json:"wire"`
	Remote     string          `json:"remote"`

	// Choice is what custom allocation answered, nil before it has.
	Choice *Choice `json:"choice,omitempty"`
	// Tried are the places where attempts are to bring the device or were, which
	// may be at any of them or still where its record says; the newest is the last.
	Tried []Place `json:"tried,omitempty"`
}

// A Choice is what a custom allocation decides about a device.
type Choice struct {
	Hub     string              `json:"hub"`               // one of the linked hubs
	Twin    *enroll.InitialTwin `json:"twin,omitempty"`    // overrides the enrollment's and a migrated one
	Payload json.RawMessage     `json:"payload,omitempty"` // for the device
}

// A LinkedHub is a hub that devices can be assigned to.
type LinkedHub struct {
	Host       string `json:"host"`       // host name, with :port where it is not 443
	Weight     int    `json:"weight"`     // 1 to 1000; its share under hashed allocation
	Allocation bool   `json:"allocation"` // whether it takes part when an enrollment names no hubs
	// Latency says how far devices of a network are from the hub, for allocation
	// by geoLatency.
	Latency []Latency `json:"latency,omitempty"`
	// Connection is how to reach a hub elsewhere by its service REST API, nil for
	// a hub of these servers.
	Connection *Connection `json:"-"`
}

// A Latency is how far devices of a network are from a hub.
type Latency struct {
	Network      netip.Prefix `json:"network"`      // of the addresses that devices register from
	Milliseconds int          `json:"milliseconds"` // 0 to 60000
}

// A Connection is a shared access policy of a hub elsewhere, with the rights
// RegistryRead, RegistryWrite and ServiceConnect.
type Connection struct {
	Policy string
	Key    device.SymmetricKey
}

// EnrollmentReader is the part of the enrollment store that registration reads.
type EnrollmentReader interface {
	// Entry returns one enrollment, or an error of kind errs.NotFound.
	Entry(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID) (*enroll.Entry, error)
	// Groups returns every enrollment group of scope with the given
	// attestation mechanism, ordered by key. The caller does not change them.
	Groups(ctx context.Context, scope device.IDScope, mechanism attest.Type) ([]*enroll.Entry, error)
	// EndorsementKeys returns the keys of a TPM group's list (see
	// attest.EKList.Keys), or an error of kind errs.NotFound when the group has
	// no list or nobody gave it keys.
	EndorsementKeys(ctx context.Context, scope device.IDScope, group device.RegistrationID) ([]byte, error)
	// CACertificates returns the CA certificates of scope, ordered by key. The
	// caller does not change them.
	CACertificates(ctx context.Context, scope device.IDScope) ([]*enroll.CACertificate, error)
}

// Records keeps registration records. Each write is durable when it returns.
type Records interface {
	// Registration returns the record of key, or an error of kind errs.NotFound.
	Registration(ctx context.Context, scope device.IDScope, key device.RegistrationID) (*Registration, error)
	// ChangeRegistration reads the record (nil when there is none), lets decide
	// say what it becomes and writes that, with no other write to it in
	// between. Returning nil removes it. An error from decide is returned as it
	// is and nothing is written. decide must not call the store and may be
	// called more than once.
	ChangeRegistration(ctx context.Context, scope device.IDScope, key device.RegistrationID, decide func(*Registration) (*Registration, error)) error
	// Registrations returns up to limit records made through the enrollment
	// group, with keys above after, ordered by key.
	Registrations(ctx context.Context, scope device.IDScope, group string, after device.RegistrationID, limit int) ([]*Registration, error)
	// DueRegistrations returns up to limit records of all scopes whose Pending is
	// due by now, the longest waiting first.
	DueRegistrations(ctx context.Context, now time.Time, limit int) ([]*Registration, error)
	// Together makes one commit of everything that do writes to the store, the
	// hubs' registry included, with the context that it is given: all or nothing
	// is durable when it returns. do's error is returned as it is and nothing is
	// written. do must be quick, writes each record once, does not read what it
	// wrote, and may be called more than once.
	Together(ctx context.Context, do func(context.Context) error) error
}

// A Scope is one provisioning tenant.
type Scope struct {
	ID         device.IDScope
	Allocation enroll.AllocationPolicy // where an enrollment names none
	// Hosts are the host names of its service API, each of one scope alone. The
	// scope that a server is made for has those of its configuration besides.
	Hosts      []string
	Limits     Limits
	SharedKeys SharedKeys
}

// Limits bound one scope.
type Limits struct {
	// PerAddress and PerDevice are rates like "2000/1s" or "off"; empty for those
	// of the server's configuration.
	PerAddress string `json:"perAddress,omitempty"`
	PerDevice  string `json:"perDevice,omitempty"`
}

// SharedKeys says what becomes of an individual enrollment with a symmetric key
// that another one has: whoever opens one such device can speak for the others.
type SharedKeys string

// The policies for shared keys.
const (
	WarnOfSharedKeys SharedKeys = "warn"
	RefuseSharedKeys SharedKeys = "refuse"
)

// Scopes knows the provisioning tenants of this server.
type Scopes interface {
	// Scope returns one, or an error of kind errs.NotFound.
	Scope(ctx context.Context, id device.IDScope) (*Scope, error)
}

// Hubs is what registration needs of the hubs.
type Hubs interface {
	// Linked returns the hubs of scope, ordered by host.
	Linked(ctx context.Context, scope device.IDScope) ([]LinkedHub, error)
	// Assign gives the device its identity at a hub of these servers, coming from
	// another of these or from nowhere. It is idempotent, and durable when it
	// returns, or with the commit of Records.Together.
	Assign(ctx context.Context, a Assignment) error
	// AssignElsewhere is Assign where any of the hubs is one elsewhere. It may take
	// until ctx ends; when it fails, nobody knows how far it came.
	AssignElsewhere(ctx context.Context, a Assignment) error
}

// An Assignment is what a hub is told about a device.
type Assignment struct {
	Scope    device.IDScope // whose links the hubs are reached by
	Hub      string
	DeviceID device.ID
	IoTEdge  bool
	// Keys authenticate the device at the hub, unless Thumbprint does: the
	// SHA-256 thumbprint of its certificate, upper-case hexadecimal.
	Keys       attest.SymmetricKeys
	Thumbprint string
	// Twin is what the device's twin starts with, or nil.
	Twin *enroll.InitialTwin
	// From is the device's place before; its zero value means this is the
	// first. The identity there is removed.
	From Place
	// MigrateTwin takes the twin along from From; otherwise it starts anew
	// when the device comes from elsewhere.
	MigrateTwin bool
	// Tried are further places where the device may be, since an attempt to bring
	// it there was cut off.
	Tried []Place
	// First says that the device has no home yet, so that it has nothing to lose
	// at the places that were tried.
	First bool
}

// A Place is a device identity at a hub.
type Place struct {
	Hub      string    `json:"hub"`
	DeviceID device.ID `json:"deviceId"`
}

// HubHealth is how a hub elsewhere has answered this server since it started.
type HubHealth struct {
	Host          string    `json:"host"`
	LastSuccess   time.Time `json:"lastSuccess,omitzero"`
	LastError     string    `json:"lastError,omitempty"` // for the operator; stays when it is over
	LastErrorTime time.Time `json:"lastErrorTime,omitzero"`
	Failures      int       `json:"failures"` // in a row, up to now
	Waiting       int       `json:"waiting"`  // registrations under way that are to go there
}
