package provision

import (
	"context"
	"sync"

	"github.com/berth-iot/berth/device"
)

// A place in line is one device in one scope.
type line struct {
	scope device.IDScope
	key   device.RegistrationID
}

// turns lets one registration of a device run at a time: the key that a hub
// was told last must be the one in the record. Devices do not wait for each
// other. The zero value is ready.
type turns struct {
	mu    sync.Mutex // guards lines
	lines map[line]*turn
}

type turn struct {
	free    chan struct{} // holds one token when nobody has the turn
	waiters int           // those who have or want it; guarded by turns.mu
}

// take waits for the device's turn, and returns what gives it back.
func (t *turns) take(ctx context.Context, l line) (release func(), err error) {
	t.mu.Lock()
	if t.lines == nil {
		t.lines = make(map[line]*turn)
	}
	own := t.lines[l]
	if own == nil {
		own = &turn{free: make(chan struct{}, 1)}
		own.free <- struct{}{}
		t.lines[l] = own
	}
	own.waiters++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.waiters--; own.waiters == 0 {
			delete(t.lines, l)
		}
	}
	select {
	case <-own.free:
		return func() { own.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
