package provision

import (
	"bytes"
	"sync"
	"time"

	"github.com/berth-iot/berth/device"
)

// A line is one device in one scope.
type line struct {
	scope device.IDScope
	key   device.RegistrationID
}

// maxChallenged bounds each generation of the table of challenged devices.
const maxChallenged = 1 << 15

// tpmKeys are the keys of a TPM, each a TPM2B_PUBLIC.
type tpmKeys struct {
	srk []byte
	// The endorsement key, and the group that knew it as it was then (zero for any
	// time). Unset where an individual enrollment says which key it is.
	ek    []byte
	group device.RegistrationID
	then  groupVersion
}

// same reports whether k and o are the keys of one TPM.
func (k tpmKeys) same(o tpmKeys) bool { return bytes.Equal(k.srk, o.srk) && bytes.Equal(k.ek, o.ek) }

// challenged remembers for which TPM keys challenges were made, since
// one client leaves the keys out of the call that answers the challenge. It is
// not durable: a device whose entry is lost is challenged again. It is bounded
// by forgetting a whole generation at a time. The zero value is ready.
type challenged struct {
	mu       sync.Mutex // guards all below
	now, old map[line][]tpmKeys
	since    time.Time // when now was begun
}

// keysPerDevice is how many challenged TPM keys a device may have
// open: somebody else's call must not crowd out the device's own.
const keysPerDevice = 2

func (c *challenged) remember(l line, k tpmKeys, at time.Time, lifetime time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil || at.Sub(c.since) > lifetime || len(c.now) >= maxChallenged {
		c.now, c.old, c.since = make(map[line][]tpmKeys), c.now, at
	}
	k.srk, k.ek = bytes.Clone(k.srk), bytes.Clone(k.ek)
	keys := []tpmKeys{k}
	for _, other := range c.of(l) {
		if len(keys) < keysPerDevice && !other.same(k) {
			keys = append(keys, other)
		}
	}
	c.now[l] = keys
}

// recall returns the remembered TPM keys of a device, newest first.
// What it returns may have expired; the nonce keys derived from it tell.
func (c *challenged) recall(l line) []tpmKeys {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(l)
}

// of is recall for who holds the lock. What is remembered in the new generation
// includes what the old one had.
func (c *challenged) of(l line) []tpmKeys {
	if keys := c.now[l]; keys != nil {
		return keys
	}
	return c.old[l]
}
