package x509id

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// An issuer is a certificate with its key.
type issuer struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// issue makes a certificate signed by parent, or by itself when parent is nil.
// change has the last word on the template.
func issue(t *testing.T, parent *issuer, cn string, change func(*x509.Certificate)) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	self := &issuer{template, key}
	if parent == nil {
		parent = self
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, &key.PublicKey, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{c, key}
}

func ca(c *x509.Certificate) {
	c.BasicConstraintsValid, c.IsCA, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

func all(changes ...func(*x509.Certificate)) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, change := range changes {
			change(c)
		}
	}
}

func expired(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }
func future(c *x509.Certificate)  { c.NotBefore = now.Add(time.Minute) }
func pathLength0(c *x509.Certificate) {
	c.MaxPathLen, c.MaxPathLenZero = 0, true
}
func usage(u x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{u} }
}
func permitted(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, names }
}
func excluded(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.PermittedDNSDomainsCritical, c.ExcludedDNSDomains = true, names }
}

func TestVerifyIndividual(t *testing.T) {
	one, two := issue(t, nil, "dev-1", nil), issue(t, nil, "DEV-1", nil)
	stranger := issue(t, nil, "dev-1", nil)
	late, early := issue(t, nil, "dev-1", expired), issue(t, nil, "dev-1", future)
	server := issue(t, nil, "dev-1", usage(x509.ExtKeyUsageServerAuth))
	client := issue(t, nil, "dev-1", usage(x509.ExtKeyUsageClientAuth))

	for _, c := range []struct {
		name               string
		primary, secondary *issuer
		shown              *issuer
		check              string
	}{
		{"primary", one, two, one, ""},
		{"secondary, in other letters", one, two, two, ""},
		{"for client authentication", client, nil, client, ""},
		{"a stranger with the same name", one, two, stranger, "thumbprint"},
		{"nothing enrolled", nil, nil, one, "thumbprint"},
		{"nothing shown", one, two, nil, "certificate"},
		{"expired", late, nil, late, "validity"},
		{"not yet valid", early, nil, early, "validity"},
		{"for servers only", server, nil, server, "extended key usage"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := VerifyIndividual(raw(c.primary), raw(c.secondary), chain(c.shown), "dev-1", now)
			expect(t, v, c.check)
		})
	}
	t.Run("the enrolled certificate of another name", func(t *testing.T) {
		expect(t, VerifyIndividual(one.Raw, nil, chain(one), "dev-2", now), "common name")
	})
}

