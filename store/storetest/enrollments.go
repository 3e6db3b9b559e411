package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

var mechanisms = []attest.Type{attest.TypeSymmetricKey, attest.TypeX509, attest.TypeTPM}

// entry returns an enrollment with nothing in it but what it must have.
func entry(scope device.IDScope, kind enroll.Kind, id string) *enroll.Entry {
	return &enroll.Entry{Scope: scope, Kind: kind, ID: id, Attestation: attest.Mechanism{Type: attest.TypeTPM, TPM: &attest.TPM{}}}
}

// fullEntry returns one with everything in it.
func fullEntry(scope device.IDScope, kind enroll.Kind, id string, mechanism attest.Type) *enroll.Entry {
	e := filled[*enroll.Entry]()
	e.Scope, e.Kind, e.ID = scope, kind, id
	attestWith(e, mechanism)
	return e
}

func attestWith(e *enroll.Entry, mechanism attest.Type) {
	all := filled[attest.Mechanism]()
	e.Attestation = attest.Mechanism{Type: mechanism}
	switch mechanism {
	case attest.TypeSymmetricKey:
		e.Attestation.SymmetricKey = all.SymmetricKey
	case attest.TypeX509:
		e.Attestation.X509 = all.X509
	case attest.TypeTPM:
		e.Attestation.TPM = all.TPM
	}
}

// tpmGroup returns a group of TPMs with everything in it but the keys of its list.
func tpmGroup(id string) *enroll.Entry {
	e := fullEntry(scopeA, enroll.Group, id, attest.TypeTPM)
	e.Attestation.TPM, e.Attestation.TPMGroup = nil, filled[attest.Mechanism]().TPMGroup
	e.Attestation.TPMGroup.List.Keys = nil
	return e
}

func putEntry(ctx context.Context, s Store, e *enroll.Entry) error {
	return s.ChangeEntry(ctx, e.Scope, e.Kind, e.Key(), func(*enroll.Entry) (*enroll.Entry, error) { return e, nil })
}

func deleteEntry(ctx context.Context, s Store, e *enroll.Entry) error {
	return s.ChangeEntry(ctx, e.Scope, e.Kind, e.Key(), func(*enroll.Entry) (*enroll.Entry, error) { return nil, nil })
}

