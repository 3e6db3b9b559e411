package hub_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// A silent link is a connection over which nothing is said.
type silent struct{ closed bool }

func (l *silent) Close(error)                    { l.closed = true }
func (l *silent) Desired(json.RawMessage, int64) {}
func (l *silent) Queued()                        {}
func (l *silent) Invoke(context.Context, string, json.RawMessage) (int, json.RawMessage, error) {
	return 0, nil, hub.ErrNoMethods
}

// What one server notices of its devices another one on the same database knows a
// moment later, and no longer than the first one lives.
func TestServersKnowWhoIsConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := openStore(t)
		var ahead time.Duration // the clock of the other server
		server := func(now func() time.Time) *hub.Service {
			return hub.New(hub.Config{Registry: db, Stream: db, Queues: db, Presences: db, Configurations: db, Policies: db, Random: rand.Reader, Now: now})
		}
		here, there := server(time.Now), server(func() time.Time { return time.Now().Add(ahead) })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			here.KeepPresence(ctx, func(err error) { t.Error(err) })
		}()
		at := hub.Place{Hub: host, ID: "d1"}
		d, err := here.PutDevice(t.Context(), owner, at, hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys(1, 2)}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		known := func(connected bool, updated, active time.Time) {
			t.Helper()
			all, err := there.Presences(t.Context(), host, "d1", "d1")
			if err != nil {
				t.Fatal(err)
			}
			if p := all[at]; p.Connected != connected || !p.Updated.Equal(updated) || !p.LastActivity.Equal(active) {
				t.Errorf("after %v: %+v, want %v, %v, %v", time.Since(d.StatusUpdated), p, connected, updated, active)
			}
			want := 0
			if connected {
				want = 1
			}
			if n, err := there.CountConnected(t.Context(), host); err != nil || n != want {
				t.Errorf("%d are connected, %v", n, err)
			}
		}
		known(false, time.Time{}, time.Time{})

		token := token(t, 1, host+"/devices/d1", time.Now().Add(24*time.Hour), "")
		from, err := here.Authenticate(t.Context(), testHost, "d1", "", attest.Credential{Token: token}, hub.Approach{})
		if err != nil {
			t.Fatal(err)
		}
		// What is done without a connection counts as activity, too.
		first := time.Now()
		if _, err := here.PatchReported(t.Context(), from, json.RawMessage(`{"a":1}`), nil); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Second)
		known(false, time.Time{}, first)

		connected := time.Now()
		detach := here.Attach(t.Context(), from, &silent{})
		pass(2 * time.Second)
		known(true, connected, connected)

		// Who stays connected is asked for its activity now and then.
		pass(time.Minute)
		active := time.Now()
		if _, err := here.DeviceTwin(t.Context(), from); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		known(true, connected, active)

		// A server that is not heard of any more has nobody.
		ahead = time.Minute
		known(false, connected, active)
		ahead = 0
		known(true, connected, active)

		left := time.Now()
		detach()
		pass(2 * time.Second)
		known(false, left, active)

		// One that ends says so at once.
		again := time.Now()
		detach = here.Attach(t.Context(), from, &silent{})
		defer detach()
		pass(2 * time.Second)
		known(true, again, again)
		cancel()
		<-ended
		known(false, again, again)
	})
}

// A refusing store takes no notice while it refuses.
type refusing struct {
	store
	refuses atomic.Bool
}

func (r *refusing) Notice(ctx context.Context, server string, notices []hub.Notice) error {
	if r.refuses.Load() {
		return errors.New("the database is away")
	}
	return r.store.Notice(ctx, server, notices)
}

// Who connects while nothing can be kept, and stays, is known to be connected when
// something can.
func TestWhatCouldNotBeKeptIsKeptLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m := open(t)
		away := &refusing{store: m}
		away.refuses.Store(true)
		s := hub.New(hub.Config{Registry: m, Stream: m, Queues: m, Presences: away, Configurations: m, Policies: m, Random: rand.Reader, Now: time.Now})
		ctx, cancel := context.WithCancel(t.Context())
		ended, said := make(chan struct{}), atomic.Int32{}
		go func() {
			defer close(ended)
			s.KeepPresence(ctx, func(error) { said.Add(1) })
		}()
		at := home("d1", "")
		if _, err := s.PutDevice(t.Context(), owner, at, hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys(1, 2)}}, nil); err != nil {
			t.Fatal(err)
		}
		token := token(t, 1, host+"/devices/d1", time.Now().Add(24*time.Hour), "")
		from, err := s.Authenticate(t.Context(), testHost, "d1", "", attest.Credential{Token: token}, hub.Approach{})
		if err != nil {
			t.Fatal(err)
		}
		connected := time.Now()
		detach := s.Attach(t.Context(), from, &silent{})
		defer detach()
		pass(2 * time.Second)
		active := time.Now()
		if _, err := s.DeviceTwin(t.Context(), from); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		if said.Load() == 0 {
			t.Error("nobody was told")
		}
		away.refuses.Store(false)
		pass(2 * time.Second)
		all, err := s.Presences(t.Context(), host, "d1", "d1")
		if p := all[at]; err != nil || !p.Connected || !p.Updated.Equal(connected) || !p.LastActivity.Equal(active) {
			t.Errorf("%+v, %v, want one that is connected since %v and was active at %v", p, err, connected, active)
		}
		cancel()
		<-ended
	})
}

// A module is noticed apart from its device, and is no device that is counted.
func TestModulesAreNoticedByThemselves(t *testing.T) {
	s, m := open(t)
	var ids []hub.Place
	for _, module := range []device.ID{"", "m1"} {
		ids = append(ids, home("d1", module))
	}
	if _, err := s.PutDevice(t.Context(), owner, ids[0], hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, at := range ids[1:] {
		err := m.Notice(t.Context(), "s1", []hub.Notice{{Place: at, Change: hub.NowConnected, Changed: t0, Activity: t0}})
		if err != nil {
			t.Fatal(err)
		}
	}
	known, err := s.Presences(t.Context(), host, "d1", "d1")
	if _, device := known[ids[0]]; err != nil || device || known[ids[1]].LastActivity != t0 {
		t.Errorf("%+v, %v", known, err)
	}
}
