package sqlite

import (
	"context"
	"fmt"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectIdentity = "SELECT " + record.IdentityColumns + " FROM device WHERE hub = ? AND id = ?"
	selectTwin     = "SELECT " + record.TwinColumns + " FROM device WHERE hub = ? AND id = ?"
	selectHome     = "SELECT " + record.HomeColumns + " FROM device WHERE hub = ? AND id = ?"
	insertHome     = "INSERT INTO device (" + record.HomeColumns + `)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)`
	updateHome = `UPDATE device SET generation_id = ?3, etag = ?4, disabled = ?5, status_reason = ?6, status_updated = ?7,
		iot_edge = ?8, authentication = ?9, primary_thumbprint = ?10, secondary_thumbprint = ?11, keys = ?12,
		twin_version = ?13, tags = ?14, desired = ?15, desired_version = ?16, desired_updated = ?17,
		reported = ?18, reported_version = ?19, reported_updated = ?20 WHERE hub = ?1 AND id = ?2`
	deleteHome       = "DELETE FROM device WHERE hub = ? AND id = ?"
	selectIdentities = "SELECT " + record.IdentityColumns + " FROM device WHERE hub = ? AND id > ? ORDER BY id LIMIT ?"
	// countDevices counts both at one moment, and reads indexes: rows are long.
	countDevices = `SELECT (SELECT count(*) FROM device WHERE hub = ?1),
		(SELECT count(*) FROM device WHERE hub = ?1 AND disabled <> 0)`
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
func (s *Store) Change(ctx context.Context, host string, id device.ID, decide func(*hub.Device, *hub.Twin) (*hub.Device, *hub.Twin, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := s.home(t, hub.Place{Hub: host, ID: id})
		if err != nil {
			return err
		}
		d, twin, err := decide(old.Device, old.Twin)
		if err != nil {
			return err
		}
		return s.writeHome(t, hub.Place{Hub: host, ID: id}, old, d, twin)
	})
}

// Move implements hub.Registry.
func (s *Store) Move(ctx context.Context, from hub.Place, host string, id device.ID, decide func(at *hub.Device, twin *hub.Twin, left *hub.Device, leftTwin *hub.Twin) (*hub.Device, *hub.Twin, error)) error {
	to := hub.Place{Hub: host, ID: id}
	if from == to {
		return fmt.Errorf("%s/%s cannot move to where it is", host, id)
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
		d, twin, err := decide(old.Device, old.Twin, left.Device, left.Twin)
		if err != nil {
			return err
		}
		if left.Exists() {
			if err := t.exec(deleteHome, from.Hub, string(from.ID)); err != nil {
				return err
			}
		}
		return s.writeHome(t, to, old, d, twin)
	})
}

func (s *Store) home(t *tx, at hub.Place) (*record.Home, error) {
	h, err := one(t.conn, s.codec.Home, selectHome, at.Hub, string(at.ID))
	if h == nil {
		h = new(record.Home)
	}
	return h, err
}

// writeHome makes d and twin what is at the place where old was.
func (s *Store) writeHome(t *tx, at hub.Place, old *record.Home, d *hub.Device, twin *hub.Twin) error {
	switch {
	case d == nil && !old.Exists():
		return nil
	case d == nil:
		return t.exec(deleteHome, at.Hub, string(at.ID))
	}
	values, err := s.codec.HomeValues(at, old, d, twin)
	if err != nil {
		return err
	}
	if old.Exists() {
		return t.exec(updateHome, values...)
	}
	return t.exec(insertHome, values...)
}
