package roster

import (
	"context"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/berth-iot/berth/wire/dpsjson"
)

// WithKeys puts symmetric keys into the enrollments of a listing, which does not
// show them, asking for up to parallel at a time. An enrollment that went away
// meanwhile ends the listing with an error.
func WithKeys(ctx context.Context, list iter.Seq2[Enrollment, error], attestation func(context.Context, string) (*dpsjson.AttestationMechanism, error), parallel int) iter.Seq2[Enrollment, error] {
	complete := func(ctx context.Context, e *Enrollment) error {
		if e.Attestation == nil || e.Attestation.Type != dpsjson.AttestationSymmetricKey {
			return nil
		}
		m, err := attestation(ctx, e.RegistrationID)
		if err != nil {
			return fmt.Errorf("reading the keys of %s: %w", e.RegistrationID, err)
		}
		e.Attestation = m
		return nil
	}
	return Enrich(ctx, list, complete, parallel)
}

// Enrich completes the enrollments of a listing with what takes a call for each.
// They keep their order.
func Enrich(ctx context.Context, list iter.Seq2[Enrollment, error], complete func(context.Context, *Enrollment) error, parallel int) iter.Seq2[Enrollment, error] {
	return func(yield func(Enrollment, error) bool) {
		window := make([]Enrollment, 0, parallel)
		flush := func() bool {
			group, ctx := errgroup.WithContext(ctx)
			for i := range window {
				group.Go(func() error { return complete(ctx, &window[i]) })
			}
			if err := group.Wait(); err != nil {
				yield(Enrollment{}, err)
				return false
			}
			for _, e := range window {
				if !yield(e, nil) {
					return false
				}
			}
			window = window[:0]
			return true
		}
		for e, err := range list {
			if err != nil {
				if flush() {
					yield(Enrollment{}, err)
				}
				return
			}
			if window = append(window, e); len(window) == parallel && !flush() {
				return
			}
		}
		flush()
	}
}
