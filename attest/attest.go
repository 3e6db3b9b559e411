// Package attest holds what all attestation mechanisms share: what an
// enrollment expects (a Mechanism), what a device presents (a Credential) and
// what a trust decision concludes (a Verdict, with its findings). The
// decisions themselves are in the packages below it, one a mechanism.
package attest

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

// A Type names an attestation mechanism as the DPS service API spells it.
type Type string

// The attestation mechanisms.
const (
	TypeTPM          Type = "tpm"
	TypeX509         Type = "x509"
	TypeSymmetricKey Type = "symmetricKey"
)

// A Mechanism is what an enrollment expects of its devices. Exactly the member
// that Type names is set: for TypeTPM the one TPM of an individual enrollment, or
// the TPMs of a group.
type Mechanism struct {
	Type         Type
	SymmetricKey *SymmetricKeys
	X509         *X509
	TPM          *TPM
	TPMGroup     *TPMGroup
}

// SymmetricKeys are the two keys of a symmetric key attestation: the device's
// own in an individual enrollment, those it is derived from in a group. Two, so
// that one can be rolled while devices still use the other.
type SymmetricKeys struct{ Primary, Secondary device.SymmetricKey }

// A CertificateUse says what the certificates of an X.509 attestation are.
type CertificateUse string

// The three kinds of certificates, named as the members of the service API's
// x509 object.
const (
	ClientCertificates  CertificateUse = "clientCertificates"  // the device's own leaf; individual enrollments
	SigningCertificates CertificateUse = "signingCertificates" // a CA of the device's chain; groups
	CAReferences        CertificateUse = "caReferences"        // the name of a CA kept by the service; groups
)

// X509 holds the certificates an enrollment accepts: DER (RFC 5280), or the
// names of CA certificates when Use is CAReferences. The secondary slot may be
// nil. In a change, a slot that is empty but not nil keeps the certificate that
// is stored: clients read an enrollment, which shows no certificates, and write
// it back.
type X509 struct {
	Use                                  CertificateUse
	Primary, Secondary                   []byte
	PrimaryReference, SecondaryReference string
}

// TPM holds the public halves of two TPM keys, each a TPM2B_PUBLIC (TPM 2.0
// Library, Part 2 §12.2.5). The storage root key is optional in an enrollment.
type TPM struct{ EndorsementKey, StorageRootKey []byte }

// A TPMGroup says which TPMs a group admits: those whose endorsement key (EK) is
// on a list, and those whose EK certificate chains to a root, pinned here or in the
// scope's trust store, and passes the filters. Package ekcert judges both. The zero value admits none.
type TPMGroup struct {
	// The CA certificates, DER (RFC 5280); TestRoots are those of software TPMs. In a
	// change an element may be the SHA-256 digest of a certificate, 32 bytes: it
	// stands for the one that is stored, for clients write back the information
	// that they read.
	Roots         [][]byte `json:"roots"`
	Intermediates [][]byte `json:"intermediates"`
	TestRoots     [][]byte `json:"testRoots"`

	// The filters, spelled as EK certificates have them or people write them:
	// "INTC" or "id:494E5443".
	Manufacturers []string       `json:"manufacturers"`
	Models        []string       `json:"models"`
	Firmware      []FirmwareRule `json:"firmware"`

	// Trusted says that the CA certificates of the scope's trust store count beside
	// those above, and TrustedTest that those of software TPMs in it do. With Vendors,
	// only the roots of these vendors count.
	Trusted     bool     `json:"trusted"`
	TrustedTest bool     `json:"trustedTest"`
	Vendors     []string `json:"vendors"`

	List *EKList `json:"list"` // nil for none
}

// A FirmwareRule refuses TPMs of a manufacturer, or of one of its models, whose
// certificate names an older firmware than "id:" and hexadecimal digits.
type FirmwareRule struct {
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"` // empty for all
	Oldest       string `json:"oldest"`
}

// An EKList is the list of endorsement keys of a group. It may be long, so it is
// kept beside the enrollment: what reads an enrollment learns the digest and the
// number.
type EKList struct {
	Digest string `json:"digest"` // SHA-256 of Keys, upper-case hexadecimal; empty for a list with no key in it
	Count  int    `json:"count"`
	// Keys is what ekcert.List.Marshal returns, to store it in place of the list
	// before. Nil leaves that as it is.
	Keys []byte `json:"-"`
}

// A Credential is what a device showed, whatever wire it came in on.
type Credential struct {
	Token *sas.Token          // a SAS token, or nil
	Chain []*x509.Certificate // leaf first; TLS proved possession of the leaf's key
	TPM   *TPM                // the keys of the request body, or nil

	// EKCertificate is the certificate of the TPM's endorsement key as NV memory
	// holds it, and EKChain what stands above it, DER behind DER. Both are a
	// stranger's bytes, or nil.
	EKCertificate, EKChain []byte
}

// Describe says what was presented in one line without anything secret.
func (c Credential) Describe() string {
	var parts []string
	if c.Token != nil {
		parts = append(parts, fmt.Sprintf("a SAS token for %q expiring %s", c.Token.Resource, c.Token.Expiry.UTC().Format("2006-01-02T15:04:05Z")))
	}
	if len(c.Chain) > 0 {
		parts = append(parts, fmt.Sprintf("a chain of %d certificate(s), leaf %q (SHA-256 %s)",
			len(c.Chain), c.Chain[0].Subject, Thumbprint(c.Chain[0].Raw)))
	}
	if c.TPM != nil {
		parts = append(parts, "TPM keys")
	}
	if len(c.EKCertificate) > 0 {
		parts = append(parts, "an endorsement key certificate")
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Thumbprint returns the SHA-256 thumbprint of a DER certificate in upper-case
// hexadecimal, 64 characters.
func Thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// ThumbprintSHA1 returns the SHA-1 thumbprint of a DER certificate in
// upper-case hexadecimal, 40 characters. It names a certificate to people and
// old tools; no enrollment is judged by it.
func ThumbprintSHA1(der []byte) string {
	sum := sha1.Sum(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// A Finding is one thing a trust decision looked at and what it saw. Findings
// hold no secret: an operator reads them.
type Finding struct {
	Check  string `json:"check"`  // what was looked at: "signature", "expiry", "chain"
	OK     bool   `json:"ok"`     // whether it spoke for the device
	Detail string `json:"detail"` // what was seen
}

// A Verdict is the conclusion of one trust decision: accepted when Refusal is
// nil, and why.
type Verdict struct {
	Refusal  *errs.Error
	Findings []Finding
}

// Accepted reports whether the credential proved what it claims.
func (v Verdict) Accepted() bool { return v.Refusal == nil }

// Saw adds a finding that speaks for the device.
func (v *Verdict) Saw(check, format string, args ...any) {
	v.Findings = append(v.Findings, Finding{check, true, fmt.Sprintf(format, args...)})
}

// Refuse adds a finding that speaks against the device and makes refusal the
// verdict, unless an earlier one already is.
func (v *Verdict) Refuse(refusal *errs.Error, check, format string, args ...any) {
	v.Findings = append(v.Findings, Finding{check, false, fmt.Sprintf(format, args...)})
	if v.Refusal == nil {
		v.Refusal = refusal
	}
}

// Unauthorized is the refusal a stranger sees for every bad credential: it
// tells nothing about which check failed.
func Unauthorized() *errs.Error {
	return errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized")
}
