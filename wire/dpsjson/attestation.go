package dpsjson

import "errors"

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
	TPM          *TPMKeys         `json:"tpm,omitempty"`
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
	case m.Type == AttestationTPM && (m.TPM == nil || len(m.TPM.EndorsementKey) == 0):
		return fault{"tpm.endorsementKey", "missing"}
	case m.Type == AttestationX509:
		if err := m.X509.validate(); err != nil {
			return within("x509", err)
		}
	}
	return nil
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
