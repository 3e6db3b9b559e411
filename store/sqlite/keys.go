package sqlite

import (
	"errors"

	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// checkSealer notices that the server key is not the one this database was
// sealed under.
func (s *Store) checkSealer() error {
	var check []byte
	err := s.writer.each(func(r *record.Row) error { check = r.Blob(); return nil }, "SELECT sealed FROM seal_check WHERE id = 1")
	if err != nil {
		return err
	}
	if check == nil {
		if check, err = sealed.Check(s.codec.Sealer); err != nil {
			return err
		}
		return s.writer.exec("INSERT INTO seal_check (id, sealed) VALUES (1, ?)", check)
	}
	if !sealed.Opens(s.codec.Sealer, check) {
		return errors.New("its secrets are sealed under another server key")
	}
	return nil
}
