package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/errs"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A bench holds what a store would, and does what decisions say.
type bench struct {
	*testing.T
	now      time.Time
	last     uint64
	messages []*CloudMessage
	feedback []string
}

func (b *bench) do(f func(*queue)) {
	var copies []*CloudMessage
	for _, m := range b.messages {
		c := *m
		copies = append(copies, &c)
	}
	q := openQueue(Place{Hub: "hub1.example", ID: "d1"}, "g1", copies, b.now)
	f(q)
	gone := map[uint64]bool{}
	for _, sequence := range q.change.Remove {
		gone[sequence] = true
	}
	var left []*CloudMessage
	for _, m := range b.messages {
		for _, changed := range q.change.Update {
			if changed.Sequence == m.Sequence {
				m = changed
			}
		}
		if !gone[m.Sequence] {
			left = append(left, m)
		}
	}
	for _, m := range q.change.Add {
		b.last++
		m.Sequence = b.last
		left = append(left, m)
	}
	b.messages = left
	for _, f := range q.change.Feedback {
		if f.Hub != "hub1.example" || f.DeviceID != "d1" || f.GenerationID != "g1" || !f.Ended.Equal(b.now) {
			b.Errorf("feedback %+v", f)
		}
		b.feedback = append(b.feedback, f.MessageID+" "+string(f.Outcome))
	}
}

func (b *bench) add(id string, ack Ack, ttl time.Duration) error {
	var err error
	b.do(func(q *queue) {
		err = q.add(&CloudMessage{Enqueued: b.now, Expiry: b.now.Add(ttl), Ack: ack, System: map[string]string{messageID: id}})
	})
	return err
}

func (b *bench) lock(token string) (id string) {
	b.do(func(q *queue) {
		if m := q.lock(token, q.now.Add(UsualMessageLock)); m != nil {
			id = fmt.Sprintf("%s %d", m.System[messageID], m.Deliveries)
		}
	})
	return id
}

func (b *bench) settle(token string, how Settlement) (err error) {
	b.do(func(q *queue) { err = q.settle(token, how) })
	return err
}

func (b *bench) deliver(after uint64) (id string, sequence uint64) {
	b.do(func(q *queue) {
		if m := q.deliver(after); m != nil {
			id, sequence = fmt.Sprintf("%s %d", m.System[messageID], m.Deliveries), m.Sequence
		}
	})
	return id, sequence
}

