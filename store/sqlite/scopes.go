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
	selectLinked = "SELECT " + record.LinkedHubMembers + " FROM linked_hub WHERE scope = ? ORDER BY host"
	putLinked    = "INSERT INTO linked_hub (" + record.LinkedHubColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET host = excluded.host, weight = excluded.weight, allocation = excluded.allocation,
		latency = excluded.latency, policy = excluded.policy, keys = excluded.keys`
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

// DeleteScope removes a provisioning tenant with its policies, CA certificates
// and trust store. It returns an error of kind errs.NotFound when there is none,
// and of kind errs.Conflict while it has enrollments, registration records or
// linked hubs.
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
		if err := t.exec("DELETE FROM policy WHERE owner = ?", string(access.ScopeOwner(id))); err != nil {
			return err
		}
		for _, table := range record.ScopeProperty {
			if err := t.exec("DELETE FROM "+table+" WHERE scope = ?", string(id)); err != nil {
				return err
			}
		}
		return t.exec("DELETE FROM scope WHERE id = ?", string(id))
	})
}

// PutLinkedHub links a hub to scope or changes its link. It returns an error of
// kind errs.NotFound when there is no such scope.
func (s *Store) PutLinkedHub(ctx context.Context, scope device.IDScope, h provision.LinkedHub) error {
	values, err := s.codec.LinkedHubValues(scope, h)
	if err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.linked.Forget(scope) })
		err := t.exec(putLinked, values...)
		if isForeignKey(err) {
			return record.NoScope().WithCause(err)
		}
		return err
	})
}

// DeleteLinkedHub removes the link to a hub, or returns an error of kind
// errs.NotFound. Devices that were assigned to the hub stay there.
func (s *Store) DeleteLinkedHub(ctx context.Context, scope device.IDScope, host string) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.linked.Forget(scope) })
		n, err := t.number("SELECT count(*) FROM linked_hub WHERE scope = ? AND host = ?", string(scope), host)
		if err != nil {
			return err
		}
		if n == 0 {
			return record.NotLinked(host)
		}
		return t.exec("DELETE FROM linked_hub WHERE scope = ? AND host = ?", string(scope), host)
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
