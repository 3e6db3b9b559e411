// Package tpm turns TPM 2.0 structures into values and back, and makes the
// blobs that only one TPM can open: credentials (TPM2_MakeCredential), imported
// HMAC keys (TPM2_Duplicate) and the activation blob with which a provisioning
// service challenges a device.
//
// It covers what a service needs to know about a device's TPM: the public areas
// of its endorsement key (EK) and storage root key (SRK), and whether they can
// be trusted as such. It talks to no TPM, reads no clock and takes randomness
// as an argument; all integers on the wire are big-endian. Comments cite the TPM 2.0
// Library specification: Part 1 by the titles of its sections, which unlike their
// numbers do not change from revision to revision, and Part 2 by number.
package tpm

import (
	"crypto"
	_ "crypto/sha256" // SHA-256, the name algorithm of nearly every key
	_ "crypto/sha512" // SHA-384 and SHA-512, those of the EK templates H-3 to H-7
	"fmt"
)

// An Alg is a TPM_ALG_ID (TPM 2.0 Library Part 2 §6.3).
type Alg uint16

// The algorithms this package knows; it refuses all others.
const (
	AlgRSA       Alg = 0x0001
	AlgHMAC      Alg = 0x0005
	AlgAES       Alg = 0x0006
	AlgKeyedHash Alg = 0x0008
	AlgSHA256    Alg = 0x000B
	AlgSHA384    Alg = 0x000C
	AlgSHA512    Alg = 0x000D
	AlgNull      Alg = 0x0010
	AlgECC       Alg = 0x0023
	AlgCFB       Alg = 0x0043
)

var algNames = map[Alg]string{
	AlgRSA:       "RSA",
	AlgHMAC:      "HMAC",
	AlgAES:       "AES",
	AlgKeyedHash: "KEYEDHASH",
	AlgSHA256:    "SHA256",
	AlgSHA384:    "SHA384",
	AlgSHA512:    "SHA512",
	AlgNull:      "NULL",
	AlgECC:       "ECC",
	AlgCFB:       "CFB",
}

// String returns the name of a in the specification without its TPM_ALG_
// prefix, or the number in hexadecimal if the package does not know it.
func (a Alg) String() string {
	if s, ok := algNames[a]; ok {
		return s
	}
	return fmt.Sprintf("%#04x", uint16(a))
}

// hash returns the hash function a stands for, or 0 if it is not a hash or one
// too weak to name a key (SHA-1).
func (a Alg) hash() crypto.Hash {
	switch a {
	case AlgSHA256:
		return crypto.SHA256
	case AlgSHA384:
		return crypto.SHA384
	case AlgSHA512:
		return crypto.SHA512
	}
	return 0
}

// A Curve is a TPM_ECC_CURVE (TPM 2.0 Library Part 2 §6.4).
type Curve uint16

// The curves this package knows; it refuses all others.
const (
	CurveP256 Curve = 0x0003
	CurveP384 Curve = 0x0004
	CurveP521 Curve = 0x0005
)

// String returns the usual name of c, or its number in hexadecimal.
func (c Curve) String() string {
	switch c {
	case CurveP256:
		return "P-256"
	case CurveP384:
		return "P-384"
	case CurveP521:
		return "P-521"
	}
	return fmt.Sprintf("%#04x", uint16(c))
}
