package ekcert

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

// A Policy says which endorsement keys a group admits. Its filters are what the
// certificates say, so whoever holds the key of a CA below one of the Roots can
// make a certificate of any Manufacturer, Model and Firmware: pin the roots of
// the vendors that are meant, and no others.
type Policy struct {
	// Roots are the pinned trust anchors. They need not be self-signed.
	Roots []*x509.Certificate
	// Intermediates are CA certificates that help to find a way from an
	// endorsement key certificate to a root. They are trusted for nothing else.
	Intermediates []*x509.Certificate
	// TestRoots are anchors of software TPMs, whose keys anybody can copy. Below
	// them, and nowhere else, certificates of swtpm and its local CA are
	// accepted. Empty in production.
	TestRoots []*x509.Certificate

	// Manufacturers and Models are those admitted; with none, all are. Models
	// are compared to the letter.
	Manufacturers []Manufacturer
	Models        []string
	// Firmware holds every rule that applies to a certificate against it.
	Firmware []FirmwareRule

	// Trusted and TrustedTest say that the scope's trust store counts besides: its
	// vendors' anchors, and those of software TPMs. With Vendors, only the roots of
	// these count. Verify goes by what TrustSet.Extend adds to the above.
	Trusted, TrustedTest bool
	Vendors              []string
}

// A FirmwareRule refuses the TPMs of one manufacturer, or only those of one of
// its models, whose certificate names an older firmware. Vendors count the
// firmware of each model family on its own, so a rule without a model is of use
// only where that does not matter.
type FirmwareRule struct {
	Manufacturer Manufacturer
	Model        string // empty for all
	Oldest       Firmware
}

// Check reports everything that keeps p from being a policy somebody can have
// meant: no root, an anchor that is not a CA, the CA of a software TPM among the
// production roots, a firmware version that nothing can be compared with, vendors
// of a trust store that does not count. Verify does not depend on it.
func (p Policy) Check() error {
	var faults []error
	refers := p.Trusted || p.TrustedTest
	if len(p.Roots)+len(p.TestRoots) == 0 && !refers {
		faults = append(faults, errors.New("no root is pinned, and the trust store does not count"))
	}
	if len(p.Vendors) > 0 && !refers {
		faults = append(faults, errors.New("vendors are those of the trust store, which does not count"))
	}
	for _, c := range slices.Concat(p.Roots, p.Intermediates, p.TestRoots) {
		if !isCA(c) {
			faults = append(faults, fmt.Errorf("%q is not a CA certificate", c.Subject))
		}
	}
	for _, c := range p.Roots {
		if isTestCA(c) {
			faults = append(faults, fmt.Errorf("%q is the CA of a software TPM: a test root", c.Subject))
		}
	}
	for _, m := range p.Manufacturers {
		if m.isZero() {
			faults = append(faults, errors.New("a manufacturer is empty"))
		}
	}
	for _, r := range p.Firmware {
		if r.Oldest.digits() == "" {
			faults = append(faults, fmt.Errorf("the oldest firmware of %v is %q: not id: and hexadecimal digits", r.Manufacturer, r.Oldest))
		}
	}
	return errors.Join(faults...)
}

// Verify judges whether c certifies ek and policy admits it at now: the chain to
// a pinned root, the certificate profile, the key, and what the certificate says
// about the TPM. All of it is looked at, so that the findings are complete. It
// fetches nothing: neither issuers nor revocation lists. Signatures with SHA-1,
// which some old vendor CAs made, count for nothing: a List can admit such keys.
//
// Acceptance proves nothing about the device that showed c: certificates are
// public. It means that a challenge sealed to ek can be answered only by the TPM
// that the certificate describes.
func Verify(c *Certificate, ek *tpm.Public, policy Policy, now time.Time) attest.Verdict {
	var v attest.Verdict
	if c == nil || c.X509 == nil {
		v.Refuse(invalid(), "certificate", "no endorsement key certificate was presented")
		return v
	}
	if ek == nil {
		v.Refuse(invalid(), "endorsement key", "no endorsement key was presented")
		return v
	}
	checkChain(&v, c, policy, now)
	checkValidity(&v, c.X509, now)
	checkProfile(&v, c)
	checkKey(&v, c, ek)
	checkManufacturer(&v, c, policy)
	checkFirmware(&v, c, policy)
	return v
}

