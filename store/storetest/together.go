package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// register writes what a registration does: the record and the identity with
// its twin, both marked with the tag, and both counting how often.
func register(ctx context.Context, s Store, key device.RegistrationID, tag string) error {
	err := s.ChangeRegistration(ctx, scopeA, key, func(r *provision.Registration) (*provision.Registration, error) {
		if r == nil {
			r = &provision.Registration{Scope: scopeA, Key: key, Hub: "hub-1", DeviceID: device.ID(key)}
		}
		r.ETag = tag
		r.ErrorCode++
		return r, nil
	})
	if err != nil {
		return err
	}
	return s.Change(ctx, hub.Place{Hub: "hub-1", ID: device.ID(key)}, func(d *hub.Identity, twin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		if d == nil {
			d, twin = &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: device.ID(key)}}, &hub.Twin{}
		}
		d.ETag = tag
		twin.Version++
		return d, twin, nil
	})
}

func registerTogether(ctx context.Context, s Store, key device.RegistrationID, tag string) error {
	return s.Together(ctx, func(ctx context.Context) error { return register(ctx, s, key, tag) })
}

// agree checks that the record and the identity were written by the same
// registration, and returns how many there have been.
func agree(t *testing.T, s Store, key device.RegistrationID) int {
	t.Helper()
	r, err1 := s.Registration(t.Context(), scopeA, key)
	d, err2 := s.Identity(t.Context(), hub.Place{Hub: "hub-1", ID: device.ID(key)})
	twin, err3 := s.Twin(t.Context(), hub.Place{Hub: "hub-1", ID: device.ID(key)})
	if errs.KindOf(err1) == errs.NotFound && errs.KindOf(err2) == errs.NotFound && errs.KindOf(err3) == errs.NotFound {
		return 0
	}
	if err1 != nil || err2 != nil || err3 != nil {
		t.Errorf("%s: half of it is there: %v, %v, %v", key, err1, err2, err3)
		return 0
	}
	if r.ETag != d.ETag || int64(r.ErrorCode) != twin.Version {
		t.Errorf("%s: the record is %s, registered %d times, and the identity %s, %d times", key, r.ETag, r.ErrorCode, d.ETag, twin.Version)
	}
	return int(r.ErrorCode)
}

