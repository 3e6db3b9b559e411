package postgres

import (
	"context"
	"slices"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectScope  = "SELECT " + record.ScopeColumns + " FROM scope WHERE id = $1"
	selectScopes = "SELECT " + record.ScopeColumns + " FROM scope ORDER BY id"
)

var (
	putScope = insert("scope", record.ScopeColumns) + ` ON CONFLICT (id) DO UPDATE SET allocation = excluded.allocation,
		hosts = excluded.hosts, limits = excluded.limits, shared_keys = excluded.shared_keys`
)

// PutScope creates or replaces a provisioning tenant.
func (s *Store) PutScope(ctx context.Context, scope provision.Scope) error {
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.then(func() { s.scopes.Forget(scope.ID) })
		t.write(putScope, record.ScopeValues(scope)...)
		t.changed()
		return nil
	})
}

// Scope implements provision.Scopes.
func (s *Store) Scope(ctx context.Context, id device.IDScope) (*provision.Scope, error) {
	found, err := cached(ctx, s, &s.scopes, id, func(ctx context.Context) (*provision.Scope, error) {
		return find(ctx, s, record.NoScope(), func(r *record.Row) (*provision.Scope, error) {
			scope, err := record.Scope(r)
			return &scope, err
		}, selectScope, string(id))
	})
	if err != nil {
		return nil, err
	}
	own := *found
	own.Hosts = slices.Clone(own.Hosts)
	return &own, nil
}

// ListScopes returns every provisioning tenant, ordered by ID.
func (s *Store) ListScopes(ctx context.Context) ([]provision.Scope, error) {
	return list(ctx, s, record.Scope, selectScopes)
}

// ChangeScopes reads every provisioning tenant, lets decide say which one to
// create or replace, and writes that, with no other change to them in between.
// An error from decide is returned as it is and nothing is written. decide must
// not call the store and may be called more than once.
func (s *Store) ChangeScopes(ctx context.Context, decide func([]provision.Scope) (*provision.Scope, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		var old []provision.Scope
		err := t.read(ctx, reserve("scopes"), query{func(r *record.Row) error {
			scope, err := record.Scope(r)
			old = append(old, scope)
			return err
		}, selectScopes, nil})
		if err != nil {
			return err
		}
		next, err := decide(old)
		if err != nil {
			return err
		}
		t.then(func() { s.scopes.Forget(next.ID) })
		t.write(putScope, record.ScopeValues(*next)...)
		t.changed()
		return nil
	})
}

// DeleteScope removes a provisioning tenant with its policies, CA certificates
// and trust store. It returns an error of kind errs.NotFound when there is none,
// and of kind errs.Conflict while it has enrollments, registration records,
// linked hubs, or hubs of these servers with devices or messages.
func (s *Store) DeleteScope(ctx context.Context, id device.IDScope) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		t.then(func() {
			s.scopes.Forget(id)
			s.certificates.Forget(id)
			s.trust.Forget(id)
		})
		var exists, used bool
		var contents string
		// Whoever puts something into the scope waits for the lock.
		reads := []query{
			{func(*record.Row) error { exists = true; return nil }, "SELECT id FROM scope WHERE id = $1 FOR UPDATE", []any{string(id)}},
			reserve("policies of " + string(access.ScopeOwner(id))), reserve("hubs"), reserve("scopes"),
		}
		for _, c := range record.ScopeContents {
			reads = append(reads, query{func(r *record.Row) error {
				if r.Flag() && !used {
					used, contents = true, c.Name
				}
				return nil
			}, "SELECT EXISTS (SELECT 1 FROM " + c.Table + " WHERE scope = $1)", []any{string(id)}})
		}
		reads = append(reads, query{func(r *record.Row) error {
			if r.Flag() && !used {
				used, contents = true, "devices or messages at a hub that was linked"
			}
			return nil
		}, "SELECT EXISTS (SELECT 1 FROM hub WHERE scope = $1 AND " + hubInUse + ")", []any{string(id)}})
		if err := t.read(ctx, reads...); err != nil {
			return err
		}
		switch {
		case !exists:
			return record.NoScope()
		case used:
			return record.ScopeInUse(contents)
		}
		t.write("DELETE FROM policy WHERE owner = $1 OR owner IN (SELECT 'hub:' || name FROM hub WHERE scope = $2)", string(access.ScopeOwner(id)), string(id))
		for _, table := range record.RoutingTables {
			t.write("DELETE FROM "+table+" WHERE hub IN (SELECT name FROM hub WHERE scope = $1)", string(id))
		}
		for _, table := range record.ScopeProperty {
			t.write("DELETE FROM "+table+" WHERE scope = $1", string(id))
		}
		t.write("DELETE FROM scope WHERE id = $1", string(id))
		t.changed()
		return nil
	})
}