func TestVerifyGroup(t *testing.T) {
	root := issue(t, nil, "root", ca)
	inter := issue(t, root, "intermediate", ca)
	leaf := issue(t, inter, "dev-1", nil)
	foreignRoot := issue(t, nil, "root", ca)
	foreignInter := issue(t, foreignRoot, "intermediate", ca)
	foreign := issue(t, foreignInter, "dev-1", nil)
	direct := issue(t, root, "dev-1", nil)
	selfSigned := issue(t, nil, "dev-1", nil)

	narrow := issue(t, root, "narrow", all(ca, pathLength0))
	below := issue(t, narrow, "below", ca)
	tooDeep := issue(t, below, "dev-1", nil)
	notCA := issue(t, root, "not a CA", nil)
	byNotCA := issue(t, notCA, "dev-1", nil)
	noCertSign := issue(t, root, "no certSign", all(ca, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }))
	byNoCertSign := issue(t, noCertSign, "dev-1", nil)
	lateInter := issue(t, root, "late", all(ca, expired))
	byLateInter := issue(t, lateInter, "dev-1", nil)
	serverInter := issue(t, root, "servers", all(ca, usage(x509.ExtKeyUsageServerAuth)))
	byServerInter := issue(t, serverInter, "dev-1", nil)
	site := issue(t, root, "site", all(ca, permitted("site-a.example")))
	notSite := issue(t, root, "not site", all(ca, excluded("site-a.example")))

	group := func(cas ...*issuer) []Authority {
		var as []Authority
		for _, c := range cas {
			as = append(as, Authority{Group: c.Subject.CommonName, Certificate: c.Certificate})
		}
		return as
	}
	for _, c := range []struct {
		name    string
		trusted []Authority
		shown   []*x509.Certificate
		match   int    // index of the deciding authority, -1 when none
		check   string // the finding that refused
	}{
		{"root, chain without the root", group(root), chain(leaf, inter), 0, ""},
		{"root, whole chain", group(root), chain(leaf, inter, root), 0, ""},
		{"root, chain in odd order", group(root), chain(leaf, root, inter), 0, ""},
		{"root, with a stranger among them", group(root), chain(leaf, foreignInter, inter), 0, ""},
		{"intermediate, leaf alone", group(inter), chain(leaf), 0, ""},
		{"intermediate before root", group(root, inter), chain(leaf, inter, root), 1, ""},
		{"signed by the root itself", group(inter, root), chain(direct), 1, ""},
		{"two CAs of one name, the second signed", group(foreignRoot, root), chain(direct), 1, ""},

		{"no groups", nil, chain(leaf, inter, root), -1, "authority"},
		{"root, intermediate missing", group(root), chain(leaf), -1, "authority"},
		{"foreign CA of the same name", group(root), chain(foreign, foreignInter, foreignRoot), -1, "authority"},
		{"foreign leaf under our intermediate's name", group(inter), chain(foreign), -1, "authority"},
		{"our intermediate shown beside a foreign leaf", group(root), chain(foreign, inter, root), -1, "authority"},
		{"self-signed leaf", group(root), chain(selfSigned), -1, "authority"},
		{"nothing shown", group(root), nil, -1, "certificate"},
		{"the CA shows itself", group(root), chain(root), 0, "basic constraints"},
		{"the intermediate shows itself", group(root), chain(inter), 0, "basic constraints"},
		{"path length", group(root), chain(tooDeep, below, narrow), 0, "path"},
		{"path length of the enrolled CA", group(narrow), chain(tooDeep, below), 0, "path"},
		{"issued by a leaf", group(root), chain(byNotCA, notCA), 0, "path"},
		{"issued by an enrolled leaf", group(notCA), chain(byNotCA), 0, "path"},
		{"issued without certSign", group(root), chain(byNoCertSign, noCertSign), 0, "path"},
		{"issued by an enrolled CA without certSign", group(noCertSign), chain(byNoCertSign), 0, "path"},
		{"expired intermediate", group(root), chain(byLateInter, lateInter), 0, "validity"},
		{"expired enrolled CA", group(lateInter), chain(byLateInter), 0, "validity"},
		{"a nearer expired CA is not passed by", group(root, lateInter), chain(byLateInter, lateInter, root), 1, "validity"},
		{"intermediate for servers", group(root), chain(byServerInter, serverInter), 0, "path"},
		{"expired leaf", group(root), chain(issue(t, root, "dev-1", expired)), 0, "validity"},
		{"leaf not yet valid", group(root), chain(issue(t, root, "dev-1", future)), 0, "validity"},
		{"leaf for servers", group(root), chain(issue(t, root, "dev-1", usage(x509.ExtKeyUsageServerAuth))), 0, "path"},
		{"another name", group(root), chain(issue(t, root, "dev-2", nil)), 0, "common name"},
		{"no name", group(root), chain(issue(t, root, "", nil)), 0, "common name"},
		{"name outside the permitted ones", group(root), chain(issue(t, site, "dev-1", nil), site), 0, "name constraints"},
		{"name constraint of the enrolled CA", group(site), chain(issue(t, site, "dev-1", nil)), 0, "name constraints"},
	} {
		t.Run(c.name, func(t *testing.T) {
			match, v := VerifyGroup(c.trusted, c.shown, "dev-1", now)
			expect(t, v, c.check)
			if match != c.match {
				t.Errorf("decided by %d, want %d", match, c.match)
			}
		})
	}

	for id, ok := range map[string]bool{
		"pump.site-a.example": true, "site-a.example": true, "PUMP.Site-A.example": true,
		"pump.site-b.example": false, "xsite-a.example": false, "site-a.example.evil": false,
	} {
		_, v := VerifyGroup(group(root), chain(issue(t, site, id, nil), site), id, now)
		if v.Accepted() != ok {
			t.Errorf("permitted site-a.example: %s accepted: %v", id, v.Accepted())
		}
		_, v = VerifyGroup(group(root), chain(issue(t, notSite, id, nil), notSite), id, now)
		if v.Accepted() == ok {
			t.Errorf("excluded site-a.example: %s accepted: %v", id, v.Accepted())
		}
	}
}

