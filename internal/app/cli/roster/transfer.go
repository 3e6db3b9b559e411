package roster

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/wire/dpsjson"
)

const (
	// grace is how long calls under way may go on after an interrupt, so that
	// what became of them is known.
	grace = 10 * time.Second

	// rounds is how often items are sent that the service has no time for.
	rounds = 5
)

// A Service is where a transfer goes to.
type Service interface {
	// Bulk does one thing to up to dpsjson.MaxBulkItem enrollments and returns
	// for each how it was refused, or nil.
	Bulk(ctx context.Context, mode dpsjson.BulkMode, items []Enrollment) ([]error, error)
	// Read returns an enrollment without symmetric keys.
	Read(ctx context.Context, id string) (Enrollment, error)
	// Attestation returns how its devices prove themselves, symmetric keys included.
	Attestation(ctx context.Context, id string) (*dpsjson.AttestationMechanism, error)
}

// A Transfer brings enrollments to a service. What is there already, and the same,
// is left alone, so that it can be run again at any time.
type Transfer struct {
	To       Service
	Update   bool         // change what is there and different, which is a conflict otherwise
	DryRun   bool         // write nothing, and report what would be done
	Parallel int          // calls at a time
	Journal  *Journal     // nil for none
	Progress func(Report) // called after every call, one at a time; nil for none
}

// A Report says what a transfer did, or what it would do.
type Report struct {
	Total     int `json:"total"`
	Created   int `json:"created"`
	Updated   int `json:"updated"`
	Unchanged int `json:"unchanged"`
	Resumed   int `json:"resumed"` // done by an earlier run
	// Conflicts are those that are there already and different, Refused those that
	// the service did not take.
	Conflicts []Fault `json:"conflicts"`
	Refused   []Fault `json:"refused"`
}

// Done is how many enrollments were dealt with.
func (r Report) Done() int {
	return r.Created + r.Updated + r.Unchanged + r.Resumed + len(r.Conflicts) + len(r.Refused)
}

// Run brings entries to the service, which must be told apart by their IDs. It ends
// early when a call fails as a whole, or ctx ends: calls under way are then given
// the time to be answered. The report is right in any case.
func (t Transfer) Run(ctx context.Context, entries []Entry) (Report, error) {
	r := &run{Transfer: t, report: Report{Total: len(entries), Conflicts: []Fault{}, Refused: []Fault{}}}
	entries = r.resume(entries)
	group, failed := errgroup.WithContext(ctx)
	group.SetLimit(max(1, t.Parallel))
	work, stop := outlast(failed)
	defer stop()
	for batch := range slices.Chunk(entries, dpsjson.MaxBulkItem) {
		if failed.Err() != nil {
			break
		}
		group.Go(func() error {
			if failed.Err() != nil {
				return nil
			}
			return r.batch(work, batch)
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	byLine := func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) }
	slices.SortStableFunc(r.report.Conflicts, byLine)
	slices.SortStableFunc(r.report.Refused, byLine)
	return r.report, err
}

// outlast returns a context that ends some time after ctx.
func outlast(ctx context.Context) (context.Context, func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		wait(work, grace)
		cancel()
	})
	return work, cancel
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// A run is a transfer under way.
type run struct {
	Transfer

	mu     sync.Mutex // guards report, and the journal's writes
	report Report
}

// resume leaves out what the journal says is done.
func (r *run) resume(entries []Entry) []Entry {
	if r.Journal == nil {
		return entries
	}
	left := make([]Entry, 0, len(entries))
	for _, e := range entries {
		if r.Journal.Has(e.Enrollment) {
			r.report.Resumed++
			continue
		}
		left = append(left, e)
	}
	return left
}

// An outcome is what became of one entry.
type outcome struct {
	what   verdict
	reason string
}

type verdict int

const (
	pending verdict = iota
	created
	updated
	unchanged
	conflict
	refused
)

