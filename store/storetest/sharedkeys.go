package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

func newKey(t *testing.T) device.SymmetricKey {
	t.Helper()
	k, err := device.GenerateSymmetricKey(rand.Reader, 32)
	noError(t, err)
	return k
}

func withKeys(scope device.IDScope, kind enroll.Kind, id string, primary, secondary device.SymmetricKey) *enroll.Entry {
	return &enroll.Entry{Scope: scope, Kind: kind, ID: id, Attestation: attest.Mechanism{
		Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: primary, Secondary: secondary}}}
}

func putUnshared(ctx context.Context, s Store, e *enroll.Entry) error {
	return s.ChangeEntryUnshared(ctx, e.Scope, e.Kind, e.Key(), func(*enroll.Entry) (*enroll.Entry, error) { return e, nil })
}

var sharedKeyRules = []rule{
	{"who else has a key is known, in whichever slot it is", func(t *testing.T, s Store) {
		one, two, three, none := newKey(t), newKey(t), newKey(t), device.SymmetricKey{}
		for _, e := range []*enroll.Entry{
			withKeys(scopeA, enroll.Individual, "Pump-7", one, two),
			withKeys(scopeA, enroll.Individual, "pump-8", two, one),
			withKeys(scopeA, enroll.Individual, "pump-6", one, one),
			withKeys(scopeA, enroll.Individual, "pump-9", three, none),
			withKeys(scopeB, enroll.Individual, "pump-1", one, two),
			withKeys(scopeA, enroll.Group, "line-1", one, two),
		} {
			noError(t, putEntry(t.Context(), s, e))
		}
		shared := func(primary, secondary device.SymmetricKey, except device.RegistrationID) string {
			t.Helper()
			ids, err := s.SharedKeys(t.Context(), scopeA, attest.SymmetricKeys{Primary: primary, Secondary: secondary}, except)
			noError(t, err)
			return fmt.Sprint(ids)
		}
		same(t, shared(one, two, ""), "[pump-6 Pump-7 pump-8]")
		same(t, shared(two, one, "pump-7"), "[pump-6 pump-8]")
		same(t, shared(none, two, ""), "[Pump-7 pump-8]")
		same(t, shared(three, one, "pump-8"), "[pump-6 Pump-7 pump-9]")
		same(t, shared(three, none, "pump-9"), "[]")
		same(t, shared(newKey(t), none, ""), "[]")
		same(t, shared(none, none, ""), "[]")
		for i := range 12 {
			noError(t, putEntry(t.Context(), s, withKeys(scopeA, enroll.Individual, fmt.Sprintf("fan-%02d", i), three, newKey(t))))
		}
		same(t, shared(three, none, "fan-01"), "[fan-00 fan-02 fan-03 fan-04 fan-05 fan-06 fan-07 fan-08 fan-09 fan-10]")
	}},
	{"who has a key is as the last change left it", func(t *testing.T, s Store) {
		one, two, three := newKey(t), newKey(t), newKey(t)
		have := func(k device.SymmetricKey) string {
			t.Helper()
			ids, err := s.SharedKeys(t.Context(), scopeA, attest.SymmetricKeys{Primary: k}, "")
			noError(t, err)
			return fmt.Sprint(ids)
		}
		put := func(e *enroll.Entry) {
			t.Helper()
			noError(t, putEntry(t.Context(), s, e))
		}
		put(withKeys(scopeA, enroll.Individual, "pump-7", one, two))
		put(withKeys(scopeA, enroll.Individual, "PUMP-7", three, one))
		same(t, have(one)+have(two)+have(three), "[PUMP-7][][PUMP-7]")
		refusal := errors.New("no")
		err := s.ChangeEntry(t.Context(), scopeA, enroll.Individual, "pump-7", func(old *enroll.Entry) (*enroll.Entry, error) {
			old.Attestation.SymmetricKey.Primary = two
			return old, refusal
		})
		same(t, err == refusal, true)
		same(t, have(one)+have(two)+have(three), "[PUMP-7][][PUMP-7]")
		noError(t, s.ChangeEntry(t.Context(), scopeA, enroll.Individual, "pump-7", func(old *enroll.Entry) (*enroll.Entry, error) {
			old.Attestation.SymmetricKey.Primary = two // in what it was given
			return old, nil
		}))
		same(t, have(one)+have(two)+have(three), "[PUMP-7][PUMP-7][]")
		put(fullEntry(scopeA, enroll.Individual, "pump-7", attest.TypeX509))
		same(t, have(one)+have(two), "[][]")
		put(withKeys(scopeA, enroll.Individual, "pump-7", one, two))
		noError(t, deleteEntry(t.Context(), s, withKeys(scopeA, enroll.Individual, "pump-7", one, two)))
		same(t, have(one)+have(two), "[][]")
		put(fullEntry(scopeA, enroll.Individual, "pump-7", attest.TypeTPM)) // one without keys in its place
		same(t, have(one)+have(two), "[][]")
	}},
	{"an enrollment that is to have keys of its own is refused others'", func(t *testing.T, s Store) {
		one, two, three, four := newKey(t), newKey(t), newKey(t), newKey(t)
		noError(t, putUnshared(t.Context(), s, withKeys(scopeA, enroll.Individual, "Pump-7", one, two)))
		for _, e := range []*enroll.Entry{
			withKeys(scopeA, enroll.Individual, "pump-8", three, one),
			withKeys(scopeA, enroll.Individual, "pump-8", two, three),
			withKeys(scopeA, enroll.Individual, "pump-8", one, one),
		} {
			err := putUnshared(t.Context(), s, e)
			isKind(t, err, errs.Conflict)
			text := fmt.Sprint(err, errs.Public(err).Message)
			if !strings.Contains(text, "Pump-7") || strings.Contains(text, one.Base64()) || strings.Contains(text, two.Base64()) {
				t.Errorf("the error is %s", text)
			}
		}
		_, err := s.Entry(t.Context(), scopeA, enroll.Individual, "pump-8")
		isKind(t, err, errs.NotFound)
		ids, err := s.SharedKeys(t.Context(), scopeA, attest.SymmetricKeys{Primary: three}, "")
		noError(t, err)
		same(t, len(ids), 0)

		// What it has it may keep; a group or another scope is not meant.
		noError(t, putUnshared(t.Context(), s, withKeys(scopeA, enroll.Individual, "pump-7", two, one)))
		noError(t, putUnshared(t.Context(), s, withKeys(scopeA, enroll.Group, "line-1", one, two)))
		noError(t, putUnshared(t.Context(), s, withKeys(scopeB, enroll.Individual, "pump-7", one, two)))
		noError(t, putUnshared(t.Context(), s, withKeys(scopeA, enroll.Individual, "pump-8", three, three)))
		noError(t, putEntry(t.Context(), s, withKeys(scopeA, enroll.Individual, "pump-9", one, four)))
		disabled := withKeys(scopeA, enroll.Individual, "pump-9", one, four)
		disabled.Disabled = true
		noError(t, putUnshared(t.Context(), s, disabled))
		isKind(t, putUnshared(t.Context(), s, withKeys(scopeA, enroll.Individual, "pump-9", one, three)), errs.Conflict)
		got, err := s.Entry(t.Context(), scopeA, enroll.Individual, "pump-9")
		noError(t, err)
		same(t, got, disabled)

		// What is free again can be had; and it is a ChangeEntry in all else.
		noError(t, s.ChangeEntryUnshared(t.Context(), scopeA, enroll.Individual, "pump-8", func(*enroll.Entry) (*enroll.Entry, error) { return nil, nil }))
		noError(t, putUnshared(t.Context(), s, withKeys(scopeA, enroll.Individual, "fan-1", three, newKey(t))))
		isKind(t, putUnshared(t.Context(), s, withKeys(nowhere, enroll.Individual, "fan-1", three, four)), errs.NotFound)
		refusal := errors.New("no")
		err = s.ChangeEntryUnshared(t.Context(), scopeA, enroll.Individual, "fan-1", func(old *enroll.Entry) (*enroll.Entry, error) { return old, refusal })
		same(t, err == refusal, true)
	}},
	{"of many racing for one key one gets it", func(t *testing.T, s Store) {
		OneGetsTheKey(t, s)
	}},
	{"those who share keys are listed, the first of each", func(t *testing.T, s Store) {
		list := func(limit int) string {
			t.Helper()
			groups, err := s.ListSharedKeys(t.Context(), scopeA, limit)
			noError(t, err)
			return fmt.Sprint(groups)
		}
		same(t, list(10), "[]")
		one, two, three := newKey(t), newKey(t), newKey(t)
		for _, e := range []*enroll.Entry{
			withKeys(scopeA, enroll.Individual, "Pump-7", one, two),
			withKeys(scopeA, enroll.Individual, "pump-8", two, one),
			withKeys(scopeA, enroll.Individual, "fan-1", three, newKey(t)),
			withKeys(scopeA, enroll.Individual, "pump-9", newKey(t), three),
			withKeys(scopeA, enroll.Individual, "alone", newKey(t), newKey(t)),
			withKeys(scopeB, enroll.Individual, "pump-6", one, two),
			withKeys(scopeA, enroll.Group, "line-1", one, two),
		} {
			noError(t, putEntry(t.Context(), s, e))
		}
		same(t, list(10), "[[fan-1 pump-9] [Pump-7 pump-8]]")
		same(t, list(1), "[[fan-1 pump-9]]")
		same(t, list(0), "[]")
		for i := range 12 {
			noError(t, putEntry(t.Context(), s, withKeys(scopeA, enroll.Individual, fmt.Sprintf("zebra-%02d", i), three, newKey(t))))
		}
		same(t, list(1), "[[fan-1 pump-9 zebra-00 zebra-01 zebra-02 zebra-03 zebra-04 zebra-05 zebra-06 zebra-07]]")
		noError(t, deleteEntry(t.Context(), s, withKeys(scopeA, enroll.Individual, "pump-8", one, two)))
		same(t, strings.Contains(list(10), "Pump-7"), false)
	}},
}

