// Package pki makes and reads the certificates this project issues itself: the
// authority behind a server's own certificate, and the CA hierarchies and
// device certificates of a factory or a test bench (RFC 5280). Keys are ECDSA
// P-256 unless the caller brings one.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"time"
)

// backdate is how long before its making a certificate begins to be valid:
// devices without a clock battery wake up in the past.
const backdate = 24 * time.Hour

// Lifetimes of what is issued here. An authority outlives its leaves.
const (
	AuthorityLifetime = 20 * 365 * 24 * time.Hour
	LeafLifetime      = 2 * 365 * 24 * time.Hour
	proofLifetime     = 24 * time.Hour
)

// An Issuer is a CA certificate with its key and the certificates above it.
type Issuer struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	Above       []*x509.Certificate // intermediates up to, without, the root
}

// A Leaf is an issued certificate with its key.
type Leaf struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	Above       []*x509.Certificate // intermediates, the issuing one first; the root is left out
}

// NewRoot makes a self-signed CA.
func NewRoot(name string, now time.Time, random io.Reader) (*Issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("making a CA key: %w", err)
	}
	template, err := caTemplate(name, now, random)
	if err != nil {
		return nil, err
	}
	c, err := create(template, template, key.Public(), key, random)
	if err != nil {
		return nil, err
	}
	return &Issuer{Certificate: c, Key: key}, nil
}

// NewIntermediate makes a CA below i that may issue leaves only.
func (i *Issuer) NewIntermediate(name string, now time.Time, random io.Reader) (*Issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("making a CA key: %w", err)
	}
	template, err := caTemplate(name, now, random)
	if err != nil {
		return nil, err
	}
	template.MaxPathLenZero = true
	c, err := create(template, i.Certificate, key.Public(), i.Key, random)
	if err != nil {
		return nil, err
	}
	return &Issuer{Certificate: c, Key: key, Above: append([]*x509.Certificate{c}, i.Above...)}, nil
}

// IssueDevice makes a client certificate whose common name is id, with a fresh
// key.
func (i *Issuer) IssueDevice(id string, now time.Time, random io.Reader) (*Leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("making a device key: %w", err)
	}
	template, err := leafTemplate(id, x509.ExtKeyUsageClientAuth, now, random)
	if err != nil {
		return nil, err
	}
	return i.issue(template, key, random)
}

// ProvePossession makes a certificate that shows to who drew code that i's key is
// at hand. It is good for nothing else: its own key is thrown away.
func (i *Issuer) ProvePossession(code string, now time.Time, random io.Reader) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	template, err := leafTemplate(code, x509.ExtKeyUsageClientAuth, now, random)
	if err != nil {
		return nil, err
	}
	template.NotAfter, template.ExtKeyUsage = now.Add(proofLifetime), nil
	return create(template, i.Certificate, key.Public(), i.Key, random)
}

// IssueServer makes a server certificate for the given host names and IP
// addresses. key is the server's own, or nil for a fresh one.
func (i *Issuer) IssueServer(hosts []string, key crypto.Signer, now time.Time, random io.Reader) (*Leaf, error) {
	if len(hosts) == 0 {
		return nil, errors.New("a server certificate needs a host name")
	}
	if key == nil {
		fresh, err := ecdsa.GenerateKey(elliptic.P256(), random)
		if err != nil {
			return nil, fmt.Errorf("making a server key: %w", err)
		}
		key = fresh
	}
	template, err := leafTemplate(hosts[0], x509.ExtKeyUsageServerAuth, now, random)
	if err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return i.issue(template, key, random)
}

// SelfSigned makes a client certificate that is its own issuer, as individual
// enrollments accept.
func SelfSigned(id string, now time.Time, random io.Reader) (*Leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("making a device key: %w", err)
	}
	template, err := leafTemplate(id, x509.ExtKeyUsageClientAuth, now, random)
	if err != nil {
		return nil, err
	}
	c, err := create(template, template, key.Public(), key, random)
	if err != nil {
		return nil, err
	}
	return &Leaf{Certificate: c, Key: key}, nil
}

func (i *Issuer) issue(template *x509.Certificate, key crypto.Signer, random io.Reader) (*Leaf, error) {
	c, err := create(template, i.Certificate, key.Public(), i.Key, random)
	if err != nil {
		return nil, err
	}
	return &Leaf{Certificate: c, Key: key, Above: i.Above}, nil
}

func create(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer, random io.Reader) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(random, template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %q: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func caTemplate(name string, now time.Time, random io.Reader) (*x509.Certificate, error) {
	serial, err := serialNumber(random)
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(AuthorityLifetime),
		BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}, nil
}

func leafTemplate(name string, usage x509.ExtKeyUsage, now time.Time, random io.Reader) (*x509.Certificate, error) {
	serial, err := serialNumber(random)
	if err != nil {
		return nil, err
	}
	if len(name) > 64 {
		return nil, fmt.Errorf("the common name %q has %d characters; 64 are allowed (RFC 5280, ub-common-name)", name, len(name))
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(LeafLifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{usage},
	}, nil
}

// serialNumber draws a positive serial of 127 random bits (RFC 5280 §4.1.2.2).
func serialNumber(random io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

// EncodeCertificates returns certificates as PEM (RFC 7468), in order.
func EncodeCertificates(cs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range cs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// ParseCertificates reads the CERTIFICATE blocks of a PEM file and skips
// others. It is an error if there is none.
func ParseCertificates(b []byte) ([]*x509.Certificate, error) {
	var cs []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(cs)+1, err)
		}
		cs = append(cs, c)
	}
	if cs == nil {
		return nil, errors.New("no PEM block of type CERTIFICATE")
	}
	return cs, nil
}

// EncodeKey returns a private key as PEM-framed PKCS #8 (RFC 5958). Only keys
// made by this package's callers in software can be encoded.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the key cannot be exported")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey reads the first private key of a PEM file: PKCS #8, SEC 1 or
// PKCS #1. Errors do not quote the file.
func ParseKey(b []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return nil, errors.New("no PEM block with a private key")
		}
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: not a key that can be read", block.Type)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%s: not a key that can sign", block.Type)
		}
		return signer, nil
	}
}