// A stranger's chain has no say in how much work we do.
func TestLongChainsAreNotWalked(t *testing.T) {
	top := issue(t, nil, "ca 0", ca)
	shown := chain(top)
	for range MaxChain {
		top = issue(t, top, "ca", ca)
		shown = append(chain(top), shown...)
	}
	_, v := VerifyGroup(nil, shown, "ca", now)
	expect(t, v, "chain")

	self := issue(t, nil, "loop", ca)
	_, v = VerifyGroup(nil, chain(self, self, self), "loop", now)
	expect(t, v, "authority")
}

// CAs that all have the enrolled one's name, and sign each other with slow keys,
// could keep whoever tries them busy for a second. None of their keys is used.
func TestStrangersKeysCheckNothing(t *testing.T) {
	enrolled := issue(t, nil, "Factory", ca)
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var shown []*x509.Certificate
	for i := range MaxChain {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i)), Subject: pkix.Name{CommonName: "Factory"}, SubjectKeyId: []byte{byte(i)},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		}
		ca(template)
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, c)
	}
	authorities := []Authority{{Group: "line", Certificate: enrolled.Certificate}}
	if got := vouchedFor(authorities, shown); len(got) != 1 {
		t.Errorf("%d certificates can check signatures; only the enrolled one may", len(got))
	}
	began := time.Now()
	match, v := VerifyGroup(authorities, shown, "Factory", now)
	expect(t, v, "authority")
	if took := time.Since(began); match != -1 || took > 250*time.Millisecond {
		t.Errorf("decided by %d after %v", match, took)
	} else {
		t.Logf("refused after %v", took)
	}
}

// What is remembered is bounded, and is good signatures alone.
func TestSignaturesAreRemembered(t *testing.T) {
	var s signatures
	root, other := issue(t, nil, "root", ca), issue(t, nil, "root", ca)
	inter := issue(t, root, "intermediate", ca)
	for range 2 {
		if !s.signs(root.Certificate, inter.Certificate) || s.signs(other.Certificate, inter.Certificate) {
			t.Error("memory changes a verdict")
		}
	}
	if len(s.good) != 1 {
		t.Errorf("%d signatures are remembered", len(s.good))
	}
	for i := range maxKnown {
		s.good[pair{ca: [32]byte{byte(i), byte(i >> 8), 1}}] = true
	}
	if !s.signs(root.Certificate, root.Certificate) || len(s.good) > maxKnown {
		t.Errorf("%d signatures are remembered", len(s.good))
	}
}

func raw(c *issuer) []byte {
	if c == nil {
		return nil
	}
	return c.Raw
}

func chain(cs ...*issuer) []*x509.Certificate {
	var shown []*x509.Certificate
	for _, c := range cs {
		if c != nil {
			shown = append(shown, c.Certificate)
		}
	}
	return shown
}

// expect wants the verdict to be a refusal with the named check among the
// failed ones, or, without a name, acceptance.
func expect(t *testing.T, v attest.Verdict, check string) {
	t.Helper()
	var failed []string
	for _, f := range v.Findings {
		if !f.OK {
			failed = append(failed, f.Check+": "+f.Detail)
		}
	}
	switch {
	case check == "" && !v.Accepted():
		t.Errorf("refused: %q", failed)
	case check != "" && v.Accepted():
		t.Error("accepted")
	case check != "":
		for _, f := range v.Findings {
			if !f.OK && f.Check == check {
				return
			}
		}
		t.Errorf("refused for %q, want for its %s", failed, check)
	}
}
