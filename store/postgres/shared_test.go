package postgres

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/storetest"
)

// soon is long enough for whatever takes at most maxStale on an idle machine.
const soon = 10 * maxStale

// openTwo opens one database twice, as two servers do.
func openTwo(t *testing.T) (a, b *Store) {
	t.Helper()
	dsn, key := testDSN(t), serverKey(t)
	a, b = openAt(t, dsn, key), openAt(t, dsn, key)
	if err := a.PutScope(t.Context(), provision.Scope{ID: testScope}); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// within returns when holds does, and how long that took.
func within(t *testing.T, limit time.Duration, holds func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(begin) > limit {
			t.Fatalf("not after %v", limit)
		}
		<-tick.C
	}
	return time.Since(begin)
}

func putGroup(t *testing.T, s *Store, etag string) {
	t.Helper()
	e := &enroll.Entry{Scope: testScope, Kind: enroll.Group, ID: "line-1", ETag: etag,
		Attestation: attest.Mechanism{Type: attest.TypeTPM, TPM: &attest.TPM{}}}
	err := s.ChangeEntry(t.Context(), testScope, enroll.Group, "line-1", func(*enroll.Entry) (*enroll.Entry, error) { return e, nil })
	if err != nil {
		t.Fatal(err)
	}
}

func groupETag(t *testing.T, s *Store) string {
	t.Helper()
	groups, err := s.Groups(t.Context(), testScope, attest.TypeTPM)
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) == 0 {
		return ""
	}
	return groups[0].ETag
}

func TestAServerHearsWhatAnotherChanged(t *testing.T) {
	a, b := openTwo(t)
	if groupETag(t, b) != "" {
		t.Fatal("there is a group")
	}
	for i := range 5 {
		etag := fmt.Sprint(i)
		putGroup(t, a, etag)
		took := within(t, soon, func() bool { return groupETag(t, b) == etag })
		t.Logf("a group after %v", took)
	}
	ca := &enroll.CACertificate{Scope: testScope, Name: "plant", Certificate: []byte("DER"), Verified: true}
	for _, next := range []*enroll.CACertificate{ca, nil} {
		if all, err := b.CACertificates(t.Context(), testScope); err != nil || (len(all) == 0) != (next != nil) {
			t.Fatalf("%v and %v", all, err)
		}
		err := a.ChangeCACertificate(t.Context(), testScope, "plant", func(*enroll.CACertificate) (*enroll.CACertificate, error) { return next, nil })
		if err != nil {
			t.Fatal(err)
		}
		took := within(t, soon, func() bool {
			all, err := b.CACertificates(t.Context(), testScope)
			return err == nil && (len(all) == 1) == (next != nil)
		})
		t.Logf("a CA certificate after %v", took)
	}
	for version, change := range []ekcert.TrustChange{{}, {Add: []ekcert.TrustAnchor{{Thumbprint: "AA", Certificate: []byte("DER")}}}, {Remove: []string{"AA"}}} {
		err := a.ChangeTrust(t.Context(), testScope, func(ekcert.Trust) (ekcert.TrustChange, error) { return change, nil })
		if err != nil {
			t.Fatal(err)
		}
		took := within(t, soon, func() bool {
			now, err := b.TrustAnchors(t.Context(), testScope)
			return err == nil && now.Version == int64(version) && len(now.Anchors) == len(change.Add)
		})
		t.Logf("a trust anchor after %v", took)
	}
	link := provision.LinkedHub{Host: "hub-1", Weight: 1}
	if err := a.PutLinkedHub(t.Context(), testScope, link); err != nil {
		t.Fatal(err)
	}
	within(t, soon, func() bool {
		hubs, err := b.Linked(t.Context(), testScope)
		return err == nil && len(hubs) == 1
	})
	if err := b.DeleteLinkedHub(t.Context(), testScope, "HUB-1"); err != nil {
		t.Fatal(err)
	}
	within(t, soon, func() bool {
		hubs, err := a.Linked(t.Context(), testScope)
		return err == nil && len(hubs) == 0
	})
	if err := b.PutScope(t.Context(), provision.Scope{ID: testScope, Allocation: enroll.Static}); err != nil {
		t.Fatal(err)
	}
	within(t, soon, func() bool {
		scope, err := a.Scope(t.Context(), testScope)
		return err == nil && scope.Allocation == enroll.Static
	})
}

