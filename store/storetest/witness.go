package storetest

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// killedWriters is how many goroutines write at once until they are killed.
const killedWriters = 8

// A Witness remembers what a store acknowledged while somebody was killed, and
// checks that it is there. The zero value is ready.
type Witness struct {
	mu       sync.Mutex // guards the rest
	created  []device.RegistrationID
	counts   map[device.RegistrationID]int
	messages map[string]bool
	moved    map[device.ID]bool
	together map[device.RegistrationID]int
}

// Write makes one round of writes as the given worker, which has some records
// of its own: it makes a registration record, counts in another, appends three
// messages, moves a device to another hub and registers one, record and identity
// together. It calls acknowledged with a line for Note after each. No name is
// used twice.
func Write(ctx context.Context, s Store, worker int, name string, acknowledged func(line string)) error {
	key := device.RegistrationID("new-" + name)
	err := s.ChangeRegistration(ctx, scopeA, key, func(*provision.Registration) (*provision.Registration, error) {
		return &provision.Registration{Scope: scopeA, Key: key, ID: string(key), GroupID: "line-1", HubKeyBlob: make([]byte, 500)}, nil
	})
	if err != nil {
		return err
	}
	acknowledged(fmt.Sprintf("new %s", key))

	key = device.RegistrationID(fmt.Sprint("count-", worker))
	var count errs.Code
	err = s.ChangeRegistration(ctx, scopeA, key, func(r *provision.Registration) (*provision.Registration, error) {
		if r == nil {
			r = &provision.Registration{Scope: scopeA, Key: key}
		}
		r.ErrorCode++
		count = r.ErrorCode
		return r, nil
	})
	if err != nil {
		return err
	}
	acknowledged(fmt.Sprintf("count %s %d", key, count))

	var ms []*hub.Message
	for range 3 {
		ms = append(ms, &hub.Message{Hub: "hub-1", DeviceID: device.ID(name), Enqueued: epoch})
	}
	if err := s.Append(ctx, ms); err != nil {
		return err
	}
	acknowledged("messages " + name)

	id := device.ID(fmt.Sprint("moves-", worker))
	if err := move(ctx, s, id); err != nil {
		return err
	}
	acknowledged("moved " + string(id))

	key = device.RegistrationID(fmt.Sprint("together-", worker))
	if err := registerTogether(ctx, s, key, name); err != nil {
		return err
	}
	acknowledged("together " + string(key))
	return nil
}

// move takes the device to the hub where it is not.
func move(ctx context.Context, s Store, id device.ID) error {
	here, there := "hub-1", "hub-2"
	if _, err := s.Identity(ctx, hub.Place{Hub: here, ID: id}); err == nil {
		here, there = there, here
	}
	return s.Move(ctx, hub.Place{Hub: there, ID: id}, hub.Place{Hub: here, ID: id}, func(at *hub.Identity, _ *hub.Twin, left *hub.Identity, _ *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		d := left
		switch {
		case at != nil:
			d = at // an earlier move of which nobody heard
		case d == nil:
			k, err := device.GenerateSymmetricKey(rand.Reader, 32)
			if err != nil {
				return nil, nil, err
			}
			d = &hub.Identity{Auth: hub.Authentication{Type: hub.AuthSAS, Keys: attest.SymmetricKeys{Primary: k}}}
		}
		d.Hub, d.ID = here, id
		return d, &hub.Twin{}, nil
	})
}

// WriteUntilKilled writes with several goroutines, and prints a line for every
// write that was acknowledged. It returns when a write fails.
func WriteUntilKilled(ctx context.Context, s Store, round string) error {
	failed := make(chan error)
	for worker := range killedWriters {
		go func() {
			for n := 0; ; n++ {
				if err := Write(ctx, s, worker, fmt.Sprintf("%s-%d-%d", round, worker, n), func(line string) { fmt.Println(line) }); err != nil {
					failed <- err
				}
			}
		}()
	}
	return <-failed
}

// WriteAndKill starts this test's program anew, with env and the round as its
// one argument; it is to call WriteUntilKilled. It is killed after it has
// acknowledged some writes, while it is in the middle of others.
func (w *Witness) WriteAndKill(t *testing.T, round, after int, env string) {
	t.Helper()
	child := exec.Command(os.Args[0], fmt.Sprint(round))
	child.Env = append(os.Environ(), env)
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
		if err := w.Note(strings.TrimSuffix(line, "\n")); err != nil {
			t.Error(err)
		}
	}
	kill.Do(func() { t.Errorf("the child ended by itself: %s", &complaints) })
	child.Wait()
}

// Note remembers a line of Write.
func (w *Witness) Note(line string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counts == nil {
		w.counts, w.messages, w.moved = map[device.RegistrationID]int{}, map[string]bool{}, map[device.ID]bool{}
		w.together = map[device.RegistrationID]int{}
	}
	what, rest, _ := strings.Cut(line, " ")
	switch what {
	case "new":
		w.created = append(w.created, device.RegistrationID(rest))
	case "count":
		var key string
		var n int
		if _, err := fmt.Sscan(rest, &key, &n); err != nil {
			return err
		}
		w.counts[device.RegistrationID(key)] = n
	case "messages":
		w.messages[rest] = true
	case "moved":
		w.moved[device.ID(rest)] = true
	case "together":
		w.together[device.RegistrationID(rest)]++
	default:
		return fmt.Errorf("the writer said %q", line)
	}
	return nil
}

// String sums up what was acknowledged.
func (w *Witness) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%d records, %d batches of messages and %d devices", len(w.created), len(w.messages), len(w.moved))
}

// Check fails the test where something that was acknowledged is missing, or
// something is half done. Nobody writes meanwhile.
func (w *Witness) Check(t *testing.T, s Store) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx := t.Context()
	for _, key := range w.created {
		if _, err := s.Registration(ctx, scopeA, key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	for key, n := range w.counts {
		r, err := s.Registration(ctx, scopeA, key)
		if err != nil || int(r.ErrorCode) < n {
			t.Errorf("%s has not counted to %d: %v", key, n, err)
		}
	}
	for key, n := range w.together {
		if there := agree(t, s, key); there < n {
			t.Errorf("%s was registered %d times, and %d are there", key, n, there)
		}
	}
	w.checkMessages(t, s)
	for id := range w.moved {
		_, err1 := s.Identity(ctx, hub.Place{Hub: "hub-1", ID: id})
		_, err2 := s.Identity(ctx, hub.Place{Hub: "hub-2", ID: id})
		if (err1 == nil) == (err2 == nil) {
			t.Errorf("%s is at both hubs or at none: %v, %v", id, err1, err2)
		}
	}
}

func (w *Witness) checkMessages(t *testing.T, s Store) {
	t.Helper()
	ms, err := s.Read(t.Context(), "", 0, 1e6)
	noError(t, err)
	kept := map[string]int{}
	var last uint64
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
	for name := range w.messages {
		if kept[name] == 0 {
			t.Errorf("the messages of %s are gone", name)
		}
	}
}
