package ekcert

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berth-iot/berth/attest"
)

// A TrustAnchor is a CA certificate of a trust store: of a TPM vendor, or of
// software TPMs. Groups that refer to the store go by it as by certificates of
// their own.
type TrustAnchor struct {
	Thumbprint  string `json:"thumbprint"`            // SHA-256 of the certificate, upper-case hexadecimal
	Certificate []byte `json:"certificate,omitempty"` // DER
	// Root says that paths may end here. Others only help to find a way to a root.
	Root bool `json:"root"`
	// Test says that it is the CA of software TPMs, whose keys anybody can copy. It
	// counts only where a group says that it is for those.
	Test   bool   `json:"test,omitempty"`
	Vendor string `json:"vendor"` // as the operator's files are sorted; groups and removals may name it
	File   string `json:"file"`   // where in the source of the import it was
	// The versions of the store that brought it and that took it away; Removed is
	// zero while it counts.
	Added   int64 `json:"added"`
	Removed int64 `json:"removed,omitempty"`
}

// A TrustVersion is one change of a trust store.
type TrustVersion struct {
	Version int64     `json:"version"` // from 1
	Time    time.Time `json:"time"`
	Policy  string    `json:"policy"` // the shared access policy of who did it
	Source  string    `json:"source"` // where the certificates came from, or why they went
	// Digest is that of the certificates which the change was about, those among
	// them that were there before included: see DigestOf. The same bundle has the
	// same one everywhere.
	Digest  string `json:"digest"`
	Added   int    `json:"added"`
	Removed int    `json:"removed"`
}

// Trust is a trust store as it is: the anchors that count, ordered by
// thumbprint, and the number of its last change, zero before the first.
type Trust struct {
	Version int64         `json:"version"`
	Anchors []TrustAnchor `json:"anchors"`
}

// A TrustChange is what a change does to a trust store. Whoever keeps it numbers
// the versions and counts the anchors.
type TrustChange struct {
	Version TrustVersion
	Add     []TrustAnchor
	Remove  []string // thumbprints
}

// An Offer is what somebody wants to have in a trust store. Of its anchors the
// Certificate, Root, Vendor and File count; a certificate that signs itself is a
// root whatever Root says.
type Offer struct {
	Source  string // where they come from, for the history
	Test    bool   // they are the CAs of software TPMs, all of them
	Anchors []TrustAnchor
}

// A TrustOutcome is what becomes of one certificate.
type TrustOutcome struct {
	TrustAnchor
	Subject string      `json:"subject"` // RFC 4514
	Expires time.Time   `json:"expires"`
	Result  TrustResult `json:"result"`
	// Reason says why it is refused, and Notes what a reviewer should know.
	Reason string   `json:"reason,omitempty"`
	Notes  []string `json:"notes,omitempty"`
}

// A TrustResult is what becomes of a certificate, in a word.
type TrustResult string

// The results.
const (
	TrustAdded   TrustResult = "added"
	TrustPresent TrustResult = "present" // it is there already
	TrustRefused TrustResult = "refused"
	TrustRemoved TrustResult = "removed"
)

// maxProvenance bounds the texts that say where a certificate comes from, in
// bytes.
const maxProvenance = 512

