package ekcert_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

func manufacturers(t testing.TB, names ...string) (ms []ekcert.Manufacturer) {
	t.Helper()
	for _, name := range names {
		m, err := ekcert.ParseManufacturer(name)
		if err != nil {
			t.Fatal(err)
		}
		ms = append(ms, m)
	}
	return ms
}

// A world is a vendor with two CAs, a key and its certificate, and the policy
// that admits them. Each test changes one thing.
type world struct {
	root, issuing *vendor
	ek            *tpm.Public
	shape         shape
	chain         []*x509.Certificate
	policy        ekcert.Policy
	now           time.Time

	issue func(w *world) []byte // nil for the issuing CA
}

func newWorld(t testing.TB) *world {
	w := &world{ek: newRSA(), now: now}
	w.root = newCA(t, nil, "Silicon Root")
	w.issuing = newCA(t, w.root, "Silicon Lot 7")
	intel := manufacturers(t, "INTC")
	w.policy = ekcert.Policy{
		Roots:         []*x509.Certificate{newCA(t, nil, "Other Root").Certificate, w.root.Certificate},
		Intermediates: []*x509.Certificate{w.issuing.Certificate, newCA(t, w.root, "Silicon Lot 8").Certificate},
		Manufacturers: intel,
		Models:        []string{"TGL", "ADL"},
		Firmware:      []ekcert.FirmwareRule{{Manufacturer: intel[0], Model: "ADL", Oldest: "id:00010203"}},
	}
	return w
}

func (w *world) verify(t testing.TB) attest.Verdict {
	t.Helper()
	issue := w.issue
	if issue == nil {
		issue = func(w *world) []byte { return w.issuing.issue(t, w.ek, w.shape) }
	}
	c := parse(t, issue(w))
	c.Chain = w.chain
	return ekcert.Verify(c, w.ek, w.policy, w.now)
}

func change(f func(*x509.Certificate)) func(*world) {
	return func(w *world) { w.shape.change = f }
}

func named(manufacturer, model, version string) func(*world) {
	return func(w *world) {
		w.shape.san = sanOf(separate(tpmName(manufacturer, model, version, asn1.TagUTF8String)...))
	}
}

func TestVerifyAccepts(t *testing.T) {
	for name, change := range map[string]func(*world){
		"as it should be":           func(*world) {},
		"an ECC key":                func(w *world) { w.ek = newECC(t) },
		"no filters":                func(w *world) { w.policy.Manufacturers, w.policy.Models, w.policy.Firmware = nil, nil, nil },
		"newer firmware":            named("id:494E5443", "ADL", "id:00010204"),
		"a model no rule is for":    named("id:494E5443", "TGL", "id:00000001"),
		"a rule for another vendor": func(w *world) { w.policy.Firmware[0].Manufacturer = ekcert.Manufacturer{'S', 'T', 'M'} },
		"the year 9999":             func(w *world) { w.now = time.Date(9990, 1, 1, 0, 0, 0, 0, time.UTC); w.eternal(t) },
		"padding of the manufacturer": func(w *world) {
			named("id:53544D20", "ADL", "id:01")(w)
			w.policy.Manufacturers = manufacturers(t, "STM")
		},
		"intermediate from the device": func(w *world) {
			w.policy.Intermediates = nil
			w.chain = []*x509.Certificate{w.root.Certificate, w.issuing.Certificate}
		},
		"two intermediates from the device": func(w *world) {
			rom := newCA(t, w.issuing, "ROM")
			w.policy.Intermediates = nil
			w.chain = []*x509.Certificate{rom.Certificate, w.issuing.Certificate}
			w.issuing = rom
		},
		"strangers beside the intermediate": func(w *world) {
			for range ekcert.MaxChain {
				w.chain = append(w.chain, newCA(t, nil, "Stranger").Certificate)
			}
		},
		"an intermediate as the anchor": func(w *world) {
			w.policy.Roots, w.policy.Intermediates = []*x509.Certificate{w.issuing.Certificate}, nil
		},
		"issued by the root": func(w *world) { w.issuing = w.root },
		"an intermediate for EK certificates only": func(w *world) {
			w.limited(t, asn1.ObjectIdentifier{2, 23, 133, 8, 1})
		},
		"a production root when test roots are declared": func(w *world) {
			w.policy.TestRoots = []*x509.Certificate{newCA(t, nil, "swtpm-localca-rootca").Certificate}
		},
		"more extended key usages": change(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{2, 23, 133, 8, 3})
		}),
		"an unknown extension that is not critical": change(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: []byte{5, 0}})
		}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			change(w)
			v := w.verify(t)
			if !v.Accepted() {
				t.Errorf("refused: %+v", v.Findings)
			}
			for _, f := range v.Findings {
				if !f.OK {
					t.Errorf("accepted, but %s: %s", f.Check, f.Detail)
				}
			}
		})
	}
}

