package sqlite

import (
	"context"
	"slices"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// PutScope creates or replaces a provisioning tenant.
func (s *Store) PutScope(ctx context.Context, scope provision.Scope) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.scopes.forget(scope.ID) })
		return t.exec(`INSERT INTO scope (id, allocation) VALUES (?, ?)
			ON CONFLICT DO UPDATE SET allocation = excluded.allocation`, string(scope.ID), string(scope.Allocation))
	})
}

// Scope implements provision.Scopes.
func (s *Store) Scope(ctx context.Context, id device.IDScope) (*provision.Scope, error) {
	found, err := s.scopes.get(id, func() (*provision.Scope, error) {
		return find(ctx, s, scopeNotFound(), func(r *row) (*provision.Scope, error) {
			scope := readScope(r)
			return &scope, nil
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
	return list(ctx, s, func(r *row) (provision.Scope, error) { return readScope(r), nil },
		"SELECT id, allocation FROM scope ORDER BY id")
}

func readScope(r *row) provision.Scope {
	return provision.Scope{ID: device.IDScope(r.text()), Allocation: enroll.AllocationPolicy(r.text())}
}

func scopeNotFound() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeGenericNotFound, "ID scope not found.")
}

// PutLinkedHub links a hub to scope or changes its link. It returns an error of
// kind errs.NotFound when there is no such scope.
func (s *Store) PutLinkedHub(ctx context.Context, scope device.IDScope, h provision.LinkedHub) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.linked.forget(scope) })
		err := t.exec(`INSERT INTO linked_hub (scope, host, weight, allocation) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET host = excluded.host, weight = excluded.weight, allocation = excluded.allocation`,
			string(scope), h.Host, int64(h.Weight), h.Allocation)
		if isForeignKey(err) {
			return scopeNotFound().WithCause(err)
		}
		return err
	})
}

// DeleteLinkedHub removes the link to a hub, or returns an error of kind
// errs.NotFound. Devices that were assigned to the hub stay there.
func (s *Store) DeleteLinkedHub(ctx context.Context, scope device.IDScope, host string) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.linked.forget(scope) })
		n, err := t.number("SELECT count(*) FROM linked_hub WHERE scope = ? AND host = ?", string(scope), host)
		if err != nil {
			return err
		}
		if n == 0 {
			return errs.New(errs.NotFound, errs.CodeHubNotFound, "%s is not linked.", host)
		}
		return t.exec("DELETE FROM linked_hub WHERE scope = ? AND host = ?", string(scope), host)
	})
}

// Linked returns the hubs of scope, ordered by host without case.
func (s *Store) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	hubs, err := s.linked.get(scope, func() ([]provision.LinkedHub, error) {
		return list(ctx, s, func(r *row) (provision.LinkedHub, error) {
			return provision.LinkedHub{Host: r.text(), Weight: int(r.number()), Allocation: r.flag()}, nil
		}, "SELECT host, weight, allocation FROM linked_hub WHERE scope = ? ORDER BY host", string(scope))
	})
	return slices.Clone(hubs), err
}
