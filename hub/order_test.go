package hub

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
)

// Changes arrive in any order, more than once, or never: the device hears of
// versions in order, of each once, and of none behind one that is missing.
func TestOrderOfDesiredProperties(t *testing.T) {
	learnt := func(version int64) func(*order) []desiredChange {
		return func(o *order) []desiredChange { return o.learnt(version) }
	}
	take := func(version int64) func(*order) []desiredChange {
		return func(o *order) []desiredChange { return o.take(desiredChange{version, nil}) }
	}
	expect := func(version int64) func(*order) []desiredChange {
		return func(o *order) []desiredChange { o.expect(version); return nil }
	}
	type steps []func(*order) []desiredChange
	for name, c := range map[string]struct {
		steps  steps
		told   []int64
		behind bool
	}{
		"in order":                                {steps{learnt(4), take(5), take(6)}, []int64{5, 6}, false},
		"swapped":                                 {steps{learnt(4), take(6), take(5)}, []int64{5, 6}, false},
		"turned around":                           {steps{learnt(4), take(8), take(7), take(6), take(5)}, []int64{5, 6, 7, 8}, false},
		"twice":                                   {steps{learnt(4), take(5), take(5), take(6), take(6)}, []int64{5, 6}, false},
		"an old one":                              {steps{learnt(4), take(2), take(5)}, []int64{5}, false},
		"one is missing":                          {steps{learnt(4), take(5), take(7)}, []int64{5}, true},
		"the missing one arrives late":            {steps{learnt(4), take(7), take(5), take(6)}, []int64{5, 6, 7}, false},
		"the device reads what is missing":        {steps{learnt(4), take(6), take(7), learnt(5)}, []int64{6, 7}, false},
		"the device reads beyond":                 {steps{learnt(4), take(6), take(9), learnt(7)}, nil, true},
		"the device reads beyond all":             {steps{learnt(4), take(6), take(8), learnt(9), take(7)}, nil, false},
		"the device reads what it knows":          {steps{learnt(4), take(5), learnt(3), take(6)}, []int64{5, 6}, false},
		"nothing is known of the device":          {steps{take(5), take(6)}, nil, true},
		"nothing is known until it is":            {steps{take(5), take(6), learnt(5)}, []int64{6}, false},
		"nothing was told of what there is":       {steps{learnt(4), expect(5)}, nil, true},
		"it is told of what there is":             {steps{learnt(4), expect(5), take(5)}, []int64{5}, false},
		"there is nothing new":                    {steps{learnt(4), expect(4), expect(2)}, nil, false},
		"too many to hold, and the missing first": {tooMany(take, learnt(1)), versions(2, 2+maxHeld), true},
	} {
		t.Run(name, func(t *testing.T) {
			var o order
			var told []int64
			for _, step := range c.steps {
				for _, change := range step(&o) {
					told = append(told, change.version)
				}
			}
			if !slices.Equal(told, c.told) || o.behind() != c.behind {
				t.Errorf("told %v, behind %v; want %v, %v", told, o.behind(), c.told, c.behind)
			}
			if len(o.held) > maxHeld {
				t.Errorf("%d changes are held", len(o.held))
			}
		})
	}
}

func tooMany(take func(int64) func(*order) []desiredChange, first func(*order) []desiredChange) []func(*order) []desiredChange {
	steps := []func(*order) []desiredChange{first}
	for version := int64(3); version < 3+2*maxHeld; version++ {
		steps = append(steps, take(version))
	}
	return append(steps, take(2))
}

func versions(first, last int64) (all []int64) {
	for v := first; v <= last; v++ {
		all = append(all, v)
	}
	return all
}

// Whatever happens, what a device is told are successive versions, and who was
// told of every one is not behind.
func TestOrderKeepsOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var o order
		last := int64(1 + random.IntN(5))
		told := func(changes []desiredChange) {
			for _, c := range changes {
				if c.version <= last || c.version != o.told && c.version > o.told {
					t.Fatalf("told %d after %d", c.version, last)
				}
				if string(c.patch) != string(patchOf(c.version)) {
					t.Fatalf("version %d came with %s", c.version, c.patch)
				}
				last = c.version
			}
		}
		o.learnt(last)
		for range 40 {
			version := 1 + int64(random.IntN(30))
			switch random.IntN(8) {
			case 0:
				changes := o.learnt(version)
				last = max(last, version)
				told(changes)
			case 1:
				o.expect(version)
			default:
				told(o.take(desiredChange{version, patchOf(version)}))
			}
			if o.told != last {
				t.Fatalf("the device knows %d, the order says %d", last, o.told)
			}
		}
		for version := last + 1; version <= 30; version++ {
			told(o.take(desiredChange{version, patchOf(version)}))
		}
		if o.behind() || last != 30 || len(o.held) != 0 {
			t.Fatalf("the device knows %d, is behind: %v, %d are held", last, o.behind(), len(o.held))
		}
	}
}

func patchOf(version int64) json.RawMessage {
	b, _ := json.Marshal(map[string]int64{"v": version})
	return b
}

func TestStampsOrderConnections(t *testing.T) {
	for _, c := range []struct{ later, earlier Stamp }{
		{Stamp{2, 1}, Stamp{1, 1}},
		{Stamp{2, 1}, Stamp{1, 9}},
		{Stamp{2, 9}, Stamp{2, 1}},
	} {
		if !c.later.After(c.earlier) || c.earlier.After(c.later) || c.later.After(c.later) {
			t.Errorf("%v and %v", c.later, c.earlier)
		}
	}
}