func (b *bench) want(what string, got, want any) {
	b.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (b *bench) lost(what string, err error) {
	b.Helper()
	if e := errs.Public(err); err == nil || e.Code != errs.CodeMessageLockLost || e.Kind != errs.Precondition {
		b.Errorf("%s: %v", what, err)
	}
}

func TestMessagesAreLockedInOrder(t *testing.T) {
	b := &bench{T: t, now: noon}
	for _, id := range []string{"a", "b", "c"} {
		b.add(id, AckFull, time.Hour)
	}
	b.want("first", b.lock("1"), "a 1")
	b.want("second, while the first is locked", b.lock("2"), "b 1")
	b.want("abandoned", b.settle("1", Abandoned), nil)
	b.want("again, in its place", b.lock("3"), "a 2")
	b.lost("a lock of before", b.settle("1", Completed))
	b.lost("no lock at all", b.settle("", Completed))
	b.want("completed", b.settle("2", Completed), nil)
	b.want("rejected", b.settle("3", Rejected), nil)
	b.lost("completed twice", b.settle("2", Completed))
	b.want("last", b.lock("4"), "c 1")
	b.want("no more", b.lock("5"), "")
	b.want("feedback", b.feedback, []string{"b Success", "a Rejected"})
}

func TestLocksExpire(t *testing.T) {
	b := &bench{T: t, now: noon}
	b.add("a", AckFull, time.Hour)
	b.want("first", b.lock("1"), "a 1")
	b.now = noon.Add(time.Minute - 1)
	b.want("while it is locked", b.lock("2"), "")
	b.now = noon.Add(time.Minute)
	b.lost("completed too late", b.settle("1", Completed))
	for i := range 2 * MaxDeliveries { // time that ran out does not count
		b.want("again", b.lock(fmt.Sprint("again", i)), "a 1")
		b.now = b.now.Add(time.Minute)
	}
	b.want("feedback", b.feedback, []string{})
}

func TestMessagesThatAreDeliveredTooOftenEnd(t *testing.T) {
	b := &bench{T: t, now: noon}
	b.add("poison", AckNegative, time.Hour)
	b.add("next", AckNegative, time.Hour)
	for i := range MaxDeliveries {
		b.want("delivery", b.lock("t"), fmt.Sprint("poison ", i+1))
		b.want("abandoned", b.settle("t", Abandoned), nil)
	}
	b.want("then", b.lock("t"), "next 1")
	b.want("feedback", b.feedback, []string{"poison DeliveryCountExceeded"})

	b = &bench{T: t, now: noon}
	b.add("poison", AckFull, time.Hour)
	b.add("next", AckFull, time.Hour)
	for i := range MaxDeliveries { // by connections that break
		got, _ := b.deliver(0)
		b.want("delivery", got, fmt.Sprint("poison ", i+1))
	}
	b.add("last", AckFull, time.Hour)
	b.want("feedback while the last connection has it", b.feedback, []string{})
	got, _ := b.deliver(0)
	b.want("then", got, "next 1")
	b.want("feedback", b.feedback, []string{"poison DeliveryCountExceeded"})
}

func TestAConnectionIsGivenWhatWasLocked(t *testing.T) {
	b := &bench{T: t, now: noon}
	b.add("a", AckFull, time.Hour)
	b.add("b", AckFull, time.Hour)
	b.want("locked", b.lock("1"), "a 1")
	first, sequence := b.deliver(0)
	b.want("delivered", first, "a 2")
	b.lost("the lock is off", b.settle("1", Completed))
	second, next := b.deliver(sequence)
	b.want("delivered", second, "b 1")
	third, _ := b.deliver(next)
	b.want("no more", third, "")
	b.do(func(q *queue) { q.complete(next) })
	b.do(func(q *queue) { q.complete(next) })
	again, _ := b.deliver(0)
	b.want("after a new connection", again, "a 3")
	b.want("feedback", b.feedback, []string{"b Success"})
}

func TestMessagesExpire(t *testing.T) {
	b := &bench{T: t, now: noon}
	b.add("short", AckNegative, time.Minute/2)
	b.add("long", AckNegative, time.Hour)
	b.want("locked", b.lock("1"), "short 1")
	b.now = noon.Add(time.Minute / 2)
	b.lost("completed after it expired", b.settle("1", Completed))
	b.want("then", b.lock("2"), "long 1")
	b.want("feedback", b.feedback, []string{"short Expired"})
}

func TestAQueueHasALimit(t *testing.T) {
	b := &bench{T: t, now: noon}
	for i := range MaxQueued {
		if err := b.add(fmt.Sprint(i), AckNone, time.Duration(i+1)*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if e := errs.Public(b.add("more", AckNone, time.Hour)); e.Code != errs.CodeQueueFull || e.Kind != errs.Forbidden {
		t.Error(e)
	}
	b.now = noon.Add(time.Minute) // makes room
	b.want("one more", b.add("more", AckNone, time.Hour), nil)
	purged := 0
	b.do(func(q *queue) { purged = q.purge() })
	b.want("purged", purged, MaxQueued)
	b.want("left", len(b.messages), 0)
	b.want("feedback", b.feedback, []string{})
}

func TestFeedbackIsWhatTheSenderAskedFor(t *testing.T) {
	for ack, want := range map[Ack]string{
		AckNone: "", AckPositive: "Success", AckNegative: "Rejected Purged Expired", AckFull: "Success Rejected Purged Expired",
	} {
		b := &bench{T: t, now: noon}
		end := func(f func()) {
			b.add("m", ack, time.Hour)
			f()
			b.want("left", len(b.messages), 0)
		}
		end(func() { b.lock("t"); b.settle("t", Completed) })
		end(func() { b.lock("t"); b.settle("t", Rejected) })
		end(func() { b.do(func(q *queue) { q.purge() }) })
		end(func() { b.now = b.now.Add(time.Hour); b.do(func(*queue) {}) })
		b.want(string(ack), strings.ReplaceAll(strings.Join(b.feedback, " "), "m ", ""), want)
	}
}
