package tpm

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// The policies of the EK profile, from their definitions.
func TestEKPolicies(t *testing.T) {
	be := binary.BigEndian
	const (
		ccPolicyAuthorizeNV = 0x00000192
		ccPolicyOR          = 0x00000171
		ccPolicySecret      = 0x00000151
		endorsement         = 0x4000000B
	)
	for _, c := range []struct {
		alg   Alg
		index uint32 // I-1, I-2, I-3
	}{{AlgSHA256, 0x01C07F01}, {AlgSHA384, 0x01C07F02}, {AlgSHA512, 0x01C07F03}} {
		hash := c.alg.hash()
		zero := make([]byte, hash.Size())

		// PolicySecret extends twice: with the entity's name, then with the (empty) reference.
		a := be.AppendUint32(be.AppendUint32(bytes.Clone(zero), ccPolicySecret), endorsement)
		a = digest(hash, digest(hash, a))
		if c.alg == AlgSHA256 && !bytes.Equal(a, policyA) {
			t.Errorf("PolicyA is %x, we have %x", a, policyA)
		}

		index := be.AppendUint32(nil, c.index)
		index = be.AppendUint16(index, uint16(c.alg))
		index = be.AppendUint32(index, 0x220F1008) // attributes
		index = appendSized(index, a)
		index = be.AppendUint16(index, uint16(2+hash.Size())) // its data: a policy as TPMT_HA
		nv := digest(hash, be.AppendUint32(bytes.Clone(zero), ccPolicyAuthorizeNV), objectName(c.alg, index))

		b := digest(hash, be.AppendUint32(bytes.Clone(zero), ccPolicyOR), a, nv)
		if !bytes.Equal(b, policyB[c.alg]) {
			t.Errorf("PolicyB of %v is %x, we have %x", c.alg, b, policyB[c.alg])
		}
	}
}

// What software TPMs made, and what becomes of it when one attribute changes.
func TestVerdicts(t *testing.T) {
	for _, v := range ReadVectors(t, "keys.txt") {
		p := mustParse(t, v.Hex(t, "public"))
		checkVerdict(t, v["key"]+" as EK", CheckEK(p), v["as EK"])
		checkVerdict(t, v["key"]+" as SRK", CheckSRK(p), v["as SRK"])
	}
}

func TestAttributeVerdicts(t *testing.T) {
	areas := PublicAreas(t)
	vectors := ReadVectors(t, "attributes.txt")
	if len(vectors) != len(attributeNames) {
		t.Errorf("%d attributes in the file, there are %d", len(vectors), len(attributeNames))
	}
	for i, v := range vectors {
		attribute := attributeNames[i]
		if v["flipped"] != attribute.name {
			t.Fatalf("attribute %d is %s, want %s", i, v["flipped"], attribute.name)
		}
		for _, c := range []struct {
			key   string
			check func(*Public) error
		}{
			{"EK L-1 RSA-2048", CheckEK},
			{"EK H-2 P-256", CheckEK},
			{"EK H-3 P-384", CheckEK},
			{"SRK RSA-2048", CheckSRK},
			{"SRK P-256", CheckSRK},
		} {
			p := mustParse(t, areas[c.key])
			p.Attributes ^= attribute.bit
			again := mustParse(t, p.Marshal())
			checkVerdict(t, c.key+" with "+attribute.name+" flipped", c.check(again), v[c.key])
		}
	}
}

