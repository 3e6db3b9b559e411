package hub

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/errs"
)

// A Source says what makes messages, spelled as in the routes of IoT Hub.
type Source string

// The sources that routes take messages from.
const (
	DeviceMessages              Source = "DeviceMessages"
	TwinChangeEvents            Source = "TwinChangeEvents"
	DeviceLifecycleEvents       Source = "DeviceLifecycleEvents"
	DeviceConnectionStateEvents Source = "DeviceConnectionStateEvents"
)

// Sources are all of them.
var Sources = []Source{DeviceMessages, TwinChangeEvents, DeviceLifecycleEvents, DeviceConnectionStateEvents}

// property is what the system property message-source says of the messages.
func (s Source) property() string {
	if s == DeviceMessages {
		return "Telemetry"
	}
	return strings.ToLower(string(s[:1])) + string(s[1:])
}

// A Route takes a hub's messages that meet a condition to a sink. It reads the
// hub's stream from its [Position] on: each message reaches the sink at least
// once, and those of one device in their order. While the sink takes nothing the
// route waits, and the stream keeps what it will need for as long as it keeps
// anything.
type Route struct {
	Hub       string // as in Place
	Name      string // of 1 to 64 lower-case letters, digits and . _ -
	Source    Source
	Condition string // in the query language of message routing; "true" is for all
	Sink      string // the name of a sink of the hub
	Enabled   bool   // a route that is not stays where it is in the stream
	ETag      string
}

// A SinkConfig says where a hub's routes can take messages. What is particular to
// its kind stands in Settings.
type SinkConfig struct {
	Hub      string // as in Place
	Name     string // as in Route
	Kind     string // a key of DispatcherConfig.Kinds
	URL      string // where it is; as secret as Secret where it has a query
	Settings map[string]string
	// Secret is what the sink is convinced with; its form is the kind's. It is
	// never shown.
	Secret Secret
	// Authorities are the certificates by which the sink is trusted, PEM; empty
	// for those of the system.
	Authorities string
	// BatchSize is the most messages that are delivered at once, 1 to MaxSinkBatch;
	// BatchWait is how long one waits for more, up to MaxSinkWait.
	BatchSize int
	BatchWait time.Duration
	ETag      string
}

// The bounds of what is delivered at once.
const (
	DefaultSinkBatch = 200 // messages
	MaxSinkBatch     = 1000
	MaxSinkWait      = 10 * time.Second
	MaxSinkBytes     = 4 << 20 // of a batch, properties included, the last message aside
)

// maxRoutes bounds the routes of a hub, the sinks, and the consumer groups.
const maxRoutes = 100

// Routing is everything that is said about where a hub's messages go. Both lists
// are ordered by name.
type Routing struct {
	Routes []Route
	Sinks  []SinkConfig
}

// RoutingStore keeps routes and sinks. Each write is atomic and durable when it
// returns.
type RoutingStore interface {
	// Routing returns the routes and sinks of a hub, or of all when hub is empty;
	// then they are ordered by hub and name.
	Routing(ctx context.Context, hub string) (Routing, error)
	// ChangeRouting reads the routes and sinks of a hub, lets decide say what they
	// become and writes that, all without another change to them in between. An
	// error from decide is returned as it is, and nothing is written. decide must
	// not call the store and may be called more than once.
	ChangeRouting(ctx context.Context, hub string, decide func(Routing) (Routing, error)) error
}

// A Secret is bytes that no log line, format verb or JSON document shows. The zero
// value is none.
type Secret struct{ reveal func() []byte }

// NewSecret returns a secret of a copy of b.
func NewSecret(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	b = bytes.Clone(b)
	return Secret{func() []byte { return b }}
}

// Bytes returns the secret, nil where there is none. The caller does not change it.
func (s Secret) Bytes() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// IsZero reports whether there is none.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Format implements fmt.Formatter and shows nothing.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// MarshalJSON fails: who encodes a secret did not mean to.
func (Secret) MarshalJSON() ([]byte, error) { return nil, errors.New("a secret is not encoded") }

// Route returns the route of a name, or nil.
func (r Routing) Route(name string) *Route {
	if i, ok := findName(r.Routes, name, routeName); ok {
		return &r.Routes[i]
	}
	return nil
}

// Sink returns the sink of a name, or nil.
func (r Routing) Sink(name string) *SinkConfig {
	if i, ok := findName(r.Sinks, name, sinkName); ok {
		return &r.Sinks[i]
	}
	return nil
}

func routeName(r Route) string     { return r.Name }
func sinkName(s SinkConfig) string { return s.Name }

func findName[T any](all []T, name string, of func(T) string) (int, bool) {
	return slices.BinarySearchFunc(all, name, func(v T, name string) int { return cmp.Compare(of(v), name) })
}

// put returns all with v, in place of the one that has its name.
func put[T any](all []T, v T, of func(T) string) []T {
	all = slices.Clone(all)
	i, found := findName(all, of(v), of)
	if found {
		all[i] = v
		return all
	}
	return slices.Insert(all, i, v)
}

// remove returns all without the one of a name.
func remove[T any](all []T, name string, of func(T) string) []T {
	return slices.DeleteFunc(slices.Clone(all), func(v T) bool { return of(v) == name })
}

