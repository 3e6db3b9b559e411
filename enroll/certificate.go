package enroll

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// MaxCACertificates is how many CA certificates a scope may have. It is the
// original's limit.
const MaxCACertificates = 25

const (
	maxCertificateName = 256
	// codeSize is the size in bytes of a verification code, which is written in
	// hexadecimal and must fit into a common name (64 characters, RFC 5280).
	codeSize = 24
)

// A CACertificate is a CA certificate that a scope keeps under a name, for
// enrollment groups to go by. One that is not verified admits nobody.
type CACertificate struct {
	Scope device.IDScope
	// Name is as its creator spelled it; names are compared without case (see
	// Key).
	Name        string
	Certificate []byte // DER (RFC 5280)
	// Verified says that whoever uploaded it proved to have the CA's key, or that
	// an operator took that upon himself.
	Verified bool
	// VerificationCode is the common name that a proof must have, empty while
	// none is asked for. It is no secret.
	VerificationCode string

	ETag    string // opaque token, unquoted
	Created time.Time
	Updated time.Time
}

// Key returns the form of the name by which CA certificates are told apart.
func (c *CACertificate) Key() string { return CertificateKey(c.Name) }

// CertificateKey returns the form by which a CA certificate named name is known.
func CertificateKey(name string) string { return strings.ToLower(name) }

// CACertificates keeps CA certificates. Each write is atomic and durable when it
// returns.
type CACertificates interface {
	// CACertificate returns the one of a name in any case, or an error of kind
	// errs.NotFound.
	CACertificate(ctx context.Context, scope device.IDScope, name string) (*CACertificate, error)
	// CACertificates returns all of scope, ordered by key. The caller does not
	// change them.
	CACertificates(ctx context.Context, scope device.IDScope) ([]*CACertificate, error)
	// ChangeCACertificate reads the one of a name in any case (nil when there is
	// none), lets decide say what it becomes and writes that, with no other write
	// to it in between. Returning nil removes it. An error from decide is
	// returned as it is and nothing is written. decide must not call the store
	// and may be called more than once.
	ChangeCACertificate(ctx context.Context, scope device.IDScope, name string, decide func(*CACertificate) (*CACertificate, error)) error
}

// CheckCertificateName checks the name of a CA certificate: 1 to 256 letters,
// digits, hyphens, dots and underscores, not all of them dots. The error says
// what is wrong with it.
func CheckCertificateName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("is empty")
	case len(name) > maxCertificateName:
		return fmt.Errorf("has %d characters; %d are allowed", len(name), maxCertificateName)
	case strings.Trim(name, ".") == "":
		return fmt.Errorf("has nothing but dots")
	}
	for i, r := range name {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '.', r == '_':
		default:
			return fmt.Errorf("has %q at position %d; letters, digits, - . _ are allowed", r, i+1)
		}
	}
	return nil
}

// An Upload is a CA certificate as an operator gives it.
type Upload struct {
	Scope       device.IDScope
	Name        string
	Certificate []byte // DER
	// Verified true skips the proof of possession, false takes one back; nil
	// keeps what was proved about the certificate that is stored.
	Verified *bool
}

// UploadCACertificate returns what the CA certificate becomes when u is put in
// the place of old (nil when there is none yet). match judges old's entity tag as
// the caller's If-Match asks; without one, the name must be new. What was proved
// holds for one certificate: another one in its place is not verified, and the
// code of the first is void.
//
// Errors: errs.Conflict (it exists), errs.NotFound (nothing to update),
// errs.Precondition (the tag is not the current one), errs.Invalid.
func UploadCACertificate(old *CACertificate, u Upload, match func(etag string) bool, now time.Time, random io.Reader) (*CACertificate, error) {
	switch {
	case old == nil && match != nil:
		return nil, NoCACertificate()
	case old != nil && match == nil:
		return nil, errs.New(errs.Conflict, errs.CodeConflict, "The CA certificate %q exists already.", old.Name)
	}
	next := CACertificate{Scope: u.Scope, Name: u.Name, Created: now}
	if old != nil {
		if !match(old.ETag) {
			return nil, staleCACertificate()
		}
		next = *old
	}
	if err := CheckCertificateName(u.Name); err != nil {
		return nil, invalid("name", "%v", err)
	}
	if err := checkAuthority(u.Certificate, now); err != nil {
		return nil, err
	}
	if string(next.Certificate) != string(u.Certificate) {
		next.Certificate, next.Verified, next.VerificationCode = slices.Clone(u.Certificate), false, ""
	}
	if u.Verified != nil && next.Verified != *u.Verified {
		next.Verified, next.VerificationCode = *u.Verified, ""
	}
	return next.stamped(now, random)
}

