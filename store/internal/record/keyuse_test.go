package record

import (
	"bytes"
	"crypto/rand"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
)

func testCodec(t *testing.T) Codec {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.key")
	if err := soft.Create(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	key, err := soft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := NewCodec(key)
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

// Who has the database but not the servers' key can neither test a guess nor
// tell that two scopes have a key in common.
func TestADigestDependsOnTheServersKeyAndTheScope(t *testing.T) {
	one, other := testCodec(t), testCodec(t)
	key, err := device.GenerateSymmetricKey(rand.Reader, 32)
	if err != nil {
		t.Fatal(err)
	}
	keys := attest.SymmetricKeys{Primary: key, Secondary: key}
	digests := one.KeyDigests("0ne0000000a", keys)
	if len(digests) != 1 || len(digests[0]) != digestSize || bytes.Contains(key.Bytes(), digests[0]) {
		t.Fatalf("%x", digests)
	}
	for name, d := range map[string][][]byte{
		"another server's key": other.KeyDigests("0ne0000000a", keys),
		"another scope":        one.KeyDigests("0ne0000000b", keys),
	} {
		if bytes.Equal(d[0], digests[0]) {
			t.Errorf("%s makes the same digest", name)
		}
	}
	if again := one.KeyDigests("0ne0000000a", attest.SymmetricKeys{Secondary: key}); !bytes.Equal(again[0], digests[0]) {
		t.Error("the other slot makes another digest")
	}
	if none := one.KeyDigests("0ne0000000a", attest.SymmetricKeys{}); len(none) != 0 {
		t.Errorf("no key has the digest %x", none)
	}
}

func TestTheErrorNamesNoMoreThanThereAre(t *testing.T) {
	if text := KeyShared([]string{"a", "b"}).Error(); !strings.Contains(text, "a, b;") {
		t.Error(text)
	}
	if text := KeyShared(make([]string, MaxSharers)).Error(); !strings.Contains(text, "perhaps others") {
		t.Error(text)
	}
}