// What the templates fix besides the attributes.
func TestTemplateVerdicts(t *testing.T) {
	areas := PublicAreas(t)
	for _, c := range []struct {
		name, key string
		change    func(*Public)
		check     func(*Public) error
		want      string
	}{
		{"EK without policy", "EK L-1 RSA-2048", func(p *Public) { p.AuthPolicy = nil }, CheckEK,
			"endorsement key: authPolicy is not PolicyA: the TCG templates without userWithAuth have no other"},
		{"low-range EK with PolicyB", "EK L-1 RSA-2048", func(p *Public) { p.AuthPolicy = policyB[AlgSHA256] }, CheckEK,
			"endorsement key: authPolicy is not PolicyA: the TCG templates without userWithAuth have no other"},
		{"high-range EK with PolicyA", "EK H-1 RSA-2048", func(p *Public) { p.AuthPolicy = policyA }, CheckEK,
			"endorsement key: authPolicy is not PolicyB: the TCG templates with userWithAuth have no other"},
		{"high-range EK with a policy of its own", "EK H-3 P-384", func(p *Public) { p.AuthPolicy = make([]byte, 48) }, CheckEK,
			"endorsement key: authPolicy is not PolicyB: the TCG templates with userWithAuth have no other"},
		{"AES-256 for RSA-2048", "EK L-1 RSA-2048", func(p *Public) { p.Symmetric.Bits = 256 }, CheckEK,
			"endorsement key: symmetric key size is 256 bits: the TCG template for this kind of key has 128"},
		{"AES-128 for P-384", "EK H-3 P-384", func(p *Public) { p.Symmetric.Bits = 128 }, CheckEK,
			"endorsement key: symmetric key size is 128 bits: the TCG template for this kind of key has 256"},
		{"SHA-256 for RSA-3072", "EK H-6 RSA-3072", func(p *Public) { p.NameAlg, p.AuthPolicy = AlgSHA256, policyB[AlgSHA256] }, CheckEK,
			"endorsement key: nameAlg is SHA256: the TCG template for this kind of key has SHA384"},
		{"SHA-384 for P-521", "EK H-4 P-521", func(p *Public) { p.NameAlg, p.AuthPolicy = AlgSHA384, policyB[AlgSHA384] }, CheckEK,
			"endorsement key: nameAlg is SHA384: the TCG template for this kind of key has SHA512"},
		{"SRK with a policy", "SRK RSA-2048", func(p *Public) { p.AuthPolicy = policyA }, CheckSRK,
			"storage root key: authPolicy is not empty: that of the SRK template is"},
		{"SRK with AES-256", "SRK RSA-2048", func(p *Public) { p.Symmetric.Bits = 256 }, CheckSRK, "ok"},
		{"SRK named with SHA-384", "SRK P-256", func(p *Public) { p.NameAlg = AlgSHA384 }, CheckSRK, "ok"},
	} {
		p := mustParse(t, areas[c.key])
		c.change(p)
		checkVerdict(t, c.name, c.check(mustParse(t, p.Marshal())), c.want)
	}
}

// A Public put together by hand is checked like one that was parsed.
func TestChecksTakeNothingOnTrust(t *testing.T) {
	areas := PublicAreas(t)
	for _, c := range []struct {
		name, key string
		change    func(*Public)
		want      string
	}{
		{"symmetric NULL", "SRK P-256", func(p *Public) { p.Symmetric = Symmetric{Alg: AlgNull} },
			"symmetric cipher is NULL in mode 0x0000: a storage key needs AES in mode CFB"},
		{"scheme", "SRK P-256", func(p *Public) { p.Scheme = AlgHMAC }, "scheme is HMAC: that of a storage key is NULL"},
		{"kdf", "SRK P-256", func(p *Public) { p.KDF = AlgSHA256 }, "kdf is SHA256: that of a storage key is NULL"},
		{"type", "SRK P-256", func(p *Public) { p.Type = AlgKeyedHash }, "type is KEYEDHASH: neither RSA nor ECC"},
		{"no point", "SRK P-256", func(p *Public) { p.X, p.Y = nil, nil }, "ECC coordinates have 0 and 0 bytes: those of P-256 have 32"},
		{"no modulus", "SRK RSA-2048", func(p *Public) { p.Modulus = nil }, "RSA modulus has 0 bytes: a key of 2048 bits has 256"},
	} {
		p := mustParse(t, areas[c.key])
		c.change(p)
		checkVerdict(t, c.name, CheckSRK(p), "storage root key: "+c.want)
		checkVerdict(t, c.name, CheckEK(p), "endorsement key: "+c.want)
		_, err := p.CryptoKey()
		checkVerdict(t, c.name, err, "TPM public area: "+c.want)
	}
}

// checkVerdict compares an error with its text, or with "ok".
func checkVerdict(t *testing.T, what string, err error, want string) {
	t.Helper()
	got := "ok"
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}
