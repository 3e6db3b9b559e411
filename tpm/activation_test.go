package tpm

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"
)

func mustParse(t testing.TB, b []byte) *Public {
	t.Helper()
	p, err := ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// goodKeys returns an EK and an SRK that Activation takes.
func goodKeys(t testing.TB) (ek, srk *Public) {
	t.Helper()
	areas := PublicAreas(t)
	return mustParse(t, areas["EK L-1 RSA-2048"]), mustParse(t, areas["SRK RSA-2048"])
}

func TestActivationVector(t *testing.T) {
	v := make(Vector)
	for _, paragraph := range ReadVectors(t, "activation.txt") {
		maps.Copy(v, paragraph)
	}
	ek, _ := goodKeys(t)
	srk := mustParse(t, v.Hex(t, "SRK"))
	key, inner, obfuscation := v.Hex(t, "key"), v.Hex(t, "inner key"), v.Hex(t, "obfuscation")
	dupSeed, credSeed := v.Hex(t, "duplicate seed"), v.Hex(t, "credential seed")

	public := identityPublic(obfuscation, key)
	name := objectName(AlgSHA256, public)
	sensitive := identitySensitive(obfuscation, key)
	blob := activation(seeds{
		wrapping:   wrapping{inner, obfuscation, secret{dupSeed, []byte("part 4")}},
		credential: secret{credSeed, []byte("part 2")},
	}, ek, srk, key, v["URI"])
	parts, err := ParseActivation(blob)
	if err != nil {
		t.Fatal(err)
	}
	if string(parts.EncryptedSecret) != "part 2" || string(parts.InSymSeed) != "part 4" {
		t.Error("the encrypted seeds are not in their places")
	}

	for field, got := range map[string][]byte{
		"name of SRK":                srk.Name(),
		"unique":                     public[len(public)-32:],
		"part 5":                     appendSized(nil, parts.Public),
		"name of HMAC key":           name,
		"TPM2B_SENSITIVE":            sensitive,
		"inner wrapper":              wrapInner(inner, name, sensitive),
		"KDFa STORAGE, duplicate":    KDFa(crypto.SHA256, dupSeed, "STORAGE", name, nil, 128),
		"KDFa INTEGRITY, duplicate":  KDFa(crypto.SHA256, dupSeed, "INTEGRITY", nil, nil, 256),
		"part 3":                     appendSized(nil, parts.Duplicate),
		"KDFa STORAGE, credential":   KDFa(crypto.SHA256, credSeed, "STORAGE", srk.Name(), nil, 128),
		"KDFa INTEGRITY, credential": KDFa(crypto.SHA256, credSeed, "INTEGRITY", nil, nil, 256),
		"part 1":                     appendSized(nil, parts.IDObject),
		"part 6":                     appendSized(nil, parts.URI),
	} {
		if want := v.Hex(t, field); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %x\nwant %x", field, got, want)
		}
	}
}

// The sizes are those of the blobs the original service sends.
func TestActivationSizes(t *testing.T) {
	ek, srk := goodKeys(t)
	uri := strings.Repeat("u", MaxURI)
	blob, err := Activation(rand.Reader, ek, srk, make([]byte, 32), uri)
	if err != nil {
		t.Fatal(err)
	}
	if len(blob) != 766+MaxURI {
		t.Errorf("the blob has %d bytes, want %d", len(blob), 766+MaxURI)
	}
	p, err := ParseActivation(blob)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		part []byte
		want int
	}{{p.IDObject, 52}, {p.EncryptedSecret, 256}, {p.Duplicate, 142}, {p.InSymSeed, 256}, {p.Public, 48}, {p.URI, MaxURI}} {
		if len(c.part) != c.want {
			t.Errorf("part %d has %d bytes, want %d", i+1, len(c.part), c.want)
		}
	}
}

// No two blobs share anything that depends on randomness.
func TestActivationIsFresh(t *testing.T) {
	ek, srk := goodKeys(t)
	var seen [2]ActivationParts
	for i := range seen {
		blob, err := Activation(rand.Reader, ek, srk, make([]byte, 32), "hub.example.net")
		if err != nil {
			t.Fatal(err)
		}
		if seen[i], err = ParseActivation(blob); err != nil {
			t.Fatal(err)
		}
	}
	a, b := seen[0], seen[1]
	for i, pair := range [][2][]byte{
		{a.IDObject, b.IDObject}, {a.EncryptedSecret, b.EncryptedSecret}, {a.Duplicate, b.Duplicate},
		{a.InSymSeed, b.InSymSeed}, {a.Public, b.Public}, {a.URI, b.URI},
	} {
		if bytes.Equal(pair[0], pair[1]) {
			t.Errorf("part %d is the same twice", i+1)
		}
	}
}

