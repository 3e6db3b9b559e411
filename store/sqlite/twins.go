package sqlite

import (
	"context"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// scanDevices and what follows it come behind the columns that are wanted.
	scanDevices = ` FROM device
		WHERE hub = ?1 AND id >= ?2 AND id <= ?3 AND id > ?4 AND twin_version IS NOT NULL ORDER BY id LIMIT ?5`
	scanModules = ` FROM module
		WHERE hub = ?1 AND id >= ?2 AND id <= ?3 AND (id, module) > (?4, ?5) AND twin_version IS NOT NULL ORDER BY id, module LIMIT ?6`
	foundDevice = " FROM device WHERE hub = ? AND id = ? AND twin_version IS NOT NULL"
	foundModule = " FROM module WHERE hub = ? AND id = ? AND module = ? AND twin_version IS NOT NULL"

	// twinEntries takes the path, the entry that they come after, the greatest value
	// and a limit.
	twinEntries       = " FROM twin_value WHERE path = ? AND (value, id, module) > (?, ?, ?) AND value <= ? "
	selectTwinEntries = "SELECT value, id, module" + twinEntries + "ORDER BY value, id, module LIMIT ?"
	countTwinEntries  = "SELECT count(*) FROM (SELECT 1" + twinEntries + "LIMIT ?)"
	insertTwinEntry   = "INSERT OR IGNORE INTO twin_value (path, value, id, module) VALUES (?, ?, ?, ?)"
	deleteTwinEntry   = "DELETE FROM twin_value WHERE path = ? AND value = ? AND id = ? AND module = ?"

	// selectUnindexed leaves out modules, which nobody wrote without indexing them.
	selectUnindexed = "SELECT hub, id FROM device WHERE indexed IS NOT twin_version LIMIT ?"

	selectPresence = "SELECT " + record.PresenceColumns + `, p.server IN (SELECT id FROM server WHERE until > ?)
		FROM presence p WHERE p.hub = ? AND p.id = ? AND p.module = ?`
	countWaiting = "SELECT count(*) FROM cloud_message WHERE hub = ? AND device_id = ? AND expiry > ?"
)

// ScanTwins implements hub.Finder.
func (s *Store) ScanTwins(ctx context.Context, host string, of hub.Part, wanted hub.Members, limit int) ([]hub.Found, error) {
	first, last, after := string(of.First), string(of.Last), string(of.After.ID)
	if of.Modules {
		return list(ctx, s, s.codec.Found, selectFound(true, wanted)+scanModules, host, first, last, after, string(of.After.Module), record.Limit(limit))
	}
	return list(ctx, s, s.codec.Found, selectFound(false, wanted)+scanDevices, host, first, last, after, record.Limit(limit))
}

func selectFound(module bool, wanted hub.Members) string {
	return "SELECT " + record.FoundColumns(module, wanted)
}

// TwinsAt implements hub.Finder.
func (s *Store) TwinsAt(ctx context.Context, at []hub.Place, wanted hub.Members) ([]hub.Found, error) {
	if len(at) == 0 {
		return nil, nil
	}
	sql := selectFound(false, wanted) + foundDevice
	if at[0].Module != "" {
		sql = selectFound(true, wanted) + foundModule
	}
	var found []hub.Found
	err := s.read(ctx, func(c *conn) error {
		for _, p := range at {
			_, key := homeOf(p)
			err := c.each(func(r *record.Row) error {
				f, err := s.codec.Found(r)
				found = append(found, f)
				return err
			}, sql, key...)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

// TwinEntries implements hub.Finder.
func (s *Store) TwinEntries(ctx context.Context, path int64, after hub.TwinEntry, high []byte, limit int) ([]hub.TwinEntry, error) {
	return list(ctx, s, record.TwinEntry, selectTwinEntries, path, after.Value, string(after.ID), string(after.Module), high, record.Limit(limit))
}

// CountTwinEntries implements hub.Finder.
func (s *Store) CountTwinEntries(ctx context.Context, path int64, after hub.TwinEntry, high []byte, limit int) (int, error) {
	counted, err := list(ctx, s, func(r *record.Row) (int, error) { return int(r.Number()), nil },
		countTwinEntries, path, after.Value, string(after.ID), string(after.Module), high, record.Limit(limit))
	if err != nil {
		return 0, err
	}
	return counted[0], nil
}

// UnindexedTwins implements hub.Finder.
func (s *Store) UnindexedTwins(ctx context.Context, limit int) ([]hub.Place, error) {
	return list(ctx, s, record.Place, selectUnindexed, record.Limit(limit))
}

// About implements hub.Finder.
func (s *Store) About(ctx context.Context, at []hub.Place, now time.Time) (map[hub.Place]hub.About, error) {
	known := make(map[hub.Place]hub.About)
	err := s.read(ctx, func(c *conn) error {
		for _, p := range at {
			var about hub.About
			err := c.each(func(r *record.Row) error {
				_, about.Presence = record.Presence(p.Hub, r)
				return nil
			}, selectPresence, record.Nanoseconds(now), p.Hub, string(p.ID), string(p.Module))
			if err != nil {
				return err
			}
			if p.Module == "" {
				waiting, err := c.number(countWaiting, p.Hub, string(p.ID), record.Nanoseconds(now))
				if err != nil {
					return err
				}
				about.Waiting = int(waiting)
			}
			if about != (hub.About{}) {
				known[p] = about
			}
		}
		return nil
	})
	return known, err
}

// writeIndex has the index know what a twin becomes.
func writeIndex(t *tx, at hub.Place, old *record.Home, d *hub.Identity, twin *hub.Twin) error {
	add, remove := old.IndexChange(d, twin)
	for _, v := range remove {
		if err := t.exec(deleteTwinEntry, v.Path, v.Value, string(at.ID), string(at.Module)); err != nil {
			return err
		}
	}
	for _, v := range add {
		if err := t.exec(insertTwinEntry, v.Path, v.Value, string(at.ID), string(at.Module)); err != nil {
			return err
		}
	}
	return nil
}
