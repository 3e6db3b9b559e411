package sqlite

import (
	"context"
	"slices"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectLinked = "SELECT " + record.LinkedHubMembers + " FROM linked_hub WHERE scope = ? ORDER BY host"
	selectLink   = "SELECT " + record.LinkedHubMembers + " FROM linked_hub WHERE scope = ? AND host = ?"
	putLinked    = "INSERT INTO linked_hub (" + record.LinkedHubColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET host = excluded.host, weight = excluded.weight, allocation = excluded.allocation,
		latency = excluded.latency, policy = excluded.policy, keys = excluded.keys`

	// hubInUse says of a row of hub whether it is more than a name, or one that
	// messages are of.
	hubInUse = `(EXISTS (SELECT 1 FROM device WHERE device.hub = hub.name)
		OR EXISTS (SELECT 1 FROM linked_hub AS l WHERE l.scope = hub.scope AND l.policy = ''
			AND (lower(l.host) = hub.name OR lower(l.host) LIKE hub.name || ':%')))`
)

// PutLinkedHub links a hub to scope or changes its link. It returns the errors of
// ChangeLinkedHub.
func (s *Store) PutLinkedHub(ctx context.Context, scope device.IDScope, h provision.LinkedHub) error {
	return s.ChangeLinkedHub(ctx, scope, h.Host, func(*provision.LinkedHub) (*provision.LinkedHub, error) { return &h, nil })
}

// DeleteLinkedHub removes the link to a hub, or returns an error of kind
// errs.NotFound. Devices that were assigned to the hub stay there.
func (s *Store) DeleteLinkedHub(ctx context.Context, scope device.IDScope, host string) error {
	return s.ChangeLinkedHub(ctx, scope, host, func(old *provision.LinkedHub) (*provision.LinkedHub, error) {
		if old == nil {
			return nil, record.NotLinked(host)
		}
		return nil, nil
	})
}

// ChangeLinkedHub reads the link of scope to a host (nil when there is none),
// lets decide say what it becomes and writes that, with no other change to it in
// between. Returning nil removes it. An error from decide is returned as it is and
// nothing is written. decide must not call the store and may be called more than
// once.
//
// The error is of kind errs.NotFound when there is no such scope, and of kind
// errs.Conflict when the hub is to be one of these servers and is one of another
// scope: a hub stays with its scope for as long as it is linked or has devices or
// messages. After that its name can be taken, and its policies are gone.
func (s *Store) ChangeLinkedHub(ctx context.Context, scope device.IDScope, host string, decide func(*provision.LinkedHub) (*provision.LinkedHub, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := one(t.conn, func(r *record.Row) (*provision.LinkedHub, error) {
			h, err := s.codec.LinkedHub(scope)(r)
			return &h, err
		}, selectLink, string(scope), host)
		if err != nil {
			return err
		}
		exists := old != nil
		next, err := decide(old)
		if err != nil || next == nil && !exists {
			return err
		}
		t.then(func() { s.linked.Forget(scope) })
		if next == nil {
			return t.exec("DELETE FROM linked_hub WHERE scope = ? AND host = ?", string(scope), host)
		}
		values, err := s.codec.LinkedHubValues(scope, *next)
		if err != nil {
			return err
		}
		if next.Connection == nil {
			err = s.claimHub(t, scope, hub.HostName(next.Host))
		}
		if err == nil {
			err = t.exec(putLinked, values...)
		}
		if isForeignKey(err) {
			return record.NoScope().WithCause(err)
		}
		return err
	})
}

// claimHub makes a hub of these servers one of scope.
func (s *Store) claimHub(t *tx, scope device.IDScope, name string) error {
	var owner string
	used := false
	err := t.each(func(r *record.Row) error { owner, used = r.Text(), r.Flag(); return nil },
		"SELECT scope, "+hubInUse+" FROM hub WHERE name = ?", name)
	switch {
	case err != nil || owner == string(scope):
		return err
	case used || owner != "" && s.stream.Has(name):
		return record.HubTaken(name)
	case owner != "":
		if err := t.exec("DELETE FROM policy WHERE owner = ?", string(access.HubOwner(name))); err != nil {
			return err
		}
		for _, table := range record.RoutingTables {
			if err := t.exec("DELETE FROM "+table+" WHERE hub = ?", name); err != nil {
				return err
			}
		}
	}
	return t.exec("INSERT INTO hub (name, scope) VALUES (?, ?) ON CONFLICT DO UPDATE SET scope = excluded.scope", name, string(scope))
}

// Linked returns the hubs of scope, ordered by host without case. What they
// refer to is shared: the caller does not change it.
func (s *Store) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	hubs, err := cached(ctx, s, &s.linked, scope, func(ctx context.Context) ([]provision.LinkedHub, error) {
		return list(ctx, s, s.codec.LinkedHub(scope), selectLinked, string(scope))
	})
	return slices.Clone(hubs), err
}

// HubScope returns the scope that a hub of these servers belongs to, by its name
// in lower case without a port, or nothing when no scope has it.
func (s *Store) HubScope(ctx context.Context, name string) (device.IDScope, error) {
	found, err := list(ctx, s, record.IDScope, "SELECT scope FROM hub WHERE name = ?", name)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}