var togetherRules = []rule{
	{"what is written together is there, and what is kept in memory is not older", func(t *testing.T, s Store) {
		left, leftTwin := home("hub-1", "pump-8")
		noError(t, putHome(t.Context(), s, left, leftTwin))
		before, err := s.Groups(t.Context(), scopeA, attest.TypeTPM)
		noError(t, err)
		same(t, len(before), 0)
		group := entry(scopeA, enroll.Group, "line-1")
		link := filled[provision.LinkedHub]()
		noError(t, s.Together(t.Context(), func(ctx context.Context) error {
			moved := *left
			moved.Hub = "hub-2"
			return errors.Join(
				register(ctx, s, "pump-7", "one"),
				s.Move(ctx, hub.Place{Hub: "hub-1", ID: "pump-8"}, hub.Place{Hub: "hub-2", ID: "pump-8"},
					func(_ *hub.Identity, _ *hub.Twin, _ *hub.Identity, leftTwin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
						return &moved, leftTwin, nil
					}),
				putEntry(ctx, s, group),
				s.PutLinkedHub(ctx, scopeA, link),
			)
		}))
		same(t, agree(t, s, "pump-7"), 1)
		isHome(t, s, "hub-1", "pump-8", nil, nil)
		left.Hub = "hub-2"
		isHome(t, s, "hub-2", "pump-8", left, leftTwin)
		groups, err := s.Groups(t.Context(), scopeA, attest.TypeTPM)
		noError(t, err)
		same(t, groups, []*enroll.Entry{group})
		hubs, err := s.Linked(t.Context(), scopeA)
		noError(t, err)
		same(t, hubs, []provision.LinkedHub{link})
	}},
	{"an error keeps nothing of what was written together", func(t *testing.T, s Store) {
		noError(t, registerTogether(t.Context(), s, "pump-7", "before"))
		refusal := errors.New("no")
		err := s.Together(t.Context(), func(ctx context.Context) error {
			noError(t, register(ctx, s, "pump-7", "after"))
			noError(t, register(ctx, s, "pump-8", "after"))
			noError(t, putEntry(ctx, s, entry(scopeA, enroll.Group, "line-1")))
			return refusal
		})
		if err != refusal {
			t.Errorf("do's error came back as %v", err)
		}
		same(t, agree(t, s, "pump-7"), 1)
		same(t, agree(t, s, "pump-8"), 0)
		groups, err := s.Groups(t.Context(), scopeA, attest.TypeTPM)
		noError(t, err)
		same(t, len(groups), 0)
	}},
	{"a decision for an error wrote nothing, so the others can go on without it", func(t *testing.T, s Store) {
		refusal := errors.New("no")
		noError(t, s.Together(t.Context(), func(ctx context.Context) error {
			err := s.Change(ctx, hub.Place{Hub: "hub-1", ID: "pump-7"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, refusal })
			if err != refusal {
				t.Errorf("decide's error came back as %v", err)
			}
			return register(ctx, s, "pump-8", "one")
		}))
		same(t, agree(t, s, "pump-7"), 0)
		same(t, agree(t, s, "pump-8"), 1)
	}},
	{"a write that fails halfway takes the others with it, whoever ignores it", func(t *testing.T, s Store) {
		noError(t, registerTogether(t.Context(), s, "pump-7", "one"))
		isKind(t, s.Together(t.Context(), func(ctx context.Context) error {
			noError(t, register(ctx, s, "pump-8", "one"))
			isKind(t, s.Move(ctx, hub.Place{Hub: "hub-1", ID: "pump-7"}, hub.Place{Hub: "hub-2", ID: "pump-7"},
				func(*hub.Identity, *hub.Twin, *hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
					return &hub.Identity{Place: hub.Place{Hub: "hub-2", ID: "renamed"}}, nil, nil
				}), errs.Internal)
			return nil
		}), errs.Internal)
		same(t, agree(t, s, "pump-7"), 1)
		same(t, agree(t, s, "pump-8"), 0)
		isKind(t, s.Together(t.Context(), func(ctx context.Context) error {
			return errors.Join(register(ctx, s, "pump-8", "one"), putEntry(ctx, s, entry(nowhere, enroll.Individual, "pump-8")))
		}), errs.NotFound) // of the scope
		same(t, agree(t, s, "pump-8"), 0)
	}},
	{"a panic keeps nothing and holds up nobody", func(t *testing.T, s Store) {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was lost")
				}
			}()
			s.Together(t.Context(), func(ctx context.Context) error {
				noError(t, register(ctx, s, "pump-7", "one"))
				return s.ChangeRegistration(ctx, scopeA, "pump-8", func(*provision.Registration) (*provision.Registration, error) { panic("a bug") })
			})
		}()
		same(t, agree(t, s, "pump-7"), 0)
		noError(t, registerTogether(t.Context(), s, "pump-7", "two"))
		same(t, agree(t, s, "pump-7"), 1)
	}},
	{"what fails harms nobody who writes at the same time", func(t *testing.T, s Store) {
		refusal := errors.New("no")
		race(64, func(i int) error {
			key := device.RegistrationID(fmt.Sprint("pump-", i))
			err := s.Together(t.Context(), func(ctx context.Context) error {
				if err := register(ctx, s, key, "one"); err != nil || i%3 != 0 {
					return err
				}
				return refusal
			})
			if (err == refusal) != (i%3 == 0) || err != nil && err != refusal {
				t.Errorf("%s: %v", key, err)
			}
			return err
		})
		for i := range 64 {
			want := 1
			if i%3 == 0 {
				want = 0
			}
			same(t, agree(t, s, device.RegistrationID(fmt.Sprint("pump-", i))), want)
		}
	}},
	{"of those who write the same together one comes after the other", func(t *testing.T, s Store) {
		TogetherInTurn(t, s)
	}},
	{"in a transaction everything can be read", func(t *testing.T, s Store) {
		noError(t, registerTogether(t.Context(), s, "pump-7", "one"))
		noError(t, putEntry(t.Context(), s, entry(scopeA, enroll.Group, "line-1")))
		noError(t, s.Together(t.Context(), func(ctx context.Context) error {
			var failures []error
			note := func(err error) { failures = append(failures, err) }
			same(t, agree(t, s, "pump-7"), 1) // which is outside
			_, err := s.Registration(ctx, scopeA, "pump-7")
			note(err)
			_, err = s.Identity(ctx, hub.Place{Hub: "hub-1", ID: "pump-7"})
			note(err)
			_, err = s.Scope(ctx, scopeA)
			note(err)
			_, err = s.Linked(ctx, scopeA)
			note(err)
			groups, err := s.Groups(ctx, scopeA, attest.TypeTPM)
			note(err)
			same(t, len(groups), 1)
			_, err = s.Registration(ctx, scopeA, "pump-8")
			isKind(t, err, errs.NotFound)
			note(register(ctx, s, "pump-8", "one"))
			return errors.Join(failures...)
		}))
		same(t, agree(t, s, "pump-8"), 1)
	}},
	{"in a transaction what it wrote is read, and is not there when it fails", func(t *testing.T, s Store) {
		fault := errors.New("a change of mind")
		gate, twin := home("hub-1", "gate")
		gate.IoTEdge, gate.ParentScope = true, ""
		child, childTwin := home("hub-1", "pump-7")
		child.ParentScope = gate.DeviceScope()
		m := module("hub-1", "gate", "m1")
		write := func(ctx context.Context) error {
			noError(t, putHome(ctx, s, gate, twin))
			got, err := s.Identity(ctx, gate.Place)
			noError(t, err)
			same(t, got, gate)
			noError(t, putHome(ctx, s, m, filled[*hub.Twin]()))
			modules, err := s.Modules(ctx, "hub-1", "gate")
			noError(t, err)
			same(t, modules, []*hub.Identity{m})
			noError(t, putHome(ctx, s, child, childTwin))
			children, err := s.Children(ctx, "hub-1", gate.DeviceScope(), "", 10)
			noError(t, err)
			same(t, children, []*hub.Identity{child})
			noError(t, s.Change(ctx, child.Place, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
			_, err = s.Twin(ctx, child.Place)
			isKind(t, err, errs.NotFound)
			return nil
		}
		isKind(t, s.Together(t.Context(), func(ctx context.Context) error { write(ctx); return fault }), errs.Internal)
		isAt(t, s, gate.Place, nil, nil)
		isAt(t, s, m.Place, nil, nil)
		noError(t, s.Together(t.Context(), write))
		isHome(t, s, "hub-1", "gate", gate, twin)
		isHome(t, s, "hub-1", "pump-7", nil, nil)
	}},
	{"a transaction in a transaction is a part of it", func(t *testing.T, s Store) {
		refusal := errors.New("no")
		noError(t, s.Together(t.Context(), func(ctx context.Context) error {
			return errors.Join(registerTogether(ctx, s, "pump-7", "one"), registerTogether(ctx, s, "pump-8", "one"))
		}))
		same(t, agree(t, s, "pump-7"), 1)
		same(t, agree(t, s, "pump-8"), 1)
		err := s.Together(t.Context(), func(ctx context.Context) error {
			noError(t, registerTogether(ctx, s, "pump-9", "one"))
			inner := s.Together(ctx, func(ctx context.Context) error {
				return errors.Join(register(ctx, s, "pump-7", "two"), refusal)
			})
			if !errors.Is(inner, refusal) {
				t.Errorf("do's error came back as %v", inner)
			}
			return nil
		})
		if !errors.Is(err, refusal) {
			t.Errorf("the inner one was refused, the outer one is %v", err)
		}
		same(t, agree(t, s, "pump-7"), 1)
		same(t, agree(t, s, "pump-9"), 0)
	}},
	{"a context that escaped from its transaction writes and reads nothing", func(t *testing.T, s Store) {
		for _, outcome := range []error{nil, errors.New("no")} {
			var escaped context.Context
			err := s.Together(t.Context(), func(ctx context.Context) error {
				escaped = ctx
				return errors.Join(outcome, register(ctx, s, "pump-7", "one"))
			})
			same(t, err == nil, outcome == nil)
			isKind(t, register(escaped, s, "pump-8", "one"), errs.Internal)
			isKind(t, registerTogether(escaped, s, "pump-8", "one"), errs.Internal)
			isKind(t, s.Change(escaped, hub.Place{Hub: "hub-1", ID: "pump-8"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				t.Error("decided")
				return nil, nil, nil
			}), errs.Internal)
			_, err = s.Registration(escaped, scopeA, "pump-7")
			isKind(t, err, errs.Internal)
			_, err = s.Scope(escaped, scopeA)
			isKind(t, err, errs.Internal)
			same(t, agree(t, s, "pump-7"), 1)
			same(t, agree(t, s, "pump-8"), 0)
		}
	}},
	{"a decision that calls the store with the context of its transaction gets an error", func(t *testing.T, s Store) {
		isKind(t, s.Together(t.Context(), func(ctx context.Context) error {
			return s.ChangeRegistration(ctx, scopeA, "pump-7", func(*provision.Registration) (*provision.Registration, error) {
				return nil, register(ctx, s, "pump-8", "one")
			})
		}), errs.Internal)
		same(t, agree(t, s, "pump-8"), 0)
	}},
	{"messages are not written together with anything else", func(t *testing.T, s Store) {
		isKind(t, s.Together(t.Context(), func(ctx context.Context) error {
			_, err := s.Trim(ctx, hub.Retention{Before: epoch})
			isKind(t, err, errs.Internal)
			return s.Append(ctx, []*hub.Message{{Hub: "hub-1", DeviceID: "d", Enqueued: epoch}})
		}), errs.Internal)
	}},
	{"what is to be written together and never began changes nothing", func(t *testing.T, s Store) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Together(ctx, func(context.Context) error { t.Error("began"); return nil }); err == nil {
			t.Error("wrote")
		}
		ctx, cancel = context.WithCancel(t.Context())
		noError(t, s.Together(ctx, func(ctx context.Context) error {
			cancel()
			return register(ctx, s, "pump-7", "one")
		}))
		same(t, agree(t, s, "pump-7"), 1)
		noError(t, s.Close())
		isKind(t, registerTogether(t.Context(), s, "pump-7", "two"), errs.Unavailable)
	}},
}

// TogetherInTurn has many register the same few devices at once, at one or
// several stores of the same database.
func TogetherInTurn(t *testing.T, stores ...Store) {
	const each, devices = 32, 3
	race(each*devices, func(i int) error {
		s := stores[i%len(stores)]
		err := registerTogether(t.Context(), s, device.RegistrationID(fmt.Sprint("pump-", i%devices)), fmt.Sprint(i))
		if err != nil {
			t.Error(err)
		}
		return err
	})
	for i := range devices {
		for _, s := range stores {
			same(t, agree(t, s, device.RegistrationID(fmt.Sprint("pump-", i))), each)
		}
	}
}
