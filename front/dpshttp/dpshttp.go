// Package dpshttp speaks the DPS REST API over HTTPS: the device API, by which
// devices register, and the service API, by which operators keep enrollments
// and registration records. It turns requests into calls of the provisioning
// service and what comes back into bodies; it decides nothing.
//
// Paths match without case and with or without a trailing slash. A body of more
// than 96 KB is answered 413; a bulk operation may have that for each of its ten
// items.
package dpshttp

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/dps"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// A Registrar is the device's side of the provisioning service.
type Registrar interface {
	// Register takes a device in, or challenges it.
	Register(context.Context, provision.Request) (provision.Outcome, error)
	// OperationStatus says how far a registration is.
	OperationStatus(ctx context.Context, r provision.Request, operationID string) (provision.Outcome, error)
	// Lookup returns the registration of the device that asks.
	Lookup(context.Context, provision.Request) (provision.Registration, error)
}

// An Enroller is the operator's side of the provisioning service. Each method
// checks the caller's right before anything else.
type Enroller interface {
	Put(context.Context, access.Caller, *enroll.Entry, provision.Precondition) (*enroll.Entry, error)
	SharedWith(context.Context, access.Caller, *enroll.Entry) ([]string, error)
	Entry(context.Context, access.Caller, device.IDScope, enroll.Kind, string) (*enroll.Entry, error)
	Delete(context.Context, access.Caller, device.IDScope, enroll.Kind, string, provision.Precondition) error
	Entries(context.Context, access.Caller, device.IDScope, enroll.Kind, provision.Page) ([]*enroll.Entry, error)
	AttestationMechanism(context.Context, access.Caller, device.IDScope, enroll.Kind, string) (attest.Mechanism, error)
	Registration(context.Context, access.Caller, device.IDScope, string) (*provision.Registration, error)
	DeleteRegistration(context.Context, access.Caller, device.IDScope, string, provision.Precondition) error
	Registrations(context.Context, access.Caller, device.IDScope, string, provision.Page) ([]*provision.Registration, error)
}

// Scopes knows the provisioning scopes by their host names.
type Scopes interface {
	// ScopeOf returns the scope that goes by a host name, given in lower case and
	// without a port, and all its host names with it. If there is none the error
	// is of kind errs.NotFound.
	ScopeOf(ctx context.Context, host string) (*provision.Scope, error)
}

// Config is what the front stands on. Every member is needed.
type Config struct {
	Registrar Registrar
	Enroller  Enroller
	Policies  access.Policies
	// Secrets derives the key of continuation tokens; servers that share it
	// understand each other's.
	Secrets hsm.Deriver
	// Scopes finds the one that the service API serves by the Host header. The
	// device API serves every scope the Registrar knows.
	Scopes Scopes
	// PublicURL is where devices reach this server: "https://dps.example", with
	// the port if it is not 443. It stands in Location headers.
	PublicURL string
	// Addresses bounds the calls of one address, Devices those of one device
	// from one address. A device is named by whoever calls: counting it alone,
	// a stranger could use up the calls of another's device. Nil for no bound.
	Addresses, Devices limit.By
	// Observe is told of every request; nil for nobody.
	Observe func(method, route string, status int, took time.Duration)
	Now     func() time.Time
	Logger  *slog.Logger
	Random  io.Reader
}

type front struct{ Config }

// New returns the handler of both APIs.
func New(c Config) http.Handler {
	f := front{c}
	// The service API comes first: a registration ID may be "query", an ID
	// scope is never "registrations".
	routes := f.serviceRoutes()
	routes = append(routes, f.deviceRoutes()...)
	return rest.Edge{
		Routes: routes, Refuse: f.refuse, Tenant: tenantOf, Addresses: c.Addresses, Observe: c.Observe,
		Logger: c.Logger, Random: c.Random, Now: c.Now,
	}.Handler()
}

// tenantOf returns the ID scope that a device names, or the host that an operator
// calls.
func tenantOf(r *http.Request) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if scope, err := device.ParseIDScope(first); err == nil {
		return string(scope)
	}
	return rest.Host(r)
}

func (f front) refuse(w http.ResponseWriter, r *rest.Request, err error) {
	code := dps.Code(err)
	rest.SetHeader(w.Header(), rest.HeaderErrorCode, strconv.Itoa(int(code)))
	body, err := dpsjson.Encode(dps.Error(err, r.TrackingID, f.Now()))
	if err != nil {
		panic(err) // strings and numbers have a JSON form
	}
	rest.WriteJSON(w, code.Status(), body)
}

// answer answers with one of the bodies of dpsjson, or a slice of them.
func answer(w http.ResponseWriter, status int, body any) error {
	b, err := dpsjson.Encode(body)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, status, b)
	return nil
}

// readJSON reads a request's body, which may be empty.
func readJSON(w http.ResponseWriter, r *rest.Request) ([]byte, error) {
	if err := rest.RequireJSON(r.Request); err != nil {
		return nil, err
	}
	return rest.ReadBody(w, r.Request, dpsjson.MaxBody)
}

// invalid is the refusal of a body for a reason that its sender may read.
func invalid(reason string) error {
	return errs.New(errs.Invalid, errs.CodeBadRequest, "%s", reason)
}
