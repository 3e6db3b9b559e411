package hub_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/berth-iot/berth/hub"
)

// values are what an index has of a twin, by what was added and removed so far.
type values map[string]bool

func (v values) change(t *testing.T, d *hub.Identity, twin *hub.Twin, next *hub.Identity, nextTwin *hub.Twin) {
	t.Helper()
	add, remove := hub.IndexChange(d, twin, next, nextTwin)
	for _, r := range remove {
		if key := fmt.Sprint(r.Path, r.Value); !v[key] {
			t.Errorf("%v is removed and was not there", r)
		} else {
			delete(v, key)
		}
	}
	for _, a := range add {
		key := fmt.Sprint(a.Path, a.Value)
		if v[key] {
			t.Errorf("%v is added and was there", a)
		}
		v[key] = true
	}
}

// Step by step, the index has what it would have of each twin alone.
func TestIndexChange(t *testing.T) {
	at := hub.Place{Hub: host, ID: "d1"}
	module := hub.Place{Hub: host, ID: "d1", Module: "m1"}
	type step struct {
		d    *hub.Identity
		twin *hub.Twin
		want int
	}
	text := func(s string) json.RawMessage { return json.RawMessage(s) }
	steps := []step{
		{&hub.Identity{Place: at}, &hub.Twin{Tags: text(`{}`), Desired: text(`{}`), Reported: text(`{}`)}, 0},
		{&hub.Identity{Place: at}, &hub.Twin{Tags: text(`{"a":1,"b":{"c":"x","d":true}}`)}, 3},
		{&hub.Identity{Place: at}, &hub.Twin{Tags: text(`{"b":{"d":true,"c":"x"},"a":1}`)}, 3},
		{&hub.Identity{Place: at}, &hub.Twin{Tags: text(`{"a":1.0,"b":{"c":"y"}}`), Reported: text(`{"a":1}`)}, 3},
		{&hub.Identity{Place: at}, &hub.Twin{Desired: text(`{"a":1}`), Reported: text(`{"a":[1,{"b":2}],"n":null,"o":{}}`)}, 1},
		{&hub.Identity{Place: at, Disabled: true, IoTEdge: true, ParentScope: "s"}, &hub.Twin{ModelID: "m", Configurations: text(`{"c":{"status":"Applied"}}`)}, 5},
		{&hub.Identity{Place: at, IoTEdge: true}, &hub.Twin{}, 1},
		{&hub.Identity{Place: at}, nil, 0},
		{&hub.Identity{Place: at}, &hub.Twin{Tags: text(`{"a":-0}`)}, 1},
		{&hub.Identity{Place: at}, &hub.Twin{Tags: text(`{"a":0}`)}, 1},
		{nil, nil, 0},
		{&hub.Identity{Place: module}, &hub.Twin{Tags: text(`{"a":1}`)}, 2},
		{&hub.Identity{Place: module}, &hub.Twin{Tags: text(`{"a":`)}, 1}, // which no one writes
	}
	has := values{}
	var was step
	for i, now := range steps {
		has.change(t, was.d, was.twin, now.d, now.twin)
		alone := values{}
		alone.change(t, nil, nil, now.d, now.twin)
		if fmt.Sprint(has) != fmt.Sprint(alone) || len(has) != now.want {
			t.Errorf("step %d: %d values, %d alone, want %d", i, len(has), len(alone), now.want)
		}
		was = now
	}
}

// The same value is another one at another path, hub, or module.
func TestIndexTellsPathsApart(t *testing.T) {
	seen := values{}
	for _, d := range []hub.Identity{
		{Place: hub.Place{Hub: "hub-1", ID: "d"}}, {Place: hub.Place{Hub: "hub-2", ID: "d"}}, {Place: hub.Place{Hub: "hub-1", ID: "d", Module: "m"}},
	} {
		one := json.RawMessage(`{"a":{"b":1},"b":1}`)
		seen.change(t, nil, nil, &d, &hub.Twin{Tags: one, Desired: one, Reported: one, Configurations: one})
	}
	if len(seen) != 3*8+1 {
		t.Errorf("%d values", len(seen))
	}
}
