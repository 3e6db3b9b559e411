package postgres

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/berth-iot/berth/errs"
)

// sql runs a script where dsn leads.
func sql(t *testing.T, dsn, text string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if err := script(t.Context(), c, text); err != nil {
		t.Fatal(err)
	}
}

func TestMigrationsAreNumbered(t *testing.T) {
	names := steps()
	if len(names) == 0 {
		t.Fatal("there is none")
	}
	for i, name := range names {
		if want := fmt.Sprintf("migrations/%04d_", i+1); !strings.HasPrefix(name, want) {
			t.Errorf("%s, want %s….sql", name, want)
		}
		if _, minimum, err := readStep(name); err != nil || minimum < 1 || minimum > i+1 {
			t.Errorf("%s: minimum_reader is %d, %v", name, minimum, err)
		}
	}
}

func TestServersThatStartTogetherMigrateOnce(t *testing.T) {
	dsn, key := testDSN(t), serverKey(t)
	var starting sync.WaitGroup
	for range 6 {
		starting.Go(func() {
			s, err := Open(t.Context(), dsn, key)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.ListScopes(t.Context()); err != nil {
				t.Error(err)
			}
			s.Close()
		})
	}
	starting.Wait()
}

func TestAnOlderProgramGoesOnWhereTheNewerSchemaAllowsIt(t *testing.T) {
	dsn, key := testDSN(t), serverKey(t)
	s := openAt(t, dsn, key)
	sql(t, dsn, fmt.Sprintf("UPDATE berth_schema SET version = 99, minimum_reader = %d", len(steps())))
	openAt(t, dsn, key)
	if _, err := s.ListScopes(t.Context()); err != nil {
		t.Error(err)
	}

	// A server that runs notices when it may not go on.
	sql(t, dsn, fmt.Sprintf("UPDATE berth_schema SET minimum_reader = %d", len(steps())+1))
	within(t, soon, func() bool {
		_, err := s.ListScopes(t.Context())
		return errs.KindOf(err) == errs.Unavailable
	})
}

func TestOpenRefuses(t *testing.T) {
	key := serverKey(t)
	made := func(t *testing.T, dsn string) {
		s, err := Open(t.Context(), dsn, key)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dsn string) string
		want  string
	}{
		"a schema of the future": {func(t *testing.T, dsn string) string {
			made(t, dsn)
			sql(t, dsn, "UPDATE berth_schema SET version = 99, minimum_reader = 98")
			return dsn
		}, "a newer version of this program upgraded it (schema 99 needs a program that knows 98"},
		"another program's tables": {func(t *testing.T, dsn string) string {
			sql(t, dsn, "CREATE TABLE notes (text text)")
			return dsn
		}, "another program has tables in schema"},
		"no schema": {func(t *testing.T, dsn string) string { return dsn + "_missing" }, "search_path"},
		"another server key": {func(t *testing.T, dsn string) string {
			s, err := Open(t.Context(), dsn, serverKey(t))
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			return dsn
		}, "sealed under another server key"},
		"nobody there": {func(t *testing.T, dsn string) string {
			return strings.Replace(dsn, "host=", "host=/nowhere", 1)
		}, "connecting: "},
		"a read-only session":  {func(t *testing.T, dsn string) string { return dsn + " default_transaction_read_only=on" }, "read only"},
		"no connection at all": {func(t *testing.T, dsn string) string { return dsn + " pool_max_conns=0" }, "pool_max_conns"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), c.spoil(t, testDSN(t)), key)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestAServerWithoutFsyncIsRefused(t *testing.T) {
	dsn, key := testDSN(t), serverKey(t)
	fsync := func(how, want string) {
		sql(t, dsn, how)
		sql(t, dsn, "SELECT pg_reload_conf()")
		within(t, soon, func() bool {
			c, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			var is string
			return c.QueryRow(t.Context(), "SHOW fsync").Scan(&is) == nil && is == want
		})
	}
	fsync("ALTER SYSTEM SET fsync = off", "off")
	defer fsync("ALTER SYSTEM RESET fsync", "on")
	s, err := Open(t.Context(), dsn, key)
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "fsync = off") {
		t.Error(err)
	}
}

func TestCommitsAreDurableWhateverTheRoleHas(t *testing.T) {
	for set, want := range map[string]string{"off": "on", "local": "local", "on": "on"} {
		s := openAt(t, testDSN(t)+" synchronous_commit="+set, serverKey(t))
		c, err := s.pool.acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := c.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&got); err != nil || got != want {
			t.Errorf("%s became %s, %v; want %s", set, got, err, want)
		}
		s.pool.release(c)
	}
}

func TestErrorsDoNotShowTheDSN(t *testing.T) {
	for _, dsn := range []string{
		"postgres://berth:s3cret@host:port/db", "postgres://berth:s3cr%zzet@host/db", "password=s3cret sslmode=nonsense",
		"password='s3cret", "postgres://berth:s3cret@" + strings.Repeat("x", 300) + "/db?connect_timeout=1",
		"host=/nowhere password=s3cret user=berth", "s3cret",
	} {
		s, err := Open(context.Background(), dsn, serverKey(t))
		if err == nil {
			s.Close()
			t.Fatalf("opened %s", dsn)
		}
		if strings.Contains(err.Error(), "s3cr") {
			t.Errorf("%v", err)
		}
	}
}
