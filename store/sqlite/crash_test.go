package sqlite

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/storetest"
)

const (
	crashes  = 20
	crashDir = "BERTH_TEST_CRASH_DIR" // tells the test binary that it is to be killed
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(context.Background(), dir, os.Args[1]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func openCrash(ctx context.Context, dir string) (*Store, error) {
	key, err := soft.Open(filepath.Join(dir, "server.key"))
	if err != nil {
		return nil, err
	}
	return Open(ctx, filepath.Join(dir, "berth.db"), key)
}

func writeUntilKilled(ctx context.Context, dir, round string) error {
	s, err := openCrash(ctx, dir)
	if err != nil {
		return err
	}
	return storetest.WriteUntilKilled(ctx, s, round)
}

func TestKillingLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "server.key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	witness := new(storetest.Witness)
	check := func() {
		t.Helper()
		s, err := openCrash(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		checkIntegrity(t, s)
		witness.Check(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for round := range crashes {
		check()
		witness.WriteAndKill(t, round, mathrand.IntN(400), crashDir+"="+dir)
	}
	check()
	t.Logf("%v over %d kills", witness, crashes)
}

func checkIntegrity(t *testing.T, s *Store) {
	t.Helper()
	err := s.read(t.Context(), func(c *conn) error {
		return c.each(func(r *record.Row) error {
			if report := r.Text(); report != "ok" {
				t.Errorf("integrity check: %s", report)
			}
			return nil
		}, "PRAGMA integrity_check")
	})
	if err != nil {
		t.Fatal(err)
	}
}
