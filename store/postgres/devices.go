package postgres

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectIdentity   = "SELECT " + record.IdentityColumns + " FROM device WHERE hub = $1 AND id = $2"
	selectTwin       = "SELECT " + record.TwinColumns + " FROM device WHERE hub = $1 AND id = $2"
	lockHome         = "SELECT " + record.HomeColumns + " FROM device WHERE hub = $1 AND id = $2 FOR UPDATE"
	deleteHome       = "DELETE FROM device WHERE hub = $1 AND id = $2"
	selectIdentities = "SELECT " + record.IdentityColumns + " FROM device WHERE hub = $1 AND id > $2 ORDER BY id LIMIT $3"
	// countDevices counts both at one moment, and reads indexes: rows are long.
	countDevices = `SELECT (SELECT count(*) FROM device WHERE hub = $1),
		(SELECT count(*) FROM device WHERE hub = $1 AND disabled)`
)

var (
	insertHome = insert("device", record.HomeColumns)
	updateHome = update("device", record.HomeColumns, 2)
)

// Device implements hub.Registry.
func (s *Store) Device(ctx context.Context, host string, id device.ID) (*hub.Device, error) {
	return find(ctx, s, record.NoDevice(), s.codec.Identity, selectIdentity, host, string(id))
}

// Twin implements hub.Registry.
func (s *Store) Twin(ctx context.Context, host string, id device.ID) (*hub.Twin, error) {
	return find(ctx, s, record.NoDevice(), record.Twin, selectTwin, host, string(id))
}

// Devices implements hub.Registry.
func (s *Store) Devices(ctx context.Context, host string, after device.ID, limit int) ([]*hub.Device, error) {
	return list(ctx, s, s.codec.Identity, selectIdentities, host, string(after), record.Limit(limit))
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
func (s *Store) Change(ctx context.Context, host string, id device.ID, decide func(*hub.Device, *hub.Twin) (*hub.Device, *hub.Twin, error)) error {
	at := hub.Place{Hub: host, ID: id}
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		old := new(record.Home)
		if err := t.read(ctx, s.lock(at, &old)); err != nil {
			return err
		}
		d, twin, err := decide(old.Device, old.Twin)
		if err != nil {
			return err
		}
		return s.writeHome(t, at, old, d, twin)
	})
}

// Move implements hub.Registry.
func (s *Store) Move(ctx context.Context, from hub.Place, host string, id device.ID, decide func(at *hub.Device, twin *hub.Twin, left *hub.Device, leftTwin *hub.Twin) (*hub.Device, *hub.Twin, error)) error {
	to := hub.Place{Hub: host, ID: id}
	if from == to {
		return fmt.Errorf("%s/%s cannot move to where it is", host, id)
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
		d, twin, err := decide(old.Device, old.Twin, left.Device, left.Twin)
		if err != nil {
			return err
		}
		if left.Exists() {
			t.write(deleteHome, from.Hub, string(from.ID))
		}
		return s.writeHome(t, to, old, d, twin)
	})
}

// lock reads what is at a place, if anything is, and keeps others from changing
// it.
func (s *Store) lock(at hub.Place, h **record.Home) query {
	return query{into(h, s.codec.Home), lockHome, []any{at.Hub, string(at.ID)}}
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
func (s *Store) writeHome(t *tx, at hub.Place, old *record.Home, d *hub.Device, twin *hub.Twin) error {
	switch {
	case d == nil && !old.Exists():
		return nil
	case d == nil:
		t.write(deleteHome, at.Hub, string(at.ID))
		return nil
	}
	values, err := s.codec.HomeValues(at, old, d, twin)
	if err != nil {
		return err
	}
	if old.Exists() {
		t.write(updateHome, values...)
	} else {
		t.write(insertHome, values...)
	}
	return nil
}
