package webhook

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/provision"
)

// maxHealth is how many enrollments are remembered.
const maxHealth = 256

// health remembers the enrollments whose webhooks failed, the latest of them.
type health struct {
	now func() time.Time

	mu  sync.Mutex // guards all
	all map[enrollment]*provision.WebhookHealth
}

type enrollment struct {
	scope device.IDScope
	kind  enroll.Kind
	key   device.RegistrationID
}

func (h *health) record(e *enroll.Entry, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := enrollment{e.Scope, e.Kind, e.Key()}
	one := h.all[key]
	if err == nil {
		if one != nil {
			one.Failures, one.LastAnswer = 0, h.now()
		}
		return
	}
	if one == nil {
		if h.all == nil {
			h.all = map[enrollment]*provision.WebhookHealth{}
		}
		if len(h.all) >= maxHealth {
			h.forget()
		}
		one = &provision.WebhookHealth{Scope: e.Scope, Kind: e.Kind, ID: e.ID}
		h.all[key] = one
	}
	one.Failures++
	one.LastFailure, one.LastError = h.now(), err.Error()
	if cause := errors.Unwrap(err); cause != nil {
		one.LastError = cause.Error()
	}
}

// forget makes room: one that answers again goes before one that does not, and
// an old failure before a new one.
func (h *health) forget() {
	var oldest enrollment
	var first *provision.WebhookHealth
	for key, one := range h.all {
		if first == nil || goesBefore(one, first) {
			oldest, first = key, one
		}
	}
	delete(h.all, oldest)
}

func goesBefore(a, b *provision.WebhookHealth) bool {
	if (a.Failures == 0) != (b.Failures == 0) {
		return a.Failures == 0
	}
	return a.LastFailure.Before(b.LastFailure)
}

// Health returns how the webhooks do that failed, the last failure first.
func (w *Client) Health() []provision.WebhookHealth {
	w.health.mu.Lock()
	defer w.health.mu.Unlock()
	all := make([]provision.WebhookHealth, 0, len(w.health.all))
	for _, one := range w.health.all {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b provision.WebhookHealth) int {
		return cmp.Or(b.LastFailure.Compare(a.LastFailure), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return all
}
