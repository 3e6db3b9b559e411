// Package ekcert judges the endorsement key of a TPM by what its maker says of
// it: by the endorsement key certificate (TCG EK Credential Profile for TPM
// Family 2.0), which chains to a root of the TPM's vendor, or by a list of the
// keys on a reel. With it a group can admit "any TPM of these vendors" or "any
// TPM of this delivery" before anybody has seen the devices.
//
// A certificate or a place on a list alone proves nothing about a device: both
// are public data, and whoever has seen a TPM once can show its certificate for
// ever. What is accepted here says only whose key it is. That the device holds
// the key is proven by a challenge that only this TPM can answer, which is the
// business of package tpmid.
package ekcert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// MaxSize is the size in bytes of the largest certificate, or NV index with
// one, that Parse reads. Real ones have one to two thousand.
const MaxSize = 8 << 10

// MaxChain is the number of CA certificates a device may show beside its own.
const MaxChain = 8

// A Certificate is an endorsement key certificate. Parse makes one; that it
// parses says nothing about trust: see Verify.
type Certificate struct {
	X509 *x509.Certificate
	// PublicKey is an *rsa.PublicKey or an *ecdsa.PublicKey. Unlike the one in
	// X509 it is there for RSAES-OAEP keys, too.
	PublicKey crypto.PublicKey

	// What the subjectAltName says about the TPM (TCG EK Credential Profile,
	// "Subject Alternative Name"). Each is empty where the certificate is silent.
	Manufacturer Manufacturer
	Model        string
	Firmware     Firmware

	// Chain are CA certificates that were shown along with this one, in any
	// order. They help to find a way to a pinned root and are trusted for nothing.
	Chain []*x509.Certificate
}

// Parse reads an endorsement key certificate as it lies in an NV index of the
// TPM: DER, maybe behind the header of the PC Client Specific Implementation
// Specification ("TCG_PCCLIENT_STORED_CERT"), and maybe followed by the unused
// rest of the index, which is ignored. The result shares no memory with b.
func Parse(b []byte) (*Certificate, error) {
	c, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("EK certificate: %w", err)
	}
	return c, nil
}

func parse(b []byte) (*Certificate, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%d bytes: more than %d", len(b), MaxSize)
	}
	b, err := withoutHeader(b)
	if err != nil {
		return nil, err
	}
	der, _, err := cut(b)
	if err != nil {
		return nil, err
	}
	x, err := x509.ParseCertificate(bytes.Clone(der))
	if err != nil {
		return nil, err
	}
	c := &Certificate{X509: x}
	if c.PublicKey, err = subjectKey(x); err != nil {
		return nil, err
	}
	return c, c.readNames()
}

// ParseFile reads an endorsement key certificate in any form in which files,
// tables and vendors' services hold one: what Parse reads, PEM (RFC 7468), or
// base64 in the standard or the URL alphabet (RFC 4648) with or without padding
// and line breaks. CERTIFICATE blocks after the first of a PEM file become the
// Chain.
func ParseFile(b []byte) (*Certificate, error) {
	const maxText = (1 + MaxChain) * MaxSize * 3 / 2
	switch {
	case len(b) > maxText:
		return nil, fmt.Errorf("EK certificate: %d bytes: more than %d", len(b), maxText)
	case len(b) > 0 && (b[0] == sequence || b[0] == storedCert[0]):
		return Parse(b)
	case bytes.Contains(b, []byte("-----BEGIN")):
		return parsePEM(b)
	}
	der, err := decodeBase64(b)
	if err != nil {
		return nil, errors.New("EK certificate: neither DER nor PEM nor base64")
	}
	return Parse(der)
}

func parsePEM(b []byte) (*Certificate, error) {
	var c *Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c == nil {
			var err error
			if c, err = Parse(block.Bytes); err != nil {
				return nil, err
			}
			continue
		}
		chain, err := ParseChain(block.Bytes)
		if err != nil {
			return nil, err
		}
		if c.Chain = append(c.Chain, chain...); len(c.Chain) > MaxChain {
			return nil, fmt.Errorf("EK certificate: more than %d certificates follow it", MaxChain)
		}
	}
	if c == nil {
		return nil, errors.New("EK certificate: no PEM block of type CERTIFICATE")
	}
	return c, nil
}

