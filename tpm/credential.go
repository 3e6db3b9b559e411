package tpm

import (
	"crypto/hmac"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
)

// The labels that keep the seeds for the two uses apart (TPM 2.0 Library Part 1,
// "Credential Protection" and "Outer Duplication Wrapper").
const (
	labelIdentity  = "IDENTITY"
	labelDuplicate = "DUPLICATE"
)

// A secret is a seed shared with a storage key in a TPM: in clear, and in the form
// that only the TPM can open (the body of a TPM2B_ENCRYPTED_SECRET).
type secret struct {
	seed      []byte // one digest of the key's nameAlg
	encrypted []byte
}

// MakeCredential wraps credential so that only the TPM with the private part of ek
// gives it out, and only if it also holds the object named objectName
// (TPM2_MakeCredential; TPM 2.0 Library Part 1, "Credential Protection"). The
// credential has 1 byte up to the digest size of the EK's nameAlg. The results are the bodies of a
// TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET, both without their two bytes of
// size.
//
// It does not ask what kind of key ek is; see CheckEK. Seeds and the padding of
// RSA-OAEP come from rand, which outside tests has to be crypto/rand.Reader;
// ephemeral ECDH keys come from the system's generator whatever rand is.
func MakeCredential(rand io.Reader, ek *Public, objectName, credential []byte) (idObject, encryptedSecret []byte, err error) {
	if err := ek.check(); err != nil {
		return nil, nil, fmt.Errorf("making credential: endorsement key: %w", err)
	}
	if err := checkName(objectName); err != nil {
		return nil, nil, fmt.Errorf("making credential: %w", err)
	}
	if n, max := len(credential), ek.NameAlg.hash().Size(); n == 0 || n > max {
		return nil, nil, fmt.Errorf("making credential: %d bytes, a key named with %v takes 1 to %d", n, ek.NameAlg, max)
	}
	s, err := ek.share(rand, labelIdentity)
	if err != nil {
		return nil, nil, fmt.Errorf("making credential: %w", err)
	}
	return sealCredential(ek, s.seed, objectName, credential), s.encrypted, nil
}

// checkName reports whether name is one that objectName could have made.
func checkName(name []byte) error {
	r := reader{rest: name}
	hash := r.alg("algorithm").hash()
	if hash == 0 || len(r.rest) != hash.Size() {
		return errors.New("the name of the object is not an algorithm and its digest")
	}
	return nil
}

// sealCredential returns the TPMS_ID_OBJECT for a seed already shared with ek.
func sealCredential(ek *Public, seed, objectName, credential []byte) []byte {
	return ek.protect(seed, objectName, appendSized(nil, credential))
}

// protect encrypts plain and binds it to name under a seed shared with p, as both
// credentials and duplicates are. The result is a TPM2B with the HMAC over the
// ciphertext and the name, then the ciphertext.
func (p *Public) protect(seed, name, plain []byte) []byte {
	hash := p.NameAlg.hash()
	symKey := KDFa(hash, seed, "STORAGE", name, nil, int(p.Symmetric.Bits))
	macKey := KDFa(hash, seed, "INTEGRITY", nil, nil, hash.Size()*8)
	encrypted := encryptCFB(symKey, plain)

	mac := hmac.New(hash.New, macKey)
	mac.Write(encrypted)
	mac.Write(name)
	return append(appendSized(nil, mac.Sum(nil)), encrypted...)
}

// share makes a seed known to us and to the TPM that holds p, and to nobody else
// (Part 1, "Secret Sharing" in the annexes for RSA and ECC). p has passed check.
func (p *Public) share(rand io.Reader, label string) (secret, error) {
	if p.Type == AlgECC {
		return p.shareECC(rand, label)
	}
	hash := p.NameAlg.hash()
	seed := make([]byte, hash.Size())
	if _, err := io.ReadFull(rand, seed); err != nil {
		return secret{}, fmt.Errorf("drawing a seed: %w", err)
	}
	// A TPM's label includes its terminating zero byte.
	encrypted, err := rsa.EncryptOAEP(hash.New(), rand, p.rsaKey(), seed, []byte(label+"\x00"))
	if err != nil {
		return secret{}, fmt.Errorf("encrypting a seed: %w", err)
	}
	return secret{seed, encrypted}, nil
}

func (p *Public) shareECC(rand io.Reader, label string) (secret, error) {
	static, err := p.ecdhKey()
	if err != nil {
		return secret{}, err
	}
	ephemeral, err := static.Curve().GenerateKey(rand)
	if err != nil {
		return secret{}, fmt.Errorf("drawing an ephemeral key: %w", err)
	}
	z, err := ephemeral.ECDH(static)
	if err != nil {
		return secret{}, fmt.Errorf("agreeing on a seed: %w", err)
	}
	point := ephemeral.PublicKey().Bytes()[1:] // after the 4 of the uncompressed form
	x, y := point[:len(point)/2], point[len(point)/2:]
	return secret{
		seed:      kdfe(p.NameAlg.hash(), z, label, x, p.X),
		encrypted: appendSized(appendSized(nil, x), y),
	}, nil
}
