package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

func message(host string, id string) *hub.Message {
	return &hub.Message{Hub: host, DeviceID: device.ID(id), Enqueued: epoch}
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
	{"trimming removes what is older, and numbers are not used again", func(t *testing.T, s Store) {
		var ms []*hub.Message
		for i := range 2500 {
			m := message("hub-1", fmt.Sprint(i))
			m.Enqueued = epoch.Add(time.Duration(i) * time.Second)
			ms = append(ms, m)
		}
		ms[2499].Enqueued = epoch // a clock that was put back
		noError(t, s.Append(t.Context(), ms))
		for _, step := range []struct {
			before  time.Time
			removed int
		}{
			{time.Time{}, 0}, {epoch, 0}, {epoch.Add(2300 * time.Second), 2301},
			{epoch.Add(2300 * time.Second), 0}, {epoch.AddDate(1, 0, 0), 199}, {epoch.AddDate(1, 0, 0), 0},
		} {
			n, err := s.Trim(t.Context(), step.before)
			noError(t, err)
			same(t, n, step.removed)
			if step.removed == 2301 {
				left, err := s.Read(t.Context(), "", 0, 1)
				noError(t, err)
				same(t, left, ms[2300:2301])
			}
		}
		last, err := s.LastSequence(t.Context())
		noError(t, err)
		same(t, last, uint64(2500))
		next := message("hub-1", "next")
		noError(t, s.Append(t.Context(), []*hub.Message{next}))
		same(t, next.Sequence, uint64(2501))
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
