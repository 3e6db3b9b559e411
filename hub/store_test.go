package hub_test

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/sqlite"
)

// A store is a database that has every change decided twice, as the contract
// of a registry allows.
type store struct{ *sqlite.Store }

func (s store) Change(ctx context.Context, at hub.Place, decide func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error)) error {
	return s.Store.Change(ctx, at, func(d *hub.Identity, t *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		decide(clone(d), clone(t))
		return decide(d, t)
	})
}

func (s store) Move(ctx context.Context, from, to hub.Place, decide func(*hub.Identity, *hub.Twin, *hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error)) error {
	return s.Store.Move(ctx, from, to, func(d *hub.Identity, t *hub.Twin, left *hub.Identity, leftTwin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		decide(clone(d), clone(t), clone(left), clone(leftTwin))
		return decide(d, t, left, leftTwin)
	})
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// openStore returns a fresh database, for as long as the test runs.
func openStore(t testing.TB) *sqlite.Store {
	t.Helper()
	dir := t.TempDir()
	if err := soft.Create(filepath.Join(dir, "key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k, err := soft.Open(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "db"), k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// open returns a service over a fresh database. Its clock starts at t0 and
// advances by a second with every look.
func open(t *testing.T) (*hub.Service, store) {
	t.Helper()
	now := t0
	s := store{openStore(t)}
	return hub.New(hub.Config{
		Registry: s, Stream: s, Queues: s, Presences: s, Configurations: s, Policies: s, Random: rand.Reader,
		Now: func() time.Time { now = now.Add(time.Second); return now },
	}), s
}

// keep gives the hub of these tests a policy.
func (s store) keep(t *testing.T, p access.Policy) {
	t.Helper()
	if err := s.PutPolicy(t.Context(), access.HubOwner(host), p); err != nil {
		t.Fatal(err)
	}
}

// holds reports whether the hub of these tests has the device.
func (s store) holds(t *testing.T, id device.ID) bool {
	t.Helper()
	_, err := s.Identity(t.Context(), hub.Place{Hub: host, ID: id})
	return err == nil
}

// messages returns all that was kept.
func (s store) messages(t *testing.T) []*hub.Message {
	t.Helper()
	ms, err := s.Read(t.Context(), "", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}
