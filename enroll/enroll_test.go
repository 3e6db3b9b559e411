package enroll

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/tpm"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// certificate makes a self-signed certificate, of a CA if isCA.
func certificate(t *testing.T, name string, isCA bool) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: now, NotAfter: now.Add(time.Hour), BasicConstraintsValid: true, IsCA: isCA,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// tpmKeys makes the public keys of a TPM that exists nowhere.
func tpmKeys(t *testing.T) *attest.TPM {
	t.Helper()
	area := func(attributes tpm.Attributes, policy []byte) []byte {
		key, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point := key.PublicKey().Bytes()[1:]
		p := tpm.Public{
			Type: tpm.AlgECC, NameAlg: tpm.AlgSHA256, Attributes: attributes, AuthPolicy: policy,
			Symmetric: tpm.Symmetric{Alg: tpm.AlgAES, Bits: 128, Mode: tpm.AlgCFB},
			Scheme:    tpm.AlgNull, Curve: tpm.CurveP256, KDF: tpm.AlgNull, X: point[:32], Y: point[32:],
		}
		return p.Marshal()
	}
	// PolicySecret(TPM_RH_ENDORSEMENT), as the EK templates have it.
	policy, err := hex.DecodeString("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
	if err != nil {
		t.Fatal(err)
	}
	stays := tpm.FixedTPM | tpm.FixedParent | tpm.SensitiveDataOrigin | tpm.Restricted | tpm.Decrypt
	return &attest.TPM{
		EndorsementKey: area(stays|tpm.AdminWithPolicy, policy),
		StorageRootKey: area(stays|tpm.UserWithAuth|tpm.NoDA, nil),
	}
}

// key is a symmetric key of 32 equal bytes.
func key(b byte) device.SymmetricKey {
	k, err := device.NewSymmetricKey(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		panic(err)
	}
	return k
}

// byKey is a valid enrollment with symmetric keys.
func byKey(kind Kind, id string) *Entry {
	return &Entry{
		Scope: "0ne00111111", Kind: kind, ID: id,
		Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: key(1), Secondary: key(2)}},
	}
}

func byCertificates(kind Kind, id string, use attest.CertificateUse, primary, secondary []byte) *Entry {
	return &Entry{
		Scope: "0ne00111111", Kind: kind, ID: id,
		Attestation: attest.Mechanism{Type: attest.TypeX509, X509: &attest.X509{Use: use, Primary: primary, Secondary: secondary}},
	}
}

func byReferences(kind Kind, primary, secondary string) *Entry {
	e := byCertificates(kind, "pumps", attest.CAReferences, nil, nil)
	e.Attestation.X509.PrimaryReference, e.Attestation.X509.SecondaryReference = primary, secondary
	return e
}

func byTPM(kind Kind, id string, keys *attest.TPM) *Entry {
	return &Entry{Scope: "0ne00111111", Kind: kind, ID: id, Attestation: attest.Mechanism{Type: attest.TypeTPM, TPM: keys}}
}

// object is a JSON object of n bytes.
func object(n int) json.RawMessage {
	return json.RawMessage(`{"a":"` + string(bytes.Repeat([]byte{'x'}, n-8)) + `"}`)
}

// ofTPMs is a TPM group.
func ofTPMs(g attest.TPMGroup) *Entry {
	return &Entry{Kind: Group, ID: "reel-1", Attestation: attest.Mechanism{Type: attest.TypeTPM, TPMGroup: &g}}
}
