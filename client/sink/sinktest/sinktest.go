// Package sinktest is the contract of a sink, as tests that every kind passes
// against the real thing on its far side.
package sinktest

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// A Far is what is on the far side of a sink.
type Far interface {
	// Config returns how it is reached, also while it is down.
	Config() hub.SinkConfig
	// Kept returns what it has acknowledged so far, in its order. Of System it may
	// leave out what a test of this package does not set.
	Kept(t *testing.T) []*hub.Message
	// Kill ends it at once, whatever is under way; Start starts it again with what it
	// has kept. It runs when a test begins.
	Kill()
	Start(t *testing.T)
}

// Host is the hub of the messages.
const Host = "hub.example.com"

// Run holds a kind of sink to the contract. start starts a far side of its own for
// every rule, and ends it when the test does.
func Run(t *testing.T, kind hub.SinkKind, start func(t *testing.T) Far) {
	for name, rule := range map[string]func(*testing.T, *bench){
		"what arrives is what was delivered, in every member": whole,
		"the order of a batch is kept, and of batches":        ordered,
		"a batch of the largest size arrives":                 large,
		"who is down refuses, and then takes the same":        down,
		"nothing acknowledged is lost when the far side dies": killed,
		"a context that ends ends a delivery":                 cancelled,
		"a sink that is closed lets go":                       closed,
	} {
		t.Run(name, func(t *testing.T) {
			far := start(t)
			config := far.Config()
			if err := kind.Check(config); err != nil {
				t.Fatal(err)
			}
			rule(t, &bench{t: t, kind: kind, far: far, sink: open(t, kind, config)})
		})
	}
}

// A bench is a sink and its far side.
type bench struct {
	t    *testing.T
	kind hub.SinkKind
	far  Far
	sink hub.Sink
	next uint64
}

func open(t *testing.T, kind hub.SinkKind, config hub.SinkConfig) hub.Sink {
	t.Helper()
	sink, err := kind.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	return sink
}

// batch returns the next n messages, of a few devices.
func (b *bench) batch(n int) (batch []*hub.Message) {
	for range n {
		b.next++
		batch = append(batch, &hub.Message{
			Sequence: b.next, Hub: Host, DeviceID: device.ID(fmt.Sprint("pump-", b.next%3)), Enqueued: time.Unix(1_780_000_000, int64(b.next)).UTC(),
			System: map[string]string{"message-id": fmt.Sprint("m", b.next)}, Properties: map[string]string{"n": fmt.Sprint(b.next)},
			Body: fmt.Append(nil, b.next),
		})
	}
	return batch
}

func (b *bench) deliver(batch []*hub.Message) {
	b.t.Helper()
	if err := b.sink.Deliver(b.t.Context(), batch); err != nil {
		b.t.Fatal(err)
	}
}

// insist delivers a batch as often as it takes.
func (b *bench) insist(batch []*hub.Message) (attempts int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	for {
		attempts++
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := b.sink.Deliver(attempt, batch)
		cancel()
		if err == nil {
			return attempts
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			b.t.Fatal(err)
		}
	}
}

// keeps wants all messages up to a number to be kept, each at first behind those
// before it. It returns how many came again.
func (b *bench) keeps(last uint64) (again int) {
	b.t.Helper()
	next := uint64(1)
	for _, m := range b.far.Kept(b.t) {
		switch {
		case m.Sequence == next:
			next++
		case m.Sequence < next:
			again++
		default:
			b.t.Fatalf("message %d came before %d", m.Sequence, next)
		}
		if string(m.Body) != fmt.Sprint(m.Sequence) {
			b.t.Fatalf("message %d has the body %q", m.Sequence, m.Body)
		}
	}
	if next != last+1 {
		b.t.Errorf("%d messages are kept of %d", next-1, last)
	}
	return again
}

