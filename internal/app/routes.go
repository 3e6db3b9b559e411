package app

import (
	"context"
	"crypto/rand"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-iot/berth/client/sink/jetstream"
	"github.com/berth-iot/berth/client/sink/webhook"
	"github.com/berth-iot/berth/hub"
)

// newDispatcher returns what takes messages to where routes say. The kinds of sinks
// that there are stand here.
func (s *Server) newDispatcher(service *hub.Service) *hub.Dispatcher {
	return hub.NewDispatcher(hub.DispatcherConfig{
		Name: rand.Text(), Alone: s.config.Store.PostgresDSNFile == "", Stream: s.store, Routing: s.store, Positions: s.store,
		Kinds: map[string]hub.SinkKind{
			webhook.Kind:   webhook.New(s.config.clock()),
			jetstream.Kind: jetstream.New(),
		},
		Now: s.config.clock(), Random: rand.Reader, Wanted: service.Want,
		Fault: func(err error) { s.logger.Error("dispatching messages", "error", err) },
	})
}

// An announcing store has what a commit made known told when it is made.
type announcing struct{ store }

// Together implements provision.Records.
func (a announcing) Together(ctx context.Context, do func(context.Context) error) error {
	var after []func()
	err := a.store.Together(ctx, func(ctx context.Context) error {
		after = nil // the transaction may be run again
		return do(hub.AfterCommit(ctx, &after))
	})
	if err != nil {
		return err
	}
	for _, tell := range after {
		tell()
	}
	return nil
}

var (
	routeDelivered = describe("berth_route_delivered_total", "Messages that a route delivered, by whichever server.", "hub", "route")
	routeLag       = describe("berth_route_lag",
		"Sequence numbers from the oldest message on that a route has to deal with, of all hubs.", "hub", "route")
	routeOldest = describe("berth_route_oldest_unread_age_seconds",
		"How long ago the oldest message was enqueued that a route has to deal with, 0 when there is none.", "hub", "route")
	routeFailing = describe("berth_route_failing", "Whether the sink of a route refused last.", "hub", "route")
	routeLost    = describe("berth_route_lost_total",
		"Sequence numbers that the stream did not keep until a route came to them, of all hubs.", "hub", "route")
	eventsLost = describe("berth_hub_events_lost_total", "Events of hubs that this server could not put into their streams.")
)

// routeGauges are how routes do when Prometheus asks. Operators choose the labels,
// and a hub has so many routes at most. What the database knows is missing while it
// does not answer.
type routeGauges struct{ *Server }

// Describe implements prometheus.Collector.
func (routeGauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{routeDelivered, routeLag, routeOldest, routeFailing, routeLost, eventsLost} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g routeGauges) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(eventsLost, prometheus.CounterValue, float64(g.hubs.service.LostEvents()))
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	routes, err := g.dispatcher.Routes(ctx, "")
	if err != nil {
		return
	}
	now := g.config.clock()()
	for _, r := range routes {
		failing, oldest := 0.0, 0.0
		if r.Enabled && !r.Position.FailingSince.IsZero() {
			failing = 1
		}
		if !r.Oldest.IsZero() {
			oldest = max(0, now.Sub(r.Oldest).Seconds())
		}
		out <- prometheus.MustNewConstMetric(routeDelivered, prometheus.CounterValue, float64(r.Position.Delivered), r.Hub, r.Name)
		out <- prometheus.MustNewConstMetric(routeLost, prometheus.CounterValue, float64(r.Position.Lost), r.Hub, r.Name)
		out <- gauge(routeLag, float64(r.Lag), r.Hub, r.Name)
		out <- gauge(routeOldest, oldest, r.Hub, r.Name)
		out <- gauge(routeFailing, failing, r.Hub, r.Name)
	}
}
