// Package serviceapi turns enrollments into the bodies that the DPS service API
// has for them, and back. Whatever shows an enrollment to somebody outside shows
// it so: the service API itself and the requests of custom allocation.
package serviceapi

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// A Visibility says whether a body holds symmetric keys: answers to PUT and
// attestationmechanism do, those to GET and query do not.
type Visibility bool

// The visibilities.
const (
	ShowKeys Visibility = true
	HideKeys Visibility = false
)

// Decode reads either kind of enrollment. A group comes as an
// individual enrollment that has the group's ID: they share all other members.
func Decode(kind enroll.Kind, b []byte) (dpsjson.IndividualEnrollment, error) {
	if kind == enroll.Individual {
		return dpsjson.DecodeIndividualEnrollment(b)
	}
	g, err := dpsjson.DecodeEnrollmentGroup(b)
	return g.AsIndividual(), err
}

// Entry returns what a client wrote as an entry. The service owns the entity
// tag and the timestamps, so the client's are left behind.
func Entry(scope device.IDScope, kind enroll.Kind, body dpsjson.IndividualEnrollment) (*enroll.Entry, error) {
	if err := body.Attestation.Validate(); err != nil {
		return nil, err
	}
	mechanism, err := mechanismOf(body.Attestation)
	if err != nil {
		return nil, err
	}
	e := &enroll.Entry{
		Scope:                     scope,
		Kind:                      kind,
		ID:                        body.RegistrationID,
		DeviceID:                  device.ID(body.DeviceID),
		OptionalDeviceInformation: json.RawMessage(body.OptionalDeviceInformation),
		Attestation:               mechanism,
		Disabled:                  body.ProvisioningStatus == dpsjson.ProvisioningDisabled,
		IoTEdge:                   body.Capabilities != nil && body.Capabilities.IoTEdge,
		Allocation:                enroll.AllocationPolicy(body.AllocationPolicy),
		IoTHubs:                   body.IoTHubs,
		IoTHub:                    body.IoTHubHostName,
		CredentialPolicyName:      body.CredentialPolicyName,
	}
	if t := body.InitialTwin; t != nil {
		e.InitialTwin = &enroll.InitialTwin{Tags: json.RawMessage(t.Tags)}
		if t.Properties != nil {
			e.InitialTwin.Desired = json.RawMessage(t.Properties.Desired)
		}
	}
	if p := body.ReprovisionPolicy; p != nil {
		e.Reprovision = (*enroll.ReprovisionPolicy)(p)
	}
	if c := body.CustomAllocationDefinition; c != nil && *c != (dpsjson.CustomAllocationDefinition{}) {
		e.Custom = (*enroll.CustomAllocation)(c)
	}
	return e, nil
}

// mechanismOf takes a mechanism whose shape is valid.
func mechanismOf(body *dpsjson.AttestationMechanism) (attest.Mechanism, error) {
	m := attest.Mechanism{Type: attest.Type(body.Type)}
	switch m.Type {
	case attest.TypeSymmetricKey:
		m.SymmetricKey = &attest.SymmetricKeys{}
		if k := body.SymmetricKey; k != nil {
			m.SymmetricKey.Primary, m.SymmetricKey.Secondary = k.PrimaryKey.SymmetricKey, k.SecondaryKey.SymmetricKey
		}
	case attest.TypeTPM:
		if body.TPM.EndorsementCertificates == nil && body.TPM.EndorsementKeyList == nil {
			m.TPM = &attest.TPM{EndorsementKey: body.TPM.EndorsementKey, StorageRootKey: body.TPM.StorageRootKey}
			return m, nil
		}
		var err error
		m.TPMGroup, err = tpmGroupOf(body.TPM)
		return m, err
	case attest.TypeX509:
		m.X509 = certificatesOf(body.X509)
	}
	return m, nil
}

