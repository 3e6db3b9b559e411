package tpmtest

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/berth-iot/berth/tpm"
)

// It opens what a server seals, and nothing that was changed.
func TestActivate(t *testing.T) {
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ek, err := tpm.ParsePublic(m.EndorsementKey)
	if err != nil {
		t.Fatal(err)
	}
	srk, err := tpm.ParsePublic(m.StorageRootKey)
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("a key that only this TPM can use")
	blob, err := tpm.Activation(rand.Reader, ek, srk, key, "0ne00000000/registrations/pump-7")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.Activate(blob); err != nil || !bytes.Equal(got, key) {
		t.Errorf("opened %x, %v", got, err)
	}
	for _, i := range []int{40, 300, 400, 600, 740} { // one byte in each part that protects the key
		changed := bytes.Clone(blob)
		changed[i] ^= 1
		if _, err := m.Activate(changed); err == nil {
			t.Errorf("opened the blob with byte %d changed", i)
		}
	}
}
