package ekcert_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
)

// anchor is a certificate as an operator offers it.
func anchor(c *x509.Certificate) ekcert.TrustAnchor {
	return ekcert.TrustAnchor{Certificate: c.Raw, Vendor: "Silicon", File: "Silicon/RootCA/" + c.Subject.CommonName + ".cer"}
}

// trusting is a store that took all of the anchors in.
func trusting(t testing.TB, test bool, anchors ...ekcert.TrustAnchor) ekcert.Trust {
	t.Helper()
	return imported(t, ekcert.Trust{}, test, anchors...)
}

func imported(t testing.TB, before ekcert.Trust, test bool, anchors ...ekcert.TrustAnchor) ekcert.Trust {
	t.Helper()
	change, outcomes, err := before.Import(ekcert.Offer{Test: test, Anchors: anchors}, now)
	if err != nil || len(change.Add) != len(anchors) {
		t.Fatalf("%+v, %v", outcomes, err)
	}
	return ekcert.Trust{Version: before.Version + 1, Anchors: slices.Concat(before.Anchors, change.Add)}
}

// An rsaCA is a root with an RSA key.
func rsaCA(t testing.TB, bits int, cn string) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: cn}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// sha1Root is a root that signs itself with SHA-1, as old vendors' do, and the
// same with another issuer's name. The library makes no such signatures.
func sha1Root(t testing.TB) (root, intermediate []byte) {
	t.Helper()
	c, key := rsaCA(t, 2048, "Old Root")
	sha256WithRSA, sha1WithRSA := []byte{42, 134, 72, 134, 247, 13, 1, 1, 11}, []byte{42, 134, 72, 134, 247, 13, 1, 1, 5}
	root = bytes.ReplaceAll(c.Raw, sha256WithRSA, sha1WithRSA)
	old, err := x509.ParseCertificate(root)
	if err != nil || old.SignatureAlgorithm != x509.SHA1WithRSA {
		t.Fatal(err)
	}
	sum := sha1.Sum(old.RawTBSCertificate)
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA1, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	copy(root[len(root)-len(signature):], signature)
	intermediate = bytes.Replace(root, []byte("Old Root"), []byte("New Root"), 1) // the issuer's name comes first
	return root, intermediate
}