func TestActivationRefuses(t *testing.T) {
	ek, srk := goodKeys(t)
	key := make([]byte, 32)
	changed := func(p *Public, change func(*Public)) *Public {
		q := *p
		change(&q)
		return &q
	}
	for _, c := range []struct {
		name    string
		ek, srk *Public
		key     []byte
		uri     string
		want    string
	}{
		{"SRK for EK", srk, srk, key, "x", "endorsement key: adminWithPolicy is clear: the TCG templates leave it to the policy who administers the key"},
		{"EK for SRK", ek, ek, key, "x", "storage root key: userWithAuth is clear: nobody can load a key under it"},
		{"SRK not fixed", ek, changed(srk, func(p *Public) { p.Attributes &^= FixedTPM }), key, "x", "storage root key: fixedTPM is clear: the key can live outside a TPM"},
		{"EK put together by hand", changed(ek, func(p *Public) { p.Modulus = p.Modulus[1:] }), srk, key, "x", "endorsement key: RSA modulus has 255 bytes: a key of 2048 bits has 256"},
		{"SRK put together by hand", ek, changed(srk, func(p *Public) { p.Symmetric.Bits = 7 }), key, "x", "storage root key: symmetric key size is 7 bits"},
		{"zero SRK", ek, &Public{}, key, "x", "storage root key: nameAlg is 0x0000: not SHA256, SHA384 or SHA512"},
		{"key too short", ek, srk, key[:15], "x", "the key has 15 bytes: not 16 to 64"},
		{"key too long", ek, srk, make([]byte, 65), "x", "the key has 65 bytes: not 16 to 64"},
		{"no URI", ek, srk, key, "", "the URI has 0 bytes: not 1 to 190"},
		{"URI too long", ek, srk, key, strings.Repeat("u", 191), "the URI has 191 bytes: not 1 to 190"},
	} {
		blob, err := Activation(rand.Reader, c.ek, c.srk, c.key, c.uri)
		if err == nil || err.Error() != "making activation blob: "+c.want || blob != nil {
			t.Errorf("%s: error %v, want %s", c.name, err, c.want)
		}
	}
}

func TestMakeCredentialRefuses(t *testing.T) {
	ek, srk := goodKeys(t)
	name := srk.Name()
	for _, c := range []struct {
		what       string
		ek         *Public
		name       []byte
		credential []byte
		want       string
	}{
		{"zero EK", &Public{}, name, name[:16], "endorsement key: nameAlg is 0x0000: not SHA256, SHA384 or SHA512"},
		{"no name", ek, nil, name[:16], "the name of the object is not an algorithm and its digest"},
		{"a handle for a name", ek, []byte{0x81, 0, 0, 1}, name[:16], "the name of the object is not an algorithm and its digest"},
		{"a name cut short", ek, name[:33], name[:16], "the name of the object is not an algorithm and its digest"},
		{"no credential", ek, name, nil, "0 bytes, a key named with SHA256 takes 1 to 32"},
		{"credential too long", ek, name, name[:33], "33 bytes, a key named with SHA256 takes 1 to 32"},
	} {
		_, _, err := MakeCredential(rand.Reader, c.ek, c.name, c.credential)
		if err == nil || err.Error() != "making credential: "+c.want {
			t.Errorf("%s: error %v, want %s", c.what, err, c.want)
		}
	}
}

// Wherever the random stream breaks off, there is an error and no blob.
func TestActivationWithoutRandomness(t *testing.T) {
	ek, srk := goodKeys(t)
	broken := errors.New("no entropy")
	// The inner key, the obfuscation value and both seeds.
	for n := range int64(innerKeySize + obfuscationSize + 32 + 32) {
		source := io.MultiReader(io.LimitReader(rand.Reader, n), iotest.ErrReader(broken))
		blob, err := Activation(source, ek, srk, make([]byte, 32), "x")
		if !errors.Is(err, broken) || blob != nil {
			t.Fatalf("after %d random bytes: error %v, want %v", n, err, broken)
		}
	}
}

