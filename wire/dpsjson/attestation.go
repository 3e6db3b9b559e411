package dpsjson

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// An AttestationType names an attestation mechanism.
type AttestationType string

// The attestation mechanisms.
const (
	AttestationNone         AttestationType = "none"
	AttestationTPM          AttestationType = "tpm"
	AttestationX509         AttestationType = "x509"
	AttestationSymmetricKey AttestationType = "symmetricKey"
)

// UnmarshalText reads the name of a mechanism in any case.
func (t *AttestationType) UnmarshalText(text []byte) error {
	return canonical(t, text, AttestationNone, AttestationTPM, AttestationX509, AttestationSymmetricKey)
}

// An AttestationMechanism says how the devices of an enrollment prove who they are. Only the member that Type names is
// set, and for symmetric keys not even that where the keys are not shown.
type AttestationMechanism struct {
	Type         AttestationType  `json:"type,omitempty"`
	TPM          *TPMAttestation  `json:"tpm,omitempty"`
	X509         *X509Attestation `json:"x509,omitempty"`
	SymmetricKey *SymmetricKeys   `json:"symmetricKey,omitempty"`
}

// Validate checks the shape of a mechanism that a client wrote: that it has a type, the member this type needs and no
// other, and one use for X.509 certificates. A symmetric key mechanism may come without keys, which asks for new ones
// or leaves the stored ones alone. Errors name the member below the enrollment.
func (m *AttestationMechanism) Validate() error {
	if m == nil {
		return fault{"attestation", "missing"}
	}
	if err := m.validate(); err != nil {
		return within("attestation", err)
	}
	return nil
}

func (m *AttestationMechanism) validate() error {
	switch {
	case m.Type == "":
		return fault{"type", "missing"}
	case m.TPM != nil && m.Type != AttestationTPM:
		return fault{"tpm", "not of this type of attestation"}
	case m.X509 != nil && m.Type != AttestationX509:
		return fault{"x509", "not of this type of attestation"}
	case m.SymmetricKey != nil && m.Type != AttestationSymmetricKey:
		return fault{"symmetricKey", "not of this type of attestation"}
	case m.Type == AttestationTPM:
		return m.TPM.validate()
	case m.Type == AttestationX509:
		if err := m.X509.validate(); err != nil {
			return within("x509", err)
		}
	}
	return nil
}

// A TPMAttestation says which TPM a device has or, in an extension of the service API, which TPMs the devices of a
// group have: those with a certificate of their vendor, those on a list, or both.
type TPMAttestation struct {
	EndorsementKey          []byte          `json:"endorsementKey,omitempty"` // TPM2B_PUBLIC, like the next; individual enrollments
	StorageRootKey          []byte          `json:"storageRootKey,omitempty"`
	EndorsementCertificates *EKCertificates `json:"endorsementCertificates,omitempty"` // groups
	EndorsementKeyList      *EKList         `json:"endorsementKeyList,omitempty"`      // groups
}

func (a *TPMAttestation) validate() error {
	isGroup := a != nil && (a.EndorsementCertificates != nil || a.EndorsementKeyList != nil)
	switch {
	case !isGroup && (a == nil || len(a.EndorsementKey) == 0):
		return fault{"tpm.endorsementKey", "missing"}
	case isGroup && (a.EndorsementKey != nil || a.StorageRootKey != nil):
		return fault{"tpm", "the key of one TPM does not go with endorsementCertificates and endorsementKeyList"}
	case isGroup && a.EndorsementCertificates != nil:
		if err := a.EndorsementCertificates.validate(); err != nil {
			return within("tpm.endorsementCertificates", err)
		}
	}
	return nil
}

// EKCertificates say which endorsement key certificates a group of TPMs goes by. In an answer the certificates are
// described by their Info alone, and a client that sends an Info back keeps the stored certificate that has its
// SHA256Thumbprint.
type EKCertificates struct {
	Roots         []X509Certificate `json:"roots,omitempty"`         // pinned trust anchors
	Intermediates []X509Certificate `json:"intermediates,omitempty"` // help to find the way to a root
	TestRoots     []X509Certificate `json:"testRoots,omitempty"`     // trust anchors of software TPMs
	Manufacturers []string          `json:"manufacturers,omitempty"` // "INTC" or "id:494E5443"; none means any
	Models        []string          `json:"models,omitempty"`        // none means any
	Firmware      []FirmwareRule    `json:"firmware,omitempty"`

	TrustStore     bool     `json:"trustStore,omitempty"`     // the vendors' certificates in the scope's trust store count, too
	TestTrustStore bool     `json:"testTrustStore,omitempty"` // those of software TPMs in it do
	Vendors        []string `json:"vendors,omitempty"`        // whose roots of the trust store count; none means all
}

