package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

var pump7 = hub.Place{Hub: "hub-1", ID: "pump-7"}

// changeQueue makes a change of a queue and returns what it was before.
func changeQueue(t *testing.T, s Store, at hub.Place, change hub.QueueChange) (before []*hub.CloudMessage) {
	t.Helper()
	noError(t, s.ChangeQueue(t.Context(), at, func(_ string, queue []*hub.CloudMessage) (hub.QueueChange, error) {
		before = queue
		return change, nil
	}))
	return before
}

// queued returns a queue as decisions see it.
func queued(t *testing.T, s Store, at hub.Place) []*hub.CloudMessage {
	t.Helper()
	return changeQueue(t, s, at, hub.QueueChange{})
}

func putDevice(t *testing.T, s Store, at hub.Place) *hub.Identity {
	t.Helper()
	d, twin := home(at.Hub, at.ID)
	noError(t, putHome(t.Context(), s, d, twin))
	return d
}

// toDevice is a message to a device, without what the store does not keep of one
// that is added.
func toDevice(id string) *hub.CloudMessage {
	return &hub.CloudMessage{Enqueued: epoch, Expiry: epoch.Add(time.Hour), System: map[string]string{"message-id": id}, Body: []byte(id)}
}

func messageIDs(queue []*hub.CloudMessage) string {
	var ids []string
	for _, m := range queue {
		ids = append(ids, m.System["message-id"])
	}
	return fmt.Sprint(ids)
}

func feedback(host, id string, ended time.Time) hub.Feedback {
	f := filled[hub.Feedback]()
	f.Hub, f.MessageID, f.Ended = host, id, ended
	return f
}

func lockFeedback(t *testing.T, s Store, host, token string, now, until time.Time, limit int) string {
	t.Helper()
	locked, err := s.LockFeedback(t.Context(), host, token, now, until, limit)
	noError(t, err)
	var ids []string
	for _, f := range locked {
		ids = append(ids, f.MessageID)
	}
	return fmt.Sprint(ids)
}

func settleFeedback(t *testing.T, s Store, host, token string, now time.Time, remove bool) int {
	t.Helper()
	n, err := s.SettleFeedback(t.Context(), host, token, now, remove)
	noError(t, err)
	return n
}