// checkChain looks for a path to a pinned root.
func checkChain(v *attest.Verdict, c *Certificate, policy Policy, now time.Time) {
	if len(c.Chain) > MaxChain {
		v.Refuse(invalid(), "chain", "%d certificates were shown with it; %d are allowed", len(c.Chain), MaxChain)
		return
	}
	cas := slices.Concat(policy.Intermediates, below(slices.Concat(policy.TestRoots, policy.Roots, policy.Intermediates), c.Chain))
	chain, err := pathTo(policy.TestRoots, cas, c, now)
	test := err == nil
	if !test {
		chain, err = pathTo(policy.Roots, cas, c, now)
	}
	if err != nil {
		v.Refuse(invalid(), "chain", "no path from issuer %q to a pinned root: %v", c.X509.Issuer, err)
		return
	}
	root := chain[len(chain)-1]
	v.Saw("chain", "%d certificate(s) up to the pinned root %q (SHA-256 %s)", len(chain), root.Subject, attest.Thumbprint(root.Raw))
	switch {
	case test:
		v.Saw("test root", "the root is one for software TPMs: anybody can copy this key")
	case slices.ContainsFunc(chain, isTestCA) || c.Manufacturer == softwareTPM:
		v.Refuse(invalid(), "test root", "this is a software TPM (manufacturer %s, issuer %q), and the root is not a test root", c.Manufacturer.ID(), c.X509.Issuer)
	}
}

// below returns those of the shown certificates that a pinned one signed, or one
// that is itself below a pinned one. No other can be on a path, and none may come
// near the search for one: a stranger who shows CAs that all have one name and sign
// each other makes it try them in every order, with keys of the stranger's choice.
// Here only keys that are pinned or certified check anything, and no pair twice.
func below(pinned, shown []*x509.Certificate) (kept []*x509.Certificate) {
	rest := slices.Clone(shown)
	for above := pinned; len(above) > 0; {
		var found []*x509.Certificate
		rest = slices.DeleteFunc(rest, func(c *x509.Certificate) bool {
			signed := slices.ContainsFunc(above, func(ca *x509.Certificate) bool {
				return bytes.Equal(ca.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(ca) == nil
			})
			if signed {
				found = append(found, c)
			}
			return signed
		})
		kept, above = append(kept, found...), found
	}
	return kept
}

// pathTo runs RFC 5280 path validation from c to one of roots and returns the
// path, c first.
func pathTo(roots, cas []*x509.Certificate, c *Certificate, now time.Time) ([]*x509.Certificate, error) {
	// Only CAs with a name that can be on the path go into the pools: there may
	// be hundreds, and putting one in costs a hash.
	names := issuerNames(c.X509, cas)
	options := x509.VerifyOptions{
		Roots: pool(roots, names), Intermediates: pool(cas, names), CurrentTime: now,
		// The usage of endorsement key certificates is unknown to crypto/x509.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	chains, err := c.withoutSAN().Verify(options)
	if err != nil {
		return nil, err
	}
	for _, chain := range chains {
		if err = checkPath(chain); err == nil {
			return chain, nil
		}
	}
	return nil, err
}

// checkPath adds what crypto/x509 leaves out: that the end of the path is not
// its own root, and that CAs which are limited to other usages issue no
// endorsement key certificates.
func checkPath(chain []*x509.Certificate) error {
	if len(chain) < 2 {
		return errors.New("the certificate is itself among the roots: a list admits single keys")
	}
	for _, ca := range chain[1 : len(chain)-1] {
		limited := len(ca.ExtKeyUsage)+len(ca.UnknownExtKeyUsage) > 0
		if limited && !slices.Contains(ca.ExtKeyUsage, x509.ExtKeyUsageAny) && !forEK(ca) {
			return fmt.Errorf("%q may not issue endorsement key certificates", ca.Subject)
		}
	}
	return nil
}

// issuerNames returns the names that a path from c may lead over.
func issuerNames(c *x509.Certificate, cas []*x509.Certificate) [][]byte {
	names := [][]byte{c.RawIssuer}
	for i := 0; i < len(names); i++ {
		for _, ca := range cas {
			if bytes.Equal(ca.RawSubject, names[i]) && !containsName(names, ca.RawIssuer) {
				names = append(names, ca.RawIssuer)
			}
		}
	}
	return names
}

func containsName(names [][]byte, name []byte) bool {
	return slices.ContainsFunc(names, func(n []byte) bool { return bytes.Equal(n, name) })
}

func pool(cas []*x509.Certificate, names [][]byte) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range cas {
		if containsName(names, ca.RawSubject) {
			pool.AddCert(ca)
		}
	}
	return pool
}

// softwareTPM is the manufacturer in certificates of swtpm's local CA.
var softwareTPM = Manufacturer{0x00, 0x00, 0x10, 0x14}

// isTestCA reports whether c has the name that swtpm gives to its CAs, or is
// issued by one. It is the second line of defence: a CA can be renamed, which
// is why a test root must be declared as one.
func isTestCA(c *x509.Certificate) bool {
	const prefix = "swtpm-localca"
	return strings.HasPrefix(c.Subject.CommonName, prefix) || strings.HasPrefix(c.Issuer.CommonName, prefix)
}

func isCA(c *x509.Certificate) bool { return c.BasicConstraintsValid && c.IsCA }

func checkValidity(v *attest.Verdict, c *x509.Certificate, now time.Time) {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case now.Before(c.NotBefore):
		v.Refuse(invalid(), "validity", "it is not valid before %s; it is %s here", at(c.NotBefore), at(now))
	case now.After(c.NotAfter):
		v.Refuse(invalid(), "validity", "it expired at %s; it is %s here", at(c.NotAfter), at(now))
	default:
		v.Saw("validity", "it is valid until %s", at(c.NotAfter))
	}
}

