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
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

// Config is what a Service is made of. All members but Authorities and Peers are
// required and may be used at the same time.
type Config struct {
	Registry       Registry
	Stream         Stream
	Queues         Queues
	Presences      Presences
	Configurations Configurations
	Policies       access.Policies
	Authorities    Authorities // nil where no CA vouches for devices
	Peers          Peers       // the other servers; nil where there is one
	Now            func() time.Time
	Random         io.Reader
}

// A Service is the IoT hubs of one process. It decides and keeps; it does not
// know how the bytes arrived. Hubs are named by [HostName]s. Its methods may be
// called at the same time.
type Service struct {
	registry       Registry
	stream         Stream
	queues         Queues
	presences      Presences
	notices        notices
	configurations Configurations
	deploying      deploying
	refusals       refusals
	policies       access.Policies
	authorities    Authorities
	peers          Peers
	now            func() time.Time
	random         io.Reader
	live           live
	intake         intake
	events         events
	scans          scans
}

// New returns the service made of c.
func New(c Config) *Service {
	return &Service{registry: c.Registry, stream: c.Stream, queues: c.Queues, presences: c.Presences, configurations: c.Configurations, policies: c.Policies, authorities: c.Authorities, peers: c.Peers, now: c.Now, random: c.Random, scans: newScans()}
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

// NewHost returns the hub of a name, with those that IoT Hub gives a hub besides:
// {hub}.device.{domain} is for devices, {hub}.service.{domain} for operators.
func NewHost(name string) Host {
	label, domain, found := strings.Cut(name, ".")
	if !found || label == "" || domain == "" {
		return Host{Name: name}
	}
	return Host{Name: name, Aliases: []string{label + ".device." + domain, label + ".service." + domain}}
}

// ClassicName returns the name of the hub that has alias among the Aliases of
// [NewHost], or alias where it can be no such name.
func ClassicName(alias string) string {
	label, rest, _ := strings.Cut(alias, ".")
	for _, kind := range []string{"device.", "service."} {
		if domain, found := strings.CutPrefix(rest, kind); found && label != "" && domain != "" {
			return label + "." + domain
		}
	}
	return alias
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
	return errs.New(errs.Precondition, errs.CodePreconditionFailed, "Precondition failed: the entity tag is another one")
}
