package provision

import (
	"bytes"
	"sync"
	"time"
)

// maxChallenged bounds each generation of the table of challenged devices.
const maxChallenged = 1 << 15

// challenged remembers for which storage root keys challenges were made, since
// one client leaves the keys out of the call that answers the challenge. It is
// not durable: a device whose entry is lost is challenged again. It is bounded
// by forgetting a whole generation at a time. The zero value is ready.
type challenged struct {
	mu       sync.Mutex // guards all below
	now, old map[line][][]byte
	since    time.Time // when now was begun
}

// keysPerDevice is how many challenged storage root keys a device may have
// open: somebody else's call must not crowd out the device's own.
const keysPerDevice = 2

func (c *challenged) remember(l line, srk []byte, at time.Time, lifetime time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil || at.Sub(c.since) > lifetime || len(c.now) >= maxChallenged {
		c.now, c.old, c.since = make(map[line][][]byte), c.now, at
	}
	keys := [][]byte{bytes.Clone(srk)}
	for _, k := range c.of(l) {
		if len(keys) < keysPerDevice && !bytes.Equal(k, srk) {
			keys = append(keys, k)
		}
	}
	c.now[l] = keys
}

// recall returns the remembered storage root keys of a device, newest first.
// What it returns may have expired; the nonce keys derived from it tell.
func (c *challenged) recall(l line) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(l)
}

// of is recall for who holds the lock. What is remembered in the new generation
// includes what the old one had.
func (c *challenged) of(l line) [][]byte {
	if keys := c.now[l]; keys != nil {
		return keys
	}
	return c.old[l]
}
