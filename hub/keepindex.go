package hub

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// indexInterval is how often it is looked for twins that are not in the index:
	// while servers are brought up to date one by one, there may be new ones.
	indexInterval = time.Minute
	indexBatch    = 512
	indexers      = 16 // who write at the same time, so that commits have many
)

// KeepIndex has the index know the twins that an older program wrote, until ctx
// ends. Until it knows all of them, queries look at every twin. failed is told of
// what went wrong; it is tried again.
func (s *Service) KeepIndex(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(indexInterval)
	defer tick.Stop()
	for {
		if err := s.IndexTwins(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// IndexTwins has the index know the twins that it does not know yet.
func (s *Service) IndexTwins(ctx context.Context) error {
	for {
		at, err := s.registry.UnindexedTwins(ctx, indexBatch)
		if err != nil {
			return fmt.Errorf("looking for twins to index: %w", err)
		}
		if len(at) == 0 {
			return nil
		}
		if err := s.index(ctx, at); err != nil {
			return fmt.Errorf("indexing twins: %w", err)
		}
	}
}

// index writes twins as they are.
func (s *Service) index(ctx context.Context, at []Place) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	places := make(chan Place)
	var wg sync.WaitGroup
	for range min(indexers, len(at)) {
		wg.Go(func() {
			for p := range places {
				err := s.registry.Change(ctx, p, func(d *Identity, t *Twin) (*Identity, *Twin, error) { return d, t, nil })
				if err != nil {
					cancel(fmt.Errorf("%s at %s: %w", p, p.Hub, err))
				}
			}
		})
	}
	for _, p := range at {
		places <- p
	}
	close(places)
	wg.Wait()
	return context.Cause(ctx)
}
