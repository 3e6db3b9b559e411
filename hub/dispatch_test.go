package hub_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/sqlite"
)

// A far is the far side of a sink in memory: it keeps what it is given, or refuses.
type far struct {
	mu      sync.Mutex
	refuses error
	hangs   bool
	got     []*hub.Message
	batches int
	tried   int
}

func (f *far) Deliver(ctx context.Context, batch []*hub.Message) error {
	f.mu.Lock()
	f.tried++
	if f.hangs {
		f.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer f.mu.Unlock()
	if f.refuses != nil {
		return f.refuses
	}
	f.got = append(f.got, batch...)
	f.batches++
	return nil
}

func (f *far) Close() error { return nil }

func (f *far) set(refuses error, hangs bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuses, f.hangs = refuses, hangs
}

// bodies are those of what it keeps, in order.
func (f *far) bodies() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, m := range f.got {
		all = append(all, string(m.Body))
	}
	return strings.Join(all, " ")
}

// A plant is a hub whose messages go somewhere, in a bubble of synctest.
type plant struct {
	t     *testing.T
	store *sqlite.Store
	far   *far
}

func newPlant(t *testing.T) *plant {
	return &plant{t: t, store: openStore(t), far: &far{}}
}

// dispatcher returns one of the plant's servers. positions is what it writes its
// positions to.
func (p *plant) dispatcher(positions hub.Positions) *hub.Dispatcher {
	p.t.Helper()
	return hub.NewDispatcher(hub.DispatcherConfig{
		Name: rand.Text(), Stream: p.store, Routing: p.store, Positions: positions,
		Kinds: map[string]hub.SinkKind{"far": {
			Check: func(c hub.SinkConfig) error {
				if len(c.Settings) > 0 {
					return errs.New(errs.Invalid, 0, "no settings")
				}
				return nil
			},
			Open: func(hub.SinkConfig) (hub.Sink, error) { return p.far, nil },
		}},
		Now: time.Now, Random: rand.Reader,
		Wanted: func(func(string, hub.Source) bool) {},
		Fault:  func(err error) { p.t.Log("fault:", err) },
	})
}

// run runs a dispatcher until stop is called or the test ends.
func (p *plant) run(d *hub.Dispatcher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	p.t.Cleanup(stop)
	return stop
}

// route makes a sink and a route to it.
func (p *plant) route(d *hub.Dispatcher, condition string) {
	p.t.Helper()
	if _, err := d.PutSink(p.t.Context(), hub.SinkConfig{Hub: host, Name: "far", Kind: "far", URL: "far://away"}, nil); err != nil {
		p.t.Fatal(err)
	}
	r := hub.Route{Hub: host, Name: "all", Source: hub.DeviceMessages, Condition: condition, Sink: "far", Enabled: true}
	if _, err := d.PutRoute(p.t.Context(), r, nil); err != nil {
		p.t.Fatal(err)
	}
}

// send puts numbered messages of a hub into the stream.
func (p *plant) send(at string, from, to int) {
	p.t.Helper()
	for i := from; i <= to; i++ {
		m := &hub.Message{
			Hub: at, DeviceID: device.ID(fmt.Sprint("d", i%3)), Enqueued: time.Now(),
			System:     map[string]string{"message-source": "Telemetry", "content-type": "application/json", "content-encoding": "utf-8"},
			Properties: map[string]string{"parity": []string{"even", "odd"}[i%2]}, Body: fmt.Append(nil, i),
		}
		if err := p.store.Append(p.t.Context(), []*hub.Message{m}); err != nil {
			p.t.Fatal(err)
		}
	}
}

// numbers is what came of send, in order.
func numbers(from, to int) string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return strings.Join(all, " ")
}

func (p *plant) want(bodies string) {
	p.t.Helper()
	if got := p.far.bodies(); got != bodies {
		p.t.Errorf("arrived: %q, want %q", got, bodies)
	}
}

