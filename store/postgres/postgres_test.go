package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/postgres/pgtest"
	"github.com/berth-iot/berth/store/storetest"
)

const testScope device.IDScope = "0ne0000000a"

// started is the server of all tests, started by the first one that needs it.
var started struct {
	once   sync.Once
	server *pgtest.Server
	err    error
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(context.Background(), dir, os.Args[1]))
		os.Exit(1)
	}
	code := m.Run()
	if started.server != nil {
		if err := started.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func testServer(t testing.TB) *pgtest.Server {
	t.Helper()
	started.once.Do(func() { started.server, started.err = pgtest.Start(t.Context()) })
	if started.err != nil {
		t.Fatal(started.err)
	}
	return started.server
}

// testDSN leads to an empty place in the server.
func testDSN(t testing.TB) string {
	t.Helper()
	dsn, err := testServer(t).Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

func serverKey(t testing.TB) *soft.Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.key")
	if err := soft.Create(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	key, err := soft.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// openAt opens a store that the test closes.
func openAt(t testing.TB, dsn string, key *soft.Key) *Store {
	t.Helper()
	s, err := Open(t.Context(), dsn, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openTest opens an empty store with one scope.
func openTest(t testing.TB) *Store {
	t.Helper()
	s := openAt(t, testDSN(t), serverKey(t))
	if err := s.PutScope(t.Context(), provision.Scope{ID: testScope}); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() storetest.Store {
		dsn, key := testDSN(t), serverKey(t)
		return func() storetest.Store {
			s, err := Open(t.Context(), dsn, key)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}