// eternal gives both CAs certificates without an end.
func (w *world) eternal(t testing.TB) {
	forGood := func(c *x509.Certificate) { c.NotAfter = forever }
	w.root = newCA(t, nil, "Silicon Root", forGood)
	w.issuing = newCA(t, w.root, "Silicon Lot 7", forGood)
	w.policy.Roots = []*x509.Certificate{w.root.Certificate}
	w.policy.Intermediates = []*x509.Certificate{w.issuing.Certificate}
}

// reissue gives the issuing CA another certificate.
func (w *world) reissue(t testing.TB, change func(*x509.Certificate)) {
	w.issuing = newCA(t, w.root, "Silicon Lot 7", change)
	w.policy.Intermediates = []*x509.Certificate{w.issuing.Certificate}
}

func (w *world) limited(t testing.TB, usage asn1.ObjectIdentifier) {
	w.reissue(t, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{usage} })
}

func TestVerifyRefuses(t *testing.T) {
	unknown := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}
	for _, test := range []struct {
		name   string
		change func(*world)
		check  string // the finding that must refuse
		detail string // and what it must say
	}{
		// The chain.
		{"foreign root", func(w *world) { w.root = newCA(t, nil, "Foreign Root"); w.reissue(t, func(*x509.Certificate) {}) },
			"chain", "no path"},
		{"no root", func(w *world) { w.policy.Roots = nil }, "chain", "no path"},
		{"the right name, the wrong key", func(w *world) { w.issuing = newCA(t, newCA(t, nil, "Silicon Root"), "Silicon Lot 7") },
			"chain", "no path"},
		{"a root with the right name, shown by the device", func(w *world) {
			fake := newCA(t, nil, "Silicon Root")
			w.issuing = newCA(t, fake, "Silicon Lot 7")
			w.chain = []*x509.Certificate{w.issuing.Certificate, fake.Certificate}
		}, "chain", "no path"},
		{"the pinned root as an intermediate only", func(w *world) {
			w.policy.Roots = nil
			w.policy.Intermediates = append(w.policy.Intermediates, w.root.Certificate)
		}, "chain", "no path"},
		{"intermediate missing", func(w *world) { w.policy.Intermediates = nil }, "chain", "Silicon Lot 7"},
		{"more certificates than a chain has", func(w *world) {
			w.chain = slices.Repeat([]*x509.Certificate{w.issuing.Certificate}, ekcert.MaxChain+1)
		}, "chain", "9 certificates were shown"},
		{"root expired", func(w *world) { w.now = now.AddDate(11, 0, 0) }, "chain", "expired"},
		{"intermediate expired", func(w *world) {
			w.reissue(t, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) })
		}, "chain", "expired"},
		{"intermediate is no CA", func(w *world) { w.reissue(t, func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = 0 }) },
			"chain", "parent certificate cannot sign"},
		{"intermediate may not sign", func(w *world) {
			w.reissue(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
		}, "chain", "no path"},
		{"intermediate for attestation keys only", func(w *world) { w.limited(t, asn1.ObjectIdentifier{2, 23, 133, 8, 3}) },
			"chain", "may not issue endorsement key certificates"},
		{"intermediate for servers only", func(w *world) {
			w.reissue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		}, "chain", "may not issue endorsement key certificates"},
		{"intermediate with an unknown critical extension", func(w *world) {
			w.reissue(t, func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{unknown} })
		}, "chain", "unhandled critical extension"},
		{"path too long", func(w *world) {
			w.root = newCA(t, nil, "Silicon Root", func(c *x509.Certificate) { c.MaxPathLenZero = true })
			w.policy.Roots = []*x509.Certificate{w.root.Certificate}
			w.reissue(t, func(*x509.Certificate) {})
		}, "chain", "too many intermediates"},
		{"issued by another TPM's key", func(w *world) {
			// A TPM that could sign certificates would vouch for all others.
			tpmCA := newCA(t, w.issuing, "TPM", func(c *x509.Certificate) {
				c.IsCA, c.KeyUsage = false, x509.KeyUsageKeyAgreement
				c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}
			})
			w.chain = []*x509.Certificate{tpmCA.Certificate}
			w.issuing = tpmCA
		}, "chain", "no path"},
		{"the certificate itself pinned", func(w *world) {
			der := w.issuing.issue(t, w.ek, w.shape)
			w.issue = func(*world) []byte { return der }
			w.policy.Roots, w.policy.Intermediates = []*x509.Certificate{parse(t, der).X509}, nil
		}, "chain", "no path"},
		{"the certificate itself pinned, its own issuer by name", func(w *world) {
			w.shape.subject = w.issuing.Subject
			der := w.issuing.issue(t, w.ek, w.shape)
			w.issue = func(*world) []byte { return der }
			w.policy.Roots = []*x509.Certificate{parse(t, der).X509}
		}, "chain", "itself among the roots"},
		{"self-signed", func(w *world) {
			w.issue = func(w *world) []byte { return newCA(t, nil, "TPM").issue(t, w.ek, w.shape) }
		}, "chain", "no path"},

		// Software TPMs.
		{"swtpm's root pinned by mistake", func(w *world) {
			w.root = newCA(t, nil, "swtpm-localca-rootca")
			w.issuing = newCA(t, w.root, "swtpm-localca")
			w.policy.Roots, w.policy.Intermediates = []*x509.Certificate{w.root.Certificate}, []*x509.Certificate{w.issuing.Certificate}
		}, "test root", "not a test root"},
		{"swtpm's CA signed by a production root", func(w *world) {
			w.issuing = newCA(t, w.root, "swtpm-localca")
			w.policy.Intermediates = []*x509.Certificate{w.issuing.Certificate}
		}, "test root", "not a test root"},
		{"swtpm's manufacturer below a production root", func(w *world) {
			named("id:00001014", "swtpm", "id:20191023")(w)
			w.policy.Manufacturers, w.policy.Models = nil, nil
		}, "test root", "id:00001014"},
		{"a test root that is not declared", func(w *world) {
			w.root = newCA(t, nil, "Lab Root")
			w.reissue(t, func(*x509.Certificate) {})
			w.policy.TestRoots = []*x509.Certificate{newCA(t, nil, "Lab Root").Certificate}
		}, "chain", "no path"},

		// The certificate.
		{"expired", change(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), "validity", "it expired at"},
		{"not valid yet", change(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }), "validity", "not valid before"},
		{"no extended key usage", change(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), "extended key usage", "is missing"},
		{"any extended key usage", change(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}), "extended key usage", "is missing"},
		{"an attestation key certificate", change(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		}), "extended key usage", "is missing"},
		{"a platform certificate", change(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 2}}
		}), "extended key usage", "is missing"},
		{"a CA", change(func(c *x509.Certificate) { c.IsCA = true }), "basic constraints", "a CA certificate"},
		{"no key usage", change(func(c *x509.Certificate) { c.KeyUsage = 0 }), "key usage", "keyEncipherment"},
		{"RSA with the key usage of ECC", change(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }),
			"key usage", "keyEncipherment"},
		{"ECC with the key usage of RSA", func(w *world) {
			w.ek = newECC(t)
			w.shape.change = func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }
		}, "key usage", "keyAgreement"},
		{"a key that signs certificates", change(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
			"key usage", "may sign certificates"},
		{"another critical extension", change(func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, unknown) }),
			"critical extensions", "1.2.3.4"},
		{"another critical extension alone", func(w *world) {
			w.shape.sanFalse, w.shape.subject = true, pkix.Name{CommonName: "TPM"}
			w.shape.change = func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, unknown) }
		}, "critical extensions", "1.2.3.4"},

		// The key.
		{"another RSA key", func(w *world) {
			der := w.issuing.issue(t, newRSA(), w.shape)
			w.issue = func(*world) []byte { return der }
		}, "endorsement key", "for another key"},
		{"another ECC key", func(w *world) {
			w.ek = newECC(t)
			der := w.issuing.issue(t, newECC(t), w.shape)
			w.issue = func(*world) []byte { return der }
		}, "endorsement key", "for another key"},
		{"an RSA key with the certificate of an ECC key", func(w *world) {
			der := w.issuing.issue(t, newECC(t), w.shape)
			w.issue = func(*world) []byte { return der }
		}, "endorsement key", "for another key"},
		{"an RSAES-OAEP certificate of another key", func(w *world) {
			der := w.issuing.asOAEP(t, w.issuing.issue(t, newRSA(), w.shape))
			w.issue = func(*world) []byte { return der }
		}, "endorsement key", "for another key"},
		{"the certified key with the attributes of a software key", func(w *world) { w.ek.Attributes &^= tpm.FixedTPM },
			"endorsement key", "fixedTPM"},
		{"a modulus of the weak generator", func(w *world) { w.ek = rsaEK(weakModulus()) }, "key generation", "CVE-2017-15361"},

		// What the certificate says.
		{"no subjectAltName", func(w *world) { w.shape.san = []byte{}; w.shape.subject = pkix.Name{CommonName: "TPM"} },
			"manufacturer", "names no TPM manufacturer"},
		{"a subjectAltName without a TPM", func(w *world) {
			w.shape.san = sanOf(separate(attribute{asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("TPM")}}))
		}, "critical extensions", "2.5.29.17"},
		{"the TPM in the subject", func(w *world) {
			w.shape.san = []byte{}
			for i, text := range []string{"id:494E5443", "ADL", "id:00010203"} {
				w.shape.subject.ExtraNames = append(w.shape.subject.ExtraNames,
					pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 23, 133, 2, i + 1}, Value: text})
			}
		}, "manufacturer", "names no TPM manufacturer"},
		{"another manufacturer", named("id:494E5444", "ADL", "id:00010203"), "manufacturer", "not among"},
		{"no manufacturer at all", named("id:00000000", "ADL", "id:00010203"), "manufacturer", "names no TPM manufacturer"},
		{"another model", named("id:494E5443", "adl", "id:00010203"), "model", `"adl" is not among`},
		{"no model", func(w *world) {
			w.shape.san = sanOf(separate(attributeOf(1, "id:494E5443", asn1.TagUTF8String)))
		}, "model", "not among"},
		{"old firmware", named("id:494E5443", "ADL", "id:00010202"), "firmware", "older than"},
		{"firmware counted in another way", named("id:494E5443", "ADL", "id:0002"), "firmware", "cannot be compared"},
		{"firmware that is no number", named("id:494E5443", "ADL", "9.9.9.9"), "firmware", "cannot be compared"},
		{"no firmware", func(w *world) {
			w.shape.san = sanOf(separate(tpmName("id:494E5443", "ADL", "", asn1.TagUTF8String)[:2]...))
		}, "firmware", "cannot be compared"},
		{"a rule nothing can be compared with", func(w *world) { w.policy.Firmware[0].Oldest = "7.63" }, "firmware", "cannot be compared"},
		{"the second of two rules", func(w *world) {
			w.policy.Firmware = append(w.policy.Firmware, ekcert.FirmwareRule{Manufacturer: w.policy.Manufacturers[0], Oldest: "id:00020000"})
		}, "firmware", "older than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			test.change(w)
			v := w.verify(t)
			if v.Accepted() {
				t.Fatalf("accepted: %+v", v.Findings)
			}
			if v.Refusal.Kind != errs.Denied || v.Refusal.Message != "Invalid endorsement key certificate." {
				t.Errorf("a stranger sees %v, %q", v.Refusal.Kind, v.Refusal.Message)
			}
			if !slices.ContainsFunc(v.Findings, func(f attest.Finding) bool {
				return !f.OK && f.Check == test.check && strings.Contains(f.Detail, test.detail)
			}) {
				t.Errorf("no finding of %q says %q: %+v", test.check, test.detail, v.Findings)
			}
		})
	}
}

