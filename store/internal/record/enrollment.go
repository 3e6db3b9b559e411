package record

import (
	"errors"
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// A Codec turns records with symmetric keys in them into rows and back.
type Codec struct {
	Sealer hsm.Sealer
	digest func(device.IDScope, device.SymmetricKey) []byte // set by NewCodec
}

// EnrollmentColumns are in the order in which Enrollment and EnrollmentValues
// go through them. The first three are the key.
const EnrollmentColumns = `scope, kind, key, id, mechanism, device_id, device_information, keys,
	x509_use, x509_primary, x509_secondary, x509_primary_name, x509_secondary_name, endorsement_key, storage_root_key,
	disabled, iot_edge, twin, twin_tags, twin_desired, reprovision, allocation, hubs, hub, custom_allocation,
	credential_policy, etag, created, updated, tpm_group`

// EnrollmentValues returns the row of an enrollment.
func (c Codec) EnrollmentValues(e *enroll.Entry) ([]any, error) {
	var (
		key  = string(e.Key())
		keys []byte
		x509 attest.X509
		tpm  attest.TPM
		twin enroll.InitialTwin
		err  error
	)
	if e.Attestation.SymmetricKey != nil {
		if keys, err = sealed.Keys(c.Sealer, *e.Attestation.SymmetricKey, "enrollment", string(e.Scope), string(e.Kind), key); err != nil {
			return nil, err
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
	return []any{
		string(e.Scope), string(e.Kind), key, e.ID, string(e.Attestation.Type), string(e.DeviceID), jsonText(e.OptionalDeviceInformation), keys,
		string(x509.Use), x509.Primary, x509.Secondary, x509.PrimaryReference, x509.SecondaryReference, tpm.EndorsementKey, tpm.StorageRootKey,
		e.Disabled, e.IoTEdge, e.InitialTwin != nil, jsonText(twin.Tags), jsonText(twin.Desired),
		encoded(e.Reprovision, e.Reprovision == nil), string(e.Allocation), encoded(e.IoTHubs, e.IoTHubs == nil), e.IoTHub,
		encoded(e.Custom, e.Custom == nil), e.CredentialPolicyName, e.ETag, nanoseconds(e.Created), nanoseconds(e.Updated),
		encoded(e.Attestation.TPMGroup, e.Attestation.TPMGroup == nil),
	}, nil
}

// Enrollment reads the row of an enrollment.
func (c Codec) Enrollment(r *Row) (*enroll.Entry, error) {
	e := &enroll.Entry{Scope: device.IDScope(r.Text()), Kind: enroll.Kind(r.Text())}
	key := r.Text()
	e.ID = r.Text()
	e.Attestation.Type = attest.Type(r.Text())
	e.DeviceID = device.ID(r.Text())
	e.OptionalDeviceInformation = r.JSON()
	keys, err := sealed.OpenKeys(c.Sealer, r.Blob(), "enrollment", string(e.Scope), string(e.Kind), key)
	x509 := attest.X509{
		Use: attest.CertificateUse(r.Text()), Primary: r.Blob(), Secondary: r.Blob(),
		PrimaryReference: r.Text(), SecondaryReference: r.Text(),
	}
	tpm := attest.TPM{EndorsementKey: r.Blob(), StorageRootKey: r.Blob()}
	switch e.Attestation.Type {
	case attest.TypeSymmetricKey:
		e.Attestation.SymmetricKey = &keys
	case attest.TypeX509:
		e.Attestation.X509 = &x509
	case attest.TypeTPM:
		e.Attestation.TPM = &tpm
	}
	e.Disabled, e.IoTEdge = r.Flag(), r.Flag()
	hasTwin := r.Flag()
	if twin := (enroll.InitialTwin{Tags: r.JSON(), Desired: r.JSON()}); hasTwin {
		e.InitialTwin = &twin
	}
	err = errors.Join(err, r.decode(&e.Reprovision))
	e.Allocation = enroll.AllocationPolicy(r.Text())
	err = errors.Join(err, r.decode(&e.IoTHubs))
	e.IoTHub = r.Text()
	err = errors.Join(err, r.decode(&e.Custom))
	e.CredentialPolicyName, e.ETag = r.Text(), r.Text()
	e.Created, e.Updated = r.Time(), r.Time()
	if err = errors.Join(err, r.decode(&e.Attestation.TPMGroup)); e.Attestation.TPMGroup != nil {
		e.Attestation.TPM = nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the %s enrollment %q: %w", e.Kind, e.ID, err)
	}
	return e, nil
}

// KeepsEnrollment returns an error unless next is of the given key: a change
// cannot rename an enrollment.
func KeepsEnrollment(scope device.IDScope, kind enroll.Kind, key device.RegistrationID, next *enroll.Entry) error {
	if next.Scope != scope || next.Kind != kind || next.Key() != key {
		return fmt.Errorf("%s %s/%s cannot become %s %s/%s", kind, scope, key, next.Kind, next.Scope, next.Key())
	}
	return nil
}

// EndorsementKeys reads the column of a list's keys.
func EndorsementKeys(r *Row) (*[]byte, error) {
	keys := r.Blob()
	return &keys, nil
}

// A ListChange is what an enrollment's change does to the list of endorsement
// keys that is kept beside it.
type ListChange struct {
	Write  []byte // put in place of the one before, or nil
	Remove bool   // there is none any more
}

// ListChangeOf compares an enrollment with what it becomes, nil when it is removed.
func ListChangeOf(hadList bool, next *enroll.Entry) ListChange {
	if next != nil && next.Attestation.TPMGroup != nil && next.Attestation.TPMGroup.List != nil {
		return ListChange{Write: next.Attestation.TPMGroup.List.Keys}
	}
	return ListChange{Remove: hadList}
}

// HasList reports whether a list is kept beside e, which may be nil.
func HasList(e *enroll.Entry) bool {
	return e != nil && e.Attestation.TPMGroup != nil && e.Attestation.TPMGroup.List != nil
}
