// Package admin is Berth's own REST API, for operators and the berth command:
// why a device was refused, which hubs are linked to the provisioning scope,
// who may operate the scope and its hubs, which TPMs a group lists, which CA
// certificates groups may name, what devices sent and what is sent to them. Beside
// it are the probes of an orchestrator.
//
// openapi.json describes it. Except for that and the probes, a request carries a
// SAS token of a shared access policy of the scope that its Host header names,
// with the right ServiceConfig, or EnrollmentRead or EnrollmentWrite where it is
// about enrollments. Bodies are JSON; an error is
// {"error":{"kind","code","message","trackingId"}}.
package admin

import (
	"context"
	_ "embed" // the OpenAPI document
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/front/internal/tenant"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
)

// An Explainer remembers the last decisions about devices.
type Explainer interface {
	// Decisions returns those about a registration ID, or the one with a
	// tracking ID, newest first. It checks the caller's right.
	Decisions(ctx context.Context, caller access.Caller, scope device.IDScope, id string) ([]provision.Decision, error)
}

// Links keeps which hubs are linked to a provisioning scope. Each write is
// durable when it returns.
type Links interface {
	// Linked returns the hubs of scope, ordered by host.
	Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error)
	// ChangeLinkedHub reads the link to a host (nil when there is none), lets
	// decide say what it becomes and writes that, with no other change to it in
	// between. Returning nil removes it. An error from decide is returned as it
	// is and nothing is written. decide may be called more than once.
	ChangeLinkedHub(ctx context.Context, scope device.IDScope, host string, decide func(*provision.LinkedHub) (*provision.LinkedHub, error)) error
	// HubHealth returns how the hubs elsewhere of a scope have answered.
	HubHealth(ctx context.Context, scope device.IDScope) ([]provision.HubHealth, error)
	// CheckLink asks a hub elsewhere whether its policy is good for a link. The
	// error is of kind errs.Invalid and says what is wrong.
	CheckLink(ctx context.Context, h provision.LinkedHub) error
}

// Scopes knows the provisioning scopes by their host names.
type Scopes interface {
	// ScopeOf returns the scope that goes by a host name, given in lower case and
	// without a port, and all its host names with it. If there is none the error
	// is of kind errs.NotFound.
	ScopeOf(ctx context.Context, host string) (*provision.Scope, error)
}

// Config is what the handler is made of. All members are required.
type Config struct {
	Home     device.IDScope // the scope that the server is made for
	Scopes   Scopes         // the one that a request's Host header names is administered
	Tenants  Tenants
	Policies access.Keeper
	Secrets  hsm.Deriver // servers that share it make the same entity tags

	Decisions    Explainer
	Refusals     Refusals
	Links        Links
	Lists        Lists
	Sharers      Sharers
	Certificates Certificates
	Trust        Trust
	Messages     Messages
	Outbox       Outbox
	Routing      *hub.Dispatcher
	// Webhooks returns how the webhooks of all scopes do that failed, the last
	// failure first.
	Webhooks func() []provision.WebhookHealth

	Version string // of this program
	// Ready returns an error while requests cannot be served.
	Ready func(context.Context) error
	// Draining is closed when the server wants its requests to end.
	Draining <-chan struct{}

	// Addresses bounds the calls of one address; nil for no bound.
	Addresses limit.By
	// Observe is told of every request; nil for nobody.
	Observe func(method, route string, status int, took time.Duration)

	Logger *slog.Logger
	Random io.Reader // for tracking IDs
	Now    func() time.Time
}

// New returns the handler of /berth/v1/, /healthz and /readyz.
func New(c Config) http.Handler {
	return rest.Edge{
		Routes:    front{c}.routes(),
		Refuse:    refuse,
		Addresses: c.Addresses,
		Observe:   c.Observe,
		Logger:    c.Logger,
		Random:    c.Random,
		Now:       c.Now,
	}.Handler()
}

type front struct{ Config }

