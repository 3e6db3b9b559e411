// Package soft keeps a server's key in a file. It is the implementation of the
// hsm interfaces for machines that have no better place: whoever can read the
// file can open every secret sealed with it, so it must be readable by its
// owner alone.
package soft

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// header starts the one line of a key file; the base64 (RFC 4648 §4) of the
	// key follows it.
	header  = "berth-server-key-1:"
	keySize = 32

	// sealedV1 is the first byte of what Seal returns: AES-256-GCM (NIST SP
	// 800-38D) with a random nonce of 12 bytes before the ciphertext and its tag
	// of 16. A random nonce is good for 2³² seals under one key, which a large
	// fleet reaches; so every context has a key of its own.
	sealedV1 = 1
)

// A Key is a server's own secret of 32 bytes. It implements hsm.Sealer and
// hsm.Deriver, each with a key of its own made by HKDF-SHA256 (RFC 5869), and
// is safe for concurrent use. It cannot be printed.
type Key struct {
	// The two purposes: HKDF-Expand with the key for each. They are funcs so
	// that no format verb can look into the keys.
	seal, derive func(info string, size int) ([]byte, error)
}

func newKey(secret []byte) (*Key, error) {
	seal, err := purpose(secret, "berth server key: seal")
	if err != nil {
		return nil, err
	}
	derive, err := purpose(secret, "berth server key: derive")
	if err != nil {
		return nil, err
	}
	return &Key{seal, derive}, nil
}

func purpose(secret []byte, name string) (func(info string, size int) ([]byte, error), error) {
	key, err := hkdf.Key(sha256.New, secret, nil, name, sha256.Size)
	if err != nil {
		return nil, err
	}
	return func(info string, size int) ([]byte, error) { return hkdf.Expand(sha256.New, key, info, size) }, nil
}

// aead returns the cipher of a context.
func (k *Key) aead(context string) (cipher.AEAD, error) {
	key, err := k.seal(context, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Seal implements hsm.Sealer. The result is 29 bytes longer than plaintext.
func (k *Key) Seal(plaintext []byte, context string) ([]byte, error) {
	aead, err := k.aead(context)
	if err != nil {
		return nil, err
	}
	sealed := make([]byte, 1, 1+len(plaintext)+aead.Overhead())
	sealed[0] = sealedV1
	return aead.Seal(sealed, nil, plaintext, []byte(context)), nil
}

// Open implements hsm.Sealer.
func (k *Key) Open(sealed []byte, context string) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealedV1 {
		return nil, errors.New("not sealed in a form this program knows")
	}
	aead, err := k.aead(context)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, sealed[1:], []byte(context))
	if err != nil {
		return nil, errors.New("not sealed under this server key and context")
	}
	return plaintext, nil
}

// Derive implements hsm.Deriver. A key has 1 to 8160 bytes.
func (k *Key) Derive(info []byte, size int) ([]byte, error) {
	if size < 1 {
		return nil, fmt.Errorf("deriving a key of %d bytes: at least one is needed", size)
	}
	return k.derive(string(info), size)
}

// Format writes a fixed word for every verb.
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, "[server key]") }

// parse reads the text of a key file: exactly what encode writes, with or
// without the final newline.
func parse(text []byte) ([]byte, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSuffix(string(text), "\n"), header)
	if !ok {
		return nil, fmt.Errorf("does not start with %q", header)
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return nil, errors.New("is not base64 after the header")
	}
	if len(secret) != keySize {
		return nil, fmt.Errorf("holds %d bytes, not %d", len(secret), keySize)
	}
	return secret, nil
}

func encode(secret []byte) []byte {
	return []byte(header + base64.StdEncoding.EncodeToString(secret) + "\n")
}
