package record

import (
	"fmt"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
)

// CACertificateColumns are in the order in which CACertificate and
// CACertificateValues go through them. The first two are the key, the second
// without case.
const CACertificateColumns = "scope, name, certificate, verified, verification_code, etag, created, updated"

// CACertificateValues returns the row of a CA certificate.
func CACertificateValues(c *enroll.CACertificate) []any {
	return []any{string(c.Scope), c.Name, c.Certificate, c.Verified, c.VerificationCode, c.ETag, nanoseconds(c.Created), nanoseconds(c.Updated)}
}

// CACertificate reads the row of a CA certificate.
func CACertificate(r *Row) (*enroll.CACertificate, error) {
	return &enroll.CACertificate{
		Scope: device.IDScope(r.Text()), Name: r.Text(), Certificate: r.Blob(), Verified: r.Flag(), VerificationCode: r.Text(),
		ETag: r.Text(), Created: r.Time(), Updated: r.Time(),
	}, nil
}

// KeepsCACertificate returns an error unless next is of the given name: a change
// cannot rename a CA certificate.
func KeepsCACertificate(scope device.IDScope, name string, next *enroll.CACertificate) error {
	if next.Scope != scope || next.Key() != enroll.CertificateKey(name) {
		return fmt.Errorf("CA certificate %s/%s cannot become %s/%s", scope, name, next.Scope, next.Name)
	}
	return nil
}