// DigestOf returns the SHA-256 digest of a set of certificates: of their SHA-256
// digests in ascending order, joined; upper-case hexadecimal.
func DigestOf(anchors []TrustAnchor) string {
	var prints []string
	for _, a := range anchors {
		prints = append(prints, a.Thumbprint)
	}
	slices.Sort(prints)
	h := sha256.New()
	for _, print := range slices.Compact(prints) {
		b, _ := hex.DecodeString(print) // Thumbprint made it
		h.Write(b)
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
}

// Find returns the anchor with a thumbprint.
func (t Trust) Find(thumbprint string) (TrustAnchor, bool) {
	i := slices.IndexFunc(t.Anchors, func(a TrustAnchor) bool { return a.Thumbprint == thumbprint })
	if i < 0 {
		return TrustAnchor{}, false
	}
	return t.Anchors[i], true
}

// Import says what an offer would make of t at now, and what becomes of each
// certificate, in the order of the offer. A change that adds nothing is not to be
// made. It trusts nothing that the offer says about a certificate but the role
// of a root and the vendor's name, which are the operator's to decide.
//
// Errors are about the offer as a whole: texts that are too long or not for
// printing, a store that would have more than MaxAnchors.
func (t Trust) Import(o Offer, now time.Time) (TrustChange, []TrustOutcome, error) {
	var change TrustChange
	if err := checkProvenance("source", o.Source); err != nil {
		return change, nil, err
	}
	there := make(map[string]TrustAnchor, len(t.Anchors))
	for _, a := range t.Anchors {
		there[a.Thumbprint] = a
	}
	offered := map[string]bool{}
	var outcomes []TrustOutcome
	var fit []TrustAnchor
	for i, a := range o.Anchors {
		if err := errors.Join(checkProvenance("vendor", a.Vendor), checkProvenance("file", a.File)); err != nil {
			return change, nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		out := judgeOffered(a, o.Test, now)
		if before, ok := there[out.Thumbprint]; ok && out.Result != TrustRefused {
			out = alreadyThere(out, before)
		}
		if offered[out.Thumbprint] {
			out.Result, out.Reason = TrustRefused, "the same certificate was offered before"
		}
		offered[out.Thumbprint] = true
		outcomes = append(outcomes, out)
		if out.Result == TrustRefused {
			continue
		}
		if fit = append(fit, out.TrustAnchor); out.Result == TrustAdded {
			change.Add = append(change.Add, out.TrustAnchor)
		}
	}
	if len(t.Anchors)+len(change.Add) > MaxAnchors {
		return change, nil, fmt.Errorf("the trust store would have %d certificates; %d are allowed", len(t.Anchors)+len(change.Add), MaxAnchors)
	}
	change.Version = TrustVersion{Time: now, Source: o.Source, Digest: DigestOf(fit)}
	return change, outcomes, nil
}

// judgeOffered judges one certificate for itself.
func judgeOffered(a TrustAnchor, test bool, now time.Time) TrustOutcome {
	out := TrustOutcome{Result: TrustAdded, TrustAnchor: TrustAnchor{
		Thumbprint: attest.Thumbprint(a.Certificate), Certificate: a.Certificate, Root: a.Root, Test: test, Vendor: a.Vendor, File: a.File,
	}}
	refuse := func(format string, args ...any) TrustOutcome {
		out.Result, out.Reason = TrustRefused, fmt.Sprintf(format, args...)
		return out
	}
	if len(a.Certificate) > MaxSize {
		return refuse("%d bytes: more than %d", len(a.Certificate), MaxSize)
	}
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return refuse("not an X.509 certificate: %v", err)
	}
	out.Root = a.Root || selfSigned(c)
	out.Subject, out.Expires = c.Subject.String(), c.NotAfter.UTC()
	kind := otherFolder
	if a.Root {
		kind = rootFolder
	}
	out.Notes = notes(c, kind)
	switch reason := unfit(c, now); {
	case reason != "":
		return refuse("%s", reason)
	case a.Vendor == "":
		return refuse("nothing says which vendor it is of")
	case isTestCA(c) && !test:
		return refuse("the CA of a software TPM, whose keys anybody can copy: no vendor's")
	case insecureSignature(c) && !out.Root:
		return refuse("signed with %v, which proves nothing any more: it could only be trusted as a root", c.SignatureAlgorithm)
	}
	return out
}

// alreadyThere compares what is offered with what is in the store: an import
// changes no anchor, least of all one of a test bench into one of a vendor.
func alreadyThere(out TrustOutcome, before TrustAnchor) TrustOutcome {
	switch {
	case out.Test != before.Test && before.Test:
		out.Reason = "it is in the store as the CA of software TPMs; remove it first"
	case out.Test != before.Test:
		out.Reason = "it is in the store as a vendor's; remove it first"
	case out.Root && !before.Root:
		out.Reason = "it is in the store as an intermediate; remove it first to make it a root"
	default:
		out.Result, out.TrustAnchor = TrustPresent, before
		return out
	}
	out.Result = TrustRefused
	return out
}

// Remove says what taking anchors away would make of t. Thumbprints that are not
// there are an error.
func (t Trust) Remove(thumbprints []string, why string, now time.Time) (TrustChange, []TrustOutcome, error) {
	var change TrustChange
	if err := checkProvenance("source", why); err != nil {
		return change, nil, err
	}
	var gone []TrustAnchor
	var outcomes []TrustOutcome
	for _, print := range thumbprints {
		print = strings.ToUpper(print)
		a, ok := t.Find(print)
		if !ok {
			return change, nil, fmt.Errorf("no certificate with the thumbprint %.64q is in the trust store", print)
		}
		if slices.Contains(change.Remove, print) {
			continue
		}
		change.Remove, gone = append(change.Remove, print), append(gone, a)
		outcomes = append(outcomes, a.removed())
	}
	change.Version = TrustVersion{Time: now, Source: why, Digest: DigestOf(gone)}
	return change, outcomes, nil
}

func (a TrustAnchor) removed() TrustOutcome {
	out := TrustOutcome{TrustAnchor: a, Result: TrustRemoved}
	if c, err := x509.ParseCertificate(a.Certificate); err == nil {
		out.Subject, out.Expires = c.Subject.String(), c.NotAfter.UTC()
	}
	return out
}

// checkProvenance keeps what is written into a history short and printable.
func checkProvenance(what, s string) error {
	switch {
	case len(s) > maxProvenance:
		return fmt.Errorf("%s: has %d bytes; %d are allowed", what, len(s), maxProvenance)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable):
		return fmt.Errorf("%s: is not a printable text", what)
	}
	return nil
}

