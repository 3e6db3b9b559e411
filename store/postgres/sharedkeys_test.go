package postgres

import (
	"fmt"
	"sync"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/storetest"
)

// A program that does not know of shared keys left enrollments behind.
func TestKeysThatAnOlderProgramWroteAreLearned(t *testing.T) {
	dsn, key := testDSN(t), serverKey(t)
	s := openAt(t, dsn, key)
	if err := s.PutScope(t.Context(), provision.Scope{ID: testScope}); err != nil {
		t.Fatal(err)
	}
	storetest.PutSharers(t, s)
	storetest.KnowsSharers(t, s)
	for _, forget := range []string{
		"DELETE FROM symmetric_key_use",
		"DELETE FROM symmetric_key_use WHERE key > 'pump-07'",                                     // half of it was done
		"DELETE FROM symmetric_key_use; UPDATE enrollment SET keys = '\\x00' WHERE key = 'fan-1'", // which stops no server
	} {
		sql(t, dsn, "DELETE FROM symmetric_keys_known; "+forget)
		var starting sync.WaitGroup
		for range 3 { // at the same time
			starting.Go(func() {
				s, err := Open(t.Context(), dsn, key)
				if err != nil {
					t.Error(err)
					return
				}
				storetest.KnowsSharers(t, s)
				s.Close()
			})
		}
		starting.Wait()
	}
}

// While servers are upgraded one after the other, one that does not know of
// shared keys changes or removes who had a key.
func TestNobodyIsRefusedForAKeyThatAnOlderServerTookAway(t *testing.T) {
	s := openTest(t)
	keys := newKeys(t)
	put := func(id string) error {
		e := &enroll.Entry{Scope: testScope, Kind: enroll.Individual, ID: id, Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &keys}}
		return s.ChangeEntryUnshared(t.Context(), testScope, enroll.Individual, e.Key(), func(*enroll.Entry) (*enroll.Entry, error) { return e, nil })
	}
	if err := put("pump-1"); err != nil {
		t.Fatal(err)
	}
	for i, statement := range []string{"UPDATE enrollment SET keys = NULL WHERE key = 'pump-1'", "DELETE FROM enrollment WHERE key = 'pump-2'"} {
		if err := put("refused"); errs.KindOf(err) != errs.Conflict {
			t.Error(err)
		}
		behind(t, s, statement)
		if err := put(fmt.Sprint("pump-", i+2)); err != nil {
			t.Errorf("after %s: %v", statement, err)
		}
	}
}
