package postgres

import (
	"context"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectRegistration  = "SELECT " + record.RegistrationColumns + " FROM registration WHERE scope = $1 AND key = $2"
	selectRegistrations = "SELECT " + record.RegistrationColumns + ` FROM registration
		WHERE scope = $1 AND lower(group_id) = lower($2::text COLLATE "C") AND group_id <> '' AND key > $3 ORDER BY key LIMIT $4`
	deleteRegistration = "DELETE FROM registration WHERE scope = $1 AND key = $2"
	// A server of schema 1 that finishes a registration leaves due as it was.
	dueRegistrations = "SELECT " + record.RegistrationColumns + " FROM registration WHERE due <= $1 AND status = 'assigning' ORDER BY due LIMIT $2"
)

var (
	insertRegistration = insert("registration", record.RegistrationColumns)
	updateRegistration = update("registration", record.RegistrationColumns, -2)
)

// Registration implements provision.Records.
func (s *Store) Registration(ctx context.Context, scope device.IDScope, key device.RegistrationID) (*provision.Registration, error) {
	return find(ctx, s, record.NoRegistration(), record.Registration, selectRegistration, string(scope), string(key))
}

// Registrations implements provision.Records.
func (s *Store) Registrations(ctx context.Context, scope device.IDScope, group string, after device.RegistrationID, limit int) ([]*provision.Registration, error) {
	return list(ctx, s, record.Registration, selectRegistrations, string(scope), group, string(after), record.Limit(limit))
}

// ChangeRegistration implements provision.Records.
func (s *Store) ChangeRegistration(ctx context.Context, scope device.IDScope, key device.RegistrationID, decide func(*provision.Registration) (*provision.Registration, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		var old *provision.Registration
		err := t.read(ctx, query{into(&old, record.Registration), selectRegistration + " FOR UPDATE", []any{string(scope), string(key)}})
		if err != nil {
			return err
		}
		exists := old != nil
		next, err := decide(old)
		switch {
		case err != nil:
			return err
		case next == nil && !exists:
			return nil
		case next == nil:
			t.write(deleteRegistration, string(scope), string(key))
			return nil
		}
		if err := record.KeepsRegistration(scope, key, next); err != nil {
			return err
		}
		if exists {
			t.write(updateRegistration, record.RegistrationValues(next)...)
		} else {
			t.write(insertRegistration, record.RegistrationValues(next)...)
		}
		return nil
	})
}

// DueRegistrations implements provision.Records.
func (s *Store) DueRegistrations(ctx context.Context, now time.Time, limit int) ([]*provision.Registration, error) {
	return list(ctx, s, record.Registration, dueRegistrations, record.Nanoseconds(now), record.Limit(limit))
}
