package device

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
)

// A SymmetricKey is 16 to 64 bytes that a device and the service share. No log
// line, format verb or JSON document shows it, however deep it is nested: fmt
// and encoding/json cannot look into a func. The zero value is "no key".
type SymmetricKey struct{ reveal func() []byte }

// NewSymmetricKey returns the key with the given bytes, which it copies.
func NewSymmetricKey(b []byte) (SymmetricKey, error) {
	if len(b) < 16 || len(b) > 64 {
		return SymmetricKey{}, fmt.Errorf("has %d bytes; 16 to 64 are allowed", len(b))
	}
	own := append([]byte(nil), b...)
	return SymmetricKey{func() []byte { return own }}, nil
}

// ParseSymmetricKey reads the base64 (RFC 4648 §4) form that connection
// strings and enrollments carry.
func ParseSymmetricKey(s string) (SymmetricKey, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return SymmetricKey{}, errors.New("is not base64")
	}
	return NewSymmetricKey(b)
}

// GenerateSymmetricKey draws a key of n bytes from random.
func GenerateSymmetricKey(random io.Reader, n int) (SymmetricKey, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(random, b); err != nil {
		return SymmetricKey{}, fmt.Errorf("drawing a symmetric key: %w", err)
	}
	return NewSymmetricKey(b)
}

// IsZero reports whether k is no key at all.
func (k SymmetricKey) IsZero() bool { return k.reveal == nil }

// Bytes reveals the key. The caller must not change the slice.
func (k SymmetricKey) Bytes() []byte {
	if k.reveal == nil {
		return nil
	}
	return k.reveal()
}

// Base64 reveals the key in its text form.
func (k SymmetricKey) Base64() string { return base64.StdEncoding.EncodeToString(k.Bytes()) }

// Equal compares two keys in constant time.
func (k SymmetricKey) Equal(o SymmetricKey) bool {
	return k.IsZero() == o.IsZero() && subtle.ConstantTimeCompare(k.Bytes(), o.Bytes()) == 1
}

// Format writes a fixed word for every verb.
func (SymmetricKey) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// MarshalJSON refuses: whoever means to hand a key out calls Base64.
func (SymmetricKey) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a symmetric key is not serialised by accident; call Base64")
}
