package enroll

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
)

// An authority is a certificate with its key.
type authority struct {
	*x509.Certificate
	key crypto.Signer
}

// issue makes a certificate signed by parent, or by itself when parent is nil.
// change has the last word on the template.
func issue(t *testing.T, parent *authority, name string, change func(*x509.Certificate)) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issueFor(t, key, parent, name, change)
}

func issueFor(t *testing.T, key crypto.Signer, parent *authority, name string, change func(*x509.Certificate)) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	if parent == nil {
		parent = &authority{template, key}
	}
	signer := *parent.Certificate
	signer.PublicKey = nil // what a forger signs with is not held against it
	der, err := x509.CreateCertificate(rand.Reader, template, &signer, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{c, key}
}

func isCA(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }

// byMD5 returns c as its RSA issuer would have signed it in the last century.
func byMD5(t *testing.T, c *authority, issuer crypto.Signer) *authority {
	t.Helper()
	sha256WithRSA := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11}
	md5WithRSA := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4}
	tbs := bytes.Replace(c.RawTBSCertificate, sha256WithRSA, md5WithRSA, 1)
	digest := md5.Sum(tbs)
	signature, err := issuer.Sign(rand.Reader, digest[:], crypto.MD5)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: tbs},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{forged, nil}
}

func TestCheckPossession(t *testing.T) {
	const code = "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF"
	ca := issue(t, nil, "Plant CA", isCA)
	namesake := issue(t, nil, "Plant CA", isCA)
	below := issue(t, ca, "Line CA", isCA)
	leaf := issue(t, ca, "pump-7", nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old := issueFor(t, rsaKey, nil, "Old CA", isCA)
	expiredCA := issue(t, nil, "Expired CA", func(c *x509.Certificate) { isCA(c); c.NotAfter = now.Add(-attest.Skew - time.Second) })
	codeCA := issue(t, nil, code, isCA)
	withNames := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject = pkix.Name{}
			for _, n := range names {
				c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: oidCommonName, Value: n})
			}
		}
	}

	for _, c := range []struct {
		name  string
		ca    *authority
		proof *authority
		code  string
		want  string // part of the refusal, empty when it proves it
	}{
		{"signed by the CA", ca, issue(t, ca, code, nil), code, ""},
		{"among other names", ca, issue(t, ca, code, func(c *x509.Certificate) { c.Subject.Organization = []string{"Plant"} }), code, ""},
		{"by an RSA key", old, issue(t, old, code, nil), code, ""},
		{"by an intermediate that is kept itself", below, issue(t, below, code, nil), code, ""},
		{"made by a clock ahead of ours", ca, issue(t, ca, code, func(c *x509.Certificate) { c.NotBefore = now.Add(attest.Skew) }), code, ""},
		{"expired within the skew", ca, issue(t, ca, code, func(c *x509.Certificate) { c.NotAfter = now.Add(-attest.Skew) }), code, ""},
		{"signed anew by itself, with the CA's key", ca, issueFor(t, ca.key, ca, code, nil), code, ""},

		{"no code", ca, issue(t, ca, "", nil), "", "no verification code was asked for"},
		{"a device of the CA", ca, leaf, code, `has the subject "CN=pump-7"`},
		{"a code before this one", ca, issue(t, ca, strings.Repeat("0", 48), nil), code, "must be the verification code that was made last"},
		{"the code in other letters", ca, issue(t, ca, strings.ToLower(code), nil), code, "verification code"},
		{"the code with a blank", ca, issue(t, ca, code+" ", nil), code, "verification code"},
		{"the beginning of the code", ca, issue(t, ca, code[:47], nil), code, "verification code"},
		{"the code last of two names", ca, issue(t, ca, "", withNames("pump-7", code)), code, "verification code"},
		{"the code first of two names", ca, issue(t, ca, "", withNames(code, "pump-7")), code, "verification code"},
		{"the code as organization", ca, issue(t, ca, "", func(c *x509.Certificate) { c.Subject.Organization = []string{code} }), code, "verification code"},
		{"the code as alternative name", ca, issue(t, ca, "", func(c *x509.Certificate) { c.DNSNames = []string{code} }), code, "verification code"},
		{"no subject", ca, issue(t, ca, "", nil), code, "verification code"},

		{"the CA itself", ca, ca, code, "is the CA certificate itself"},
		{"the CA itself, named like the code", codeCA, codeCA, code, "is the CA certificate itself"},
		{"signed by itself", ca, issue(t, nil, code, nil), code, `was issued by`},
		{"signed by another CA", ca, issue(t, issue(t, nil, "Other CA", isCA), code, nil), code, `was issued by "CN=Other CA"`},
		{"signed by a namesake", ca, issue(t, namesake, code, nil), code, "was not signed by the key"},
		{"signed by the leaf in the CA's name", ca, issue(t, &authority{ca.Certificate, leaf.key}, code, nil), code, "was not signed by the key"},
		{"signed one step below", ca, issue(t, below, code, nil), code, `was issued by "CN=Line CA"`},
		{"signed by the CA's key in another name", ca, issue(t, &authority{below.Certificate, ca.key}, code, nil), code, "was issued by"},
		{"altered", ca, altered(t, issue(t, ca, code, nil)), code, "was not signed by the key"},
		{"signed with SHA-1", old, issue(t, old, code, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }), code, "insecure algorithm SHA1"},
		{"signed with MD5", old, byMD5(t, issue(t, old, code, nil), rsaKey), code, "insecure algorithm MD5"},
		{"a CA that must not sign", issue(t, nil, "Idle CA", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCRLSign }), nil, code, "was not signed by the key"},
		{"no CA", leaf, issue(t, leaf, code, nil), code, "was not signed by the key"},

		{"expired", ca, issue(t, ca, code, func(c *x509.Certificate) { c.NotAfter = now.Add(-attest.Skew - time.Second) }), code, "expired at"},
		{"of tomorrow", ca, issue(t, ca, code, func(c *x509.Certificate) { c.NotBefore = now.Add(attest.Skew + time.Second) }), code, "is not valid before"},
		{"of an expired CA", expiredCA, issue(t, expiredCA, code, nil), code, `"CN=Expired CA" expired at`},
	} {
		t.Run(c.name, func(t *testing.T) {
			proof := c.proof
			if proof == nil {
				proof = issue(t, c.ca, c.code, nil)
			}
			err := CheckPossession(c.ca.Certificate, proof.Certificate, c.code, now)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

// altered returns c with another serial number under the same signature.
func altered(t *testing.T, c *authority) *authority {
	t.Helper()
	der := bytes.Replace(c.Raw, []byte{0x02, 1, 1}, []byte{0x02, 1, 2}, 1)
	changed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{changed, nil}
}

func TestUploadCACertificate(t *testing.T) {
	yes, no := true, false
	ca, other := issue(t, nil, "Plant CA", isCA), issue(t, nil, "Plant CA", isCA)
	stored := func(verified bool) *CACertificate {
		return &CACertificate{Scope: "0ne00111111", Name: "Plant", Certificate: ca.Raw, Verified: verified, VerificationCode: "CODE",
			ETag: "one", Created: now.Add(-time.Hour), Updated: now.Add(-time.Hour)}
	}
	for _, c := range []struct {
		name     string
		old      *CACertificate
		der      []byte
		verified *bool
		match    func(string) bool
		want     bool // verified
		code     string
	}{
		{"new", nil, ca.Raw, nil, nil, false, ""},
		{"new, to be proved", nil, ca.Raw, &no, nil, false, ""},
		{"new and verified", nil, ca.Raw, &yes, nil, true, ""},
		{"the same again", stored(true), ca.Raw, nil, is("one"), true, "CODE"},
		{"the same, not proved yet", stored(false), ca.Raw, nil, anyTag, false, "CODE"},
		{"the same, verified now", stored(false), ca.Raw, &yes, anyTag, true, ""},
		{"the same, its proof taken back", stored(true), ca.Raw, &no, anyTag, false, ""},
		{"another one", stored(true), other.Raw, nil, anyTag, false, ""},
		{"another one, verified", stored(false), other.Raw, &yes, anyTag, true, ""},
		{"another one, to be proved", stored(true), other.Raw, &no, anyTag, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			next, err := UploadCACertificate(c.old, Upload{"0ne00111111", "PLANT", c.der, c.verified}, c.match, now, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if next.Verified != c.want || next.VerificationCode != c.code || !bytes.Equal(next.Certificate, c.der) {
				t.Errorf("verified %v with code %q, want %v and %q", next.Verified, next.VerificationCode, c.want, c.code)
			}
			if next.Key() != "plant" || len(next.ETag) != 36 || !next.Updated.Equal(now) {
				t.Errorf("%+v", next)
			}
			if c.old != nil && (next.Name != "Plant" || !next.Created.Equal(c.old.Created)) || c.old == nil && !next.Created.Equal(now) {
				t.Errorf("%+v", next)
			}
		})
	}

	for _, c := range []struct {
		name  string
		old   *CACertificate
		id    string
		der   []byte
		match func(string) bool
		kind  errs.Kind
		want  string
	}{
		{"there already", stored(true), "plant", ca.Raw, nil, errs.Conflict, `The CA certificate "Plant" exists already.`},
		{"not there", nil, "plant", ca.Raw, anyTag, errs.NotFound, "CA certificate not found."},
		{"changed meanwhile", stored(true), "plant", ca.Raw, is("zero"), errs.Precondition, "The etag"},
		{"no name", nil, "", ca.Raw, nil, errs.Invalid, "name: is empty"},
		{"a path as name", nil, "a/b", ca.Raw, nil, errs.Invalid, "name: has '/' at position 2"},
		{"a name beyond ASCII", nil, "Grün", ca.Raw, nil, errs.Invalid, "name: has 'ü' at position 3"},
		{"a name that is no UTF-8", nil, "a\xff", ca.Raw, nil, errs.Invalid, "name: has "},
		{"a directory as name", nil, ".", ca.Raw, nil, errs.Invalid, "name: has nothing but dots"},
		{"a long name", nil, strings.Repeat("a", 257), ca.Raw, nil, errs.Invalid, "name: has 257 characters"},
		{"no certificate", nil, "plant", nil, nil, errs.Invalid, "certificate: is missing"},
		{"no certificate any more", stored(true), "plant", nil, anyTag, errs.Invalid, "certificate: is missing"},
		{"junk", nil, "plant", []byte("certificate"), nil, errs.Invalid, "certificate: is not an X.509 certificate"},
		{"two certificates", nil, "plant", append(bytes.Clone(ca.Raw), other.Raw...), nil, errs.Invalid, "certificate: is not an X.509 certificate"},
		{"a leaf", nil, "plant", issue(t, ca, "pump-7", nil).Raw, nil, errs.Invalid, `certificate: "CN=pump-7" is not a CA certificate`},
		{"without basic constraints", nil, "plant", issue(t, ca, "pump-7", func(c *x509.Certificate) { c.BasicConstraintsValid = false }).Raw, nil, errs.Invalid, `certificate: "CN=pump-7" is not a CA certificate`},
		{"must not sign", nil, "plant", issue(t, nil, "Idle CA", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCRLSign }).Raw, nil, errs.Invalid, `certificate: "CN=Idle CA" must not sign`},
		{"expired", nil, "plant", issue(t, nil, "Late CA", func(c *x509.Certificate) { isCA(c); c.NotAfter = now.Add(-time.Second) }).Raw, nil, errs.Invalid, `certificate: "CN=Late CA" expired at`},
	} {
		t.Run(c.name, func(t *testing.T) {
			next, err := UploadCACertificate(c.old, Upload{"0ne00111111", c.id, c.der, &yes}, c.match, now, rand.Reader)
			if next != nil || errs.KindOf(err) != c.kind || err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v and %v, want %s", next, err, c.want)
			}
		})
	}
}

// A proof is good for one code, and a code for one proof.
func TestVerifyCACertificate(t *testing.T) {
	ca := issue(t, nil, "Plant CA", isCA)
	fresh := &CACertificate{Name: "plant", Certificate: ca.Raw, ETag: "one"}
	prove := func(code string) []byte { return issue(t, ca, code, nil).Raw }
	refused := func(old *CACertificate, proof []byte, want string) {
		t.Helper()
		next, err := VerifyCACertificate(old, proof, nil, now, rand.Reader)
		if next != nil || errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), "certificate: "+want) {
			t.Errorf("%v and %v, want %s", next, err, want)
		}
	}
	refused(fresh, prove("x"), "no verification code was asked for")

	first, err := GenerateVerificationCode(fresh, nil, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.VerificationCode) != 48 || first.Verified || first.ETag == "one" || fresh.VerificationCode != "" {
		t.Errorf("%+v", first)
	}
	second, err := GenerateVerificationCode(first, is(first.ETag), now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if second.VerificationCode == first.VerificationCode {
		t.Error("the same code twice")
	}
	refused(second, prove(first.VerificationCode), "has the subject")
	refused(second, []byte("junk"), "is not an X.509 certificate")
	refused(second, ca.Raw, "is the CA certificate itself")

	verified, err := VerifyCACertificate(second, prove(second.VerificationCode), is(second.ETag), now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !verified.Verified || verified.VerificationCode != "" || verified.ETag == second.ETag {
		t.Errorf("%+v", verified)
	}
	refused(verified, prove(second.VerificationCode), "no verification code was asked for")

	for _, err := range []error{
		errorOf(GenerateVerificationCode(nil, nil, now, rand.Reader)),
		errorOf(VerifyCACertificate(nil, ca.Raw, nil, now, rand.Reader)),
		RemoveCACertificate(nil, anyTag),
	} {
		if errs.KindOf(err) != errs.NotFound {
			t.Errorf("of nothing: %v", err)
		}
	}
	for _, err := range []error{
		errorOf(GenerateVerificationCode(second, is("one"), now, rand.Reader)),
		errorOf(VerifyCACertificate(second, prove(second.VerificationCode), is("one"), now, rand.Reader)),
		RemoveCACertificate(second, is("one")),
	} {
		if errs.KindOf(err) != errs.Precondition {
			t.Errorf("with an old tag: %v", err)
		}
	}
	if err := RemoveCACertificate(second, nil); err != nil {
		t.Error(err)
	}
	if _, err := GenerateVerificationCode(second, nil, now, strings.NewReader("short")); err == nil {
		t.Error("made a code without randomness")
	}
}

func errorOf(_ *CACertificate, err error) error { return err }

// Whatever is sent as a proof is refused, unless the CA signed the code.
func FuzzVerifyCACertificate(f *testing.F) {
	t := &testing.T{}
	ca := issue(t, nil, "Plant CA", isCA)
	const code = "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF"
	old := &CACertificate{Name: "plant", Certificate: ca.Raw, VerificationCode: code}
	proof := issue(t, ca, code, nil)
	signed := proof.RawTBSCertificate
	f.Add(proof.Raw)
	f.Add(ca.Raw)
	f.Add(issue(t, ca, "pump-7", nil).Raw)
	f.Add(issue(t, nil, code, nil).Raw)
	f.Add([]byte{0x30, 0x82})
	f.Fuzz(func(t *testing.T, der []byte) {
		next, err := VerifyCACertificate(old, der, nil, now, rand.Reader)
		if err == nil && !bytes.Contains(der, signed) {
			t.Fatalf("took %x for a proof", der)
		}
		if err != nil && (next != nil || errs.KindOf(err) != errs.Invalid) {
			t.Fatalf("%v and %v", next, err)
		}
	})
}
