package sqlite

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/storetest"
)

const testScope device.IDScope = "0ne0000000a"

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

// openTest opens an empty store with one scope.
func openTest(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), serverKey(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.PutScope(t.Context(), provision.Scope{ID: testScope}); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() storetest.Store {
		path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
		return func() storetest.Store {
			s, err := Open(t.Context(), path, key)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

func TestWritesAreDurable(t *testing.T) {
	s := openTest(t)
	for pragma, want := range map[string]int64{"synchronous": 2, "foreign_keys": 1, "fullfsync": 1} {
		if got, err := s.writer.number("PRAGMA " + pragma); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", pragma, got, err, want)
		}
	}
	err := s.read(t.Context(), func(c *conn) error { return c.exec("DELETE FROM scope") })
	if err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("writing on a reader's connection: %v", err)
	}
}

func TestFilesAreForTheirOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "berth.db")
	s, err := Open(t.Context(), path, serverKey(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var files []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o", d.Name(), info.Mode().Perm())
		}
		files = append(files, d.Name())
		return nil
	})
	if err != nil || len(files) != 6 {
		t.Errorf("%q, want the database, its log, the log's index, the lock and the directory with a file of messages; %v", files, err)
	}
}

func TestSymmetricKeysAreNowhereInTheFiles(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	s, err := Open(ctx, filepath.Join(dir, "berth.db"), serverKey(t))
	if err != nil {
		t.Fatal(err)
	}
	var secrets []device.SymmetricKey
	pair := func() attest.SymmetricKeys {
		policy, err := access.NewPolicy("", 0, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, policy.Primary, policy.Secondary)
		return attest.SymmetricKeys{Primary: policy.Primary, Secondary: policy.Secondary}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(s.PutScope(ctx, provision.Scope{ID: testScope}))
	for _, kind := range []enroll.Kind{enroll.Individual, enroll.Group} {
		keys := pair()
		check(s.ChangeEntry(ctx, testScope, kind, "pump-7", func(*enroll.Entry) (*enroll.Entry, error) {
			return &enroll.Entry{Scope: testScope, Kind: kind, ID: "pump-7", ETag: "in plain sight",
				Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &keys}}, nil
		}))
	}
	keys := pair()
	check(s.Change(ctx, hub.Place{Hub: "hub-1", ID: "pump-7"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		return &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: "pump-7"}, Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys}}, nil, nil
	}))
	keys = pair()
	check(s.PutPolicy(ctx, access.ScopeOwner(testScope), access.Policy{Name: "owner", Primary: keys.Primary, Secondary: keys.Secondary}))

	check(s.PutLinkedHub(ctx, testScope, provision.LinkedHub{Host: "hub-2", Connection: &provision.Connection{Policy: "iothubowner", Key: pair().Primary}}))

	sink := hub.SinkConfig{Hub: "hub-1", Name: "ops", Kind: "webhook", URL: "https://ops.example.com/?code=" + pair().Primary.Base64(), Secret: hub.NewSecret(pair().Primary.Bytes())}
	check(s.ChangeRouting(ctx, "hub-1", func(hub.Routing) (hub.Routing, error) { return hub.Routing{Sinks: []hub.SinkConfig{sink}}, nil }))

	if log, err := os.ReadFile(filepath.Join(dir, "berth.db-wal")); err != nil || !bytes.Contains(log, []byte("in plain sight")) {
		t.Fatalf("this test does not see what is written: %v", err)
	}
	noSecrets(t, dir, secrets)
	check(s.Close())
	if db, err := os.ReadFile(filepath.Join(dir, "berth.db")); err != nil || !bytes.Contains(db, []byte("in plain sight")) {
		t.Fatalf("this test does not see what is written: %v", err)
	}
	noSecrets(t, dir, secrets)
}

func noSecrets(t *testing.T, dir string, secrets []device.SymmetricKey) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.IsDir() { // messages, whose content is the devices'
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range secrets {
			for _, form := range []string{
				string(k.Bytes()), string(k.Bytes()[:16]), hex.EncodeToString(k.Bytes()), strings.ToUpper(hex.EncodeToString(k.Bytes())),
				strings.TrimRight(base64.StdEncoding.EncodeToString(k.Bytes()), "="), base64.RawURLEncoding.EncodeToString(k.Bytes()),
			} {
				if bytes.Contains(content, []byte(form)) {
					t.Errorf("key %d is in %s", i, f.Name())
				}
			}
		}
	}
}

