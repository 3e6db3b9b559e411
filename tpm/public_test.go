package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

func TestParsePublic(t *testing.T) {
	for _, v := range ReadVectors(t, "keys.txt") {
		b := v.Hex(t, "public")
		p, err := ParsePublic(b)
		if err != nil {
			t.Errorf("%s: %v", v["key"], err)
			continue
		}
		if again := p.Marshal(); !bytes.Equal(again, b) {
			t.Errorf("%s: marshalled again:\n got %x\nwant %x", v["key"], again, b)
		}
		if name, want := p.Name(), v.Hex(t, "name"); !bytes.Equal(name, want) {
			t.Errorf("%s: name\n got %x\nwant %x", v["key"], name, want)
		}
		if id := RegistrationID(b); id != v["registration ID"] || len(id) != 52 {
			t.Errorf("%s: registration ID %s, want %s", v["key"], id, v["registration ID"])
		}
	}
}

func TestParsePublicFields(t *testing.T) {
	areas := PublicAreas(t)
	p := mustParse(t, areas["EK L-1 RSA-2048"])
	want := &Public{
		Type: AlgRSA, NameAlg: AlgSHA256, Attributes: 0x000300B2, AuthPolicy: policyA,
		Symmetric: Symmetric{AlgAES, 128, AlgCFB}, Scheme: AlgNull,
		Bits: 2048, Modulus: areas["EK L-1 RSA-2048"][60:],
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	p = mustParse(t, areas["SRK P-384"])
	point := areas["SRK P-384"]
	want = &Public{
		Type: AlgECC, NameAlg: AlgSHA384, Attributes: 0x00030472, AuthPolicy: []byte{},
		Symmetric: Symmetric{AlgAES, 256, AlgCFB}, Scheme: AlgNull,
		Curve: CurveP384, KDF: AlgNull, X: point[26 : 26+48], Y: point[len(point)-48:],
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
}

// The caller may reuse the buffer.
func TestParsePublicCopies(t *testing.T) {
	b := PublicAreas(t)["EK L-1 RSA-2048"]
	p := mustParse(t, b)
	before := p.Name()
	clear(b)
	if !bytes.Equal(p.Name(), before) {
		t.Error("the result changes with the input")
	}
}

func TestParsePublicRefuses(t *testing.T) {
	areas := PublicAreas(t)
	for _, v := range ReadVectors(t, "refused.txt") {
		_, err := ParsePublic(refusedArea(t, v, areas))
		checkVerdict(t, v["case"], err, v["error"])
	}

	odd := areas["SRK RSA-2048"]
	even := bytes.Clone(odd)
	even[len(even)-1] ^= 1
	_, err := ParsePublic(even)
	checkVerdict(t, "even modulus", err, "TPM public area: RSA modulus is even")
	_, err = ParsePublic(make([]byte, 1<<20))
	checkVerdict(t, "a megabyte", err, "TPM public area: 1048576 bytes, the largest storage key has 604")
}

// refusedArea returns the TPM2B_PUBLIC of one case of testdata/refused.txt.
func refusedArea(t testing.TB, v Vector, areas map[string][]byte) []byte {
	t.Helper()
	if v["public"] != "" {
		return v.Hex(t, "public")
	}
	base := hex.EncodeToString(areas[v["base"]])
	if n := strings.Count(base, v["old"]); n != 1 || v["old"] == "" {
		t.Fatalf("%s: the bytes to replace occur %d times", v["case"], n)
	}
	b, err := hex.DecodeString(strings.Replace(base, v["old"], v["new"], 1))
	if err != nil {
		t.Fatalf("%s: %v", v["case"], err)
	}
	if v["size"] != "kept" {
		binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	}
	return b
}

// Nothing but the whole is accepted, whether or not the size in front admits that
// something is missing.
func TestParsePublicTruncated(t *testing.T) {
	for name, whole := range PublicAreas(t) {
		for n := range whole {
			b := bytes.Clone(whole[:n])
			if _, err := ParsePublic(b); err == nil {
				t.Errorf("%s: accepted the first %d of %d bytes", name, n, len(whole))
			}
			if n < 2 {
				continue
			}
			binary.BigEndian.PutUint16(b, uint16(n-2))
			if _, err := ParsePublic(b); err == nil {
				t.Errorf("%s: accepted the first %d of %d bytes with their size", name, n, len(whole))
			}
		}
		b := append(bytes.Clone(whole), 0)
		if _, err := ParsePublic(b); err == nil {
			t.Errorf("%s: accepted with a trailing byte", name)
		}
		binary.BigEndian.PutUint16(b, uint16(len(b)-2))
		if _, err := ParsePublic(b); err == nil {
			t.Errorf("%s: accepted with a trailing byte inside", name)
		}
	}
}

// FuzzParsePublic holds ParsePublic to one encoding per key, and to keys that the
// rest of the package can work with.
func FuzzParsePublic(f *testing.F) {
	areas := PublicAreas(f)
	for _, b := range areas {
		f.Add(b)
	}
	for _, v := range ReadVectors(f, "refused.txt") {
		f.Add(refusedArea(f, v, areas))
	}
	key := make([]byte, 32)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePublic(b)
		if err != nil {
			return
		}
		if again := p.Marshal(); !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which is %x marshalled again", b, again)
		}
		if _, err := p.CryptoKey(); err != nil {
			t.Errorf("accepted %x: %v", b, err)
		}
		if CheckSRK(p) == nil {
			if _, err := ImportBlob(rand.Reader, p, key); err != nil {
				t.Errorf("accepted %x: %v", b, err)
			}
		}
		if CheckEK(p) == nil {
			if _, _, err := MakeCredential(rand.Reader, p, p.Name(), key); err != nil {
				t.Errorf("accepted %x: %v", b, err)
			}
		}
	})
}

