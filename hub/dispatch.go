package hub

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/berth-iot/berth/errs"
)

// A Sink is where messages go: one connection to a system outside.
type Sink interface {
	// Deliver gives the sink messages of one hub in the order of the stream, and
	// returns nil when it keeps all of them. After an error it may keep those up to
	// some message, but none behind one that it does not keep: the same messages
	// come again, from the first or from a later one on. One call at a time. The
	// error holds no secret; its RetryAfter, where it has one, is obeyed.
	Deliver(ctx context.Context, batch []*Message) error
	// Close ends the connection. It is called once, and not during Deliver.
	Close() error
}

// A SinkKind makes sinks of one sort.
type SinkKind struct {
	// Check reports what is wrong with a configuration, by an error of kind
	// errs.Invalid. It does not connect.
	Check func(SinkConfig) error
	// Open returns the sink of a configuration that was checked. It does not
	// connect: that is for Deliver.
	Open func(SinkConfig) (Sink, error)
}

// A StreamReader is the part of a stream that is read.
type StreamReader interface {
	Read(ctx context.Context, hub string, after uint64, limit int) ([]*Message, error)
	LastSequence(ctx context.Context) (uint64, error)
	// Wait returns nil when the newest sequence number is above after, and ctx's
	// error when that ends first.
	Wait(ctx context.Context, after uint64) error
}

// A DispatcherConfig is what a Dispatcher is made of. All members are required.
type DispatcherConfig struct {
	Name string // which no other process has
	// Alone says that no other process uses the store: leases that are there when Run
	// begins are of one that died.
	Alone     bool
	Stream    StreamReader
	Routing   RoutingStore
	Positions Positions
	Kinds     map[string]SinkKind
	Now       func() time.Time
	Random    io.Reader
	// Wanted is told for which sources the hubs have routes, whenever that may
	// have changed. It must not wait.
	Wanted func(func(hub string, s Source) bool)
	// Fault is told what keeps the dispatcher from its work. Sinks that refuse are
	// none of it: they are in the positions of their routes.
	Fault func(error)
}

const (
	// lookForRoutes is how often routes are read that another server may have
	// changed.
	lookForRoutes = 3 * time.Second
	// lookForLease is how often a server that does not read looks whether it may.
	lookForLease = 3 * time.Second
	// afterFault is how long to wait when the database does not do what it is asked,
	// and longer each time, up to maxAfterFault.
	afterFault    = time.Second
	maxAfterFault = 8 * time.Second
	// lastDelivery is how long a delivery goes on that was begun when the server
	// stops.
	lastDelivery = 3 * time.Second

	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// maxRetryAfter bounds what a sink can ask for.
	maxRetryAfter = 5 * time.Minute

	maxErrorText = 300 // bytes of a sink's error that are kept
)

// A Dispatcher takes messages out of the streams of all hubs to where their routes
// say, and lets consumer groups read. On several servers one at a time works for a
// route. Its methods may be called at the same time.
type Dispatcher struct {
	DispatcherConfig
	changed chan struct{} // holds one when routes were changed here
}

// NewDispatcher returns the dispatcher made of c.
func NewDispatcher(c DispatcherConfig) *Dispatcher {
	return &Dispatcher{DispatcherConfig: c, changed: make(chan struct{}, 1)}
}

