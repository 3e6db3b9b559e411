package sqlite

import (
	"errors"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
)

// sealKeys seals a pair of keys for the column "keys" of the record that path
// names: the table and the primary key. Inside are the length of the primary in
// one byte, the primary and the secondary; a missing key has no bytes. There is
// nothing to seal when both are missing.
func (s *Store) sealKeys(k attest.SymmetricKeys, path ...string) ([]byte, error) {
	if k.Primary.IsZero() && k.Secondary.IsZero() {
		return nil, nil
	}
	primary := k.Primary.Bytes()
	plain := append([]byte{byte(len(primary))}, primary...)
	sealed, err := s.sealer.Seal(append(plain, k.Secondary.Bytes()...), sealContext(path))
	if err != nil {
		return nil, fmt.Errorf("sealing the keys of %q: %w", path, err)
	}
	return sealed, nil
}

// openKeys is the inverse of sealKeys.
func (s *Store) openKeys(sealed []byte, path ...string) (k attest.SymmetricKeys, err error) {
	if sealed == nil {
		return k, nil
	}
	plain, err := s.sealer.Open(sealed, sealContext(path))
	if err != nil {
		return k, fmt.Errorf("opening the keys of %q: %w", path, err)
	}
	if len(plain) == 0 || int(plain[0]) > len(plain)-1 {
		return k, fmt.Errorf("the keys of %q are damaged", path)
	}
	primary, secondary := plain[1:1+plain[0]], plain[1+plain[0]:]
	if k.Primary, err = openKey(primary); err != nil {
		return k, fmt.Errorf("the primary key of %q: %w", path, err)
	}
	if k.Secondary, err = openKey(secondary); err != nil {
		return k, fmt.Errorf("the secondary key of %q: %w", path, err)
	}
	return k, nil
}

func openKey(b []byte) (device.SymmetricKey, error) {
	if len(b) == 0 {
		return device.SymmetricKey{}, nil
	}
	return device.NewSymmetricKey(b)
}

// sealContext names the member "keys" of a record. No element but the
// last can contain a slash.
func sealContext(path []string) string { return strings.Join(path, "/") + "/keys" }

const sealCheck = "Berth sealed this under its server key."

// checkSealer notices that the server key is not the one this database was
// sealed under.
func (s *Store) checkSealer() error {
	var sealed []byte
	err := s.writer.each(func(r *row) error { sealed = r.blob(); return nil }, "SELECT sealed FROM seal_check WHERE id = 1")
	if err != nil {
		return err
	}
	if sealed == nil {
		if sealed, err = s.sealer.Seal([]byte(sealCheck), "seal_check"); err != nil {
			return fmt.Errorf("sealing: %w", err)
		}
		return s.writer.exec("INSERT INTO seal_check (id, sealed) VALUES (1, ?)", sealed)
	}
	if text, err := s.sealer.Open(sealed, "seal_check"); err != nil || string(text) != sealCheck {
		return errors.New("its secrets are sealed under another server key")
	}
	return nil
}
