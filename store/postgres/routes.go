package postgres

import (
	"context"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// An empty hub means all.
	selectRoutes    = "SELECT " + record.RouteColumns + " FROM route WHERE $1 = '' OR hub = $1 ORDER BY hub, name"
	selectSinks     = "SELECT " + record.SinkColumns + " FROM sink WHERE $1 = '' OR hub = $1 ORDER BY hub, name"
	selectPositions = "SELECT " + record.PositionColumns + " FROM stream_position WHERE $1 = '' OR hub = $1 ORDER BY hub, kind, name"
	selectPosition  = "SELECT " + record.PositionColumns + " FROM stream_position WHERE hub = $1 AND kind = $2 AND name = $3 FOR UPDATE"
	deletePosition  = "DELETE FROM stream_position WHERE hub = $1 AND kind = $2 AND name = $3"
)

var (
	insertRoute    = insert("route", record.RouteColumns)
	insertSink     = insert("sink", record.SinkColumns)
	insertPosition = insert("stream_position", record.PositionColumns)
	updatePosition = update("stream_position", record.PositionColumns, 3)
)

// Routing implements hub.RoutingStore.
func (s *Store) Routing(ctx context.Context, host string) (found hub.Routing, err error) {
	// A route names a sink that was there before it: read in this order, it is
	// among the sinks unless it was removed with the route.
	if found.Routes, err = list(ctx, s, record.Route, selectRoutes, host); err != nil {
		return found, err
	}
	found.Sinks, err = list(ctx, s, s.codec.Sink, selectSinks, host)
	return found, err
}

// ChangeRouting implements hub.RoutingStore.
func (s *Store) ChangeRouting(ctx context.Context, host string, decide func(hub.Routing) (hub.Routing, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		var old hub.Routing
		err := t.read(ctx, reserve("routes of "+host),
			query{func(r *record.Row) error {
				route, err := record.Route(r)
				old.Routes = append(old.Routes, route)
				return err
			}, selectRoutes, []any{host}},
			query{func(r *record.Row) error {
				sink, err := s.codec.Sink(r)
				old.Sinks = append(old.Sinks, sink)
				return err
			}, selectSinks, []any{host}})
		if err != nil {
			return err
		}
		change, err := s.codec.RoutingChange(host, old, decide)
		if err != nil {
			return err
		}
		remove := func(table, name string) {
			t.write("DELETE FROM "+table+" WHERE hub = $1 AND name = $2", host, name)
		}
		for _, name := range change.RemoveRoutes {
			remove("route", name)
		}
		for _, name := range change.RemoveSinks {
			remove("sink", name)
		}
		for _, values := range change.PutSinks {
			remove("sink", values[1].(string))
			t.write(insertSink, values...)
		}
		for _, values := range change.PutRoutes {
			remove("route", values[1].(string))
			t.write(insertRoute, values...)
		}
		return nil
	})
}

// Positions implements hub.Positions.
func (s *Store) Positions(ctx context.Context, host string) ([]hub.Position, error) {
	return list(ctx, s, record.Position, selectPositions, host)
}

// ChangePosition implements hub.Positions.
func (s *Store) ChangePosition(ctx context.Context, of hub.Reader, decide func(*hub.Position) (*hub.Position, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		var old *hub.Position
		err := t.read(ctx, query{into(&old, func(r *record.Row) (*hub.Position, error) {
			p, err := record.Position(r)
			return &p, err
		}), selectPosition, []any{of.Hub, string(of.Kind), of.Name}})
		if err != nil {
			return err
		}
		exists := old != nil
		next, err := decide(old)
		switch {
		case err != nil, next == nil && !exists:
			return err
		case next == nil:
			t.write(deletePosition, of.Hub, string(of.Kind), of.Name)
			return nil
		}
		next.Reader = of
		if exists {
			t.write(updatePosition, record.PositionValues(*next)...)
		} else {
			t.write(insertPosition, record.PositionValues(*next)...)
		}
		return nil
	})
}