// batch deals with the entries of one bulk operation. Creating comes first and
// looking second: most of a roster is new.
func (r *run) batch(ctx context.Context, batch []Entry) error {
	outcomes := make([]outcome, len(batch))
	refusals := make([]error, len(batch))
	if !r.DryRun {
		var err error
		if refusals, err = r.bulk(ctx, dpsjson.BulkCreate, enrollments(batch)); err != nil {
			return err
		}
	}
	var changes []Enrollment
	var places []int // of the changes
	for i, e := range batch {
		if !r.DryRun && refusals[i] == nil {
			outcomes[i].what = created
			continue
		}
		if !r.DryRun && statusOf(refusals[i]) != http.StatusConflict {
			outcomes[i] = outcome{refused, refusals[i].Error()}
			continue
		}
		etag, o, err := r.compare(ctx, e.Enrollment, refusals[i])
		if err != nil {
			return err
		}
		if outcomes[i] = o; o.what == updated && !r.DryRun {
			changed := e.Enrollment
			changed.ETag = etag
			changes, places = append(changes, changed), append(places, i)
		}
	}
	if len(changes) > 0 {
		refusals, err := r.bulk(ctx, dpsjson.BulkUpdateIfMatchETag, changes)
		if err != nil {
			return errors.Join(err, r.note(batch, without(outcomes, places)))
		}
		for k, i := range places {
			if refusals[k] != nil {
				outcomes[i] = outcome{refused, refusals[k].Error()}
			}
		}
	}
	return r.note(batch, outcomes)
}

// without returns outcomes with those at places open again.
func without(outcomes []outcome, places []int) []outcome {
	for _, i := range places {
		outcomes[i] = outcome{}
	}
	return outcomes
}

// compare says what is to become of an enrollment that the service may have
// already, and which tag the stored one has. cause is why creating it failed, nil
// if that was not tried.
func (r *run) compare(ctx context.Context, want Enrollment, cause error) (etag string, o outcome, err error) {
	have, err := r.To.Read(ctx, want.RegistrationID)
	if statusOf(err) == http.StatusNotFound {
		if cause != nil {
			return "", outcome{refused, cause.Error()}, nil
		}
		return "", outcome{what: created}, nil
	}
	if err == nil && givesKeys(want) && have.Attestation != nil && have.Attestation.Type == dpsjson.AttestationSymmetricKey {
		have.Attestation, err = r.To.Attestation(ctx, want.RegistrationID)
	}
	if err != nil {
		return "", outcome{}, err
	}
	differing := Differences(want, have)
	switch {
	case len(differing) == 0:
		return "", outcome{what: unchanged}, nil
	case r.Update:
		return have.ETag, outcome{what: updated}, nil
	}
	return "", outcome{conflict, "is there already and differs in " + strings.Join(differing, ", ")}, nil
}

func enrollments(batch []Entry) (all []Enrollment) {
	for _, e := range batch {
		all = append(all, Portable(e.Enrollment))
	}
	return all
}

// bulk sends items, and those again that the service had no time for.
func (r *run) bulk(ctx context.Context, mode dpsjson.BulkMode, items []Enrollment) ([]error, error) {
	refusals, err := r.To.Bulk(ctx, mode, items)
	for n := 1; err == nil && n < rounds; n++ {
		var again []Enrollment
		var places []int
		for i, refusal := range refusals {
			if s := statusOf(refusal); s == http.StatusTooManyRequests || s >= 500 {
				again, places = append(again, items[i]), append(places, i)
			}
		}
		if len(again) == 0 {
			break
		}
		wait(ctx, time.Second<<n)
		var second []error
		second, err = r.To.Bulk(ctx, mode, again)
		for k := range second {
			refusals[places[k]] = second[k]
		}
	}
	return refusals, err
}

// statusOf returns the HTTP status of a refusal, or zero.
func statusOf(err error) int {
	if refused, ok := errors.AsType[*client.Error](err); ok {
		return refused.Status
	}
	return 0
}

// note counts outcomes and remembers those that need no second look.
func (r *run) note(batch []Entry, outcomes []outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var there []Enrollment
	for i, o := range outcomes {
		e := batch[i]
		switch o.what {
		case created:
			r.report.Created++
		case updated:
			r.report.Updated++
		case unchanged:
			r.report.Unchanged++
		case conflict:
			r.report.Conflicts = append(r.report.Conflicts, Fault{e.Line, e.RegistrationID, o.reason})
		case refused:
			r.report.Refused = append(r.report.Refused, Fault{e.Line, e.RegistrationID, o.reason})
		}
		if o.what == created || o.what == updated || o.what == unchanged {
			there = append(there, e.Enrollment)
		}
	}
	if r.Progress != nil {
		r.Progress(r.report)
	}
	if r.Journal == nil || r.DryRun || len(there) == 0 {
		return nil
	}
	return r.Journal.Add(there...)
}
