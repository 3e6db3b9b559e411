package sqlite

import (
	"context"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// An empty hub means all.
	selectRoutes    = "SELECT " + record.RouteColumns + " FROM route WHERE ?1 = '' OR hub = ?1 ORDER BY hub, name"
	selectSinks     = "SELECT " + record.SinkColumns + " FROM sink WHERE ?1 = '' OR hub = ?1 ORDER BY hub, name"
	selectPositions = "SELECT " + record.PositionColumns + " FROM stream_position WHERE ?1 = '' OR hub = ?1 ORDER BY hub, kind, name"
	selectPosition  = "SELECT " + record.PositionColumns + " FROM stream_position WHERE hub = ? AND kind = ? AND name = ?"

	putRoute    = "INSERT OR REPLACE INTO route (" + record.RouteColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?)"
	putSink     = "INSERT OR REPLACE INTO sink (" + record.SinkColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
	putPosition = "INSERT OR REPLACE INTO stream_position (" + record.PositionColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

// Routing implements hub.RoutingStore.
func (s *Store) Routing(ctx context.Context, host string) (found hub.Routing, err error) {
	err = s.read(ctx, func(c *conn) error {
		found, err = s.routing(c, host)
		return err
	})
	return found, err
}

func (s *Store) routing(c *conn, host string) (found hub.Routing, err error) {
	if found.Routes, err = all(c, record.Route, selectRoutes, host); err != nil {
		return found, err
	}
	found.Sinks, err = all(c, s.codec.Sink, selectSinks, host)
	return found, err
}

// ChangeRouting implements hub.RoutingStore.
func (s *Store) ChangeRouting(ctx context.Context, host string, decide func(hub.Routing) (hub.Routing, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := s.routing(t.conn, host)
		if err != nil {
			return err
		}
		change, err := s.codec.RoutingChange(host, old, decide)
		if err != nil {
			return err
		}
		for _, name := range change.RemoveRoutes {
			if err := t.exec("DELETE FROM route WHERE hub = ? AND name = ?", host, name); err != nil {
				return err
			}
		}
		for _, name := range change.RemoveSinks {
			if err := t.exec("DELETE FROM sink WHERE hub = ? AND name = ?", host, name); err != nil {
				return err
			}
		}
		for _, values := range change.PutSinks {
			if err := t.exec(putSink, values...); err != nil {
				return err
			}
		}
		for _, values := range change.PutRoutes {
			if err := t.exec(putRoute, values...); err != nil {
				return err
			}
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
	return s.write(ctx, func(t *tx) error {
		old, err := one(t.conn, func(r *record.Row) (*hub.Position, error) {
			p, err := record.Position(r)
			return &p, err
		}, selectPosition, of.Hub, string(of.Kind), of.Name)
		if err != nil {
			return err
		}
		exists := old != nil
		next, err := decide(old)
		switch {
		case err != nil, next == nil && !exists:
			return err
		case next == nil:
			return t.exec("DELETE FROM stream_position WHERE hub = ? AND kind = ? AND name = ?", of.Hub, string(of.Kind), of.Name)
		}
		next.Reader = of
		return t.exec(putPosition, record.PositionValues(*next)...)
	})
}
