package linkedhub

import (
	"context"
	"sync"
	"time"

	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/errs"
)

// A pace lets operations through at a steady rate, and a few at once after a
// pause: a token bucket, kept as the time at which it will be full.
type pace struct {
	every time.Duration // between two operations
	burst time.Duration // for how long a pause counts

	mu   sync.Mutex // guards full
	full time.Time
}

// newPace allows a minute's operations, and a tenth of them at once.
func newPace(perMinute int) *pace {
	every := time.Minute / time.Duration(perMinute)
	return &pace{every: every, burst: max(every, 6*time.Second)}
}

// wait returns when it is the caller's turn. It fails at once when that comes
// too late for ctx, and then takes no turn from others.
func (p *pace) wait(ctx context.Context) error {
	d, ok := p.take(ctx)
	if ok && rest.Wait(ctx, d) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := errs.New(errs.Busy, errs.CodeThrottling, "The linked IoT hub has too many devices to write; try again later.")
	err.RetryAfter = d
	return err
}

// take returns how long the caller has to wait for its turn, and false when
// ctx has ended by then.
func (p *pace) take(ctx context.Context) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	full := p.full
	if full.Before(now) {
		full = now
	}
	full = full.Add(p.every)
	d := max(full.Sub(now)-p.burst, 0)
	if end, ok := ctx.Deadline(); ok && end.Sub(now) <= d {
		return d, false
	}
	p.full = full
	return d, true
}