var queueRules = []rule{
	{"a message to a device is what was added, in every member", func(t *testing.T, s Store) {
		putDevice(t, s, pump7)
		full := filled[*hub.CloudMessage]()
		bare := &hub.CloudMessage{Enqueued: epoch, Expiry: epoch}
		empty := &hub.CloudMessage{Enqueued: epoch, Expiry: epoch, System: map[string]string{}, Properties: map[string]string{}, Body: []byte{}}
		changeQueue(t, s, pump7, hub.QueueChange{Add: []*hub.CloudMessage{full, bare, empty}})
		queue := queued(t, s, pump7)
		same(t, len(queue), 3)
		for i, want := range []*hub.CloudMessage{full, bare, empty} {
			sequence := queue[i].Sequence
			if i > 0 && sequence <= queue[i-1].Sequence {
				t.Errorf("sequence number %d behind %d", sequence, queue[i-1].Sequence)
			}
			whole := *want
			whole.Sequence = sequence
			got, err := s.Queued(t.Context(), pump7, sequence)
			noError(t, err)
			same(t, got, &whole)
			whole.Body = nil
			same(t, queue[i], &whole)
		}
		_, err := s.Queued(t.Context(), hub.Place{Hub: "hub-1", ID: "Pump-7"}, queue[0].Sequence)
		isKind(t, err, errs.NotFound)
		_, err = s.Queued(t.Context(), pump7, queue[2].Sequence+1)
		isKind(t, err, errs.NotFound)
	}},
	{"a decision about a queue knows whose it is", func(t *testing.T, s Store) {
		d := putDevice(t, s, pump7)
		for at, want := range map[hub.Place]string{pump7: d.GenerationID, {Hub: "hub-1", ID: "Pump-7"}: "", {Hub: "hub-2", ID: "pump-7"}: ""} {
			noError(t, s.ChangeQueue(t.Context(), at, func(generation string, queue []*hub.CloudMessage) (hub.QueueChange, error) {
				same(t, generation, want)
				same(t, len(queue), 0)
				return hub.QueueChange{}, nil
			}))
		}
	}},
	{"messages are locked and removed, each of its own queue", func(t *testing.T, s Store) {
		pump8 := hub.Place{Hub: "hub-1", ID: "pump-8"}
		putDevice(t, s, pump7)
		putDevice(t, s, pump8)
		changeQueue(t, s, pump7, hub.QueueChange{Add: []*hub.CloudMessage{toDevice("a"), toDevice("b"), toDevice("c")}})
		queue := queued(t, s, pump7)
		locked := *queue[1]
		locked.LockToken, locked.LockedUntil, locked.Deliveries = "token", epoch.Add(time.Minute), 3
		changeQueue(t, s, pump7, hub.QueueChange{Update: []*hub.CloudMessage{&locked}, Remove: []uint64{queue[0].Sequence}})
		left := queued(t, s, pump7)
		same(t, left, []*hub.CloudMessage{&locked, queue[2]})
		changeQueue(t, s, pump8, hub.QueueChange{Remove: []uint64{queue[1].Sequence}, Update: []*hub.CloudMessage{queue[2]}})
		same(t, queued(t, s, pump7), left)
		unlocked := *queue[1]
		changeQueue(t, s, pump7, hub.QueueChange{Update: []*hub.CloudMessage{&unlocked}})
		same(t, queued(t, s, pump7), queue[1:])
	}},
	{"sequence numbers of a queue are not used again", func(t *testing.T, s Store) {
		putDevice(t, s, pump7)
		changeQueue(t, s, pump7, hub.QueueChange{Add: []*hub.CloudMessage{toDevice("a")}})
		before := queued(t, s, pump7)[0].Sequence
		changeQueue(t, s, pump7, hub.QueueChange{Remove: []uint64{before}})
		changeQueue(t, s, pump7, hub.QueueChange{Add: []*hub.CloudMessage{toDevice("b")}})
		if now := queued(t, s, pump7)[0].Sequence; now <= before {
			t.Errorf("%d is not above %d", now, before)
		}
	}},
	{"a queue does not outlive its device", func(t *testing.T, s Store) {
		d := putDevice(t, s, pump7)
		changeQueue(t, s, pump7, hub.QueueChange{Add: []*hub.CloudMessage{toDevice("a")}})
		noError(t, putHome(t.Context(), s, d, &hub.Twin{})) // written over, it stays
		same(t, messageIDs(queued(t, s, pump7)), "[a]")
		noError(t, s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
		same(t, messageIDs(queued(t, s, pump7)), "[]")
		putDevice(t, s, pump7)
		same(t, messageIDs(queued(t, s, pump7)), "[]")
		changeQueue(t, s, pump7, hub.QueueChange{Add: []*hub.CloudMessage{toDevice("b")}})
		noError(t, s.Move(t.Context(), pump7, hub.Place{Hub: "hub-2", ID: "pump-7"},
			func(_ *hub.Identity, _ *hub.Twin, left *hub.Identity, twin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				left.Hub = "hub-2"
				return left, twin, nil
			}))
		same(t, messageIDs(queued(t, s, pump7)), "[]")
		same(t, messageIDs(queued(t, s, hub.Place{Hub: "hub-2", ID: "pump-7"})), "[]")
		if err := s.ChangeQueue(t.Context(), pump7, func(string, []*hub.CloudMessage) (hub.QueueChange, error) {
			return hub.QueueChange{Add: []*hub.CloudMessage{toDevice("c")}}, nil
		}); err == nil {
			t.Error("a device that is not there was sent a message")
		}
	}},
	{"a queue's change that decides for an error writes nothing", func(t *testing.T, s Store) {
		putDevice(t, s, pump7)
		refusal := errors.New("no")
		err := s.ChangeQueue(t.Context(), pump7, func(string, []*hub.CloudMessage) (hub.QueueChange, error) {
			return hub.QueueChange{Add: []*hub.CloudMessage{toDevice("a")}, Feedback: []hub.Feedback{feedback("hub-1", "a", epoch)}}, refusal
		})
		if err != refusal {
			t.Errorf("decide's error came back as %v", err)
		}
		same(t, messageIDs(queued(t, s, pump7)), "[]")
		same(t, lockFeedback(t, s, "hub-1", "t", epoch, epoch.Add(time.Minute), 9), "[]")
	}},
	{"of many racing for the last place in a queue one gets it", func(t *testing.T, s Store) {
		putDevice(t, s, pump7)
		full := errors.New("full")
		race(16, func(i int) error {
			err := s.ChangeQueue(t.Context(), pump7, func(_ string, queue []*hub.CloudMessage) (hub.QueueChange, error) {
				if len(queue) == 4 {
					return hub.QueueChange{}, full
				}
				return hub.QueueChange{Add: []*hub.CloudMessage{toDevice(fmt.Sprint(i))}}, nil
			})
			if err != nil && err != full {
				t.Error(err)
			}
			return err
		})
		same(t, len(queued(t, s, pump7)), 4)
	}},
	{"messages are counted by device, and expire", func(t *testing.T, s Store) {
		for _, id := range []device.ID{"A", "a", "b", "c"} {
			putDevice(t, s, hub.Place{Hub: "hub-1", ID: id})
			changeQueue(t, s, hub.Place{Hub: "hub-1", ID: id}, hub.QueueChange{Add: []*hub.CloudMessage{toDevice("x"), toDevice("y")}})
		}
		late := toDevice("late")
		late.Expiry = epoch.Add(2 * time.Hour)
		at := hub.Place{Hub: "hub-1", ID: "b"}
		changeQueue(t, s, at, hub.QueueChange{Add: []*hub.CloudMessage{late}})
		count := func(first, last device.ID, now time.Time) map[device.ID]int {
			t.Helper()
			counted, err := s.CountQueued(t.Context(), "hub-1", first, last, now)
			noError(t, err)
			return counted
		}
		same(t, count("a", "b", epoch), map[device.ID]int{"a": 2, "b": 3})
		same(t, count("A", "A", epoch), map[device.ID]int{"A": 2})
		same(t, count("A", "z", epoch.Add(time.Hour)), map[device.ID]int{"b": 1})
		same(t, count("d", "z", epoch), map[device.ID]int{})

		expired := func(now time.Time, limit int) int {
			t.Helper()
			found, err := s.ExpiredQueues(t.Context(), now, limit)
			noError(t, err)
			return len(found)
		}
		same(t, expired(epoch.Add(time.Hour-1), 9), 0)
		same(t, expired(epoch.Add(time.Hour), 9), 4)
		same(t, expired(epoch.Add(time.Hour), 2), 2)
		found, err := s.ExpiredQueues(t.Context(), epoch.Add(3*time.Hour), 9)
		noError(t, err)
		for _, m := range queued(t, s, at) {
			changeQueue(t, s, at, hub.QueueChange{Remove: []uint64{m.Sequence}})
		}
		same(t, len(found), 4)
		same(t, expired(epoch.Add(3*time.Hour), 9), 3)
	}},
	{"feedback is taken in order, by one at a time, and is there again when it was not settled", func(t *testing.T, s Store) {
		putDevice(t, s, pump7)
		f := feedback("hub-1", "a", epoch)
		changeQueue(t, s, pump7, hub.QueueChange{Feedback: []hub.Feedback{f, feedback("hub-1", "b", epoch), feedback("hub-2", "x", epoch)}})
		changeQueue(t, s, pump7, hub.QueueChange{Feedback: []hub.Feedback{feedback("hub-1", "c", epoch.Add(time.Hour))}})
		now, until := epoch, epoch.Add(time.Minute)
		got, err := s.LockFeedback(t.Context(), "hub-1", "t1", now, until, 1)
		noError(t, err)
		same(t, got, []*hub.Feedback{&f})
		same(t, lockFeedback(t, s, "hub-1", "t2", now, until, 9), "[b c]")
		same(t, lockFeedback(t, s, "hub-1", "t3", now, until, 9), "[]")

		same(t, settleFeedback(t, s, "hub-1", "t2", now, false), 2)
		same(t, settleFeedback(t, s, "hub-1", "t2", now, false), 0)
		same(t, lockFeedback(t, s, "hub-1", "t4", now, until, 1), "[b]")
		same(t, settleFeedback(t, s, "hub-2", "t4", now, true), 0)
		same(t, settleFeedback(t, s, "hub-1", "t4", now, true), 1)
		same(t, settleFeedback(t, s, "hub-1", "t1", until, true), 0) // its lock has expired
		same(t, lockFeedback(t, s, "hub-1", "t5", until, until.Add(time.Minute), 9), "[a c]")
		same(t, settleFeedback(t, s, "hub-1", "t1", until, true), 0) // and is another's

		noError(t, s.TrimFeedback(t.Context(), epoch.Add(time.Hour)))
		same(t, settleFeedback(t, s, "hub-1", "t5", until, false), 1)
		same(t, lockFeedback(t, s, "hub-1", "t6", until, until.Add(time.Minute), 9), "[c]")
		same(t, lockFeedback(t, s, "hub-2", "t7", until, until.Add(time.Minute), 9), "[]")
	}},
	{"feedback outlives its device, and is not given to two", func(t *testing.T, s Store) {
		putDevice(t, s, pump7)
		for i := range 8 {
			changeQueue(t, s, pump7, hub.QueueChange{Feedback: []hub.Feedback{feedback("hub-1", fmt.Sprint(i), epoch)}})
		}
		noError(t, s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
		taken := make(chan string, 64)
		race(8, func(i int) error {
			locked, err := s.LockFeedback(t.Context(), "hub-1", fmt.Sprint("t", i), epoch, epoch.Add(time.Minute), 2)
			for _, f := range locked {
				taken <- f.MessageID
			}
			if err != nil {
				t.Error(err)
			}
			return err
		})
		close(taken)
		seen := map[string]bool{}
		for id := range taken {
			if seen[id] {
				t.Errorf("feedback %s was given to two", id)
			}
			seen[id] = true
		}
	}},
	{"what a client subscribed to is kept until it says otherwise", subscriptionsAreKept},
}

// subscriptionsAreKept holds a store to what it keeps of clients that wanted their
// sessions kept: it goes with the identity.
func subscriptionsAreKept(t *testing.T, s Store) {
	at, other := pump7, hub.Place{Hub: pump7.Hub, ID: "pump-8"}
	zero, one := byte(0), byte(1)
	is := func(at hub.Place, want *byte) {
		t.Helper()
		got, err := s.Subscription(t.Context(), at)
		noError(t, err)
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s has %v, want %v", at, got, want)
		}
	}
	noError(t, s.KeepSubscription(t.Context(), at, &one)) // of a device that is not there
	d, twin := home(at.Hub, at.ID)
	noError(t, putHome(t.Context(), s, d, twin))
	putDevice(t, s, other)
	is(at, nil)
	noError(t, s.KeepSubscription(t.Context(), at, &one))
	is(at, &one)
	noError(t, s.KeepSubscription(t.Context(), at, &zero))
	is(at, &zero)
	is(other, nil)
	d.Disabled, d.ETag = true, "another"
	noError(t, putHome(t.Context(), s, d, twin))
	is(at, &zero)
	noError(t, s.KeepSubscription(t.Context(), at, nil))
	noError(t, s.KeepSubscription(t.Context(), at, nil))
	is(at, nil)
	noError(t, s.KeepSubscription(t.Context(), at, &one))
	noError(t, s.Change(t.Context(), at, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
	noError(t, putHome(t.Context(), s, d, twin))
	is(at, nil)
}
