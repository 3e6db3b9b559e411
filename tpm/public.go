package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// maxPublic is the size of the largest TPM2B_PUBLIC that ParsePublic can accept:
// RSA-4096 named with SHA-512, with a policy.
const maxPublic = 2 + 2 + 2 + 4 + (2 + 64) + 6 + 2 + 2 + 4 + (2 + 512)

// A Symmetric is a TPMT_SYM_DEF_OBJECT: the cipher with which a storage key
// protects what is stored under it.
type Symmetric struct {
	Alg  Alg    // AlgAES
	Bits uint16 // 128, 192 or 256
	Mode Alg    // AlgCFB
}

// A Public is the public area (TPMT_PUBLIC, TPM 2.0 Library Part 2 §12.2.4) of an
// asymmetric storage key, such as an EK or an SRK. ParsePublic makes one; its
// fields are not to be changed afterwards. That a Public parses says nothing
// about trust: see CheckEK and CheckSRK.
type Public struct {
	Type       Alg // AlgRSA or AlgECC
	NameAlg    Alg // AlgSHA256, AlgSHA384 or AlgSHA512
	Attributes Attributes
	AuthPolicy []byte // empty, or one NameAlg digest
	Symmetric  Symmetric
	Scheme     Alg // AlgNull: a storage key has no scheme of its own

	// RSA keys.
	Bits     uint16 // 2048, 3072 or 4096
	Exponent uint32 // as on the wire: 0 (which means 65537) or 65537
	Modulus  []byte // big-endian, Bits/8 bytes

	// ECC keys.
	Curve Curve
	KDF   Alg    // AlgNull
	X, Y  []byte // big-endian, as long as the field of the curve
}

// ParsePublic reads a TPM2B_PUBLIC: two bytes of size and the TPMT_PUBLIC of an
// RSA (2048, 3072, 4096 bits) or ECC (P-256, P-384, P-521) storage key with
// AES-CFB. It is strict. What it accepts has exactly one encoding, namely b; no
// byte is left over; the RSA modulus has its top and its lowest bit set and the
// ECC point lies on its curve. The result shares no memory with b.
func ParsePublic(b []byte) (*Public, error) {
	p, err := parsePublic(b)
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return nil, fmt.Errorf("TPM public area: %w", err)
	}
	return p, nil
}

// parsePublic reads the fields in the order of TPMT_PUBLIC. Whether the values
// are good ones is for check, except where a value decides what follows.
func parsePublic(b []byte) (*Public, error) {
	if len(b) > maxPublic {
		return nil, fmt.Errorf("%d bytes, the largest storage key has %d", len(b), maxPublic)
	}
	outer := reader{rest: b}
	r := reader{rest: bytes.Clone(outer.sized("size"))}
	if err := outer.end(); err != nil {
		return nil, err
	}

	p := &Public{
		Type:       r.alg("type"),
		NameAlg:    r.alg("nameAlg"),
		Attributes: Attributes(r.u32("objectAttributes")),
		AuthPolicy: r.sized("authPolicy"),
	}
	// TPM_ALG_NULL has no key size and no mode: other algorithms would shift
	// all that follows, so stop here.
	if p.Symmetric.Alg = r.alg("symmetric algorithm"); r.err == nil && p.Symmetric.Alg != AlgAES {
		return nil, fmt.Errorf("symmetric algorithm is %v: a storage key needs AES", p.Symmetric.Alg)
	}
	p.Symmetric.Bits = r.u16("symmetric key size")
	p.Symmetric.Mode = r.alg("symmetric mode")
	if p.Scheme = r.alg("scheme"); r.err == nil && p.Scheme != AlgNull {
		return nil, fmt.Errorf("scheme is %v: that of a storage key is NULL", p.Scheme)
	}
	switch p.Type {
	case AlgRSA:
		p.Bits = r.u16("key size")
		p.Exponent = r.u32("exponent")
		p.Modulus = r.sized("modulus")
	case AlgECC:
		p.Curve = Curve(r.u16("curve"))
		if p.KDF = r.alg("kdf"); r.err == nil && p.KDF != AlgNull {
			return nil, fmt.Errorf("kdf is %v: that of a storage key is NULL", p.KDF)
		}
		p.X = r.sized("x coordinate")
		p.Y = r.sized("y coordinate")
	default:
		if r.err == nil {
			return nil, fmt.Errorf("type is %v: neither RSA nor ECC", p.Type)
		}
	}
	return p, r.end()
}

// check reports the first value that no key of a TPM has. Lengths are compared
// before any arithmetic.
func (p *Public) check() error {
	hash := p.NameAlg.hash()
	if hash == 0 {
		return fmt.Errorf("nameAlg is %v: not SHA256, SHA384 or SHA512", p.NameAlg)
	}
	if reserved := p.Attributes &^ knownAttributes; reserved != 0 {
		return fmt.Errorf("reserved attribute bits %#x are set", uint32(reserved))
	}
	if n := len(p.AuthPolicy); n != 0 && n != hash.Size() {
		return fmt.Errorf("authPolicy has %d bytes: not a %v digest", n, p.NameAlg)
	}
	switch s := p.Symmetric; {
	case s.Alg != AlgAES || s.Mode != AlgCFB:
		return fmt.Errorf("symmetric cipher is %v in mode %v: a storage key needs AES in mode CFB", s.Alg, s.Mode)
	case s.Bits != 128 && s.Bits != 192 && s.Bits != 256:
		return fmt.Errorf("symmetric key size is %d bits", s.Bits)
	}
	if p.Scheme != AlgNull {
		return fmt.Errorf("scheme is %v: that of a storage key is NULL", p.Scheme)
	}
	switch p.Type {
	case AlgRSA:
		return p.checkRSA()
	case AlgECC:
		_, err := p.ecdhKey()
		return err
	}
	return fmt.Errorf("type is %v: neither RSA nor ECC", p.Type)
}

