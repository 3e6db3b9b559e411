package x509id

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// known are the intermediates that were found signed by a CA that is trusted.
// Every registration through a group shows one again, and there are few. It
// changes what a verdict costs and never what it is.
var known signatures

// maxKnown bounds the signatures that are remembered.
const maxKnown = 4096

// A pair are the SHA-256 digests of a CA certificate and of one that it signed.
type pair struct{ ca, signed [sha256.Size]byte }

// signatures remembers good signatures, and only those: a stranger can make
// none, and so has nothing remembered.
type signatures struct {
	mu   sync.Mutex // guards good
	good map[pair]bool
}

func (s *signatures) signs(ca, c *x509.Certificate) bool {
	p := pair{sha256.Sum256(ca.Raw), sha256.Sum256(c.Raw)}
	if s.has(p) {
		return true
	}
	if !signs(ca, c) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good == nil || len(s.good) >= maxKnown {
		s.good = make(map[pair]bool)
	}
	s.good[p] = true
	return true
}

func (s *signatures) has(p pair) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.good[p]
}
