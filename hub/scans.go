package hub

import (
	"context"
	"runtime"
	"time"

	"github.com/berth-iot/berth/errs"
)

// What queries may take of a server, which devices need more. A query that looks
// at more than scanFrom twins is a scan from then on.
const (
	scanFrom     = 1000
	maxScans     = 4 // at the same time
	scanPatience = 3 * time.Second
	// scanRetry is how long those are to stay away who found no place.
	scanRetry = 5 * time.Second
)

// scans are the queries of a process that look at many twins. Half of the
// processors are theirs at most: for each batch of twins they take turns.
type scans struct {
	places chan struct{}
	turns  chan struct{}
}

func newScans() scans {
	return scans{make(chan struct{}, maxScans), make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// enter waits for a place, and the caller leaves it. The error is of kind errs.Busy
// when there is none for too long.
func (s scans) enter(ctx context.Context) error {
	timeout := time.NewTimer(scanPatience)
	defer timeout.Stop()
	select {
	case s.places <- struct{}{}:
		return nil
	case <-timeout.C:
		busy := errs.New(errs.Busy, errs.CodeThrottling, "%d other queries look at many twins; try again later, or have WHERE name fewer", maxScans)
		busy.RetryAfter = scanRetry
		return busy
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s scans) leave() { <-s.places }

// turn waits until a batch may be looked at, and end says that it was.
func (s scans) turn(ctx context.Context) (end func(), err error) {
	select {
	case s.turns <- struct{}{}:
		return func() { <-s.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
