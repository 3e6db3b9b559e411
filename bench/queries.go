package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// sites is how many sites the twins name, each as many of them, and patterns how
// many twins there are of which all others are copies.
const (
	sites    = 100
	patterns = 2 * sites
)

// needle is the device that has what no other one has.
const needle = "needle"

// A twinQuery is one that an operator asks.
type twinQuery struct{ key, name, text string }

var twinQueries = []twinQuery{
	{"id", "the device of an ID", "SELECT * FROM devices WHERE deviceId = '" + needle + "'"},
	{"tag", "the one with a tag's value", "SELECT * FROM devices WHERE tags.serial = '" + needle + "'"},
	{"site", "the first hundred of one in a hundred", "SELECT * FROM devices WHERE tags.site = 'site-7'"},
	{"both", "the same, by a reported number as well", "SELECT * FROM devices WHERE tags.site = 'site-7' AND properties.reported.temperature > 50"},
	{"count", "how many of one in a hundred", "SELECT COUNT() AS number FROM devices WHERE tags.site = 'site-7'"},
	{"sites", "how many of each: all are read", "SELECT tags.site AS site, COUNT() AS number FROM devices GROUP BY tags.site"},
}

const (
	// pageSize is how many rows a query is to return at most.
	pageSize = 100
	// asked is how often a query is asked, and askedFor how long at most.
	asked    = 20
	askedFor = 3 * time.Second
)

// A queryTime is how long a query takes among so many twins.
type queryTime struct {
	spec
	twinQuery
	p50, p99 time.Duration
}

// measureQueries asks the same of one server for each engine, as its twins grow
// in number.
func (h *hubs) measureQueries(ctx context.Context) error {
	for _, engine := range h.engines() {
		s := &server{spec: spec{engine, 0}, dir: filepath.Join(h.dir, "twins-"+engine)}
		h.servers = append(h.servers, s)
		if err := s.create(ctx); err != nil {
			return err
		}
		for _, n := range h.twins {
			h.progress("%s: queries among %s twins", engineNames[engine], thousands(n))
			if err := s.loadTwins(ctx, h.fleet, n); err != nil {
				return fmt.Errorf("loading twins: %w", err)
			}
			if err := s.serve(ctx, h.bencher); err != nil {
				return err
			}
			for _, q := range twinQueries {
				found, err := h.ask(ctx, s, q)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, q.name, err)
				}
				h.queries = append(h.queries, found)
			}
			s.process.stop()
		}
		s.close()
	}
	return nil
}

// ask asks a query of one server, one after the other. The first time does not
// count: what it reads may be on the disk.
func (h *hubs) ask(ctx context.Context, s *server, q twinQuery) (queryTime, error) {
	var took []time.Duration
	var began time.Time
	for i := 0; i <= 1 || i <= asked && time.Since(began) < askedFor; i++ {
		if i == 1 {
			if err := s.profiler.begin("query-" + q.key); err != nil {
				return queryTime{}, err
			}
			began = time.Now()
		}
		one := time.Now()
		rows, err := s.query(ctx, q.text)
		if err != nil {
			return queryTime{}, err
		}
		if rows == 0 {
			return queryTime{}, errors.New("nothing was found")
		}
		if i > 0 {
			took = append(took, time.Since(one))
		}
	}
	slices.Sort(took)
	return queryTime{s.spec, q, quantile(took, 0.50), quantile(took, 0.99)}, s.profiler.end()
}

// loadTwins makes the server, which does not run, one of n twins: at first the
// patterns, through the service, and then copies of them.
func (s *server) loadTwins(ctx context.Context, f *fleet, n int) error {
	first := min(patterns, n-1)
	if s.size == 0 {
		if err := s.loadPatterns(ctx, f, first); err != nil {
			return err
		}
		s.size = first + 1
	}
	if n > s.size {
		of := make([]string, first)
		for i := range of {
			of[i] = individualID("pattern", i)
		}
		if err := s.copies(ctx, of, n-s.size, []table{identities, twinValues}); err != nil {
			return err
		}
	}
	s.size = n
	return s.settle(ctx)
}

func (s *server) loadPatterns(ctx context.Context, f *fleet, n int) error {
	db, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	hubs := hub.New(hub.Config{Registry: db, Stream: db, Queues: db, Policies: db, Now: func() time.Time { return now }, Random: rand.Reader})
	put := func(ctx context.Context, id string, i int, more string) error {
		key := f.derived(id)
		err := hubs.Provision(ctx, hub.Provisioning{
			Hub: host, DeviceID: device.ID(id), Keys: attest.SymmetricKeys{Primary: key, Secondary: key},
			Twin: &hub.InitialTwin{
				Tags:    fmt.Appendf(nil, `{"site":"site-%d","line":%d%s}`, i%sites, i%7, more),
				Desired: json.RawMessage(`{"interval":60,"firmware":{"version":"1.4.2"}}`),
			},
		})
		if err != nil {
			return err
		}
		at := hub.Place{Hub: host, ID: device.ID(id)}
		made, err := db.Identity(ctx, at)
		if err != nil {
			return err
		}
		from := hub.Sender{Place: at, GenerationID: made.GenerationID}
		_, err = hubs.PatchReported(ctx, from, fmt.Appendf(nil, `{"temperature":%d,"firmware":{"version":"1.4.%d"}}`, i*37%101, i%4), nil)
		return err
	}
	err = put(ctx, needle, sites-1, `,"serial":"`+needle+`"`)
	if err == nil {
		err = concurrently(ctx, loaders, n, func(ctx context.Context, i int) error { return put(ctx, individualID("pattern", i), i, "") })
	}
	return errors.Join(err, db.Close())
}

// writeQueries writes a table for each engine, with a column for each number of
// twins.
func writeQueries(w *tables, times []queryTime) {
	for engine, found := range byEngine(times) {
		var counts []int
		for _, t := range found {
			if !slices.Contains(counts, t.size) {
				counts = append(counts, t.size)
			}
		}
		heads := []string{"Queries, " + engineNames[engine]}
		for _, n := range counts {
			heads = append(heads, thousands(n)+" twins: p50, ms", "p99, ms")
		}
		w.line("")
		w.heads(heads...)
		for _, q := range twinQueries {
			cells := []string{q.name}
			for _, t := range found {
				if t.twinQuery == q {
					cells = append(cells, ms(t.p50), ms(t.p99))
				}
			}
			w.row(cells...)
		}
	}
}

// byEngine goes through the times of each engine, which are together.
func byEngine(times []queryTime) func(yield func(string, []queryTime) bool) {
	return func(yield func(string, []queryTime) bool) {
		for len(times) > 0 {
			n := slices.IndexFunc(times, func(t queryTime) bool { return t.engine != times[0].engine })
			if n < 0 {
				n = len(times)
			}
			if !yield(times[0].engine, times[:n]) {
				return
			}
			times = times[n:]
		}
	}
}

func jsonQueries(times []queryTime) map[string]map[string]map[string]jsonTime {
	found := map[string]map[string]map[string]jsonTime{}
	for _, t := range times {
		if found[t.engine] == nil {
			found[t.engine] = map[string]map[string]jsonTime{}
		}
		set(found[t.engine], strconv.Itoa(t.size), t.key, jsonTime{milliseconds(t.p50), milliseconds(t.p99)})
	}
	return found
}
