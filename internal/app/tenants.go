package app

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// tenants are the provisioning scopes by their host names. Those of the
// configuration are the home scope's, whatever else is in the database.
type tenants struct {
	store store
	known *scopeCache
	home  device.IDScope
	hosts []string // of the configuration
}

// scopesStale is how long the list of scopes is good for. Another server may change
// it.
const scopesStale = time.Second

// A scopeCache is every provisioning scope as of a moment ago: each call of anybody
// asks for it.
type scopeCache struct {
	store   store
	list    atomic.Pointer[scopeList]
	reading sync.Mutex // held by who reads it again
}

type scopeList struct {
	scopes []provision.Scope
	read   time.Time
}

// all returns every scope. The caller does not change them.
func (c *scopeCache) all(ctx context.Context) ([]provision.Scope, error) {
	known := c.list.Load()
	if known != nil && time.Since(known.read) < scopesStale {
		return known.scopes, nil
	}
	if !c.reading.TryLock() {
		if known != nil && time.Since(known.read) < 2*scopesStale {
			return known.scopes, nil // somebody is at it
		}
		c.reading.Lock()
	}
	defer c.reading.Unlock()
	if now := c.list.Load(); now != known && now != nil {
		return now.scopes, nil
	}
	read := time.Now()
	scopes, err := c.store.ListScopes(ctx)
	if err != nil {
		return nil, err
	}
	c.list.Store(&scopeList{scopes, read})
	return scopes, nil
}

// forget has the list read again.
func (c *scopeCache) forget() { c.list.Store(nil) }

// ScopeOf returns the scope that goes by host, with all its host names.
func (t tenants) ScopeOf(ctx context.Context, host string) (*provision.Scope, error) {
	all, err := t.known.all(ctx)
	if err != nil {
		return nil, err
	}
	home := named(t.hosts, host)
	for _, scope := range all {
		if scope.ID != t.home {
			if !home && named(scope.Hosts, host) {
				return &scope, nil
			}
			continue
		}
		if home || named(scope.Hosts, host) {
			scope.Hosts = append(slices.Clone(t.hosts), scope.Hosts...)
			return &scope, nil
		}
	}
	return nil, errs.New(errs.NotFound, errs.CodeGenericNotFound, "no scope goes by %q", host)
}

// ListScopes returns every scope.
func (t tenants) ListScopes(ctx context.Context) ([]provision.Scope, error) {
	return t.store.ListScopes(ctx)
}

// ChangeScopes changes a scope, which does not get a name of the configuration.
func (t tenants) ChangeScopes(ctx context.Context, decide func([]provision.Scope) (*provision.Scope, error)) error {
	defer t.known.forget()
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
	defer t.known.forget()
	return t.store.DeleteScope(ctx, id)
}

// named reports whether host, without a port, is one of hosts.
func named(hosts []string, host string) bool {
	return slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(hub.HostName(h), host) })
}