// OneGetsTheKey has many enrollments race for one key, at one or several stores
// of the same database.
func OneGetsTheKey(t *testing.T, stores ...Store) {
	t.Helper()
	for range 5 {
		k := newKey(t)
		won := race(16, func(i int) error {
			s, other := stores[i%len(stores)], newKey(t)
			e := withKeys(scopeA, enroll.Individual, fmt.Sprint("racer-", i), other, k)
			if i%3 == 0 {
				e.Attestation.SymmetricKey = &attest.SymmetricKeys{Primary: k, Secondary: other}
			}
			err := putUnshared(t.Context(), s, e)
			if err != nil && errs.KindOf(err) != errs.Conflict {
				t.Error(err)
			}
			return err
		})
		ids, err := stores[0].SharedKeys(t.Context(), scopeA, attest.SymmetricKeys{Primary: k}, "")
		noError(t, err)
		if len(won) != 1 || len(ids) != 1 || ids[0] != fmt.Sprint("racer-", won[0]) {
			t.Errorf("%v won, and %v have the key", won, ids)
		}
	}
}

// sharers is how many enrollments PutSharers puts: more than a store learns at
// once.
const sharers = 1500

// PutSharers puts many enrollments, each of which has a key in common with one
// other.
func PutSharers(t *testing.T, s Store) {
	t.Helper()
	keys := make([]device.SymmetricKey, sharers/2)
	for i := range keys {
		keys[i] = newKey(t)
	}
	race(16, func(w int) error {
		for i := w; i < sharers; i += 16 {
			if err := putEntry(t.Context(), s, withKeys(scopeA, enroll.Individual, fmt.Sprintf("pump-%04d", i), newKey(t), keys[i/2])); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	noError(t, putEntry(t.Context(), s, fullEntry(scopeA, enroll.Individual, "fan-1", attest.TypeTPM)))
}

// KnowsSharers checks that a store knows who shares keys after PutSharers.
func KnowsSharers(t *testing.T, s Store) {
	t.Helper()
	groups, err := s.ListSharedKeys(t.Context(), scopeA, sharers)
	noError(t, err)
	same(t, len(groups), sharers/2)
	for i, g := range groups {
		same(t, g, []string{fmt.Sprintf("pump-%04d", 2*i), fmt.Sprintf("pump-%04d", 2*i+1)})
	}
}
