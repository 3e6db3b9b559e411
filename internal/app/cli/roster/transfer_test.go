package roster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// A registry is a service that keeps enrollments in memory, by the documented rules
// for entity tags.
type registry struct {
	mu      sync.Mutex
	stored  map[string]Enrollment
	version int
	calls   int
	before  func(call int, mode dpsjson.BulkMode, e *Enrollment) error // what goes wrong with an item; may be nil
	failure func(call int) error                                       // what goes wrong with a call; may be nil
}

func newRegistry() *registry { return &registry{stored: map[string]Enrollment{}} }

func (s *registry) Bulk(ctx context.Context, mode dpsjson.BulkMode, items []Enrollment) ([]error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; s.failure != nil {
		if err := s.failure(s.calls); err != nil {
			return nil, err
		}
	}
	refusals := make([]error, len(items))
	for i, e := range items {
		refusals[i] = s.put(mode, e)
	}
	return refusals, ctx.Err()
}

func (s *registry) put(mode dpsjson.BulkMode, e Enrollment) error {
	if s.before != nil {
		if err := s.before(s.calls, mode, &e); err != nil {
			return err
		}
	}
	id := strings.ToLower(e.RegistrationID)
	old, exists := s.stored[id]
	switch {
	case mode == dpsjson.BulkCreate && exists:
		return refusal(errs.CodeEnrollmentConflict)
	case mode != dpsjson.BulkCreate && !exists:
		return refusal(errs.CodeEnrollmentNotFound)
	case mode != dpsjson.BulkCreate && e.ETag != old.ETag:
		return refusal(errs.CodePrecondition)
	}
	s.version++
	e.ETag = fmt.Sprint("v", s.version)
	s.stored[id] = e
	return nil
}

func (s *registry) Read(_ context.Context, id string) (Enrollment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.stored[strings.ToLower(id)]
	if !ok {
		return e, refusal(errs.CodeEnrollmentNotFound)
	}
	e.Attestation = &dpsjson.AttestationMechanism{Type: e.Attestation.Type} // keys are hidden
	return e, nil
}

func (s *registry) Attestation(_ context.Context, id string) (*dpsjson.AttestationMechanism, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored[strings.ToLower(id)].Attestation, nil
}

func refusal(code errs.Code) error { return &client.Error{Status: code.Status(), Code: code} }

// rosterOf returns n entries with keys of their own.
func rosterOf(t *testing.T, n int) (entries []Entry) {
	t.Helper()
	for i := range n {
		key, err := device.GenerateSymmetricKey(rand.Reader, 32)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, Entry{Line: i + 2, Enrollment: Enrollment{
			RegistrationID: fmt.Sprint("unit-", i),
			Attestation: &dpsjson.AttestationMechanism{Type: dpsjson.AttestationSymmetricKey,
				SymmetricKey: &dpsjson.SymmetricKeys{PrimaryKey: dpsjson.Key{SymmetricKey: key}}},
		}})
	}
	return entries
}

func counts(r Report) string {
	return fmt.Sprintf("%d created, %d updated, %d unchanged, %d resumed, %d conflicts, %d refused",
		r.Created, r.Updated, r.Unchanged, r.Resumed, len(r.Conflicts), len(r.Refused))
}

func wantCounts(t *testing.T, r Report, want string) {
	t.Helper()
	if got := counts(r); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestATransferCanBeRepeated(t *testing.T) {
	entries, to := rosterOf(t, 95), newRegistry()
	dry, err := Transfer{To: to, DryRun: true, Parallel: 4}.Run(t.Context(), entries)
	if err != nil || to.calls != 0 {
		t.Fatalf("%v, %d calls", err, to.calls)
	}
	wantCounts(t, dry, "95 created, 0 updated, 0 unchanged, 0 resumed, 0 conflicts, 0 refused")
	first, err := Transfer{To: to, Parallel: 4}.Run(t.Context(), entries)
	if err != nil || to.calls != 10 || len(to.stored) != 95 {
		t.Fatalf("%v, %d calls, %d stored", err, to.calls, len(to.stored))
	}
	wantCounts(t, first, "95 created, 0 updated, 0 unchanged, 0 resumed, 0 conflicts, 0 refused")
	second, err := Transfer{To: to, Parallel: 4}.Run(t.Context(), entries)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, second, "0 created, 0 updated, 95 unchanged, 0 resumed, 0 conflicts, 0 refused")
}

func TestWhatIsThereAndDifferentIsNotTouchedUnasked(t *testing.T) {
	entries, to := rosterOf(t, 30), newRegistry()
	for _, other := range rosterOf(t, 2) { // with other keys
		if err := to.put(dpsjson.BulkCreate, other.Enrollment); err != nil {
			t.Fatal(err)
		}
	}
	report, err := Transfer{To: to, Parallel: 3}.Run(t.Context(), entries)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, report, "28 created, 0 updated, 0 unchanged, 0 resumed, 2 conflicts, 0 refused")
	if got := report.Conflicts[1].String(); got != "line 3: unit-1: is there already and differs in attestation" {
		t.Error(got)
	}
	report, err = Transfer{To: to, Update: true, Parallel: 3}.Run(t.Context(), entries)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, report, "0 created, 2 updated, 28 unchanged, 0 resumed, 0 conflicts, 0 refused")
	if !to.stored["unit-1"].Attestation.SymmetricKey.PrimaryKey.Equal(entries[1].Attestation.SymmetricKey.PrimaryKey.SymmetricKey) {
		t.Error("it has another key")
	}
}

