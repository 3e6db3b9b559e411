package sqlite

import (
	"context"
	"strconv"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectIdentities = "SELECT " + record.IdentityColumns + " FROM device WHERE hub = ? AND id > ? ORDER BY id LIMIT ?"
	selectModules    = "SELECT " + record.ModuleIdentityColumns + " FROM module WHERE hub = ? AND id = ? ORDER BY module"
	// selectChildren says twice that there is a scope: the index has no others.
	selectChildren = "SELECT " + record.IdentityColumns + ` FROM device WHERE hub = ? AND parent_scope = ? AND parent_scope <> ''
		AND id > ? ORDER BY id LIMIT ?`
	// countDevices counts both at one moment, and reads indexes: rows are long.
	countDevices = `SELECT (SELECT count(*) FROM device WHERE hub = ?1),
		(SELECT count(*) FROM device WHERE hub = ?1 AND disabled <> 0)`
	selectModuleHomes = "SELECT " + record.ModuleIdentityColumns + ", " + record.TwinColumns + ", indexed FROM module WHERE hub = ? AND id = ?"
	selectHasDevice   = "SELECT count(*) FROM device WHERE hub = ? AND id = ?"
)

// A homeTable has the statements for devices, or for modules.
type homeTable struct{ identity, twin, home, insert, update, delete string }

var (
	devices = newHomeTable("device", record.IdentityColumns, record.DeviceColumns, 2)
	modules = newHomeTable("module", record.ModuleIdentityColumns, record.ModuleColumns, 3)
)

// newHomeTable is for a table whose first columns, so many as keys, are its key.
func newHomeTable(table, identity, all string, keys int) homeTable {
	columns := strings.Split(all, ",")
	var where, set, values []string
	for i, c := range columns {
		numbered := strings.TrimSpace(c) + " = ?" + strconv.Itoa(i+1)
		if values = append(values, "?"); i < keys {
			where = append(where, numbered)
		} else {
			set = append(set, numbered)
		}
	}
	from := " FROM " + table + " WHERE " + strings.Join(where, " AND ")
	return homeTable{
		identity: "SELECT " + identity + from,
		twin:     "SELECT " + record.TwinColumns + from,
		home:     "SELECT " + identity + ", " + record.TwinColumns + ", indexed" + from,
		insert:   "INSERT INTO " + table + " (" + all + ") VALUES (" + strings.Join(values, ", ") + ")",
		update:   "UPDATE " + table + " SET " + strings.Join(set, ", ") + " WHERE " + strings.Join(where, " AND "),
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
func (s *Store) Statistics(ctx context.Context, host string) (hub.Statistics, error) {
	counted, err := list(ctx, s, func(r *record.Row) (hub.Statistics, error) {
		return hub.Statistics{Total: int(r.Number()), Disabled: int(r.Number())}, nil
	}, countDevices, host)
	if err != nil {
		return hub.Statistics{}, err
	}
	return counted[0], nil
}

// Change implements hub.Registry.
func (s *Store) Change(ctx context.Context, at hub.Place, decide func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := s.home(t, at)
		if err != nil {
			return err
		}
		d, twin, err := decide(old.Identity, old.Twin)
		if err != nil {
			return err
		}
		return s.writeHome(t, at, old, d, twin)
	})
}

// Move implements hub.Registry.
func (s *Store) Move(ctx context.Context, from, to hub.Place, decide func(at *hub.Identity, twin *hub.Twin, left *hub.Identity, leftTwin *hub.Twin) (*hub.Identity, *hub.Twin, error)) error {
	if err := record.CanMove(from, to); err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		left, err := s.home(t, from)
		if err != nil {
			return err
		}
		old, err := s.home(t, to)
		if err != nil {
			return err
		}
		d, twin, err := decide(old.Identity, old.Twin, left.Identity, left.Twin)
		if err != nil {
			return err
		}
		if err := s.writeHome(t, from, left, nil, nil); err != nil {
			return err
		}
		return s.writeHome(t, to, old, d, twin)
	})
}

func (s *Store) home(t *tx, at hub.Place) (*record.Home, error) {
	table, key := homeOf(at)
	h, err := one(t.conn, s.codec.Home, table.home, key...)
	if h == nil {
		h = new(record.Home)
	}
	return h, err
}

// writeHome makes d and twin what is at the place where old was.
func (s *Store) writeHome(t *tx, at hub.Place, old *record.Home, d *hub.Identity, twin *hub.Twin) error {
	table, key := homeOf(at)
	switch {
	case d == nil && !old.Exists():
		return nil
	case d == nil && at.Module != "":
		if err := t.exec(deletePresence, key...); err != nil {
			return err
		}
	case d == nil:
		if err := s.removeModules(t, at); err != nil {
			return err
		}
	}
	if err := writeIndex(t, at, old, d, twin); err != nil {
		return err
	}
	if d == nil {
		return t.exec(table.delete, key...)
	}
	values, err := s.codec.HomeValues(at, old, d, twin)
	if err != nil {
		return err
	}
	if old.Exists() {
		return t.exec(table.update, values...)
	}
	if at.Module != "" {
		n, err := t.number(selectHasDevice, at.Hub, string(at.ID))
		if err != nil {
			return err
		}
		if n == 0 {
			return record.NoDevice()
		}
	}
	return t.exec(table.insert, values...)
}

// removeModules takes out of the index what a device's modules have there. The
// rest goes with the device.
func (s *Store) removeModules(t *tx, at hub.Place) error {
	modules, err := all(t.conn, s.codec.Home, selectModuleHomes, at.Hub, string(at.ID))
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := writeIndex(t, m.Identity.Place, m, nil, nil); err != nil {
			return err
		}
	}
	return nil
}
