package record

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// Columns are in the order in which their readers and values go through them. The
// first of each are the key: two of a route and of a sink, three of a position.
const (
	RouteColumns    = "hub, name, source, condition, sink, enabled, etag"
	SinkColumns     = "hub, name, kind, settings, authorities, batch_size, batch_wait, secret, etag"
	PositionColumns = "hub, kind, name, sequence, delivered, lost, owner, lease, failing_since, last_error, delivery"
)

// RoutingTables are the tables of what goes with its hub.
var RoutingTables = []string{"route", "sink", "stream_position"}

// Route reads the row of a route.
func Route(r *Row) (hub.Route, error) {
	return hub.Route{
		Hub: r.Text(), Name: r.Text(), Source: hub.Source(r.Text()), Condition: r.Text(), Sink: r.Text(), Enabled: r.Flag(), ETag: r.Text(),
	}, nil
}

// RouteValues returns the row of a route.
func RouteValues(r hub.Route) []any {
	return []any{r.Hub, r.Name, string(r.Source), r.Condition, r.Sink, r.Enabled, r.ETag}
}

// sinkSecret is what is sealed of a sink.
type sinkSecret struct {
	URL    string `json:"url"`
	Secret []byte `json:"secret,omitempty"`
}

// Sink reads the row of a sink.
func (c Codec) Sink(r *Row) (hub.SinkConfig, error) {
	s := hub.SinkConfig{Hub: r.Text(), Name: r.Text(), Kind: r.Text()}
	if err := r.decode(&s.Settings); err != nil {
		return s, fmt.Errorf("reading the sink %s of %s: %w", s.Name, s.Hub, err)
	}
	s.Authorities, s.BatchSize, s.BatchWait = r.Text(), int(r.Number()), time.Duration(r.Number())
	plain, err := sealed.OpenSecret(c.Sealer, r.Blob(), "sink", s.Hub, s.Name)
	if err != nil {
		return s, err
	}
	var inside sinkSecret
	if err := json.Unmarshal(plain, &inside); err != nil {
		return s, fmt.Errorf("the secret of the sink %s of %s is damaged", s.Name, s.Hub)
	}
	s.URL, s.Secret, s.ETag = inside.URL, hub.NewSecret(inside.Secret), r.Text()
	return s, nil
}

// SinkValues returns the row of a sink.
func (c Codec) SinkValues(s hub.SinkConfig) ([]any, error) {
	plain, err := json.Marshal(sinkSecret{s.URL, s.Secret.Bytes()})
	if err != nil {
		return nil, err
	}
	secret, err := sealed.Secret(c.Sealer, plain, "sink", s.Hub, s.Name)
	if err != nil {
		return nil, err
	}
	return []any{
		s.Hub, s.Name, s.Kind, encoded(s.Settings, s.Settings == nil), s.Authorities, int64(s.BatchSize), int64(s.BatchWait), secret, s.ETag,
	}, nil
}

// Position reads the row of a position.
func Position(r *Row) (hub.Position, error) {
	return hub.Position{
		Reader:   hub.Reader{Hub: r.Text(), Kind: hub.ReaderKind(r.Text()), Name: r.Text()},
		Sequence: uint64(r.Number()), Delivered: uint64(r.Number()), Lost: uint64(r.Number()),
		Owner: r.Text(), Lease: r.Time(), FailingSince: r.Time(), LastError: r.Text(), Delivery: r.Time(),
	}, nil
}

// PositionValues returns the row of a position.
func PositionValues(p hub.Position) []any {
	return []any{
		p.Hub, string(p.Kind), p.Name, Above(p.Sequence), Above(p.Delivered), Above(p.Lost),
		p.Owner, nanoseconds(p.Lease), nanoseconds(p.FailingSince), p.LastError, nanoseconds(p.Delivery),
	}
}

// A RoutingChange is what becomes of the routes and sinks of a hub: names of those
// that go, and rows of those that are new or not what they were.
type RoutingChange struct {
	RemoveRoutes, RemoveSinks []string
	PutRoutes, PutSinks       [][]any
}

// RoutingChange asks decide what becomes of old, which is of one hub.
func (c Codec) RoutingChange(host string, old hub.Routing, decide func(hub.Routing) (hub.Routing, error)) (RoutingChange, error) {
	var change RoutingChange
	before := hub.Routing{Routes: slices.Clone(old.Routes), Sinks: slices.Clone(old.Sinks)} // decide may change what it is given
	next, err := decide(old)
	if err != nil {
		return change, err
	}
	for _, r := range before.Routes {
		if next.Route(r.Name) == nil {
			change.RemoveRoutes = append(change.RemoveRoutes, r.Name)
		}
	}
	for _, s := range before.Sinks {
		if next.Sink(s.Name) == nil {
			change.RemoveSinks = append(change.RemoveSinks, s.Name)
		}
	}
	for _, r := range next.Routes {
		if was := before.Route(r.Name); was != nil && *was == r {
			continue
		}
		if r.Hub != host {
			return change, fmt.Errorf("the route %s is of %s and not of %s", r.Name, r.Hub, host)
		}
		change.PutRoutes = append(change.PutRoutes, RouteValues(r))
	}
	for _, s := range next.Sinks {
		if was := before.Sink(s.Name); was != nil && was.ETag == s.ETag {
			continue
		}
		if s.Hub != host {
			return change, fmt.Errorf("the sink %s is of %s and not of %s", s.Name, s.Hub, host)
		}
		values, err := c.SinkValues(s)
		if err != nil {
			return change, err
		}
		change.PutSinks = append(change.PutSinks, values)
	}
	return change, nil
}
