package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

func message(host string, id string) *hub.Message {
	return &hub.Message{Hub: host, DeviceID: device.ID(id), Enqueued: epoch}
}

// goes checks that trimming removes all that is there, of which there are n.
func goes(t *testing.T, s Store, keep hub.Retention, n int) {
	t.Helper()
	removed, err := s.Trim(t.Context(), keep)
	noError(t, err)
	same(t, removed, n)
	left, err := s.Read(t.Context(), "", 0, 1)
	noError(t, err)
	same(t, len(left), 0)
	removed, err = s.Trim(t.Context(), keep)
	noError(t, err)
	same(t, removed, 0)
}

// goesOn checks that the next message comes behind last.
func goesOn(t *testing.T, s Store, last uint64) {
	t.Helper()
	got, err := s.LastSequence(t.Context())
	noError(t, err)
	same(t, got, last)
	next := message("hub-1", "next")
	noError(t, s.Append(t.Context(), []*hub.Message{next}))
	same(t, next.Sequence, last+1)
}

var messageRules = []rule{
	{"a message is what was appended, in every member", func(t *testing.T, s Store) {
		full := filled[*hub.Message]()
		empty := message("hub-1", "d")
		empty.System, empty.Properties, empty.Body = map[string]string{}, map[string]string{}, []byte{}
		want := []*hub.Message{full, empty, message("hub-1", "d")}
		noError(t, s.Append(t.Context(), want))
		got, err := s.Read(t.Context(), "", 0, 10)
		noError(t, err)
		same(t, got, want)
	}},
	{"sequence numbers start at one and have no gaps", func(t *testing.T, s Store) {
		last, err := s.LastSequence(t.Context())
		noError(t, err)
		same(t, last, uint64(0))
		first, second := []*hub.Message{message("hub-1", "a"), message("hub-2", "b")}, []*hub.Message{message("hub-1", "c")}
		noError(t, s.Append(t.Context(), first))
		noError(t, s.Append(t.Context(), nil))
		noError(t, s.Append(t.Context(), second))
		same(t, []uint64{first[0].Sequence, first[1].Sequence, second[0].Sequence}, []uint64{1, 2, 3})
		last, err = s.LastSequence(t.Context())
		noError(t, err)
		same(t, last, uint64(3))
	}},
	{"messages appended together stay together and in order", func(t *testing.T, s Store) {
		race(16, func(i int) error {
			var ms []*hub.Message
			for j := range 5 {
				ms = append(ms, message("hub-1", fmt.Sprintf("%d.%d", i, j)))
			}
			if err := s.Append(t.Context(), ms); err != nil {
				t.Error(err)
			}
			for j, m := range ms {
				same(t, m.Sequence, ms[0].Sequence+uint64(j))
			}
			return nil
		})
		got, err := s.Read(t.Context(), "hub-1", 0, 100)
		noError(t, err)
		same(t, len(got), 80)
		for i, m := range got {
			same(t, m.Sequence, uint64(i+1))
			same(t, string(m.DeviceID[len(m.DeviceID)-1]), fmt.Sprint(i%5))
		}
	}},
	{"reading goes on after a number, up to a limit, at one hub or all", func(t *testing.T, s Store) {
		for i := range 10 {
			noError(t, s.Append(t.Context(), []*hub.Message{message(fmt.Sprint("hub-", i%2), fmt.Sprint(i))}))
		}
		read := func(host string, after uint64, limit int) string {
			t.Helper()
			ms, err := s.Read(t.Context(), host, after, limit)
			noError(t, err)
			var ids []device.ID
			for _, m := range ms {
				ids = append(ids, m.DeviceID)
			}
			return fmt.Sprint(ids)
		}
		same(t, read("", 0, 4), "[0 1 2 3]")
		same(t, read("", 4, 4), "[4 5 6 7]")
		same(t, read("", 8, 4), "[8 9]")
		same(t, read("", 10, 4), "[]")
		same(t, read("", math.MaxUint64, 4), "[]")
		same(t, read("", 0, 0), "[]")
		same(t, read("", 0, -1), "[]")
		same(t, read("hub-1", 0, 3), "[1 3 5]")
		same(t, read("hub-1", 6, 3), "[7 9]")
		same(t, read("hub-2", 0, 3), "[]")
	}},
	{"trimming removes what is older and nothing else, and numbers are not used again", func(t *testing.T, s Store) {
		var ms []*hub.Message
		for i := range 2500 {
			m := message("hub-1", fmt.Sprint(i))
			m.Enqueued = epoch.Add(time.Duration(i) * time.Second)
			ms = append(ms, m)
		}
		ms[2499].Enqueued = epoch // a clock that was put back
		noError(t, s.Append(t.Context(), ms))
		removed := 0
		for _, step := range []struct {
			keep   hub.Retention
			atMost int // may have been removed until then
		}{
			{hub.Retention{}, 0}, {hub.Retention{Bytes: 1 << 40}, 0}, {hub.Retention{Before: epoch}, 0},
			{hub.Retention{Before: epoch.Add(2300 * time.Second), Bytes: 1 << 40}, 2301},
		} {
			n, err := s.Trim(t.Context(), step.keep)
			noError(t, err)
			left, err := s.Read(t.Context(), "hub-1", 0, len(ms))
			noError(t, err)
			if removed += n; removed > step.atMost || len(left) != len(ms)-removed {
				t.Errorf("%+v: %d messages were removed, %d are there, and %d may go", step.keep, removed, len(left), step.atMost)
			}
			young := slices.IndexFunc(left, func(m *hub.Message) bool { return m.Sequence == 2301 })
			if young < 0 {
				t.Fatalf("%+v: message 2301 is gone", step.keep)
			}
			same(t, left[young:young+199], ms[2300:2499])
		}
		goes(t, s, hub.Retention{Before: epoch.AddDate(1, 0, 0)}, len(ms)-removed)
		goesOn(t, s, 2500)
	}},
	{"trimming keeps the stream to a size, and the newest messages", func(t *testing.T, s Store) {
		var ms []*hub.Message
		for i := range 2500 {
			m := message("hub-1", fmt.Sprint(i))
			m.Body = make([]byte, 100)
			ms = append(ms, m)
		}
		noError(t, s.Append(t.Context(), ms))
		n, err := s.Trim(t.Context(), hub.Retention{Bytes: 100 * 1000})
		noError(t, err)
		left, err := s.Read(t.Context(), "", 0, len(ms))
		noError(t, err)
		if len(left) > 1000 {
			t.Errorf("%d messages of 100 bytes are left", len(left))
		}
		same(t, n, len(ms)-len(left))
		if len(left) > 0 {
			same(t, left, ms[n:])
		}
		goes(t, s, hub.Retention{Bytes: 1}, len(left))
		goesOn(t, s, 2500)
	}},
	{"waiting ends when something newer is there, and no sooner", func(t *testing.T, s Store) {
		noError(t, s.Append(t.Context(), []*hub.Message{message("hub-1", "a")}))
		noError(t, s.Wait(t.Context(), 0))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("waiting with an ended context: %v", err)
		}
		woken := make(chan error)
		for range 3 {
			go func() {
				err := s.Wait(t.Context(), 2)
				if err == nil {
					var ms []*hub.Message
					if ms, err = s.Read(t.Context(), "", 2, 10); err == nil && len(ms) == 0 {
						err = errors.New("woken with nothing to read")
					}
				}
				woken <- err
			}()
		}
		noError(t, s.Append(t.Context(), []*hub.Message{message("hub-1", "b")}))
		noError(t, s.Append(t.Context(), []*hub.Message{message("hub-1", "c")}))
		for range 3 {
			noError(t, <-woken)
		}
	}},
}
