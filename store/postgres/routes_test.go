package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/hub"
)

// A tank keeps what both servers deliver.
type tank struct {
	mu     sync.Mutex
	bodies []string
	by     map[string]int
}

// A pipe is one server's way into the tank.
type pipe struct {
	*tank
	server string
}

func (p pipe) Deliver(_ context.Context, batch []*hub.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range batch {
		p.bodies = append(p.bodies, string(m.Body))
	}
	p.by[p.server] += len(batch)
	return nil
}

func (p pipe) Close() error { return nil }

func (t *tank) has() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.bodies, " ")
}

// Of two servers one works for a route, whoever messages come to, and when it stops
// the other goes on where it was.
func TestTwoServersAndARoute(t *testing.T) {
	a, b := openTwo(t)
	all := &tank{by: map[string]int{}}
	dispatcher := func(name string, s *Store) *hub.Dispatcher {
		return hub.NewDispatcher(hub.DispatcherConfig{
			Name: name, Stream: s, Routing: s, Positions: s,
			Kinds: map[string]hub.SinkKind{"tank": {
				Check: func(hub.SinkConfig) error { return nil },
				Open:  func(hub.SinkConfig) (hub.Sink, error) { return pipe{all, name}, nil },
			}},
			Now: time.Now, Random: rand.Reader, Wanted: func(func(string, hub.Source) bool) {}, Fault: func(err error) { t.Log(err) },
		})
	}
	run := func(d *hub.Dispatcher) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); d.Run(ctx) }()
		stop = func() { cancel(); <-done }
		t.Cleanup(stop)
		return stop
	}
	one, other := dispatcher("a", a), dispatcher("b", b)
	if _, err := one.PutSink(t.Context(), hub.SinkConfig{Hub: "hub-1", Name: "tank", Kind: "tank", URL: "tank://x"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := one.PutRoute(t.Context(), hub.Route{Hub: "hub-1", Name: "all", Source: hub.DeviceMessages, Sink: "tank", Enabled: true}, nil); err != nil {
		t.Fatal(err)
	}
	var want []string
	send := func(s *Store, n int) {
		t.Helper()
		for range n {
			want = append(want, fmt.Sprint(len(want)))
			m := &hub.Message{Hub: "hub-1", DeviceID: "d", Enqueued: time.Now(), System: map[string]string{"message-source": "Telemetry"}, Body: []byte(want[len(want)-1])}
			if err := s.Append(t.Context(), []*hub.Message{m}); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop := run(one)
	send(b, 20)
	within(t, 20*time.Second, func() bool { return all.has() == strings.Join(want, " ") })
	run(other)
	for range 10 {
		send(a, 5)
		send(b, 5)
	}
	within(t, 20*time.Second, func() bool { return all.has() == strings.Join(want, " ") })
	if all.by["b"] != 0 {
		t.Errorf("both worked: %v", all.by)
	}
	stop()
	send(a, 20)
	took := within(t, 20*time.Second, func() bool { return all.has() == strings.Join(want, " ") })
	if all.by["b"] != 20 {
		t.Errorf("%v", all.by)
	}
	t.Logf("the other server went on after %s", took.Round(time.Millisecond))
}