// putRoute is what the routing becomes when a route is created or replaced.
func (r Routing) putRoute(next Route, ifMatch Precondition) (Routing, error) {
	old := r.Route(next.Name)
	switch {
	case ifMatch != nil && (old == nil || !ifMatch(old.ETag)):
		return r, staleRouting()
	case r.Sink(next.Sink) == nil:
		return r, invalidRouting("There is no sink %q at %s", next.Sink, next.Hub)
	case old == nil && len(r.Routes) >= maxRoutes:
		return r, errs.New(errs.Forbidden, 0, "%s has %d routes, which is the limit", next.Hub, maxRoutes)
	}
	r.Routes = put(r.Routes, next, routeName)
	return r, nil
}

// removeRoute is what the routing becomes without a route.
func (r Routing) removeRoute(name string, ifMatch Precondition) (Routing, error) {
	old := r.Route(name)
	switch {
	case old == nil:
		return r, noRoute(name)
	case ifMatch != nil && !ifMatch(old.ETag):
		return r, staleRouting()
	}
	r.Routes = remove(r.Routes, name, routeName)
	return r, nil
}

// putSink is what the routing becomes when a sink is created or replaced. The
// secret stays, where none is given and nothing changes of whom it is shown to and
// how: who may set sinks must not learn it that way.
func (r Routing) putSink(next SinkConfig, ifMatch Precondition) (Routing, error) {
	old := r.Sink(next.Name)
	switch {
	case ifMatch != nil && (old == nil || !ifMatch(old.ETag)):
		return r, staleRouting()
	case old == nil && len(r.Sinks) >= maxRoutes:
		return r, errs.New(errs.Forbidden, 0, "%s has %d sinks, which is the limit", next.Hub, maxRoutes)
	case old != nil && next.Secret.IsZero() && next.Kind == old.Kind && sameOrigin(next.URL, old.URL) &&
		maps.Equal(next.Settings, old.Settings) && next.Authorities == old.Authorities:
		next.Secret = old.Secret
	}
	r.Sinks = put(r.Sinks, next, sinkName)
	return r, nil
}

// removeSink is what the routing becomes without a sink.
func (r Routing) removeSink(name string, ifMatch Precondition) (Routing, error) {
	old := r.Sink(name)
	switch {
	case old == nil:
		return r, noSink(name)
	case ifMatch != nil && !ifMatch(old.ETag):
		return r, staleRouting()
	}
	if i := slices.IndexFunc(r.Routes, func(r Route) bool { return r.Sink == name }); i >= 0 {
		return r, errs.New(errs.Conflict, 0, "The route %q goes to the sink %q; remove it first", r.Routes[i].Name, name)
	}
	r.Sinks = remove(r.Sinks, name, sinkName)
	return r, nil
}

func sameOrigin(a, b string) bool {
	one, err := url.Parse(a)
	other, err2 := url.Parse(b)
	return err == nil && err2 == nil && one.Scheme == other.Scheme && strings.EqualFold(one.Host, other.Host)
}

// checkName reports what is wrong with the name of a route, sink or group.
func checkName(what, name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	if name == "" || len(name) > 64 || strings.Trim(name, letters+"._-") != "" || !strings.Contains(letters, name[:1]) {
		return invalidRouting("The name of a %s is 1 to 64 lower-case letters, digits and . _ -, and begins with a letter or digit", what)
	}
	return nil
}

func (r Route) check() error {
	if err := checkName("route", r.Name); err != nil {
		return err
	}
	if !slices.Contains(Sources, r.Source) {
		return invalidRouting("source %q is not offered; %s, %s, %s and %s are", r.Source, DeviceMessages, TwinChangeEvents, DeviceLifecycleEvents, DeviceConnectionStateEvents)
	}
	_, err := parseCondition(r.Condition)
	return err
}

func (c SinkConfig) check() error {
	if err := checkName("sink", c.Name); err != nil {
		return err
	}
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme == "" || u.Host == "":
		return invalidRouting("url is not a URL")
	case len(c.URL) > 2048:
		return invalidRouting("url has more than 2048 characters")
	case u.User != nil:
		return invalidRouting("url must not carry a password: that is what the secret is for")
	case u.Fragment != "":
		return invalidRouting("url must not have a fragment")
	case c.BatchSize < 1 || c.BatchSize > MaxSinkBatch:
		return invalidRouting("batchSize must be 1 to %d", MaxSinkBatch)
	case c.BatchWait < 0 || c.BatchWait > MaxSinkWait:
		return invalidRouting("batchWait must be 0 to %s", MaxSinkWait)
	case len(c.Authorities) > 64<<10:
		return invalidRouting("authorities are longer than 64 KiB")
	case len(c.Secret.Bytes()) > 16<<10:
		return invalidRouting("the secret is longer than 16 KiB")
	}
	size := 0
	for name, value := range c.Settings {
		size += len(name) + len(value)
	}
	if size > 8<<10 {
		return invalidRouting("settings are longer than 8 KiB")
	}
	return nil
}

func invalidRouting(format string, args ...any) error {
	return errs.New(errs.Invalid, 0, format, args...)
}

func noRoute(name string) error { return errs.New(errs.NotFound, 0, "There is no route %q", name) }
func noSink(name string) error  { return errs.New(errs.NotFound, 0, "There is no sink %q", name) }

func staleRouting() error {
	return errs.New(errs.Precondition, 0, "The etag is not the current one; read it again.")
}
