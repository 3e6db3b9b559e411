package hub

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

// Config is what a Service is made of. All members but Peers are required and may
// be used at the same time.
type Config struct {
	Registry  Registry
	Stream    Stream
	Queues    Queues
	Presences Presences
	Policies  access.Policies
	Peers     Peers // the other servers; nil where there is one
	Now       func() time.Time
	Random    io.Reader
}

// A Service is the IoT hubs of one process. It decides and keeps; it does not
// know how the bytes arrived. Hubs are named by [HostName]s. Its methods may be
// called at the same time.
type Service struct {
	registry  Registry
	stream    Stream
	queues    Queues
	presences Presences
	notices   notices
	policies  access.Policies
	peers     Peers
	now       func() time.Time
	random    io.Reader
	live      live
	intake    intake
	events    events
}

// New returns the service made of c.
func New(c Config) *Service {
	return &Service{registry: c.Registry, stream: c.Stream, queues: c.Queues, presences: c.Presences, policies: c.Policies, peers: c.Peers, now: c.Now, random: c.Random}
}

// HostName returns the form in which a hub's host name is kept and compared:
// lower case, without a port.
func HostName(host string) string {
	host = strings.ToLower(host)
	// The colons of an IPv6 address are inside brackets.
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Trim(host[i+1:], "0123456789") == "" {
		return host[:i]
	}
	return host
}

// A Host is one hub and every name it goes by.
type Host struct {
	Name    string   // a HostName
	Aliases []string // further ones, as clients may have them in tokens
}

// covers reports whether a token for resource is good for path, which starts
// with a slash, under any of the hub's names.
func (h Host) covers(resource, path string) bool {
	if sas.Covers(resource, h.Name+path) {
		return true
	}
	for _, alias := range h.Aliases {
		if sas.Covers(resource, alias+path) {
			return true
		}
	}
	return false
}

// AuthenticateCaller says whose token this is: a shared access policy's of the
// hub. path is what is being accessed, from the first slash, not encoded; a
// token may be for the whole hub or for the leading segments of path.
func (s *Service) AuthenticateCaller(ctx context.Context, h Host, path string, token sas.Token) (access.Caller, error) {
	policies, err := s.policies.Policies(ctx, access.HubOwner(h.Name))
	if err != nil {
		return access.Caller{}, fmt.Errorf("reading the policies of %s: %w", h.Name, err)
	}
	return access.Authenticate(policies, token, func(resource string) bool { return h.covers(resource, path) }, s.now())
}

// A Precondition judges the current entity tag of what is about to change, as
// an If-Match header asks. Nil means the caller set none.
type Precondition func(etag string) bool

// A DeviceSpec is what an operator may say about a device; the rest of its
// identity is the registry's. SAS keys that are left out are generated.
type DeviceSpec struct {
	Disabled     bool
	StatusReason string // at most 128 characters
	IoTEdge      bool
	Auth         Authentication
}

// Identity returns an identity, keys included. It takes RegistryRead.
func (s *Service) Identity(ctx context.Context, caller access.Caller, at Place) (*Identity, error) {
	if err := caller.Require(access.RegistryRead); err != nil {
		return nil, err
	}
	return s.identityAt(ctx, at)
}

func (s *Service) identityAt(ctx context.Context, at Place) (*Identity, error) {
	d, err := s.registry.Identity(ctx, at)
	if errs.KindOf(err) == errs.NotFound {
		return nil, notFound(at)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the identity of %q of %s: %w", at, at.Hub, err)
	}
	return d, nil
}

// MaxDevices is the most identities that one call lists.
const MaxDevices = 1000

// Devices returns identities, keys included, ordered by ID: the first ones, up
// to limit and [MaxDevices]. It takes RegistryRead.
func (s *Service) Devices(ctx context.Context, caller access.Caller, hub string, limit int) ([]*Identity, error) {
	if err := caller.Require(access.RegistryRead); err != nil {
		return nil, err
	}
	ds, err := s.registry.Devices(ctx, hub, "", min(limit, MaxDevices))
	if err != nil {
		return nil, fmt.Errorf("listing the devices of %s: %w", hub, err)
	}
	return ds, nil
}

