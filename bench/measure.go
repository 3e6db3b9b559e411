package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// A step is a part of what devices do. All devices of a round do it before any
// does the next. Devices are numbered, and each number comes once.
type step struct {
	do func(ctx context.Context, number int) error
	// apart is set for what is not measured: what a device does by itself,
	// because the load must not take from the server the CPU that a real device
	// brings along, and what was or will be at another time.
	apart bool
}

// A series is what is measured of one kind at one place, round by round.
type series struct {
	*kind
	at       *place
	server   *server // whose place it is; nil for a bare one
	baseline *series // what is measured right before it, and compared; or nil
	steps    []step
	atATime  int // devices; zero for what the options say

	cpu       []time.Duration // of one device, by round
	database  []time.Duration // the same of an engine that runs by itself
	wall      []time.Duration // of all devices, by round
	latencies []time.Duration // of every device
	bytes     [2]int64        // of all devices, from and to them
	devices   int64           // of which there were so many
}

// plan starts the bare servers and lists what is to be measured.
func (b *bencher) plan(ctx context.Context) error {
	for _, key := range []string{bare, bareHTTPS} {
		p, err := b.startBare(ctx, key, b.places[0])
		if err != nil {
			return err
		}
		b.bares = append(b.bares, p)
	}
	shakes, https := b.bares[0], b.bares[1]
	add := func(k *kind, at *place, s *server, baseline *series, steps []step) *series {
		v := &series{kind: k, at: at, server: s, baseline: baseline, steps: steps}
		b.series = append(b.series, v)
		return v
	}
	for _, k := range barest {
		if b.wants(k.key) {
			at := shakes
			if k.key == bareHTTPS {
				at = https
			}
			var baseline *series
			if k.against != "" {
				baseline = add(kindOf(k.against), shakes, nil, nil, kindOf(k.against).visit(b, shakes))
			}
			add(k, at, nil, baseline, k.visit(b, at))
		}
	}
	for _, k := range kinds {
		if !b.wants(k.key) {
			continue
		}
		baseline := add(kindOf(k.against), shakes, nil, nil, kindOf(k.against).visit(b, shakes))
		for _, s := range b.places {
			add(k, &s.place, s, baseline, append(k.provision(b, s), s.forget(k.ids(b, s))))
		}
	}
	return nil
}

// allRounds calls do for each round, as many as there is time for.
func (b *bencher) allRounds(began time.Time, what string, do func(round int) error) error {
	var longest time.Duration
	for round := range b.rounds + 1 {
		start := time.Now()
		if round > 1 && start.Add(longest).After(began.Add(b.within)) {
			b.progress("%s: no time for round %d of %d", what, round, b.rounds)
			return nil
		}
		b.progress("%s: round %d of %d", what, round, b.rounds)
		if err := do(round); err != nil {
			return err
		}
		longest = max(longest, time.Since(start))
	}
	return nil
}

// measureRound lets n devices of every kind visit. Round zero warms up and does
// not count.
func (b *bencher) measureRound(ctx context.Context, round int) error {
	for _, v := range b.series {
		if err := v.measure(ctx, b.options, round); err != nil {
			return fmt.Errorf("%s, %s: %w", v.at.name, v.name, err)
		}
	}
	return nil
}

func (v *series) measure(ctx context.Context, o options, round int) error {
	if v.atATime > 0 {
		o.concurrency = v.atATime
	}
	var spent account
	var wall time.Duration
	latencies := make([]time.Duration, o.n)
	for _, s := range v.steps {
		if s.apart {
			if _, err := s.all(ctx, o, round); err != nil {
				return err
			}
			continue
		}
		if err := v.profiler().begin(v.key); err != nil {
			return fmt.Errorf("profiling: %w", err)
		}
		before, err := v.account()
		if err != nil {
			return err
		}
		began := time.Now()
		took, err := s.all(ctx, o, round)
		if err != nil {
			return err
		}
		wall += time.Since(began)
		after, err := v.account()
		if err != nil {
			return err
		}
		if err := v.profiler().end(); err != nil {
			return fmt.Errorf("profiling: %w", err)
		}
		spent.add(before, after)
		for i := range took {
			latencies[i] += took[i]
		}
	}
	if round == 0 {
		return nil
	}
	v.cpu = append(v.cpu, spent.cpu/time.Duration(o.n))
	v.database = append(v.database, spent.database/time.Duration(o.n))
	v.wall = append(v.wall, wall)
	v.latencies = append(v.latencies, latencies...)
	v.bytes[0] += spent.bytes[0]
	v.bytes[1] += spent.bytes[1]
	v.devices += int64(o.n)
	return nil
}

func (v *series) profiler() *profiler {
	if v.server == nil {
		return nil
	}
	return v.server.profiler
}

// An account is what was used up to a moment.
type account struct {
	cpu, database time.Duration
	bytes         [2]int64
}

func (a *account) add(before, after account) {
	a.cpu += after.cpu - before.cpu
	a.database += after.database - before.database
	a.bytes[0] += after.bytes[0] - before.bytes[0]
	a.bytes[1] += after.bytes[1] - before.bytes[1]
}

func (v *series) account() (a account, err error) {
	if a.cpu, err = v.at.quiet(); err != nil {
		return a, err
	}
	if v.server != nil && v.server.database != nil {
		if a.database, err = v.server.database.cpu(); err != nil {
			return a, err
		}
	}
	a.bytes = [2]int64{v.at.sent.Load(), v.at.received.Load()}
	return a, nil
}

// all lets the devices of a round do the step, and returns how long it took
// each.
func (s step) all(ctx context.Context, o options, round int) ([]time.Duration, error) {
	took := make([]time.Duration, o.n)
	return took, concurrently(ctx, o.concurrency, o.n, func(ctx context.Context, i int) error {
		began := time.Now()
		number := round*o.n + i
		if err := s.do(ctx, number); err != nil {
			return fmt.Errorf("device %d: %w", number, err)
		}
		took[i] = time.Since(began)
		return nil
	})
}

// concurrently calls do with every number below n, so many at a time, until one
// call fails.
func concurrently(ctx context.Context, atATime, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(atATime, n) {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