func whole(t *testing.T, b *bench) {
	strange := map[string]string{
		"": "empty", "a b": "c:d", "ключ": "значение", "line\r\nbreak": "\x00\x01\r\n\t", "Nats-Msg-Id": "x", "quote\"": "\\", "<&>": "%2F",
	}
	want := b.batch(4)
	want[0].Body, want[0].Properties, want[0].DeviceID = []byte{0, 1, 0xfe, 0xff, '\n'}, strange, "a.b*c>d %e_'$#+"
	want[1].Body, want[1].Properties = []byte{}, map[string]string{}
	want[2].Body, want[2].ModuleID, want[2].System = []byte(`{"t":"ä<>"}`), "mod.1", map[string]string{"content-type": "application/json", "correlation-id": "line\nbreak"}
	want[3].Body = bytes.Repeat([]byte{0xff, 0x00, 'x', '"'}, hub.MaxMessageSize/4)
	b.deliver(want)
	got := b.far.Kept(t)
	if len(got) != len(want) {
		t.Fatalf("%d messages are kept of %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.Sequence != w.Sequence || g.Hub != w.Hub || g.DeviceID != w.DeviceID || g.ModuleID != w.ModuleID || !g.Enqueued.Equal(w.Enqueued) {
			t.Errorf("%d %s %s/%s %s, want %d %s %s/%s %s", g.Sequence, g.Hub, g.DeviceID, g.ModuleID, g.Enqueued, w.Sequence, w.Hub, w.DeviceID, w.ModuleID, w.Enqueued)
		}
		if !bytes.Equal(g.Body, w.Body) {
			t.Errorf("body %.60q, want %.60q", g.Body, w.Body)
		}
		sameMap(t, g.Properties, w.Properties)
		sameMap(t, g.System, w.System)
	}
}

func sameMap(t *testing.T, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%q, want %q", got, want)
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%q is %q, want %q", name, got[name], value)
		}
	}
}

func ordered(t *testing.T, b *bench) {
	for range 30 {
		b.deliver(b.batch(1 + int(b.next)%50))
	}
	if again := b.keeps(b.next); again != 0 {
		t.Errorf("%d came again", again)
	}
}

func large(t *testing.T, b *bench) {
	b.deliver(b.batch(hub.MaxSinkBatch))
	b.keeps(hub.MaxSinkBatch)
}

func down(t *testing.T, b *bench) {
	b.deliver(b.batch(5))
	b.far.Kill()
	batch := b.batch(5)
	for range 3 {
		if err := b.sink.Deliver(t.Context(), batch); err == nil {
			t.Fatal("delivered to nobody")
		}
	}
	b.far.Start(t)
	b.insist(batch)
	b.deliver(b.batch(5))
	b.keeps(15)
}

func killed(t *testing.T, b *bench) {
	const deaths = 5
	var died atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range deaths {
			<-time.After(100 * time.Millisecond)
			b.far.Kill()
			<-time.After(50 * time.Millisecond)
			b.far.Start(t)
			died.Add(1)
		}
	}()
	attempts := 0
	for died.Load() < deaths {
		attempts += b.insist(b.batch(20))
	}
	<-done
	b.insist(b.batch(20))
	again := b.keeps(b.next)
	t.Logf("%d messages in %d attempts over %d deaths; %d came again", b.next, attempts, deaths, again)
}

func cancelled(t *testing.T, b *bench) {
	b.deliver(b.batch(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	batch := b.batch(hub.MaxSinkBatch)
	began := time.Now()
	err := b.sink.Deliver(ctx, batch)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s to give up", took)
	}
	if err == nil {
		t.Error("delivered with a context that has ended")
	}
	b.insist(batch)
	b.keeps(b.next)
}

func closed(t *testing.T, b *bench) {
	b.deliver(b.batch(3))
	if err := b.sink.Close(); err != nil {
		t.Error(err)
	}
	// Another one goes on.
	b.sink = open(t, b.kind, b.far.Config())
	b.deliver(b.batch(3))
	b.keeps(6)
	unused := open(t, b.kind, b.far.Config())
	if err := unused.Close(); err != nil {
		t.Error(err)
	}
}
