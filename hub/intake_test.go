package hub_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/hub"
)

// A slowStream keeps messages when it is told to.
type slowStream struct {
	hub.Stream
	goOn chan error // nil, or what to fail with
	kept []string
	most int // messages at once
}

func (s *slowStream) Append(_ context.Context, messages []*hub.Message) error {
	if err := <-s.goOn; err != nil {
		return err
	}
	s.most = max(s.most, len(messages))
	for _, m := range messages {
		s.kept = append(s.kept, m.System["message-id"])
	}
	return nil
}

// What waits to be kept is bounded in number and in bytes. Whoever brings more
// waits, as long as they like, and everything is kept in the order in which it
// came.
func TestWhatWaitsToBeKeptIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		size        int // of a message
		least, most int // how many are taken in while nothing is kept
	}{
		"small": {0, 1 << 10, 16 << 10}, "large": {200 << 10, 100, 300},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slowStream{goOn: make(chan error)}
				service := hub.New(hub.Config{Stream: s, Now: time.Now})
				from := hub.Sender{Place: hub.Place{Hub: "hub.example", ID: "d1"}}
				var sent, told []string
				receive := func(ctx context.Context) error {
					id := string(rune('a'+len(sent)%26)) + time.Duration(len(sent)).String()
					m := hub.Message{Body: make([]byte, c.size), System: map[string]string{"message-id": id}}
					err := service.Receive(ctx, from, m, func(err error) {
						if err != nil {
							t.Error(err)
						}
						told = append(told, id)
					})
					if err == nil {
						sent = append(sent, id)
					}
					return err
				}
				impatient, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				for receive(impatient) == nil {
				}
				if n := len(sent); n < c.least || n > c.most || n*c.size > 40<<20 {
					t.Errorf("%d messages of %d bytes were taken in", n, c.size)
				}
				if err := receive(impatient); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("one more: %v", err)
				}
				patient := make(chan error)
				go func() { patient <- receive(t.Context()) }()
				synctest.Wait()
				close(s.goOn)
				if err := <-patient; err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if !slices.Equal(s.kept, sent) || !slices.Equal(told, sent) || s.most > 4<<10 {
					t.Errorf("%d messages came, %d are kept, up to %d at once, and of %d somebody was told", len(sent), len(s.kept), s.most, len(told))
				}
			})
		})
	}
}

// A stream that fails fails for those whose messages it had, and not for who comes
// later.
func TestAStreamThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowStream{goOn: make(chan error, 2)}
		service := hub.New(hub.Config{Stream: s, Now: time.Now})
		full := errors.New("the disk is full")
		s.goOn <- full
		s.goOn <- nil
		for _, want := range []error{full, nil} {
			got := make(chan error, 1)
			if err := service.Receive(t.Context(), hub.Sender{}, hub.Message{}, func(err error) { got <- err }); err != nil {
				t.Fatal(err)
			}
			if err := <-got; !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
	})
}
