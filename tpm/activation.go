package tpm

import (
	"errors"
	"fmt"
	"io"
)

// MaxURI is the length of the longest text Activation takes as its last part. The
// service whose protocol this is sends at most as much, and 190 bytes keep the
// blob for RSA-2048 keys below the 972 bytes that devices accept over AMQP.
const MaxURI = 190

// ActivationParts is an activation blob, the "authenticationKey" of the DPS REST
// API, taken apart. Each part is the body of its structure, without the two bytes
// of size.
type ActivationParts struct {
	IDObject        []byte // TPM2B_ID_OBJECT: the credential, for TPM2_ActivateCredential
	EncryptedSecret []byte // TPM2B_ENCRYPTED_SECRET: its seed, for the EK
	Duplicate       []byte // TPM2B_PRIVATE: the HMAC key, for TPM2_Import
	InSymSeed       []byte // TPM2B_ENCRYPTED_SECRET: its seed, for the SRK
	Public          []byte // TPM2B_PUBLIC: the TPMT_PUBLIC of the HMAC key
	URI             []byte // TPM2B_DATA: a text under AES-128-CFB with the credential, IV zero
}

// The largest parts ParseActivation accepts. The first five follow from RSA-4096,
// SHA-512 and a 64-byte key; a public area may have a policy, and URI is bounded
// by what a TPM decrypts in one command (TPM_PT_INPUT_BUFFER).
const (
	maxIDObject  = (2 + 64) + (2 + 64)
	maxSecret    = 512
	maxDuplicate = (2 + 64) + (2 + 64) + (2 + 2 + 2 + (2 + 64) + (2 + 64))
	maxIdentity  = 2 + 2 + 4 + (2 + 64) + 4 + (2 + 64)
	maxURIPart   = 1024
)

// Activation returns the blob that challenges a device to prove that it holds the
// TPM with ek, and that hands that TPM an HMAC-SHA256 key of 16 to 64 bytes
// nobody else can read, under srk: six structures one after the other, in the
// order of ActivationParts. For RSA-2048 keys and a 32-byte key it has
// 766+len(uri) bytes. The uri, of 1 to MaxURI bytes, tells the device where the
// key is good for.
//
// Activation refuses keys that do not pass CheckEK and CheckSRK, whatever the
// caller has checked. On randomness see MakeCredential.
func Activation(rand io.Reader, ek, srk *Public, key []byte, uri string) ([]byte, error) {
	if err := checkActivation(ek, srk, key, uri); err != nil {
		return nil, fmt.Errorf("making activation blob: %w", err)
	}
	s, err := newSeeds(rand, ek, srk)
	if err != nil {
		return nil, fmt.Errorf("making activation blob: %w", err)
	}
	return activation(s, ek, srk, key, uri), nil
}

func checkActivation(ek, srk *Public, key []byte, uri string) error {
	if err := CheckEK(ek); err != nil {
		return err
	}
	if err := checkImport(srk, key); err != nil {
		return err
	}
	if n := len(uri); n == 0 || n > MaxURI {
		return fmt.Errorf("the URI has %d bytes: not 1 to %d", n, MaxURI)
	}
	return nil
}

// seeds is all that is random about an activation blob.
type seeds struct {
	wrapping
	credential secret // shared with the EK
}

func newSeeds(rand io.Reader, ek, srk *Public) (seeds, error) {
	w, err := newWrapping(rand, srk)
	if err != nil {
		return seeds{}, err
	}
	credential, err := ek.share(rand, labelIdentity)
	if err != nil {
		return seeds{}, fmt.Errorf("endorsement key: %w", err)
	}
	return seeds{w, credential}, nil
}

// activation puts the blob together. The credential is the key of the inner
// wrapper, and bound to the Name of the SRK: a TPM that does not hold both keys
// learns nothing.
func activation(s seeds, ek, srk *Public, key []byte, uri string) []byte {
	parts := importParts(s.wrapping, srk, key)
	var blob []byte
	for _, part := range [][]byte{
		sealCredential(ek, s.credential.seed, srk.Name(), s.inner),
		s.credential.encrypted,
		parts.Duplicate,
		parts.InSymSeed,
		parts.Public,
		encryptCFB(s.inner, []byte(uri)),
	} {
		blob = appendSized(blob, part)
	}
	return blob
}

// ParseActivation takes an activation blob apart, for the device. It checks the
// framing: no part but the last is empty, none is larger than any service makes
// it, and nothing follows. What is inside only the TPM can judge. The parts share
// memory with b.
func ParseActivation(b []byte) (ActivationParts, error) {
	var a ActivationParts
	r := reader{rest: b}
	for _, f := range []struct {
		part *[]byte
		name string
		max  int
	}{
		{&a.IDObject, "TPM2B_ID_OBJECT", maxIDObject},
		{&a.EncryptedSecret, "TPM2B_ENCRYPTED_SECRET for the EK", maxSecret},
		{&a.Duplicate, "TPM2B_PRIVATE", maxDuplicate},
		{&a.InSymSeed, "TPM2B_ENCRYPTED_SECRET for the SRK", maxSecret},
		{&a.Public, "TPM2B_PUBLIC", maxIdentity},
		{&a.URI, "TPM2B_DATA", maxURIPart},
	} {
		*f.part = r.sized(f.name)
		if n := len(*f.part); n > f.max {
			return ActivationParts{}, fmt.Errorf("activation blob: %s has %d bytes, more than %d", f.name, n, f.max)
		}
	}
	if err := r.end(); err != nil {
		return ActivationParts{}, fmt.Errorf("activation blob: %w", err)
	}
	for _, part := range [][]byte{a.IDObject, a.EncryptedSecret, a.Duplicate, a.InSymSeed, a.Public} {
		if len(part) == 0 {
			return ActivationParts{}, errors.New("activation blob: a part is empty")
		}
	}
	return a, nil
}
