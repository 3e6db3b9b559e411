package hubrest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/wire/hubjson"
)

const feedback = "/messages/serviceBound/feedback"

// Feedback takes the oldest feedback on messages to devices under a lock, or none.
func (h *Hub) Feedback(ctx context.Context) (lock string, batch []hubjson.Feedback, err error) {
	answer, err := h.rest.Do(ctx, rest.Request{Method: http.MethodGet, Path: feedback + query, Authorize: h.authorize, MaxAnswer: maxAnswer})
	if err == nil && answer.Status != http.StatusNoContent {
		lock = strings.Trim(answer.Header.Get("ETag"), `"`)
		if err = answer.JSON(&batch); err == nil && lock == "" {
			err = errors.New("the answer has no lock")
		}
	}
	if err != nil {
		return "", nil, fmt.Errorf("reading feedback: %w", err)
	}
	return lock, batch, nil
}

// CompleteFeedback removes what is under a lock.
func (h *Hub) CompleteFeedback(ctx context.Context, lock string) error {
	return h.settleFeedback(ctx, http.MethodDelete, lock, "")
}

// AbandonFeedback gives it back.
func (h *Hub) AbandonFeedback(ctx context.Context, lock string) error {
	return h.settleFeedback(ctx, http.MethodPost, lock, "/abandon")
}

func (h *Hub) settleFeedback(ctx context.Context, method, lock, below string) error {
	_, err := h.rest.Do(ctx, rest.Request{
		Method: method, Path: feedback + "/" + url.PathEscape(lock) + below + query, Authorize: h.authorize, MaxAnswer: maxAnswer,
	})
	if err != nil {
		return fmt.Errorf("settling feedback: %w", err)
	}
	return nil
}
