package postgres

import (
	"context"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectCACertificate  = "SELECT " + record.CACertificateColumns + " FROM ca_certificate WHERE scope = $1 AND lower(name) = $2"
	selectCACertificates = "SELECT " + record.CACertificateColumns + " FROM ca_certificate WHERE scope = $1 ORDER BY lower(name)"
	updateCACertificate  = `UPDATE ca_certificate SET name = $2, certificate = $3, verified = $4, verification_code = $5, etag = $6, created = $7, updated = $8
		WHERE scope = $1 AND lower(name) = lower($2::text COLLATE "C")`
	deleteCACertificate = "DELETE FROM ca_certificate WHERE scope = $1 AND lower(name) = $2"
)

var insertCACertificate = insert("ca_certificate", record.CACertificateColumns)

// CACertificate implements enroll.CACertificates.
func (s *Store) CACertificate(ctx context.Context, scope device.IDScope, name string) (*enroll.CACertificate, error) {
	return find(ctx, s, enroll.NoCACertificate(), record.CACertificate, selectCACertificate, string(scope), enroll.CertificateKey(name))
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
	key := enroll.CertificateKey(name)
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		t.then(func() { s.certificates.Forget(scope) })
		var old *enroll.CACertificate
		err := t.read(ctx, query{into(&old, record.CACertificate), selectCACertificate + " FOR UPDATE", []any{string(scope), key}})
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
			t.write(deleteCACertificate, string(scope), key)
			t.changed()
			return nil
		}
		if err := record.KeepsCACertificate(scope, name, next); err != nil {
			return err
		}
		if exists {
			t.write(updateCACertificate, record.CACertificateValues(next)...)
		} else {
			t.write(insertCACertificate, record.CACertificateValues(next)...)
		}
		t.changed()
		return nil
	})
}