// What an import takes in, and as what; most of what a stranger, a careless
// operator or an old bundle offers is refused, one reason each.
func TestTrustImport(t *testing.T) {
	root := newCA(t, nil, "Silicon Root")
	lot := newCA(t, root, "Silicon Lot 7")
	cross := newCA(t, newCA(t, nil, "Foreign Root"), "Cross-signed Root")
	bench := newCA(t, nil, "swtpm-localca-rootca")
	benchIssuer := newCA(t, bench, "Lab")
	renamed := newCA(t, nil, "Bench Root")
	with := func(cn string, change func(*x509.Certificate)) *x509.Certificate {
		return newCA(t, root, cn, change).Certificate
	}
	old, oldLot := sha1Root(t)
	short, _ := rsaCA(t, 1024, "Short")
	there := imported(t, trusting(t, false, anchor(root.Certificate), anchor(lot.Certificate)), true, anchor(renamed.Certificate))
	asRoot := func(c *x509.Certificate) ekcert.TrustAnchor { a := anchor(c); a.Root = true; return a }
	of := func(der []byte) ekcert.TrustAnchor { return ekcert.TrustAnchor{Certificate: der, Vendor: "Silicon"} }
	nobodys := anchor(cross.Certificate)
	nobodys.Vendor = ""

	for _, c := range []struct {
		name    string
		offered ekcert.TrustAnchor
		test    bool
		result  ekcert.TrustResult
		root    bool
		reason  string // how it begins
		note    string // part of one
	}{
		{"a root", anchor(cross.Certificate), false, ekcert.TrustAdded, false, "", ""},
		{"one that is kept as a root", asRoot(cross.Certificate), false, ekcert.TrustAdded, true, "", "issued by"},
		{"one that signs itself, whatever is said", anchor(newCA(t, nil, "Own").Certificate), false, ekcert.TrustAdded, true, "", ""},
		{"a root signed with SHA-1", of(old), false, ekcert.TrustAdded, true, "", "SHA1-RSA"},
		{"an intermediate signed with SHA-1, pinned as a root", ekcert.TrustAnchor{Certificate: oldLot, Vendor: "Silicon", Root: true}, false, ekcert.TrustAdded, true, "", "SHA1-RSA"},
		{"a bench's root as such", anchor(bench.Certificate), true, ekcert.TrustAdded, true, "", "software TPM"},
		{"a bench's root with another name as such", anchor(newCA(t, nil, "Lab").Certificate), true, ekcert.TrustAdded, true, "", ""},
		{"a root that is there", anchor(root.Certificate), false, ekcert.TrustPresent, true, "", ""},
		{"an intermediate that is there", anchor(lot.Certificate), false, ekcert.TrustPresent, false, "", ""},
		{"a bench's root that is there", anchor(renamed.Certificate), true, ekcert.TrustPresent, true, "", ""},

		{"an intermediate signed with SHA-1", of(oldLot), false, ekcert.TrustRefused, false, "signed with SHA1-RSA", ""},
		{"a bench's root as a vendor's", anchor(bench.Certificate), false, ekcert.TrustRefused, true, "the CA of a software TPM", ""},
		{"a bench's issuer as a vendor's root", asRoot(benchIssuer.Certificate), false, ekcert.TrustRefused, true, "the CA of a software TPM", ""},
		{"a renamed bench's root that is there, as a vendor's", anchor(renamed.Certificate), false, ekcert.TrustRefused, true, "it is in the store as the CA of software TPMs", ""},
		{"a vendor's root that is there, as a bench's", anchor(root.Certificate), true, ekcert.TrustRefused, true, "it is in the store as a vendor's", ""},
		{"an intermediate that is there, as a root", asRoot(lot.Certificate), false, ekcert.TrustRefused, true, "it is in the store as an intermediate", ""},
		{"of nobody", nobodys, false, ekcert.TrustRefused, false, "nothing says which vendor", ""},
		{"expired", asRoot(with("a", func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) })), false, ekcert.TrustRefused, true, "expired", ""},
		{"not valid yet", asRoot(with("a", func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) })), false, ekcert.TrustRefused, true, "not valid before", ""},
		{"a leaf", asRoot(with("a", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })), false, ekcert.TrustRefused, true, "not a CA certificate", ""},
		{"without basic constraints", asRoot(with("a", func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false })), false, ekcert.TrustRefused, true, "not a CA certificate", ""},
		{"one that may not sign certificates", asRoot(with("a", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })), false, ekcert.TrustRefused, true, "a CA certificate whose key usage", ""},
		{"critical extensions", asRoot(with("a", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})), false, ekcert.TrustRefused, true, "its critical extension 1.2.3", ""},
		{"a short key", anchor(short), false, ekcert.TrustRefused, true, "its RSA key has 1024 bits", ""},
		{"half a certificate", of(root.Raw[:len(root.Raw)/2]), false, ekcert.TrustRefused, false, "not an X.509 certificate", ""},
		{"a certificate and more", of(append(slices.Clone(root.Raw), 0)), false, ekcert.TrustRefused, false, "not an X.509 certificate", ""},
		{"nothing", of(nil), false, ekcert.TrustRefused, false, "not an X.509 certificate", ""},
		{"far too much", of(make([]byte, ekcert.MaxSize+1)), false, ekcert.TrustRefused, false, "8193 bytes", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			change, outcomes, err := there.Import(ekcert.Offer{Source: "a bundle", Test: c.test, Anchors: []ekcert.TrustAnchor{c.offered}}, now)
			if err != nil || len(outcomes) != 1 {
				t.Fatalf("%+v, %v", outcomes, err)
			}
			got := outcomes[0]
			if got.Result != c.result || got.Root != c.root || !strings.HasPrefix(got.Reason, c.reason) || (got.Reason == "") != (c.reason == "") {
				t.Errorf("%s, root %v: %q", got.Result, got.Root, got.Reason)
			}
			if c.note != "" && !strings.Contains(strings.Join(got.Notes, "; "), c.note) {
				t.Errorf("notes %q", got.Notes)
			}
			if added := c.result == ekcert.TrustAdded; added != (len(change.Add) == 1) {
				t.Errorf("the change adds %d", len(change.Add))
			}
			if len(change.Add) == 1 && (change.Add[0].Test != c.test || change.Add[0].Thumbprint != attest.Thumbprint(c.offered.Certificate)) {
				t.Errorf("%+v", change.Add[0])
			}
			if len(change.Remove) != 0 {
				t.Errorf("an import removes %v", change.Remove)
			}
		})
	}
}

