package soft

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/berth-iot/berth/hsm"
)

var (
	_ hsm.Sealer  = (*Key)(nil)
	_ hsm.Deriver = (*Key)(nil)
)

func fresh(t *testing.T) (*Key, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.key")
	if err := Create(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	k, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return k, path
}

func TestSealedIsOpenedWithTheSameContextAlone(t *testing.T) {
	k, _ := fresh(t)
	for _, plaintext := range []string{"", "x", strings.Repeat("secret", 1000)} {
		sealed, err := k.Seal([]byte(plaintext), "enrollment/0ne00000001/pump-7/keys")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Open(sealed, "enrollment/0ne00000001/pump-7/keys"); err != nil || string(got) != plaintext {
			t.Errorf("opened %q, %v", got, err)
		}
		for _, context := range []string{"", "enrollment/0ne00000001/pump-8/keys", "enrollment/0ne00000001/pump-7/keys\x00", "enrollment/0ne00000001/pump-7/key"} {
			if _, err := k.Open(sealed, context); err == nil {
				t.Errorf("opened with context %q", context)
			}
		}
		stranger, _ := fresh(t)
		if _, err := stranger.Open(sealed, "enrollment/0ne00000001/pump-7/keys"); err == nil {
			t.Error("another server's key opened it")
		}
	}
}

func TestDamagedSealsAreRefused(t *testing.T) {
	k, _ := fresh(t)
	sealed, err := k.Seal([]byte("sixteen bytes!!!"), "c")
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(sealed) * 8 {
		damaged := bytes.Clone(sealed)
		damaged[bit/8] ^= 1 << (bit % 8)
		if _, err := k.Open(damaged, "c"); err == nil {
			t.Errorf("opened with bit %d flipped", bit)
		}
	}
	for n := range len(sealed) {
		if _, err := k.Open(sealed[:n], "c"); err == nil {
			t.Errorf("opened the first %d bytes", n)
		}
	}
	if _, err := k.Open(append(bytes.Clone(sealed), 0), "c"); err == nil {
		t.Error("opened with a byte appended")
	}
	if _, err := k.Open(nil, ""); err == nil {
		t.Error("opened nothing")
	}
}

func TestSealingTwiceDoesNotRepeat(t *testing.T) {
	k, _ := fresh(t)
	one, _ := k.Seal([]byte("same"), "c")
	two, _ := k.Seal([]byte("same"), "c")
	if bytes.Equal(one, two) {
		t.Error("two seals of one secret are equal")
	}
}

func TestDerivedKeysDependOnInfoAndServerKey(t *testing.T) {
	k, path := fresh(t)
	derive := func(k *Key, info string, size int) string {
		t.Helper()
		b, err := k.Derive([]byte(info), size)
		if err != nil || len(b) != size {
			t.Fatalf("derived %d bytes of %d: %v", len(b), size, err)
		}
		return string(b)
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := fresh(t)
	want := derive(k, "nonce", 32)
	if derive(again, "nonce", 32) != want {
		t.Error("the same file derives another key")
	}
	if derive(k, "nonce2", 32) == want || derive(k, "", 32) == want || derive(stranger, "nonce", 32) == want {
		t.Error("different arguments derive one key")
	}
	for _, size := range []int{-1, 0, 8161} {
		if _, err := k.Derive(nil, size); err == nil {
			t.Errorf("derived a key of %d bytes", size)
		}
	}
}

// The two purposes of one file must not share a key, and neither may change
// between versions: what was sealed or derived yesterday must be found again.
func TestKeysStayWhatTheyAre(t *testing.T) {
	k, err := newKey(bytes.Repeat([]byte{7}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	derived, err := k.Derive([]byte("info"), 16)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(derived), "06cbd1017e753ff54a56a72c631f66f4"; got != want {
		t.Errorf("derived %s, want %s", got, want)
	}
	sealed, err := hex.DecodeString("01e1ffc660cbe2c22d93062ec3fad2c8a01be973260aa2a60c27a44a116f96b647a81c8bb749056cb64d2c0c")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(sealed, "context"); err != nil || string(got) != "a secret of old" {
		t.Errorf("opened %q, %v", got, err)
	}
}

func TestKeysCannotBePrinted(t *testing.T) {
	k, path := fresh(t)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	type nested struct {
		Key  *Key
		key  *Key
		bare Key
	}
	for _, v := range []any{k, *k, nested{k, k, *k}, &nested{k, k, *k}, []*Key{k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			assertNoSecret(t, fmt.Sprintf(verb, v), secret)
		}
		b, _ := json.Marshal(v)
		assertNoSecret(t, string(b), secret)
	}
	if got := fmt.Sprint(k); got != "[server key]" {
		t.Errorf("printed %q", got)
	}
}

func assertNoSecret(t *testing.T, text string, secret []byte) {
	t.Helper()
	for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), fmt.Sprint(secret)} {
		if strings.Contains(text, form) {
			t.Errorf("the key shows in %q", text)
		}
	}
}

func TestOneKeyServesMany(t *testing.T) {
	k, _ := fresh(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			context := fmt.Sprint(i)
			for range 200 {
				sealed, err := k.Seal([]byte(context), context)
				if err != nil {
					t.Error(err)
				}
				if got, err := k.Open(sealed, context); err != nil || string(got) != context {
					t.Errorf("opened %q, %v", got, err)
				}
				if _, err := k.Derive([]byte(context), 32); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCreateDoesNotReplace(t *testing.T) {
	_, path := fresh(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Create(path, rand.Reader); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating over a key: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("the key changed")
	}
}

func TestCreateLeavesNothingWithoutRandomness(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.key")
	if err := Create(path, strings.NewReader("too short")); err == nil {
		t.Error("created a key from nine bytes")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left a file: %v", err)
	}
}

func TestFilesOthersCanUseAreRefused(t *testing.T) {
	_, path := fresh(t)
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false, 0o601: false, 0o666: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if ok && err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if !ok && (err == nil || !strings.Contains(err.Error(), "chmod 600 "+path)) {
			t.Errorf("mode %04o: %v; want the chmod that fixes it", mode, err)
		}
	}
}

func TestWhatIsNoKeyFileIsRefused(t *testing.T) {
	good := encode(bytes.Repeat([]byte{7}, keySize))
	for name, text := range map[string]string{
		"empty":              "",
		"header alone":       header,
		"another version":    strings.Replace(string(good), "key-1", "key-2", 1),
		"raw bytes":          string(bytes.Repeat([]byte{7}, keySize)),
		"31 bytes":           string(encode(make([]byte, 31))),
		"33 bytes":           string(encode(make([]byte, 33))),
		"truncated":          string(good[:len(good)-5]),
		"two newlines":       string(good) + "\n",
		"carriage return":    strings.TrimSuffix(string(good), "\n") + "\r\n",
		"newline inside":     header + "\n" + strings.TrimPrefix(string(good), header),
		"something behind":   string(good) + "more",
		"no padding":         strings.TrimRight(string(good), "=\n"),
		"dirty final bits":   strings.Replace(string(good), "c=", "d=", 1),
		"endless":            strings.Repeat("x", 1<<20),
		"leading whitespace": " " + string(good),
	} {
		path := filepath.Join(t.TempDir(), "server.key")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil {
			t.Errorf("%s: opened", name)
		} else {
			assertNoSecret(t, err.Error(), bytes.Repeat([]byte{7}, keySize))
		}
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, filepath.Join(dir, "missing")} {
		if _, err := Open(path); err == nil {
			t.Errorf("opened %s", path)
		}
	}
}

func TestStrangersFilesAreRefused(t *testing.T) {
	path := "/etc/passwd" // root's, where the test is not
	if os.Geteuid() == 0 {
		_, path = fresh(t)
		if err := os.Chown(path, 4242, -1); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("chown %d %s", os.Geteuid(), path)
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("another user's file: %v", err)
	}
}
