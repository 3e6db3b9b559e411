package provision

import (
	"context"
	"errors"
	"time"
)

// LeaseTime is how long a lease is good for.
const LeaseTime = leaseTime

// FinishDue works once on everything that is due, as a server that looks now.
func (r *Registrar) FinishDue(ctx context.Context) (n int, err error) {
	due, err := r.Records.DueRegistrations(ctx, r.Now(), maxHanded)
	var faults []error
	for _, record := range due {
		if err := r.finish(ctx, record); !errors.Is(err, errLost) {
			faults = append(faults, err)
			n++
		}
	}
	return n, errors.Join(append(faults, err)...)
}

// Finish works once on a registration, due or not.
func (r *Registrar) Finish(ctx context.Context, found *Registration) error {
	return r.finish(ctx, found)
}

// IsLost reports whether somebody else has the lease.
func IsLost(err error) bool { return errors.Is(err, errLost) }

// NextDue is when an attempt after so many that failed begins at the latest.
func NextDue(attempts int) time.Duration {
	d := lastDelay
	if doubled := firstDelay << min(attempts-1, 20); doubled < lastDelay {
		d = doubled
	}
	return d + d/2
}
