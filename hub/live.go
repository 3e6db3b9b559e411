package hub

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"maps"
	"sync"
	"time"
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
	ErrBehind    = errors.New("the device missed a change of its desired properties")
	ErrNoMethods = errors.New("the device takes no direct methods")
)

// live are the devices that are connected to this process. The zero value is
// ready.
type live struct {
	// telling are held, each for some of the devices, from before their desired
	// properties change until they were told: they hear of versions in order.
	telling [256]sync.Mutex

	mu      sync.Mutex // guards what follows
	links   map[Place]*connection
	awaited map[Place]*awaited
	latest  int64 // Stamp.Time of the latest stamp that is known
}

// A connection is a device's link, and what it was told through it.
type connection struct {
	link       Link
	generation string    // of the identity that connected
	activity   *activity // of its sender
	stamp      Stamp
	// ordered says that others than this process change desired properties. Where
	// nobody does, the turn orders them.
	ordered bool

	mu    sync.Mutex // guards what follows, and is held while the device is told
	order order
	late  *time.Timer // runs while the device is behind
}

// awaited is a device that somebody waits for.
type awaited struct {
	arrived chan struct{} // closed when it connects, or takes methods
	by      int           // how many wait
}

// turn is the lock under which a device's desired properties change.
func (l *live) turn(at Place) *sync.Mutex {
	h := fnv.New32a()
	h.Write([]byte(at.Hub + "/" + at.String()))
	return &l.telling[h.Sum32()%uint32(len(l.telling))]
}

// Attach makes link the connection of a device that proved itself, and ends the one
// before, to whichever server: a device has one. detach takes it back, unless
// another one is there by then.
func (s *Service) Attach(ctx context.Context, from Sender, link Link) (detach func()) {
	at := from.Place
	c := &connection{link: link, generation: from.GenerationID, activity: from.activity, ordered: s.peers != nil}
	if c.ordered {
		c.stamp.Server = s.peers.Self()
	}
	if before := s.live.attach(at, c, s.now().UnixNano(), func() { s.connected(from) }); before != nil {
		before.link.Close(ErrTakenOver)
	}
	s.tell(News{Kind: NewsConnected, At: at, Connected: c.stamp})
	s.connectionChanged(at, c.stamp, true)
	// Whoever disables the device from now on finds it here; who did so since it
	// proved itself did not. What changed of its twin by now it is not told: it asks
	// when it is connected. Where nothing can be read, what is told first shows that
	// something is missing.
	if t, err := s.check(ctx, at, c); err == nil && t != nil {
		c.learnt(t.DesiredVersion)
	}
	return func() {
		if s.live.detach(at, c, func() { s.disconnected(from) }) {
			s.connectionChanged(at, c.stamp, false)
		}
	}
}

// attach makes c the connection of a device and returns the one before, or nil. note
// is called in between, as that of detach is: what is noted of a device is in the
// order in which it came and went.
func (l *live) attach(at Place, c *connection, now int64, note func()) (before *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.links == nil {
		l.links = make(map[Place]*connection)
	}
	l.latest = max(now, l.latest+1)
	c.stamp.Time = l.latest
	before = l.links[at]
	l.links[at] = c
	note()
	l.arrivedLocked(at)
	return before
}

// detach takes c back, and reports whether it was the device's connection still.
func (l *live) detach(at Place, c *connection, note func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.links[at] != c {
		return false
	}
	delete(l.links, at)
	note()
	return true
}

// heard notes that a device connected to another server, and returns the connection
// that it has here, or nil.
func (l *live) heard(at Place, stamp Stamp) *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = max(l.latest, stamp.Time)
	l.arrivedLocked(at)
	return l.links[at]
}

// TakesMethods says that a device which is connected asks for direct methods from now
// on: who waits to call one, at whichever server, can.
func (s *Service) TakesMethods(at Place) {
	if c := s.live.arrived(at); c != nil {
		s.tell(News{Kind: NewsConnected, At: at, Connected: c.stamp})
	}
}

// Connected reports whether the device has a connection to this process.
func (s *Service) Connected(at Place) bool { return s.live.connection(at) != nil }

// Wake has the device's connection look into its queue, to which another process
// may have added; the zero Place means every device.
func (s *Service) Wake(at Place) {
	if at != (Place{}) {
		if c := s.live.connection(at); c != nil {
			c.link.Queued()
		}
		return
	}
	for _, c := range s.live.all() {
		c.link.Queued()
	}
}

// connection returns the device's connection, or nil.
func (l *live) connection(at Place) *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.links[at]
}

// all returns the connections there are.
func (l *live) all() map[Place]*connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.links)
}

// await returns what is closed when the device connects, to any server, or takes
// methods from then on. forget is for who does not wait any more.
func (l *live) await(at Place) (arrived <-chan struct{}, forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.awaited[at]
	if a == nil {
		if l.awaited == nil {
			l.awaited = make(map[Place]*awaited)
		}
		a = &awaited{arrived: make(chan struct{})}
		l.awaited[at] = a
	}
	a.by++
	return a.arrived, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if a.by--; a.by == 0 && l.awaited[at] == a {
			delete(l.awaited, at)
		}
	}
}

// arrived wakes who waits for a device that is connected, and returns its connection,
// or nil.
func (l *live) arrived(at Place) *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.links[at]
	if c != nil {
		l.arrivedLocked(at)
	}
	return c
}

func (l *live) arrivedLocked(at Place) {
	if a := l.awaited[at]; a != nil {
		close(a.arrived)
		delete(l.awaited, at)
	}
}

// cut ends the device's connection, to whichever server, if there is one.
func (s *Service) cut(at Place, kind NewsKind) {
	s.Heard(News{Kind: kind, At: at})
	s.tell(News{Kind: kind, At: at})
}

// end ends the connection that the device has to this process, if there is one.
func (s *Service) end(at Place, why error) {
	if c := s.live.connection(at); c != nil {
		c.link.Close(why)
	}
}

// desired tells the device of a change, when it was told of those before.
func (c *connection) desired(change desiredChange) {
	if !c.ordered {
		c.link.Desired(change.patch, change.version)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tellLocked(c.order.take(change))
}

// learnt says that the device has its twin in a version, or is about to ask for it.
func (c *connection) learnt(version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tellLocked(c.order.learnt(version))
}

// expect says that the device should know of a version soon.
func (c *connection) expect(version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order.expect(version)
	c.tellLocked(nil)
}

func (c *connection) tellLocked(now []desiredChange) {
	for _, change := range now {
		c.link.Desired(change.patch, change.version)
	}
	if c.order.behind() && c.late == nil {
		due := c.order.due
		c.late = time.AfterFunc(arrives, func() { c.overdue(due) })
	}
}

// overdue ends the connection when a version has not arrived by now. There may be
// later ones that have their time yet.
func (c *connection) overdue(version int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = nil
	if c.order.told < version {
		c.link.Close(ErrBehind)
		return
	}
	c.tellLocked(nil)
}
