package hub_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	randv2 "math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// An installation is two servers on one database, with a bus between them.
type installation struct {
	t        *testing.T
	servers  [2]*server
	identity *hub.Identity
}

// A server is one of them, and what it tells the other.
type server struct {
	*hub.Service
	self   uint64
	clock  time.Duration // what its clock is ahead
	other  *server
	silent bool // the bus loses what it tells
	dead   bool // it cannot ask

	mu   sync.Mutex
	told []hub.News // on the bus, in order
}

func (s *server) Self() uint64 { return s.self }

func (s *server) Tell(n hub.News) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.silent {
		s.told = append(s.told, n)
	}
}

// deliver brings one of the news on the bus to the other server.
func (s *server) deliver() bool {
	s.mu.Lock()
	if len(s.told) == 0 {
		s.mu.Unlock()
		return false
	}
	n := s.told[0]
	s.told = s.told[1:]
	s.mu.Unlock()
	s.other.Heard(n)
	return true
}

func (s *server) Call(ctx context.Context, c hub.Call) (int, json.RawMessage, error) {
	if s.dead {
		return 0, nil, hub.ErrUnreachable
	}
	call := s.other.Called(c)
	if call == nil {
		return 0, nil, hub.ErrNotConnected
	}
	return call(ctx)
}

// deliver brings all news to where they go, also those that news cause.
func (i *installation) deliver() {
	for i.servers[0].deliver() || i.servers[1].deliver() {
	}
}

// A wire is a device's connection to a server.
type wire struct {
	name     string
	attached chan struct{} // closed when there is a detach
	detach   func()

	mu       sync.Mutex
	versions []int64
	patches  []string
	why      error // it ended
}

func (w *wire) Close(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why == nil {
		w.why = why
		go func() { <-w.attached; w.detach() }()
	}
}

func (w *wire) Desired(patch json.RawMessage, version int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.versions, w.patches = append(w.versions, version), append(w.patches, string(patch))
}

func (w *wire) Queued() {}

func (w *wire) Invoke(ctx context.Context, name string, payload json.RawMessage) (int, json.RawMessage, error) {
	switch name {
	case "sleep":
		<-ctx.Done()
		return 0, nil, ctx.Err()
	case "refuse":
		return 0, nil, hub.ErrNoMethods
	}
	return 200, json.RawMessage(fmt.Sprintf(`{"%s":%s}`, w.name, payload)), nil
}

func (w *wire) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.why
}

func (w *wire) heard() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.versions)
}

// together runs a test on two servers and one device, which is not connected.
func together(t *testing.T, story func(t *testing.T, i *installation, a, b *server)) {
	synctest.Test(t, func(t *testing.T) {
		db := openStore(t)
		i := &installation{t: t, servers: [2]*server{{self: 1}, {self: 2}}}
		for n, s := range i.servers {
			s.other = i.servers[1-n]
			s.Service = hub.New(hub.Config{
				Registry: db, Stream: db, Queues: db, Presences: db, Configurations: db, Policies: db, Random: rand.Reader, Peers: s,
				Now: func() time.Time { return time.Now().Add(s.clock) },
			})
		}
		i.create()
		story(t, i, i.servers[0], i.servers[1])
		synctest.Wait()
	})
}

