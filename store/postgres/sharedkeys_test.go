package postgres

import (
	"sync"
	"testing"

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
