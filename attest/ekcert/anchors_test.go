package ekcert_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest/ekcert"
)

func encodePEM(cs ...*x509.Certificate) (b []byte) {
	for _, c := range cs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// A bundle as vendors' roots are handed around is told apart into roots,
// intermediates and what cannot be used, and nothing disappears.
func TestParseAnchors(t *testing.T) {
	root := newCA(t, nil, "Silicon Root")
	lot := newCA(t, root, "Silicon Lot 7")
	cross := newCA(t, newCA(t, nil, "Foreign Root"), "Cross-signed Root")
	other := newCA(t, nil, "Other Root")
	self := newCA(t, nil, "Own Root")
	test := newCA(t, nil, "swtpm-localca-rootca")
	old := newCA(t, nil, "Old Root", func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })
	early := newCA(t, nil, "Early Root", func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) })
	leaf := parse(t, lot.issue(t, newRSA(), shape{})).X509
	rollover := rolledOver(t, root)

	files := map[string][]byte{
		"Silicon/RootCA/Silicon Root.cer":   root.Raw,
		"Silicon/IntermediateCA/Lot 7.crt":  encodePEM(lot.Certificate),
		"Silicon/IntermediateCA/Rolled.crt": rollover.Raw,
		"Silicon/IntermediateCA/Root.crt":   root.Raw,
		"Silicon/IntermediateCA/Own.crt":    append(slices.Clone(self.Raw), '\r', '\n'),
		`cab\Cross\RootCA\Cross.der`:        cross.Raw,
		"Lab/root.pem":                      encodePEM(test.Certificate),
		"bundle.pem":                        append([]byte("# bundle\n"), encodePEM(other.Certificate, leaf, old.Certificate)...),
		"Early/RootCA/Early.cer":            early.Raw,
		"Early/RootCA/Early and more.cer":   append(slices.Clone(root.Raw), "and more"...),
		"version.txt":                       []byte("2026-03\n"),
		"setup.key":                         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{0x30, 0}}),
		"broken.pem":                        pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}),
		"large.cer":                         make([]byte, ekcert.MaxAnchorFile+1),
		"empty.cer":                         nil,
	}
	anchors, skipped, err := ekcert.ParseAnchors(maps.All(files), now)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range anchors {
		if a.SHA256 != sha256.Sum256(a.Certificate.Raw) {
			t.Errorf("%s: the fingerprint is another's", a.Source)
		}
		kind := "intermediate"
		if a.Root {
			kind = "root"
		}
		if a.Test {
			kind = "test " + kind
		}
		got = append(got, fmt.Sprintf("%s | %s | %s | %s | %s", a.Source, a.Certificate.Subject.CommonName, kind, a.Vendor, strings.Join(a.Notes, "; ")))
	}
	want := []string{
		"Lab/root.pem | swtpm-localca-rootca | test root | Lab | the CA of a software TPM",
		"Silicon/IntermediateCA/Lot 7.crt | Silicon Lot 7 | intermediate | Silicon | ",
		"Silicon/IntermediateCA/Own.crt | Own Root | root | Silicon | kept as an intermediate, but signs itself",
		"Silicon/IntermediateCA/Rolled.crt | Silicon Root | intermediate | Silicon | ",
		"Silicon/IntermediateCA/Root.crt | Silicon Root | root | Silicon | kept as an intermediate, but signs itself",
		"bundle.pem | Other Root | root |  | ",
		`cab\Cross\RootCA\Cross.der | Cross-signed Root | root | Cross | kept as a root, but issued by "CN=Foreign Root,O=Some Silicon"`,
	}
	compareLines(t, "anchors", got, want)

	got = nil
	for _, s := range skipped {
		got = append(got, s.Source+" | "+s.Reason)
	}
	want = []string{
		"Early/RootCA/Early and more.cer | 8 bytes follow the certificate",
		"Early/RootCA/Early.cer | not valid before 2026-03-02T12:00:00Z",
		"Silicon/RootCA/Silicon Root.cer | the same certificate as Silicon/IntermediateCA/Root.crt",
		"broken.pem | x509: malformed tbs certificate",
		"bundle.pem#2 | not a CA certificate",
		"bundle.pem#3 | expired at 2026-02-28T12:00:00Z",
		"empty.cer | neither a DER nor a PEM certificate",
		"large.cer | 1048577 bytes: more than 1048576",
		`setup.key | a PEM block of type "PRIVATE KEY"`,
		"version.txt | neither a DER nor a PEM certificate",
	}
	compareLines(t, "skipped", got, want)
}

// rolledOver is a certificate of a new key of root with root's name, signed by
// the old key: self-issued, but not self-signed.
func rolledOver(t *testing.T, root *vendor) *x509.Certificate {
	return newCA(t, root, "Silicon Root").Certificate
}

func compareLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%s lack\n\t%s", what, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s have\n\t%s", what, line)
		}
	}
}

// The anchors of a bundle are those a policy needs.
func TestAnchorsVerify(t *testing.T) {
	w := newWorld(t)
	anchors, _, err := ekcert.ParseAnchors(maps.All(map[string][]byte{
		"Silicon/RootCA/root.cer":        w.root.Raw,
		"Silicon/IntermediateCA/lot.crt": w.issuing.Raw,
	}), now)
	if err != nil {
		t.Fatal(err)
	}
	var policy ekcert.Policy
	for _, a := range anchors {
		if a.Root {
			policy.Roots = append(policy.Roots, a.Certificate)
		} else {
			policy.Intermediates = append(policy.Intermediates, a.Certificate)
		}
	}
	w.policy = policy
	if v := w.verify(t); !v.Accepted() {
		t.Errorf("refused: %+v", v.Findings)
	}
}

func TestParseAnchorsLimit(t *testing.T) {
	var endless iter.Seq2[string, []byte] = func(yield func(string, []byte) bool) {
		for i := 0; yield(fmt.Sprint(i), nil); i++ {
		}
	}
	if _, _, err := ekcert.ParseAnchors(endless, now); err == nil {
		t.Error("a bundle without end is accepted")
	}
}

// No certificate of a bundle is lost: each is an anchor or reported.
func FuzzParseAnchors(f *testing.F) {
	root := newCA(f, nil, "Root")
	f.Add("Silicon/RootCA/root.cer", root.Raw)
	f.Add("root.pem", encodePEM(root.Certificate, root.Certificate))
	f.Add(`\RootCA\`, []byte("version 1"))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		anchors, skipped, err := ekcert.ParseAnchors(maps.All(map[string][]byte{name: b}), now)
		if err != nil {
			return
		}
		if n := bytes.Count(b, []byte("-----BEGIN ")); len(anchors)+len(skipped) > max(n, 1) || len(anchors)+len(skipped) == 0 {
			t.Errorf("%d anchors and %d skipped of %d", len(anchors), len(skipped), n)
		}
	})
}
