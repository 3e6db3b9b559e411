package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	crypto "crypto/rand"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	crashes      = 20
	crashWriters = 8
	crashDir     = "BERTH_TEST_CRASH_DIR" // tells the test binary that it is to be killed
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(dir, os.Args[1]))
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

// writeUntilKilled writes with several goroutines and prints a line for every
// write that was acknowledged: which registration record was made, how far the
// writer's own record has counted, how many messages went in its last batch,
// and which hub its device moved to.
func writeUntilKilled(dir, round string) error {
	ctx := context.Background()
	s, err := openCrash(ctx, dir)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range crashWriters {
		go func() {
			for n := 0; ; n++ {
				if err := writeOnce(ctx, s, w, fmt.Sprintf("%s-%d-%d", round, w, n)); err != nil {
					failed <- err
				}
			}
		}()
	}
	return <-failed
}

func writeOnce(ctx context.Context, s *Store, w int, name string) error {
	key := device.RegistrationID("new-" + name)
	err := s.ChangeRegistration(ctx, testScope, key, func(*provision.Registration) (*provision.Registration, error) {
		return &provision.Registration{Scope: testScope, Key: key, ID: string(key), GroupID: "line-1", HubKeyBlob: make([]byte, 500)}, nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("new %s\n", key)

	key = device.RegistrationID(fmt.Sprint("count-", w))
	var count errs.Code
	err = s.ChangeRegistration(ctx, testScope, key, func(r *provision.Registration) (*provision.Registration, error) {
		if r == nil {
			r = &provision.Registration{Scope: testScope, Key: key}
		}
		r.ErrorCode++
		count = r.ErrorCode
		return r, nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("count %s %d\n", key, count)

	var ms []*hub.Message
	for range 3 {
		ms = append(ms, &hub.Message{Hub: "hub-1", DeviceID: device.ID(name), Enqueued: time.Unix(1, 0)})
	}
	if err := s.Append(ctx, ms); err != nil {
		return err
	}
	fmt.Printf("messages %s\n", name)

	id := device.ID(fmt.Sprint("moves-", w))
	here, there := "hub-1", "hub-2"
	if _, err := s.Device(ctx, here, id); err == nil {
		here, there = there, here
	}
	err = s.Move(ctx, hub.Place{Hub: there, ID: id}, here, id, func(_ *hub.Device, _ *hub.Twin, left *hub.Device, _ *hub.Twin) (*hub.Device, *hub.Twin, error) {
		if left == nil {
			k, err := device.GenerateSymmetricKey(crypto.Reader, 32)
			left = &hub.Device{Auth: hub.Authentication{Type: hub.AuthSAS, Keys: attest.SymmetricKeys{Primary: k}}}
			if err != nil {
				return nil, nil, err
			}
		}
		left.Hub, left.ID = here, id
		return left, &hub.Twin{}, nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("moved %s\n", id)
	return nil
}

// acknowledged is what the killed processes had said is safe.
type acknowledged struct {
	created  []device.RegistrationID
	counts   map[device.RegistrationID]int
	messages map[string]bool
	moved    map[device.ID]bool
}

func (a *acknowledged) note(line string) error {
	what, rest, _ := strings.Cut(line, " ")
	switch what {
	case "new":
		a.created = append(a.created, device.RegistrationID(rest))
	case "count":
		var key string
		var n int
		if _, err := fmt.Sscan(rest, &key, &n); err != nil {
			return err
		}
		a.counts[device.RegistrationID(key)] = n
	case "messages":
		a.messages[rest] = true
	case "moved":
		a.moved[device.ID(rest)] = true
	default:
		return fmt.Errorf("the child said %q", line)
	}
	return nil
}

func TestKillingLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "server.key"), crypto.Reader); err != nil {
		t.Fatal(err)
	}
	acked := &acknowledged{counts: map[device.RegistrationID]int{}, messages: map[string]bool{}, moved: map[device.ID]bool{}}
	for round := range crashes {
		s, err := openCrash(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		acked.check(t, s)
		if err := s.PutScope(t.Context(), provision.Scope{ID: testScope}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		writeAndKill(t, dir, round, rand.IntN(400), acked)
	}
	s, err := openCrash(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	acked.check(t, s)
	t.Logf("%d records, %d batches of messages, %d devices over %d kills", len(acked.created), len(acked.messages), len(acked.moved), crashes)
}

// writeAndKill starts a child and kills it after it has acknowledged some
// writes, while it is in the middle of others.
func writeAndKill(t *testing.T, dir string, round, after int, acked *acknowledged) {
	t.Helper()
	child := exec.Command(os.Args[0], fmt.Sprint(round))
	child.Env = append(os.Environ(), crashDir+"="+dir)
	var complaints strings.Builder
	child.Stderr = &complaints
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var kill sync.Once
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		if n >= after {
			kill.Do(func() { child.Process.Kill() })
		}
		line, err := lines.ReadString('\n')
		if err == io.EOF { // half a line acknowledges nothing
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := acked.note(strings.TrimSuffix(line, "\n")); err != nil {
			t.Error(err)
		}
	}
	kill.Do(func() { t.Errorf("the child ended by itself: %s", &complaints) })
	child.Wait()
}

func (a *acknowledged) check(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	err := s.read(ctx, func(c *conn) error {
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
	for _, key := range a.created {
		if _, err := s.Registration(ctx, testScope, key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	for key, n := range a.counts {
		r, err := s.Registration(ctx, testScope, key)
		if err != nil || int(r.ErrorCode) < n {
			t.Errorf("%s has not counted to %d: %v", key, n, err)
		}
	}
	kept := map[string]int{}
	var last uint64
	ms, err := s.Read(ctx, "", 0, 1e6)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if kept[string(m.DeviceID)]++; m.Sequence != last+1 {
			t.Errorf("message %d follows %d", m.Sequence, last)
		}
		last = m.Sequence
	}
	for name, n := range kept {
		if n != 3 {
			t.Errorf("%d of the three messages of %s", n, name)
		}
	}
	for name := range a.messages {
		if kept[name] == 0 {
			t.Errorf("the messages of %s are gone", name)
		}
	}
	for id := range a.moved {
		_, err1 := s.Device(ctx, "hub-1", id)
		_, err2 := s.Device(ctx, "hub-2", id)
		if (err1 == nil) == (err2 == nil) {
			t.Errorf("%s is at both hubs or at none: %v, %v", id, err1, err2)
		}
	}
}