// Statistics counts a hub's devices. It takes RegistryRead.
func (s *Service) Statistics(ctx context.Context, caller access.Caller, hub string) (Statistics, error) {
	if err := caller.Require(access.RegistryRead); err != nil {
		return Statistics{}, err
	}
	counted, err := s.registry.Statistics(ctx, hub)
	if err != nil {
		return Statistics{}, fmt.Errorf("counting the devices of %s: %w", hub, err)
	}
	return counted, nil
}

// PutDevice creates an identity, when there is no precondition, or replaces
// what the operator may say about an existing one, when its entity tag
// satisfies the precondition. It takes RegistryWrite.
func (s *Service) PutDevice(ctx context.Context, caller access.Caller, at Place, spec DeviceSpec, ifMatch Precondition) (*Identity, error) {
	if err := caller.Require(access.RegistryWrite); err != nil {
		return nil, err
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	var put, before *Identity
	var with *Twin
	err := s.registry.Change(ctx, at, func(old *Identity, twin *Twin) (*Identity, *Twin, error) {
		switch {
		case old == nil && ifMatch != nil:
			return nil, nil, notFound(at)
		case old != nil && ifMatch == nil:
			return nil, nil, errs.New(errs.Conflict, errs.CodeDeviceAlreadyExists, "A device with ID '%s' is already registered.", at)
		case old != nil && !ifMatch(old.ETag):
			return nil, nil, preconditionFailed()
		}
		if old == nil {
			twin = s.freshTwin(nil)
		}
		var err error
		put, err = s.identity(at, old, spec)
		before, with = old, twin
		return put, twin, err
	})
	if err != nil {
		return nil, fmt.Errorf("writing device %q of %s: %w", at, at.Hub, err)
	}
	if put.Disabled {
		s.cut(at, NewsDisabled)
	}
	s.identityChanged(before, put, with)
	return put, nil
}

// Delete removes an identity and its twin, and with a device its modules and the
// messages to it, when its entity tag satisfies the precondition. It takes
// RegistryWrite.
func (s *Service) Delete(ctx context.Context, caller access.Caller, at Place, ifMatch Precondition) error {
	if err := caller.Require(access.RegistryWrite); err != nil {
		return err
	}
	var was *Identity
	var with *Twin
	err := s.registry.Change(ctx, at, func(old *Identity, twin *Twin) (*Identity, *Twin, error) {
		switch {
		case old == nil:
			return nil, nil, notFound(at)
		case ifMatch != nil && !ifMatch(old.ETag):
			return nil, nil, preconditionFailed()
		}
		was, with = old, twin
		return nil, nil, nil
	})
	if err != nil {
		return fmt.Errorf("deleting %q of %s: %w", at, at.Hub, err)
	}
	s.cut(at, NewsDeleted)
	s.identityChanged(was, nil, with)
	return nil
}

// Twin returns a twin and the identity that its document repeats parts of. It
// takes ServiceConnect.
func (s *Service) Twin(ctx context.Context, caller access.Caller, at Place) (*Identity, *Twin, error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return nil, nil, err
	}
	d, err := s.identityAt(ctx, at)
	if err != nil {
		return nil, nil, err
	}
	twin, err := s.registry.Twin(ctx, at)
	if errs.KindOf(err) == errs.NotFound {
		return nil, nil, notFound(at) // deleted since the line before
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the twin of %q of %s: %w", at, at.Hub, err)
	}
	return d, twin, nil
}

// identity returns what old, nil for a new device, becomes when spec is written
// over it.
func (s *Service) identity(at Place, old *Identity, spec DeviceSpec) (*Identity, error) {
	d := &Identity{Place: at, GenerationID: generationID(s.now())}
	if old != nil {
		d.GenerationID, d.StatusUpdated = old.GenerationID, old.StatusUpdated
	}
	if wasDisabled := old != nil && old.Disabled; spec.Disabled != wasDisabled {
		d.StatusUpdated = s.now()
	}
	d.Disabled, d.StatusReason, d.IoTEdge, d.Auth = spec.Disabled, spec.StatusReason, spec.IoTEdge, spec.Auth
	if d.Auth.Type == AuthSAS {
		for _, k := range []*device.SymmetricKey{&d.Auth.Keys.Primary, &d.Auth.Keys.Secondary} {
			if !k.IsZero() {
				continue
			}
			var err error
			if *k, err = device.GenerateSymmetricKey(s.random, 32); err != nil {
				return nil, err
			}
		}
	}
	var err error
	d.ETag, err = s.newETag()
	return d, err
}

