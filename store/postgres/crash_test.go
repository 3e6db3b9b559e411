package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/store/storetest"
)

const (
	crashes     = 8
	serverKills = 2
	crashDir    = "BERTH_TEST_CRASH_DIR" // tells the test binary that it is to be killed
)

// openCrash opens the store whose DSN and server key are in dir.
func openCrash(ctx context.Context, dir string) (*Store, error) {
	key, err := soft.Open(filepath.Join(dir, "server.key"))
	if err != nil {
		return nil, err
	}
	dsn, err := os.ReadFile(filepath.Join(dir, "dsn"))
	if err != nil {
		return nil, err
	}
	return Open(ctx, string(dsn), key)
}

func writeUntilKilled(ctx context.Context, dir, round string) error {
	s, err := openCrash(ctx, dir)
	if err != nil {
		return err
	}
	return storetest.WriteUntilKilled(ctx, s, round)
}

// A Berth server is killed in the middle of its writes, while another one goes
// on with the same database.
func TestKillingAServerLosesNothingItAcknowledged(t *testing.T) {
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "server.key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dsn"), []byte(testDSN(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openCrash(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	witness := new(storetest.Witness)
	for round := range crashes {
		witness.WriteAndKill(t, round, mathrand.IntN(200), crashDir+"="+dir)
	}
	settle(t, s)
	witness.Check(t, s)
	t.Logf("%v over %d kills", witness, crashes)
}

// settle returns when the transactions of killed clients have ended.
func settle(t *testing.T, s *Store) {
	t.Helper()
	for n := 1; n > 0; {
		c, err := s.pool.acquire(t.Context())
		if err == nil {
			err = c.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()`).Scan(&n)
			s.pool.release(c)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// PostgreSQL itself is killed under load and started again.
func TestKillingPostgreSQLLosesNothingAcknowledged(t *testing.T) {
	const writers = 8
	server, s := testServer(t), openTest(t)
	witness := new(storetest.Witness)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	succeeded, refused := make(chan int), make(chan int) // which writer was, while somebody looks
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				err := storetest.Write(t.Context(), s, w, fmt.Sprintf("%d-%d", w, n), func(line string) {
					if err := witness.Note(line); err != nil {
						t.Error(err)
					}
				})
				tell := succeeded
				if err != nil {
					tell = refused
				}
				if err != nil && errs.KindOf(err) != errs.Unavailable {
					t.Errorf("while the server was down: %v", err)
				}
				select {
				case tell <- w:
				default:
				}
			}
		})
	}
	all := func(what chan int) {
		t.Helper()
		timeout := time.After(time.Minute)
		for seen := map[int]bool{}; len(seen) < writers; {
			select {
			case w := <-what:
				seen[w] = true
			case <-timeout:
				t.Fatalf("only the writers %v came to it", seen)
			}
		}
	}
	for range serverKills {
		all(succeeded)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		all(refused)
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all(succeeded)
	stop()
	running.Wait()
	witness.Check(t, s)
	t.Logf("%v over %d kills", witness, serverKills)
}
