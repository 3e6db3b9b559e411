package ekcert_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/tpm"
)

// A reel is some keys as TPM2B_PUBLIC, and each in the forms a list may name it.
type reel struct{ rsa, ecc, absent []byte }

func newReel(t testing.TB) reel {
	return reel{newRSA().Marshal(), newECC(t).Marshal(), newRSA().Marshal()}
}

func b64(ek []byte) string { return base64.StdEncoding.EncodeToString(ek) }

func digest(ek []byte) string {
	sum := sha256.Sum256(ek)
	return hex.EncodeToString(sum[:])
}

func nameOf(t testing.TB, ek []byte) string {
	p, err := tpm.ParsePublic(ek)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(p.Name())
}

// Every form in which a plant may write its list admits the keys on it and no
// other.
func TestList(t *testing.T) {
	r := newReel(t)
	rsa, ecc := b64(r.rsa), b64(r.ecc)
	for name, text := range map[string]string{
		"a key a line":          rsa + "\n" + ecc + "\n",
		"no line break at last": rsa + "\n" + ecc,
		"DOS line breaks":       rsa + "\r\n" + ecc + "\r\n",
		"comments and space":    "# reel 7\n\n  " + rsa + "\t\n\n# the end\n" + ecc + "\n\n",
		"a byte order mark":     "\xef\xbb\xbf" + rsa + "\n" + ecc,
		"digests":               digest(r.rsa) + "\n" + strings.ToUpper(digest(r.ecc)) + "\n",
		"registration IDs":      tpm.RegistrationID(r.rsa) + "\n" + strings.ToUpper(tpm.RegistrationID(r.ecc)),
		"Names":                 nameOf(t, r.rsa) + "\n" + strings.ToUpper(nameOf(t, r.ecc)),
		"mixed forms":           rsa + "\n" + digest(r.ecc),
		"only the header":       "endorsementKey\n" + rsa + "\n" + ecc,
		"a table":               "registrationId,endorsementKey,lot\npump-7," + rsa + ",7\npump-8," + ecc + ",7\n",
		"the key first":         "EndorsementKey,registrationId\n" + rsa + ",pump-7\n" + ecc + ",pump-8\n",
		"semicolons":            "registrationId;endorsementKey\npump-7;" + rsa + "\npump-8;" + ecc,
		"tabs":                  "registrationId\tendorsementKey\npump-7\t" + rsa + "\npump-8\t" + ecc,
		"quotes":                "\"registrationId\",\"endorsementKey\"\n\"a \"\"b\"\", c\",\"" + rsa + "\"\n\"d\", \"" + ecc + "\"",
		"spreadsheet":           "\xef\xbb\xbf\"registrationId\";\"endorsementKey\"\r\n\"pump-7\";\"" + rsa + "\"\r\npump-8;" + ecc + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := ekcert.ParseList(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if l.Len() != 2 || !l.Contains(r.rsa) || !l.Contains(r.ecc) {
				t.Errorf("%d keys: RSA %v, ECC %v", l.Len(), l.Contains(r.rsa), l.Contains(r.ecc))
			}
			for name, b := range map[string][]byte{
				"another key": r.absent, "nothing": nil, "half a key": r.rsa[:100], "a key and more": append(slices.Clone(r.rsa), 0),
				"the key without its size": r.rsa[2:],
			} {
				if l.Contains(b) {
					t.Errorf("it contains %s", name)
				}
			}
			again, err := ekcert.UnmarshalList(l.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			if again.Digest() != l.Digest() || !again.Contains(r.rsa) || again.Contains(r.absent) {
				t.Error("stored and read again it is another list")
			}
		})
	}
}