// freshTwin returns the twin of a new device; initial is checked, or nil. The
// versions are those a fresh document has at IoT Hub.
func (s *Service) freshTwin(initial *InitialTwin) *Twin {
	now := s.now()
	t := &Twin{
		Tags: emptyObject, Desired: emptyObject, Reported: emptyObject,
		Version: 2, DesiredVersion: 1, ReportedVersion: 1,
		DesiredUpdated: now, ReportedUpdated: now,
	}
	if initial != nil {
		t.Tags, t.Desired = initial.Tags, initial.Desired
	}
	return t
}

// newETag draws an entity tag that looks like IoT Hub's: the base64 of a
// decimal number. It is drawn, not counted: the tag of a deleted device must
// not fit the one created after it.
func (s *Service) newETag() (string, error) {
	var b [8]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		return "", fmt.Errorf("drawing an entity tag: %w", err)
	}
	n := strconv.FormatUint(binary.BigEndian.Uint64(b[:])>>1, 10)
	return base64.StdEncoding.EncodeToString([]byte(n)), nil
}

// generationID counts 100-nanosecond ticks since the year 1, as .NET does: 18
// digits.
func generationID(now time.Time) string {
	const ticksIn1970 = 621355968000000000
	return strconv.FormatInt(ticksIn1970+now.Unix()*1e7+int64(now.Nanosecond())/100, 10)
}

func (spec DeviceSpec) check() error {
	if n := len([]rune(spec.StatusReason)); n > 128 {
		return invalid("statusReason has %d characters; 128 are allowed", n)
	}
	return spec.Auth.check()
}

func (a Authentication) check() error {
	hasKey := !a.Keys.Primary.IsZero() || !a.Keys.Secondary.IsZero()
	switch {
	case a.Type == AuthSAS && (a.PrimaryThumbprint != "" || a.SecondaryThumbprint != ""):
		return invalid("authentication of type sas must not carry thumbprints")
	case a.Type == AuthSAS:
		return nil
	case a.Type != AuthSelfSigned:
		return invalid("authentication type %q is not offered; sas and selfSigned are", a.Type)
	case hasKey:
		return invalid("authentication of type selfSigned must not carry symmetric keys")
	case a.PrimaryThumbprint == "":
		return invalid("authentication of type selfSigned takes a primaryThumbprint")
	case !isThumbprint(a.PrimaryThumbprint), a.SecondaryThumbprint != "" && !isThumbprint(a.SecondaryThumbprint):
		return invalid("a thumbprint is 40 (SHA-1) or 64 (SHA-256) hexadecimal digits")
	}
	return nil
}

func isThumbprint(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

func (a Authentication) equal(b Authentication) bool {
	return a.Type == b.Type && a.Keys.Primary.Equal(b.Keys.Primary) && a.Keys.Secondary.Equal(b.Keys.Secondary) &&
		a.PrimaryThumbprint == b.PrimaryThumbprint && a.SecondaryThumbprint == b.SecondaryThumbprint
}

func invalid(format string, args ...any) error {
	return errs.New(errs.Invalid, errs.CodeArgumentInvalid, format, args...)
}

// notFound carries the ID alone: clients show the text as it is.
func notFound(at Place) *errs.Error {
	code := errs.CodeDeviceNotFound
	if at.Module != "" {
		code = errs.CodeModuleNotFound
	}
	return errs.New(errs.NotFound, code, "%s", at)
}

func preconditionFailed() error {
	return errs.New(errs.Precondition, errs.CodePreconditionFailed, "Precondition failed: the device's entity tag is another one")
}
