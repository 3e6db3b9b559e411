package storetest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// plain is an identity with a twin whose tags are text.
func plain(at hub.Place, tags string) (*hub.Identity, *hub.Twin) {
	empty := json.RawMessage("{}")
	return &hub.Identity{Place: at, GenerationID: "1"}, &hub.Twin{Tags: json.RawMessage(tags), Desired: empty, Reported: empty, Version: 2}
}

func putPlain(t *testing.T, s Store, at hub.Place, tags string) {
	t.Helper()
	d, twin := plain(at, tags)
	noError(t, putHome(t.Context(), s, d, twin))
}

func removeHome(t *testing.T, s Store, at hub.Place) {
	t.Helper()
	noError(t, s.Change(t.Context(), at, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
}

// indexed returns the values of a twin's index, with their paths.
func indexed(d *hub.Identity, twin *hub.Twin) []hub.IndexedValue {
	add, _ := hub.IndexChange(nil, nil, d, twin)
	return add
}

// entriesOf returns the places that the index has under a value.
func entriesOf(t *testing.T, s Store, v hub.IndexedValue) string {
	t.Helper()
	var at []string
	after := hub.TwinEntry{Value: v.Value}
	for {
		entries, err := s.TwinEntries(t.Context(), v.Path, after, v.Value, 2)
		noError(t, err)
		for _, e := range entries {
			same(t, e.Value, v.Value)
			at = append(at, strings.TrimSuffix(string(e.ID)+"/"+string(e.Module), "/"))
		}
		if len(entries) < 2 {
			break
		}
		after = entries[len(entries)-1]
	}
	n, err := s.CountTwinEntries(t.Context(), v.Path, hub.TwinEntry{Value: v.Value}, v.Value, 1000)
	noError(t, err)
	same(t, n, len(at))
	return strings.Join(at, " ")
}

// scan reads a part page by page.
func scan(t *testing.T, s Store, of hub.Part, limit int) string {
	t.Helper()
	var at []string
	for {
		page, err := s.ScanTwins(t.Context(), "hub-1", of, hub.AllMembers, limit)
		noError(t, err)
		for _, f := range page {
			at = append(at, f.Identity.String())
			of.After = f.Identity.Place
		}
		if len(page) < limit {
			return strings.Join(at, " ")
		}
	}
}

// only returns the members of a twin that are wanted.
func only(f hub.Found, wanted hub.Members) hub.Found {
	d, t := *f.Identity, *f.Twin
	d.Auth.Keys = hub.Authentication{}.Keys
	if !wanted.Identity {
		d = hub.Identity{Place: d.Place, Disabled: d.Disabled, IoTEdge: d.IoTEdge, ParentScope: d.ParentScope}
	}
	for _, part := range []struct {
		wanted bool
		of     *json.RawMessage
	}{
		{wanted.Tags, &t.Tags}, {wanted.Desired, &t.Desired}, {wanted.Reported, &t.Reported}, {wanted.Configurations, &t.Configurations},
		{wanted.Desired && wanted.Metadata, &t.DesiredMetadata}, {wanted.Reported && wanted.Metadata, &t.ReportedMetadata},
	} {
		if !part.wanted {
			*part.of = nil
		}
	}
	return hub.Found{Identity: &d, Twin: &t}
}

var finderRules = []rule{
	{"twins are found with all members but the keys", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, d, twin))
		m, mTwin := module("hub-1", "pump-7", "m"), filled[*hub.Twin]()
		noError(t, putHome(t.Context(), s, m, mTwin))
		for _, want := range []*hub.Identity{d, m} {
			keyless := *want
			keyless.Auth.Keys = hub.Authentication{}.Keys
			modules := want.Module != ""
			for range 2 {
				found, err := s.ScanTwins(t.Context(), "hub-1", hub.Part{Modules: modules, Last: "~"}, hub.AllMembers, 10)
				noError(t, err)
				same(t, found, []hub.Found{{Identity: &keyless, Twin: twin}})
				found, err = s.TwinsAt(t.Context(), []hub.Place{want.Place}, hub.AllMembers)
				noError(t, err)
				same(t, found, []hub.Found{{Identity: &keyless, Twin: twin}})
			}
		}
	}},
	{"twins are found with the members that are wanted", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, d, twin))
		m, mTwin := module("hub-1", "pump-7", "m"), filled[*hub.Twin]()
		noError(t, putHome(t.Context(), s, m, mTwin))
		for i := range 1 << 6 {
			wanted := hub.Members{
				Identity: i&1 != 0, Tags: i&2 != 0, Desired: i&4 != 0, Reported: i&8 != 0, Metadata: i&16 != 0, Configurations: i&32 != 0,
			}
			for _, from := range []hub.Found{{Identity: d, Twin: twin}, {Identity: m, Twin: mTwin}} {
				want := only(from, wanted)
				found, err := s.ScanTwins(t.Context(), "hub-1", hub.Part{Modules: from.Identity.Module != "", Last: "~"}, wanted, 10)
				noError(t, err)
				same(t, found, []hub.Found{want})
				found, err = s.TwinsAt(t.Context(), []hub.Place{from.Identity.Place}, wanted)
				noError(t, err)
				same(t, found, []hub.Found{want})
			}
		}
	}},
	{"twins are scanned in the order of their places, within bounds, page by page", func(t *testing.T, s Store) {
		for _, id := range []device.ID{"c", "a", "b", "A", "ab"} {
			putPlain(t, s, hub.Place{Hub: "hub-1", ID: id}, "{}")
		}
		putPlain(t, s, hub.Place{Hub: "hub-2", ID: "b"}, "{}")
		noError(t, putHome(t.Context(), s, &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: "twinless"}}, nil))
		for _, m := range []string{"b/z", "a/y", "b/$edgeHub", "a/x", "c/x"} {
			id, name, _ := strings.Cut(m, "/")
			putPlain(t, s, hub.Place{Hub: "hub-1", ID: device.ID(id), Module: device.ID(name)}, "{}")
		}
		for _, limit := range []int{1, 2, 100} {
			same(t, scan(t, s, hub.Part{Last: "~"}, limit), "A a ab b c")
			same(t, scan(t, s, hub.Part{First: "a", Last: "b"}, limit), "a ab b")
			same(t, scan(t, s, hub.Part{First: "b", Last: "b"}, limit), "b")
			same(t, scan(t, s, hub.Part{Last: "~", After: hub.Place{ID: "ab"}}, limit), "b c")
			same(t, scan(t, s, hub.Part{Modules: true, Last: "~"}, limit), "a/x a/y b/$edgeHub b/z c/x")
			same(t, scan(t, s, hub.Part{Modules: true, First: "b", Last: "b"}, limit), "b/$edgeHub b/z")
			same(t, scan(t, s, hub.Part{Modules: true, First: "a", Last: "~", After: hub.Place{ID: "a", Module: "x"}}, limit), "a/y b/$edgeHub b/z c/x")
		}
	}},
	{"those of places that exist are fetched", func(t *testing.T, s Store) {
		for _, id := range []device.ID{"a", "b", "c"} {
			putPlain(t, s, hub.Place{Hub: "hub-1", ID: id}, "{}")
			putPlain(t, s, hub.Place{Hub: "hub-1", ID: id, Module: "m"}, "{}")
		}
		for _, name := range []device.ID{"", "m"} {
			found, err := s.TwinsAt(t.Context(), []hub.Place{{Hub: "hub-1", ID: "c", Module: name}, {Hub: "hub-1", ID: "nobody", Module: name}, {Hub: "hub-1", ID: "a", Module: name}}, hub.AllMembers)
			noError(t, err)
			var at []string
			for _, f := range found {
				at = append(at, string(f.Identity.ID))
			}
			slices.Sort(at)
			same(t, at, []string{"a", "c"})
		}
		found, err := s.TwinsAt(t.Context(), nil, hub.AllMembers)
		noError(t, err)
		same(t, len(found), 0)
	}},
	{"the index has what twins have, through every change", func(t *testing.T, s Store) {
		at := hub.Place{Hub: "hub-1", ID: "pump-7"}
		d, twin := plain(at, `{"a":1,"b":{"c":"x"},"d":[1]}`)
		values := indexed(d, twin)
		same(t, len(values), 2)
		has := func(want bool) {
			t.Helper()
			for _, v := range values {
				if got := entriesOf(t, s, v); (got == "pump-7") != want || !want && got != "" {
					t.Errorf("%v is at %q", v, got)
				}
			}
		}
		has(false)
		noError(t, putHome(t.Context(), s, d, twin))
		has(true)
		noError(t, putHome(t.Context(), s, d, twin)) // as it was
		has(true)
		noError(t, s.Change(t.Context(), at, func(d *hub.Identity, twin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			twin.Tags, twin.Version = json.RawMessage(`{"a":2}`), 3 // what decide was given may be changed
			return d, twin, nil
		}))
		has(false)
		noError(t, putHome(t.Context(), s, d, twin))
		has(true)
		noError(t, putHome(t.Context(), s, d, nil))
		has(false)
		noError(t, putHome(t.Context(), s, d, twin))
		removeHome(t, s, at)
		has(false)
		noError(t, putHome(t.Context(), s, d, twin))
		noError(t, s.Move(t.Context(), at, hub.Place{Hub: "hub-2", ID: "pump-7"}, func(*hub.Identity, *hub.Twin, *hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
			moved := *d
			moved.Hub = "hub-2"
			return &moved, twin, nil
		}))
		has(false)
		moved := *d
		moved.Hub = "hub-2"
		values = indexed(&moved, twin)
		has(true)
	}},
	{"a change that fails leaves the index as it is", func(t *testing.T, s Store) {
		at := hub.Place{Hub: "hub-1", ID: "pump-7"}
		d, twin := plain(at, `{"a":1}`)
		noError(t, putHome(t.Context(), s, d, twin))
		other, otherTwin := plain(at, `{"a":2}`)
		fault := fmt.Errorf("a change of mind")
		err := s.Together(t.Context(), func(ctx context.Context) error {
			if err := putHome(ctx, s, other, otherTwin); err != nil {
				return err
			}
			return fault
		})
		if err == nil {
			t.Error("no error")
		}
		same(t, entriesOf(t, s, indexed(d, twin)[0]), "pump-7")
		same(t, entriesOf(t, s, indexed(other, otherTwin)[0]), "")
	}},
	{"what modules have in the index goes with their device", func(t *testing.T, s Store) {
		at := hub.Place{Hub: "hub-1", ID: "pump-7"}
		m, twin := plain(hub.Place{Hub: "hub-1", ID: "pump-7", Module: "m"}, `{"a":1}`)
		values := indexed(m, twin)
		same(t, len(values), 2) // and its ID
		for _, leave := range []func(){
			func() { removeHome(t, s, at) },
			func() {
				next, nextTwin := plain(hub.Place{Hub: "hub-2", ID: "pump-7"}, "{}")
				noError(t, s.Move(t.Context(), at, next.Place, func(*hub.Identity, *hub.Twin, *hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
					return next, nextTwin, nil
				}))
			},
		} {
			putPlain(t, s, at, "{}")
			noError(t, putHome(t.Context(), s, m, twin))
			for _, v := range values {
				same(t, entriesOf(t, s, v), "pump-7/m")
			}
			leave()
			for _, v := range values {
				same(t, entriesOf(t, s, v), "")
			}
		}
	}},
	{"entries are in the order of their values, and then of places", func(t *testing.T, s Store) {
		var low, high hub.IndexedValue
		for i, id := range []device.ID{"e", "d", "c", "b", "a"} {
			d, twin := plain(hub.Place{Hub: "hub-1", ID: id}, fmt.Sprintf(`{"n":%d}`, i/2-1))
			noError(t, putHome(t.Context(), s, d, twin))
			if i == 0 {
				low = indexed(d, twin)[0]
			}
			high = indexed(d, twin)[0]
		}
		for _, limit := range []int{1, 2, 100} {
			var got []string
			after := hub.TwinEntry{Value: low.Value}
			for {
				entries, err := s.TwinEntries(t.Context(), low.Path, after, high.Value, limit)
				noError(t, err)
				for _, e := range entries {
					got = append(got, string(e.ID))
					after = e
				}
				if len(entries) < limit {
					break
				}
			}
			same(t, strings.Join(got, ""), "debca")
		}
		for limit, want := range map[int]int{1: 1, 3: 3, 100: 5} {
			n, err := s.CountTwinEntries(t.Context(), low.Path, hub.TwinEntry{Value: low.Value}, high.Value, limit)
			noError(t, err)
			same(t, n, want)
		}
	}},
	{"everything that was written here is indexed", func(t *testing.T, s Store) {
		d, twin := home("hub-1", "pump-7")
		noError(t, putHome(t.Context(), s, d, twin))
		noError(t, putHome(t.Context(), s, module("hub-1", "pump-7", "m"), twin))
		noError(t, putHome(t.Context(), s, &hub.Identity{Place: hub.Place{Hub: "hub-1", ID: "twinless"}}, nil))
		at, err := s.UnindexedTwins(t.Context(), 10)
		noError(t, err)
		same(t, len(at), 0)
	}},
	{"what is known of places is who is connected and how much waits", func(t *testing.T, s Store) {
		at, m, quiet := pump7, hub.Place{Hub: pump7.Hub, ID: pump7.ID, Module: "m"}, hub.Place{Hub: pump7.Hub, ID: "quiet"}
		for _, p := range []hub.Place{at, m, quiet} {
			putPlain(t, s, p, "{}")
		}
		noError(t, s.LeaseServer(t.Context(), "server", epoch, epoch.Add(time.Hour)))
		noError(t, s.Notice(t.Context(), "server", []hub.Notice{
			{Place: at, Activity: epoch}, {Place: m, Change: hub.NowConnected, Changed: epoch, Activity: epoch},
		}))
		for i, expiry := range []time.Time{epoch.Add(time.Hour), epoch.Add(2 * time.Hour), epoch.Add(-time.Hour)} {
			changeQueue(t, s, at, hub.QueueChange{Add: []*hub.CloudMessage{{Enqueued: epoch.Add(time.Duration(i)), Expiry: expiry}}})
		}
		known, err := s.About(t.Context(), []hub.Place{quiet, at}, epoch)
		noError(t, err)
		same(t, known, map[hub.Place]hub.About{at: {Presence: hub.Presence{LastActivity: epoch}, Waiting: 2}})
		known, err = s.About(t.Context(), []hub.Place{m}, epoch)
		noError(t, err)
		same(t, known, map[hub.Place]hub.About{m: {Presence: hub.Presence{Connected: true, Updated: epoch, LastActivity: epoch}}})
		known, err = s.About(t.Context(), nil, epoch)
		noError(t, err)
		same(t, len(known), 0)
	}},
}