func (p *plant) status(d *hub.Dispatcher) hub.RouteStatus {
	p.t.Helper()
	all, err := d.Routes(p.t.Context(), host)
	if err != nil || len(all) != 1 {
		p.t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

func settle(d time.Duration) {
	pass(d)
	synctest.Wait()
}

func TestMessagesGoWhereARouteSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.send(host, 1, 5) // before there was the route
		p.route(d, "parity = 'odd' AND $body > 10")
		p.run(d)
		settle(time.Second)
		p.send("another.example", 100, 110)
		p.send(host, 6, 17)
		settle(time.Second)
		p.want("11 13 15 17")
		if s := p.status(d); s.Lag != 0 || s.Position.Delivered != 4 || s.Position.Lost != 0 || !s.Position.FailingSince.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

func TestASinkThatIsDownLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.route(d, "true")
		p.run(d)
		settle(time.Second)
		p.send(host, 1, 3)
		settle(time.Second)
		p.far.set(errs.New(errs.Unavailable, 0, "far away"), false)
		began := time.Now()
		p.send(host, 4, 300)
		settle(time.Hour)
		s := p.status(d)
		if s.Lag != 297 || !s.Oldest.Equal(began) || s.Position.LastError != "far away" || s.Position.FailingSince.Sub(began) > time.Second {
			t.Errorf("lag %d, oldest %s, %+v", s.Lag, s.Oldest, s.Position)
		}
		if p.far.tried > 150 || p.far.tried < 60 {
			t.Errorf("tried %d times in an hour", p.far.tried)
		}
		p.far.set(nil, false)
		settle(time.Minute)
		p.want(numbers(1, 300))
		if s := p.status(d); s.Lag != 0 || s.Position.Delivered != 300 || !s.Position.FailingSince.IsZero() {
			t.Errorf("%+v", s)
		}
		if p.far.batches > 10 {
			t.Errorf("%d batches", p.far.batches)
		}
	})
}

// A sink that does not answer is given up before the lease is.
func TestASinkThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.route(d, "true")
		p.run(d)
		settle(time.Second)
		p.far.set(nil, true)
		p.send(host, 1, 3)
		settle(5 * time.Minute)
		if p.far.tried < 4 {
			t.Errorf("tried %d times", p.far.tried)
		}
		p.far.set(nil, false)
		settle(2 * time.Minute)
		p.want(numbers(1, 3))
	})
}

// broken positions are those of a server that was cut off from the database.
type broken struct {
	*sqlite.Store
	mu  sync.Mutex
	off bool
}

func (b *broken) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.off = true
}

func (b *broken) ChangePosition(ctx context.Context, of hub.Reader, decide func(*hub.Position) (*hub.Position, error)) error {
	b.mu.Lock()
	off := b.off
	b.mu.Unlock()
	if off {
		return errs.New(errs.Unavailable, 0, "cut off")
	}
	return b.Store.ChangePosition(ctx, of, decide)
}

// What was delivered when a server died, and not noted, is delivered again by the
// one that takes over, and nothing else is.
func TestAServerThatDiesLeavesNothingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		positions := &broken{Store: p.store}
		first, second := p.dispatcher(positions), p.dispatcher(p.store)
		p.route(first, "true")
		p.run(first)
		settle(time.Second)
		p.run(second)
		p.send(host, 1, 5)
		settle(time.Second)
		p.want(numbers(1, 5))
		positions.cut()
		p.send(host, 6, 6) // is delivered, and that is not noted
		settle(time.Second)
		p.want(numbers(1, 6))
		p.send(host, 7, 9)
		settle(2 * time.Minute)
		p.want(numbers(1, 6) + " " + numbers(6, 9))
	})
}

func TestAServerThatStopsHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		first, second := p.dispatcher(p.store), p.dispatcher(p.store)
		p.route(first, "true")
		stop := p.run(first)
		settle(time.Second)
		p.run(second)
		for i := range 50 {
			p.send(host, 10*i+1, 10*i+10)
			settle(time.Second)
		}
		stop()
		p.send(host, 501, 510)
		settle(10 * time.Second)
		p.want(numbers(1, 510))
	})
}

func TestWhatRetentionOvertookIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.route(d, "true")
		p.run(d)
		settle(time.Second)
		p.far.set(errors.New("down"), false)
		p.send(host, 1, 1)
		settle(time.Second)
		p.send(host, 2, 50)
		settle(time.Hour)
		p.trim(time.Now())
		p.send(host, 51, 60)
		p.far.set(nil, false)
		settle(2 * time.Minute)
		// The first was in hand.
		p.want("1 " + numbers(51, 60))
		if s := p.status(d); s.Position.Lost != 49 || s.Position.Delivered != 11 || s.Lag != 0 {
			t.Errorf("%+v", s)
		}
		// Messages of other hubs that went are none of the route's.
		p.send("another.example", 1, 10)
		settle(time.Minute)
		p.trim(time.Now())
		p.send(host, 61, 61)
		settle(time.Second)
		if s := p.status(d); s.Position.Lost != 49 || s.Position.Delivered != 12 {
			t.Errorf("%+v", s)
		}
	})
}

func (p *plant) trim(before time.Time) {
	p.t.Helper()
	if _, err := p.store.Trim(p.t.Context(), hub.Retention{Before: before}); err != nil {
		p.t.Fatal(err)
	}
}

func TestARouteThatIsChangedGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.route(d, "parity = 'odd'")
		p.run(d)
		p.send(host, 1, 4)
		settle(time.Second)
		put := func(change func(*hub.Route)) {
			t.Helper()
			r := p.status(d).Route
			etag := r.ETag
			change(&r)
			if _, err := d.PutRoute(t.Context(), r, func(tag string) bool { return tag == etag }); err != nil {
				t.Fatal(err)
			}
			if _, err := d.PutRoute(t.Context(), r, func(tag string) bool { return tag == etag }); errs.KindOf(err) != errs.Precondition {
				t.Errorf("changed twice with one entity tag: %v", err)
			}
			settle(time.Second)
		}
		put(func(r *hub.Route) { r.Enabled = false })
		p.send(host, 5, 8)
		settle(time.Minute)
		p.want("1 3")
		put(func(r *hub.Route) { r.Enabled, r.Condition = true, "parity = 'even'" })
		p.want("1 3 6 8")
		if err := d.DeleteSink(t.Context(), host, "far", nil); errs.KindOf(err) != errs.Conflict {
			t.Errorf("a sink in use was removed: %v", err)
		}
		if err := d.DeleteRoute(t.Context(), host, "all", nil); err != nil {
			t.Fatal(err)
		}
		p.send(host, 9, 12)
		settle(time.Minute)
		p.want("1 3 6 8")
		if err := d.DeleteSink(t.Context(), host, "far", nil); err != nil {
			t.Error(err)
		}
		// Another one of the name begins anew.
		p.route(d, "true")
		p.send(host, 13, 14)
		settle(time.Second)
		p.want("1 3 6 8 13 14")
	})
}

