package postgres

import (
	"context"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// upsertPresences takes the places, when their connections changed, their last
	// activity and the change; and then the server that noticed it.
	upsertPresences = `INSERT INTO presence (hub, id, module, server, updated, last_activity)
		SELECT n.hub, n.id, n.module, CASE WHEN n.change = 1 THEN $7 ELSE '' END, n.changed, n.activity
		FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) AS n (hub, id, module, changed, activity, change)
		JOIN device d ON d.hub = n.hub AND d.id = n.id
		ON CONFLICT (hub, id, module) DO UPDATE SET
			server = CASE WHEN excluded.server <> '' THEN excluded.server WHEN excluded.updated <> 0 AND presence.server = $7 THEN '' ELSE presence.server END,
			updated = CASE WHEN excluded.server <> '' OR excluded.updated <> 0 AND presence.server = $7 THEN excluded.updated ELSE presence.updated END,
			last_activity = greatest(presence.last_activity, excluded.last_activity)`
	selectPresences = "SELECT " + record.PresenceColumns + `, p.server IN (SELECT id FROM server WHERE until > $1)
		FROM presence p WHERE p.hub = $2 AND p.id BETWEEN $3 AND $4`
	countConnected = `SELECT count(*) FROM presence WHERE hub = $1 AND module = '' AND server IN (SELECT id FROM server WHERE until > $2)`
	deletePresence = "DELETE FROM presence WHERE hub = $1 AND id = $2 AND module = $3"
	upsertServer   = "INSERT INTO server (id, until) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET until = excluded.until"
	deleteServers  = "DELETE FROM server WHERE until < $1"
	deleteServer   = "DELETE FROM server WHERE id = $1"
)

// Notice implements hub.Presences.
func (s *Store) Notice(ctx context.Context, server string, notices []hub.Notice) error {
	var (
		hubs, ids, modules          []string
		changed, activities, change []int64
	)
	for _, n := range notices {
		hubs, ids, modules = append(hubs, n.Hub), append(ids, string(n.ID)), append(modules, string(n.Module))
		changed, activities, change = append(changed, record.ZeroOr(n.Changed)), append(activities, record.ZeroOr(n.Activity)), append(change, int64(n.Change))
	}
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(upsertPresences, hubs, ids, modules, changed, activities, change, server)
		return nil
	})
}

// Presences implements hub.Presences.
func (s *Store) Presences(ctx context.Context, host string, first, last device.ID, now time.Time) (map[hub.Place]hub.Presence, error) {
	known := make(map[hub.Place]hub.Presence)
	err := s.query(ctx, func(r *record.Row) error {
		at, p := record.Presence(host, r)
		known[at] = p
		return nil
	}, selectPresences, record.Nanoseconds(now), host, string(first), string(last))
	return known, err
}

// CountConnected implements hub.Presences.
func (s *Store) CountConnected(ctx context.Context, host string, now time.Time) (n int, err error) {
	err = s.query(ctx, func(r *record.Row) error { n = int(r.Number()); return nil }, countConnected, host, record.Nanoseconds(now))
	return n, err
}

// LeaseServer implements hub.Presences. A server that was away for a while finds
// its connections as they were.
func (s *Store) LeaseServer(ctx context.Context, server string, now, until time.Time) error {
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(deleteServers, record.Nanoseconds(now.Add(-time.Hour)))
		t.write(upsertServer, server, record.Nanoseconds(until))
		return nil
	})
}

// EndServer implements hub.Presences.
func (s *Store) EndServer(ctx context.Context, server string) error {
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(deleteServer, server)
		return nil
	})
}