func TestParseActivationRefuses(t *testing.T) {
	part := func(n int) []byte { return make([]byte, n) }
	join := func(parts ...[]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = appendSized(b, p)
		}
		return b
	}
	good := join(part(52), part(256), part(142), part(256), part(48), part(30))
	if _, err := ParseActivation(good); err != nil {
		t.Fatal(err)
	}
	// The last part may be empty; nobody needs it.
	if _, err := ParseActivation(join(part(52), part(256), part(142), part(256), part(48), nil)); err != nil {
		t.Error(err)
	}
	for n := range good {
		if _, err := ParseActivation(good[:n]); err == nil {
			t.Errorf("accepted the first %d of %d bytes", n, len(good))
		}
	}
	for _, c := range []struct {
		name string
		blob []byte
		want string
	}{
		{"trailing byte", append(good[:len(good):len(good)], 0), "1 bytes too many"},
		{"part 1 empty", join(nil, part(256), part(142), part(256), part(48), part(30)), "a part is empty"},
		{"part 5 empty", join(part(52), part(256), part(142), part(256), nil, part(30)), "a part is empty"},
		{"part 1 too large", join(part(133), part(256), part(142), part(256), part(48), part(30)), "TPM2B_ID_OBJECT has 133 bytes, more than 132"},
		{"part 2 too large", join(part(52), part(513), part(142), part(256), part(48), part(30)), "TPM2B_ENCRYPTED_SECRET for the EK has 513 bytes, more than 512"},
		{"part 3 too large", join(part(52), part(256), part(271), part(256), part(48), part(30)), "TPM2B_PRIVATE has 271 bytes, more than 270"},
		{"part 4 too large", join(part(52), part(256), part(142), part(513), part(48), part(30)), "TPM2B_ENCRYPTED_SECRET for the SRK has 513 bytes, more than 512"},
		{"part 5 too large", join(part(52), part(256), part(142), part(256), part(145), part(30)), "TPM2B_PUBLIC has 145 bytes, more than 144"},
		{"part 6 too large", join(part(52), part(256), part(142), part(256), part(48), part(1025)), "TPM2B_DATA has 1025 bytes, more than 1024"},
		{"size beyond the end", []byte{0xFF, 0xFF, 0}, "ends within its TPM2B_ID_OBJECT"},
		{"nothing", nil, "ends within its TPM2B_ID_OBJECT"},
	} {
		if _, err := ParseActivation(c.blob); err == nil || err.Error() != "activation blob: "+c.want {
			t.Errorf("%s: error %v, want %s", c.name, err, c.want)
		}
	}
}

// FuzzParseActivation holds ParseActivation to taking apart, without loss, only
// what Activation could have put together.
func FuzzParseActivation(f *testing.F) {
	ek, srk := goodKeys(f)
	blob, err := Activation(rand.Reader, ek, srk, make([]byte, 32), "hub.example.net/devices/pump-7")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add(blob[:len(blob)-1])
	f.Add(append(blob[:len(blob):len(blob)], 0))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseActivation(b)
		if err != nil {
			return
		}
		var again []byte
		for _, part := range [][]byte{p.IDObject, p.EncryptedSecret, p.Duplicate, p.InSymSeed, p.Public, p.URI} {
			again = appendSized(again, part)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("accepted %x, which is %x put together again", b, again)
		}
	})
}

// BenchmarkChallenge is what a service does for a device that is about to prove
// its identity: read both public areas, make the blob.
func BenchmarkChallenge(b *testing.B) {
	areas := PublicAreas(b)
	for _, c := range []struct{ name, ek, srk string }{
		{"RSA-2048", "EK L-1 RSA-2048", "SRK RSA-2048"},
		{"P-256", "EK L-2 P-256", "SRK P-256"},
	} {
		b.Run(c.name, func(b *testing.B) {
			key := make([]byte, 32)
			b.ReportAllocs()
			for b.Loop() {
				ek, err := ParsePublic(areas[c.ek])
				if err != nil {
					b.Fatal(err)
				}
				srk, err := ParsePublic(areas[c.srk])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := Activation(rand.Reader, ek, srk, key, "hub.example.net/devices/pump-7"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParsePublic is the part of a challenge that a stranger can ask for.
func BenchmarkParsePublic(b *testing.B) {
	areas := PublicAreas(b)
	for _, name := range []string{"SRK RSA-2048", "SRK P-256"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParsePublic(areas[name]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
