package dpsjson

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// maxCertificate bounds the text of a certificate or a certificate request, in bytes.
const maxCertificate = 32 << 10

// A Certificate is the DER of an X.509 certificate (RFC 5280). Clients write it in any way that [ParseCertificate]
// reads; we write it as base64 DER.
type Certificate []byte

// MarshalText returns the certificate as base64 DER.
func (c Certificate) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, c), nil
}

// UnmarshalText reads what [ParseCertificate] reads.
func (c *Certificate) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCertificate(string(text))
	return err
}

// A CertificateRequest is the DER of a PKCS #10 request (RFC 2986), written and read like a [Certificate].
type CertificateRequest []byte

// MarshalText returns the request as base64 DER.
func (r CertificateRequest) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, r), nil
}

// UnmarshalText reads a request as PEM, base64 of PEM or base64 DER. Its signature is not checked.
func (r *CertificateRequest) UnmarshalText(text []byte) error {
	der, err := parseDER(text, "CERTIFICATE REQUEST")
	if err != nil {
		return err
	}
	if _, err := x509.ParseCertificateRequest(der); err != nil {
		return errors.New("not a PKCS #10 certificate request")
	}
	*r = der
	return nil
}

// ParseCertificate returns the DER of the one certificate in s, which is the text of a PEM file, the base64 of such a
// file, or the base64 of DER: each is what some client sends. Text before the PEM block is allowed, as OpenSSL writes
// it there; a second block, of any type, is not. The certificate is well-formed and otherwise unchecked.
func ParseCertificate(s string) ([]byte, error) {
	der, err := parseDER([]byte(s), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		return nil, errors.New("not an X.509 certificate")
	}
	return der, nil
}

// parseDER returns the bytes of the only PEM block in text, which must have the given label, or of text's base64.
func parseDER(text []byte, label string) ([]byte, error) {
	if len(text) > maxCertificate {
		return nil, fmt.Errorf("longer than %d bytes", maxCertificate)
	}
	begin := []byte("-----BEGIN ")
	if !bytes.Contains(text, begin) {
		decoded, err := base64.StdEncoding.AppendDecode(nil, bytes.TrimSpace(text))
		if err != nil {
			return nil, errors.New("neither PEM nor base64")
		}
		if !bytes.Contains(decoded, begin) {
			return decoded, nil
		}
		text = decoded
	}
	if bytes.Count(text, begin) > 1 {
		return nil, errors.New("more than one PEM block")
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, errors.New("not PEM")
	case block.Type != label:
		return nil, errors.New("not a PEM " + label)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("text after the PEM block")
	}
	return block.Bytes, nil
}

// An X509CertificateInfo describes a certificate. All eight members are always there: a client fails without one.
type X509CertificateInfo struct {
	SubjectName      string `json:"subjectName"`      // RFC 4514: "CN=dev-1"
	SHA1Thumbprint   string `json:"sha1Thumbprint"`   // upper-case hexadecimal, like the next and the serial number
	SHA256Thumbprint string `json:"sha256Thumbprint"` // of the DER
	IssuerName       string `json:"issuerName"`
	NotBeforeUTC     Time   `json:"notBeforeUtc"`
	NotAfterUTC      Time   `json:"notAfterUtc"`
	SerialNumber     string `json:"serialNumber"`
	Version          int    `json:"version"` // 3 for X.509 v3
}

// CertificateInfo describes cert. Only its Raw members, serial number, dates and version are read.
func CertificateInfo(cert *x509.Certificate) X509CertificateInfo {
	return X509CertificateInfo{
		SubjectName:      distinguishedName(cert.RawSubject),
		SHA1Thumbprint:   fmt.Sprintf("%X", sha1.Sum(cert.Raw)),
		SHA256Thumbprint: fmt.Sprintf("%X", sha256.Sum256(cert.Raw)),
		IssuerName:       distinguishedName(cert.RawIssuer),
		NotBeforeUTC:     Time(cert.NotBefore),
		NotAfterUTC:      Time(cert.NotAfter),
		SerialNumber:     serialNumber(cert.SerialNumber),
		Version:          cert.Version,
	}
}

// serialNumber writes whole bytes: two digits each.
func serialNumber(n *big.Int) string {
	digits := fmt.Sprintf("%X", n)
	if len(digits)%2 == 1 {
		return "0" + digits
	}
	return digits
}

// distinguishedName writes a DER Name as RFC 4514 does, its last part first. The String method of pkix.Name would put
// the parts into an order of its own.
func distinguishedName(der []byte) string {
	var name pkix.RDNSequence
	if _, err := asn1.Unmarshal(der, &name); err != nil {
		return ""
	}
	return name.String()
}
