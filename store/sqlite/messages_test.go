package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/segment"
)

// databaseWithMessages makes a database as the program of schema 5 left it, with
// messages of the numbers in it, and returns those.
func databaseWithMessages(t *testing.T, path string, trimmed int, numbers ...int) (ms []*hub.Message) {
	t.Helper()
	c, err := connect(dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	for step := 1; step <= 5; step++ {
		names, err := filepath.Glob(fmt.Sprintf("migrations/%04d_*.sql", step))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		text, err := migrations.ReadFile(names[0])
		if err == nil {
			err = c.script(string(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.exec("BEGIN"); err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers {
		m := &hub.Message{
			Sequence: uint64(n), Hub: fmt.Sprint("hub-", n%2), DeviceID: device.ID(fmt.Sprint("d-", n)), Enqueued: time.Unix(1750000000, int64(n)).UTC(),
			System: map[string]string{"message-id": fmt.Sprint(n)}, Body: []byte(strings.Repeat("b", n%50)),
		}
		err := c.exec("INSERT INTO message (sequence, hub, device_id, enqueued, system, properties, body) VALUES (?, ?, ?, ?, ?, NULL, ?)",
			int64(n), m.Hub, string(m.DeviceID), m.Enqueued.UnixNano(), fmt.Sprintf(`{"message-id":"%d"}`, n), m.Body)
		if err != nil {
			t.Fatal(err)
		}
		ms = append(ms, m)
	}
	err = c.script(fmt.Sprintf("PRAGMA user_version = 5; UPDATE message_trimmed SET sequence = %d; COMMIT", trimmed))
	if err == nil {
		err = c.close()
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func upTo(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i+1)
	}
	return numbers
}

// An older version kept messages in the database.
func TestMessagesMoveOutOfAnOlderDatabase(t *testing.T) {
	for _, c := range []struct {
		name    string
		trimmed int
		numbers []int
		last    uint64
	}{
		{"none", 0, nil, 0},
		{"all were trimmed", 700, nil, 700},
		{"many", 0, upTo(2*moveBatch + 500), 2*moveBatch + 500},
		{"with gaps, and the newest were trimmed", 90, []int{3, 4, 70, 71, 80}, 90},
		{"more came after trimming", 4, []int{4, 5, 6}, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
			ms := databaseWithMessages(t, path, c.trimmed, c.numbers...)
			s, err := Open(t.Context(), path, key)
			if err != nil {
				t.Fatal(err)
			}
			haveMoved(t, s, ms, c.last)
			next := &hub.Message{Hub: "hub-1", DeviceID: "d", Enqueued: time.Unix(1760000000, 0).UTC()}
			if err := s.Append(t.Context(), []*hub.Message{next}); err != nil || next.Sequence != c.last+1 {
				t.Errorf("the next message is %d, %v", next.Sequence, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(t.Context(), path, key); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			haveMoved(t, s, append(ms, next), c.last+1)
		})
	}
}

func haveMoved(t *testing.T, s *Store, want []*hub.Message, last uint64) {
	t.Helper()
	got, err := s.Read(t.Context(), "", 0, len(want)+10)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d messages, want %d, %v", len(got), len(want), err)
	}
	for i, m := range got {
		if !reflect.DeepEqual(m, want[i]) {
			t.Fatalf("message %d is %+v, want %+v", i, m, want[i])
		}
	}
	if n, err := s.LastSequence(t.Context()); err != nil || n != last {
		t.Errorf("the last message is %d, want %d, %v", n, last, err)
	}
	if n, err := s.writer.number("SELECT count(*) FROM message"); err != nil || n != 0 {
		t.Errorf("%d messages are in the database, %v", n, err)
	}
}

// A move that was interrupted goes on where it was.
func TestAnInterruptedMoveGoesOn(t *testing.T) {
	const messages = moveBatch + 300
	for _, before := range []int{0, 1, moveBatch, messages} { // that are in the stream
		path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
		ms := databaseWithMessages(t, path, 0, upTo(messages)...)
		l, err := segment.Open(streamDir(path), segment.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Import(t.Context(), ms[:before]); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), path, key)
		if err != nil {
			t.Fatal(err)
		}
		haveMoved(t, s, ms, messages)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A snapshot of an older database has its messages in that.
func TestASnapshotBeforeTheMove(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
	ms := databaseWithMessages(t, path, 0, 1, 2, 3)
	s, err := OpenSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	if stream, err := s.Stream(); stream != nil || err != nil {
		t.Errorf("a stream, %v", err)
	}
	if newest, err := s.Newest(); err != nil || !newest.Equal(ms[2].Enqueued) {
		t.Errorf("the newest is of %v, %v", newest, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openAndClose(t, path, key)
	after, err := OpenSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if newest, err := after.Newest(); err != nil || !newest.Equal(ms[2].Enqueued) {
		t.Errorf("after the move the newest is of %v, %v", newest, err)
	}
}

// Messages that are gone are missed, until somebody gives them up. Their numbers
// are not used again.
func TestLostMessagesAreMissed(t *testing.T) {
	ctx, path, key := t.Context(), filepath.Join(t.TempDir(), "berth.db"), serverKey(t)
	fill := func(n int) {
		t.Helper()
		s, err := Open(ctx, path, key)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for range n {
			if err := s.Append(ctx, []*hub.Message{{Hub: "hub-1", DeviceID: "d", Enqueued: time.Now()}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Trim(ctx, hub.Retention{Before: time.Now().AddDate(-1, 0, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	fill(5)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(streamDir(path))); err != nil {
		t.Fatal(err)
	}
	fill(5)
	lose := func(want string) {
		t.Helper()
		if s, err := Open(ctx, path, key); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "mkdir -m 700 "+streamDir(path)) {
			t.Errorf("%v, %v; want %q", s, err, want)
		}
	}
	if err := os.RemoveAll(streamDir(path)); err != nil {
		t.Fatal(err)
	}
	lose("its messages are missing")
	if err := os.CopyFS(streamDir(path), os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(streamDir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	lose("ends with number 5, and went to 10")
	if err := os.RemoveAll(streamDir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(streamDir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	fill(1)
	if last := lastOf(ctx, t, path, key); last != 11 {
		t.Errorf("the last message is %d", last)
	}
}

func lastOf(ctx context.Context, t *testing.T, path string, key *soft.Key) uint64 {
	t.Helper()
	s, err := Open(ctx, path, key)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	last, err := s.LastSequence(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return last
}
