package sqlite

import (
	"context"
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// registrationColumns are in the order in which readRegistration and
// registrationArgs go through them. Group and key, which an index is made of,
// come last, so that an update can leave them alone.
const (
	registrationColumns = `id, attestation, status, substatus, hub, device_id, error_code, error_message, payload, operation_id,
		etag, created, updated, hub_key_blob, storage_root_key, group_id, scope, key`
	selectRegistration  = "SELECT " + registrationColumns + " FROM registration WHERE scope = ? AND key = ?"
	selectRegistrations = "SELECT " + registrationColumns + ` FROM registration
		WHERE scope = ? AND group_id = ? AND group_id <> '' AND key > ? ORDER BY key LIMIT ?`
	insertRegistration = "INSERT INTO registration (" + registrationColumns + `)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	updateRegistration = `UPDATE registration SET id = ?, attestation = ?, status = ?, substatus = ?, hub = ?, device_id = ?,
		error_code = ?, error_message = ?, payload = ?, operation_id = ?, etag = ?, created = ?, updated = ?,
		hub_key_blob = ?, storage_root_key = ? WHERE group_id = ? AND scope = ? AND key = ?`
	deleteRegistration = "DELETE FROM registration WHERE scope = ? AND key = ?"
)

// Registration implements provision.Records.
func (s *Store) Registration(ctx context.Context, scope device.IDScope, key device.RegistrationID) (*provision.Registration, error) {
	return find(ctx, s, errs.New(errs.NotFound, errs.CodeRegistrationNotFound, "Device registration not found."),
		readRegistration, selectRegistration, string(scope), string(key))
}

// Registrations implements provision.Records.
func (s *Store) Registrations(ctx context.Context, scope device.IDScope, group string, after device.RegistrationID, limit int) ([]*provision.Registration, error) {
	return list(ctx, s, readRegistration, selectRegistrations, string(scope), group, string(after), atMost(limit))
}

// ChangeRegistration implements provision.Records.
func (s *Store) ChangeRegistration(ctx context.Context, scope device.IDScope, key device.RegistrationID, decide func(*provision.Registration) (*provision.Registration, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := one(t.conn, readRegistration, selectRegistration, string(scope), string(key))
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
		case next.Scope != scope || next.Key != key:
			return fmt.Errorf("the registration of %s/%s cannot become that of %s/%s", scope, key, next.Scope, next.Key)
		case old == nil:
			return t.exec(insertRegistration, registrationArgs(next)...)
		case next.GroupID == oldGroup:
			return t.exec(updateRegistration, registrationArgs(next)...)
		}
		if err := t.exec(deleteRegistration, string(scope), string(key)); err != nil {
			return err
		}
		return t.exec(insertRegistration, registrationArgs(next)...)
	})
}

func registrationArgs(r *provision.Registration) []any {
	return []any{
		r.ID, string(r.Attestation), string(r.Status), string(r.Substatus), r.Hub, string(r.DeviceID),
		int64(r.ErrorCode), r.ErrorMessage, jsonText(r.Payload), r.OperationID, r.ETag, nanoseconds(r.Created), nanoseconds(r.Updated),
		r.HubKeyBlob, r.StorageRootKey, r.GroupID, string(r.Scope), string(r.Key),
	}
}

func readRegistration(r *row) (*provision.Registration, error) {
	return &provision.Registration{
		ID: r.text(), Attestation: attest.Type(r.text()), Status: provision.Status(r.text()), Substatus: provision.Substatus(r.text()),
		Hub: r.text(), DeviceID: device.ID(r.text()), ErrorCode: errs.Code(r.number()), ErrorMessage: r.text(), Payload: r.json(),
		OperationID: r.text(), ETag: r.text(), Created: r.time(), Updated: r.time(), HubKeyBlob: r.blob(), StorageRootKey: r.blob(),
		GroupID: r.text(), Scope: device.IDScope(r.text()), Key: device.RegistrationID(r.text()),
	}, nil
}