// Offers as a whole that are refused, and duplicates within one.
func TestTrustOffers(t *testing.T) {
	root := anchor(newCA(t, nil, "Silicon Root").Certificate)
	for name, o := range map[string]ekcert.Offer{
		"a long source":           {Source: strings.Repeat("a", 513)},
		"a source for a terminal": {Source: "a\x1b[2J"},
		"a vendor for a terminal": {Anchors: []ekcert.TrustAnchor{{Certificate: root.Certificate, Vendor: "a\nb"}}},
		"a file of other bytes":   {Anchors: []ekcert.TrustAnchor{{Certificate: root.Certificate, Vendor: "a", File: "\xff"}}},
	} {
		if _, _, err := (ekcert.Trust{}).Import(o, now); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	full := ekcert.Trust{Anchors: make([]ekcert.TrustAnchor, ekcert.MaxAnchors)}
	if _, _, err := full.Import(ekcert.Offer{Anchors: []ekcert.TrustAnchor{root}}, now); err == nil {
		t.Error("a store grows over its limit")
	}
	change, outcomes, err := (ekcert.Trust{}).Import(ekcert.Offer{Anchors: []ekcert.TrustAnchor{root, root}}, now)
	if err != nil || len(change.Add) != 1 || outcomes[1].Result != ekcert.TrustRefused {
		t.Errorf("twice the same: %+v, %v", outcomes, err)
	}
	if _, outcomes, err := (ekcert.Trust{}).Import(ekcert.Offer{}, now); err != nil || len(outcomes) != 0 {
		t.Errorf("nothing: %v", err)
	}
}

// A bundle has one digest, whatever its order and whatever was there before.
func TestTrustDigest(t *testing.T) {
	a, b := anchor(newCA(t, nil, "A").Certificate), anchor(newCA(t, nil, "B").Certificate)
	digest := func(before ekcert.Trust, anchors ...ekcert.TrustAnchor) string {
		change, _, err := before.Import(ekcert.Offer{Anchors: anchors}, now)
		if err != nil {
			t.Fatal(err)
		}
		return change.Version.Digest
	}
	first := digest(ekcert.Trust{}, a, b)
	if first != digest(trusting(t, false, b), b, a) || first != digest(ekcert.Trust{}, b, a, a) || first != ekcert.DigestOf(trusting(t, false, a, b).Anchors) {
		t.Error("the same certificates have another digest")
	}
	if first == digest(ekcert.Trust{}, a) {
		t.Error("other certificates have the same digest")
	}
	one, h := sha256.Sum256(a.Certificate), sha256.New()
	h.Write(one[:])
	if want := strings.ToUpper(hex.EncodeToString(h.Sum(nil))); digest(ekcert.Trust{}, a) != want {
		t.Errorf("one certificate: %s, want %s", digest(ekcert.Trust{}, a), want)
	}
}

func TestTrustRemove(t *testing.T) {
	a, b := anchor(newCA(t, nil, "A").Certificate), anchor(newCA(t, nil, "B").Certificate)
	store := trusting(t, false, a, b)
	print := store.Anchors[0].Thumbprint
	change, outcomes, err := store.Remove([]string{strings.ToLower(print), print}, "no longer bought", now)
	if err != nil || !slices.Equal(change.Remove, []string{print}) || len(outcomes) != 1 || outcomes[0].Subject == "" ||
		change.Version.Source != "no longer bought" || change.Version.Digest != ekcert.DigestOf(store.Anchors[:1]) {
		t.Errorf("%+v, %+v, %v", change, outcomes, err)
	}
	for _, print := range []string{"", "*", print[:32], strings.Repeat("0", 64)} {
		if _, _, err := store.Remove([]string{store.Anchors[1].Thumbprint, print}, "", now); err == nil {
			t.Errorf("%q is removed", print)
		}
	}
	if _, _, err := store.Remove([]string{print}, "a\tb", now); err == nil {
		t.Error("a reason for a terminal is taken")
	}
}

// A certificate counts below the trust store of a group that refers to it, and
// nowhere else.
func TestVerifyUnderATrustStore(t *testing.T) {
	w := newWorld(t)
	bench := newCA(t, nil, "Bench Root") // renamed, so that only the declaration tells
	benchEK := newRSA()
	benchCertificate := parse(t, bench.issue(t, benchEK, shape{}))
	silicon, lot := anchor(w.root.Certificate), anchor(w.issuing.Certificate)
	other := ekcert.TrustAnchor{Certificate: newCA(t, nil, "Other").Raw, Vendor: "Other"}
	whole := imported(t, trusting(t, false, silicon, lot, other), true, anchor(bench.Certificate))
	rooted := silicon
	rooted.Certificate, rooted.Root = w.issuing.Raw, true

	for _, c := range []struct {
		name   string
		trust  ekcert.Trust
		policy ekcert.Policy
		vendor bool // whether the vendor's TPM comes in
		bench  bool // whether the bench's does
	}{
		{"a group that refers to it", whole, ekcert.Policy{Trusted: true}, true, false},
		{"a group for test benches", whole, ekcert.Policy{TrustedTest: true}, false, true},
		{"a group that takes both", whole, ekcert.Policy{Trusted: true, TrustedTest: true}, true, true},
		{"a group that does not refer to it", whole, ekcert.Policy{}, false, false},
		{"of the vendor, in any case", whole, ekcert.Policy{Trusted: true, Vendors: []string{"SILICON"}}, true, false},
		{"of another vendor", whole, ekcert.Policy{Trusted: true, Vendors: []string{"Other"}}, false, false},
		{"of a vendor without roots", whole, ekcert.Policy{Trusted: true, Vendors: []string{"Nobody"}}, false, false},
		{"vendors without the store", whole, ekcert.Policy{Vendors: []string{"Silicon"}}, false, false},
		{"of another manufacturer", whole, ekcert.Policy{Trusted: true, Manufacturers: manufacturers(t, "ZZZZ")}, false, false},
		{"an empty store", ekcert.Trust{}, ekcert.Policy{Trusted: true, TrustedTest: true}, false, false},
		{"a store without the root", trusting(t, false, lot, other), ekcert.Policy{Trusted: true, TrustedTest: true}, false, false},
		{"a store without the intermediate", trusting(t, false, silicon), ekcert.Policy{Trusted: true}, false, false},
		{"the intermediate pinned as a root", trusting(t, false, rooted), ekcert.Policy{Trusted: true}, true, false},
		{"the root in the store, the intermediate in the group", trusting(t, false, silicon),
			ekcert.Policy{Trusted: true, Intermediates: []*x509.Certificate{w.issuing.Certificate}}, true, false},
		{"all of it as of a test bench, for a group of vendors", trusting(t, true, silicon, lot, anchor(bench.Certificate)), ekcert.Policy{Trusted: true}, false, false},
		{"the group's own root beside it", ekcert.Trust{}, ekcert.Policy{Trusted: true, Roots: []*x509.Certificate{w.root.Certificate},
			Intermediates: []*x509.Certificate{w.issuing.Certificate}}, true, false},
		{"one that cannot be read", ekcert.Trust{Anchors: append(slices.Clone(whole.Anchors), ekcert.TrustAnchor{Root: true})}, ekcert.Policy{Trusted: true}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy, said := c.trust.Parse().Extend(c.policy)
			if said == "" {
				t.Error("it does not say what counts")
			}
			w.policy = policy
			if v := w.verify(t); v.Accepted() != c.vendor {
				t.Errorf("the vendor's: %+v", v.Findings)
			}
			if v := ekcert.Verify(benchCertificate, benchEK, policy, now); v.Accepted() != c.bench {
				t.Errorf("the bench's: %+v", v.Findings)
			}
		})
	}
}