// draw returns a name that nobody else has.
func draw(random io.Reader) (string, error) {
	var b [12]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// A runner works for one route until it is stopped.
type runner struct {
	version string // of the route and of its sink
	stop    context.CancelFunc
	done    chan struct{}
}

// Run works for the routes until ctx ends and returns when all work has stopped.
func (d *Dispatcher) Run(ctx context.Context) {
	if d.Alone {
		if err := d.inherit(ctx); err != nil && ctx.Err() == nil {
			d.Fault(fmt.Errorf("taking over who read before: %w", err))
		}
	}
	runners := map[Reader]*runner{}
	defer func() {
		for _, r := range runners {
			r.stop()
		}
		for _, r := range runners {
			<-r.done
		}
	}()
	for {
		if err := d.follow(ctx, runners); err != nil && ctx.Err() == nil {
			d.Fault(fmt.Errorf("reading the routes: %w", err))
		}
		timer := time.NewTimer(lookForRoutes)
		select {
		case <-timer.C:
		case <-d.changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// inherit frees the leases of a process that died.
func (d *Dispatcher) inherit(ctx context.Context) error {
	all, err := d.Positions.Positions(ctx, "")
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Owner == "" {
			continue
		}
		err := d.Positions.ChangePosition(ctx, p.Reader, func(old *Position) (*Position, error) {
			if old == nil || old.Owner != p.Owner {
				return old, nil
			}
			next := *old
			next.Owner, next.Lease = "", time.Time{}
			return &next, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// follow starts and stops runners as the routes say now.
func (d *Dispatcher) follow(ctx context.Context, runners map[Reader]*runner) error {
	all, err := d.Routing.Routing(ctx, "")
	if err != nil {
		return err
	}
	sinks := map[Reader]SinkConfig{}
	for _, s := range all.Sinks {
		sinks[Reader{Hub: s.Hub, Name: s.Name}] = s
	}
	type wish struct {
		hub    string
		source Source
	}
	wanted := map[wish]bool{}
	for _, route := range all.Routes {
		if route.Enabled {
			wanted[wish{route.Hub, route.Source}] = true
		}
	}
	d.Wanted(func(hub string, s Source) bool { return wanted[wish{hub, s}] })
	live := map[Reader]bool{}
	for _, route := range all.Routes {
		sink, ok := sinks[Reader{Hub: route.Hub, Name: route.Sink}]
		if !route.Enabled || !ok {
			continue
		}
		reader := Reader{route.Hub, OfRoute, route.Name}
		version := route.ETag + " " + sink.ETag
		live[reader] = true
		if old := runners[reader]; old != nil {
			if old.version == version {
				continue
			}
			old.stop()
			<-old.done
		}
		ctx, stop := context.WithCancel(ctx)
		r := &runner{version: version, stop: stop, done: make(chan struct{})}
		runners[reader] = r
		go func() {
			defer close(r.done)
			d.serve(ctx, reader, route, sink)
		}()
	}
	for reader, r := range runners {
		if !live[reader] {
			r.stop()
			<-r.done
			delete(runners, reader)
		}
	}
	return nil
}

// serve works for a route whenever its lease can be had, until ctx ends.
func (d *Dispatcher) serve(ctx context.Context, reader Reader, route Route, config SinkConfig) {
	for wait := afterFault; ctx.Err() == nil; {
		err := d.serveLease(ctx, reader, route, config)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errLeased):
			wait = lookForLease
		case errors.Is(err, errLeaseLost):
			wait = afterFault
		case err != nil:
			wait = min(2*wait, maxAfterFault)
			d.Fault(fmt.Errorf("working for the route %s of %s: %w", reader.Name, reader.Hub, err))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (d *Dispatcher) serveLease(ctx context.Context, reader Reader, route Route, config SinkConfig) error {
	newest, err := d.Stream.LastSequence(ctx)
	if err != nil {
		return fmt.Errorf("reading the end of the stream: %w", err)
	}
	l, err := take(ctx, d.Positions, d.Now, reader, d.Name, newest)
	if err != nil {
		return err
	}
	defer func() {
		// The lease is free for others at once, also when this server stops.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastDelivery)
		defer cancel()
		if err := l.release(ctx); err != nil && !errors.Is(err, errLeaseLost) {
			d.Fault(fmt.Errorf("releasing the route %s of %s: %w", reader.Name, reader.Hub, err))
		}
	}()
	// A stream that ends before the position is another one, as after a restore:
	// its next messages are new.
	l.at.Sequence = min(l.at.Sequence, newest)
	p := &pump{Dispatcher: d, lease: l, route: route, config: config}
	if p.condition, err = parseCondition(route.Condition); err != nil {
		return p.stuck(ctx, err)
	}
	kind, ok := d.Kinds[config.Kind]
	if !ok {
		return p.stuck(ctx, fmt.Errorf("sinks of kind %q are not known to this program", config.Kind))
	}
	if p.sink, err = kind.Open(config); err != nil {
		return p.stuck(ctx, err)
	}
	defer p.sink.Close()
	return p.run(ctx)
}

// A pump takes messages from the stream to a sink, for as long as it has the lease.
type pump struct {
	*Dispatcher
	*lease
	route     Route
	config    SinkConfig
	condition condition
	sink      Sink
}

// run goes through the stream until ctx ends or the lease does.
func (p *pump) run(ctx context.Context) error {
	for limit := p.config.BatchSize; ; {
		// Asked before reading: what arrives in between ends the wait.
		newest, err := p.Stream.LastSequence(ctx)
		if err != nil {
			return fmt.Errorf("reading the end of the stream: %w", err)
		}
		page, err := p.read(ctx, newest, limit)
		if err != nil {
			return err
		}
		full := len(page) == limit
		limit = p.fitting(page)
		if len(page) > 0 && !full {
			if wait := p.config.BatchWait - p.now().Sub(page[0].Enqueued); wait > 0 {
				if err := p.hold(ctx, wait); err != nil {
					return err
				}
				continue
			}
		}
		if err := p.pass(ctx, page); err != nil {
			return err
		}
		if full {
			continue
		}
		if newest > p.at.Sequence { // by messages of other hubs
			p.at.Sequence = newest
		}
		if err := p.await(ctx); err != nil {
			return err
		}
	}
}

// read returns the next messages, and counts what the stream does not have any
// more.
func (p *pump) read(ctx context.Context, newest uint64, limit int) ([]*Message, error) {
	page, err := p.Stream.Read(ctx, p.route.Hub, p.at.Sequence, limit)
	if err != nil {
		return nil, fmt.Errorf("reading the stream: %w", err)
	}
	lost, err := lostBefore(ctx, p.Stream, p.at.Sequence, page, newest)
	if lost > 0 {
		p.at.Lost += lost
		p.at.Sequence += lost
	}
	return page, err
}

// fitting is how many messages to read next, so that messages as large as those of
// page do not take much memory.
func (p *pump) fitting(page []*Message) int {
	bytes := 0
	for _, m := range page {
		bytes += m.size()
	}
	if bytes <= MaxSinkBytes {
		return p.config.BatchSize
	}
	return min(p.config.BatchSize, max(1, len(page)*MaxSinkBytes/bytes))
}

// lostBefore counts the numbers behind after that were removed from the stream
// before anybody who has come so far could read them; page and newest are what was
// read there.
func lostBefore(ctx context.Context, stream StreamReader, after uint64, page []*Message, newest uint64) (uint64, error) {
	next := newest + 1
	if len(page) > 0 {
		next = page[0].Sequence
	}
	if next <= after+1 {
		return 0, nil
	}
	// Where numbers are missing they may be of other hubs.
	oldest, err := stream.Read(ctx, "", 0, 1)
	if err != nil {
		return 0, fmt.Errorf("reading the beginning of the stream: %w", err)
	}
	if len(oldest) > 0 {
		next = min(next, oldest[0].Sequence)
	}
	if next <= after+1 {
		return 0, nil
	}
	return next - after - 1, nil
}

// pass delivers those messages of a page that the route is for.
func (p *pump) pass(ctx context.Context, page []*Message) error {
	var batch []*Message
	bytes := 0
	for i, m := range page {
		if m.System[messageSource] == p.route.Source.property() && p.condition.holds(m) {
			batch = append(batch, m)
			bytes += m.size()
		}
		last := i == len(page)-1
		if len(batch) > 0 && (last || bytes >= MaxSinkBytes) {
			if err := p.deliver(ctx, batch); err != nil {
				return err
			}
			p.at.Delivered += uint64(len(batch))
			p.at.Delivery, p.at.FailingSince = p.now(), time.Time{}
			p.at.Sequence, p.unsaved = m.Sequence, p.unsaved+len(batch)
			if err := p.renew(ctx); err != nil {
				return err
			}
			batch, bytes = nil, 0
		}
		if len(batch) == 0 && m.Sequence > p.at.Sequence {
			p.at.Sequence = m.Sequence
		}
	}
	return nil
}

// deliver delivers a batch, however often that has to be tried.
func (p *pump) deliver(ctx context.Context, batch []*Message) error {
	for n := 1; ; n++ {
		if err := p.renew(ctx); err != nil {
			return err
		}
		err := p.attempt(ctx, batch)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.failed(ctx, err); err != nil {
			return err
		}
		if err := p.hold(ctx, p.backoff(n, err)); err != nil {
			return err
		}
	}
}

// attempt delivers a batch once. It is over before the lease is.
func (p *pump) attempt(ctx context.Context, batch []*Message) error {
	deliver, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliverTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(lastDelivery)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-deliver.Done():
		}
	})
	defer stop()
	return p.sink.Deliver(deliver, batch)
}

// failed notes why a sink takes nothing.
func (p *pump) failed(ctx context.Context, why error) error {
	if p.at.FailingSince.IsZero() {
		p.at.FailingSince = p.now()
	}
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, why.Error())
	p.at.LastError = strings.ToValidUTF8(text[:min(len(text), maxErrorText)], "")
	return p.commit(ctx)
}

// stuck notes why a route cannot work, and waits for somebody to change it.
func (p *pump) stuck(ctx context.Context, why error) error {
	if err := p.failed(ctx, why); err != nil {
		return err
	}
	for {
		if err := p.hold(ctx, maxBackoff); err != nil {
			return err
		}
	}
}

// backoff is how long to wait after the nth failure in a row: what the sink asked
// for and a little more, or else a growing time, half of which is chance.
func (p *pump) backoff(n int, err error) time.Duration {
	d := min(maxBackoff, firstBackoff<<min(n-1, 10))
	if asked := min(errs.Public(err).RetryAfter, maxRetryAfter); asked > 0 {
		return asked + p.chance(firstBackoff)
	}
	return d/2 + p.chance(d/2)
}

// chance is a random time up to d.
func (d *Dispatcher) chance(most time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(d.Random, b[:]); err != nil {
		return most
	}
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(most))
}

// await waits for news of the stream, and keeps the lease.
func (p *pump) await(ctx context.Context) error {
	for {
		wait, cancel := context.WithTimeout(ctx, p.due())
		err := p.Stream.Wait(wait, p.at.Sequence)
		cancel()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && wait.Err() == nil:
			return fmt.Errorf("waiting for messages: %w", err)
		}
		if renewed := p.renew(ctx); renewed != nil || err == nil {
			return renewed
		}
	}
}

// A RouteStatus is a route and how it does.
type RouteStatus struct {
	Route
	Position Position
	// Lag is how many numbers of the stream, of all hubs, are behind its position;
	// zero when none of them is its hub's.
	Lag uint64
	// Oldest is when the oldest message was enqueued that the route has not dealt
	// with; the zero time when there is none.
	Oldest time.Time
}

// Routes returns the routes of a hub, or of all when hub is empty, and how they do.
func (d *Dispatcher) Routes(ctx context.Context, hub string) ([]RouteStatus, error) {
	routing, err := d.Routing.Routing(ctx, hub)
	if err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	positions, err := d.Positions.Positions(ctx, hub)
	if err != nil {
		return nil, fmt.Errorf("reading the positions: %w", err)
	}
	all := make([]RouteStatus, 0, len(routing.Routes))
	for _, r := range routing.Routes {
		one := RouteStatus{Route: r}
		reader := Reader{r.Hub, OfRoute, r.Name}
		if i := slices.IndexFunc(positions, func(p Position) bool { return p.Reader == reader }); i >= 0 {
			one.Position = positions[i]
			if one.Lag, one.Oldest, err = d.lag(ctx, one.Position); err != nil {
				return nil, err
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// lag says what is behind a position.
func (d *Dispatcher) lag(ctx context.Context, p Position) (uint64, time.Time, error) {
	newest, err := d.Stream.LastSequence(ctx)
	if err != nil || newest <= p.Sequence {
		return 0, time.Time{}, err
	}
	next, err := d.Stream.Read(ctx, p.Hub, p.Sequence, 1)
	if err != nil || len(next) == 0 {
		return 0, time.Time{}, err
	}
	return newest - next[0].Sequence + 1, next[0].Enqueued, nil
}

// Route returns one route and how it does, or an error of kind errs.NotFound.
func (d *Dispatcher) Route(ctx context.Context, hub, name string) (*RouteStatus, error) {
	all, err := d.Routes(ctx, hub)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, noRoute(name)
}

// Sink returns one sink of a hub, or an error of kind errs.NotFound.
func (d *Dispatcher) Sink(ctx context.Context, hub, name string) (*SinkConfig, error) {
	all, err := d.Sinks(ctx, hub)
	if err != nil {
		return nil, err
	}
	config := Routing{Sinks: all}.Sink(name)
	if config == nil {
		return nil, noSink(name)
	}
	return config, nil
}

// Sinks returns the sinks of a hub.
func (d *Dispatcher) Sinks(ctx context.Context, hub string) ([]SinkConfig, error) {
	routing, err := d.Routing.Routing(ctx, hub)
	if err != nil {
		return nil, fmt.Errorf("reading the sinks: %w", err)
	}
	return routing.Sinks, nil
}

// PutRoute creates a route, which begins with the messages that come from now on,
// or replaces one, which stays where it is in the stream. A precondition asks for
// one that exists.
func (d *Dispatcher) PutRoute(ctx context.Context, r Route, ifMatch Precondition) (*Route, error) {
	if r.Condition == "" {
		r.Condition = "true"
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	// The position comes first: a route that works has one. It is read before the
	// routes are, so that a route that somebody else creates meanwhile does not
	// begin behind its messages.
	newest, err := d.Stream.LastSequence(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the end of the stream: %w", err)
	}
	routing, err := d.Routing.Routing(ctx, r.Hub)
	if err != nil {
		return nil, fmt.Errorf("reading the routes of %s: %w", r.Hub, err)
	}
	if routing.Route(r.Name) == nil {
		reader := Reader{r.Hub, OfRoute, r.Name}
		err := d.Positions.ChangePosition(ctx, reader, func(*Position) (*Position, error) {
			return &Position{Reader: reader, Sequence: newest}, nil
		})
		if err != nil {
			return nil, fmt.Errorf("placing the route %s of %s: %w", r.Name, r.Hub, err)
		}
	}
	if r.ETag, err = draw(d.Random); err != nil {
		return nil, fmt.Errorf("drawing an entity tag: %w", err)
	}
	if err := d.change(ctx, r.Hub, func(old Routing) (Routing, error) { return old.putRoute(r, ifMatch) }); err != nil {
		return nil, fmt.Errorf("writing the route %s of %s: %w", r.Name, r.Hub, err)
	}
	return &r, nil
}

// DeleteRoute removes a route and forgets where it was.
func (d *Dispatcher) DeleteRoute(ctx context.Context, hub, name string, ifMatch Precondition) error {
	if err := d.change(ctx, hub, func(old Routing) (Routing, error) { return old.removeRoute(name, ifMatch) }); err != nil {
		return fmt.Errorf("removing the route %s of %s: %w", name, hub, err)
	}
	reader := Reader{hub, OfRoute, name}
	if err := d.Positions.ChangePosition(ctx, reader, func(*Position) (*Position, error) { return nil, nil }); err != nil {
		return fmt.Errorf("forgetting the position of the route %s of %s: %w", name, hub, err)
	}
	return nil
}

// PutSink creates or replaces a sink. The secret stays where none is given and kind,
// settings, authorities, and the URL's scheme and host are the same. A precondition asks for one that exists.
func (d *Dispatcher) PutSink(ctx context.Context, c SinkConfig, ifMatch Precondition) (*SinkConfig, error) {
	if c.BatchSize == 0 {
		c.BatchSize = DefaultSinkBatch
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	kind, ok := d.Kinds[c.Kind]
	if !ok {
		return nil, invalidRouting("sinks of kind %q are not offered", c.Kind)
	}
	var err error
	if c.ETag, err = draw(d.Random); err != nil {
		return nil, fmt.Errorf("drawing an entity tag: %w", err)
	}
	err = d.change(ctx, c.Hub, func(old Routing) (Routing, error) {
		next, err := old.putSink(c, ifMatch)
		if err != nil {
			return next, err
		}
		return next, kind.Check(*next.Sink(c.Name))
	})
	if err != nil {
		return nil, fmt.Errorf("writing the sink %s of %s: %w", c.Name, c.Hub, err)
	}
	return &c, nil
}

// DeleteSink removes a sink that no route goes to.
func (d *Dispatcher) DeleteSink(ctx context.Context, hub, name string, ifMatch Precondition) error {
	if err := d.change(ctx, hub, func(old Routing) (Routing, error) { return old.removeSink(name, ifMatch) }); err != nil {
		return fmt.Errorf("removing the sink %s of %s: %w", name, hub, err)
	}
	return nil
}

// change changes a hub's routing and has it looked at.
func (d *Dispatcher) change(ctx context.Context, hub string, decide func(Routing) (Routing, error)) error {
	if err := d.Routing.ChangeRouting(ctx, hub, decide); err != nil {
		return err
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
	return nil
}

// TestSink delivers one message to a sink that says what it is, and returns what
// the sink said of it.
func (d *Dispatcher) TestSink(ctx context.Context, hub, name string) (refusal, err error) {
	config, err := d.Sink(ctx, hub, name)
	if err != nil {
		return nil, err
	}
	kind, ok := d.Kinds[config.Kind]
	if !ok {
		return nil, invalidRouting("sinks of kind %q are not known to this program", config.Kind)
	}
	id, err := draw(d.Random)
	if err != nil {
		return nil, fmt.Errorf("drawing a message-id: %w", err)
	}
	sink, err := kind.Open(*config)
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	ctx, cancel := context.WithTimeout(ctx, deliverTime)
	defer cancel()
	now := d.Now()
	return sink.Deliver(ctx, []*Message{{
		Hub: hub, DeviceID: "berth-test", Enqueued: now,
		System:     map[string]string{"message-id": id, "content-type": "application/json", "content-encoding": "utf-8", messageSource: "Test", enqueuedTime: systemTime(now)},
		Properties: map[string]string{},
		Body:       []byte(`{"test":true}`),
	}}), nil
}
