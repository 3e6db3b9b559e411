package sqlite

import (
	"context"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// upsertPresence takes the place, the server where it is connected now, when that
	// was, the last activity, the change and the server that noticed it.
	upsertPresence = `INSERT INTO presence (hub, id, module, server, updated, last_activity)
		SELECT hub, id, ?3, ?4, ?5, ?6 FROM device WHERE hub = ?1 AND id = ?2
		ON CONFLICT DO UPDATE SET
			server = CASE WHEN ?7 = 1 THEN excluded.server WHEN ?7 = 2 AND presence.server = ?8 THEN '' ELSE presence.server END,
			updated = CASE WHEN ?7 = 1 OR ?7 = 2 AND presence.server = ?8 THEN excluded.updated ELSE presence.updated END,
			last_activity = max(presence.last_activity, excluded.last_activity)`
	selectPresences = "SELECT " + record.PresenceColumns + `, p.server IN (SELECT id FROM server WHERE until > ?)
		FROM presence p WHERE p.hub = ? AND p.id BETWEEN ? AND ?`
	countConnected = `SELECT count(*) FROM presence WHERE hub = ? AND module = '' AND server IN (SELECT id FROM server WHERE until > ?)`
	deletePresence = "DELETE FROM presence WHERE hub = ? AND id = ? AND module = ?"
	upsertServer   = "INSERT INTO server (id, until) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET until = ?2"
	deleteServers  = "DELETE FROM server WHERE until < ?"
	deleteServer   = "DELETE FROM server WHERE id = ?"
	endServers     = "DELETE FROM server"
)

// Notice implements hub.Presences.
func (s *Store) Notice(ctx context.Context, server string, notices []hub.Notice) error {
	return s.write(ctx, func(t *tx) error {
		for _, n := range notices {
			now := ""
			if n.Change == hub.NowConnected {
				now = server
			}
			err := t.exec(upsertPresence, n.Hub, string(n.ID), string(n.Module), now, record.ZeroOr(n.Changed), record.ZeroOr(n.Activity), int64(n.Change), server)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Presences implements hub.Presences.
func (s *Store) Presences(ctx context.Context, host string, first, last device.ID, now time.Time) (map[hub.Place]hub.Presence, error) {
	known := make(map[hub.Place]hub.Presence)
	err := s.read(ctx, func(c *conn) error {
		return c.each(func(r *record.Row) error {
			at, p := record.Presence(host, r)
			known[at] = p
			return nil
		}, selectPresences, record.Nanoseconds(now), host, string(first), string(last))
	})
	return known, err
}

// CountConnected implements hub.Presences.
func (s *Store) CountConnected(ctx context.Context, host string, now time.Time) (n int, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.each(func(r *record.Row) error { n = int(r.Number()); return nil }, countConnected, host, record.Nanoseconds(now))
	})
	return n, err
}

// LeaseServer implements hub.Presences.
func (s *Store) LeaseServer(ctx context.Context, server string, now, until time.Time) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.exec(deleteServers, record.Nanoseconds(now)); err != nil {
			return err
		}
		return t.exec(upsertServer, server, record.Nanoseconds(until))
	})
}

// EndServer implements hub.Presences.
func (s *Store) EndServer(ctx context.Context, server string) error {
	return s.write(ctx, func(t *tx) error { return t.exec(deleteServer, server) })
}
