package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
)

const (
	// twinTimeout is how long the twin is waited for before it is asked for again.
	twinTimeout = time.Minute
	// maxChanges is how many changes wait for OnDesired before all of them are
	// dropped, and the twin is asked for.
	maxChanges = 16
)

// A Section is one half of a twin.
type Section struct {
	// Version grows with each change.
	Version int64
	// Properties is a JSON object.
	Properties json.RawMessage
}

// A Twin is what a device and its operators tell each other.
type Twin struct {
	Desired  Section // what the operators want
	Reported Section // what the device said
}

// Desired is what OnDesired is told.
type Desired struct {
	Section
	// Full says that these are all desired properties. Otherwise they are those
	// that changed since the call before: a merge patch (RFC 7396), in which null
	// removes a member.
	Full bool
}

// A request waits for the answer of the hub.
type request struct {
	on     *line
	answer chan answer // has room for it
}

type answer struct {
	hubtopic.Delivery
	payload []byte
}

// Twin asks the hub for the device's twin. It waits for a connection where there
// is none. A refusal is a [client.Error].
func (c *Connection) Twin(ctx context.Context) (Twin, error) {
	t, err := c.twin(ctx)
	if err != nil {
		return Twin{}, fmt.Errorf("asking for the twin: %w", err)
	}
	return t, nil
}

func (c *Connection) twin(ctx context.Context) (t Twin, err error) {
	a, err := c.ask(ctx, hubtopic.GetTwin, nil, true)
	if err != nil {
		return t, err
	}
	var sections struct{ Desired, Reported json.RawMessage }
	if err := json.Unmarshal(a.payload, &sections); err != nil {
		return t, errors.New("the twin is not the JSON that was expected")
	}
	if t.Desired, err = section(sections.Desired); err != nil {
		return t, fmt.Errorf("the desired properties: %w", err)
	}
	if t.Reported, err = section(sections.Reported); err != nil {
		return t, fmt.Errorf("the reported properties: %w", err)
	}
	return t, nil
}

// section takes the version out of the properties.
func section(b []byte) (s Section, err error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(b, &members) != nil || json.Unmarshal(members["$version"], &s.Version) != nil {
		return s, errors.New("they are not a JSON object with a $version")
	}
	delete(members, "$version")
	delete(members, "$metadata")
	s.Properties, err = json.Marshal(members)
	return s, err
}

// Report merges patch into the reported properties (RFC 7396): what marshals to
// null is removed. It returns the version that they have then. It waits for a
// connection where there is none, and reports again when one is lost. A refusal
// is a [client.Error].
func (c *Connection) Report(ctx context.Context, patch any) (version int64, err error) {
	return c.report(ctx, patch, nil)
}

// ReportIf is Report for reported properties that have the given version; if they
// have not, the error is a [client.Error] of status 412. When the connection is
// lost before the hub answers it returns [ErrInterrupted].
func (c *Connection) ReportIf(ctx context.Context, patch any, version int64) (int64, error) {
	return c.report(ctx, patch, &version)
}

func (c *Connection) report(ctx context.Context, patch any, version *int64) (int64, error) {
	b, err := json.Marshal(patch)
	if err == nil && len(b) > MaxMessage {
		err = fmt.Errorf("they have %d bytes, %d are possible", len(b), MaxMessage) // the hub would hang up, each time
	}
	if err != nil {
		return 0, fmt.Errorf("reporting properties: %w", err)
	}
	topic := func(rid string) string { return hubtopic.PatchReported(rid, version) }
	a, err := c.ask(ctx, topic, b, version == nil)
	switch {
	case err != nil:
		return 0, fmt.Errorf("reporting properties: %w", err)
	case a.Version == nil:
		return 0, errors.New("reporting properties: the hub does not say which version they have")
	}
	return *a.Version, nil
}

// ask sends a request, again on the next line if the line is lost and it may be
// repeated, and returns the answer, if that is not a refusal.
func (c *Connection) ask(ctx context.Context, topic func(rid string) string, payload []byte, repeatable bool) (answer, error) {
	for {
		l, err := c.await(ctx)
		if err != nil {
			return answer{}, err
		}
		a, err := c.exchange(ctx, l, topic, payload)
		switch {
		case errors.Is(err, errUnsent), errors.Is(err, ErrInterrupted) && repeatable:
			continue
		case err != nil:
			return answer{}, err
		case a.Status >= 300:
			return answer{}, rest.Refusal(&rest.Answer{Status: a.Status, Header: http.Header{}, Body: a.payload})
		}
		return a, nil
	}
}

// await waits for a line.
func (c *Connection) await(ctx context.Context) (*line, error) {
	for {
		c.mu.Lock()
		l, present := c.line, c.present
		c.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-present:
		case <-c.done:
			return nil, c.Err()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// exchange sends a request on a line and waits for the answer.
func (c *Connection) exchange(ctx context.Context, l *line, topic func(rid string) string, payload []byte) (a answer, err error) {
	waiting := make(chan answer, 1)
	c.mu.Lock()
	if c.line != l {
		c.mu.Unlock()
		return a, errUnsent
	}
	c.lastRID++
	rid := strconv.FormatUint(c.lastRID, 16)
	c.requests[rid] = request{l, waiting}
	err = l.write(&mqtt.Publish{Topic: topic(rid), Payload: payload})
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.requests, rid)
		c.part(l)
	}()
	if err != nil {
		return a, errUnsent
	}
	select {
	case a = <-waiting:
		return a, nil
	case <-ctx.Done():
		return a, context.Cause(ctx)
	case <-l.done:
	}
	select {
	case a = <-waiting: // it came with the last bytes
		return a, nil
	default:
		return a, ErrInterrupted
	}
}

// answered gives an answer to who waits for it on that line.
func (c *Connection) answered(l *line, d hubtopic.Delivery, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.requests[d.RequestID]; ok && r.on == l {
		delete(c.requests, d.RequestID)
		r.answer <- answer{d, payload}
	}
}

// A follower holds what OnDesired has to be told.
type follower struct {
	wake chan struct{} // has a member when there is something

	mu      sync.Mutex // guards what follows
	stale   bool       // the twin has to be asked for: changes may have been missed
	forget  bool       // what is known is of another place
	changes []Desired
}

func (f *follower) tell(change func()) {
	f.mu.Lock()
	change()
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// look has the twin asked for.
func (f *follower) look() { f.tell(func() { f.stale = true }) }

// moved has all forgotten that is known.
func (f *follower) moved() { f.tell(func() { f.forget, f.changes = true, nil }) }

// changed takes a patch. Where too many wait, the twin is the shorter way.
func (f *follower) changed(version int64, patch []byte) {
	s, err := section(patch)
	f.tell(func() {
		if err != nil || len(f.changes) == maxChanges {
			f.stale, f.changes = true, nil
			return
		}
		s.Version = version
		f.changes = append(f.changes, Desired{Section: s})
	})
}

func (f *follower) take() (stale, forget bool, changes []Desired) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stale, forget, changes = f.stale, f.forget, f.changes
	f.stale, f.forget, f.changes = false, false, nil
	return stale, forget, changes
}

// followDesired tells OnDesired of all desired properties and then of each change,
// in the order of their versions. Wherever a version is missing the twin is asked
// for.
func (c *Connection) followDesired() {
	var known *Section
	for failures := 0; ; {
		select {
		case <-c.follow.wake:
		case <-c.done:
			return
		}
		stale, forget, changes := c.follow.take()
		if forget {
			known = nil
		}
		if stale {
			now, err := c.look()
			if err != nil {
				if !rest.Wait(c.ctx, backoff(failures)) {
					return
				}
				failures++
				c.follow.look()
				continue
			}
			failures = 0
			if !known.is(now) {
				c.config.OnDesired(c.ctx, Desired{Section: now, Full: true})
			}
			known = &now
		}
		for _, d := range changes {
			switch {
			case known == nil || d.Version > known.Version+1:
				c.follow.look()
			case d.Version == known.Version+1:
				c.config.OnDesired(c.ctx, d)
				known = &Section{Version: d.Version}
			}
		}
	}
}

// is reports whether what is known is what there is now. Of what grew out of
// changes the version alone is known.
func (s *Section) is(now Section) bool {
	return s != nil && s.Version == now.Version && (s.Properties == nil || bytes.Equal(s.Properties, now.Properties))
}

// look asks for the desired properties.
func (c *Connection) look() (Section, error) {
	ctx, cancel := context.WithTimeout(c.ctx, twinTimeout)
	defer cancel()
	t, err := c.Twin(ctx)
	return t.Desired, err
}
