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
	selectLinked = "SELECT " + record.LinkedHubMembers + " FROM linked_hub WHERE scope = $1 ORDER BY lower(host)"
)

var (
	putScope = insert("scope", record.ScopeColumns) + ` ON CONFLICT (id) DO UPDATE SET allocation = excluded.allocation,
		hosts = excluded.hosts, limits = excluded.limits, shared_keys = excluded.shared_keys`
	putLinked = insert("linked_hub", record.LinkedHubColumns) + ` ON CONFLICT (scope, lower(host)) DO UPDATE SET
		host = excluded.host, weight = excluded.weight, allocation = excluded.allocation,
		latency = excluded.latency, policy = excluded.policy, keys = excluded.keys`
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

// DeleteScope removes a provisioning tenant with its policies, CA certificates
// and trust store. It returns an error of kind errs.NotFound when there is none,
// and of kind errs.Conflict while it has enrollments, registration records or
// linked hubs.
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
			reserve("policies of " + string(access.ScopeOwner(id))),
		}
		for _, c := range record.ScopeContents {
			reads = append(reads, query{func(r *record.Row) error {
				if r.Flag() && !used {
					used, contents = true, c.Name
				}
				return nil
			}, "SELECT EXISTS (SELECT 1 FROM " + c.Table + " WHERE scope = $1)", []any{string(id)}})
		}
		if err := t.read(ctx, reads...); err != nil {
			return err
		}
		switch {
		case !exists:
			return record.NoScope()
		case used:
			return record.ScopeInUse(contents)
		}
		t.write("DELETE FROM policy WHERE owner = $1", string(access.ScopeOwner(id)))
		for _, table := range record.ScopeProperty {
			t.write("DELETE FROM "+table+" WHERE scope = $1", string(id))
		}
		t.write("DELETE FROM scope WHERE id = $1", string(id))
		t.changed()
		return nil
	})
}

// PutLinkedHub links a hub to scope or changes its link. It returns an error of
// kind errs.NotFound when there is no such scope.
func (s *Store) PutLinkedHub(ctx context.Context, scope device.IDScope, h provision.LinkedHub) error {
	values, err := s.codec.LinkedHubValues(scope, h)
	if err != nil {
		return err
	}
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.then(func() { s.linked.Forget(scope) })
		t.write(putLinked, values...)
		t.changed()
		return nil
	})
}

// DeleteLinkedHub removes the link to a hub, or returns an error of kind
// errs.NotFound. Devices that were assigned to the hub stay there.
func (s *Store) DeleteLinkedHub(ctx context.Context, scope device.IDScope, host string) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		t.then(func() { s.linked.Forget(scope) })
		linked := false
		err := t.read(ctx, query{
			func(*record.Row) error { linked = true; return nil },
			"SELECT host FROM linked_hub WHERE scope = $1 AND lower(host) = lower($2::text COLLATE \"C\") FOR UPDATE", []any{string(scope), host},
		})
		if err != nil {
			return err
		}
		if !linked {
			return record.NotLinked(host)
		}
		t.write(`DELETE FROM linked_hub WHERE scope = $1 AND lower(host) = lower($2::text COLLATE "C")`, string(scope), host)
		t.changed()
		return nil
	})
}

// Linked returns the hubs of scope, ordered by host without case. What they
// refer to is shared: the caller does not change it.
func (s *Store) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	hubs, err := cached(ctx, s, &s.linked, scope, func(ctx context.Context) ([]provision.LinkedHub, error) {
		return list(ctx, s, s.codec.LinkedHub(scope), selectLinked, string(scope))
	})
	return slices.Clone(hubs), err
}
