// Package news tells those who wait for messages that there are more.
package news

import "sync"

// News is the newest sequence number of a stream. It never goes back. The zero
// value is ready, and says zero.
type News struct {
	mu       sync.Mutex // guards the rest
	sequence uint64
	changed  chan struct{} // closed at the next change; made when somebody waits
}

// Publish says that the messages up to sequence can be read.
func (n *News) Publish(sequence uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if sequence <= n.sequence {
		return
	}
	n.sequence = sequence
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}

// Last returns the newest number that was published.
func (n *News) Last() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sequence
}

// Watch returns the newest number, and a channel that is closed when there is a
// newer one.
func (n *News) Watch() (sequence uint64, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.sequence, n.changed
}
