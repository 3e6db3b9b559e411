package app

import (
	"context"
	"slices"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// tenants are the provisioning scopes by their host names. Those of the
// configuration are the home scope's, whatever else is in the database.
type tenants struct {
	store store
	home  device.IDScope
	hosts []string // of the configuration
}

// ScopeOf returns the scope that goes by host, with all its host names.
func (t tenants) ScopeOf(ctx context.Context, host string) (*provision.Scope, error) {
	if named(t.hosts, host) {
		scope, err := t.store.Scope(ctx, t.home)
		if err != nil {
			return nil, err
		}
		scope.Hosts = append(slices.Clone(t.hosts), scope.Hosts...)
		return scope, nil
	}
	all, err := t.store.ListScopes(ctx)
	if err != nil {
		return nil, err
	}
	for _, scope := range all {
		if !named(scope.Hosts, host) {
			continue
		}
		if scope.ID == t.home {
			scope.Hosts = append(slices.Clone(t.hosts), scope.Hosts...)
		}
		return &scope, nil
	}
	return nil, errs.New(errs.NotFound, errs.CodeGenericNotFound, "no scope goes by %q", host)
}

// ListScopes returns every scope.
func (t tenants) ListScopes(ctx context.Context) ([]provision.Scope, error) {
	return t.store.ListScopes(ctx)
}

// ChangeScopes changes a scope, which does not get a name of the configuration.
func (t tenants) ChangeScopes(ctx context.Context, decide func([]provision.Scope) (*provision.Scope, error)) error {
	return t.store.ChangeScopes(ctx, func(all []provision.Scope) (*provision.Scope, error) {
		next, err := decide(all)
		if err != nil || next.ID == t.home {
			return next, err
		}
		for _, h := range next.Hosts {
			if named(t.hosts, h) {
				return nil, errs.New(errs.Conflict, errs.CodeConflict, "hosts: %s is a name of another ID scope", h)
			}
		}
		return next, nil
	})
}

// DeleteScope removes a scope that is empty.
func (t tenants) DeleteScope(ctx context.Context, id device.IDScope) error {
	return t.store.DeleteScope(ctx, id)
}

// named reports whether host, without a port, is one of hosts.
func named(hosts []string, host string) bool {
	return slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(hub.HostName(h), host) })
}
