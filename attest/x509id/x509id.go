// Package x509id decides whether a client certificate proves who a device is:
// by its own thumbprint in an individual enrollment, or by the nearest enrolled
// CA above it in a group. That the device holds the certificate's key was
// proven by TLS before any of this is asked.
package x509id

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
)

// MaxChain is the longest presented chain that is looked at: real ones have
// two to four certificates, and every one more costs a stranger nothing and us
// a signature check.
const MaxChain = 10

// VerifyIndividual judges a presented chain against the certificates enrolled
// for one device (DER; either may be empty). Only the leaf counts.
func VerifyIndividual(primary, secondary []byte, chain []*x509.Certificate, id string, now time.Time) attest.Verdict {
	var v attest.Verdict
	leaf := leafOf(&v, chain)
	if leaf == nil {
		return v
	}
	switch {
	case sameCertificate(leaf, primary):
		v.Saw("thumbprint", "the leaf is the enrolled primary certificate")
	case sameCertificate(leaf, secondary):
		v.Saw("thumbprint", "the leaf is the enrolled secondary certificate")
	default:
		v.Refuse(invalidCertificate(), "thumbprint", "the leaf (SHA-256 %s) is not an enrolled certificate", attest.Thumbprint(leaf.Raw))
		return v
	}
	checkName(&v, leaf, id)
	checkValidity(&v, leaf, now)
	checkUsage(&v, leaf)
	return v
}

func sameCertificate(leaf *x509.Certificate, der []byte) bool {
	return len(der) > 0 && sha256.Sum256(leaf.Raw) == sha256.Sum256(der)
}

// An Authority is a CA certificate that an enrollment group trusts, or a hub.
type Authority struct {
	Group       string // the enrollment group's ID, or empty
	Name        string // what a hub knows the certificate by, where no group trusts it
	Certificate *x509.Certificate
}

// whose says in findings what trusts a.
func (a Authority) whose() string {
	if a.Group == "" {
		return "CA certificate " + a.Name
	}
	return "group " + a.Group
}

// VerifyGroup finds the nearest enrolled CA above the presented leaf and judges
// the path to it: signatures, validity, CA flags, path length, name
// constraints, extended key usage, and the leaf's name. It returns the index
// of that CA in authorities, or -1 when there is none. A CA that did sign
// decides even when the path to it is bad: an enabled group further up must not
// let in what a nearer one refuses (DPS, "X.509 attestation": the first record
// found decides).
//
// The presented chain need not hold the enrolled CA itself, and what it holds
// beside the path is ignored.
func VerifyGroup(authorities []Authority, chain []*x509.Certificate, id string, now time.Time) (int, attest.Verdict) {
	var v attest.Verdict
	leaf := leafOf(&v, chain)
	if leaf == nil {
		return -1, v
	}
	if len(chain) > MaxChain {
		v.Refuse(invalidCertificate(), "chain", "%d certificates were presented; at most %d are looked at", len(chain), MaxChain)
		return -1, v
	}
	for _, issuer := range vouchedFor(authorities, chain[1:]) {
		if !names(issuer.Certificate, leaf) {
			continue
		}
		path, a := append([]*x509.Certificate{leaf}, issuer.path()...), authorities[issuer.authority]
		err := verifyPath(path, a.Certificate, now)
		if err != nil && !signs(issuer.Certificate, leaf) {
			v.Findings = append(v.Findings, attest.Finding{Check: "authority",
				Detail: a.whose() + ": " + issuer.Subject.String() + " has the issuer's name but did not sign"})
			continue
		}
		for i, c := range path[1:] {
			v.Saw("chain", "%q is signed by the presented %q", path[i].Subject, c.Subject)
		}
		v.Saw("authority", "%s: %s is the nearest enrolled CA, %d step(s) above the leaf", a.whose(), a.Certificate.Subject, len(path))
		judge(&v, path, a.Certificate, err, id, now)
		return issuer.authority, v
	}
	top := follow(&v, chain)
	v.Refuse(errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "CA certificate not found."), "authority",
		"no enrolled CA signed %q, and no certificate of its issuer %q was presented that one did", top.Subject, top.Issuer)
	return -1, v
}

// A voucher is a certificate to which signatures lead from an enrolled CA.
type voucher struct {
	*x509.Certificate
	above     *voucher // who signed it, nil for the enrolled CA itself
	authority int      // the index of that CA
}

// path returns the presented certificates from this one up to, without, the
// enrolled CA.
func (c *voucher) path() (up []*x509.Certificate) {
	for ; c.above != nil; c = c.above {
		up = append(up, c.Certificate)
	}
	return up
}

// vouchedFor returns the enrolled CAs, and after them those of the presented
// certificates that they signed, that these signed, and so on, each once: the
// fewer steps from an enrolled CA the earlier.
//
// It works downwards because only a key that somebody trusted vouches for may
// check a signature. Whoever goes up from the leaf uses the keys that a stranger
// presents, and a few dozen signatures by slow ones cost seconds.
func vouchedFor(authorities []Authority, presented []*x509.Certificate) (vouchers []*voucher) {
	for i, a := range authorities {
		vouchers = append(vouchers, &voucher{a.Certificate, nil, i})
	}
	seen := make([]bool, len(presented))
	for next := 0; next < len(vouchers); next++ {
		v := vouchers[next]
		for i, c := range presented {
			if !seen[i] && names(v.Certificate, c) && known.signs(v.Certificate, c) {
				seen[i] = true
				vouchers = append(vouchers, &voucher{c, v, v.authority})
			}
		}
	}
	return vouchers
}

