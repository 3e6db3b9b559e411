package record

import (
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// RegistrationColumns are in the order in which Registration and
// RegistrationValues go through them. Group and key, which an index is made of,
// come last, so that an update can leave them alone.
const RegistrationColumns = `id, attestation, status, substatus, hub, device_id, error_code, error_message, payload, operation_id,
	etag, created, updated, hub_key_blob, endorsement_key, storage_root_key, pending, due, group_id, scope, key`

// RegistrationValues returns the row of a registration record.
func RegistrationValues(r *provision.Registration) []any {
	return []any{
		r.ID, string(r.Attestation), string(r.Status), string(r.Substatus), r.Hub, string(r.DeviceID),
		int64(r.ErrorCode), r.ErrorMessage, jsonText(r.Payload), r.OperationID, r.ETag, nanoseconds(r.Created), nanoseconds(r.Updated),
		r.HubKeyBlob, r.EndorsementKey, r.StorageRootKey, encoded(newPending(r.Pending), r.Pending == nil), due(r.Pending),
		r.GroupID, string(r.Scope), string(r.Key),
	}
}

// Registration reads the row of a registration record.
func Registration(r *Row) (*provision.Registration, error) {
	found := &provision.Registration{
		ID: r.Text(), Attestation: attest.Type(r.Text()), Status: provision.Status(r.Text()), Substatus: provision.Substatus(r.Text()),
		Hub: r.Text(), DeviceID: device.ID(r.Text()), ErrorCode: errs.Code(r.Number()), ErrorMessage: r.Text(), Payload: r.JSON(),
		OperationID: r.Text(), ETag: r.Text(), Created: r.Time(), Updated: r.Time(), HubKeyBlob: r.Blob(),
		EndorsementKey: r.Blob(), StorageRootKey: r.Blob(),
	}
	var p *pending
	err := r.decode(&p)
	found.Pending = p.value(r.Number())
	found.GroupID, found.Scope, found.Key = r.Text(), device.IDScope(r.Text()), device.RegistrationID(r.Text())
	if err != nil {
		return nil, fmt.Errorf("reading the registration of %s/%s: %w", found.Scope, found.Key, err)
	}
	return found, nil
}

// KeepsRegistration returns an error unless next is of the given key: a change
// cannot rename a record.
func KeepsRegistration(scope device.IDScope, key device.RegistrationID, next *provision.Registration) error {
	if next.Scope != scope || next.Key != key {
		return fmt.Errorf("the registration of %s/%s cannot become that of %s/%s", scope, key, next.Scope, next.Key)
	}
	return nil
}
