package sqlite

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/storetest"
)

// A program that does not know of shared keys left enrollments behind.
func TestKeysThatAnOlderProgramWroteAreLearned(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
	reopen := func(s *Store, forget ...string) *Store {
		t.Helper()
		if s != nil {
			err := s.write(t.Context(), func(t *tx) error {
				for _, statement := range forget {
					if err := t.exec(statement); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Open(ended, path, key); err == nil {
			t.Error("opened, or learned, after the context had ended")
		}
		s, err := Open(t.Context(), path, key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, err := Open(t.Context(), path, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutScope(t.Context(), provision.Scope{ID: testScope}); err != nil {
		t.Fatal(err)
	}
	storetest.PutSharers(t, s)
	storetest.KnowsSharers(t, s)
	s = reopen(s, "DELETE FROM symmetric_key_use", "DELETE FROM symmetric_keys_known")
	storetest.KnowsSharers(t, s)
	s = reopen(s, "DELETE FROM symmetric_key_use WHERE key > 'pump-07'", "DELETE FROM symmetric_keys_known") // half of it was done
	storetest.KnowsSharers(t, s)
	// Damaged keys are those of one enrollment and stop no server.
	s = reopen(s, "UPDATE enrollment SET keys = x'00' WHERE key = 'fan-1'", "DELETE FROM symmetric_key_use", "DELETE FROM symmetric_keys_known")
	storetest.KnowsSharers(t, s)

	snapshot, err := OpenSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	groups, err := snapshot.ListSharedKeys(testScope, 3)
	if err != nil || len(groups) != 3 || len(groups[0]) != 2 {
		t.Errorf("the snapshot has %v, %v", groups, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