// Keys that someone with access to the file moved to another record do not
// open there.
func TestSealedKeysStayWithTheirRecord(t *testing.T) {
	s := openTest(t)
	for _, id := range []device.ID{"pump-7", "pump-8"} {
		key, err := device.GenerateSymmetricKey(rand.Reader, 32)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: id}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			return &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: id}, Auth: hub.Authentication{Type: hub.AuthSAS, Keys: attest.SymmetricKeys{Primary: key}}}, nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := s.write(t.Context(), func(t *tx) error {
		return t.exec("UPDATE device SET keys = (SELECT keys FROM device WHERE id = 'pump-7') WHERE id = 'pump-8'")
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Identity(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-8"}); err == nil {
		t.Error("read pump-8 with the keys of pump-7")
	}
}

func TestOpenRefuses(t *testing.T) {
	key := serverKey(t)
	script := func(t *testing.T, path, text string) {
		c, err := connect(dsn(path))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.script(text); err != nil {
			t.Fatal(err)
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string)
		want  string
	}{
		"a schema of the future": {func(t *testing.T, path string) {
			openAndClose(t, path, key)
			script(t, path, "PRAGMA user_version = 99")
		}, "a newer version of this program wrote it (schema 99; this one knows up to "},
		"another program's tables": {func(t *testing.T, path string) {
			script(t, path, "CREATE TABLE notes (text)")
		}, "another program"},
		"another program's mark": {func(t *testing.T, path string) {
			script(t, path, "PRAGMA application_id = 1")
		}, "another program"},
		"no database": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("not a database "), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a database"},
		"a file that others can read": {func(t *testing.T, path string) {
			openAndClose(t, path, key)
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}, "run: chmod 600"},
		"another server key": {func(t *testing.T, path string) {
			openAndClose(t, path, serverKey(t))
		}, "sealed under another server key"},
		"a second server": {func(t *testing.T, path string) {
			s, err := Open(t.Context(), path, key)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
		}, "another server has it open"},
		"a missing directory": {func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data?#%", "berth.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, path)
			before, _ := os.ReadFile(path)
			s, err := Open(t.Context(), path, key)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

func openAndClose(t *testing.T, path string, key *soft.Key) {
	t.Helper()
	s, err := Open(t.Context(), path, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestARefusedOpenLeavesTheLock(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, path, key); err == nil {
		t.Fatal("made a schema after the context ended")
	}
	openAndClose(t, path, key)
}

func TestMigrationsAreNumbered(t *testing.T) {
	names, err := fs.Glob(migrations, "migrations/*")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for i, name := range names {
		if want := fmt.Sprintf("migrations/%04d_", i+1); !strings.HasPrefix(name, want) || !strings.HasSuffix(name, ".sql") {
			t.Errorf("%s, want %s….sql", name, want)
		}
	}
}

// Nobody is connected to a server that was killed, however long its lease was.
func TestOpeningEndsTheServerOfBefore(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
	at := hub.Place{Hub: "hub-1", ID: "pump-7"}
	now := time.Now()
	for restarted := range 2 {
		s, err := Open(t.Context(), path, key)
		if err != nil {
			t.Fatal(err)
		}
		if restarted == 0 {
			err = errors.Join(
				s.Change(t.Context(), at, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
					return &hub.Identity{Place: at}, nil, nil
				}),
				s.LeaseServer(t.Context(), "s1", now, now.Add(time.Hour)),
				s.Notice(t.Context(), "s1", []hub.Notice{{Place: at, Change: hub.NowConnected, Changed: now, Activity: now}}),
			)
			if err != nil {
				t.Fatal(err)
			}
		}
		n, err := s.CountConnected(t.Context(), "hub-1", now)
		if err != nil || n != 1-restarted {
			t.Errorf("opened %d times: %d are connected, %v", restarted+1, n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
