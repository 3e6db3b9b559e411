// Package sealed is how the engines keep secrets in a database: symmetric keys
// are encrypted by the server's sealer before they get there, each pair for the
// one record it belongs to.
package sealed

import (
	"fmt"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm"
)

// Keys seals a pair of keys for the column "keys" of the record that path
// names: the table and the primary key. Inside are the length of the primary in
// one byte, the primary and the secondary; a missing key has no bytes. There is
// nothing to seal when both are missing, and the result is nil.
func Keys(by hsm.Sealer, k attest.SymmetricKeys, path ...string) ([]byte, error) {
	if k.Primary.IsZero() && k.Secondary.IsZero() {
		return nil, nil
	}
	primary := k.Primary.Bytes()
	plain := append([]byte{byte(len(primary))}, primary...)
	sealed, err := by.Seal(append(plain, k.Secondary.Bytes()...), context(path))
	if err != nil {
		return nil, fmt.Errorf("sealing the keys of %q: %w", path, err)
	}
	return sealed, nil
}

// OpenKeys is the inverse of Keys. The path must be the same one.
func OpenKeys(by hsm.Sealer, sealed []byte, path ...string) (k attest.SymmetricKeys, err error) {
	if sealed == nil {
		return k, nil
	}
	plain, err := by.Open(sealed, context(path))
	if err != nil {
		return k, fmt.Errorf("opening the keys of %q: %w", path, err)
	}
	if len(plain) == 0 || int(plain[0]) > len(plain)-1 {
		return k, fmt.Errorf("the keys of %q are damaged", path)
	}
	primary, secondary := plain[1:1+plain[0]], plain[1+plain[0]:]
	if k.Primary, err = key(primary); err != nil {
		return k, fmt.Errorf("the primary key of %q: %w", path, err)
	}
	if k.Secondary, err = key(secondary); err != nil {
		return k, fmt.Errorf("the secondary key of %q: %w", path, err)
	}
	return k, nil
}

func key(b []byte) (device.SymmetricKey, error) {
	if len(b) == 0 {
		return device.SymmetricKey{}, nil
	}
	return device.NewSymmetricKey(b)
}

// Secret seals bytes for the column "secret" of the record that path names.
func Secret(by hsm.Sealer, plain []byte, path ...string) ([]byte, error) {
	sealed, err := by.Seal(plain, strings.Join(path, "/")+"/secret")
	if err != nil {
		return nil, fmt.Errorf("sealing the secret of %q: %w", path, err)
	}
	return sealed, nil
}

// OpenSecret is the inverse of Secret. The path must be the same one.
func OpenSecret(by hsm.Sealer, sealed []byte, path ...string) ([]byte, error) {
	plain, err := by.Open(sealed, strings.Join(path, "/")+"/secret")
	if err != nil {
		return nil, fmt.Errorf("opening the secret of %q: %w", path, err)
	}
	return plain, nil
}

// context names the member "keys" of a record. No element but the last can
// contain a slash.
func context(path []string) string { return strings.Join(path, "/") + "/keys" }

const checkText = "Berth sealed this under its server key."

// Check returns a known text sealed by the sealer. A database keeps one, so
// that a wrong server key is noticed before it does harm.
func Check(by hsm.Sealer) ([]byte, error) {
	sealed, err := by.Seal([]byte(checkText), "seal_check")
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return sealed, nil
}

// Opens reports whether the sealer is the one that made check.
func Opens(by hsm.Sealer, check []byte) bool {
	text, err := by.Open(check, "seal_check")
	return err == nil && string(text) == checkText
}