// checkAuthority refuses a certificate that could never admit a device.
func checkAuthority(der []byte, now time.Time) error {
	if len(der) == 0 {
		return invalid("certificate", "is missing")
	}
	c, err := x509.ParseCertificate(der)
	switch {
	case err != nil:
		return invalid("certificate", "is not an X.509 certificate")
	case !c.BasicConstraintsValid || !c.IsCA:
		return invalid("certificate", "%q is not a CA certificate: its basic constraints do not say CA:TRUE", c.Subject)
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return invalid("certificate", "%q must not sign certificates: its key usage lacks keyCertSign", c.Subject)
	case now.After(c.NotAfter):
		return invalid("certificate", "%q expired at %s", c.Subject, instant(c.NotAfter))
	}
	return nil
}

// GenerateVerificationCode returns old with a fresh code, which takes the place
// of the one it may have: a certificate made for that proves nothing any more.
// match may be nil. Errors are
// those of RemoveCACertificate.
func GenerateVerificationCode(old *CACertificate, match func(etag string) bool, now time.Time, random io.Reader) (*CACertificate, error) {
	if err := RemoveCACertificate(old, match); err != nil {
		return nil, err
	}
	b := make([]byte, codeSize)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("drawing a verification code: %w", err)
	}
	next := *old
	next.VerificationCode = strings.ToUpper(hex.EncodeToString(b))
	return next.stamped(now, random)
}

// VerifyCACertificate returns old as verified, if proof (DER) proves that whoever
// made it has the CA's key; see CheckPossession. A code is good for one proof.
// match may be nil. Errors are those of RemoveCACertificate and errs.Invalid.
func VerifyCACertificate(old *CACertificate, proof []byte, match func(etag string) bool, now time.Time, random io.Reader) (*CACertificate, error) {
	if err := RemoveCACertificate(old, match); err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(old.Certificate)
	if err != nil {
		return nil, fmt.Errorf("parsing the stored CA certificate %q: %w", old.Name, err)
	}
	p, err := x509.ParseCertificate(proof)
	if err != nil {
		return nil, invalid("certificate", "is not an X.509 certificate")
	}
	if err := CheckPossession(ca, p, old.VerificationCode, now); err != nil {
		return nil, invalid("certificate", "%v", err)
	}
	next := *old
	next.Verified, next.VerificationCode = true, ""
	return next.stamped(now, random)
}

// CheckPossession says whether proof shows that its maker has the key of ca: a
// certificate signed by ca just now, whose common name is code, which nobody
// could know before it was drawn. The error says what is wrong with it.
//
// It proves the power to have ca sign any name, no more: behind an authority that
// signs whatever name it is sent, that is anybody's.
func CheckPossession(ca, proof *x509.Certificate, code string, now time.Time) error {
	switch {
	case code == "":
		return fmt.Errorf("no verification code was asked for, so nothing can be proved")
	case proof.Equal(ca):
		return fmt.Errorf("is the CA certificate itself, which everybody has; sign one whose common name is the verification code")
	case string(proof.RawIssuer) != string(ca.RawSubject):
		return fmt.Errorf("was issued by %q, not by %q", proof.Issuer, ca.Subject)
	}
	if err := proof.CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("was not signed by the key of %q: %v", ca.Subject, err)
	}
	for _, c := range []*x509.Certificate{proof, ca} {
		if now.Add(attest.Skew).Before(c.NotBefore) {
			return fmt.Errorf("%q is not valid before %s", c.Subject, instant(c.NotBefore))
		}
		if now.Add(-attest.Skew).After(c.NotAfter) {
			return fmt.Errorf("%q expired at %s", c.Subject, instant(c.NotAfter))
		}
	}
	if name := commonName(proof.Subject); subtle.ConstantTimeCompare([]byte(name), []byte(code)) != 1 {
		return fmt.Errorf("has the subject %q; its one common name must be the verification code that was made last, %s", proof.Subject, code)
	}
	return nil
}

// oidCommonName is id-at-commonName (RFC 5280 Appendix A.1).
var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// commonName returns the only common name of a subject, or nothing: of several,
// programs take now the first and now the last.
func commonName(subject pkix.Name) string {
	var names []any
	for _, a := range subject.Names {
		if a.Type.Equal(oidCommonName) {
			names = append(names, a.Value)
		}
	}
	if len(names) != 1 {
		return ""
	}
	name, _ := names[0].(string)
	return name
}

// RemoveCACertificate says whether old may be changed or removed. Without a match
// it may.
func RemoveCACertificate(old *CACertificate, match func(etag string) bool) error {
	if old == nil {
		return NoCACertificate()
	}
	if match != nil && !match(old.ETag) {
		return staleCACertificate()
	}
	return nil
}

// stamped returns c as it is written at now.
func (c CACertificate) stamped(now time.Time, random io.Reader) (*CACertificate, error) {
	etag, err := errs.NewUUID(random)
	if err != nil {
		return nil, err
	}
	c.ETag, c.Updated = etag, now
	return &c, nil
}

// NoCACertificate is the error for a CA certificate that does not exist.
func NoCACertificate() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeGenericNotFound, "CA certificate not found.")
}

func staleCACertificate() error {
	return errs.New(errs.Precondition, errs.CodePrecondition, "The etag is not the current one; read the CA certificate again.")
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }
