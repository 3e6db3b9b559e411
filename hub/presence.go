package hub

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/device"
)

// A Presence is what is known of an identity beside what is written of it.
type Presence struct {
	Connected    bool      // to whichever server
	Updated      time.Time // when it connected or ceased to be, whichever was last; zero where it never did
	LastActivity time.Time // zero where it never did anything
}

// ConnectionState is how the service API spells whether it is connected:
// "Connected" or "Disconnected".
func (p Presence) ConnectionState() string {
	if p.Connected {
		return "Connected"
	}
	return "Disconnected"
}

// A Notice is what a server noticed of an identity.
type Notice struct {
	Place
	Change   ConnectionChange
	Changed  time.Time // when; zero without a Change
	Activity time.Time // the last; zero where there was none
}

// A ConnectionChange is what became of an identity's connection to one server.
type ConnectionChange int

// The changes of a connection.
const (
	StillAsItWas ConnectionChange = iota
	NowConnected
	NowDisconnected
)

// Presences keeps who is connected to which server, and when identities were last
// heard of. It is written some time after it happened: what was noticed just before
// a server was killed is lost, and its connections end when its lease does.
type Presences interface {
	// Notice keeps what a server noticed, of every place once, all or none. A
	// connection to another server that is later known of stays; what is said of
	// places where there is no device is forgotten.
	Notice(ctx context.Context, server string, notices []Notice) error
	// Presences returns what is known of the identities of a hub whose device IDs
	// are between first and last, both included. Those of which nothing is known
	// are left out.
	Presences(ctx context.Context, hub string, first, last device.ID, now time.Time) (map[Place]Presence, error)
	// CountConnected counts the devices of a hub that are connected, without modules.
	CountConnected(ctx context.Context, hub string, now time.Time) (int, error)
	// LeaseServer says that a server runs until a time: its connections count. The
	// servers whose lease ended long before now are forgotten.
	LeaseServer(ctx context.Context, server string, now, until time.Time) error
	// EndServer ends a server's lease.
	EndServer(ctx context.Context, server string) error
}

const (
	// noticeInterval is how long what is noticed waits to be kept.
	noticeInterval = time.Second
	// activityInterval is how late the last activity of a device that stays
	// connected may be.
	activityInterval = time.Minute
	// serverLease is for how long a server that was killed is believed to run.
	serverLease  = 30 * time.Second
	renewalsOf   = 3 // a lease is renewed so often
	noticeBatch  = 1000
	maxNotices   = 100_000 // that wait; activity beyond is not noticed
	goodbyeLimit = 5 * time.Second
)

// An activity is when a sender was last heard of. Where it is attached, its
// connection is asked for it from time to time.
type activity struct {
	last     atomic.Int64 // nanoseconds since 1970
	attached atomic.Bool
}

// notices are what is to be kept of presence. The zero value is ready.
type notices struct {
	mu      sync.Mutex // guards what follows
	waiting map[Place]Notice
}

// add notes n over what waits of the same place.
func (w *notices) add(n Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.putLocked(w.waiting[n.Place], n)
}

// again notes what could not be kept, under what waits of the same places by now: a
// connection that was not kept would not be known for as long as it lasts.
func (w *notices) again(batch []Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range batch {
		if newer, known := w.waiting[n.Place]; known {
			w.putLocked(n, newer)
		} else {
			w.putLocked(Notice{}, n)
		}
	}
}

// putLocked has a place wait with what was noticed of it, and then now.
func (w *notices) putLocked(was, now Notice) {
	if now.Change == StillAsItWas {
		now.Change, now.Changed = was.Change, was.Changed
	}
	if was.Activity.After(now.Activity) {
		now.Activity = was.Activity
	}
	if _, known := w.waiting[now.Place]; !known && now.Change == StillAsItWas && len(w.waiting) >= maxNotices {
		return
	}
	if w.waiting == nil {
		w.waiting = make(map[Place]Notice)
	}
	w.waiting[now.Place] = now
}

// take returns some of what waits, in the order of places, so that servers which
// write at the same time do not wait for each other in a circle.
func (w *notices) take() []Notice {
	w.mu.Lock()
	defer w.mu.Unlock()
	var batch []Notice
	for at, n := range w.waiting {
		if len(batch) == noticeBatch {
			break
		}
		batch = append(batch, n)
		delete(w.waiting, at)
	}
	slices.SortFunc(batch, func(a, b Notice) int {
		return cmp.Or(cmp.Compare(a.Hub, b.Hub), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Module, b.Module))
	})
	return batch
}

// active notes that a sender did something just now.
func (s *Service) active(from Sender, now time.Time) {
	if from.activity == nil {
		return // nobody who proved himself here
	}
	from.activity.last.Store(now.UnixNano())
	if !from.activity.attached.Load() {
		s.notices.add(Notice{Place: from.Place, Activity: now})
	}
}

// connected and disconnected note what became of a sender's connection.
func (s *Service) connected(from Sender) {
	now := s.now()
	if from.activity != nil {
		from.activity.last.Store(now.UnixNano())
		from.activity.attached.Store(true)
	}
	s.notices.add(Notice{Place: from.Place, Change: NowConnected, Changed: now, Activity: now})
}

func (s *Service) disconnected(from Sender) {
	n := Notice{Place: from.Place, Change: NowDisconnected, Changed: s.now()}
	if from.activity != nil {
		n.Activity = time.Unix(0, from.activity.last.Load())
	}
	s.notices.add(n)
}

// Presences returns what is known of the identities of a hub whose device IDs are
// between first and last, both included. Connections of the last second may be
// missing; of those to this process [Service.Connected] knows.
func (s *Service) Presences(ctx context.Context, hub string, first, last device.ID) (map[Place]Presence, error) {
	known, err := s.presences.Presences(ctx, hub, first, last, s.now())
	if err != nil {
		return nil, fmt.Errorf("reading who is connected to %s: %w", hub, err)
	}
	return known, nil
}

// CountConnected counts the devices of a hub that are connected, to whichever
// server, as it was about a second ago.
func (s *Service) CountConnected(ctx context.Context, hub string) (int, error) {
	n, err := s.presences.CountConnected(ctx, hub, s.now())
	if err != nil {
		return 0, fmt.Errorf("counting who is connected to %s: %w", hub, err)
	}
	return n, nil
}

// KeepPresence keeps what is noticed of devices until ctx ends, and then says that
// none is connected here any more. failed is told of what could not be kept, which
// is tried again.
func (s *Service) KeepPresence(ctx context.Context, failed func(error)) {
	server, err := s.newServerName()
	if err != nil {
		failed(err)
		return
	}
	report := func(err error) {
		if err != nil && ctx.Err() == nil {
			failed(fmt.Errorf("keeping who is connected: %w", err))
		}
	}
	tick := time.NewTicker(noticeInterval)
	defer tick.Stop()
	var renewed, asked time.Time
	for {
		now := s.now()
		if now.Sub(renewed) >= serverLease/renewalsOf {
			report(s.presences.LeaseServer(ctx, server, now, now.Add(serverLease)))
			renewed = now
		}
		if now.Sub(asked) >= activityInterval {
			s.noticeActivity(asked)
			asked = now
		}
		report(s.keepNotices(ctx, server))
		select {
		case <-tick.C:
		case <-ctx.Done():
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeLimit)
			defer cancel()
			if err := errors.Join(s.keepNotices(leaving, server), s.presences.EndServer(leaving, server)); err != nil {
				failed(fmt.Errorf("saying that nobody is connected any more: %w", err))
			}
			return
		}
	}
}

func (s *Service) newServerName() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		return "", fmt.Errorf("drawing a server's name: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// noticeActivity notes of who is connected what he did since a time.
func (s *Service) noticeActivity(since time.Time) {
	for at, c := range s.live.all() {
		if c.activity == nil {
			continue
		}
		if last := time.Unix(0, c.activity.last.Load()); last.After(since) {
			s.notices.add(Notice{Place: at, Activity: last})
		}
	}
}

func (s *Service) keepNotices(ctx context.Context, server string) error {
	for {
		batch := s.notices.take()
		if len(batch) == 0 {
			return nil
		}
		if err := s.presences.Notice(ctx, server, batch); err != nil {
			s.notices.again(batch)
			return err
		}
	}
}
