package tpm_test

import (
	"bytes"
	"crypto"
	"math/rand/v2"
	"testing"

	"github.com/berth-iot/berth/tpm"
	"github.com/google/go-tpm/tpm2"
)

// go-tpm reads every key of the vectors as we do.
func TestPublicAgainstGoTPM(t *testing.T) {
	for name, b := range tpm.PublicAreas(t) {
		p, err := tpm.ParsePublic(b)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := tpm2.Unmarshal[tpm2.TPM2BPublic](b)
		if err != nil {
			t.Errorf("%s: go-tpm: %v", name, err)
			continue
		}
		area, err := theirs.Contents()
		if err != nil {
			t.Errorf("%s: go-tpm: %v", name, err)
			continue
		}
		if got, want := p.Marshal(), tpm2.Marshal(tpm2.New2B(*area)); !bytes.Equal(got, want) {
			t.Errorf("%s: marshalled again:\n%x, by go-tpm\n%x", name, got, want)
		}
		want, err := tpm2.ObjectName(area)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Name(), want.Buffer) {
			t.Errorf("%s: name %x, by go-tpm %x", name, p.Name(), want.Buffer)
		}
		if uint32(p.Attributes) != attributeBits(area.ObjectAttributes) {
			t.Errorf("%s: attributes %v, by go-tpm %+v", name, p.Attributes, area.ObjectAttributes)
		}
	}
}

// attributeBits spells out which of go-tpm's fields is which of our bits.
func attributeBits(a tpm2.TPMAObject) uint32 {
	var bits tpm.Attributes
	for bit, set := range map[tpm.Attributes]bool{
		tpm.FixedTPM: a.FixedTPM, tpm.STClear: a.STClear, tpm.FixedParent: a.FixedParent,
		tpm.SensitiveDataOrigin: a.SensitiveDataOrigin, tpm.UserWithAuth: a.UserWithAuth,
		tpm.AdminWithPolicy: a.AdminWithPolicy, tpm.NoDA: a.NoDA,
		tpm.EncryptedDuplication: a.EncryptedDuplication, tpm.Restricted: a.Restricted,
		tpm.Decrypt: a.Decrypt, tpm.SignEncrypt: a.SignEncrypt, tpm.X509Sign: a.X509Sign,
	} {
		if set {
			bits |= bit
		}
	}
	return uint32(bits)
}

// Both derive the same keys, whatever the sizes.
func TestKDFAgainstGoTPM(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for bits := 1; bits <= 1100; bits++ {
			key, u, v := bytesOf(1+random.IntN(80)), bytesOf(random.IntN(70)), bytesOf(random.IntN(70))
			got := tpm.KDFa(hash, key, "STORAGE", u, v, bits)
			if want := tpm2.KDFa(hash, key, "STORAGE", u, v, bits); !bytes.Equal(got, want) {
				t.Fatalf("KDFa with %v, %d bits: %x, by go-tpm %x", hash, bits, got, want)
			}
		}
		for range 100 {
			z, u, v := bytesOf(1+random.IntN(66)), bytesOf(1+random.IntN(66)), bytesOf(1+random.IntN(66))
			got := tpm.KDFe(hash, z, "IDENTITY", u, v)
			if want := tpm2.KDFe(hash, z, "IDENTITY", u, v, hash.Size()*8); !bytes.Equal(got, want) {
				t.Fatalf("KDFe with %v: %x, by go-tpm %x", hash, got, want)
			}
		}
	}
}
