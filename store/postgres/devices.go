package postgres

import (
	"context"
	"hash/fnv"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectIdentities = "SELECT " + record.IdentityColumns + " FROM device WHERE hub = $1 AND id > $2 ORDER BY id LIMIT $3"
	lockModules      = "SELECT " + record.ModuleIdentityColumns + ", " + record.TwinColumns + ", indexed FROM module WHERE hub = $1 AND id = $2 FOR UPDATE"
	selectModules    = "SELECT " + record.ModuleIdentityColumns + " FROM module WHERE hub = $1 AND id = $2 ORDER BY module"
	// selectChildren says twice that there is a scope: the index has no others.
	selectChildren = "SELECT " + record.IdentityColumns + ` FROM device WHERE hub = $1 AND parent_scope = $2 AND parent_scope <> ''
		AND id > $3 ORDER BY id LIMIT $4`
	// countDevices counts both at one moment, and reads indexes: rows are long.
	countDevices = `SELECT (SELECT count(*) FROM device WHERE hub = $1),
		(SELECT count(*) FROM device WHERE hub = $1 AND disabled)`
)

// A homeTable has the statements for devices, or for modules.
type homeTable struct{ identity, twin, lock, insert, update, delete string }

var (
	devices = newHomeTable("device", record.IdentityColumns, record.DeviceColumns, 2)
	modules = newHomeTable("module", record.ModuleIdentityColumns, record.ModuleColumns, 3)
)

// newHomeTable is for a table whose first columns, so many as keys, are its key.
func newHomeTable(table, identity, all string, keys int) homeTable {
	key := strings.Join(strings.Split(all, ",")[:keys], ",")
	from := " FROM " + table + " WHERE (" + key + ") = (" + parameters(1, keys) + ")"
	return homeTable{
		identity: "SELECT " + identity + from,
		twin:     "SELECT " + record.TwinColumns + from,
		lock:     "SELECT " + identity + ", " + record.TwinColumns + ", indexed" + from + " FOR UPDATE",
		insert:   insert(table, all),
		update:   update(table, all, keys),
		delete:   "DELETE" + from,
	}
}

// homeOf returns the table of what is at a place, and the key of its row.
func homeOf(at hub.Place) (homeTable, []any) {
	if at.Module == "" {
		return devices, []any{at.Hub, string(at.ID)}
	}
	return modules, []any{at.Hub, string(at.ID), string(at.Module)}
}

// Identity implements hub.Registry.
func (s *Store) Identity(ctx context.Context, at hub.Place) (*hub.Identity, error) {
	table, key := homeOf(at)
	return find(ctx, s, record.NoDevice(), s.codec.Identity, table.identity, key...)
}

// Twin implements hub.Registry.
func (s *Store) Twin(ctx context.Context, at hub.Place) (*hub.Twin, error) {
	table, key := homeOf(at)
	return find(ctx, s, record.NoDevice(), record.Twin, table.twin, key...)
}

// Devices implements hub.Registry.
func (s *Store) Devices(ctx context.Context, host string, after device.ID, limit int) ([]*hub.Identity, error) {
	return list(ctx, s, s.codec.Identity, selectIdentities, host, string(after), record.Limit(limit))
}

// Modules implements hub.Registry.
func (s *Store) Modules(ctx context.Context, host string, id device.ID) ([]*hub.Identity, error) {
	return list(ctx, s, s.codec.Identity, selectModules, host, string(id))
}

// Children implements hub.Registry.
func (s *Store) Children(ctx context.Context, host, scope string, after device.ID, limit int) ([]*hub.Identity, error) {
	return list(ctx, s, s.codec.Identity, selectChildren, host, scope, string(after), record.Limit(limit))
}

// Statistics implements hub.Registry.
func (s *Store) Statistics(ctx context.Context, host string) (counted hub.Statistics, err error) {
	err = s.query(ctx, func(r *record.Row) error {
		counted = hub.Statistics{Total: int(r.Number()), Disabled: int(r.Number())}
		return nil
	}, countDevices, host)
	return counted, err
}

// Change implements hub.Registry.
func (s *Store) Change(ctx context.Context, at hub.Place, decide func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		old := new(record.Home)
		if err := t.read(ctx, s.lock(at, &old)); err != nil {
			return err
		}
		d, twin, err := decide(old.Identity, old.Twin)
		if err != nil {
			return err
		}
		return s.writeHome(ctx, t, at, old, d, twin)
	})
}

// Move implements hub.Registry.
func (s *Store) Move(ctx context.Context, from, to hub.Place, decide func(at *hub.Identity, twin *hub.Twin, left *hub.Identity, leftTwin *hub.Twin) (*hub.Identity, *hub.Twin, error)) error {
	if err := record.CanMove(from, to); err != nil {
		return err
	}
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		left, old := new(record.Home), new(record.Home)
		first, second := []query{reserve(place(from)), s.lock(from, &left)}, []query{reserve(place(to)), s.lock(to, &old)}
		if to.Hub < from.Hub || to.Hub == from.Hub && to.ID < from.ID {
			first, second = second, first // the same order for all, so that nobody waits in a circle
		}
		if err := t.read(ctx, append(first, second...)...); err != nil {
			return err
		}
		d, twin, err := decide(old.Identity, old.Twin, left.Identity, left.Twin)
		if err != nil {
			return err
		}
		if err := s.writeHome(ctx, t, from, left, nil, nil); err != nil {
			return err
		}
		return s.writeHome(ctx, t, to, old, d, twin)
	})
}

// lock reads what is at a place, if anything is, and keeps others from changing
// it.
func (s *Store) lock(at hub.Place, h **record.Home) query {
	table, key := homeOf(at)
	return query{into(h, s.codec.Home), table.lock, key}
}

// place names a place for reserve: two moves that cross would each find the
// other's destination empty.
func place(at hub.Place) string { return at.Hub + "/" + string(at.ID) }

// reserve keeps others who reserve the same from it until the transaction ends,
// also while nothing is there to lock.
func reserve(what string) query {
	h := fnv.New64a()
	h.Write([]byte(what))
	return query{func(*record.Row) error { return nil }, "SELECT pg_advisory_xact_lock($1)", []any{int64(h.Sum64())}}
}

// writeHome makes d and twin what is at the place where old was.
func (s *Store) writeHome(ctx context.Context, t *tx, at hub.Place, old *record.Home, d *hub.Identity, twin *hub.Twin) error {
	table, key := homeOf(at)
	switch {
	case d == nil && !old.Exists():
		return nil
	case d == nil && at.Module != "":
		t.write(deletePresence, key...)
	case d == nil:
		if err := s.removeModules(ctx, t, at); err != nil {
			return err
		}
	}
	writeIndex(t, at, old, d, twin)
	if d == nil {
		t.write(table.delete, key...)
		return nil
	}
	values, err := s.codec.HomeValues(at, old, d, twin)
	if err != nil {
		return err
	}
	if old.Exists() {
		t.write(table.update, values...)
	} else {
		t.write(table.insert, values...)
	}
	return nil
}

// removeModules takes out of the index what a device's modules have there. The
// rest goes with the device.
func (s *Store) removeModules(ctx context.Context, t *tx, at hub.Place) error {
	return t.read(ctx, query{func(r *record.Row) error {
		m, err := s.codec.Home(r)
		if err == nil {
			writeIndex(t, m.Identity.Place, m, nil, nil)
		}
		return err
	}, lockModules, []any{at.Hub, string(at.ID)}})
}