// Extending a policy leaves the policy alone, also where its slices have room.
func TestExtendCopies(t *testing.T) {
	w := newWorld(t)
	own := make([]*x509.Certificate, 0, 8)
	p := ekcert.Policy{Trusted: true, Roots: own}
	set := trusting(t, false, anchor(w.root.Certificate)).Parse()
	first, _ := set.Extend(p)
	second, _ := set.Extend(ekcert.Policy{Roots: own})
	if len(first.Roots) != 1 || len(second.Roots) != 0 || own[:1][0] != nil {
		t.Error("policies share their roots")
	}
}

func TestRefersTo(t *testing.T) {
	root, lot := newCA(t, nil, "Root"), newCA(t, newCA(t, nil, "Above"), "Lot")
	r, l := trusting(t, false, anchor(root.Certificate)).Anchors[0], trusting(t, false, anchor(lot.Certificate)).Anchors[0]
	bench := trusting(t, true, anchor(root.Certificate)).Anchors[0]
	pinning := [][]byte{lot.Raw, root.Raw}
	for _, c := range []struct {
		name         string
		group        attest.TPMGroup
		anchor       ekcert.TrustAnchor
		refers, pins bool
	}{
		{"refers", attest.TPMGroup{Trusted: true}, r, true, false},
		{"does not", attest.TPMGroup{}, r, false, false},
		{"refers and pins", attest.TPMGroup{Trusted: true, Roots: pinning}, r, true, true},
		{"pins alone", attest.TPMGroup{Roots: pinning}, r, false, true},
		{"a root among the intermediates does not count", attest.TPMGroup{Trusted: true, Intermediates: pinning}, r, true, false},
		{"an intermediate among the intermediates", attest.TPMGroup{Trusted: true, Intermediates: pinning}, l, true, true},
		{"its vendor", attest.TPMGroup{Trusted: true, Vendors: []string{"other", "silicon"}}, r, true, false},
		{"another vendor", attest.TPMGroup{Trusted: true, Vendors: []string{"other"}}, r, false, false},
		{"an intermediate helps any vendor", attest.TPMGroup{Trusted: true, Vendors: []string{"other"}}, l, true, false},
		{"vendors' alone", attest.TPMGroup{Trusted: true}, bench, false, false},
		{"test benches alone", attest.TPMGroup{TrustedTest: true}, r, false, false},
		{"test benches", attest.TPMGroup{TrustedTest: true, TestRoots: pinning}, bench, true, true},
	} {
		if refers, pins := ekcert.RefersTo(c.group, c.anchor); refers != c.refers || pins != c.pins {
			t.Errorf("%s: refers %v, pins %v", c.name, refers, pins)
		}
	}
}

