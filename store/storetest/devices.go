package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

func home(host string, id device.ID) (*hub.Identity, *hub.Twin) {
	d := filled[*hub.Identity]()
	d.Place, d.ManagedBy = hub.Place{Hub: host, ID: id}, "" // which is a module's
	return d, filled[*hub.Twin]()
}

func putHome(ctx context.Context, s Store, d *hub.Identity, twin *hub.Twin) error {
	return s.Change(ctx, d.Place, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return d, twin, nil })
}

// module is a module's identity with something in every member it has.
func module(host string, id, name device.ID) *hub.Identity {
	m := filled[*hub.Identity]()
	m.Place = hub.Place{Hub: host, ID: id, Module: name}
	m.Disabled, m.StatusReason, m.StatusUpdated, m.IoTEdge, m.ParentScope = false, "", time.Time{}, false, "" // which are a device's
	return m
}

// isHome is isAt for a device.
func isHome(t *testing.T, s Store, host string, id device.ID, d *hub.Identity, twin *hub.Twin) {
	t.Helper()
	isAt(t, s, hub.Place{Hub: host, ID: id}, d, twin)
}

// isAt checks that the place has the identity and the twin, each nil for none.
func isAt(t *testing.T, s Store, at hub.Place, d *hub.Identity, twin *hub.Twin) {
	t.Helper()
	gotIdentity, err := s.Identity(t.Context(), at)
	if d == nil {
		isKind(t, err, errs.NotFound)
	} else {
		noError(t, err)
		same(t, gotIdentity, d)
	}
	gotTwin, err := s.Twin(t.Context(), at)
	if twin == nil {
		isKind(t, err, errs.NotFound)
	} else {
		noError(t, err)
		same(t, gotTwin, twin)
	}
}

