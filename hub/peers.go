package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub/twin"
)

// Peers are the other servers of an installation: they share its database, and each
// has connections of its own.
type Peers interface {
	// Self is a number that this server has and none of the others.
	Self() uint64
	// Tell tells all others. It does not wait. What it tells can be lost: a server
	// that may have missed something does a [Service.Recheck].
	Tell(News)
	// Call has the server that the device is connected to call the method, and
	// returns the device's answer. Errors: ErrNotConnected where all others say so;
	// ErrUnreachable where they did not all answer; those of [Link] and ctx;
	// context.DeadlineExceeded where the device did not answer in time.
	Call(ctx context.Context, c Call) (status int, answer json.RawMessage, err error)
}

// Why a call through other servers comes to nothing.
var (
	ErrNotConnected = errors.New("the device is not connected")
	ErrUnreachable  = errors.New("other servers, to which the device may be connected, cannot be asked")
)

// A Call is a direct method on its way to the server that has the device.
type Call struct {
	At       Place
	Name     string
	Payload  json.RawMessage // nil for none
	Response time.Duration   // how long the device may take
}

// News are what one server tells all others about a device.
type News struct {
	Kind NewsKind
	At   Place
	// Connected is when the device connected to the server that tells.
	Connected Stamp
	// Patch is what changed of the desired properties, and Version what it made of
	// them.
	Patch   json.RawMessage
	Version int64
}

// A NewsKind says which member of News counts.
type NewsKind uint8

// The kinds of news.
const (
	NewsConnected NewsKind = iota + 1
	NewsDesired
	NewsDisabled
	NewsDeleted
)

// A Stamp orders the connections of one device to all servers: of two that are made
// at the same time, everybody takes the same one for the later.
type Stamp struct {
	// Time is in nanoseconds since 1970, and above that of every stamp that the
	// server knew of: clocks that differ do not turn an order around that somebody
	// saw.
	Time   int64
	Server uint64 // Peers.Self
}

// After reports whether s is the later one.
func (s Stamp) After(than Stamp) bool {
	return s.Time > than.Time || s.Time == than.Time && s.Server > than.Server
}

const (
	// arrives is how long news may take. A device that missed a change for so long
	// is made to ask for its twin.
	arrives = 2 * time.Second
	// checkTimeout bounds reading about one device that is connected.
	checkTimeout = 5 * time.Second
)

// tell tells all other servers, if there are any.
func (s *Service) tell(n News) {
	if s.peers != nil {
		s.peers.Tell(n)
	}
}

// Heard takes news of another server. It does not wait.
func (s *Service) Heard(n News) {
	switch n.Kind {
	case NewsConnected:
		s.connectedElsewhere(n.At, n.Connected)
	case NewsDesired:
		if c := s.live.connection(n.At); c != nil {
			c.desired(desiredChange{n.Version, n.Patch})
		}
	case NewsDisabled:
		s.end(n.At, ErrDisabled)
	case NewsDeleted:
		s.end(n.At, ErrDeleted)
	}
}

// connectedElsewhere ends the connection that a device has here, unless it is the
// later one. Then the other server is told, which may not have heard of it.
func (s *Service) connectedElsewhere(at Place, stamp Stamp) {
	c := s.live.heard(at, stamp)
	switch {
	case c == nil:
	case stamp.After(c.stamp):
		c.link.Close(ErrTakenOver)
	default:
		s.tell(News{Kind: NewsConnected, At: at, Connected: c.stamp})
	}
}

// Called says how to call a method for another server, or returns nil where the
// device is not connected to this one.
func (s *Service) Called(call Call) func(ctx context.Context) (status int, answer json.RawMessage, err error) {
	c := s.live.connection(call.At)
	if c == nil {
		return nil
	}
	return func(ctx context.Context) (int, json.RawMessage, error) {
		ctx, cancel := context.WithTimeout(ctx, min(call.Response, MaxResponseTimeout))
		defer cancel()
		return c.link.Invoke(ctx, call.Name, call.Payload)
	}
}

// call calls a method of a device wherever it is connected.
func (s *Service) call(ctx context.Context, at Place, m Method) (int, json.RawMessage, error) {
	call := Call{At: at, Name: m.Name, Payload: m.Payload, Response: m.Response}
	if here := s.Called(call); here != nil {
		return here(ctx)
	}
	if s.peers == nil {
		return 0, nil, ErrNotConnected
	}
	return s.peers.Call(ctx, call)
}

// notify tells a device, wherever it is connected, what changed of its desired
// properties.
func (s *Service) notify(at Place, before, after *Twin) {
	if before.DesiredVersion == after.DesiredVersion {
		return
	}
	c := s.live.connection(at)
	if c == nil && s.peers == nil {
		return // it asks for its twin when it connects
	}
	patch, err := twin.Desired.Difference(before.Desired, after.Desired)
	if err != nil {
		return // both were checked when they were written
	}
	if c != nil {
		c.desired(desiredChange{after.DesiredVersion, patch})
	}
	s.tell(News{Kind: NewsDesired, At: at, Patch: patch, Version: after.DesiredVersion})
}

// learnt says that the device at a place has its twin.
func (s *Service) learnt(at Place, t *Twin) {
	if c := s.live.connection(at); c != nil {
		c.learnt(t.DesiredVersion)
	}
}

// Recheck is for when news may have been lost. It compares every device that is
// connected to this process with what is kept: one that was disabled or deleted is
// cut off, and so is one that was not told of a change of its desired properties,
// for it asks for its twin when it is back. The others hear again who is connected.
func (s *Service) Recheck(ctx context.Context) error {
	for at, c := range s.live.all() {
		s.tell(News{Kind: NewsConnected, At: at, Connected: c.stamp})
		t, err := s.check(ctx, at, c)
		if err != nil {
			return err
		}
		if t != nil {
			c.expect(t.DesiredVersion)
		}
	}
	return nil
}

// check ends a connection whose device or module was disabled or deleted since it
// proved itself, and returns the twin where it is needed, or else nil.
func (s *Service) check(ctx context.Context, at Place, c *connection) (*Twin, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	d, err := s.registry.Identity(ctx, at)
	of := d
	if err == nil && at.Module != "" {
		of, err = s.registry.Identity(ctx, at.Device())
	}
	switch {
	case errs.KindOf(err) == errs.NotFound || err == nil && d.GenerationID != c.generation:
		c.link.Close(ErrDeleted)
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading %q of %s, which is connected: %w", at, at.Hub, err)
	case of.Disabled:
		c.link.Close(ErrDisabled)
		return nil, nil
	case s.peers == nil:
		return nil, nil
	}
	t, err := s.registry.Twin(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("reading the twin of %q of %s, which is connected: %w", at, at.Hub, err)
	}
	return t, nil
}