func TestRoutesAndSinksAreRefused(t *testing.T) {
	p := newPlant(t)
	d := p.dispatcher(p.store)
	p.route(d, "true")
	good := hub.Route{Hub: host, Name: "r", Source: hub.DeviceMessages, Condition: "true", Sink: "far"}
	for name, spoil := range map[string]func(*hub.Route){
		"no name":          func(r *hub.Route) { r.Name = "" },
		"upper case":       func(r *hub.Route) { r.Name = "R" },
		"a slash":          func(r *hub.Route) { r.Name = "a/b" },
		"a long name":      func(r *hub.Route) { r.Name = strings.Repeat("a", 65) },
		"a hyphen first":   func(r *hub.Route) { r.Name = "-a" },
		"a source":         func(r *hub.Route) { r.Source = "Telemetry" },
		"a sink":           func(r *hub.Route) { r.Sink = "none" },
		"a condition":      func(r *hub.Route) { r.Condition = "a = " },
		"twins":            func(r *hub.Route) { r.Condition = "$twin.tags.a = 1" },
		"a property of no": func(r *hub.Route) { r.Condition = "$no = 1" },
	} {
		r := good
		spoil(&r)
		if _, err := d.PutRoute(t.Context(), r, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	sink := hub.SinkConfig{Hub: host, Name: "s", Kind: "far", URL: "far://away/x", Secret: hub.NewSecret([]byte("secret"))}
	for name, spoil := range map[string]func(*hub.SinkConfig){
		"no name":     func(c *hub.SinkConfig) { c.Name = "" },
		"a kind":      func(c *hub.SinkConfig) { c.Kind = "near" },
		"no URL":      func(c *hub.SinkConfig) { c.URL = "" },
		"a path":      func(c *hub.SinkConfig) { c.URL = "/x" },
		"a password":  func(c *hub.SinkConfig) { c.URL = "far://a:b@away" },
		"a batch":     func(c *hub.SinkConfig) { c.BatchSize = 1001 },
		"a wait":      func(c *hub.SinkConfig) { c.BatchWait = time.Minute },
		"its kind's":  func(c *hub.SinkConfig) { c.Settings = map[string]string{"a": "b"} },
		"long secret": func(c *hub.SinkConfig) { c.Secret = hub.NewSecret(make([]byte, 20<<10)) },
	} {
		c := sink
		spoil(&c)
		if _, err := d.PutSink(t.Context(), c, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.PutRoute(t.Context(), good, func(string) bool { return true }); errs.KindOf(err) != errs.Precondition {
		t.Errorf("a route that is not there was changed: %v", err)
	}

	// A secret stays where it was given for.
	secret := func() string {
		t.Helper()
		all, err := d.Sinks(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(c hub.SinkConfig) bool { return c.Name == "s" })
		return string(all[i].Secret.Bytes())
	}
	for _, c := range []struct {
		url, authorities, secret, want string
	}{
		{"far://away/x", "", "secret", "secret"}, {"far://AWAY/y", "", "", "secret"}, {"far://elsewhere/y", "", "", ""},
		{"far://away/x", "", "secret", "secret"}, {"far://away/x", "another", "", ""},
	} {
		sink.URL, sink.Authorities, sink.Secret = c.url, c.authorities, hub.NewSecret([]byte(c.secret))
		if _, err := d.PutSink(t.Context(), sink, nil); err != nil || secret() != c.want {
			t.Errorf("%s: %q, %v", c.url, secret(), err)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v %s", hub.NewSecret([]byte("hidden")), sink, hub.NewSecret([]byte("hidden")), hub.NewSecret([]byte("hidden"))); strings.Contains(text, "hidden") {
		t.Error(text)
	}
}

func TestConditions(t *testing.T) {
	m := &hub.Message{
		System: map[string]string{
			"connection-device-id": "pump-7", "message-id": "m1", "content-type": "application/json; charset=utf-8", "message-source": "Telemetry",
		},
		Properties: map[string]string{"level": "hot", "Zone": "b", "n": "5"},
		Body:       []byte(`{"a":{"b":[1,{"c":"x"}]},"t":21.5}`),
	}
	for text, want := range map[string]bool{
		"true": true, "false": false, "level = 'hot'": true, "level = 'cold'": false, "zone = 'b'": true, "nothing = 'x'": false,
		"$connectionDeviceId = 'pump-7'": true, "$iothub-connection-device-id = 'pump-7'": true, "$messageId = 'm1'": true, "$message-id = 'm1'": true,
		"$contentType = 'application/json; charset=utf-8'": true, "$body.t > 21": true, "$body.t > 22": false, "$body.a.b[1].c = 'x'": true,
		"$body.none = 1": false, "NOT $body.none = 1": false, "level = 'hot' AND $body.t > 20": true, "is_defined($body.t)": true,
		"starts_with($connectionDeviceId, 'pump')": true, "$correlationId = 'x'": false,
	} {
		if got, err := hub.HoldsFor(text, m); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, system := range []map[string]string{nil, {"content-type": "text/plain", "content-encoding": "utf-8"}, {"content-type": "application/json"}, {"content-type": "application/json", "content-encoding": "utf-16"}} {
		m.System = system
		if got, err := hub.HoldsFor("$body.t > 21", m); err != nil || got {
			t.Errorf("%v: %v, %v", system, got, err)
		}
	}
}

// Events of the hub go into the stream only where a route takes them.
func TestEventsAreMessages(t *testing.T) {
	s, db := open(t)
	owner := access.Caller{Policy: "owner", Rights: access.AllHub}
	at := hub.Place{Hub: host, ID: "pump-9"}
	live := func() {
		t.Helper()
		if _, err := s.PutDevice(t.Context(), owner, at, hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.PatchTwin(t.Context(), owner, at, hub.TwinChange{Desired: []byte(`{"rate":5}`)}, nil); err != nil {
			t.Fatal(err)
		}
		d, err := s.Identity(t.Context(), owner, at)
		if err != nil {
			t.Fatal(err)
		}
		from := hub.Sender{Place: at, GenerationID: d.GenerationID}
		s.Attach(t.Context(), from, &wire{})()
		if _, err := s.PatchReported(t.Context(), from, []byte(`{"seen":true}`), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), owner, at, nil); err != nil {
			t.Fatal(err)
		}
	}
	live()
	if n := len(db.messages(t)); n != 0 {
		t.Fatalf("%d messages that nobody wants", n)
	}
	s.Want(func(at string, _ hub.Source) bool { return at == host })
	live()
	var got []string
	for deadline := time.Now().Add(10 * time.Second); len(got) < 6 && time.Now().Before(deadline); {
		got = nil
		for _, m := range db.messages(t) {
			if m.Properties["deviceId"] != "pump-9" || m.Properties["hubName"] != host || m.System["content-type"] != "application/json" {
				t.Errorf("%+v", m)
			}
			got = append(got, m.System["message-source"]+" "+m.Properties["opType"]+" "+string(m.Body))
		}
	}
	want := []string{
		`deviceLifecycleEvents createDeviceIdentity {"deviceId":"pump-9","etag":"AAAAAAAAAAE=","version":2,"tags":{},"properties":{"desired":{"$metadata":`,
		`twinChangeEvents updateTwin {"version":3,"properties":{"desired":{"rate":5,"$metadata":{"$lastUpdated":`,
		`deviceConnectionStateEvents deviceConnected {"sequenceNumber":"`,
		`deviceConnectionStateEvents deviceDisconnected {"sequenceNumber":"`,
		`twinChangeEvents updateTwin {"version":4,"properties":{"reported":{"seen":true,"$metadata":{"$lastUpdated":`,
		`deviceLifecycleEvents deleteDeviceIdentity {"deviceId":"pump-9"`,
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got[2][len(want[2])-20:] >= got[3][len(want[3])-20:] && got[2] >= got[3] {
		t.Errorf("the end of a connection is not above its beginning: %s, %s", got[2], got[3])
	}
}

// What a sink says may be anything.
func TestErrorsOfSinksAreKeptAsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.route(d, "true")
		p.run(d)
		settle(time.Second)
		p.far.set(errors.New("no\x00\x1b[31m\xff"+strings.Repeat("ü", 400)), false)
		p.send(host, 1, 1)
		settle(time.Second)
		if text := p.status(d).Position.LastError; len(text) > 300 || !strings.HasPrefix(text, "no  [31m") || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			t.Errorf("%q", text)
		}
	})
}

// Large messages are read in few at a time, and delivered in order all the same.
func TestLargeMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.route(d, "true")
		p.run(d)
		settle(time.Second)
		var want []string
		for i := range 60 {
			body := strings.Repeat(fmt.Sprint(i%10), hub.MaxMessageSize-200)
			if err := p.store.Append(t.Context(), []*hub.Message{{
				Hub: host, DeviceID: "d", Enqueued: time.Now(), System: map[string]string{"message-source": "Telemetry"}, Body: []byte(body),
			}}); err != nil {
				t.Fatal(err)
			}
			want = append(want, body)
		}
		settle(time.Minute)
		p.want(strings.Join(want, " "))
	})
}