// behind runs a statement that the store knows nothing of.
func behind(t *testing.T, s *Store, sql string, args ...any) {
	t.Helper()
	c, err := s.pool.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.pool.release(c)
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// settled puts a group with the etag "old" that is then in s's memory, and
// returns when s has heard of that.
func settled(t *testing.T, s *Store) {
	t.Helper()
	putGroup(t, s, "old")
	within(t, soon, func() bool {
		n, err := list(t.Context(), s, func(r *record.Row) (int64, error) { return r.Number(), nil }, "SELECT value FROM counter WHERE name = 'change'")
		return err == nil && n[0] == s.changes.Load()
	})
	if groupETag(t, s) != "old" {
		t.Fatal("not put")
	}
}

func TestALostNotificationIsNoticedInTime(t *testing.T) {
	s := openTest(t)
	settled(t, s)
	behind(t, s, "UPDATE enrollment SET etag = 'new'") // which says nothing to anybody
	if groupETag(t, s) != "old" {
		t.Fatal("nothing is kept in memory")
	}
	behind(t, s, "UPDATE counter SET value = value + 1 WHERE name = 'change'")
	took := within(t, soon, func() bool { return groupETag(t, s) == "new" })
	t.Logf("after %v", took)

	waiting := make(chan error)
	go func() { waiting <- s.Wait(t.Context(), 0) }()
	behind(t, s, "UPDATE counter SET value = 1 WHERE name = 'message'")
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}

// A server that cannot ask whether it missed something trusts its memory for
// maxStale and no longer.
func TestMemoryThatCannotBeConfirmedIsNotUsed(t *testing.T) {
	s := openTest(t)
	settled(t, s)
	s.stop() // the listener; nothing is heard or asked from now on
	behind(t, s, "UPDATE enrollment SET etag = 'new'")
	took := within(t, soon, func() bool { return groupETag(t, s) == "new" })
	t.Logf("after %v", took)
	behind(t, s, "UPDATE enrollment SET etag = 'newest'")
	if got := groupETag(t, s); got != "newest" {
		t.Errorf("%q is kept in memory that nobody confirms", got)
	}
}

func TestTheListenerComesBack(t *testing.T) {
	a, b := openTwo(t)
	putGroup(t, a, "first")
	within(t, soon, func() bool { return groupETag(t, b) == "first" })
	behind(t, a, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query LIKE '%FROM counter%' AND pid <> pg_backend_pid()")
	putGroup(t, a, "second")
	within(t, soon, func() bool { return groupETag(t, b) == "second" })
	if err := a.Append(t.Context(), []*hub.Message{{Hub: "hub-1", DeviceID: "d"}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(t.Context(), 0); err != nil {
		t.Error(err)
	}
}

func TestOneOfManyServersCreates(t *testing.T) {
	a, b := openTwo(t)
	exists := errs.New(errs.Conflict, errs.CodeEnrollmentConflict, "exists")
	for round := range 5 {
		id := fmt.Sprint("pump-", round)
		var mu sync.Mutex
		var won []string
		var racing sync.WaitGroup
		for i, s := range []*Store{a, b, a, b, a, b, a, b} {
			racing.Go(func() {
				e := &enroll.Entry{Scope: testScope, Kind: enroll.Individual, ID: id, ETag: fmt.Sprint(i),
					Attestation: attest.Mechanism{Type: attest.TypeTPM, TPM: &attest.TPM{}}}
				err := s.ChangeEntry(t.Context(), testScope, enroll.Individual, e.Key(), func(old *enroll.Entry) (*enroll.Entry, error) {
					if old != nil {
						return nil, exists
					}
					return e, nil
				})
				if err != nil && err != error(exists) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					won = append(won, e.ETag)
				}
			})
		}
		racing.Wait()
		if len(won) != 1 {
			t.Fatalf("%d creations succeeded", len(won))
		}
		got, err := b.Entry(t.Context(), testScope, enroll.Individual, device.RegistrationID(id))
		if err != nil || got.ETag != won[0] {
			t.Errorf("%v won, %v is there: %v", won, got, err)
		}
	}
}

// A reader who goes on behind the last number that was read misses nothing,
// however many servers append.
func TestNoMessageAppearsBehindOneThatWasRead(t *testing.T) {
	const appenders, each = 4, 50
	a, b := openTwo(t)
	var appending sync.WaitGroup
	for i := range appenders {
		s := []*Store{a, b}[i%2]
		appending.Go(func() {
			for range each {
				if err := s.Append(t.Context(), []*hub.Message{{Hub: "hub-1", DeviceID: "d"}, {Hub: "hub-1", DeviceID: "d"}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for last := uint64(0); last < appenders*each*2; {
		if err := b.Wait(ctx, last); err != nil {
			t.Fatal(err)
		}
		ms, err := b.Read(ctx, "", last, 7)
		if err != nil || len(ms) == 0 {
			t.Fatalf("woken with nothing to read: %v", err)
		}
		for _, m := range ms {
			if m.Sequence != last+1 {
				t.Fatalf("message %d follows %d", m.Sequence, last)
			}
			last = m.Sequence
		}
	}
	appending.Wait()
}

func TestSeveralServersTrimAtOnce(t *testing.T) {
	a, b := openTwo(t)
	const messages = 2*trimBatch + 500
	var ms []*hub.Message
	for range messages {
		ms = append(ms, &hub.Message{Hub: "hub-1", DeviceID: "d", Enqueued: time.Unix(1, 0)})
	}
	if err := a.Append(t.Context(), ms); err != nil {
		t.Fatal(err)
	}
	removed := make(chan int, 2)
	for _, s := range []*Store{a, b} {
		go func() {
			n, err := s.Trim(t.Context(), hub.Retention{Before: time.Unix(2, 0)})
			if err != nil {
				t.Error(err)
			}
			removed <- n
		}()
	}
	total := <-removed + <-removed
	rest, err := a.Trim(t.Context(), hub.Retention{Before: time.Unix(2, 0)})
	if err != nil || total+rest != messages {
		t.Errorf("%d messages were removed, and then %d: %v", total, rest, err)
	}
}

// The size that trimming goes by is that of what is there, whoever appends and
// removes.
func TestTheStreamKnowsItsSize(t *testing.T) {
	a, b := openTwo(t)
	check := func(atMost int64) {
		t.Helper()
		var counted, there int64
		err := a.query(t.Context(), func(r *record.Row) error { counted, there = r.Number(), r.Number(); return nil },
			"SELECT bytes, (SELECT coalesce(sum("+messageBytes+"), 0)::bigint FROM message) FROM counter WHERE name = 'message'")
		if err != nil || counted != there || counted > atMost {
			t.Errorf("%d bytes were counted, %d are there, and %d are the most, %v", counted, there, atMost, err)
		}
	}
	var appending sync.WaitGroup
	for i, s := range []*Store{a, b} {
		for range 4 {
			appending.Go(func() {
				for n := range 100 {
					m := &hub.Message{Hub: "hub-1", DeviceID: "d", Enqueued: time.Unix(int64(n), 0), Body: make([]byte, n*i)}
					if n%2 == 0 {
						m.System, m.Properties = map[string]string{"message-id": "ä"}, map[string]string{}
					}
					if err := s.Append(t.Context(), []*hub.Message{m, {Hub: "hub-2", DeviceID: "e", Enqueued: time.Unix(1, 0)}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	appending.Wait()
	check(1 << 20)
	for _, keep := range []hub.Retention{{Before: time.Unix(50, 0)}, {Bytes: 40000}, {Before: time.Unix(90, 0), Bytes: 20000}, {Bytes: 1}} {
		removed := make(chan int, 2)
		for _, s := range []*Store{a, b} {
			go func() {
				n, err := s.Trim(t.Context(), keep)
				if err != nil {
					t.Error(err)
				}
				removed <- n
			}()
		}
		if <-removed+<-removed == 0 {
			t.Errorf("%+v removed nothing", keep)
		}
		if keep.Bytes == 0 {
			keep.Bytes = 1 << 20
		}
		check(keep.Bytes)
	}
}

// Two servers that register the same devices come one after the other.
func TestServersWriteTogetherInTurn(t *testing.T) {
	a, b := openTwo(t)
	storetest.TogetherInTurn(t, a, b)
}

func TestServersDoNotGiveAKeyTwice(t *testing.T) {
	a, b := openTwo(t)
	storetest.OneGetsTheKey(t, a, b)
}

func TestServersHearOfQueuedMessages(t *testing.T) {
	a, b := openTwo(t)
	at := hub.Place{Hub: "hub-1", ID: "pump-7"}
	err := a.Change(t.Context(), at, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		return &hub.Identity{Place: hub.Place{Hub: at.Hub, ID: at.ID}}, nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan hub.Place, 16)
	b.OnQueued(func(at hub.Place) { told <- at })
	err = a.ChangeQueue(t.Context(), at, func(string, []*hub.CloudMessage) (hub.QueueChange, error) {
		return hub.QueueChange{Add: []*hub.CloudMessage{{}}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.NewTimer(soon)
	defer deadline.Stop()
	for {
		select {
		case got := <-told:
			if got == at {
				return
			}
		case <-deadline.C:
			t.Fatal("the other server was not told")
		}
	}
}
