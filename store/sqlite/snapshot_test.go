package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
)

// copyOf writes the snapshot of a database to a new file, mode 0600, and its
// messages beside that.
func copyOf(t *testing.T, path string) string {
	t.Helper()
	s, err := OpenSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	to := filepath.Join(t.TempDir(), "copy.db")
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Copy(t.Context(), f), f.Close()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(to); err != nil || info.Size() != s.Size() {
		t.Errorf("the copy has %d bytes, %v; Size is %d", info.Size(), err, s.Size())
	}
	copyStream(t, s, to+StreamSuffix)
	return to
}

func copyStream(t *testing.T, s *Snapshot, to string) {
	t.Helper()
	stream, err := s.Stream()
	if err == nil && stream != nil {
		err = errors.Join(stream.Check(t.Context()), os.Mkdir(to, 0o700))
	}
	if err != nil || stream == nil {
		t.Fatal(stream, err)
	}
	names, _ := stream.Files()
	for i, name := range names {
		f, err := os.Create(filepath.Join(to, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.Copy(t.Context(), i, f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// writeMessages appends a message for each thing that comes from more, and counts
// what was acknowledged.
func writeMessages(t *testing.T, s *Store, more <-chan struct{}, acknowledged *atomic.Int64) {
	for range more {
		err := s.Append(context.Background(), []*hub.Message{{Hub: "hub-1", DeviceID: "d", Enqueued: time.Now(), Body: make([]byte, 3000)}})
		if err != nil {
			t.Error(err)
			return
		}
		acknowledged.Add(1)
	}
}

// Whatever was acknowledged before the snapshot began is in it, and it is one
// moment's, although the log is moved into the file meanwhile.
func TestASnapshotUnderLoadIsWholeAndLacksNothing(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
	s, err := Open(t.Context(), path, key)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var load sync.WaitGroup
	var acknowledged atomic.Int64
	more := make(chan struct{}, 1000) // which they have not had when the snapshot is begun
	for range 4 {
		load.Go(func() { writeMessages(t, s, more, &acknowledged) })
	}
	for range 8 {
		goal := acknowledged.Load() + 200
		for len(more) < cap(more) {
			more <- struct{}{}
		}
		for acknowledged.Load() < goal && !t.Failed() {
			if err := s.Wait(t.Context(), uint64(acknowledged.Load())); err != nil {
				t.Fatal(err)
			}
		}
		before := acknowledged.Load()
		restored, err := Open(t.Context(), copyOf(t, path), key)
		if err != nil {
			t.Fatal(err)
		}
		checkIntegrity(t, restored)
		last, err := restored.LastSequence(t.Context())
		if err != nil || int64(last) < before {
			t.Errorf("%d messages were acknowledged, the snapshot ends with %d, %v", before, last, err)
		}
		all, err := restored.Read(t.Context(), "hub-1", 0, int(last)+1)
		if err != nil || len(all) != int(last) {
			t.Errorf("the snapshot has %d messages up to number %d, %v", len(all), last, err)
		}
		if err := restored.Close(); err != nil {
			t.Error(err)
		}
	}
	close(more)
	load.Wait()
}

// Someone who looks before an upgrade sees the hubs that the older program linked.
func TestASnapshotReadsTheHubsOfAnOlderSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	c, err := connect(dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	for step := 1; step <= 3; step++ {
		names, err := filepath.Glob(fmt.Sprintf("migrations/%04d_*.sql", step))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		text, err := migrations.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := c.script(string(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.script("PRAGMA user_version = 3; INSERT INTO scope VALUES ('0ne0000000a', ''); INSERT INTO linked_hub VALUES ('0ne0000000a', 'hub-1', 3, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	hubs, err := s.Linked(testScope)
	if err != nil || len(hubs) != 1 || hubs[0].Host != "hub-1" || hubs[0].Weight != 3 || !hubs[0].Allocation || hubs[0].Connection != nil {
		t.Errorf("%+v, %v", hubs, err)
	}
}

// After a kill the newest writes are in the log alone.
func TestASnapshotReadsTheLogOfAKilledServer(t *testing.T) {
	dir := t.TempDir()
	path, key := filepath.Join(dir, "berth.db"), serverKey(t)
	s, err := Open(t.Context(), path, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), []*hub.Message{{Hub: "hub-1", DeviceID: "d", Enqueued: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	left := t.TempDir() // what a kill leaves is what is in the files now
	for _, name := range []string{"berth.db-wal", "berth.db-shm", "berth.db"} {
		b, err := os.ReadFile(path[:len(path)-len("berth.db")] + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(left, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(left, "berth.db"+StreamSuffix), os.DirFS(path+StreamSuffix)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"killed": left, "stopped": dir} {
		restored, err := Open(t.Context(), copyOf(t, filepath.Join(dir, "berth.db")), key)
		if err != nil {
			t.Fatal(name, err)
		}
		if last, err := restored.LastSequence(t.Context()); err != nil || last != 1 {
			t.Errorf("%s: the snapshot has %d messages, %v", name, last, err)
		}
		restored.Close()
	}
}

func TestSnapshotJudgesADatabase(t *testing.T) {
	key := serverKey(t)
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, path string)
		key   *soft.Key
		want  string // in the error of opening or checking
	}{
		{"a good one", func(*testing.T, string) {}, key, ""},
		{"another key", func(*testing.T, string) {}, serverKey(t), "sealed under another server key"},
		{"none", func(t *testing.T, path string) { os.Remove(path) }, key, "no such file"},
		{"an empty file", func(t *testing.T, path string) { os.WriteFile(path, nil, 0o600) }, key, "its schema is 0"},
		{"no database", func(t *testing.T, path string) { os.WriteFile(path, bytes.Repeat([]byte("x"), 8192), 0o600) }, key, "not a database"},
		{"a newer one", func(t *testing.T, path string) { run(t, path, "PRAGMA user_version = 999") }, key, "its schema is 999"},
		{"another program's", func(t *testing.T, path string) { run(t, path, "PRAGMA application_id = 7") }, key, "another program"},
		{"a damaged page", func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 8192; i < len(b); i++ {
				b[i] ^= 0x5a
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, key, "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "berth.db")
			openAndClose(t, path, key)
			c.spoil(t, path)
			err := judge(t.Context(), path, c.key)
			if got := errorText(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func judge(ctx context.Context, path string, key *soft.Key) error {
	s, err := OpenSnapshot(path)
	if err != nil {
		return err
	}
	defer s.Close()
	return errors.Join(s.Check(ctx, true), s.OpensWith(key))
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// run changes a database behind the store's back.
func run(t *testing.T, path, script string) {
	t.Helper()
	c, err := connect(dsn(path) + "&mode=rw")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.script(script), c.close()); err != nil {
		t.Fatal(err)
	}
}

func TestACopyEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	openAndClose(t, path, serverKey(t))
	s, err := OpenSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Copy(ctx, new(bytes.Buffer)); !errors.Is(err, context.Canceled) {
		t.Errorf("copying ended with %v", err)
	}
}