// A group is read by one at a time. Who waits goes on when the other one is gone, or
// does not say anything any more.
func TestGroupsAreReadByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		p.send(host, 1, 10)
		open := func(id string, start hub.Start) *hub.GroupReader {
			t.Helper()
			g, err := d.OpenGroup(t.Context(), host, "billing", id, start, func() {})
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		next := func(g *hub.GroupReader, limit int, want string) {
			t.Helper()
			ms, err := g.Next(t.Context(), limit, true)
			var got []string
			for _, m := range ms {
				got = append(got, string(m.Body))
			}
			if err != nil || strings.Join(got, " ") != want {
				t.Errorf("%s, %v, want %s", got, err, want)
			}
		}
		first := open("first", hub.Start{Earliest: true})
		next(first, 4, numbers(1, 4))
		if err := d.CommitGroup(t.Context(), host, "billing", "first", 3); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		second := open("second", hub.Start{}) // the first is silent until its lease is over
		if waited := time.Since(began); waited < 20*time.Second || waited > time.Minute {
			t.Errorf("waited %s", waited)
		}
		next(second, 3, numbers(4, 6))
		if _, err := first.Next(t.Context(), 3, true); errs.KindOf(err) != errs.Conflict {
			t.Errorf("two read: %v", err)
		}
		if err := d.CommitGroup(t.Context(), host, "billing", "first", 4); errs.KindOf(err) != errs.Conflict {
			t.Errorf("two commit: %v", err)
		}
		if err := second.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.CommitGroup(t.Context(), host, "billing", "second", 5); err != nil {
			t.Errorf("what was read cannot be committed: %v", err)
		}
		began = time.Now()
		third := open("third", hub.Start{})
		if time.Since(began) > 0 {
			t.Error("waited for nobody")
		}
		next(third, 10, numbers(6, 10))
		p.send("another.example", 1, 3)
		p.send(host, 11, 11)
		next(third, 10, "11")
		if err := d.CommitGroup(t.Context(), host, "billing", "third", 14); err != nil {
			t.Fatal(err)
		}
		p.send(host, 12, 20)
		settle(time.Hour)
		p.trim(time.Now())
		p.send(host, 21, 21)
		next(third, 10, "21")
		groups, err := d.Groups(t.Context(), host)
		if err != nil || len(groups) != 1 || groups[0].Lost != 9 {
			t.Errorf("%+v, %v", groups, err)
		}
	})
}

func TestGroupsBeginWhereTheyAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t)
		d := p.dispatcher(p.store)
		begin := time.Now()
		for i := range 20 {
			p.send([]string{host, "another.example"}[i%2], i, i)
			pass(time.Minute)
		}
		for name, c := range map[string]struct {
			start hub.Start
			want  string
		}{
			"latest":   {hub.Start{}, ""},
			"earliest": {hub.Start{Earliest: true}, "0 2 4 6 8 10 12 14 16 18"},
			"since":    {hub.Start{Since: begin.Add(10 * time.Minute)}, "10 12 14 16 18"},
			"between":  {hub.Start{Since: begin.Add(10*time.Minute + 1)}, "12 14 16 18"},
			"before":   {hub.Start{Since: begin.Add(-time.Hour)}, "0 2 4 6 8 10 12 14 16 18"},
			"after":    {hub.Start{Since: begin.Add(time.Hour)}, ""},
		} {
			g, err := d.OpenGroup(t.Context(), host, name, "reader", c.start, func() {})
			if err != nil {
				t.Fatal(err)
			}
			ms, err := g.Next(t.Context(), 100, false)
			var got []string
			for _, m := range ms {
				got = append(got, string(m.Body))
			}
			if err != nil || strings.Join(got, " ") != c.want {
				t.Errorf("%s: %s, %v, want %s", name, got, err, c.want)
			}
		}
	})
}
