package sqlite

import (
	"context"
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// identityColumns and twinColumns are in the order in which their readers and
// writeHome go through them. An identity and its twin are one row, for they
// come and go together.
const (
	identityColumns = `hub, id, generation_id, etag, disabled, status_reason, status_updated, iot_edge, authentication,
		primary_thumbprint, secondary_thumbprint, keys`
	twinColumns    = "twin_version, tags, desired, desired_version, desired_updated, reported, reported_version, reported_updated"
	selectIdentity = "SELECT " + identityColumns + " FROM device WHERE hub = ? AND id = ?"
	selectTwin     = "SELECT " + twinColumns + " FROM device WHERE hub = ? AND id = ?"
	selectHome     = "SELECT " + identityColumns + ", " + twinColumns + " FROM device WHERE hub = ? AND id = ?"
	insertHome     = "INSERT INTO device (" + identityColumns + ", " + twinColumns + `)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)`
	updateHome = `UPDATE device SET generation_id = ?3, etag = ?4, disabled = ?5, status_reason = ?6, status_updated = ?7,
		iot_edge = ?8, authentication = ?9, primary_thumbprint = ?10, secondary_thumbprint = ?11, keys = ?12,
		twin_version = ?13, tags = ?14, desired = ?15, desired_version = ?16, desired_updated = ?17,
		reported = ?18, reported_version = ?19, reported_updated = ?20 WHERE hub = ?1 AND id = ?2`
	deleteHome       = "DELETE FROM device WHERE hub = ? AND id = ?"
	selectIdentities = "SELECT " + identityColumns + " FROM device WHERE hub = ? AND id > ? ORDER BY id LIMIT ?"
	// countDevices counts both at one moment, and reads indexes: rows are long.
	countDevices = `SELECT (SELECT count(*) FROM device WHERE hub = ?1),
		(SELECT count(*) FROM device WHERE hub = ?1 AND disabled <> 0)`
)

// A home is one row of the table device, or none: its zero value. Sealed and
// keys are as they are in the row, also when someone changes device.
type home struct {
	device *hub.Device
	twin   *hub.Twin
	exists bool
	sealed []byte
	keys   attest.SymmetricKeys
}

// Device implements hub.Registry.
func (s *Store) Device(ctx context.Context, host string, id device.ID) (*hub.Device, error) {
	h, err := find(ctx, s, deviceNotFound(), s.readIdentity, selectIdentity, host, string(id))
	if err != nil {
		return nil, err
	}
	return h.device, nil
}

// Twin implements hub.Registry.
func (s *Store) Twin(ctx context.Context, host string, id device.ID) (*hub.Twin, error) {
	return find(ctx, s, deviceNotFound(), readTwin, selectTwin, host, string(id))
}

// Devices implements hub.Registry.
func (s *Store) Devices(ctx context.Context, host string, after device.ID, limit int) ([]*hub.Device, error) {
	return list(ctx, s, func(r *row) (*hub.Device, error) {
		h, err := s.readIdentity(r)
		if err != nil {
			return nil, err
		}
		return h.device, nil
	}, selectIdentities, host, string(after), atMost(limit))
}

// Statistics implements hub.Registry.
func (s *Store) Statistics(ctx context.Context, host string) (hub.Statistics, error) {
	counted, err := list(ctx, s, func(r *row) (hub.Statistics, error) {
		return hub.Statistics{Total: int(r.number()), Disabled: int(r.number())}, nil
	}, countDevices, host)
	if err != nil {
		return hub.Statistics{}, err
	}
	return counted[0], nil
}

func deviceNotFound() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeDeviceNotFound, "Device not found.")
}

func (s *Store) readIdentity(r *row) (*home, error) {
	d := &hub.Device{
		Hub: r.text(), ID: device.ID(r.text()), GenerationID: r.text(), ETag: r.text(), Disabled: r.flag(), StatusReason: r.text(),
		StatusUpdated: r.time(), IoTEdge: r.flag(),
		Auth: hub.Authentication{Type: hub.AuthenticationType(r.text()), PrimaryThumbprint: r.text(), SecondaryThumbprint: r.text()},
	}
	h := &home{device: d, exists: true, sealed: r.blob()}
	var err error
	if h.keys, err = s.openKeys(h.sealed, "device", d.Hub, string(d.ID)); err != nil {
		return nil, err
	}
	d.Auth.Keys = h.keys
	return h, nil
}

// readTwin returns nil when the row has none.
func readTwin(r *row) (*hub.Twin, error) {
	version, ok := r.next().(int64)
	if !ok {
		return nil, nil
	}
	return &hub.Twin{
		Version: version, Tags: r.json(), Desired: r.json(), DesiredVersion: r.number(), DesiredUpdated: r.time(),
		Reported: r.json(), ReportedVersion: r.number(), ReportedUpdated: r.time(),
	}, nil
}

func (s *Store) readHome(r *row) (*home, error) {
	h, err := s.readIdentity(r)
	if err != nil {
		return nil, err
	}
	h.twin, err = readTwin(r)
	return h, err
}

// Change implements hub.Registry.
func (s *Store) Change(ctx context.Context, host string, id device.ID, decide func(*hub.Device, *hub.Twin) (*hub.Device, *hub.Twin, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := s.home(t, hub.Place{Hub: host, ID: id})
		if err != nil {
			return err
		}
		d, twin, err := decide(old.device, old.twin)
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
		d, twin, err := decide(old.device, old.twin, left.device, left.twin)
		if err != nil {
			return err
		}
		if left.exists {
			if err := t.exec(deleteHome, from.Hub, string(from.ID)); err != nil {
				return err
			}
		}
		return s.writeHome(t, to, old, d, twin)
	})
}

func (s *Store) home(t *tx, at hub.Place) (*home, error) {
	h, err := one(t.conn, s.readHome, selectHome, at.Hub, string(at.ID))
	if h == nil {
		h = new(home)
	}
	return h, err
}

// writeHome makes d and twin what is at the place where old was.
func (s *Store) writeHome(t *tx, at hub.Place, old *home, d *hub.Device, twin *hub.Twin) error {
	switch {
	case d == nil && !old.exists:
		return nil
	case d == nil:
		return t.exec(deleteHome, at.Hub, string(at.ID))
	case d.Hub != at.Hub || d.ID != at.ID:
		return fmt.Errorf("device %s/%s cannot become %s/%s", at.Hub, at.ID, d.Hub, d.ID)
	}
	keys := old.sealed
	if k := d.Auth.Keys; !k.Primary.Equal(old.keys.Primary) || !k.Secondary.Equal(old.keys.Secondary) {
		var err error
		if keys, err = s.sealKeys(k, "device", at.Hub, string(at.ID)); err != nil {
			return err
		}
	}
	args := [20]any{
		at.Hub, string(at.ID), d.GenerationID, d.ETag, d.Disabled, d.StatusReason, nanoseconds(d.StatusUpdated), d.IoTEdge,
		string(d.Auth.Type), d.Auth.PrimaryThumbprint, d.Auth.SecondaryThumbprint, keys,
	}
	if twin != nil {
		copy(args[12:], []any{
			twin.Version, jsonText(twin.Tags), jsonText(twin.Desired), twin.DesiredVersion, nanoseconds(twin.DesiredUpdated),
			jsonText(twin.Reported), twin.ReportedVersion, nanoseconds(twin.ReportedUpdated),
		})
	}
	if old.exists {
		return t.exec(updateHome, args[:]...)
	}
	return t.exec(insertHome, args[:]...)
}
