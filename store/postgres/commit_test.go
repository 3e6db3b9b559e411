package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// A wire stands between a store and its server. When it is cut, what the client
// sends still arrives, and the connection breaks in place of the answer.
type wire struct{ cut atomic.Bool }

// dsn leads through the wire to where dsn leads.
func (w *wire) dsn(t *testing.T, dsn string) string {
	t.Helper()
	dir := testServer(t).Directory()
	through := shortDir(t)
	l, err := net.Listen("unix", filepath.Join(through, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", filepath.Join(dir, ".s.PGSQL.5432"))
			if err != nil {
				client.Close()
				return
			}
			go func() {
				io.Copy(server, client)
				server.Close()
			}()
			go w.answer(client, server)
		}
	}()
	return strings.Replace(dsn, dir, through, 1)
}

func (w *wire) answer(client, server net.Conn) {
	defer client.Close()
	defer server.Close()
	b := make([]byte, 4096)
	for {
		n, err := server.Read(b)
		if err != nil || w.cut.Load() {
			return
		}
		client.Write(b[:n])
	}
}

func putRegistration(ctx context.Context, s *Store, key device.RegistrationID, before func()) error {
	return s.ChangeRegistration(ctx, testScope, key, func(*provision.Registration) (*provision.Registration, error) {
		before()
		return &provision.Registration{Scope: testScope, Key: key}, nil
	})
}

func TestALostAnswerToACommitIsUncertain(t *testing.T) {
	w, dsn, key := new(wire), testDSN(t), serverKey(t)
	s := openAt(t, w.dsn(t, dsn), key)
	// The first one also prepares the statements, in round trips of its own.
	if err := putRegistration(t.Context(), s, "pump-6", func() {}); err != nil {
		t.Fatal(err)
	}
	err := putRegistration(t.Context(), s, "pump-7", func() { w.cut.Store(true) })
	if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, ErrUncertain) {
		t.Errorf("the write went and its answer did not come: %v", err)
	}
	if public := errs.Public(err); strings.Contains(public.Message, "write") {
		t.Errorf("strangers are told %q", public.Message)
	}
	w.cut.Store(false)
	if _, err := s.Registration(t.Context(), testScope, "pump-7"); err != nil {
		t.Errorf("this test means the write to have happened: %v", err)
	}
	if err := putRegistration(t.Context(), s, "pump-8", func() {}); err != nil {
		t.Errorf("when the connection was there again: %v", err)
	}
}

func TestWhatNeverBeganIsNotUncertain(t *testing.T) {
	w := new(wire)
	s := openAt(t, w.dsn(t, testDSN(t)), serverKey(t))
	w.cut.Store(true)
	err := putRegistration(t.Context(), s, "pump-7", func() { t.Error("decided without having read") })
	if errs.KindOf(err) != errs.Unavailable || errors.Is(err, ErrUncertain) {
		t.Errorf("%v", err)
	}
}

func TestAWriteThatBeganIsNotInterrupted(t *testing.T) {
	s := openTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := putRegistration(ctx, s, "pump-7", cancel); err != nil {
		t.Error(err)
	}
	if _, err := s.Registration(t.Context(), testScope, "pump-7"); err != nil {
		t.Error(err)
	}
}

func TestADecisionThatPanicsHoldsNothing(t *testing.T) {
	s := openTest(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		putRegistration(t.Context(), s, "pump-7", func() { panic("a bug") })
	}()
	if err := putRegistration(t.Context(), s, "pump-7", func() {}); err != nil {
		t.Error(err)
	}
	if n := len(s.pool.slots); n != 0 {
		t.Errorf("%d connections are held", n)
	}
}

func TestALostRaceIsDecidedAgainAndNotForEver(t *testing.T) {
	s := openTest(t)
	var found []bool
	err := s.ChangeRegistration(t.Context(), testScope, "pump-7", func(old *provision.Registration) (*provision.Registration, error) {
		found = append(found, old != nil)
		if old == nil { // somebody else makes it before this transaction does
			if err := putRegistration(t.Context(), s, "pump-7", func() {}); err != nil {
				t.Error(err)
			}
		}
		return &provision.Registration{Scope: testScope, Key: "pump-7"}, nil
	})
	if err != nil || fmt.Sprint(found) != "[false true]" {
		t.Errorf("decided on %v: %v", found, err)
	}

	attempts := 0
	err = s.transact(t.Context(), func(ctx context.Context, t *tx) error {
		attempts++
		t.write("INSERT INTO registration SELECT * FROM registration") // which is there
		return nil
	})
	if errs.KindOf(err) != errs.Unavailable || attempts != maxAttempts {
		t.Errorf("%d attempts: %v", attempts, err)
	}
}

func TestTextThatPostgreSQLDoesNotTakeIsInvalid(t *testing.T) {
	s := openTest(t)
	for _, text := range []string{"a\x00b", "a\xffb"} {
		err := s.ChangeRegistration(t.Context(), testScope, "pump-7", func(*provision.Registration) (*provision.Registration, error) {
			return &provision.Registration{Scope: testScope, Key: "pump-7", ErrorMessage: text}, nil
		})
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestABadMessageHarmsNoNeighbour(t *testing.T) {
	s := openTest(t)
	batch := []*appending{
		{messages: []*hub.Message{{Hub: "hub-1", DeviceID: "a"}}, done: make(chan struct{})},
		{messages: []*hub.Message{{Hub: "hub-1", DeviceID: "b"}, {Hub: "\x00", DeviceID: "c"}}, done: make(chan struct{})},
		{messages: []*hub.Message{{Hub: "hub-1", DeviceID: "d"}}, done: make(chan struct{})},
	}
	s.append(batch, new(messageRows))
	for i, want := range []uint64{1, 0, 2} {
		<-batch[i].done
		if batch[i].first != want || (batch[i].err == nil) != (want != 0) {
			t.Errorf("%d: first is %d, %v; want %d", i, batch[i].first, batch[i].err, want)
		}
	}
}

// shortDir is t.TempDir with a name that leaves room for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
