package tpm

import (
	"crypto"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	innerKeySize    = 16 // device SDKs hard-code AES-128 in TPM2_Import
	obfuscationSize = 32 // a SHA-256 digest, as for any key a TPM makes itself

	minKey = 16
	maxKey = 64 // the block size of SHA-256: a TPM loads no longer HMAC key
)

// identityAttributes are those of the HMAC key: it signs for whoever gives its
// (empty) authorization value, and never locks. TPM2_Import demands that fixedTPM,
// fixedParent, sensitiveDataOrigin and encryptedDuplication are clear.
const identityAttributes = UserWithAuth | NoDA | SignEncrypt

// ImportParts are the arguments of TPM2_Import for an HMAC key, each the body of
// its structure without the two bytes of size. The symmetric algorithm to name in
// the command is AES-128-CFB.
type ImportParts struct {
	EncryptionKey []byte // TPM2B_DATA, 16 bytes; secret
	Public        []byte // TPM2B_PUBLIC: the TPMT_PUBLIC of the key, 48 bytes
	Duplicate     []byte // TPM2B_PRIVATE
	InSymSeed     []byte // TPM2B_ENCRYPTED_SECRET
}

// ImportBlob wraps an HMAC-SHA256 key of 16 to 64 bytes for TPM2_Import under srk
// (TPM 2.0 Library Part 1, "Duplication"), with an inner wrapper under a fresh
// EncryptionKey and an outer one that only the TPM holding srk can open. It
// refuses an srk that does not pass CheckSRK. Once imported the key never leaves
// the TPM: its policy is empty, and a TPM duplicates only what a policy allows.
func ImportBlob(rand io.Reader, srk *Public, key []byte) (ImportParts, error) {
	if err := checkImport(srk, key); err != nil {
		return ImportParts{}, fmt.Errorf("wrapping HMAC key: %w", err)
	}
	w, err := newWrapping(rand, srk)
	if err != nil {
		return ImportParts{}, fmt.Errorf("wrapping HMAC key: %w", err)
	}
	return importParts(w, srk, key), nil
}

func checkImport(srk *Public, key []byte) error {
	if err := CheckSRK(srk); err != nil {
		return err
	}
	if n := len(key); n < minKey || n > maxKey {
		return fmt.Errorf("the key has %d bytes: not %d to %d", n, minKey, maxKey)
	}
	return nil
}

// A wrapping is all that is random about ImportParts.
type wrapping struct {
	inner       []byte // key of the inner wrapper
	obfuscation []byte // hides the key in the hash that its public area shows
	outer       secret // seed of the outer wrapper, shared with the SRK
}

func newWrapping(rand io.Reader, srk *Public) (wrapping, error) {
	random := make([]byte, innerKeySize+obfuscationSize)
	if _, err := io.ReadFull(rand, random); err != nil {
		return wrapping{}, fmt.Errorf("drawing a wrapping key: %w", err)
	}
	outer, err := srk.share(rand, labelDuplicate)
	if err != nil {
		return wrapping{}, fmt.Errorf("storage root key: %w", err)
	}
	return wrapping{random[:innerKeySize], random[innerKeySize:], outer}, nil
}

func importParts(w wrapping, srk *Public, key []byte) ImportParts {
	public := identityPublic(w.obfuscation, key)
	name := objectName(AlgSHA256, public)
	inner := wrapInner(w.inner, name, identitySensitive(w.obfuscation, key))
	return ImportParts{
		EncryptionKey: w.inner,
		Public:        public,
		Duplicate:     srk.protect(w.outer.seed, name, inner),
		InSymSeed:     w.outer.encrypted,
	}
}

// identityPublic returns the TPMT_PUBLIC of the HMAC key.
func identityPublic(obfuscation, key []byte) []byte {
	be := binary.BigEndian
	b := be.AppendUint16(nil, uint16(AlgKeyedHash))
	b = be.AppendUint16(b, uint16(AlgSHA256)) // nameAlg
	b = be.AppendUint32(b, uint32(identityAttributes))
	b = appendSized(b, nil) // authPolicy
	b = be.AppendUint16(b, uint16(AlgHMAC))
	b = be.AppendUint16(b, uint16(AlgSHA256))
	return appendSized(b, digest(crypto.SHA256, obfuscation, key))
}

// identitySensitive returns the TPM2B_SENSITIVE of the HMAC key.
func identitySensitive(obfuscation, key []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(AlgKeyedHash))
	b = appendSized(b, nil) // authValue
	b = appendSized(b, obfuscation)
	b = appendSized(b, key)
	return appendSized(nil, b)
}

// wrapInner applies the inner duplication wrapper (Part 1, "Inner Duplication
// Wrapper"). The integrity digest covers the sensitive area with its size.
func wrapInner(inner, name, sensitive []byte) []byte {
	integrity := digest(crypto.SHA256, sensitive, name)
	return encryptCFB(inner, append(appendSized(nil, integrity), sensitive...))
}
