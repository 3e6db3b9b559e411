package ekcert_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/tpm"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// forever is the end of certificates that have none (RFC 5280 §4.1.2.5).
var forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

var policyA, _ = hex.DecodeString("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")

const attributesL = tpm.FixedTPM | tpm.FixedParent | tpm.SensitiveDataOrigin | tpm.AdminWithPolicy | tpm.Restricted | tpm.Decrypt

// rsaEK is an endorsement key of template L-1 with the given modulus.
func rsaEK(modulus []byte) *tpm.Public {
	return &tpm.Public{
		Type: tpm.AlgRSA, NameAlg: tpm.AlgSHA256, Attributes: attributesL, AuthPolicy: policyA,
		Symmetric: tpm.Symmetric{Alg: tpm.AlgAES, Bits: 128, Mode: tpm.AlgCFB}, Scheme: tpm.AlgNull,
		Bits: 2048, Modulus: modulus,
	}
}

// newRSA makes a public key that nobody has the private half of: none of these
// tests needs it.
func newRSA() *tpm.Public {
	n := make([]byte, 256)
	rand.Read(n)
	n[0] |= 0x80
	n[255] |= 1
	return rsaEK(n)
}

// newECC makes an endorsement key of template L-2.
func newECC(t testing.TB) *tpm.Public {
	point, err := newKey(t).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	ek := rsaEK(nil)
	ek.Type, ek.Bits, ek.Curve, ek.KDF = tpm.AlgECC, 0, tpm.CurveP256, tpm.AlgNull
	ek.X, ek.Y = point[1:33], point[33:]
	return ek
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A vendor is a CA certificate with its key.
type vendor struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// newCA makes a CA below parent, or a root when parent is nil. change has the
// last word on the template.
func newCA(t testing.TB, parent *vendor, cn string, change ...func(*x509.Certificate)) *vendor {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: cn, Organization: []string{"Some Silicon"}},
		NotBefore: now.AddDate(-10, 0, 0), NotAfter: now.AddDate(10, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, c := range change {
		c(template)
	}
	ca := &vendor{template, newKey(t)}
	if parent == nil {
		parent = ca
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, &ca.key.PublicKey, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return ca
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return n
}

// A shape is what an endorsement key certificate looks like, apart from its key.
type shape struct {
	san      []byte // nil for that of tpmName
	sanFalse bool   // not critical
	subject  pkix.Name
	change   func(*x509.Certificate)
}

// issue makes the certificate of an endorsement key.
func (ca *vendor) issue(t testing.TB, ek *tpm.Public, s shape) []byte {
	t.Helper()
	key, err := ek.CryptoKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: s.subject,
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: forever,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}},
	}
	if ek.Type == tpm.AlgRSA {
		template.KeyUsage = x509.KeyUsageKeyEncipherment
	}
	if s.san == nil {
		s.san = sanOf(separate(tpmName("id:494E5443", "ADL", "id:00010203", asn1.TagUTF8String)...))
	}
	if len(s.san) > 0 {
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: !s.sanFalse, Value: s.san}}
	}
	if s.change != nil {
		s.change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, key, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// An attribute is one attribute of a directoryName, DER.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

func attributeOf(number int, text string, tag int) attribute {
	return attribute{asn1.ObjectIdentifier{2, 23, 133, 2, number}, asn1.RawValue{Tag: tag, Bytes: []byte(text)}}
}

// tpmName are the three attributes that describe a TPM.
func tpmName(manufacturer, model, version string, tag int) []attribute {
	return []attribute{attributeOf(1, manufacturer, tag), attributeOf(2, model, tag), attributeOf(3, version, tag)}
}

// separate puts every attribute into a relative name of its own; together makes
// one of them all.
func separate(as ...attribute) (rdns [][]attribute) {
	for _, a := range as {
		rdns = append(rdns, []attribute{a})
	}
	return rdns
}

func together(as ...attribute) [][]attribute { return [][]attribute{as} }

// sanOf is a subjectAltName of one directoryName.
func sanOf(rdns [][]attribute) []byte {
	var sets []asn1.RawValue
	for _, attributes := range rdns {
		var content []byte
		for _, a := range attributes {
			content = append(content, must(asn1.Marshal(a))...)
		}
		sets = append(sets, asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: content})
	}
	return generalNames(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: must(asn1.Marshal(sets))})
}

func generalNames(names ...asn1.RawValue) []byte { return must(asn1.Marshal(names)) }

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// asOAEP changes the algorithm of the certified key to RSAES-OAEP, with
// parameters as vendors write them, and signs again.
func (ca *vendor) asOAEP(t testing.TB, der []byte) []byte {
	t.Helper()
	var c struct {
		TBS struct {
			Raw       asn1.RawContent
			Version   int `asn1:"optional,explicit,default:0,tag:0"`
			Serial    *big.Int
			Algorithm asn1.RawValue
			Issuer    asn1.RawValue
			Validity  asn1.RawValue
			Subject   asn1.RawValue
			Key       struct {
				Algorithm pkix.AlgorithmIdentifier
				Key       asn1.BitString
			}
			Extensions asn1.RawValue `asn1:"optional,tag:3"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	label, _ := hex.DecodeString("3014a212301006092a864886f70d0101090403544350") // pSourceAlgorithm "TCP"
	c.TBS.Key.Algorithm = pkix.AlgorithmIdentifier{
		Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}, Parameters: asn1.RawValue{FullBytes: label},
	}
	c.TBS.Raw = nil
	c.TBS.Extensions = asn1.RawValue{FullBytes: c.TBS.Extensions.FullBytes}
	sum := sha256.Sum256(must(asn1.Marshal(c.TBS)))
	c.Signature.Bytes = must(ca.key.Sign(rand.Reader, sum[:], crypto.SHA256))
	c.Signature.BitLength = 8 * len(c.Signature.Bytes)
	return must(asn1.Marshal(c))
}

func parse(t testing.TB, b []byte) *ekcert.Certificate {
	t.Helper()
	c, err := ekcert.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