func (i *installation) create() {
	i.t.Helper()
	d, err := i.servers[0].PutDevice(i.t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	i.identity = d
	i.deliver()
}

func (i *installation) sender() hub.Sender {
	return hub.Sender{Place: hub.Place{Hub: host, ID: "d1"}, GenerationID: i.identity.GenerationID}
}

// connect connects the device, and does not tell the other server yet.
func (i *installation) connect(s *server, name string) *wire {
	w := &wire{name: name, attached: make(chan struct{})}
	w.detach = s.Attach(i.t.Context(), i.sender(), w)
	close(w.attached)
	return w
}

// pass lets time go by, which costs none here.
func pass(d time.Duration) { <-time.After(d) }

func (i *installation) change(s *server, desired string) {
	i.t.Helper()
	if _, _, err := s.PatchTwin(i.t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, hub.TwinChange{Desired: json.RawMessage(desired)}, nil); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installation) ends(w *wire, why error) {
	i.t.Helper()
	synctest.Wait()
	if got := w.ended(); !errors.Is(got, why) || why == nil && got != nil {
		i.t.Errorf("connection %s ended with %v, want %v", w.name, got, why)
	}
}

func (i *installation) hears(w *wire, versions ...int64) {
	i.t.Helper()
	synctest.Wait()
	if got := w.heard(); !slices.Equal(got, versions) {
		i.t.Errorf("connection %s heard of versions %v, want %v", w.name, got, versions)
	}
}

func TestMethodsReachOtherServers(t *testing.T) {
	together(t, func(t *testing.T, i *installation, a, b *server) {
		call := func(m hub.Method) (hub.MethodResult, error) {
			return a.Invoke(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, m)
		}
		_, err := call(hub.Method{Name: "reboot"})
		wantCode(t, "a device that is nowhere", err, errs.CodeDeviceNotOnline)
		w := i.connect(b, "b")
		i.deliver()
		r, err := call(hub.Method{Name: "reboot", Payload: json.RawMessage("5")})
		if err != nil || r.Status != 200 || string(r.Payload) != `{"b":5}` {
			t.Errorf("%v %s, %v", r.Status, r.Payload, err)
		}
		_, err = call(hub.Method{Name: "refuse"})
		wantCode(t, "a device that takes no calls", err, errs.CodeDeviceNotOnline)
		began := time.Now()
		_, err = call(hub.Method{Name: "sleep", Response: 7 * time.Second})
		wantCode(t, "a device that does not answer", err, errs.CodeGatewayTimeout)
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("gave up after %v", took)
		}
		a.dead = true
		_, err = call(hub.Method{Name: "reboot"})
		wantCode(t, "nobody can be asked", err, errs.CodeServiceUnavailable)
		w.detach()
		here := i.connect(a, "a")
		if r, err := call(hub.Method{Name: "reboot", Payload: json.RawMessage("5")}); err != nil || string(r.Payload) != `{"a":5}` {
			t.Errorf("a device that is here, while nobody can be asked: %s, %v", r.Payload, err)
		}
		here.detach()
	})
}

func TestMethodsWaitForDevicesThatConnectElsewhere(t *testing.T) {
	together(t, func(t *testing.T, i *installation, a, b *server) {
		type outcome struct {
			took time.Duration
			err  error
		}
		outcomes := make(chan outcome, 3)
		for range 3 {
			go func() {
				began := time.Now()
				_, err := a.Invoke(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, hub.Method{Name: "reboot", Payload: json.RawMessage("1"), Connect: time.Minute})
				outcomes <- outcome{time.Since(began), err}
			}()
		}
		time.AfterFunc(10*time.Second, func() { i.connect(b, "b"); i.deliver() })
		for range 3 {
			if o := <-outcomes; o.err != nil || o.took != 10*time.Second {
				t.Errorf("after %v: %v", o.took, o.err)
			}
		}
	})
	together(t, func(t *testing.T, i *installation, a, b *server) {
		a.dead = true
		began := time.Now()
		_, err := a.Invoke(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, hub.Method{Name: "reboot", Connect: time.Minute})
		wantCode(t, "nobody can be asked", err, errs.CodeServiceUnavailable)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("after %v", took)
		}
	})
}

func TestDesiredPropertiesOfTwoServers(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(i *installation, a, b *server) // the device is connected to b
		told  []int64
		ended error
	}{
		"changed elsewhere": {func(i *installation, a, b *server) {
			i.change(a, `{"x":1}`)
			i.deliver()
		}, []int64{2}, nil},
		"news come late": {func(i *installation, a, b *server) {
			i.change(a, `{"x":1}`)
			i.change(b, `{"x":2}`)
			i.change(b, `{"x":3}`)
			i.deliver()
		}, []int64{2, 3, 4}, nil},
		"news come twice": {func(i *installation, a, b *server) {
			i.change(a, `{"x":1}`)
			a.told = append(a.told, a.told...)
			i.change(a, `{"x":2}`)
			i.deliver()
		}, []int64{2, 3}, nil},
		"news do not come": {func(i *installation, a, b *server) {
			a.silent = true
			i.change(a, `{"x":1}`)
			a.silent = false
			i.change(a, `{"x":2}`)
			i.deliver()
			pass(3 * time.Second)
		}, nil, hub.ErrBehind},
		"news do not come, and the device asks in time": {func(i *installation, a, b *server) {
			a.silent = true
			i.change(a, `{"x":1}`)
			a.silent = false
			i.change(a, `{"x":2}`)
			i.deliver()
			if twin, err := b.DeviceTwin(i.t.Context(), i.sender()); err != nil || twin.DesiredVersion != 3 {
				i.t.Errorf("%v, %v", twin, err)
			}
			i.change(a, `{"x":3}`)
			i.deliver()
			pass(3 * time.Second)
		}, []int64{4}, nil},
		"the last news do not come": {func(i *installation, a, b *server) {
			i.change(a, `{"x":1}`)
			i.deliver()
			a.silent = true
			i.change(a, `{"x":2}`)
			if err := b.Recheck(i.t.Context()); err != nil {
				i.t.Error(err)
			}
			pass(3 * time.Second)
		}, []int64{2}, hub.ErrBehind},
		"news come after somebody looked for them": {func(i *installation, a, b *server) {
			i.change(a, `{"x":1}`)
			if err := b.Recheck(i.t.Context()); err != nil {
				i.t.Error(err)
			}
			pass(time.Second)
			i.deliver()
			pass(3 * time.Second)
		}, []int64{2}, nil},
		"changed before the device connected, told after": {func(i *installation, a, b *server) {
			i.change(a, `{"x":1}`)
			again := i.connect(b, "again")
			i.deliver()
			i.change(b, `{"x":2}`)
			i.hears(again, 3)
			i.ends(again, nil)
		}, nil, hub.ErrTakenOver},
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, i *installation, a, b *server) {
				w := i.connect(b, "b")
				c.do(i, a, b)
				i.hears(w, c.told...)
				i.ends(w, c.ended)
			})
		})
	}
}