func (c *EKCertificates) validate() error {
	for _, slot := range []struct {
		member string
		certs  []X509Certificate
	}{{"roots", c.Roots}, {"intermediates", c.Intermediates}, {"testRoots", c.TestRoots}} {
		for i, cert := range slot.certs {
			if len(cert.Certificate) > 0 || cert.Info != nil && isDigest(cert.Info.SHA256Thumbprint) {
				continue
			}
			return fault{fmt.Sprintf("%s[%d]", slot.member, i), "needs a certificate, or the info of a stored one with its sha256Thumbprint"}
		}
	}
	return nil
}

// isDigest reports whether s is a SHA-256 digest in hexadecimal.
func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// A FirmwareRule refuses TPMs of a manufacturer, or of one of its models, whose certificate names a firmware older than
// Oldest, "id:" and hexadecimal digits.
type FirmwareRule struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
	Oldest       string `json:"oldest,omitempty"`
}

// An EKList is a group's list of endorsement keys. A client writes the Keys; without them a list stays as it is, and a
// new one has no key in it. The service answers how many there are and their digest.
type EKList struct {
	Keys   []string `json:"keys,omitempty"`   // lines of a list: TPM2B_PUBLIC in base64, the digest of that, or the key's Name
	Count  int      `json:"count"`            // read only
	SHA256 string   `json:"sha256,omitempty"` // of the stored list, upper-case hexadecimal; read only
}

// SymmetricKeys are the two keys of an enrollment; either is good.
type SymmetricKeys struct {
	PrimaryKey   Key `json:"primaryKey,omitzero"`
	SecondaryKey Key `json:"secondaryKey,omitzero"`
}

// An X509Attestation is what certificates must show. Exactly one member is set.
type X509Attestation struct {
	ClientCertificates  *X509Certificates `json:"clientCertificates,omitempty"`  // the device's own; individual enrollments
	SigningCertificates *X509Certificates `json:"signingCertificates,omitempty"` // of the CA that issues them; groups
	CAReferences        *X509CAReferences `json:"caReferences,omitempty"`        // names of CA certificates the service keeps; groups
}

func (a *X509Attestation) validate() error {
	uses := 0
	if a != nil {
		for _, set := range []bool{a.ClientCertificates != nil, a.SigningCertificates != nil, a.CAReferences != nil} {
			if set {
				uses++
			}
		}
	}
	switch {
	case uses != 1:
		return errors.New("needs exactly one of clientCertificates, signingCertificates, caReferences")
	case a.ClientCertificates != nil && a.ClientCertificates.Primary == nil:
		return fault{"clientCertificates.primary", "missing"}
	case a.SigningCertificates != nil && a.SigningCertificates.Primary == nil:
		return fault{"signingCertificates.primary", "missing"}
	case a.CAReferences != nil && a.CAReferences.Primary == "":
		return fault{"caReferences.primary", "missing"}
	}
	return nil
}

// X509Certificates are the two certificates of an enrollment; either is good.
type X509Certificates struct {
	Primary   *X509Certificate `json:"primary,omitempty"`
	Secondary *X509Certificate `json:"secondary,omitempty"`
}

// X509CAReferences are the names of the two CA certificates of an enrollment group; either is good.
type X509CAReferences struct {
	Primary   string `json:"primary,omitempty"`
	Secondary string `json:"secondary,omitempty"`
}

// An X509Certificate is a certificate as a client writes it, or what the service answers in its place. A client that
// changes something else in an enrollment sends the Info back alone, which leaves the certificate as it is.
type X509Certificate struct {
	Certificate Certificate          `json:"certificate,omitempty"`
	Info        *X509CertificateInfo `json:"info,omitempty"`
}