func tpmGroupOf(body *dpsjson.TPMAttestation) (*attest.TPMGroup, error) {
	g := &attest.TPMGroup{}
	if c := body.EndorsementCertificates; c != nil {
		g.Roots, g.Intermediates, g.TestRoots = anchorsOf(c.Roots), anchorsOf(c.Intermediates), anchorsOf(c.TestRoots)
		g.Manufacturers, g.Models = c.Manufacturers, c.Models
		g.Trusted, g.TrustedTest, g.Vendors = c.TrustStore, c.TestTrustStore, c.Vendors
		for _, r := range c.Firmware {
			g.Firmware = append(g.Firmware, attest.FirmwareRule(r))
		}
	}
	list := body.EndorsementKeyList
	switch {
	case list == nil:
		return g, nil
	case len(list.Keys) == 0:
		g.List = &attest.EKList{}
		return g, nil
	}
	keys, err := ekcert.ParseList(strings.NewReader(strings.Join(list.Keys, "\n")))
	if err != nil {
		return nil, fmt.Errorf("attestation.tpm.endorsementKeyList.keys: %w", err)
	}
	g.List = keys.Stored()
	return g, nil
}

// anchorsOf takes certificates, each there or named by its digest.
func anchorsOf(certificates []dpsjson.X509Certificate) (anchors [][]byte) {
	for _, c := range certificates {
		der := []byte(c.Certificate)
		if len(der) == 0 {
			der, _ = hex.DecodeString(c.Info.SHA256Thumbprint) // Validate read it
		}
		anchors = append(anchors, der)
	}
	return anchors
}

func certificatesOf(body *dpsjson.X509Attestation) *attest.X509 {
	switch {
	case body.ClientCertificates != nil:
		c := body.ClientCertificates
		return &attest.X509{Use: attest.ClientCertificates, Primary: slotOf(c.Primary), Secondary: slotOf(c.Secondary)}
	case body.SigningCertificates != nil:
		c := body.SigningCertificates
		return &attest.X509{Use: attest.SigningCertificates, Primary: slotOf(c.Primary), Secondary: slotOf(c.Secondary)}
	default:
		c := body.CAReferences
		return &attest.X509{Use: attest.CAReferences, PrimaryReference: c.Primary, SecondaryReference: c.Secondary}
	}
}

// slotOf returns nil for a slot that is to be empty and empty bytes for one
// that is to stay as it is: clients send the info that they read, without the
// certificate.
func slotOf(c *dpsjson.X509Certificate) []byte {
	if c == nil {
		return nil
	}
	return append([]byte{}, c.Certificate...)
}

// Individual returns an entry of either kind as an individual enrollment's body.
func Individual(e *enroll.Entry, keys Visibility) (dpsjson.IndividualEnrollment, error) {
	attestation, err := Attestation(e.Attestation, keys)
	if err != nil {
		return dpsjson.IndividualEnrollment{}, fmt.Errorf("describing enrollment %q: %w", e.ID, err)
	}
	body := dpsjson.IndividualEnrollment{
		RegistrationID:             e.ID,
		DeviceID:                   string(e.DeviceID),
		OptionalDeviceInformation:  dpsjson.Object(e.OptionalDeviceInformation),
		Attestation:                attestation,
		Capabilities:               &dpsjson.Capabilities{IoTEdge: e.IoTEdge},
		IoTHubHostName:             e.IoTHub,
		ETag:                       dpsjson.EncodeETag(e.ETag),
		ProvisioningStatus:         dpsjson.ProvisioningEnabled,
		ReprovisionPolicy:          (*dpsjson.ReprovisionPolicy)(e.Reprovision),
		CreatedDateTimeUTC:         dpsjson.Time(e.Created),
		LastUpdatedDateTimeUTC:     dpsjson.Time(e.Updated),
		AllocationPolicy:           dpsjson.AllocationPolicy(e.Allocation),
		IoTHubs:                    e.IoTHubs,
		CustomAllocationDefinition: (*dpsjson.CustomAllocationDefinition)(e.Custom),
		CredentialPolicyName:       e.CredentialPolicyName,
	}
	if e.Disabled {
		body.ProvisioningStatus = dpsjson.ProvisioningDisabled
	}
	if t := e.InitialTwin; t != nil {
		body.InitialTwin = &dpsjson.InitialTwin{Tags: dpsjson.Object(t.Tags)}
		if t.Desired != nil {
			body.InitialTwin.Properties = &dpsjson.InitialTwinProperties{Desired: dpsjson.Object(t.Desired)}
		}
	}
	return body, nil
}

