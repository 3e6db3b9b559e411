// Package access holds shared access policies: named keys with rights, by
// which operators and their programs prove themselves to the service APIs of
// the provisioning service and of a hub.
package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

// A Right is a set of things a policy may do. The first six belong to the
// provisioning service, the last four to a hub, whose DeviceConnect has the
// same name and a bit of its own.
type Right uint16

// The rights, named as the products document them.
const (
	ServiceConfig Right = 1 << iota
	EnrollmentRead
	EnrollmentWrite
	DeviceConnect
	RegistrationStatusRead
	RegistrationStatusWrite
	RegistryRead
	RegistryWrite
	ServiceConnect
	HubDeviceConnect

	AllProvisioning = ServiceConfig | EnrollmentRead | EnrollmentWrite | DeviceConnect | RegistrationStatusRead | RegistrationStatusWrite
	AllHub          = RegistryRead | RegistryWrite | ServiceConnect | HubDeviceConnect
)

type rightName struct {
	right Right
	name  string
}

var rightNames = []rightName{
	{ServiceConfig, "ServiceConfig"}, {EnrollmentRead, "EnrollmentRead"}, {EnrollmentWrite, "EnrollmentWrite"},
	{DeviceConnect, "DeviceConnect"}, {RegistrationStatusRead, "RegistrationStatusRead"},
	{RegistrationStatusWrite, "RegistrationStatusWrite"}, {RegistryRead, "RegistryRead"},
	{RegistryWrite, "RegistryWrite"}, {ServiceConnect, "ServiceConnect"}, {HubDeviceConnect, "DeviceConnect"},
}

// Names returns the names of the rights, in the order in which they are
// declared.
func (r Right) Names() []string {
	var names []string
	for _, n := range rightNames {
		if r&n.right != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// String lists the rights, comma-separated.
func (r Right) String() string { return strings.Join(r.Names(), ", ") }

// A Policy is a shared access policy. Its two keys let one be rolled while
// programs still use the other.
type Policy struct {
	Name               string
	Primary, Secondary device.SymmetricKey
	Rights             Right
}

// NewPolicy returns a policy with two fresh keys of 64 bytes.
func NewPolicy(name string, rights Right, random io.Reader) (Policy, error) {
	p := Policy{Name: name, Rights: rights}
	return p, complete(&p, Policy{}, random)
}

// An Owner is whose policies are meant: "dps:{idScope}" or "hub:{host}".
type Owner string

// ScopeOwner owns the policies of a provisioning scope.
func ScopeOwner(s device.IDScope) Owner { return Owner("dps:" + string(s)) }

// HubOwner owns the policies of a hub; host is without the port.
func HubOwner(host string) Owner { return Owner("hub:" + strings.ToLower(host)) }

// Policies is where policies are kept.
type Policies interface {
	// Policies returns the policies of owner, ordered by name.
	Policies(ctx context.Context, owner Owner) ([]Policy, error)
}

// A Keeper keeps policies that can be changed.
type Keeper interface {
	Policies
	// ChangePolicies reads the policies of owner, lets decide say what they
	// become and writes that, with no other write to them in between. It is
	// durable when it returns. An error from decide is returned as it is and
	// nothing is written. decide must not call the store and may be called more
	// than once.
	ChangePolicies(ctx context.Context, owner Owner, decide func([]Policy) ([]Policy, error)) error
}

// A Caller is someone who proved to hold a policy's key.
type Caller struct {
	Policy string
	Rights Right
}

// skew is how far a client's clock may be behind ours.
const skew = 5 * time.Minute

// Authenticate says who made token. audience judges whether the token's
// resource is the one being used. It reads no clock and no store; the error is
// of kind errs.Denied and keeps the reason as its private cause; who holds a key is
// told it, too.
func Authenticate(policies []Policy, token sas.Token, audience func(resource string) bool, now time.Time) (Caller, error) {
	for _, p := range policies {
		if !strings.EqualFold(p.Name, token.KeyName) {
			continue
		}
		switch {
		case !token.SignedBy(p.Primary.Bytes()) && !token.SignedBy(p.Secondary.Bytes()):
			return Caller{}, denied("the signature was made with neither key of policy %q", p.Name)
		case !audience(token.Resource):
			return Caller{}, refused("the token is for another resource").WithCause(fmt.Errorf("the token is for %q", token.Resource))
		case token.Expired(now, skew):
			expired := "the token expired at " + token.Expiry.UTC().Format(time.RFC3339)
			return Caller{}, refused(expired).WithCause(errors.New(expired))
		}
		return Caller{p.Name, p.Rights}, nil
	}
	return Caller{}, denied("there is no policy %q", token.KeyName)
}

// Require returns an error of kind errs.Denied unless c has all of need.
func (c Caller) Require(need Right) error {
	if c.Rights&need != need {
		lacks := fmt.Sprintf("policy %q lacks %s", c.Policy, need&^c.Rights)
		return refused(lacks).WithCause(errors.New(lacks))
	}
	return nil
}

// refused is for callers who proved to hold a key: they are told why.
func refused(why string) *errs.Error {
	return errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized: %s", why)
}

// denied is for strangers, who are not.
func denied(format string, args ...any) error {
	return errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized").WithCause(fmt.Errorf(format, args...))
}