// TwinsAreIndexed checks that twins are found by what they have once they are
// indexed, and that the index is not believed before. forget makes of all devices
// what an older program would have written, which knew no modules.
func TwinsAreIndexed(t *testing.T, s Store, forget func()) {
	t.Helper()
	service := hub.New(hub.Config{Registry: s, Stream: s, Queues: s, Presences: s, Policies: s, Now: func() time.Time { return epoch }, Random: rand.Reader})
	for i := range 40 {
		id := device.ID(fmt.Sprintf("device-%02d", i))
		putPlain(t, s, hub.Place{Hub: "hub-1", ID: id}, fmt.Sprintf(`{"n":%d}`, i))
		putPlain(t, s, hub.Place{Hub: "hub-1", ID: id, Module: "m"}, fmt.Sprintf(`{"n":%d}`, i))
	}
	found := func(when string) {
		t.Helper()
		operator := access.Caller{Policy: "iothubowner", Rights: access.AllHub}
		for from, want := range map[string]string{"devices": "device-07", "devices.modules": "device-07/m"} {
			page, err := service.Query(t.Context(), operator, "hub-1", "SELECT * FROM "+from+" WHERE tags.n = 7", 10, "")
			noError(t, err)
			if len(page.Twins) != 1 || page.Twins[0].Identity.String() != want {
				t.Errorf("%s: %v of %s", when, page.Twins, from)
			}
		}
	}
	found("written here")
	forget()
	at, err := s.UnindexedTwins(t.Context(), 100)
	noError(t, err)
	same(t, len(at), 40)
	found("written before")
	noError(t, service.IndexTwins(t.Context()))
	at, err = s.UnindexedTwins(t.Context(), 100)
	noError(t, err)
	same(t, len(at), 0)
	d, twin := plain(hub.Place{Hub: "hub-1", ID: "device-07"}, `{"n":7}`)
	same(t, entriesOf(t, s, indexed(d, twin)[0]), "device-07")
	found("indexed")
}
