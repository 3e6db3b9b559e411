// Package hsm is the HSM platform abstraction layer: what the rest of the
// program may ask of keys that stay where they were made. Implementations are
// in the packages below it. Each interface is one ability; what only some
// implementations can do is asked for by assertion.
package hsm

// A Sealer encrypts secrets at rest under a key that it never shows.
type Sealer interface {
	// Seal encrypts and authenticates plaintext, and authenticates context:
	// the same context must be given to Open. It bounds where a sealed secret
	// can be put back, so name the record and the member in it.
	Seal(plaintext []byte, context string) ([]byte, error)
	// Open returns what was sealed with the same context. The error does not
	// say which part did not match.
	Open(sealed []byte, context string) ([]byte, error)
}

// A Deriver gives out keys that depend on its own key and on info, by
// HKDF-Expand (RFC 5869) or an equally one-way function. The same info gives
// the same key on every server that holds the same Deriver's key.
type Deriver interface {
	Derive(info []byte, size int) ([]byte, error)
}

// A ServerKey is what all servers of one service have in common.
type ServerKey interface {
	Sealer
	Deriver
}