func TestCryptoKey(t *testing.T) {
	areas := PublicAreas(t)
	for name, b := range areas {
		p := mustParse(t, b)
		key, err := p.CryptoKey()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		switch key := key.(type) {
		case *rsa.PublicKey:
			if p.Type != AlgRSA || key.E != 65537 || !bytes.Equal(key.N.Bytes(), p.Modulus) {
				t.Errorf("%s: got %+v", name, key)
			}
		case *ecdsa.PublicKey:
			point, err := key.Bytes()
			if err != nil || p.Type != AlgECC || !bytes.Equal(point, p.uncompressed()) {
				t.Errorf("%s: got %+v", name, key)
			}
		default:
			t.Errorf("%s: a key of type %T", name, key)
		}
	}
	// How the exponent is spelled makes another Name but the same key.
	short, _ := mustParse(t, areas["SRK RSA-2048"]).CryptoKey()
	long, _ := mustParse(t, areas["SRK RSA-2048, exponent in full"]).CryptoKey()
	if !short.(*rsa.PublicKey).Equal(long) {
		t.Error("exponent 0 is not 65537")
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Attributes(0x000300B2).String(), "fixedTPM|fixedParent|sensitiveDataOrigin|adminWithPolicy|restricted|decrypt"},
		{Attributes(0x00030472).String(), "fixedTPM|fixedParent|sensitiveDataOrigin|userWithAuth|noDA|restricted|decrypt"},
		{Attributes(0x00040440).String(), "userWithAuth|noDA|sign"},
		{Attributes(0x80000003).String(), "fixedTPM|0x80000001"},
		{Attributes(0).String(), "none"},
		{AlgSHA384.String(), "SHA384"},
		{Alg(0x0004).String(), "0x0004"},
		{CurveP256.String() + " " + CurveP384.String() + " " + CurveP521.String(), "P-256 P-384 P-521"},
		{Curve(0x20).String(), "0x0020"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
}