// What an import says about a certificate never depends on the others, nothing
// of a stranger's bytes gets in twice, and whatever gets in can be read again.
func FuzzTrustImport(f *testing.F) {
	root := newCA(f, nil, "Silicon Root")
	f.Add(root.Raw, "Silicon", false, false)
	f.Add(newCA(f, nil, "swtpm-localca-rootca").Raw, "Silicon", true, true)
	there := trusting(f, false, anchor(root.Certificate))
	f.Fuzz(func(t *testing.T, der []byte, vendor string, asRoot, test bool) {
		offer := ekcert.Offer{Test: test, Anchors: []ekcert.TrustAnchor{{Certificate: der, Vendor: vendor, Root: asRoot}}}
		change, outcomes, err := there.Import(offer, now)
		if err != nil {
			return
		}
		if len(outcomes) != 1 || (outcomes[0].Result == ekcert.TrustAdded) != (len(change.Add) == 1) {
			t.Fatalf("%+v", outcomes)
		}
		if len(change.Add) == 0 {
			return
		}
		next := ekcert.Trust{Version: 2, Anchors: append(slices.Clone(there.Anchors), change.Add...)}
		if p, _ := next.Parse().Extend(ekcert.Policy{Trusted: true, TrustedTest: true}); len(p.Roots)+len(p.Intermediates)+len(p.TestRoots) != 2 {
			t.Error("what got in cannot be read")
		}
		if again, _, err := next.Import(offer, now); err != nil || len(again.Add) != 0 {
			t.Errorf("it gets in twice: %v", err)
		}
	})
}

// A device costs little below a trust store with all lots of all vendors, and a
// stranger even less.
func BenchmarkVerifyUnderALargeTrustStore(b *testing.B) {
	w := newWorld(b)
	anchors := []ekcert.TrustAnchor{anchor(w.root.Certificate), anchor(w.issuing.Certificate)}
	for range 3000 {
		anchors = append(anchors, anchor(newCA(b, w.root, "Lot "+rand.Text()).Certificate))
	}
	policy, _ := trusting(b, false, anchors...).Parse().Extend(ekcert.Policy{Trusted: true})
	stranger := newCA(b, nil, "Stranger")
	for name, der := range map[string][]byte{
		"admitted": w.issuing.issue(b, w.ek, w.shape), "refused": stranger.issue(b, w.ek, w.shape),
	} {
		c, err := ekcert.Parse(der)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if v := ekcert.Verify(c, w.ek, policy, now); v.Accepted() != (name == "admitted") {
					b.Fatalf("%+v", v.Findings)
				}
			}
		})
	}
}
