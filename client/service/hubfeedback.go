package service

import (
	"context"
	"errors"

	"github.com/berth-iot/berth/wire/hubjson"
)

// Feedback gives use the feedback there is on messages to devices, up to 64 at a
// time, until there is no more. What use returns nil for is removed; with an error it
// is given back, and that ends it.
func (h *Hub) Feedback(ctx context.Context, use func([]hubjson.Feedback) error) error {
	for {
		lock, batch, err := h.calls.Feedback(ctx)
		if err != nil || len(batch) == 0 {
			return err
		}
		if err := use(batch); err != nil {
			return errors.Join(err, h.calls.AbandonFeedback(context.WithoutCancel(ctx), lock))
		}
		if err := h.calls.CompleteFeedback(ctx, lock); err != nil {
			return err
		}
	}
}