// An interrupt, or a service that fails, ends a transfer; the next one sends only
// what is not known to be there.
func TestATransferGoesOnWhereItWas(t *testing.T) {
	for name, stop := range map[string]func(s *registry, cancel func()){
		"interrupted": func(s *registry, cancel func()) {
			s.failure = func(call int) error {
				if call == 4 {
					cancel() // the call itself is answered
				}
				return nil
			}
		},
		"failed": func(s *registry, _ func()) {
			s.failure = func(call int) error {
				if call == 5 {
					return errors.New("gone")
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			entries, to, file := rosterOf(t, 100), newRegistry(), filepath.Join(t.TempDir(), "journal")
			ctx, cancel := context.WithCancel(t.Context())
			stop(to, cancel)
			journal := openJournal(t, file, "one service")
			report, err := Transfer{To: to, Parallel: 1, Journal: journal}.Run(ctx, entries)
			if err == nil {
				t.Error("it ended as if all were done")
			}
			wantCounts(t, report, "40 created, 0 updated, 0 unchanged, 0 resumed, 0 conflicts, 0 refused")
			if len(to.stored) != 40 {
				t.Errorf("%d are stored", len(to.stored))
			}
			if err := journal.Close(); err != nil {
				t.Error(err)
			}

			to.failure, to.calls = nil, 0
			entries[0].DeviceID = "changed-since"
			journal = openJournal(t, file, "one service")
			report, err = Transfer{To: to, Parallel: 2, Journal: journal}.Run(t.Context(), entries)
			if err != nil || to.calls != 7 {
				t.Errorf("%v after %d calls", err, to.calls)
			}
			wantCounts(t, report, "60 created, 0 updated, 0 unchanged, 39 resumed, 1 conflicts, 0 refused")
			if err := journal.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

func openJournal(t *testing.T, file, target string) *Journal {
	t.Helper()
	j, err := OpenJournal(file, target, enroll.Individual)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestABusyServiceIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := newRegistry()
		to.before = func(call int, _ dpsjson.BulkMode, e *Enrollment) error {
			switch {
			case e.RegistrationID == "unit-3":
				return refusal(500000) // for good
			case call < 3 && strings.HasSuffix(e.RegistrationID, "5"):
				return refusal(429001)
			}
			return nil
		}
		report, err := Transfer{To: to, Parallel: 1}.Run(t.Context(), rosterOf(t, 10))
		if err != nil || to.calls != rounds {
			t.Errorf("%v after %d calls", err, to.calls)
		}
		wantCounts(t, report, "9 created, 0 updated, 0 unchanged, 0 resumed, 0 conflicts, 1 refused")
	})
}

// Somebody else changes an enrollment between the look at it and the update.
func TestAnUpdateThatComesTooLateIsRefused(t *testing.T) {
	to, entries := newRegistry(), rosterOf(t, 1)
	if err := to.put(dpsjson.BulkCreate, rosterOf(t, 1)[0].Enrollment); err != nil {
		t.Fatal(err)
	}
	to.before = func(_ int, mode dpsjson.BulkMode, _ *Enrollment) error {
		if mode == dpsjson.BulkUpdateIfMatchETag {
			theirs := to.stored["unit-0"]
			theirs.ETag = "theirs"
			to.stored["unit-0"] = theirs
		}
		return nil
	}
	report, err := Transfer{To: to, Update: true, Parallel: 1}.Run(t.Context(), entries)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, report, "0 created, 0 updated, 0 unchanged, 0 resumed, 0 conflicts, 1 refused")
}

func TestJournalsAreNotMixedUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "journal")
	e := rosterOf(t, 1)[0].Enrollment
	j := openJournal(t, file, "one service")
	if err := errors.Join(j.Add(e), j.Close()); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]bool{"one service": true, "another": false} {
		j := openJournal(t, file, target)
		if j.Has(e) != want {
			t.Errorf("%s: %v", target, !want)
		}
		stamped := e
		stamped.ETag = "tag"
		if j.Has(stamped) != want {
			t.Errorf("%s: the entity tag counts", target)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestEnrichKeepsTheOrder(t *testing.T) {
	list := func(yield func(Enrollment, error) bool) {
		for i := range 50 {
			if !yield(Enrollment{RegistrationID: fmt.Sprint(i)}, nil) {
				return
			}
		}
		yield(Enrollment{}, errors.New("torn"))
	}
	complete := func(_ context.Context, e *Enrollment) error { e.DeviceID = "d" + e.RegistrationID; return nil }
	var got []string
	var last error
	for e, err := range Enrich(t.Context(), list, complete, 7) {
		if last = err; err == nil {
			got = append(got, e.DeviceID)
		}
	}
	if last == nil || len(got) != 50 || !slices.IsSortedFunc(got, func(a, b string) int { return len(a) - len(b) }) || got[49] != "d49" {
		t.Errorf("%q, %v", got, last)
	}
	fail := func(_ context.Context, e *Enrollment) error { return errors.New("gone") }
	n := 0
	for _, err := range Enrich(t.Context(), list, fail, 7) {
		if n++; err == nil {
			t.Error("it passed")
		}
	}
	if n != 1 {
		t.Errorf("%d items", n)
	}
	for range Enrich(t.Context(), list, complete, 7) {
		break // a reader may stop early
	}
}