func (p *Public) checkRSA() error {
	if p.Bits != 2048 && p.Bits != 3072 && p.Bits != 4096 {
		return fmt.Errorf("RSA key size is %d bits: not 2048, 3072 or 4096", p.Bits)
	}
	// Part 2 §12.2.3.5: zero stands for 2^16+1. Other exponents are optional for
	// a TPM, and none has a reason to use one.
	if p.Exponent != 0 && p.Exponent != defaultExponent {
		return fmt.Errorf("RSA exponent is %d: not 65537", p.Exponent)
	}
	n := p.Modulus
	if len(n) != int(p.Bits)/8 {
		return fmt.Errorf("RSA modulus has %d bytes: a key of %d bits has %d", len(n), p.Bits, p.Bits/8)
	}
	if n[0]&0x80 == 0 {
		return fmt.Errorf("RSA modulus is shorter than %d bits", p.Bits)
	}
	if n[len(n)-1]&1 == 0 {
		return errors.New("RSA modulus is even")
	}
	return nil
}

const defaultExponent = 65537

// Marshal returns p as TPM2B_PUBLIC, the form in which devices send it. It undoes
// ParsePublic to the byte.
func (p *Public) Marshal() []byte {
	b := p.appendArea(make([]byte, 2, maxPublic))
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	return b
}

// Name returns the Name of the key (TPM 2.0 Library Part 1, "Names"): the two bytes of
// NameAlg, then the digest of the TPMT_PUBLIC without its size.
func (p *Public) Name() []byte {
	return objectName(p.NameAlg, p.appendArea(make([]byte, 0, maxPublic)))
}

// objectName is the Name of the object with the given TPMT_PUBLIC.
func objectName(nameAlg Alg, area []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(nameAlg)), digest(nameAlg.hash(), area)...)
}

func digest(hash crypto.Hash, parts ...[]byte) []byte {
	h := hash.New()
	for _, part := range parts {
		h.Write(part)
	}
	return h.Sum(nil)
}

// appendArea appends the TPMT_PUBLIC to b.
func (p *Public) appendArea(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint16(b, uint16(p.Type))
	b = be.AppendUint16(b, uint16(p.NameAlg))
	b = be.AppendUint32(b, uint32(p.Attributes))
	b = appendSized(b, p.AuthPolicy)
	b = be.AppendUint16(b, uint16(p.Symmetric.Alg))
	b = be.AppendUint16(b, p.Symmetric.Bits)
	b = be.AppendUint16(b, uint16(p.Symmetric.Mode))
	b = be.AppendUint16(b, uint16(p.Scheme))
	if p.Type == AlgECC {
		b = be.AppendUint16(b, uint16(p.Curve))
		b = be.AppendUint16(b, uint16(p.KDF))
		b = appendSized(b, p.X)
		return appendSized(b, p.Y)
	}
	b = be.AppendUint16(b, p.Bits)
	b = be.AppendUint32(b, p.Exponent)
	return appendSized(b, p.Modulus)
}

// CryptoKey returns the key as an *rsa.PublicKey or *ecdsa.PublicKey, the types
// crypto/x509 uses, for comparison with the key in an EK certificate.
func (p *Public) CryptoKey() (crypto.PublicKey, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("TPM public area: %w", err)
	}
	if p.Type == AlgRSA {
		return p.rsaKey(), nil
	}
	curve := map[Curve]elliptic.Curve{
		CurveP256: elliptic.P256(), CurveP384: elliptic.P384(), CurveP521: elliptic.P521(),
	}[p.Curve]
	return ecdsa.ParseUncompressedPublicKey(curve, p.uncompressed())
}

func (p *Public) rsaKey() *rsa.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).SetBytes(p.Modulus), E: defaultExponent}
}

// ecdhKey returns the point of an ECC key, or an error if it is not on its curve.
func (p *Public) ecdhKey() (*ecdh.PublicKey, error) {
	var curve ecdh.Curve
	var size int // of a coordinate, in bytes
	switch p.Curve {
	case CurveP256:
		curve, size = ecdh.P256(), 32
	case CurveP384:
		curve, size = ecdh.P384(), 48
	case CurveP521:
		curve, size = ecdh.P521(), 66
	default:
		return nil, fmt.Errorf("curve is %v: not P-256, P-384 or P-521", p.Curve)
	}
	if p.KDF != AlgNull {
		return nil, fmt.Errorf("kdf is %v: that of a storage key is NULL", p.KDF)
	}
	if len(p.X) != size || len(p.Y) != size {
		return nil, fmt.Errorf("ECC coordinates have %d and %d bytes: those of %v have %d", len(p.X), len(p.Y), p.Curve, size)
	}
	key, err := curve.NewPublicKey(p.uncompressed())
	if err != nil {
		return nil, fmt.Errorf("ECC point is not on %v", p.Curve)
	}
	return key, nil
}

// uncompressed returns the point in the uncompressed form of SEC 1 §2.3.3.
func (p *Public) uncompressed() []byte {
	b := make([]byte, 0, 1+len(p.X)+len(p.Y))
	return append(append(append(b, 4), p.X...), p.Y...)
}

// RegistrationID returns the registration ID that device SDKs derive from an
// endorsement key when the user sets none: the SHA-256 digest of the whole
// TPM2B_PUBLIC, size included, in lower-case base32 (RFC 4648) without padding;
// 52 characters.
func RegistrationID(ek []byte) string {
	sum := sha256.Sum256(ek)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}
