package sqlite

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

// hold keeps the writer busy until release is called, so that what is written
// in between becomes one batch.
func hold(t *testing.T, s *Store) (release func()) {
	t.Helper()
	began, end := make(chan struct{}), make(chan struct{})
	go s.write(t.Context(), func(*tx) error { close(began); <-end; return nil })
	<-began
	return func() { close(end) }
}

// queued starts a write and returns when it is in the queue behind n others.
func queued(ctx context.Context, s *Store, n int, do func(*tx) error) (result chan error) {
	result = make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- fmt.Errorf("panic: %.20s", p)
			}
		}()
		result <- s.write(ctx, do)
	}()
	for len(s.queue) <= n {
		runtime.Gosched()
	}
	return result
}

func addScope(id string) func(*tx) error {
	return func(t *tx) error { return t.exec("INSERT INTO scope (id, allocation) VALUES (?, '')", id) }
}

func scopesAre(t *testing.T, s *Store, want ...string) {
	t.Helper()
	scopes, err := s.ListScopes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, scope := range scopes {
		if scope.ID != testScope {
			got = append(got, string(scope.ID))
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("scopes %v, want %v", got, want)
	}
}

func TestAWriteThatFailsHalfwayHarmsNoNeighbour(t *testing.T) {
	s := openTest(t)
	release := hold(t, s)
	var batches [7]int // how often each write began
	refusal := errors.New("no")
	dos := []func(*tx) error{
		addScope("1"),
		func(t *tx) error { // fails in its second statement
			return errors.Join(addScope("2")(t), addScope(string(testScope))(t))
		},
		addScope("3"),
		func(t *tx) error { return errors.Join(addScope("4")(t), refusal) },
		func(t *tx) error { addScope("5")(t); panic("a bug") },
		func(t *tx) error { return refusal },
		addScope("6"),
	}
	var results []chan error
	for i, do := range dos {
		results = append(results, queued(t.Context(), s, i, func(t *tx) error { batches[i]++; return do(t) }))
	}
	release()
	for i, want := range []string{"", "UNIQUE", "", "no", "panic: a bug", "no", ""} {
		err := <-results[i]
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("write %d: %v, want %q", i, err, want)
		}
	}
	scopesAre(t, s, "1", "3", "6")
	if batches[0] != 2 {
		t.Errorf("the first write began %d times; this test means it to be in the batch that failed", batches[0])
	}
}

func TestARefusalKeepsTheBatchTogether(t *testing.T) {
	s := openTest(t)
	release := hold(t, s)
	began := 0
	first := queued(t.Context(), s, 0, func(t *tx) error { began++; return addScope("1")(t) })
	refused := queued(t.Context(), s, 1, func(t *tx) error { return errors.New("no") })
	buggy := queued(t.Context(), s, 2, func(t *tx) error { panic("a bug") })
	release()
	if err := <-first; err != nil || began != 1 {
		t.Errorf("%v; began %d times", err, began)
	}
	if <-refused == nil || <-buggy == nil {
		t.Error("a refusal came back as success")
	}
	scopesAre(t, s, "1")
}

func TestAFailedCommitTellsEverybody(t *testing.T) {
	s := openTest(t)
	forgot := false
	release := hold(t, s)
	first := queued(t.Context(), s, 0, func(t *tx) error {
		t.then(func() { forgot = true })
		return addScope("1")(t)
	})
	// The engine looks at deferred references only when it commits.
	second := queued(t.Context(), s, 1, func(t *tx) error {
		if err := t.conn.exec("PRAGMA defer_foreign_keys = ON"); err != nil {
			return err
		}
		return t.exec("INSERT INTO linked_hub (scope, host, weight, allocation) VALUES ('nowhere', 'hub-1', 1, 1)")
	})
	refused := queued(t.Context(), s, 2, func(*tx) error { return errs.New(errs.Conflict, 0, "no") })
	release()
	for i, c := range []struct {
		result chan error
		want   errs.Kind
	}{{first, errs.Unavailable}, {second, errs.Unavailable}, {refused, errs.Conflict}} {
		if err := <-c.result; errs.KindOf(err) != c.want {
			t.Errorf("write %d: %v", i, err)
		}
	}
	if !forgot {
		t.Error("what the writes had touched was not forgotten")
	}
	scopesAre(t, s)
	if err := s.write(t.Context(), addScope("2")); err != nil {
		t.Error(err)
	}
	scopesAre(t, s, "2")
}

func TestAFullDiskIsUnavailable(t *testing.T) {
	s := openTest(t)
	if err := s.write(t.Context(), func(t *tx) error { return t.conn.exec("PRAGMA max_page_count = 1") }); err != nil {
		t.Fatal(err)
	}
	big := &provision.Registration{Scope: testScope, Key: "pump-7", HubKeyBlob: make([]byte, 1<<20)}
	put := func(*provision.Registration) (*provision.Registration, error) { return big, nil }
	release := hold(t, s)
	small := queued(t.Context(), s, 0, addScope("1"))
	full := queued(t.Context(), s, 1, func(t *tx) error { return t.exec(insertRegistration, record.RegistrationValues(big)...) })
	release()
	if err := <-full; errs.KindOf(err) != errs.Unavailable {
		t.Errorf("writing to a full disk: %v", err)
	}
	if err := <-small; err != nil {
		t.Errorf("its neighbour, who needs no space: %v", err)
	}
	if err := s.write(t.Context(), func(t *tx) error { return t.conn.exec("PRAGMA max_page_count = 1000000") }); err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeRegistration(t.Context(), testScope, "pump-7", put); err != nil {
		t.Errorf("after there was space again: %v", err)
	}
	scopesAre(t, s, "1")
}

func TestAWriteWhoseCallerHasGoneDoesNotBegin(t *testing.T) {
	s := openTest(t)
	release := hold(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	abandoned := queued(ctx, s, 0, addScope("1"))
	cancel()
	if err := <-abandoned; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	stays := queued(t.Context(), s, 1, addScope("2"))
	release()
	if err := <-stays; err != nil {
		t.Error(err)
	}
	scopesAre(t, s, "2")
}

func TestAWriteThatBeganIsNotInterrupted(t *testing.T) {
	s := openTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := s.write(ctx, func(t *tx) error { cancel(); return addScope("1")(t) })
	if err != nil {
		t.Error(err)
	}
	scopesAre(t, s, "1")
}

func TestTheQueueIsBounded(t *testing.T) {
	s := openTest(t)
	release := hold(t, s)
	var results []chan error
	for i := range maxQueue {
		results = append(results, queued(t.Context(), s, i, addScope(fmt.Sprintf("%04d", i))))
	}
	ctx, cancel := context.WithCancel(t.Context())
	outside := make(chan error)
	go func() { outside <- s.write(ctx, addScope("outside")) }()
	cancel()
	if err := <-outside; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a place in the queue: %v", err)
	}
	release()
	for _, r := range results {
		if err := <-r; err != nil {
			t.Fatal(err)
		}
	}
	scopes, err := s.ListScopes(t.Context())
	if err != nil || len(scopes) != maxQueue+1 {
		t.Errorf("%d scopes, %v", len(scopes), err)
	}
}

func TestCloseFinishesWhatWasQueued(t *testing.T) {
	s := openTest(t)
	release := hold(t, s)
	first := queued(t.Context(), s, 0, addScope("1"))
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	<-s.closed
	if err := s.write(t.Context(), addScope("2")); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("writing while the store closes: %v", err)
	}
	release()
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