// Two servers change the desired properties all the time, and the bus takes as
// long as it likes: a device that takes in the patches has what the twin says.
func TestDesiredPropertiesInATurmoil(t *testing.T) {
	together(t, func(t *testing.T, i *installation, a, b *server) {
		w := i.connect(b, "b")
		ctx, stop := context.WithCancel(t.Context())
		var changing, delivering sync.WaitGroup
		for n, s := range []*server{a, b} {
			changing.Go(func() {
				for round := range 60 {
					i.change(s, fmt.Sprintf(`{"k%d":%d,"k%d":null}`, round%7, 1000*n+round, (round+n)%5))
					pass(time.Duration(10*(n+1)) * time.Millisecond)
				}
			})
		}
		delivering.Go(func() {
			random := randv2.New(randv2.NewPCG(3, 4))
			for ctx.Err() == nil {
				pass(time.Duration(random.IntN(50)) * time.Millisecond)
				for a.deliver() {
				}
			}
		})
		changing.Wait()
		stop()
		delivering.Wait()
		i.deliver()
		i.ends(w, nil)
		twin, err := b.DeviceTwin(t.Context(), i.sender())
		if err != nil {
			t.Fatal(err)
		}
		at := int64(1)
		has := map[string]any{}
		for n, version := range w.heard() {
			if at++; version != at {
				t.Fatalf("heard of %d after %d", version, at-1)
			}
			var patch map[string]any
			if err := json.Unmarshal([]byte(w.patches[n]), &patch); err != nil {
				t.Fatal(err)
			}
			for k, v := range patch {
				if has[k] = v; v == nil {
					delete(has, k)
				}
			}
		}
		var want map[string]any
		if err := json.Unmarshal(twin.Desired, &want); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(has, want) || at != twin.DesiredVersion {
			t.Errorf("the device has %v of version %d, its twin is %s of %d", has, at, twin.Desired, twin.DesiredVersion)
		}
	})
}

func TestTakeoverByAnotherServer(t *testing.T) {
	for name, c := range map[string]struct {
		do     func(i *installation, a, b *server) (first, second *wire)
		first  error
		second error
	}{
		"one after the other": {func(i *installation, a, b *server) (*wire, *wire) {
			first := i.connect(a, "first")
			i.deliver()
			return first, i.connect(b, "second")
		}, hub.ErrTakenOver, nil},
		"the first server's clock is ahead": {func(i *installation, a, b *server) (*wire, *wire) {
			a.clock = time.Hour
			first := i.connect(a, "first")
			i.deliver()
			return first, i.connect(b, "second")
		}, hub.ErrTakenOver, nil},
		"the second server's clock is ahead": {func(i *installation, a, b *server) (*wire, *wire) {
			b.clock = time.Hour
			first := i.connect(a, "first")
			i.deliver()
			return first, i.connect(b, "second")
		}, hub.ErrTakenOver, nil},
		"at the same time": {func(i *installation, a, b *server) (*wire, *wire) {
			return i.connect(a, "first"), i.connect(b, "second")
		}, hub.ErrTakenOver, nil},
		"at the same time, by other clocks": {func(i *installation, a, b *server) (*wire, *wire) {
			a.clock = time.Second
			return i.connect(a, "first"), i.connect(b, "second")
		}, nil, hub.ErrTakenOver},
		"and nobody heard of the second": {func(i *installation, a, b *server) (*wire, *wire) {
			first := i.connect(a, "first")
			i.deliver()
			b.silent = true
			second := i.connect(b, "second")
			b.silent = false
			if err := a.Recheck(i.t.Context()); err != nil {
				i.t.Error(err)
			}
			return first, second
		}, hub.ErrTakenOver, nil},
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, i *installation, a, b *server) {
				first, second := c.do(i, a, b)
				i.deliver()
				i.ends(first, c.first)
				i.ends(second, c.second)
			})
		})
	}
}