// follow goes up from the leaf by names alone, to tell the operator how far a
// chain leads that no enrolled CA stands above.
func follow(v *attest.Verdict, chain []*x509.Certificate) (top *x509.Certificate) {
	top = chain[0]
	rest := slices.Clone(chain[1:])
	for {
		i := slices.IndexFunc(rest, func(c *x509.Certificate) bool { return names(c, top) && !c.Equal(top) })
		if i < 0 {
			return top
		}
		v.Saw("chain", "%q names the presented %q as its issuer", top.Subject, rest[i].Subject)
		top = rest[i]
		rest = slices.Delete(rest, i, i+1)
	}
}

// judge says everything there is to say about a path to a CA that did sign.
func judge(v *attest.Verdict, path []*x509.Certificate, ca *x509.Certificate, pathErr error, id string, now time.Time) {
	leaf := path[0]
	for _, c := range append(path[:len(path):len(path)], ca) {
		checkValidity(v, c, now)
	}
	if leaf.BasicConstraintsValid && leaf.IsCA {
		v.Refuse(invalidCertificate(), "basic constraints", "the leaf is itself a CA certificate")
	}
	if pathErr != nil {
		v.Refuse(invalidCertificate(), "path", "%v", pathErr)
	}
	checkNameConstraints(v, path, ca, id)
	checkName(v, leaf, id)
	if v.Accepted() {
		v.Saw("path", "signatures, CA flags, path length and constraints hold")
	}
}

// verifyPath runs RFC 5280 path validation from path[0] up to ca.
func verifyPath(path []*x509.Certificate, ca *x509.Certificate, now time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	for _, c := range path[1:] {
		intermediates.AddCert(c)
	}
	if !ca.BasicConstraintsValid || !ca.IsCA {
		return x509.CertificateInvalidError{Cert: ca, Reason: x509.NotAuthorizedToSign}
	}
	_, err := path[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// signs reports whether ca's key made the signature of c, and nothing else.
func signs(ca, c *x509.Certificate) bool {
	return ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// names reports whether ca claims to be the issuer of c. Key identifiers are
// not compared: they are hints (RFC 5280 §4.2.1.1), and a CA that signed must
// be found even where they disagree.
func names(ca, c *x509.Certificate) bool { return bytes.Equal(ca.RawSubject, c.RawIssuer) }

func leafOf(v *attest.Verdict, chain []*x509.Certificate) *x509.Certificate {
	if len(chain) == 0 {
		v.Refuse(attest.Unauthorized(), "certificate", "no client certificate was presented")
		return nil
	}
	return chain[0]
}

// checkName holds the leaf to the rule that its common name is the
// registration ID, compared without case.
func checkName(v *attest.Verdict, leaf *x509.Certificate, id string) {
	if !strings.EqualFold(leaf.Subject.CommonName, id) {
		v.Refuse(invalidCertificate(), "common name", "the leaf's common name is %q, the registration ID is %q", leaf.Subject.CommonName, id)
		return
	}
	v.Saw("common name", "the leaf's common name is the registration ID")
}

func checkValidity(v *attest.Verdict, c *x509.Certificate, now time.Time) {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case now.Before(c.NotBefore):
		v.Refuse(invalidCertificate(), "validity", "%q is not valid before %s; it is %s here", c.Subject, at(c.NotBefore), at(now))
	case now.After(c.NotAfter):
		v.Refuse(invalidCertificate(), "validity", "%q expired at %s; it is %s here", c.Subject, at(c.NotAfter), at(now))
	default:
		v.Saw("validity", "%q is valid until %s", c.Subject, at(c.NotAfter))
	}
}

// checkUsage wants a leaf that names any extended key usage to name client
// authentication (RFC 5280 §4.2.1.12).
func checkUsage(v *attest.Verdict, leaf *x509.Certificate) {
	if len(leaf.ExtKeyUsage) == 0 && len(leaf.UnknownExtKeyUsage) == 0 {
		return
	}
	for _, u := range leaf.ExtKeyUsage {
		if u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny {
			v.Saw("extended key usage", "the leaf is for client authentication")
			return
		}
	}
	v.Refuse(invalidCertificate(), "extended key usage", "the leaf is not for client authentication")
}

// checkNameConstraints applies the DNS name constraints of every CA on the path
// to the registration ID. Path validation applies them to subject alternative
// names alone, but here the common name is the identity, and a CA bound to
// some names must not be able to make others.
func checkNameConstraints(v *attest.Verdict, path []*x509.Certificate, ca *x509.Certificate, id string) {
	name := strings.ToLower(id)
	for _, c := range append(path[1:len(path):len(path)], ca) {
		for _, excluded := range c.ExcludedDNSDomains {
			if within(name, excluded) {
				v.Refuse(invalidCertificate(), "name constraints", "%q must not issue for names under %q", c.Subject, excluded)
				return
			}
		}
		permitted := len(c.PermittedDNSDomains) == 0
		for _, p := range c.PermittedDNSDomains {
			permitted = permitted || within(name, p)
		}
		if !permitted {
			v.Refuse(invalidCertificate(), "name constraints", "%q may issue only for names under %s", c.Subject, strings.Join(c.PermittedDNSDomains, ", "))
			return
		}
	}
}

// within applies a dNSName constraint (RFC 5280 §4.2.1.10): the name itself or
// labels added on its left; with a leading dot, which many CAs write, only the
// latter.
func within(name, constraint string) bool {
	constraint = strings.ToLower(constraint)
	if constraint == "" {
		return true
	}
	if strings.HasPrefix(constraint, ".") {
		return strings.HasSuffix(name, constraint)
	}
	return name == constraint || strings.HasSuffix(name, "."+constraint)
}

func invalidCertificate() *errs.Error {
	return errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Invalid certificate.")
}
