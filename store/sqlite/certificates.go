package sqlite

import (
	"context"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/store/internal/record"
)

// The column name is compared without case.
const (
	selectCACertificate  = "SELECT " + record.CACertificateColumns + " FROM ca_certificate WHERE scope = ? AND name = ?"
	selectCACertificates = "SELECT " + record.CACertificateColumns + " FROM ca_certificate WHERE scope = ? ORDER BY name"
	replaceCACertificate = "REPLACE INTO ca_certificate (" + record.CACertificateColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
	deleteCACertificate  = "DELETE FROM ca_certificate WHERE scope = ? AND name = ?"
)

// CACertificate implements enroll.CACertificates.
func (s *Store) CACertificate(ctx context.Context, scope device.IDScope, name string) (*enroll.CACertificate, error) {
	return find(ctx, s, enroll.NoCACertificate(), record.CACertificate, selectCACertificate, string(scope), name)
}

// CACertificates implements enroll.CACertificates and provision.EnrollmentReader.
func (s *Store) CACertificates(ctx context.Context, scope device.IDScope) ([]*enroll.CACertificate, error) {
	return cached(ctx, s, &s.certificates, scope, func(ctx context.Context) ([]*enroll.CACertificate, error) {
		return list(ctx, s, record.CACertificate, selectCACertificates, string(scope))
	})
}

// ChangeCACertificate implements enroll.CACertificates. It returns an error of
// kind errs.NotFound when there is no such scope.
func (s *Store) ChangeCACertificate(ctx context.Context, scope device.IDScope, name string, decide func(*enroll.CACertificate) (*enroll.CACertificate, error)) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.certificates.Forget(scope) })
		old, err := one(t.conn, record.CACertificate, selectCACertificate, string(scope), name)
		if err != nil {
			return err
		}
		exists := old != nil // decide may change what it is given
		next, err := decide(old)
		switch {
		case err != nil:
			return err
		case next == nil && !exists:
			return nil
		case next == nil:
			return t.exec(deleteCACertificate, string(scope), name)
		}
		if err := record.KeepsCACertificate(scope, name, next); err != nil {
			return err
		}
		err = t.exec(replaceCACertificate, record.CACertificateValues(next)...)
		if isForeignKey(err) {
			return record.NoScope().WithCause(err)
		}
		return err
	})
}
