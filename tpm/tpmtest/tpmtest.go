// Package tpmtest is a TPM in software and without any security, for tests and
// measurements that need many devices or more speed than a software TPM that
// is a whole one.
package tpmtest

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/berth-iot/berth/tpm"
)

// A TPM does the two things that provisioning asks of one: it shows the public
// areas of its endorsement key and its storage root key, and it opens what a
// server sealed to both. It can be used by several goroutines.
type TPM struct {
	EndorsementKey []byte // TPM2B_PUBLIC
	StorageRootKey []byte // TPM2B_PUBLIC

	ek, srk *rsa.PrivateKey
	srkName []byte
}

// The templates that device SDKs make their keys from (TCG EK Credential
// Profile, template L-1, and the SRK template of the TCG provisioning guidance).
const (
	ekAttributes  = tpm.Attributes(0x000300b2)
	srkAttributes = tpm.Attributes(0x00030472)
	ekPolicy      = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)

// New makes a TPM with keys of its own.
func New() (*TPM, error) {
	policy, err := hex.DecodeString(ekPolicy)
	if err != nil {
		return nil, err
	}
	var t TPM
	if t.ek, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	if t.srk, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return nil, err
	}
	t.EndorsementKey = storageKey(t.ek, ekAttributes, policy).Marshal()
	srk := storageKey(t.srk, srkAttributes, nil)
	t.StorageRootKey, t.srkName = srk.Marshal(), srk.Name()
	return &t, nil
}

func storageKey(key *rsa.PrivateKey, attributes tpm.Attributes, policy []byte) *tpm.Public {
	return &tpm.Public{
		Type: tpm.AlgRSA, NameAlg: tpm.AlgSHA256, Attributes: attributes, AuthPolicy: policy,
		Symmetric: tpm.Symmetric{Alg: tpm.AlgAES, Bits: 128, Mode: tpm.AlgCFB}, Scheme: tpm.AlgNull,
		Bits: 2048, Modulus: key.N.FillBytes(make([]byte, 256)),
	}
}

// Activate opens an activation blob, as TPM2_ActivateCredential and TPM2_Import
// do, and returns the HMAC key in it.
func (t *TPM) Activate(blob []byte) ([]byte, error) {
	parts, err := tpm.ParseActivation(blob)
	if err != nil {
		return nil, err
	}
	credential, err := open(t.ek, "IDENTITY", parts.EncryptedSecret, t.srkName, parts.IDObject)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	inner, _, err := sized(credential)
	if err != nil {
		return nil, fmt.Errorf("credential: %w", err)
	}
	digest := sha256.Sum256(parts.Public)
	name := append(binary.BigEndian.AppendUint16(nil, uint16(tpm.AlgSHA256)), digest[:]...)
	duplicate, err := open(t.srk, "DUPLICATE", parts.InSymSeed, name, parts.Duplicate)
	if err != nil {
		return nil, fmt.Errorf("duplicate: %w", err)
	}
	wrapped, err := decryptCFB(inner, duplicate)
	if err != nil {
		return nil, fmt.Errorf("inner wrapper: %w", err)
	}
	integrity, sensitive, err := sized(wrapped)
	if err != nil {
		return nil, fmt.Errorf("inner wrapper: %w", err)
	}
	if digest := sha256.Sum256(append(sensitive[:len(sensitive):len(sensitive)], name...)); !bytes.Equal(digest[:], integrity) {
		return nil, errors.New("inner wrapper: the integrity digest is wrong")
	}
	return hmacKey(sensitive)
}

// hmacKey takes the key out of a TPM2B_SENSITIVE.
func hmacKey(sensitive []byte) ([]byte, error) {
	rest, _, err := sized(sensitive)
	if err != nil || len(rest) < 2 || tpm.Alg(binary.BigEndian.Uint16(rest)) != tpm.AlgKeyedHash {
		return nil, errors.New("sensitive area: not that of an HMAC key")
	}
	rest = rest[2:]
	var key []byte
	for range 3 { // authValue, seedValue, key
		if key, rest, err = sized(rest); err != nil {
			return nil, fmt.Errorf("sensitive area: %w", err)
		}
	}
	return key, nil
}

// open undoes what was protected under a seed shared with key (TPM 2.0 Library
// Part 1, "Protected Storage" and "Secret Sharing").
func open(key *rsa.PrivateKey, label string, secret, name, protected []byte) ([]byte, error) {
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, key, secret, []byte(label+"\x00"))
	if err != nil {
		return nil, err
	}
	integrity, encrypted, err := sized(protected)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, tpm.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	mac.Write(encrypted)
	mac.Write(name)
	if !hmac.Equal(mac.Sum(nil), integrity) {
		return nil, errors.New("the integrity HMAC is wrong")
	}
	return decryptCFB(tpm.KDFa(crypto.SHA256, seed, "STORAGE", name, nil, 128), encrypted)
}

// decryptCFB decrypts AES in CFB mode with an initial vector of zeros, which is
// how a TPM protects what leaves it.
func decryptCFB(key, encrypted []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(encrypted))
	previous, pad := make([]byte, aes.BlockSize), make([]byte, aes.BlockSize)
	for i := 0; i < len(encrypted); i += aes.BlockSize {
		block.Encrypt(pad, previous)
		copy(previous, encrypted[i:])
		subtle.XORBytes(plain[i:], encrypted[i:], pad)
	}
	return plain, nil
}

// sized takes a TPM2B off the front of b.
func sized(b []byte) (body, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errors.New("too short")
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, errors.New("too short")
	}
	return b[2 : 2+n], b[2+n:], nil
}
