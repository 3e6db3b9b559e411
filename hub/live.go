package hub

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
)

// A Link is a device's live connection, on whatever wire. Its methods do not wait
// for the device, Invoke apart.
type Link interface {
	// Close ends the connection.
	Close(why error)
	// Desired tells the device what changed of its desired properties: a patch and
	// the version it makes. A device that did not ask for it is not told.
	Desired(patch json.RawMessage, version int64)
	// Queued says that there is a message in the device's queue.
	Queued()
	// Invoke calls a direct method and returns the device's answer. Errors:
	// ErrNoMethods where the device takes no calls, the context's, or why the
	// connection ended.
	Invoke(ctx context.Context, name string, payload json.RawMessage) (status int, answer json.RawMessage, err error)
}

// Why links end and calls fail.
var (
	ErrTakenOver = errors.New("the device connected again elsewhere")
	ErrDisabled  = errors.New("the device was disabled")
	ErrDeleted   = errors.New("the device was deleted")
	ErrNoMethods = errors.New("the device takes no direct methods")
)

// live are the devices that are connected to this process. The zero value is
// ready.
type live struct {
	// telling are held, each for some of the devices, from before their desired
	// properties change until they were told: they hear of versions in order.
	telling [256]sync.Mutex

	mu      sync.Mutex // guards what follows
	links   map[Place]Link
	awaited map[Place]*awaited
}

// awaited is a device that somebody waits for.
type awaited struct {
	arrived chan struct{} // closed when it connects
	by      int           // how many wait
}

// turn is the lock under which a device's desired properties change.
func (l *live) turn(at Place) *sync.Mutex {
	h := fnv.New32a()
	h.Write([]byte(at.Hub + "/" + string(at.ID)))
	return &l.telling[h.Sum32()%uint32(len(l.telling))]
}

// Attach makes link the device's connection, and ends the one before: a device has
// one. detach takes it back, unless another one is there by then.
func (s *Service) Attach(at Place, link Link) (detach func()) {
	l := &s.live
	l.mu.Lock()
	if l.links == nil {
		l.links = make(map[Place]Link)
	}
	before := l.links[at]
	l.links[at] = link
	if a := l.awaited[at]; a != nil {
		close(a.arrived)
		delete(l.awaited, at)
	}
	l.mu.Unlock()
	if before != nil {
		before.Close(ErrTakenOver)
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.links[at] == link {
			delete(l.links, at)
		}
	}
}

// Connected reports whether the device has a connection to this process.
func (s *Service) Connected(at Place) bool { return s.live.link(at) != nil }

// Wake has the device's connection look into its queue, to which another process
// may have added; the zero Place means every device.
func (s *Service) Wake(at Place) {
	if at != (Place{}) {
		if link := s.live.link(at); link != nil {
			link.Queued()
		}
		return
	}
	s.live.mu.Lock()
	links := slices.Collect(maps.Values(s.live.links))
	s.live.mu.Unlock()
	for _, link := range links {
		link.Queued()
	}
}

// link returns the device's connection, or nil.
func (l *live) link(at Place) Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.links[at]
}

// await is link for who is ready to wait until ctx ends.
func (l *live) await(ctx context.Context, at Place) Link {
	for {
		l.mu.Lock()
		link := l.links[at]
		if link != nil || ctx.Err() != nil {
			l.mu.Unlock()
			return link
		}
		a := l.awaited[at]
		if a == nil {
			if l.awaited == nil {
				l.awaited = make(map[Place]*awaited)
			}
			a = &awaited{arrived: make(chan struct{})}
			l.awaited[at] = a
		}
		a.by++
		l.mu.Unlock()
		select {
		case <-a.arrived:
		case <-ctx.Done():
			l.giveUp(at, a)
		}
	}
}

func (l *live) giveUp(at Place, a *awaited) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.by--; a.by == 0 && l.awaited[at] == a {
		delete(l.awaited, at)
	}
}

// cut ends the device's connection, if there is one.
func (s *Service) cut(at Place, why error) {
	if link := s.live.link(at); link != nil {
		link.Close(why)
	}
}