// Body returns an entry as the body of its own kind.
func Body(e *enroll.Entry, keys Visibility) (any, error) {
	body, err := Individual(e, keys)
	if err != nil {
		return nil, err
	}
	if e.Kind == enroll.Group {
		return body.AsGroup(), nil
	}
	return body, nil
}

// Attestation returns a mechanism as the body of its own. Certificates and the
// keys of a list are described, never answered themselves.
func Attestation(m attest.Mechanism, keys Visibility) (*dpsjson.AttestationMechanism, error) {
	body := &dpsjson.AttestationMechanism{Type: dpsjson.AttestationType(m.Type)}
	var err error
	switch {
	case m.SymmetricKey != nil && keys == ShowKeys:
		body.SymmetricKey = &dpsjson.SymmetricKeys{
			PrimaryKey:   dpsjson.Key{SymmetricKey: m.SymmetricKey.Primary},
			SecondaryKey: dpsjson.Key{SymmetricKey: m.SymmetricKey.Secondary},
		}
	case m.TPM != nil:
		body.TPM = &dpsjson.TPMAttestation{EndorsementKey: m.TPM.EndorsementKey, StorageRootKey: m.TPM.StorageRootKey}
	case m.TPMGroup != nil:
		body.TPM, err = tpmGroupBody(m.TPMGroup)
	case m.X509 != nil:
		body.X509, err = certificatesBody(m.X509)
	}
	return body, err
}

// tpmGroupBody describes a TPM group: neither certificates nor keys are answered
// themselves.
func tpmGroupBody(g *attest.TPMGroup) (*dpsjson.TPMAttestation, error) {
	body := &dpsjson.TPMAttestation{}
	c := dpsjson.EKCertificates{
		Manufacturers: g.Manufacturers, Models: g.Models, TrustStore: g.Trusted, TestTrustStore: g.TrustedTest, Vendors: g.Vendors,
	}
	for _, slot := range []struct {
		ders [][]byte
		body *[]dpsjson.X509Certificate
	}{{g.Roots, &c.Roots}, {g.Intermediates, &c.Intermediates}, {g.TestRoots, &c.TestRoots}} {
		for _, der := range slot.ders {
			cert, err := certificateBody(der)
			if err != nil {
				return nil, err
			}
			*slot.body = append(*slot.body, *cert)
		}
	}
	for _, r := range g.Firmware {
		c.Firmware = append(c.Firmware, dpsjson.FirmwareRule(r))
	}
	if len(c.Roots)+len(c.TestRoots) > 0 || c.TrustStore || c.TestTrustStore {
		body.EndorsementCertificates = &c
	}
	if g.List != nil {
		body.EndorsementKeyList = &dpsjson.EKList{Count: g.List.Count, SHA256: g.List.Digest}
	}
	return body, nil
}

// certificatesBody describes certificates; they are never answered themselves.
func certificatesBody(a *attest.X509) (*dpsjson.X509Attestation, error) {
	if a.Use == attest.CAReferences {
		return &dpsjson.X509Attestation{CAReferences: &dpsjson.X509CAReferences{
			Primary: a.PrimaryReference, Secondary: a.SecondaryReference}}, nil
	}
	var pair dpsjson.X509Certificates
	var err error
	if pair.Primary, err = certificateBody(a.Primary); err != nil {
		return nil, err
	}
	if pair.Secondary, err = certificateBody(a.Secondary); err != nil {
		return nil, err
	}
	if a.Use == attest.ClientCertificates {
		return &dpsjson.X509Attestation{ClientCertificates: &pair}, nil
	}
	return &dpsjson.X509Attestation{SigningCertificates: &pair}, nil
}

func certificateBody(der []byte) (*dpsjson.X509Certificate, error) {
	if len(der) == 0 {
		return nil, nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing a stored certificate: %w", err)
	}
	info := dpsjson.CertificateInfo(cert)
	return &dpsjson.X509Certificate{Info: &info}, nil
}