func decodeBase64(b []byte) ([]byte, error) {
	b = bytes.Map(func(r rune) rune {
		switch r {
		case '-':
			return '+'
		case '_':
			return '/'
		case ' ', '\t', '\r', '\n':
			return -1
		}
		return r
	}, b)
	return base64.RawStdEncoding.AppendDecode(nil, bytes.TrimRight(b, "="))
}

// ParseChain reads CA certificates that stand one behind the other in DER, as
// the NV indices from 0x01C00100 hold the chain of an on-die CA (the contents of
// the indices joined in their order). Bytes 00 or FF at the end are unused
// space. The result shares no memory with b.
func ParseChain(b []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for !blank(b) {
		if len(chain) == MaxChain {
			return nil, fmt.Errorf("EK certificate chain: more than %d certificates", MaxChain)
		}
		der, rest, err := cut(b)
		if err == nil && len(der) > MaxSize {
			err = fmt.Errorf("%d bytes: more than %d", len(der), MaxSize)
		}
		var c *x509.Certificate
		if err == nil {
			c, err = x509.ParseCertificate(bytes.Clone(der))
		}
		if err != nil {
			return nil, fmt.Errorf("EK certificate chain: certificate %d: %w", len(chain)+1, err)
		}
		chain, b = append(chain, c), rest
	}
	return chain, nil
}

// blank reports whether b is unused space of an NV index.
func blank(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0x00 && c != 0xff })
}

// storedCert begins a TCG_PCCLIENT_STORED_CERT: the tag and the type "full
// certificate". A two-byte length follows.
var storedCert = []byte{0x10, 0x01, 0x00}

// fullCert is the tag of the TCG_FULL_CERT inside, which some parts leave out.
var fullCert = []byte{0x10, 0x02}

func withoutHeader(b []byte) ([]byte, error) {
	rest, found := bytes.CutPrefix(b, storedCert)
	if !found {
		return b, nil
	}
	if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
		return nil, errors.New("the header names more bytes than there are")
	}
	rest = rest[2 : 2+binary.BigEndian.Uint16(rest)]
	return bytes.TrimPrefix(rest, fullCert), nil
}

const sequence = 0x30 // the first byte of every certificate

// cut splits b behind the ASN.1 SEQUENCE that it begins with.
func cut(b []byte) (der, rest []byte, err error) {
	if len(b) == 0 || b[0] != sequence {
		return nil, nil, errors.New("not a DER SEQUENCE")
	}
	var outer asn1.RawValue
	if rest, err = asn1.Unmarshal(b, &outer); err != nil {
		return nil, nil, errors.New("not a whole DER SEQUENCE")
	}
	return outer.FullBytes, rest, nil
}

// rsaesOAEP is id-RSAES-OAEP (RFC 8017, Appendix C), which the profile of TPM
// 1.2 asked for and which some vendors kept for a while.
var rsaesOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}

func subjectKey(x *x509.Certificate) (crypto.PublicKey, error) {
	switch key := x.PublicKey.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return key, nil
	case nil:
		return oaepKey(x.RawSubjectPublicKeyInfo)
	}
	return nil, fmt.Errorf("the key is for %v: neither RSA nor ECC", x.PublicKeyAlgorithm)
}

// oaepKey reads the RSA key that crypto/x509 leaves alone because its algorithm
// is not rsaEncryption. The parameters say how to pad, not what the key is.
func oaepKey(raw []byte) (crypto.PublicKey, error) {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(raw, &spki); err != nil || len(rest) > 0 {
		return nil, errors.New("the key cannot be read")
	}
	if !spki.Algorithm.Algorithm.Equal(rsaesOAEP) {
		return nil, fmt.Errorf("the key is for algorithm %v: neither RSA nor ECC", spki.Algorithm.Algorithm)
	}
	key, err := x509.ParsePKCS1PublicKey(spki.Key.RightAlign())
	if err != nil {
		return nil, errors.New("the RSAES-OAEP key cannot be read")
	}
	return key, nil
}

// withoutSAN returns a copy of the certificate for path validation. Its
// subjectAltName holds only a directoryName, which crypto/x509 does not
// interpret, so a critical one counts as not understood. Here it was understood
// if it named the manufacturer; that and nothing else is taken off the list.
func (c *Certificate) withoutSAN() *x509.Certificate {
	x := *c.X509
	if c.Manufacturer.isZero() {
		return &x
	}
	x.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(x.UnhandledCriticalExtensions), oidSubjectAltName.Equal)
	return &x
}
