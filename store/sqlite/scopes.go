package sqlite

import (
	"context"
	"slices"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectScope  = "SELECT " + record.ScopeColumns + " FROM scope WHERE id = ?"
	selectScopes = "SELECT " + record.ScopeColumns + " FROM scope ORDER BY id"
	putScope     = "INSERT INTO scope (" + record.ScopeColumns + `) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET allocation = excluded.allocation, hosts = excluded.hosts, limits = excluded.limits,
		shared_keys = excluded.shared_keys`
)

// PutScope creates or replaces a provisioning tenant.
func (s *Store) PutScope(ctx context.Context, scope provision.Scope) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.scopes.Forget(scope.ID) })
		return t.exec(putScope, record.ScopeValues(scope)...)
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
	return s.write(ctx, func(t *tx) error {
		old, err := all(t.conn, record.Scope, selectScopes)
		if err != nil {
			return err
		}
		next, err := decide(old)
		if err != nil {
			return err
		}
		t.then(func() { s.scopes.Forget(next.ID) })
		return t.exec(putScope, record.ScopeValues(*next)...)
	})
}

// DeleteScope removes a provisioning tenant with its policies, CA certificates
// and trust store. It returns an error of kind errs.NotFound when there is none,
// and of kind errs.Conflict while it has enrollments, registration records,
// linked hubs, or hubs of these servers with devices or messages.
func (s *Store) DeleteScope(ctx context.Context, id device.IDScope) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() {
			s.scopes.Forget(id)
			s.certificates.Forget(id)
			s.trust.Forget(id)
		})
		n, err := t.number("SELECT count(*) FROM scope WHERE id = ?", string(id))
		if err != nil {
			return err
		}
		if n == 0 {
			return record.NoScope()
		}
		for _, c := range record.ScopeContents {
			n, err := t.number("SELECT EXISTS (SELECT 1 FROM "+c.Table+" WHERE scope = ?)", string(id))
			if err != nil {
				return err
			}
			if n != 0 {
				return record.ScopeInUse(c.Name)
			}
		}
		used := false
		err = t.each(func(r *record.Row) error {
			used = used || r.Flag() || s.stream.Has(r.Text())
			return nil
		}, "SELECT "+hubInUse+", name FROM hub WHERE scope = ?", string(id))
		if err != nil {
			return err
		}
		if used {
			return record.ScopeInUse("devices or messages at a hub that was linked")
		}
		if err := t.exec("DELETE FROM policy WHERE owner = ? OR owner IN (SELECT 'hub:' || name FROM hub WHERE scope = ?)", string(access.ScopeOwner(id)), string(id)); err != nil {
			return err
		}
		for _, table := range record.RoutingTables {
			if err := t.exec("DELETE FROM "+table+" WHERE hub IN (SELECT name FROM hub WHERE scope = ?)", string(id)); err != nil {
				return err
			}
		}
		for _, table := range record.ScopeProperty {
			if err := t.exec("DELETE FROM "+table+" WHERE scope = ?", string(id)); err != nil {
				return err
			}
		}
		return t.exec("DELETE FROM scope WHERE id = ?", string(id))
	})
}
