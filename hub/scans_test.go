package hub_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// A crowd is a registry of many devices. Who reads beyond the first thousands waits
// at its gate.
type crowd struct {
	hub.Registry
	gate chan struct{}
}

const crowded = 5000

func (c *crowd) ScanTwins(ctx context.Context, host string, of hub.Part, _ hub.Members, limit int) ([]hub.Found, error) {
	first := 0
	if of.After.ID != "" {
		fmt.Sscanf(string(of.After.ID), "device-%d", &first)
		first++
	}
	if first > 2000 {
		<-c.gate
	}
	var found []hub.Found
	for i := first; i < min(first+limit, crowded); i++ {
		at := hub.Place{Hub: host, ID: device.ID(fmt.Sprintf("device-%d", i))}
		found = append(found, hub.Found{Identity: &hub.Identity{Place: at}, Twin: &hub.Twin{Tags: json.RawMessage(`{}`)}})
	}
	return found, nil
}

func (c *crowd) About(context.Context, []hub.Place, time.Time) (map[hub.Place]hub.About, error) {
	return nil, nil
}

// Whoever asks for many twins waits for others who do, and not for ever; who asks
// for few does not wait.
func TestFewScansAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{gate: make(chan struct{})}
		s := hub.New(hub.Config{Registry: c, Now: time.Now})
		const scan = "SELECT deviceId FROM devices WHERE IS_DEFINED(tags.none)"
		answers := make(chan error, 100)
		ask := func(ctx context.Context, text string) {
			go func() {
				_, err := s.Query(ctx, owner, host, text, 100, "")
				answers <- err
			}()
		}
		for range 4 {
			ask(t.Context(), scan)
			ask(t.Context(), "SELECT COUNT() FROM devices WHERE IS_DEFINED(tags.none)")
		}
		synctest.Wait()
		if n := len(answers); n != 0 {
			t.Fatalf("%d answers before anybody read on", n)
		}

		// All places are taken. Few twins are there for everybody.
		if page, err := s.Query(t.Context(), owner, host, "SELECT * FROM devices", 500, ""); err != nil || len(page.Twins) != 500 {
			t.Errorf("a page: %d twins, %v", len(page.Twins), err)
		}
		began := time.Now()
		for range 4 {
			err := <-answers
			e := errs.Public(err)
			if e.Kind != errs.Busy || e.Code != errs.CodeThrottling || e.RetryAfter != 5*time.Second {
				t.Errorf("one too many: %v", err)
			}
		}
		if waited := time.Since(began); waited != 3*time.Second {
			t.Errorf("they waited for %v", waited)
		}

		// Who goes away gives up waiting, and takes no place.
		gone, leave := context.WithCancel(t.Context())
		ask(gone, scan)
		synctest.Wait()
		leave()
		if err := <-answers; err == nil {
			t.Error("an answer for nobody")
		}

		// The four end, and others take their places.
		close(c.gate)
		for range 4 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		for range 8 {
			ask(t.Context(), scan)
		}
		for range 8 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
	})
}

// A twin is found once, and under what it says, whatever else the index says of it.
func TestEntriesThatAreLeftOver(t *testing.T) {
	s, f := openFinder(t)
	f.putTags(t, "pump-1", `{"site":"a","n":1}`)
	f.putTags(t, "pump-2", `{"site":"b","n":2}`)
	f.putTags(t, "pump-3", `{"site":"c","n":3}`)
	f.stale = []string{"pump-1", "pump-2", "pump-3"}
	for where, want := range map[string][]string{
		"tags.site IN ['a', 'b']": {"pump-1", "pump-2"},
		"tags.n >= 1":             {"pump-1", "pump-2", "pump-3"},
		"tags.site = 'a'":         {"pump-1"},
	} {
		rows, _ := ask(t, s, "SELECT * FROM devices WHERE "+where, 100)
		slices.Sort(rows)
		if !slices.Equal(rows, want) {
			t.Errorf("%s: %v, want %v", where, rows, want)
		}
		if got := asked(t, s, "SELECT COUNT() AS n FROM devices WHERE "+where); got != fmt.Sprintf(`{"n":%d}`, len(want)) {
			t.Errorf("%s: %s, want %d", where, got, len(want))
		}
	}
}
