package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// enrollmentColumns are in the order in which readEntry and writeEntry go
// through them.
const (
	enrollmentColumns = `scope, kind, key, id, mechanism, device_id, device_information, keys,
		x509_use, x509_primary, x509_secondary, x509_primary_name, x509_secondary_name, endorsement_key, storage_root_key,
		disabled, iot_edge, twin, twin_tags, twin_desired, reprovision, allocation, hubs, hub, custom_allocation,
		credential_policy, etag, created, updated`
	selectEntry   = "SELECT " + enrollmentColumns + " FROM enrollment WHERE scope = ? AND kind = ? AND key = ?"
	selectEntries = "SELECT " + enrollmentColumns + " FROM enrollment WHERE scope = ? AND kind = ? AND key > ? ORDER BY key LIMIT ?"
	selectGroups  = "SELECT " + enrollmentColumns + " FROM enrollment WHERE scope = ? AND mechanism = ? AND kind = 'group' ORDER BY key"
	replaceEntry  = "REPLACE INTO enrollment (" + enrollmentColumns + `)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	deleteEntry = "DELETE FROM enrollment WHERE scope = ? AND kind = ? AND key = ?"
)

// Entry implements enroll.Store and provision.EnrollmentReader.
func (s *Store) Entry(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID) (*enroll.Entry, error) {
	return find(ctx, s, errs.New(errs.NotFound, errs.CodeEnrollmentNotFound, "Enrollment not found."),
		s.readEntry, selectEntry, string(scope), string(kind), string(key))
}

// Entries implements enroll.Store.
func (s *Store) Entries(ctx context.Context, scope device.IDScope, kind enroll.Kind, after device.RegistrationID, limit int) ([]*enroll.Entry, error) {
	return list(ctx, s, s.readEntry, selectEntries, string(scope), string(kind), string(after), atMost(limit))
}

// Groups implements provision.EnrollmentReader.
func (s *Store) Groups(ctx context.Context, scope device.IDScope, mechanism attest.Type) ([]*enroll.Entry, error) {
	return s.groups.get(groupKey{scope, mechanism}, func() ([]*enroll.Entry, error) {
		return list(ctx, s, s.readEntry, selectGroups, string(scope), string(mechanism))
	})
}

// ChangeEntry implements enroll.Store. It returns an error of kind
// errs.NotFound when there is no such scope.
func (s *Store) ChangeEntry(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID, decide func(*enroll.Entry) (*enroll.Entry, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := one(t.conn, s.readEntry, selectEntry, string(scope), string(kind), string(key))
		if err != nil {
			return err
		}
		forget := func(e *enroll.Entry) {
			if e != nil && kind == enroll.Group {
				t.then(func() { s.groups.forget(groupKey{scope, e.Attestation.Type}) })
			}
		}
		forget(old)
		next, err := decide(old)
		switch {
		case err != nil:
			return err
		case next == nil && old == nil:
			return nil
		case next == nil:
			return t.exec(deleteEntry, string(scope), string(kind), string(key))
		case next.Scope != scope || next.Kind != kind || next.Key() != key:
			return fmt.Errorf("%s %s/%s cannot become %s %s/%s", kind, scope, key, next.Kind, next.Scope, next.Key())
		}
		forget(next)
		err = s.writeEntry(t, next)
		if isForeignKey(err) {
			return scopeNotFound().WithCause(err)
		}
		return err
	})
}

func (s *Store) writeEntry(t *tx, e *enroll.Entry) error {
	var (
		key  = string(e.Key())
		keys []byte
		x509 attest.X509
		tpm  attest.TPM
		twin enroll.InitialTwin
		err  error
	)
	if e.Attestation.SymmetricKey != nil {
		if keys, err = s.sealKeys(*e.Attestation.SymmetricKey, "enrollment", string(e.Scope), string(e.Kind), key); err != nil {
			return err
		}
	}
	if e.Attestation.X509 != nil {
		x509 = *e.Attestation.X509
	}
	if e.Attestation.TPM != nil {
		tpm = *e.Attestation.TPM
	}
	if e.InitialTwin != nil {
		twin = *e.InitialTwin
	}
	return t.exec(replaceEntry,
		string(e.Scope), string(e.Kind), key, e.ID, string(e.Attestation.Type), string(e.DeviceID), jsonText(e.OptionalDeviceInformation), keys,
		string(x509.Use), x509.Primary, x509.Secondary, x509.PrimaryReference, x509.SecondaryReference, tpm.EndorsementKey, tpm.StorageRootKey,
		e.Disabled, e.IoTEdge, e.InitialTwin != nil, jsonText(twin.Tags), jsonText(twin.Desired),
		encoded(e.Reprovision, e.Reprovision == nil), string(e.Allocation), encoded(e.IoTHubs, e.IoTHubs == nil), e.IoTHub,
		encoded(e.Custom, e.Custom == nil), e.CredentialPolicyName, e.ETag, nanoseconds(e.Created), nanoseconds(e.Updated))
}

func (s *Store) readEntry(r *row) (*enroll.Entry, error) {
	e := &enroll.Entry{Scope: device.IDScope(r.text()), Kind: enroll.Kind(r.text())}
	key := r.text()
	e.ID = r.text()
	e.Attestation.Type = attest.Type(r.text())
	e.DeviceID = device.ID(r.text())
	e.OptionalDeviceInformation = r.json()
	keys, err := s.openKeys(r.blob(), "enrollment", string(e.Scope), string(e.Kind), key)
	x509 := attest.X509{
		Use: attest.CertificateUse(r.text()), Primary: r.blob(), Secondary: r.blob(),
		PrimaryReference: r.text(), SecondaryReference: r.text(),
	}
	tpm := attest.TPM{EndorsementKey: r.blob(), StorageRootKey: r.blob()}
	switch e.Attestation.Type {
	case attest.TypeSymmetricKey:
		e.Attestation.SymmetricKey = &keys
	case attest.TypeX509:
		e.Attestation.X509 = &x509
	case attest.TypeTPM:
		e.Attestation.TPM = &tpm
	}
	e.Disabled, e.IoTEdge = r.flag(), r.flag()
	hasTwin := r.flag()
	if twin := (enroll.InitialTwin{Tags: r.json(), Desired: r.json()}); hasTwin {
		e.InitialTwin = &twin
	}
	err = errors.Join(err, r.decode(&e.Reprovision))
	e.Allocation = enroll.AllocationPolicy(r.text())
	err = errors.Join(err, r.decode(&e.IoTHubs))
	e.IoTHub = r.text()
	err = errors.Join(err, r.decode(&e.Custom))
	e.CredentialPolicyName, e.ETag = r.text(), r.text()
	e.Created, e.Updated = r.time(), r.time()
	if err != nil {
		return nil, fmt.Errorf("reading the %s enrollment %q: %w", e.Kind, e.ID, err)
	}
	return e, nil
}