// What is signed or stored does not depend on the order of the lines.
func TestListDigest(t *testing.T) {
	r := newReel(t)
	list := func(lines ...string) *ekcert.List {
		l, err := ekcert.ParseList(strings.NewReader(strings.Join(lines, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one, two := list(b64(r.rsa), b64(r.ecc)), list("endorsementKey", b64(r.ecc), digest(r.rsa))
	if one.Digest() != two.Digest() || !bytes.Equal(one.Marshal(), two.Marshal()) {
		t.Error("the same keys in another order are another list")
	}
	if one.Digest() == list(b64(r.rsa)).Digest() || one.Digest() == list(b64(r.rsa), nameOf(t, r.ecc)).Digest() {
		t.Error("other entries have the same digest")
	}
}

func TestParseListFaults(t *testing.T) {
	r := newReel(t)
	good, other := b64(r.rsa), b64(r.ecc)
	soft := newRSA()
	soft.Attributes &^= tpm.FixedTPM
	for _, test := range []struct {
		name, text string
		want       []string // what the error says, in this order
	}{
		{"nothing", "", []string{"no key in it"}},
		{"only comments", "# nothing\n\n", []string{"no key in it"}},
		{"only a header", "registrationId,endorsementKey\n", []string{"no key in it"}},
		{"no column of the key", "registrationId,ek\npump-7," + good, []string{"line 1: no column is named endorsementKey"}},
		{"a table without a header", "pump-7," + good, []string{"line 1: no column is named endorsementKey"}},
		{"a column too few", "registrationId,endorsementKey\npump-7\npump-8," + good, []string{"line 2: no value in the column"}},
		{"an empty key", "registrationId,endorsementKey\npump-7,\npump-8," + good, []string{"line 2: no key"}},
		{"an open quote", "registrationId,endorsementKey\n\"pump-7," + good, []string{"line 2: no value in the column"}},
		{"a word", good + "\npump-7\n", []string{"line 2: neither base64 nor"}},
		{"base64 of a word", good + "\ncHVtcA==\n", []string{"line 2: TPM public area"}},
		{"a key cut off", good[:400] + "\n", []string{"line 1: TPM public area"}},
		{"a key with a byte more", b64(append(slices.Clone(r.rsa), 0)), []string{"line 1: TPM public area"}},
		{"another alphabet", strings.NewReplacer("+", "-", "/", "_").Replace(b64(bytes.Repeat([]byte{0xff}, 60))), []string{"line 1: neither base64 nor"}},
		{"a software key", b64(soft.Marshal()), []string{"line 1: endorsement key: fixedTPM"}},
		{"a digest not in hexadecimal", strings.Repeat("g", 64), []string{"line 1: 64 characters, but"}},
		{"a digest too short", strings.Repeat("ab", 31), []string{"line 1: "}},
		{"an ID not in base32", strings.Repeat("1", 52), []string{"line 1: 52 characters, but"}},
		{"an ID with a bit too many", strings.Repeat("a", 51) + "b", []string{"line 1: 52 characters, but"}},
		{"a SHA-1 Name", "0004" + strings.Repeat("ab", 20), []string{"line 1: "}},
		{"a Name of another algorithm", "000c" + strings.Repeat("ab", 32), []string{"line 1: "}},
		{"a key twice", good + "\n" + other + "\n# again\n" + good, []string{"line 4: the same key as in line 1"}},
		{"a key twice, in two forms", digest(r.rsa) + "\n" + other + "\n" + good + "\n" + tpm.RegistrationID(r.rsa),
			[]string{"line 3: the same key as in line 1", "line 4: the same key as in line 1"}},
		{"several faults", "x\n" + good + "\ny\n" + good + "\n", []string{"line 1: ", "line 3: ", "line 4: the same key as in line 2"}},
		{"an endless line", good + "\n" + strings.Repeat("A", 1<<20), []string{"line 2: longer than"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := ekcert.ParseList(strings.NewReader(test.text))
			if err == nil {
				t.Fatalf("accepted with %d keys", l.Len())
			}
			said := err.Error()
			for _, want := range test.want {
				i := strings.Index(said, want)
				if i < 0 {
					t.Fatalf("error is %q, want one with %q", err, test.want)
				}
				said = said[i+len(want):]
			}
		})
	}
}

// A file of nothing but faults is answered in bounded space.
func TestParseListManyFaults(t *testing.T) {
	_, err := ekcert.ParseList(strings.NewReader(strings.Repeat("pump\n", 1000)))
	list, ok := errors.AsType[*ekcert.ListError](err)
	if !ok {
		t.Fatal(err)
	}
	if len(list.Faults) != 20 || list.Total != 1000 || list.Faults[19].Line != 20 || !strings.HasSuffix(err.Error(), "; and 980 more") {
		t.Errorf("%d faults of %d: %v", len(list.Faults), list.Total, err)
	}
}

// counting yields n different digests, one a line, and then fails.
type counting struct{ n, i int }

func (c *counting) Read(p []byte) (n int, err error) {
	const line = "00000000000000000000000000000000000000000000000000000000\n"
	for ; c.i < c.n && len(p)-n >= 8+len(line); c.i++ {
		n += copy(p[n:], hex.AppendEncode(nil, binary.BigEndian.AppendUint32(nil, uint32(c.i))))
		n += copy(p[n:], line)
	}
	if n == 0 {
		return 0, errEnd
	}
	return n, nil
}

var errEnd = errors.New("the disk is gone")

func TestParseListLimits(t *testing.T) {
	if _, err := ekcert.ParseList(&counting{n: 5}); !errors.Is(err, errEnd) || !strings.Contains(err.Error(), "after line 5") {
		t.Errorf("a reader that fails: %v", err)
	}
	_, err := ekcert.ParseList(&counting{n: ekcert.MaxListEntries + 1})
	if err == nil || !strings.Contains(err.Error(), "line 1000001: more than 1000000 keys") {
		t.Errorf("too many keys: %v", err)
	}
}

func TestUnmarshalListRefuses(t *testing.T) {
	r := newReel(t)
	l, err := ekcert.ParseList(strings.NewReader(b64(r.rsa) + "\n" + b64(r.ecc)))
	if err != nil {
		t.Fatal(err)
	}
	good := l.Marshal()
	const head = 12
	edit := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"another version": edit(func(b []byte) []byte { b[7] = '2'; return b }),
		"no count":        good[:head-1],
		"no keys":         edit(func(b []byte) []byte { clear(b[8:head]); return b[:head] }),
		"cut off":         good[:len(good)-1],
		"a key less":      good[:len(good)-32],
		"a byte more":     append(slices.Clone(good), 0),
		"out of order": edit(func(b []byte) []byte {
			return slices.Concat(b[:head], b[head+32:], b[head:head+32])
		}),
		"a key twice": edit(func(b []byte) []byte { copy(b[head+32:], b[head:head+32]); return b }),
		"a huge count": edit(func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[8:], 0xffffffff)
			return b
		}),
	} {
		if _, err := ekcert.UnmarshalList(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Whatever list is accepted has one stored form, and the order of its lines does
// not matter.
func FuzzParseList(f *testing.F) {
	r := newReel(f)
	rsa, ecc := b64(r.rsa), b64(r.ecc)
	f.Add([]byte(rsa + "\n" + ecc + "\n"))
	f.Add([]byte("registrationId,endorsementKey\r\n\"pump-7\"," + rsa + "\r\npump-8,\"" + digest(r.ecc) + "\"\r\n"))
	f.Add([]byte(tpm.RegistrationID(r.rsa) + "\n# comment\n\n" + nameOf(f, r.ecc)))
	f.Add([]byte(rsa + "\n" + rsa))
	f.Add([]byte("a;\"\"\";endorsementKey\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ekcert.ParseList(bytes.NewReader(b))
		if err != nil {
			if l != nil {
				t.Error("a list and an error")
			}
			return
		}
		stored := l.Marshal()
		again, err := ekcert.UnmarshalList(stored)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Marshal(), stored) {
			t.Error("the list has two stored forms")
		}
	})
}

// What is accepted as a stored list is stored in the same bytes again.
func FuzzUnmarshalList(f *testing.F) {
	f.Add([]byte("EKLIST 1\x00\x00\x00\x01" + strings.Repeat("k", 32)))
	f.Add([]byte("EKLIST 1\x00\x00\x00\x02" + strings.Repeat("k", 32) + strings.Repeat("l", 32)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ekcert.UnmarshalList(b); err == nil && !bytes.Equal(l.Marshal(), b) {
			t.Errorf("%x is stored as %x", b, l.Marshal())
		}
	})
}

func lines(n int) []byte {
	var b bytes.Buffer
	ek := newRSA()
	for i := range n {
		binary.BigEndian.PutUint64(ek.Modulus[8:], uint64(i))
		fmt.Fprintf(&b, "pump-%d,%s,7\n", i, b64(ek.Marshal()))
	}
	return b.Bytes()
}

// A table of 100,000 keys, 43 MB.
func BenchmarkParseList(b *testing.B) {
	text := append([]byte("registrationId,endorsementKey,lot\n"), lines(100_000)...)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := ekcert.ParseList(bytes.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkContains(b *testing.B) {
	l, err := ekcert.ParseList(bytes.NewReader(append([]byte("registrationId,endorsementKey,lot\n"), lines(100_000)...)))
	if err != nil {
		b.Fatal(err)
	}
	stranger := newRSA().Marshal()
	b.Run("stranger", func(b *testing.B) {
		for b.Loop() {
			if l.Contains(stranger) {
				b.Fatal("it is on the list")
			}
		}
	})
}
