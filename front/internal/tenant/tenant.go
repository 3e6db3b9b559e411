// Package tenant finds out which provisioning scope an operator's request is
// for, and who asks: the Host header names the scope, a SAS token the policy.
package tenant

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

// Scopes knows the scopes by their host names.
type Scopes interface {
	// ScopeOf returns the scope that goes by a host name, given in lower case and
	// without a port, and all its host names with it. If there is none the error
	// is of kind errs.NotFound.
	ScopeOf(ctx context.Context, host string) (*provision.Scope, error)
}

// Authenticate returns the scope that r is for, and the caller. A token is held
// against the policies of that scope alone, and must have been made for one of
// its host names: what opens one scope opens no other.
func Authenticate(r *rest.Request, scopes Scopes, policies access.Policies, now time.Time) (*provision.Scope, access.Caller, error) {
	token, err := rest.Token(r.Request)
	if err != nil {
		return nil, access.Caller{}, err
	}
	if token == nil {
		return nil, access.Caller{}, attest.Unauthorized().WithCause(fmt.Errorf("there is no SAS token in the Authorization header"))
	}
	host := rest.Host(r.Request)
	scope, err := scopes.ScopeOf(r.Context(), host)
	if errs.KindOf(err) == errs.NotFound {
		return nil, access.Caller{}, errs.New(errs.NotFound, errs.CodeGenericNotFound, "There is no provisioning service of this name").
			WithCause(fmt.Errorf("no scope has the host %q", host))
	}
	if err != nil {
		return nil, access.Caller{}, fmt.Errorf("finding the scope of %q: %w", host, err)
	}
	keys, err := policies.Policies(r.Context(), access.ScopeOwner(scope.ID))
	if err != nil {
		return nil, access.Caller{}, fmt.Errorf("reading the policies of %s: %w", scope.ID, err)
	}
	isOurs := func(resource string) bool {
		return slices.ContainsFunc(scope.Hosts, func(host string) bool { return sas.HostResource(resource, host) })
	}
	caller, err := access.Authenticate(keys, *token, isOurs, now)
	return scope, caller, err
}
