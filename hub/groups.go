package hub

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/berth-iot/berth/errs"
)

// A Start says where a consumer group begins that there was not before.
type Start struct {
	// Earliest begins with the oldest message that there is, Since with the first
	// that was enqueued at that time or later. Without either a group begins with the
	// messages that come from then on.
	Earliest bool
	Since    time.Time
}

// isZero reports whether nothing is said.
func (s Start) isZero() bool { return s == Start{} }

// A GroupReader reads for a consumer group, as the one who does. It is not for
// concurrent use.
type GroupReader struct {
	d     *Dispatcher
	of    Reader
	id    string
	after uint64
	lease time.Time
}

// NewReaderID draws what a reader of a group calls itself.
func (d *Dispatcher) NewReaderID() (string, error) { return draw(d.Random) }

// OpenGroup begins to read for a consumer group behind what was committed, under a
// name that [Dispatcher.NewReaderID] drew. A group that does not exist is made. While
// somebody else reads, OpenGroup waits, until ctx ends; before that it calls waiting.
// A start is for new groups: with one that exists, the error is of kind
// errs.Conflict.
func (d *Dispatcher) OpenGroup(ctx context.Context, hub, group, id string, start Start, waiting func()) (*GroupReader, error) {
	if err := checkName("consumer group", group); err != nil {
		return nil, err
	}
	first, err := d.seek(ctx, start)
	if err != nil {
		return nil, err
	}
	if err := d.roomFor(ctx, hub, group); err != nil {
		return nil, err
	}
	g := &GroupReader{d: d, of: Reader{hub, OfGroup, group}, id: id}
	for {
		newest, err := d.Stream.LastSequence(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the end of the stream: %w", err)
		}
		err = d.Positions.ChangePosition(ctx, g.of, func(old *Position) (*Position, error) {
			next := Position{Sequence: first}
			if old != nil {
				next = *old
			}
			switch {
			case old != nil && !start.isZero():
				return nil, errs.New(errs.Conflict, 0, "The consumer group %q exists and goes on where it is; remove it to begin elsewhere", group)
			case next.Owner != "" && next.Owner != id && d.Now().Before(next.Lease):
				return nil, errLeased
			}
			// A stream that ends before the position is another one, as in dispatch.go.
			next.Sequence = min(next.Sequence, newest)
			next.Owner, next.Lease = id, d.Now().Add(leaseTime)
			g.after, g.lease = next.Sequence, next.Lease
			return &next, nil
		})
		if !errors.Is(err, errLeased) {
			if err != nil {
				err = fmt.Errorf("opening the consumer group %s of %s: %w", group, hub, err)
			}
			return g, err
		}
		waiting()
		timer := time.NewTimer(lookForLease)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// roomFor refuses a group that does not exist where there are too many.
func (d *Dispatcher) roomFor(ctx context.Context, hub, group string) error {
	positions, err := d.Positions.Positions(ctx, hub)
	if err != nil {
		return fmt.Errorf("reading the positions: %w", err)
	}
	groups := 0
	for _, p := range positions {
		if p.Kind != OfGroup {
			continue
		}
		if groups++; p.Name == group {
			return nil
		}
	}
	if groups >= maxRoutes {
		return errs.New(errs.Forbidden, 0, "%s has %d consumer groups, which is the limit", hub, maxRoutes)
	}
	return nil
}

// seek returns the number behind which a new group begins.
func (d *Dispatcher) seek(ctx context.Context, start Start) (uint64, error) {
	newest, err := d.Stream.LastSequence(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the end of the stream: %w", err)
	}
	oldest, err := d.Stream.Read(ctx, "", 0, 1)
	switch {
	case err != nil:
		return 0, fmt.Errorf("reading the beginning of the stream: %w", err)
	case len(oldest) == 0 || start.isZero():
		return newest, nil
	case start.Earliest:
		return oldest[0].Sequence - 1, nil
	}
	return d.Since(ctx, start.Since)
}

// Since returns the number behind which the messages are that were enqueued at a
// time or later, of all hubs. They are enqueued in order, but for what the servers'
// clocks differ.
func (d *Dispatcher) Since(ctx context.Context, t time.Time) (uint64, error) {
	newest, err := d.Stream.LastSequence(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the end of the stream: %w", err)
	}
	var failure error
	// The first number behind which no message is older.
	n := sort.Search(int(newest), func(n int) bool {
		if failure != nil {
			return true
		}
		next, err := d.Stream.Read(ctx, "", uint64(n), 1)
		if err != nil {
			failure = err
			return true
		}
		return len(next) == 0 || !next[0].Enqueued.Before(t)
	})
	if failure != nil {
		return 0, fmt.Errorf("looking for %s in the stream: %w", t.UTC().Format(time.RFC3339), failure)
	}
	return uint64(n), nil
}

// Next returns the next messages, up to limit, and waits until there are any, or
// else, unless wait is set, returns none. The error is of kind errs.Conflict when somebody else reads by now, as after a time in
// which the database could not be reached.
func (g *GroupReader) Next(ctx context.Context, limit int, wait bool) ([]*Message, error) {
	for {
		newest, err := g.d.Stream.LastSequence(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading the end of the stream: %w", err)
		}
		page, err := g.d.Stream.Read(ctx, g.of.Hub, g.after, limit)
		if err != nil {
			return nil, fmt.Errorf("reading the stream: %w", err)
		}
		lost, err := lostBefore(ctx, g.d.Stream, g.after, page, newest)
		if err != nil {
			return nil, err
		}
		if err := g.renew(ctx, lost); err != nil {
			return nil, err
		}
		if len(page) > 0 {
			g.after = page[len(page)-1].Sequence
			return page, nil
		}
		g.after = max(g.after, newest)
		if !wait {
			return nil, nil
		}
		soon, cancel := context.WithTimeout(ctx, renewAfter)
		err = g.d.Stream.Wait(soon, g.after)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil && soon.Err() == nil:
			return nil, fmt.Errorf("waiting for messages: %w", err)
		}
	}
}

// renew keeps the lease, and counts what was lost.
func (g *GroupReader) renew(ctx context.Context, lost uint64) error {
	if lost == 0 && g.lease.Sub(g.d.Now()) > leaseTime-renewAfter {
		return nil
	}
	return g.d.Positions.ChangePosition(ctx, g.of, func(old *Position) (*Position, error) {
		if old == nil || old.Owner != g.id {
			return nil, notReading(g.of.Name)
		}
		next := *old
		if lost > 0 {
			next.Lost += lost
			next.Sequence = max(next.Sequence, g.after+lost)
		}
		next.Lease = g.d.Now().Add(leaseTime)
		g.lease = next.Lease
		return &next, nil
	})
}

// Close lets somebody else read. What was read can be committed until somebody does;
// the rest comes again.
func (g *GroupReader) Close(ctx context.Context) error {
	err := g.d.Positions.ChangePosition(ctx, g.of, func(old *Position) (*Position, error) {
		if old == nil || old.Owner != g.id {
			return nil, errLeaseLost
		}
		next := *old
		next.Lease = time.Time{}
		return &next, nil
	})
	if errors.Is(err, errLeaseLost) {
		return nil
	}
	return err
}

func notReading(group string) error {
	return errs.New(errs.Conflict, 0, "Another reader has the consumer group %q, or it was removed", group)
}

// CommitGroup says that the reader of a group is done with the messages up to a
// number. The error is of kind errs.Conflict when somebody else reads by now.
func (d *Dispatcher) CommitGroup(ctx context.Context, hub, group, id string, sequence uint64) error {
	newest, err := d.Stream.LastSequence(ctx)
	if err != nil {
		return fmt.Errorf("reading the end of the stream: %w", err)
	}
	if sequence > newest {
		return invalidRouting("There is no message %d yet", sequence)
	}
	err = d.Positions.ChangePosition(ctx, Reader{hub, OfGroup, group}, func(old *Position) (*Position, error) {
		if old == nil || id == "" || old.Owner != id {
			return nil, notReading(group)
		}
		next := *old
		next.Sequence, next.Delivery = max(old.Sequence, sequence), d.Now()
		return &next, nil
	})
	if err != nil {
		return fmt.Errorf("committing %d for the consumer group %s of %s: %w", sequence, group, hub, err)
	}
	return nil
}

// A GroupStatus is a consumer group and how it does.
type GroupStatus struct {
	Position
	Lag    uint64    // as in RouteStatus
	Oldest time.Time // as in RouteStatus
}

// Groups returns the consumer groups of a hub, or of all when hub is empty.
func (d *Dispatcher) Groups(ctx context.Context, hub string) ([]GroupStatus, error) {
	positions, err := d.Positions.Positions(ctx, hub)
	if err != nil {
		return nil, fmt.Errorf("reading the positions: %w", err)
	}
	all := []GroupStatus{}
	for _, p := range positions {
		if p.Kind != OfGroup {
			continue
		}
		one := GroupStatus{Position: p}
		if one.Lag, one.Oldest, err = d.lag(ctx, p); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// DeleteGroup forgets a consumer group. One that is being read is not removed.
func (d *Dispatcher) DeleteGroup(ctx context.Context, hub, group string) error {
	err := d.Positions.ChangePosition(ctx, Reader{hub, OfGroup, group}, func(old *Position) (*Position, error) {
		switch {
		case old == nil:
			return nil, errs.New(errs.NotFound, 0, "There is no consumer group %q", group)
		case old.Owner != "" && d.Now().Before(old.Lease):
			return nil, errs.New(errs.Conflict, 0, "Somebody reads for the consumer group %q", group)
		}
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("removing the consumer group %s of %s: %w", group, hub, err)
	}
	return nil
}
