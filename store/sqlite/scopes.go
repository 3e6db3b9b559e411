package sqlite

import (
	"context"
	"slices"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

const selectLinked = "SELECT host, weight, allocation FROM linked_hub WHERE scope = ? ORDER BY host"

// PutScope creates or replaces a provisioning tenant.
func (s *Store) PutScope(ctx context.Context, scope provision.Scope) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.scopes.Forget(scope.ID) })
		return t.exec(`INSERT INTO scope (id, allocation) VALUES (?, ?)
			ON CONFLICT DO UPDATE SET allocation = excluded.allocation`, string(scope.ID), string(scope.Allocation))
	})
}

// Scope implements provision.Scopes.
func (s *Store) Scope(ctx context.Context, id device.IDScope) (*provision.Scope, error) {
	found, err := s.scopes.Get(ctx, id, func(ctx context.Context) (*provision.Scope, error) {
		return find(ctx, s, record.NoScope(), func(r *record.Row) (*provision.Scope, error) {
			scope, err := record.Scope(r)
			return &scope, err
		}, "SELECT id, allocation FROM scope WHERE id = ?", string(id))
	})
	if err != nil {
		return nil, err
	}
	own := *found
	return &own, nil
}

// ListScopes returns every provisioning tenant, ordered by ID.
func (s *Store) ListScopes(ctx context.Context) ([]provision.Scope, error) {
	return list(ctx, s, record.Scope, "SELECT id, allocation FROM scope ORDER BY id")
}

// PutLinkedHub links a hub to scope or changes its link. It returns an error of
// kind errs.NotFound when there is no such scope.
func (s *Store) PutLinkedHub(ctx context.Context, scope device.IDScope, h provision.LinkedHub) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.linked.Forget(scope) })
		err := t.exec(`INSERT INTO linked_hub (scope, host, weight, allocation) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET host = excluded.host, weight = excluded.weight, allocation = excluded.allocation`,
			string(scope), h.Host, int64(h.Weight), h.Allocation)
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

// Linked returns the hubs of scope, ordered by host without case.
func (s *Store) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	hubs, err := s.linked.Get(ctx, scope, func(ctx context.Context) ([]provision.LinkedHub, error) {
		return list(ctx, s, record.LinkedHub, selectLinked, string(scope))
	})
	return slices.Clone(hubs), err
}