var deviceRules = []rule{
	{"an identity and its twin are what was put, in every member", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "Pump-7")
		for range 2 { // made, and replaced
			noError(t, putHome(t.Context(), s, d, twin))
			isHome(t, s, "hub-1", "Pump-7", d, twin)
			empty := &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: "Pump-7"}}
			noError(t, putHome(t.Context(), s, empty, nil))
			isHome(t, s, "hub-1", "Pump-7", empty, nil)
		}
	}},
	{"an identity and a twin with little in them have no more when read", func(t *testing.T, s Store) {
		for _, twin := range []*hub.Twin{nil, {}, {Tags: json.RawMessage{}}, {Desired: json.RawMessage("{}")}} {
			d := &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: "pump-7"}}
			noError(t, putHome(t.Context(), s, d, twin))
			isHome(t, s, "hub-1", "pump-7", d, twin)
		}
	}},
	{"a device is found by its own hub and exact ID", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "Pump-7")
		noError(t, putHome(t.Context(), s, d, twin))
		isHome(t, s, "hub-1", "pump-7", nil, nil)
		isHome(t, s, "hub-2", "Pump-7", nil, nil)
		other, otherTwin := home("hub-1", "pump-7")
		other.ETag = "other"
		noError(t, putHome(t.Context(), s, other, otherTwin))
		isHome(t, s, "hub-1", "Pump-7", d, twin)
		isHome(t, s, "hub-1", "pump-7", other, otherTwin)
	}},
	{"a change sees the identity and twin it replaces, and may remove both", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		noError(t, s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(was *hub.Identity, wasTwin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			same(t, was, (*hub.Identity)(nil))
			same(t, wasTwin, (*hub.Twin)(nil))
			return d, twin, nil
		}))
		noError(t, s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(was *hub.Identity, wasTwin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			same(t, was, d)
			same(t, wasTwin, twin)
			return nil, nil, nil
		}))
		isHome(t, s, "hub-1", "pump-7", nil, nil)
		noError(t, s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			return nil, nil, nil
		}))
	}},
	{"identities are listed by hub, in the order of their bytes, page by page", func(t *testing.T, s Store) {
		none, err := s.Devices(t.Context(), "hub-1", "", 10)
		noError(t, err)
		same(t, len(none), 0)
		want := map[string][]*hub.Identity{}
		for _, id := range []device.ID{"b", "a", "$edgeHub", "A", "a!", "ab", "c"} {
			d, twin := home("hub-1", id)
			noError(t, putHome(t.Context(), s, d, twin))
			want["hub-1"] = append(want["hub-1"], d)
		}
		other, twin := home("hub-2", "a")
		noError(t, putHome(t.Context(), s, other, twin))
		want["hub-2"] = []*hub.Identity{other}
		for host, all := range want {
			slices.SortFunc(all, func(a, b *hub.Identity) int { return strings.Compare(string(a.ID), string(b.ID)) })
			for _, limit := range []int{1, 3, 7, 100} {
				var got []*hub.Identity
				for after := device.ID(""); ; after = got[len(got)-1].ID {
					page, err := s.Devices(t.Context(), host, after, limit)
					noError(t, err)
					if got = append(got, page...); len(page) < limit {
						break
					}
				}
				same(t, got, all)
			}
		}
		none, err = s.Devices(t.Context(), "hub-1", "", 0)
		noError(t, err)
		same(t, len(none), 0)
	}},
	{"a module and its twin are what was put, in every member, and go with their device", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		m, mTwin := module("hub-1", "pump-7", "$edgeAgent"), filled[*hub.Twin]()
		isKind(t, putHome(t.Context(), s, m, mTwin), errs.NotFound)
		noError(t, putHome(t.Context(), s, d, twin))
		for range 2 { // made, and replaced
			noError(t, putHome(t.Context(), s, m, mTwin))
			isAt(t, s, m.Place, m, mTwin)
			empty := &hub.Identity{Place: m.Place}
			noError(t, putHome(t.Context(), s, empty, nil))
			isAt(t, s, m.Place, empty, nil)
		}
		isHome(t, s, "hub-1", "pump-7", d, twin)
		isAt(t, s, hub.Place{Hub: "hub-1", ID: "pump-7", Module: "$edgeagent"}, nil, nil)
		noError(t, s.Change(t.Context(), d.Place, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
		isAt(t, s, m.Place, nil, nil)
	}},
	{"modules are listed by device, in the order of their bytes, and are no devices", func(t *testing.T, s Store) {
		for _, id := range []device.ID{"pump-7", "pump-8"} {
			d, twin := home("hub-1", id)
			noError(t, putHome(t.Context(), s, d, twin))
		}
		var want []*hub.Identity
		for _, id := range []device.ID{"a", "$edgeHub", "A"} {
			m := module("hub-1", "pump-7", id)
			noError(t, putHome(t.Context(), s, m, filled[*hub.Twin]()))
			want = append(want, m)
		}
		slices.SortFunc(want, func(a, b *hub.Identity) int { return strings.Compare(string(a.Module), string(b.Module)) })
		got, err := s.Modules(t.Context(), "hub-1", "pump-7")
		noError(t, err)
		same(t, got, want)
		none, err := s.Modules(t.Context(), "hub-1", "pump-8")
		noError(t, err)
		same(t, len(none), 0)
		listed, err := s.Devices(t.Context(), "hub-1", "", 10)
		noError(t, err)
		same(t, len(listed), 2)
		counted, err := s.Statistics(t.Context(), "hub-1")
		noError(t, err)
		same(t, counted.Total, 2)
	}},
	{"children of a scope are listed by ID", func(t *testing.T, s Store) {
		const scope = "ms-azure-iot-edge://gate-1"
		var want []*hub.Identity
		for _, c := range []struct{ host, id, scope string }{
			{"hub-1", "b", scope}, {"hub-1", "B", scope}, {"hub-1", "a", scope}, {"hub-1", "other", scope + "1"}, {"hub-1", "free", ""}, {"hub-2", "a", scope},
		} {
			d, twin := home(c.host, device.ID(c.id))
			d.ParentScope = c.scope
			noError(t, putHome(t.Context(), s, d, twin))
			if c.host == "hub-1" && c.scope == scope {
				want = append(want, d)
			}
		}
		slices.SortFunc(want, func(a, b *hub.Identity) int { return strings.Compare(string(a.ID), string(b.ID)) })
		first, err := s.Children(t.Context(), "hub-1", scope, "", 2)
		noError(t, err)
		same(t, first, want[:2])
		rest, err := s.Children(t.Context(), "hub-1", scope, first[1].ID, 2)
		noError(t, err)
		same(t, rest, want[2:])
		none, err := s.Children(t.Context(), "hub-1", scope+"2", "", 2)
		noError(t, err)
		same(t, len(none), 0)
	}},
	{"modules do not move: they go when their device leaves", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		m := module("hub-1", "pump-7", "m1")
		noError(t, putHome(t.Context(), s, d, twin))
		noError(t, putHome(t.Context(), s, m, filled[*hub.Twin]()))
		next, nextTwin := home("hub-2", "pump-7")
		take := func(*hub.Identity, *hub.Twin, *hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			return next, nextTwin, nil
		}
		if err := s.Move(t.Context(), m.Place, hub.Place{Hub: "hub-2", ID: "pump-7", Module: "m1"}, take); err == nil {
			t.Error("a module moved")
		}
		noError(t, s.Move(t.Context(), d.Place, next.Place, take))
		isAt(t, s, m.Place, nil, nil)
		isAt(t, s, next.Place, next, nextTwin)
	}},
	{"a device and its modules are made together, or not at all", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		m, mTwin := module("hub-1", "pump-7", "m1"), filled[*hub.Twin]()
		for _, fault := range []error{errors.New("a change of mind"), nil} {
			err := s.Together(t.Context(), func(ctx context.Context) error {
				if err := putHome(ctx, s, d, twin); err != nil {
					return err
				}
				if err := putHome(ctx, s, m, mTwin); err != nil {
					return err
				}
				return fault
			})
			if fault == nil {
				noError(t, err)
				isAt(t, s, d.Place, d, twin)
				isAt(t, s, m.Place, m, mTwin)
				continue
			}
			if !errors.Is(err, fault) {
				t.Errorf("error %v", err)
			}
			isAt(t, s, d.Place, nil, nil)
			isAt(t, s, m.Place, nil, nil)
		}
	}},
	{"devices are counted by hub and by status", func(t *testing.T, s Store) {
		count := func(host string, total, disabled int) {
			t.Helper()
			got, err := s.Statistics(t.Context(), host)
			noError(t, err)
			same(t, got, hub.Statistics{Total: total, Disabled: disabled})
		}
		count("hub-1", 0, 0)
		for i, disabled := range []bool{true, false, false, true} {
			d, twin := home("hub-1", device.ID("abcd"[i:i+1]))
			d.Disabled = disabled
			noError(t, putHome(t.Context(), s, d, twin))
		}
		other, twin := home("hub-2", "a")
		noError(t, putHome(t.Context(), s, other, twin))
		count("hub-1", 4, 2)
		count("hub-2", 1, 1)
		d, twin := home("hub-1", "a")
		d.Disabled = false
		noError(t, putHome(t.Context(), s, d, twin))
		count("hub-1", 4, 1)
		noError(t, s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "d"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
		count("hub-1", 3, 0)
	}},
	{"keys change when and only when they are changed", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		keys := d.Auth.Keys
		for _, next := range []attest.SymmetricKeys{
			keys, keys, {Primary: keys.Secondary, Secondary: keys.Primary}, {Primary: keys.Primary}, {Secondary: keys.Primary}, {}, keys,
		} {
			noError(t, s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(was *hub.Identity, _ *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				if was != nil {
					d = was
				}
				d.Auth.Keys = next
				return d, twin, nil
			}))
			got, err := s.Identity(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"})
			noError(t, err)
			same(t, got.Auth.Keys, next)
		}
	}},
	{"a device's change that decides for an error writes nothing", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, d, twin))
		refusal := errors.New("no")
		err := s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(was *hub.Identity, _ *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			was.ETag = "changed"
			return was, nil, refusal
		})
		if err != refusal {
			t.Errorf("decide's error came back as %v", err)
		}
		isHome(t, s, "hub-1", "pump-7", d, twin)
	}},
	{"no change of many racing to change a twin is lost", func(t *testing.T, s Store) {
		d, _ := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, d, &hub.Twin{}))
		race(32, func(int) error {
			err := s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(was *hub.Identity, twin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				twin.Version++
				return was, twin, nil
			})
			if err != nil {
				t.Error(err)
			}
			return err
		})
		twin, err := s.Twin(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"})
		noError(t, err)
		same(t, twin.Version, int64(32))
	}},
	{"a change cannot rename a device", func(t *testing.T, s Store) {
		for _, other := range []*hub.Identity{{Place: hub.Place{Hub: "hub-1", ID: "Pump-7"}}, {Place: hub.Place{Hub: "hub-2", ID: "pump-7"}}} {
			err := s.Change(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return other, nil, nil })
			isKind(t, err, errs.Internal)
		}
	}},
	{"a device that moves is at one place, whatever was there", func(t *testing.T, s Store) {
		left, leftTwin := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, left, leftTwin))
		stays, staysTwin := home("hub-1", "pump-8")
		noError(t, putHome(t.Context(), s, stays, staysTwin))
		for _, at := range []*hub.Identity{nil, {Place: hub.Place{Hub: "hub-2", ID: "pump-7"}, ETag: "there"}} {
			if at != nil {
				noError(t, putHome(t.Context(), s, at, &hub.Twin{Version: 9}))
				noError(t, putHome(t.Context(), s, left, leftTwin))
			}
			moved, _ := home("hub-2", "pump-7")
			err := s.Move(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, hub.Place{Hub: "hub-2", ID: "pump-7"},
				func(gotAt *hub.Identity, twin *hub.Twin, gotLeft *hub.Identity, gotLeftTwin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
					same(t, gotAt, at)
					same(t, twin != nil, at != nil)
					same(t, gotLeft, left)
					same(t, gotLeftTwin, leftTwin)
					return moved, gotLeftTwin, nil
				})
			noError(t, err)
			isHome(t, s, "hub-1", "pump-7", nil, nil)
			isHome(t, s, "hub-2", "pump-7", moved, leftTwin)
		}
		isHome(t, s, "hub-1", "pump-8", stays, staysTwin)
	}},
	{"a device that races between two hubs is at one of them", func(t *testing.T, s Store) {
		race(16, func(i int) error {
			from, to := hub.Place{Hub: "hub-1", ID: "pump-7"}, hub.Place{Hub: "hub-2", ID: "pump-7"}
			if i%2 == 0 {
				from, to = to, from
			}
			err := s.Move(t.Context(), from, to, func(at *hub.Identity, _ *hub.Twin, left *hub.Identity, _ *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				if at != nil && left != nil {
					return nil, nil, errors.New("it is at both hubs")
				}
				return &hub.Identity{Place: hub.Place{Hub: to.Hub, ID: to.ID}}, nil, nil
			})
			if err != nil {
				t.Error(err)
			}
			return err
		})
		_, err1 := s.Identity(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"})
		_, err2 := s.Identity(t.Context(), hub.Place{Hub: "hub-2", ID: "pump-7"})
		if (err1 == nil) == (err2 == nil) {
			t.Errorf("it is at both hubs or at none: %v, %v", err1, err2)
		}
	}},
	{"a device may move from where nothing is", func(t *testing.T, s Store) {
		d, twin := home("hub-2", "pump-7")
		noError(t, s.Move(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, hub.Place{Hub: "hub-2", ID: "pump-7"},
			func(at *hub.Identity, _ *hub.Twin, left *hub.Identity, leftTwin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				same(t, at, (*hub.Identity)(nil))
				same(t, left, (*hub.Identity)(nil))
				same(t, leftTwin, (*hub.Twin)(nil))
				return d, twin, nil
			}))
		isHome(t, s, "hub-2", "pump-7", d, twin)
	}},
	{"a move that decides for an error leaves both places alone", func(t *testing.T, s Store) {
		left, leftTwin := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, left, leftTwin))
		at, twin := home("hub-2", "pump-7")
		noError(t, putHome(t.Context(), s, at, twin))
		refusal := errors.New("no")
		move := func(d *hub.Identity, decided error) error {
			return s.Move(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, hub.Place{Hub: "hub-2", ID: "pump-7"},
				func(*hub.Identity, *hub.Twin, *hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
					return d, nil, decided
				})
		}
		if err := move(left, refusal); err != refusal {
			t.Errorf("decide's error came back as %v", err)
		}
		isKind(t, move(left, nil), errs.Internal) // it would be renamed
		isHome(t, s, "hub-1", "pump-7", left, leftTwin)
		isHome(t, s, "hub-2", "pump-7", at, twin)
		noError(t, move(nil, nil))
		isHome(t, s, "hub-1", "pump-7", nil, nil)
		isHome(t, s, "hub-2", "pump-7", nil, nil)
	}},
	{"a device does not move to where it is", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, d, twin))
		isKind(t, s.Move(t.Context(), hub.Place{Hub: "hub-1", ID: "pump-7"}, hub.Place{Hub: "hub-1", ID: "pump-7"},
			func(*hub.Identity, *hub.Twin, *hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				return d, nil, nil
			}), errs.Internal)
		isHome(t, s, "hub-1", "pump-7", d, twin)
	}},
}