// However often a device connects, and wherever: one connection is left.
func TestOneConnectionIsLeft(t *testing.T) {
	together(t, func(t *testing.T, i *installation, a, b *server) {
		random := randv2.New(randv2.NewPCG(5, 6))
		a.clock = 3 * time.Millisecond
		for round := range 50 {
			var all []*wire
			for n := range 2 + random.IntN(6) {
				all = append(all, i.connect(i.servers[random.IntN(2)], fmt.Sprint(round, "/", n)))
				for range random.IntN(3) {
					i.servers[random.IntN(2)].deliver()
				}
			}
			i.deliver()
			synctest.Wait()
			left := 0
			for _, w := range all {
				if w.ended() == nil {
					left++
				}
			}
			if left != 1 || a.Connected(hub.Place{Hub: host, ID: "d1"}) == b.Connected(hub.Place{Hub: host, ID: "d1"}) {
				t.Fatalf("round %d: %d connections of %d are left", round, left, len(all))
			}
		}
	})
}

func TestWhoIsCutOffElsewhere(t *testing.T) {
	disable := func(i *installation, s *server) {
		i.t.Helper()
		if _, err := s.PutDevice(i.t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, hub.DeviceSpec{Disabled: true, Auth: i.identity.Auth}, always); err != nil {
			i.t.Error(err)
		}
	}
	remove := func(i *installation, s *server) {
		i.t.Helper()
		if err := s.Delete(i.t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, nil); err != nil {
			i.t.Error(err)
		}
	}
	recheck := func(i *installation, s *server) {
		i.t.Helper()
		if err := s.Recheck(i.t.Context()); err != nil {
			i.t.Error(err)
		}
	}
	for name, c := range map[string]struct {
		do  func(i *installation, a, b *server) *wire
		why error
	}{
		"disabled": {func(i *installation, a, b *server) *wire {
			w := i.connect(b, "b")
			disable(i, a)
			return w
		}, hub.ErrDisabled},
		"deleted": {func(i *installation, a, b *server) *wire {
			w := i.connect(b, "b")
			remove(i, a)
			return w
		}, hub.ErrDeleted},
		"disabled, and nobody heard": {func(i *installation, a, b *server) *wire {
			w := i.connect(b, "b")
			a.silent = true
			disable(i, a)
			recheck(i, b)
			return w
		}, hub.ErrDisabled},
		"deleted, and nobody heard": {func(i *installation, a, b *server) *wire {
			w := i.connect(b, "b")
			a.silent = true
			remove(i, a)
			recheck(i, b)
			return w
		}, hub.ErrDeleted},
		"deleted and made again, and nobody heard": {func(i *installation, a, b *server) *wire {
			w := i.connect(b, "b")
			a.silent = true
			remove(i, a)
			pass(time.Second) // a generation has an instant for its name
			i.create()
			recheck(i, b)
			return w
		}, hub.ErrDeleted},
		"disabled between its proof and its connection": {func(i *installation, a, b *server) *wire {
			disable(i, a)
			i.deliver()
			return i.connect(b, "b")
		}, hub.ErrDisabled},
		"deleted between its proof and its connection": {func(i *installation, a, b *server) *wire {
			remove(i, a)
			i.deliver()
			return i.connect(b, "b")
		}, hub.ErrDeleted},
		"moved to another hub": {func(i *installation, a, b *server) *wire {
			w := i.connect(b, "b")
			moved := hub.Provisioning{Hub: "hub2.example", DeviceID: "d1", Keys: keys(1, 2), From: i.identity.Place}
			if err := a.Provision(i.t.Context(), moved); err != nil {
				i.t.Error(err)
			}
			return w
		}, hub.ErrDeleted},
		"not at all": {func(i *installation, a, b *server) *wire {
			w := i.connect(b, "b")
			recheck(i, a)
			recheck(i, b)
			return w
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			together(t, func(t *testing.T, i *installation, a, b *server) {
				w := c.do(i, a, b)
				i.deliver()
				i.ends(w, c.why)
			})
		})
	}
}
