package ekcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"
)

// An authority is a CA with its key.
type authority struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// newAuthority makes a CA that by signs under the name issuer.
func newAuthority(t *testing.T, name, issuer string, by *ecdsa.PrivateKey) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: start, NotAfter: start.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: issuer}}, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{c, key}
}

// Of what a stranger shows, nothing is searched but what leads up to a pinned
// certificate.
func TestOnlyCertificatesBelowAPinnedOneAreUsed(t *testing.T) {
	root := newAuthority(t, "Root", "Root", nil)
	pinned := newAuthority(t, "Pinned", "Elsewhere", nil)
	one := newAuthority(t, "One", "Root", root.key)
	two := newAuthority(t, "Two", "One", one.key)
	three := newAuthority(t, "Three", "Two", two.key)
	other := newAuthority(t, "Other", "Pinned", pinned.key)
	posing := newAuthority(t, "Two", "One", nil)       // signed by nobody of that name
	posingRoot := newAuthority(t, "Root", "Root", nil) // which has the root's name
	underIt := newAuthority(t, "Four", "Root", posingRoot.key)

	// Eight with one name, each signed by the next.
	mesh := []*x509.Certificate{}
	last := newAuthority(t, "Mesh", "Mesh", nil)
	for range 8 {
		last = newAuthority(t, "Mesh", "Mesh", last.key)
		mesh = append(mesh, last.Certificate)
	}
	for _, c := range []struct {
		name        string
		shown, want []*x509.Certificate
	}{
		{"nothing", nil, nil},
		{"in order", []*x509.Certificate{one.Certificate, two.Certificate, three.Certificate}, []*x509.Certificate{one.Certificate, two.Certificate, three.Certificate}},
		{"the other way round", []*x509.Certificate{three.Certificate, two.Certificate, one.Certificate}, []*x509.Certificate{one.Certificate, two.Certificate, three.Certificate}},
		{"with a gap", []*x509.Certificate{three.Certificate, one.Certificate}, []*x509.Certificate{one.Certificate}},
		{"below a pinned intermediate", []*x509.Certificate{other.Certificate}, []*x509.Certificate{other.Certificate}},
		{"the root itself", []*x509.Certificate{root.Certificate}, []*x509.Certificate{root.Certificate}},
		{"with the right names alone", []*x509.Certificate{posing.Certificate, posingRoot.Certificate, underIt.Certificate}, nil},
		{"a mesh", mesh, nil},
	} {
		before := slices.Clone(c.shown)
		if got := below([]*x509.Certificate{root.Certificate, pinned.Certificate}, c.shown); !slices.Equal(got, c.want) {
			t.Errorf("%s: %d are used, want %d", c.name, len(got), len(c.want))
		}
		if !slices.Equal(before, c.shown) {
			t.Errorf("%s: what was shown has changed", c.name)
		}
	}
}
