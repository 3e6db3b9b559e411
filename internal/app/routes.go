package app

import (
	"context"
	"crypto/rand"

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
