package postgres

import (
	"context"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// scanDevices and what follows it come behind the columns that are wanted.
	scanDevices = ` FROM device
		WHERE hub = $1 AND id >= $2 AND id <= $3 AND id > $4 AND twin_version IS NOT NULL ORDER BY id LIMIT $5`
	scanModules = ` FROM module
		WHERE hub = $1 AND id >= $2 AND id <= $3 AND (id, module) > ($4, $5) AND twin_version IS NOT NULL ORDER BY id, module LIMIT $6`
	foundDevices = " FROM device WHERE hub = $1 AND id = ANY($2) AND twin_version IS NOT NULL"
	foundModules = ` FROM module
		WHERE hub = $1 AND (id, module) IN (SELECT * FROM unnest($2::text[], $3::text[])) AND twin_version IS NOT NULL`

	// twinEntries takes the path, the entry that they come after, the greatest value
	// and a limit.
	twinEntries       = " FROM twin_value WHERE path = $1 AND (value, id, module) > ($2, $3, $4) AND value <= $5 "
	selectTwinEntries = "SELECT value, id, module" + twinEntries + "ORDER BY value, id, module LIMIT $6"
	// countTwinEntries has an order, so that no more are read than are counted.
	countTwinEntries = "SELECT count(*) FROM (" + selectTwinEntries + ") AS entries"
	// insertTwinEntries and deleteTwinEntries take the paths and values of one place.
	insertTwinEntries = `INSERT INTO twin_value (path, value, id, module)
		SELECT path, value, $3, $4 FROM unnest($1::bigint[], $2::bytea[]) AS v (path, value) ON CONFLICT DO NOTHING`
	deleteTwinEntries = `DELETE FROM twin_value t USING unnest($1::bigint[], $2::bytea[]) AS v (path, value)
		WHERE t.path = v.path AND t.value = v.value AND t.id = $3 AND t.module = $4`

	// selectUnindexed leaves out modules, which nobody wrote without indexing them. Its
	// order is that of an index with nothing else in it: without one PostgreSQL, which
	// takes most rows for ones that differ, looks for them in the table.
	selectUnindexed = "SELECT hub, id FROM device WHERE indexed IS DISTINCT FROM twin_version ORDER BY hub, id LIMIT $1"

	selectPresencesOf = "SELECT " + record.PresenceColumns + `, p.server IN (SELECT id FROM server WHERE until > $1)
		FROM presence p WHERE p.hub = $2 AND (p.id, p.module) IN (SELECT * FROM unnest($3::text[], $4::text[]))`
	countWaiting = "SELECT hub, device_id, count(*) FROM cloud_message WHERE hub = $1 AND device_id = ANY($2) AND expiry > $3 GROUP BY hub, device_id"
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
	ids, modules := names(at)
	if at[0].Module == "" {
		return list(ctx, s, s.codec.Found, selectFound(false, wanted)+foundDevices, at[0].Hub, ids)
	}
	return list(ctx, s, s.codec.Found, selectFound(true, wanted)+foundModules, at[0].Hub, ids, modules)
}

func names(at []hub.Place) (ids, modules []string) {
	for _, p := range at {
		ids, modules = append(ids, string(p.ID)), append(modules, string(p.Module))
	}
	return ids, modules
}

// TwinEntries implements hub.Finder.
func (s *Store) TwinEntries(ctx context.Context, path int64, after hub.TwinEntry, high []byte, limit int) ([]hub.TwinEntry, error) {
	return list(ctx, s, record.TwinEntry, selectTwinEntries, path, after.Value, string(after.ID), string(after.Module), high, record.Limit(limit))
}

// CountTwinEntries implements hub.Finder.
func (s *Store) CountTwinEntries(ctx context.Context, path int64, after hub.TwinEntry, high []byte, limit int) (n int, err error) {
	err = s.query(ctx, func(r *record.Row) error { n = int(r.Number()); return nil },
		countTwinEntries, path, after.Value, string(after.ID), string(after.Module), high, record.Limit(limit))
	return n, err
}

// UnindexedTwins implements hub.Finder.
func (s *Store) UnindexedTwins(ctx context.Context, limit int) ([]hub.Place, error) {
	return list(ctx, s, record.Place, selectUnindexed, record.Limit(limit))
}

// About implements hub.Finder.
func (s *Store) About(ctx context.Context, at []hub.Place, now time.Time) (map[hub.Place]hub.About, error) {
	known := make(map[hub.Place]hub.About)
	if len(at) == 0 {
		return known, nil
	}
	host := at[0].Hub
	ids, modules := names(at)
	err := s.query(ctx, func(r *record.Row) error {
		p, presence := record.Presence(host, r)
		known[p] = hub.About{Presence: presence}
		return nil
	}, selectPresencesOf, record.Nanoseconds(now), host, ids, modules)
	if err != nil || at[0].Module != "" {
		return known, err
	}
	err = s.query(ctx, func(r *record.Row) error {
		p, err := record.Place(r)
		about := known[p]
		about.Waiting = int(r.Number())
		known[p] = about
		return err
	}, countWaiting, host, ids, record.Nanoseconds(now))
	return known, err
}

// writeIndex has the index know what a twin becomes.
func writeIndex(t *tx, at hub.Place, old *record.Home, d *hub.Identity, twin *hub.Twin) {
	add, remove := old.IndexChange(d, twin)
	writeTwinEntries(t, deleteTwinEntries, at, remove)
	writeTwinEntries(t, insertTwinEntries, at, add)
}

func writeTwinEntries(t *tx, sql string, at hub.Place, entries []hub.IndexedValue) {
	if len(entries) == 0 {
		return
	}
	var paths []int64
	var values [][]byte
	for _, e := range entries {
		paths, values = append(paths, e.Path), append(values, e.Value)
	}
	t.write(sql, paths, values, string(at.ID), string(at.Module))
}