// routes are the operations, each of which openapi.json describes.
func (f front) routes() []rest.Route {
	return slices.Concat(f.policyRoutes("/berth/v1/policies", f.scopeOwner), f.policyRoutes("/berth/v1/hubs/{host}/policies", f.hubOwner), f.scopeRoutes(), f.certificateRoutes(), f.trustRoutes(), f.routingRoutes(), []rest.Route{
		{Method: http.MethodGet, Pattern: "/healthz", Serve: f.health},
		{Method: http.MethodGet, Pattern: "/readyz", Serve: f.ready},
		{Method: http.MethodGet, Pattern: "/berth/v1/openapi.json", Serve: f.openapi},
		{Method: http.MethodGet, Pattern: "/berth/v1/version", Serve: f.operator(f.version)},
		{Method: http.MethodGet, Pattern: "/berth/v1/decisions/{id}", Serve: f.operator(f.decisions)},
		{Method: http.MethodGet, Pattern: "/berth/v1/refusals/{id}", Serve: f.operator(f.refusals)},
		{Method: http.MethodGet, Pattern: "/berth/v1/hubs", Serve: f.operator(f.hubs)},
		{Method: http.MethodGet, Pattern: "/berth/v1/hubs/{host}", Serve: f.operator(f.hub)},
		{Method: http.MethodPut, Pattern: "/berth/v1/hubs/{host}", Serve: f.operator(f.link)},
		{Method: http.MethodDelete, Pattern: "/berth/v1/hubs/{host}", Serve: f.operator(f.unlink)},
		{Method: http.MethodGet, Pattern: "/berth/v1/webhooks", Serve: f.operator(f.webhooks)},
		{Method: http.MethodGet, Pattern: "/berth/v1/sharedKeys", Serve: f.holder(access.EnrollmentRead, f.sharedKeys)},
		{Method: http.MethodPut, Pattern: "/berth/v1/enrollmentGroups/{id}/endorsementKeys", Serve: f.holder(access.EnrollmentWrite, f.putList)},
		{Method: http.MethodGet, Pattern: "/berth/v1/hubs/{host}/messages", Serve: f.operator(f.messages)},
		{Method: http.MethodPost, Pattern: "/berth/v1/hubs/{host}/devices/{id}/messages", Serve: f.operator(f.send)},
	})
}

// A call is one of somebody who proved to hold the key of a policy of the scope
// that the call is for.
type call struct {
	*rest.Request
	scope  provision.Scope
	caller access.Caller
}

// operator wraps an operation that takes ServiceConfig.
func (f front) operator(serve func(http.ResponseWriter, call) error) func(http.ResponseWriter, *rest.Request) error {
	return f.holder(access.ServiceConfig, serve)
}

// holder wraps an operation that takes some rights.
func (f front) holder(rights access.Right, serve func(http.ResponseWriter, call) error) func(http.ResponseWriter, *rest.Request) error {
	return func(w http.ResponseWriter, r *rest.Request) error {
		scope, caller, err := tenant.Authenticate(r, f.Scopes, f.Policies, f.Now())
		if err != nil {
			return err
		}
		if err := caller.Require(rights); err != nil {
			return err // before anything of the body is read
		}
		return serve(w, call{r, *scope, caller})
	}
}

func (f front) health(w http.ResponseWriter, _ *rest.Request) error {
	return answer(w, map[string]string{"status": "ok"})
}

func (f front) ready(w http.ResponseWriter, r *rest.Request) error {
	if err := f.Ready(r.Context()); err != nil {
		return errs.New(errs.Unavailable, 0, "Not ready").WithCause(err)
	}
	return answer(w, map[string]string{"status": "ready"})
}

//go:embed openapi.json
var openapi []byte

// openapi answers with the OpenAPI document of this API. It holds nothing that
// the program's source does not.
func (f front) openapi(w http.ResponseWriter, _ *rest.Request) error {
	rest.WriteJSON(w, http.StatusOK, openapi)
	return nil
}

func (f front) version(w http.ResponseWriter, _ call) error {
	return answer(w, map[string]string{"version": f.Version})
}

func (f front) decisions(w http.ResponseWriter, c call) error {
	found, err := f.Decisions.Decisions(c.Context(), c.caller, c.scope.ID, c.PathValue("id"))
	if err != nil {
		return err
	}
	if found == nil {
		found = []provision.Decision{}
	}
	return answer(w, found)
}

func answer(w http.ResponseWriter, document any) error {
	body, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	rest.WriteJSON(w, http.StatusOK, body)
	return nil
}