// A TrustSet is a trust store as policies use it. Its zero value is an empty one.
type TrustSet struct {
	version    int64
	anchors    []trusted
	unreadable int
}

type trusted struct {
	certificate *x509.Certificate
	root, test  bool
	vendor      string
}

// Parse reads the certificates of t. One that cannot be read any more, because
// this program is stricter than the one that took it in, does not count.
func (t Trust) Parse() TrustSet {
	s := TrustSet{version: t.Version}
	for _, a := range t.Anchors {
		c, err := x509.ParseCertificate(a.Certificate)
		if err != nil {
			s.unreadable++
			continue
		}
		s.anchors = append(s.anchors, trusted{c, a.Root, a.Test, a.Vendor})
	}
	return s
}

// Extend returns p with the anchors of s that p refers to, and says in a
// sentence what they are. p is not changed.
func (s TrustSet) Extend(p Policy) (Policy, string) {
	p.Roots, p.Intermediates, p.TestRoots = slices.Clone(p.Roots), slices.Clone(p.Intermediates), slices.Clone(p.TestRoots)
	roots, intermediates, tests := 0, 0, 0
	for _, a := range s.anchors {
		switch {
		case a.test && !p.TrustedTest || !a.test && !p.Trusted:
		case !a.root: // of any vendor: whose root its path ends at is what counts
			p.Intermediates, intermediates = append(p.Intermediates, a.certificate), intermediates+1
		case len(p.Vendors) > 0 && !slices.ContainsFunc(p.Vendors, func(v string) bool { return strings.EqualFold(v, a.vendor) }):
		case a.test:
			p.TestRoots, tests = append(p.TestRoots, a.certificate), tests+1
		default:
			p.Roots, roots = append(p.Roots, a.certificate), roots+1
		}
	}
	said := fmt.Sprintf("version %d counts: %d root(s), %d intermediate(s)", s.version, roots, intermediates)
	if len(p.Vendors) > 0 {
		said += fmt.Sprintf(", the roots of %q", p.Vendors)
	}
	if tests > 0 {
		said += fmt.Sprintf(", and %d root(s) of software TPMs", tests)
	}
	if s.unreadable > 0 {
		said += fmt.Sprintf("; %d certificate(s) cannot be read any more", s.unreadable)
	}
	return p, said
}

// RefersTo reports whether a group goes by the anchor a of its scope's trust
// store, and whether it would go by the same certificate without it.
func RefersTo(g attest.TPMGroup, a TrustAnchor) (refers, pins bool) {
	refers = g.Trusted && !a.Test || g.TrustedTest && a.Test
	if a.Root && len(g.Vendors) > 0 {
		refers = refers && slices.ContainsFunc(g.Vendors, func(v string) bool { return strings.EqualFold(v, a.Vendor) })
	}
	own := slices.Concat(g.Roots, g.TestRoots)
	if !a.Root {
		own = append(own, g.Intermediates...)
	}
	pins = slices.ContainsFunc(own, func(der []byte) bool { return attest.Thumbprint(der) == a.Thumbprint })
	return refers, pins
}

// minRSA is the length in bits of the shortest RSA key that a CA may have.
const minRSA = 2048

// weakKey says why nothing should rely on signatures of c's key, or nothing.
func weakKey(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return ""
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return fmt.Sprintf("its RSA key has %d bits; %d is the least that signatures can be trusted with", bits, minRSA)
		}
		return ""
	}
	return fmt.Sprintf("its key (%v) is neither RSA nor ECC", c.PublicKeyAlgorithm)
}

// insecureSignature reports whether c was signed with a hash that can be
// collided.
func insecureSignature(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}
