package dpsjson

import (
	"errors"
	"time"
)

// A CACertificate is a CA certificate that the service keeps for enrollment groups to name, as the management API of
// the original describes it.
type CACertificate struct {
	Name       string                  `json:"name"`
	ETag       string                  `json:"etag"`
	Properties CACertificateProperties `json:"properties"`
}

// CACertificateProperties describe a CA certificate.
type CACertificateProperties struct {
	Certificate      Certificate `json:"certificate"`
	Subject          string      `json:"subject"` // RFC 4514: "CN=Plant CA"
	Expiry           Date        `json:"expiry"`
	Thumbprint       string      `json:"thumbprint"`       // SHA-1, upper-case hexadecimal, like the next
	SHA256Thumbprint string      `json:"sha256Thumbprint"` // an extension
	IsVerified       bool        `json:"isVerified"`
	VerificationCode string      `json:"verificationCode,omitempty"` // while a proof is asked for
	Created          Date        `json:"created"`
	Updated          Date        `json:"updated"`
	EnrollmentGroups []string    `json:"enrollmentGroups,omitempty"` // those that name it; an extension
}

// A CACertificateUpload is what a client sends of a CA certificate, or to prove that it has the key of one.
type CACertificateUpload struct {
	Certificate Certificate `json:"certificate,omitempty"`
	IsVerified  *bool       `json:"isVerified,omitempty"` // true skips the proof; nil leaves it as it is
}

// DecodeCACertificateUpload reads an upload whose members stand in the body, as in older versions of the management
// API, or in its member properties.
func DecodeCACertificateUpload(b []byte) (CACertificateUpload, error) {
	var body struct {
		Certificate Certificate          `json:"certificate"`
		IsVerified  *bool                `json:"isVerified"`
		Properties  *CACertificateUpload `json:"properties"`
	}
	if err := decode(b, MaxBody, &body); err != nil {
		return CACertificateUpload{}, err
	}
	switch {
	case body.Properties == nil:
		return CACertificateUpload{body.Certificate, body.IsVerified}, nil
	case body.Certificate != nil || body.IsVerified != nil:
		return CACertificateUpload{}, fault{"properties", "the same members do not stand beside it"}
	}
	return *body.Properties, nil
}

// A Date is an instant as the management API writes it, to the second: RFC 1123 in GMT ("Thu, 16 May 2019 19:52:31
// GMT").
type Date time.Time

const dateFormat = "Mon, 02 Jan 2006 15:04:05 GMT"

// MarshalText returns the date as it stands in a body.
func (d Date) MarshalText() ([]byte, error) {
	return []byte(time.Time(d).UTC().Format(dateFormat)), nil
}

// UnmarshalText reads what MarshalText writes.
func (d *Date) UnmarshalText(text []byte) error {
	t, err := time.Parse(dateFormat, string(text))
	if err != nil {
		return errors.New("not a date as in RFC 1123, in GMT")
	}
	*d = Date(t)
	return nil
}