var enrollmentRules = []rule{
	{"an enrollment is what was put, in every member", func(t *testing.T, s Store) {
		for _, kind := range []enroll.Kind{enroll.Individual, enroll.Group} {
			for _, mechanism := range mechanisms {
				want := fullEntry(scopeA, kind, "Pump-7."+string(mechanism), mechanism)
				noError(t, putEntry(t.Context(), s, want))
				got, err := s.Entry(t.Context(), scopeA, kind, want.Key())
				noError(t, err)
				same(t, got, want)
			}
		}
	}},
	{"an enrollment with little in it has no more when it is read", func(t *testing.T, s Store) {
		for i, e := range []enroll.Entry{
			{},
			{InitialTwin: &enroll.InitialTwin{}},
			{InitialTwin: &enroll.InitialTwin{Tags: json.RawMessage("{}")}},
			{InitialTwin: &enroll.InitialTwin{Desired: json.RawMessage{}}},
			{OptionalDeviceInformation: json.RawMessage{}},
			{Reprovision: &enroll.ReprovisionPolicy{}},
			{Reprovision: &enroll.ReprovisionPolicy{MigrateDeviceData: true}},
			{Custom: &enroll.CustomAllocation{}},
			{IoTHubs: []string{}},
			{IoTHubs: []string{""}},
			{Attestation: attest.Mechanism{Type: attest.TypeTPM, TPM: &attest.TPM{EndorsementKey: []byte{}}}},
			{Attestation: attest.Mechanism{Type: attest.TypeX509, X509: &attest.X509{Secondary: []byte{}}}},
			{Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{}}},
			{Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Secondary: filled[device.SymmetricKey]()}}},
		} {
			e.Scope, e.Kind, e.ID = scopeA, enroll.Individual, fmt.Sprint("pump-", i)
			noError(t, putEntry(t.Context(), s, &e))
			got, err := s.Entry(t.Context(), scopeA, enroll.Individual, e.Key())
			noError(t, err)
			same(t, got, &e)
		}
	}},
	{"a group of TPMs is what was put, and its list is kept beside it", func(t *testing.T, s Store) {
		keys := func(want []byte) {
			t.Helper()
			got, err := s.EndorsementKeys(t.Context(), scopeA, "reel-1")
			if want == nil {
				isKind(t, err, errs.NotFound)
				return
			}
			noError(t, err)
			same(t, got, want)
		}
		put := func(e *enroll.Entry, list []byte) {
			t.Helper()
			written := *e
			if e.Attestation.TPMGroup != nil && e.Attestation.TPMGroup.List != nil {
				g, l := *e.Attestation.TPMGroup, *e.Attestation.TPMGroup.List
				l.Keys, g.List, written.Attestation.TPMGroup = list, &l, &g
			}
			noError(t, putEntry(t.Context(), s, &written))
			got, err := s.Entry(t.Context(), scopeA, enroll.Group, "reel-1")
			noError(t, err)
			same(t, got, e)
			groups, err := s.Groups(t.Context(), scopeA, attest.TypeTPM)
			noError(t, err)
			same(t, groups[0], e)
		}
		other := tpmGroup("reel-2")
		other.Attestation.TPMGroup.List.Keys = []byte("others")
		noError(t, putEntry(t.Context(), s, other))
		keys(nil)

		group, long := tpmGroup("Reel-1"), bytes.Repeat([]byte("key"), 1<<20)
		put(group, nil)
		keys(nil)
		put(group, []byte("first"))
		keys([]byte("first"))
		put(group, nil) // as who changes something else
		keys([]byte("first"))
		noError(t, s.ChangeEntry(t.Context(), scopeA, enroll.Group, "reel-1", func(old *enroll.Entry) (*enroll.Entry, error) {
			same(t, old, group)
			return old, nil
		}))
		keys([]byte("first"))
		put(group, long)
		keys(long)

		none := tpmGroup("reel-1")
		none.Attestation.TPMGroup = &attest.TPMGroup{Models: []string{}}
		put(none, nil)
		keys(nil)
		put(group, []byte("again"))
		noError(t, deleteEntry(t.Context(), s, group))
		keys(nil)
		put(group, nil) // which does not bring the old list back
		keys(nil)
		got, err := s.EndorsementKeys(t.Context(), scopeA, "reel-2")
		noError(t, err)
		same(t, got, []byte("others"))
	}},
	{"a missing enrollment is NotFound", func(t *testing.T, s Store) {
		noError(t, putEntry(t.Context(), s, entry(scopeA, enroll.Individual, "pump-7")))
		_, err := s.Entry(t.Context(), scopeA, enroll.Individual, "pump-8")
		isKind(t, err, errs.NotFound)
		_, err = s.Entry(t.Context(), scopeA, enroll.Group, "pump-7")
		isKind(t, err, errs.NotFound)
		_, err = s.Entry(t.Context(), scopeB, enroll.Individual, "pump-7")
		isKind(t, err, errs.NotFound)
	}},
	{"scopes and kinds have enrollments of their own", func(t *testing.T, s Store) {
		for _, scope := range []device.IDScope{scopeA, scopeB} {
			for _, kind := range []enroll.Kind{enroll.Individual, enroll.Group} {
				e := entry(scope, kind, "pump-7")
				e.ETag = string(scope) + string(kind)
				noError(t, putEntry(t.Context(), s, e))
			}
		}
		noError(t, deleteEntry(t.Context(), s, entry(scopeB, enroll.Group, "pump-7")))
		got, err := s.Entry(t.Context(), scopeA, enroll.Group, "pump-7")
		noError(t, err)
		same(t, got.ETag, string(scopeA)+"group")
		got, err = s.Entry(t.Context(), scopeB, enroll.Individual, "pump-7")
		noError(t, err)
		same(t, got.ETag, string(scopeB)+"individual")
	}},
	{"a change sees what it replaces, in whatever case the ID is spelled", func(t *testing.T, s Store) {
		first := fullEntry(scopeA, enroll.Individual, "Pump-7", attest.TypeSymmetricKey)
		noError(t, putEntry(t.Context(), s, first))
		second := fullEntry(scopeA, enroll.Individual, "PUMP-7", attest.TypeX509)
		noError(t, s.ChangeEntry(t.Context(), scopeA, enroll.Individual, "pump-7", func(old *enroll.Entry) (*enroll.Entry, error) {
			same(t, old, first)
			return second, nil
		}))
		got, err := s.Entry(t.Context(), scopeA, enroll.Individual, "pump-7")
		noError(t, err)
		same(t, got, second)
	}},
	{"one of many racing to create an enrollment wins", func(t *testing.T, s Store) {
		exists := errs.New(errs.Conflict, errs.CodeEnrollmentConflict, "exists")
		won := race(16, func(i int) error {
			e := entry(scopeA, enroll.Individual, "pump-7")
			e.ETag = fmt.Sprint(i)
			err := s.ChangeEntry(t.Context(), scopeA, enroll.Individual, "pump-7", func(old *enroll.Entry) (*enroll.Entry, error) {
				if old != nil {
					return nil, exists
				}
				return e, nil
			})
			if err != nil && err != error(exists) {
				t.Errorf("decide's error came back as %v", err)
			}
			return err
		})
		if len(won) != 1 {
			t.Fatalf("%d creations succeeded", len(won))
		}
		got, err := s.Entry(t.Context(), scopeA, enroll.Individual, "pump-7")
		noError(t, err)
		same(t, got.ETag, fmt.Sprint(won[0]))
	}},
	{"no change of many racing to change an enrollment is lost", func(t *testing.T, s Store) {
		noError(t, putEntry(t.Context(), s, entry(scopeA, enroll.Individual, "pump-7")))
		race(32, func(i int) error {
			err := s.ChangeEntry(t.Context(), scopeA, enroll.Individual, "pump-7", func(old *enroll.Entry) (*enroll.Entry, error) {
				old.ETag += "+"
				return old, nil
			})
			if err != nil {
				t.Error(err)
			}
			return err
		})
		got, err := s.Entry(t.Context(), scopeA, enroll.Individual, "pump-7")
		noError(t, err)
		same(t, got.ETag, strings.Repeat("+", 32))
	}},
	{"a change that decides for an error writes nothing", func(t *testing.T, s Store) {
		want := fullEntry(scopeA, enroll.Group, "line-1", attest.TypeX509)
		noError(t, putEntry(t.Context(), s, want))
		refusal := errors.New("no")
		err := s.ChangeEntry(t.Context(), scopeA, enroll.Group, "line-1", func(old *enroll.Entry) (*enroll.Entry, error) {
			old.ETag = "changed"
			return old, refusal
		})
		if err != refusal {
			t.Errorf("decide's error came back as %v", err)
		}
		got, err := s.Entry(t.Context(), scopeA, enroll.Group, "line-1")
		noError(t, err)
		same(t, got, want)
	}},
	{"an enrollment that was removed is gone", func(t *testing.T, s Store) {
		e := fullEntry(scopeA, enroll.Individual, "pump-7", attest.TypeTPM)
		noError(t, deleteEntry(t.Context(), s, e)) // there is none yet
		noError(t, putEntry(t.Context(), s, e))
		noError(t, deleteEntry(t.Context(), s, e))
		_, err := s.Entry(t.Context(), scopeA, enroll.Individual, e.Key())
		isKind(t, err, errs.NotFound)
		page, err := s.Entries(t.Context(), scopeA, enroll.Individual, "", 10)
		noError(t, err)
		same(t, len(page), 0)
	}},
	{"a change cannot rename an enrollment", func(t *testing.T, s Store) {
		for _, other := range []*enroll.Entry{
			entry(scopeA, enroll.Individual, "pump-8"), entry(scopeB, enroll.Individual, "pump-7"), entry(scopeA, enroll.Group, "pump-7"),
		} {
			err := s.ChangeEntry(t.Context(), scopeA, enroll.Individual, "pump-7", func(*enroll.Entry) (*enroll.Entry, error) { return other, nil })
			isKind(t, err, errs.Internal)
		}
	}},
	{"an enrollment is put into a scope there is", func(t *testing.T, s Store) {
		isKind(t, putEntry(t.Context(), s, entry(nowhere, enroll.Individual, "pump-7")), errs.NotFound)
	}},
	{"enrollments are listed by key, page by page", func(t *testing.T, s Store) {
		var want []string
		for _, i := range []int{5, 2, 9, 0, 7, 1, 8, 3, 6, 4} {
			noError(t, putEntry(t.Context(), s, entry(scopeA, enroll.Individual, fmt.Sprintf("Pump-%d", i))))
			want = append(want, fmt.Sprintf("Pump-%d", len(want)))
		}
		noError(t, putEntry(t.Context(), s, entry(scopeA, enroll.Group, "pump-33")))
		noError(t, putEntry(t.Context(), s, entry(scopeB, enroll.Individual, "pump-34")))
		var got []string
		var after device.RegistrationID
		for range 4 {
			page, err := s.Entries(t.Context(), scopeA, enroll.Individual, after, 3)
			noError(t, err)
			for _, e := range page {
				got = append(got, e.ID)
				after = e.Key()
			}
		}
		same(t, got, want)
		page, err := s.Entries(t.Context(), scopeA, enroll.Individual, "pump-9", 3)
		noError(t, err)
		same(t, len(page), 0)
		page, err = s.Entries(t.Context(), scopeA, enroll.Individual, "pump-33", 1)
		noError(t, err)
		same(t, page[0].ID, "Pump-4")
		page, err = s.Entries(t.Context(), scopeA, enroll.Individual, "", 0)
		noError(t, err)
		same(t, len(page), 0)
	}},
	{"groups are those of the scope with the mechanism, by key", func(t *testing.T, s Store) {
		for i := range 9 {
			noError(t, putEntry(t.Context(), s, fullEntry(scopeA, enroll.Group, fmt.Sprintf("Line-%d", 8-i), mechanisms[i%3])))
		}
		noError(t, putEntry(t.Context(), s, fullEntry(scopeA, enroll.Individual, "pump-7", attest.TypeX509)))
		for _, mechanism := range mechanisms {
			got, err := s.Groups(t.Context(), scopeA, mechanism)
			noError(t, err)
			var want []*enroll.Entry
			for i := range 9 {
				if mechanisms[(8-i)%3] == mechanism {
					want = append(want, fullEntry(scopeA, enroll.Group, fmt.Sprintf("Line-%d", i), mechanism))
				}
			}
			same(t, got, want)
		}
		got, err := s.Groups(t.Context(), scopeB, attest.TypeX509)
		noError(t, err)
		same(t, len(got), 0)
	}},
	{"groups are as the last acknowledged change left them", func(t *testing.T, s Store) {
		e := fullEntry(scopeA, enroll.Group, "line-1", attest.TypeX509)
		groups := func(mechanism attest.Type, want ...*enroll.Entry) {
			t.Helper()
			got, err := s.Groups(t.Context(), scopeA, mechanism)
			noError(t, err)
			same(t, got, want)
		}
		groups(attest.TypeX509)
		noError(t, putEntry(t.Context(), s, e))
		groups(attest.TypeX509, e)
		groups(attest.TypeTPM)
		changed := fullEntry(scopeA, enroll.Group, "line-1", attest.TypeTPM)
		noError(t, putEntry(t.Context(), s, changed))
		groups(attest.TypeX509)
		groups(attest.TypeTPM, changed)
		noError(t, deleteEntry(t.Context(), s, changed))
		groups(attest.TypeTPM)
	}},
	{"groups are never older than an acknowledged change, however many read them", func(t *testing.T, s Store) {
		done := make(chan struct{})
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if _, err := s.Groups(t.Context(), scopeA, attest.TypeTPM); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for i := range 50 {
			e := entry(scopeA, enroll.Group, "line-1")
			e.ETag = fmt.Sprint(i)
			noError(t, putEntry(t.Context(), s, e))
			got, err := s.Groups(t.Context(), scopeA, attest.TypeTPM)
			noError(t, err)
			same(t, got, []*enroll.Entry{e})
		}
		close(done)
		readers.Wait()
	}},
}

// race runs f n times at once and returns those that succeeded.
func race(n int, f func(i int) error) (won []int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if f(i) == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, i)
			}
		})
	}
	wg.Wait()
	return won
}