// oidEKCertificate is tcg-kp-EKCertificate, the extended key usage of
// endorsement key certificates.
var oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}

func forEK(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal)
}

// checkProfile holds the certificate to the TCG EK Credential Profile.
func checkProfile(v *attest.Verdict, c *Certificate) {
	x := c.X509
	if forEK(x) {
		v.Saw("extended key usage", "it is an endorsement key certificate")
	} else {
		v.Refuse(invalid(), "extended key usage", "it is not an endorsement key certificate: %v is missing", oidEKCertificate)
	}
	if x.BasicConstraintsValid && x.IsCA {
		v.Refuse(invalid(), "basic constraints", "it is a CA certificate")
	} else {
		v.Saw("basic constraints", "it is not a CA certificate")
	}
	want, usage := x509.KeyUsageKeyAgreement, "keyAgreement"
	if _, isRSA := c.PublicKey.(*rsa.PublicKey); isRSA {
		want, usage = x509.KeyUsageKeyEncipherment, "keyEncipherment"
	}
	switch {
	case x.KeyUsage&want == 0:
		v.Refuse(invalid(), "key usage", "it does not name %s", usage)
	case x.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		v.Refuse(invalid(), "key usage", "the key may sign certificates or revocation lists")
	default:
		v.Saw("key usage", "the key is for %s", usage)
	}
	if unknown := c.withoutSAN().UnhandledCriticalExtensions; len(unknown) > 0 {
		v.Refuse(invalid(), "critical extensions", "%v is critical and means nothing to us", unknown)
	}
}

// checkKey compares the certified key with the endorsement key, whose public
// area must be that of a TCG template: the certificate binds the key alone, not
// its attributes.
func checkKey(v *attest.Verdict, c *Certificate, ek *tpm.Public) {
	if err := tpm.CheckEK(ek); err != nil {
		v.Refuse(invalid(), "endorsement key", "%v", err)
		return
	}
	key, err := ek.CryptoKey()
	if err != nil {
		v.Refuse(invalid(), "endorsement key", "%v", err)
		return
	}
	certified, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !certified.Equal(key) {
		v.Refuse(invalid(), "endorsement key", "the certificate is for another key")
		return
	}
	v.Saw("endorsement key", "it is the certified key")
	if weakGenerator(ek) {
		v.Refuse(invalid(), "key generation", "the modulus was made by the weak RSA key generator of CVE-2017-15361: the private key can be computed from it")
	}
}

func checkManufacturer(v *attest.Verdict, c *Certificate, policy Policy) {
	if c.Manufacturer.isZero() {
		v.Refuse(invalid(), "manufacturer", "the subjectAltName names no TPM manufacturer")
		return
	}
	if len(policy.Manufacturers) > 0 && !slices.ContainsFunc(policy.Manufacturers, c.Manufacturer.Is) {
		v.Refuse(invalid(), "manufacturer", "%v (%s) is not among %v", c.Manufacturer, c.Manufacturer.ID(), policy.Manufacturers)
	} else {
		v.Saw("manufacturer", "%v (%s)", c.Manufacturer, c.Manufacturer.ID())
	}
	if len(policy.Models) > 0 && !slices.Contains(policy.Models, c.Model) {
		v.Refuse(invalid(), "model", "%q is not among %q", c.Model, policy.Models)
	} else {
		v.Saw("model", "%q", c.Model)
	}
}

func checkFirmware(v *attest.Verdict, c *Certificate, policy Policy) {
	refused := false
	for _, r := range policy.Firmware {
		if !c.Manufacturer.Is(r.Manufacturer) || r.Model != "" && r.Model != c.Model {
			continue
		}
		order, ok := c.Firmware.Compare(r.Oldest)
		switch {
		case !ok:
			v.Refuse(invalid(), "firmware", "%q cannot be compared with the oldest allowed, %q", c.Firmware, r.Oldest)
		case order < 0:
			v.Refuse(invalid(), "firmware", "%q is older than the oldest allowed, %q", c.Firmware, r.Oldest)
		default:
			continue
		}
		refused = true
	}
	if !refused {
		v.Saw("firmware", "%q", c.Firmware)
	}
}

// invalid is what a stranger sees of every refusal: it tells nothing about which
// check failed.
func invalid() *errs.Error {
	return errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Invalid endorsement key certificate.")
}
