package sqlite

import (
	"context"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectRegistration  = "SELECT " + record.RegistrationColumns + " FROM registration WHERE scope = ? AND key = ?"
	selectRegistrations = "SELECT " + record.RegistrationColumns + ` FROM registration
		WHERE scope = ? AND group_id = ? AND group_id <> '' AND key > ? ORDER BY key LIMIT ?`
	insertRegistration = "INSERT INTO registration (" + record.RegistrationColumns + `)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	updateRegistration = `UPDATE registration SET id = ?, attestation = ?, status = ?, substatus = ?, hub = ?, device_id = ?,
		error_code = ?, error_message = ?, payload = ?, operation_id = ?, etag = ?, created = ?, updated = ?,
		hub_key_blob = ?, endorsement_key = ?, storage_root_key = ?, pending = ?, due = ? WHERE group_id = ? AND scope = ? AND key = ?`
	deleteRegistration = "DELETE FROM registration WHERE scope = ? AND key = ?"
	dueRegistrations   = "SELECT " + record.RegistrationColumns + " FROM registration WHERE due <= ? ORDER BY due LIMIT ?"
)

// Registration implements provision.Records.
func (s *Store) Registration(ctx context.Context, scope device.IDScope, key device.RegistrationID) (*provision.Registration, error) {
	return find(ctx, s, record.NoRegistration(),
		record.Registration, selectRegistration, string(scope), string(key))
}

// Registrations implements provision.Records.
func (s *Store) Registrations(ctx context.Context, scope device.IDScope, group string, after device.RegistrationID, limit int) ([]*provision.Registration, error) {
	return list(ctx, s, record.Registration, selectRegistrations, string(scope), group, string(after), record.Limit(limit))
}

// ChangeRegistration implements provision.Records.
func (s *Store) ChangeRegistration(ctx context.Context, scope device.IDScope, key device.RegistrationID, decide func(*provision.Registration) (*provision.Registration, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := one(t.conn, record.Registration, selectRegistration, string(scope), string(key))
		if err != nil {
			return err
		}
		var oldGroup string // decide may change what it is given
		if old != nil {
			oldGroup = old.GroupID
		}
		next, err := decide(old)
		switch {
		case err != nil:
			return err
		case next == nil && old == nil:
			return nil
		case next == nil:
			return t.exec(deleteRegistration, string(scope), string(key))
		}
		if err := record.KeepsRegistration(scope, key, next); err != nil {
			return err
		}
		switch {
		case old == nil:
			return t.exec(insertRegistration, record.RegistrationValues(next)...)
		case next.GroupID == oldGroup:
			return t.exec(updateRegistration, record.RegistrationValues(next)...)
		}
		if err := t.exec(deleteRegistration, string(scope), string(key)); err != nil {
			return err
		}
		return t.exec(insertRegistration, record.RegistrationValues(next)...)
	})
}

// DueRegistrations implements provision.Records.
func (s *Store) DueRegistrations(ctx context.Context, now time.Time, limit int) ([]*provision.Registration, error) {
	return list(ctx, s, record.Registration, dueRegistrations, record.Nanoseconds(now), record.Limit(limit))
}