func TestVerifyNothing(t *testing.T) {
	w := newWorld(t)
	c := parse(t, w.issuing.issue(t, w.ek, w.shape))
	for name, v := range map[string]attest.Verdict{
		"no certificate":       ekcert.Verify(nil, w.ek, w.policy, now),
		"an empty certificate": ekcert.Verify(&ekcert.Certificate{}, w.ek, w.policy, now),
		"no key":               ekcert.Verify(c, nil, w.policy, now),
		"an empty key":         ekcert.Verify(c, &tpm.Public{}, w.policy, now),
		"an empty policy":      ekcert.Verify(c, w.ek, ekcert.Policy{}, now),
	} {
		if v.Accepted() {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Judging leaves the certificate and the policy as they were: other goroutines
// use them at the same time.
func TestVerifyChangesNothing(t *testing.T) {
	w := newWorld(t)
	c := parse(t, w.issuing.issue(t, w.ek, w.shape))
	c.Chain = []*x509.Certificate{w.root.Certificate}
	w.policy.Intermediates = append(make([]*x509.Certificate, 0, 8), w.policy.Intermediates...)
	n := len(w.policy.Intermediates)
	for range 2 {
		if v := ekcert.Verify(c, w.ek, w.policy, now); !v.Accepted() {
			t.Fatalf("refused: %+v", v.Findings)
		}
	}
	if len(c.X509.UnhandledCriticalExtensions) != 1 {
		t.Errorf("unhandled critical extensions are now %v", c.X509.UnhandledCriticalExtensions)
	}
	if spare := w.policy.Intermediates[: n+1 : n+1][n]; spare != nil {
		t.Errorf("%q was written behind the policy's intermediates", spare.Subject)
	}
}

// The findings of a certificate with many faults name all of them.
func TestVerifyTellsAll(t *testing.T) {
	w := newWorld(t)
	w.policy.Roots = nil
	named("id:53544D20", "ST33", "id:01")(w)
	w.shape.change = func(c *x509.Certificate) { c.UnknownExtKeyUsage, c.KeyUsage, c.NotAfter = nil, 0, now.Add(-time.Hour) }
	v := w.verify(t)
	var refused []string
	for _, f := range v.Findings {
		if !f.OK {
			refused = append(refused, f.Check)
		}
	}
	want := []string{"chain", "validity", "extended key usage", "key usage", "manufacturer", "model"}
	if !slices.Equal(refused, want) {
		t.Errorf("findings against it are %q, want %q", refused, want)
	}
}

func TestPolicyCheck(t *testing.T) {
	w := newWorld(t)
	if err := w.policy.Check(); err != nil {
		t.Errorf("a good policy: %v", err)
	}
	if err := (ekcert.Policy{TestRoots: []*x509.Certificate{newCA(t, nil, "swtpm-localca-rootca").Certificate}}).Check(); err != nil {
		t.Errorf("a policy of a test bench: %v", err)
	}
	leaf := parse(t, w.issuing.issue(t, w.ek, shape{}))
	bad := ekcert.Policy{
		Roots:         []*x509.Certificate{leaf.X509, newCA(t, nil, "swtpm-localca-rootca").Certificate},
		Manufacturers: make([]ekcert.Manufacturer, 1),
		Firmware:      []ekcert.FirmwareRule{{Manufacturer: w.policy.Manufacturers[0], Oldest: "7.63"}},
	}
	err := bad.Check()
	if err == nil {
		t.Fatal("a bad policy is accepted")
	}
	for _, want := range []string{"not a CA certificate", "a test root", "a manufacturer is empty", `INTC is "7.63"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if err := (ekcert.Policy{}).Check(); err == nil || !strings.Contains(err.Error(), "no root is pinned") {
		t.Errorf("an empty policy: %v", err)
	}
}

// weakModulus makes a modulus of 2048 bits as the generator of CVE-2017-15361
// does: of two numbers k·M + (65537^a mod M). That they are hardly primes does not
// show.
func weakModulus() []byte {
	m := big.NewInt(1)
	for n, p := 0, int64(2); n < 126; p++ {
		if big.NewInt(p).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(p))
			n++
		}
	}
	factor := func(a int64) *big.Int {
		k := new(big.Int).Lsh(big.NewInt(1), 1024)
		k.Sub(k, big.NewInt(1)).Div(k, m).Sub(k, big.NewInt(a))
		return k.Mul(k, m).Add(k, new(big.Int).Exp(big.NewInt(65537), big.NewInt(a), m))
	}
	return new(big.Int).Mul(factor(11), factor(71)).Bytes()
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	c := parse(b, w.issuing.issue(b, w.ek, w.shape))
	for range 50 {
		w.policy.Roots = append(w.policy.Roots, newCA(b, nil, "Another Root").Certificate)
	}
	for range 500 {
		w.policy.Intermediates = append(w.policy.Intermediates, w.policy.Roots[0])
	}
	for b.Loop() {
		if v := ekcert.Verify(c, w.ek, w.policy, now); !v.Accepted() {
			b.Fatal(v.Refusal)
		}
	}
}
