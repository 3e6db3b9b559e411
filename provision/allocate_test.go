package provision

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

const fleet = 20_000

// spread allocates the fleet anew and returns each device's hub.
func spread(hubs []LinkedHub) []string {
	at := make([]string, fleet)
	for i := range at {
		at[i] = allocate(enroll.Hashed, hubs, device.RegistrationID(fmt.Sprintf("pump-%d", i)), "", "").Hub
	}
	return at
}

// wantShares holds the hubs to their weights, within five standard deviations
// of independent draws.
func wantShares(t *testing.T, at []string, hubs []LinkedHub) {
	t.Helper()
	count, total := map[string]int{}, 0
	for _, host := range at {
		count[host]++
	}
	for _, h := range hubs {
		total += h.Weight
	}
	for _, h := range hubs {
		p := float64(h.Weight) / float64(total)
		mean, deviation := fleet*p, math.Sqrt(fleet*p*(1-p))
		if got := float64(count[h.Host]); math.Abs(got-mean) > 5*deviation {
			t.Errorf("%s with weight %d of %d has %v devices, %.0f ± %.0f were expected", h.Host, h.Weight, total, got, mean, deviation)
		}
	}
}

func TestHashedAllocationIsWeighted(t *testing.T) {
	for _, weights := range [][]int{{1}, {1, 1}, {1, 1, 1, 1, 1}, {1, 2, 7}, {1, 1000}, {500, 1000, 250}} {
		var hubs []LinkedHub
		for i, w := range weights {
			hubs = append(hubs, LinkedHub{Host: fmt.Sprintf("hub-%d.example", i), Weight: w, Allocation: true})
		}
		wantShares(t, spread(hubs), hubs)
	}
}

// A hub that is added takes its share from all the others, and nothing moves
// between two that were there. A hub that leaves spreads its devices the same
// way.
func TestAddedHubMovesItsShareAlone(t *testing.T) {
	three := []LinkedHub{{Host: "hub-1.example", Weight: 1, Allocation: true}, {Host: "hub-2.example", Weight: 2, Allocation: true}, {Host: "hub-3.example", Weight: 3, Allocation: true}}
	four := append(three, LinkedHub{Host: "hub-4.example", Weight: 2, Allocation: true})
	before, after := spread(three), spread(four)
	moved, from := 0, map[string]int{}
	for i := range before {
		if before[i] == after[i] {
			continue
		}
		if moved++; after[i] != "hub-4.example" {
			t.Fatalf("device %d moved from %s to %s", i, before[i], after[i])
		}
		from[before[i]]++
	}
	const share = 2.0 / 8
	if got := float64(moved) / fleet; math.Abs(got-share) > 0.02 {
		t.Errorf("%.3f of the fleet moved, %.3f was meant", got, share)
	}
	for _, h := range three {
		if got, want := float64(from[h.Host])/float64(moved), float64(h.Weight)/6; math.Abs(got-want) > 0.03 {
			t.Errorf("%s gave %.3f of them, %.3f was meant", h.Host, got, want)
		}
	}
	wantShares(t, after, four)
}

// A hub that weighs more keeps every device it had.
func TestHeavierHubKeepsItsDevices(t *testing.T) {
	before := spread([]LinkedHub{{Host: "hub-1.example", Weight: 1, Allocation: true}, {Host: "hub-2.example", Weight: 1, Allocation: true}})
	after := spread([]LinkedHub{{Host: "hub-1.example", Weight: 3, Allocation: true}, {Host: "hub-2.example", Weight: 1, Allocation: true}})
	for i := range before {
		if before[i] == "hub-1.example" && after[i] != before[i] {
			t.Fatalf("device %d left the hub that got heavier", i)
		}
	}
}

func TestAllocate(t *testing.T) {
	one, two, three := LinkedHub{Host: "hub-1.example", Weight: 1, Allocation: true}, LinkedHub{Host: "Hub-2.example:8443", Weight: 1, Allocation: true}, LinkedHub{Host: "hub-3.example", Weight: 0, Allocation: true}
	all := []LinkedHub{one, two, three}
	for _, c := range []struct {
		name    string
		policy  enroll.AllocationPolicy
		hubs    []LinkedHub
		current string
		want    string // empty when any will do
	}{
		{"hashed: the only one", enroll.Hashed, all[:1], "", "hub-1.example"},
		{"hashed: a hub without a weight weighs one", enroll.Hashed, []LinkedHub{three}, "", "hub-3.example"},
		{"hashed: the device stays", enroll.Hashed, all, "hub-3.example", "hub-3.example"},
		{"hashed: in other letters", enroll.Hashed, all, "hub-2.EXAMPLE:8443", "Hub-2.example:8443"},
		{"static: the first", enroll.Static, all, "", "hub-1.example"},
		{"static: the first, wherever the device is", enroll.Static, all, "hub-3.example", "hub-1.example"},
	} {
		if got := allocate(c.policy, c.hubs, "pump-7", c.current, ""); got.Hub != c.want || got.Why == "" {
			t.Errorf("%s: %q (%s), want %q", c.name, got.Hub, got.Why, c.want)
		}
	}
	if got := allocate(enroll.Hashed, nil, "pump-7", "hub-1.example", ""); got.Hub != "" || got.Why == "" {
		t.Errorf("without hubs: %q (%s)", got.Hub, got.Why)
	}
	// The order of the hubs and the case of their names do not matter.
	forth := allocate(enroll.Hashed, all, "pump-7", "", "").Hub
	back := allocate(enroll.Hashed, []LinkedHub{three, {Host: "HUB-2.example:8443", Weight: 1, Allocation: true}, one}, "pump-7", "", "").Hub
	if !strings.EqualFold(forth, back) {
		t.Errorf("%s one way, %s the other", forth, back)
	}
}

func TestCandidates(t *testing.T) {
	one, two, aside := LinkedHub{Host: "hub-1.example", Weight: 1, Allocation: true}, LinkedHub{Host: "hub-2.example", Weight: 1, Allocation: true}, LinkedHub{Host: "hub-3.example", Weight: 1, Allocation: false}
	linked := []LinkedHub{one, two, aside}
	for _, c := range []struct {
		name  string
		entry enroll.Entry
		want  []LinkedHub
	}{
		{"all that take part", enroll.Entry{}, []LinkedHub{one, two}},
		{"those listed, in their order", enroll.Entry{IoTHubs: []string{"HUB-2.example", "hub-1.example"}}, []LinkedHub{two, one}},
		{"one that takes no part, if listed", enroll.Entry{IoTHubs: []string{"hub-3.example"}}, []LinkedHub{aside}},
		{"those listed that are linked", enroll.Entry{IoTHubs: []string{"hub-9.example", "hub-2.example"}}, []LinkedHub{two}},
		{"the pinned one, over a list", enroll.Entry{IoTHub: "hub-1.example", IoTHubs: []string{"hub-2.example"}}, []LinkedHub{one}},
		{"none", enroll.Entry{IoTHub: "hub-9.example", IoTHubs: []string{"hub-2.example"}}, nil},
	} {
		got := candidates(&c.entry, linked)
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Hints decide, and only those for the device's own network.
func TestNearest(t *testing.T) {
	hub := func(name string, hints ...string) LinkedHub {
		h := LinkedHub{Host: name, Weight: 1, Allocation: true}
		for _, hint := range hints {
			network, ms, _ := strings.Cut(hint, "=")
			n, err := strconv.Atoi(ms)
			if err != nil {
				t.Fatal(err)
			}
			h.Latency = append(h.Latency, Latency{netip.MustParsePrefix(network), n})
		}
		return h
	}
	for _, c := range []struct {
		name            string
		hubs            []LinkedHub
		current, remote string
		want            string // several where a hash decides among them
	}{
		{"the lowest", []LinkedHub{hub("a", "10.0.0.0/8=20"), hub("b", "10.0.0.0/8=5"), hub("c", "10.0.0.0/8=6")}, "", "10.1.2.3", "b"},
		{"with a port", []LinkedHub{hub("a", "10.0.0.0/8=20"), hub("b", "10.0.0.0/8=5")}, "", "10.1.2.3:40001", "b"},
		{"zero is a hint", []LinkedHub{hub("a", "10.0.0.0/8=1"), hub("b", "10.0.0.0/8=0")}, "", "10.1.2.3", "b"},
		{"the narrowest network of a hub counts, even if it is further", []LinkedHub{hub("a", "10.0.0.0/8=1", "10.1.0.0/16=90"), hub("b", "10.0.0.0/8=5")}, "", "10.1.2.3", "b"},
		{"whatever the order", []LinkedHub{hub("a", "10.1.0.0/16=90", "10.0.0.0/8=1"), hub("b", "10.0.0.0/8=5")}, "", "10.1.2.3", "b"},
		{"a narrower network of others does not", []LinkedHub{hub("a", "10.0.0.0/8=1", "10.2.0.0/16=90"), hub("b", "10.0.0.0/8=5")}, "", "10.1.2.3", "a"},
		{"a hub without a hint comes last", []LinkedHub{hub("a"), hub("b", "0.0.0.0/0=60000")}, "", "10.1.2.3", "b"},
		{"and so does one with a hint for another network", []LinkedHub{hub("a", "192.168.0.0/16=1"), hub("b", "10.0.0.0/8=60000")}, "", "10.1.2.3", "b"},
		{"equals", []LinkedHub{hub("a", "10.0.0.0/8=5"), hub("b", "10.1.0.0/16=5"), hub("c", "10.0.0.0/8=6")}, "", "10.1.2.3", "a b"},
		{"no hint anywhere", []LinkedHub{hub("a"), hub("b"), hub("c")}, "", "10.1.2.3", "a b c"},
		{"no hint for this network", []LinkedHub{hub("a", "192.168.0.0/16=1"), hub("b")}, "", "10.1.2.3", "a b"},
		{"IPv4 in IPv6", []LinkedHub{hub("a", "10.0.0.0/8=20"), hub("b", "10.0.0.0/8=5")}, "", "[::ffff:10.1.2.3]:443", "b"},
		{"is not in a network of IPv6", []LinkedHub{hub("a", "::/0=1"), hub("b", "10.0.0.0/8=5")}, "", "::ffff:10.1.2.3", "b"},
		{"IPv6 is not in a network of IPv4", []LinkedHub{hub("a", "0.0.0.0/0=1"), hub("b", "2001:db8::/32=5")}, "", "2001:db8::7", "b"},
		{"a zone does not matter", []LinkedHub{hub("a", "fe80::/10=9"), hub("b", "fe80::/10=5")}, "", "fe80::1%eth0", "b"},
		{"an address that cannot be read is in no network", []LinkedHub{hub("a", "0.0.0.0/0=1", "::/0=1"), hub("b")}, "", "the moon", "a b"},
		{"nor is a missing one", []LinkedHub{hub("a", "0.0.0.0/0=1", "::/0=1"), hub("b")}, "", "", "a b"},
		{"nor a name", []LinkedHub{hub("a", "0.0.0.0/0=1"), hub("b")}, "", "localhost:443", "a b"},
		{"nor a number that only C reads", []LinkedHub{hub("a", "0.0.0.0/0=1"), hub("b")}, "", "010.1.2.3", "a b"},
		{"it stays among equals", []LinkedHub{hub("a", "10.0.0.0/8=5"), hub("b", "10.0.0.0/8=5")}, "a", "10.1.2.3", "a"},
		{"in other letters", []LinkedHub{hub("a", "10.0.0.0/8=5"), hub("b", "10.0.0.0/8=5")}, "B", "10.1.2.3", "b"},
		{"it leaves for a closer one", []LinkedHub{hub("a", "10.0.0.0/8=5"), hub("b", "10.0.0.0/8=4")}, "a", "10.1.2.3", "b"},
		{"and for the first one with a hint", []LinkedHub{hub("a"), hub("b", "10.0.0.0/8=500")}, "a", "10.1.2.3", "b"},
		{"but not where nobody measured", []LinkedHub{hub("a", "10.0.0.0/8=5"), hub("b", "10.0.0.0/8=1")}, "a", "203.0.113.9", "a"},
		{"nor when its address cannot be read", []LinkedHub{hub("a", "10.0.0.0/8=5"), hub("b", "10.0.0.0/8=1")}, "a", "?", "a"},
		{"a hub that may not be chosen holds nobody", []LinkedHub{hub("b", "10.0.0.0/8=9")}, "a", "10.1.2.3", "b"},
	} {
		got := allocate(enroll.GeoLatency, c.hubs, "pump-7", c.current, c.remote)
		if want := strings.Fields(c.want); len(want) == 1 {
			if got.Hub != c.want {
				t.Errorf("%s: %q (%s), want %s", c.name, got.Hub, got.Why, c.want)
			}
			continue
		}
		// Among equals each gets its share, and only they do.
		among := map[string]int{}
		for i := range 1000 {
			among[allocate(enroll.GeoLatency, c.hubs, device.RegistrationID(fmt.Sprintf("pump-%d", i)), c.current, c.remote).Hub]++
		}
		if hosts := slices.Sorted(maps.Keys(among)); strings.Join(hosts, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, among, c.want)
		}
	}
}

// The reason says which network was judged and by what.
func TestNearestSaysWhy(t *testing.T) {
	near := Latency{netip.MustParsePrefix("10.0.0.0/8"), 5}
	one, two, far := LinkedHub{Host: "one", Latency: []Latency{near}}, LinkedHub{Host: "two", Latency: []Latency{near}}, LinkedHub{Host: "far"}
	for _, c := range []struct {
		hubs            []LinkedHub
		current, remote string
		want            string
	}{
		{[]LinkedHub{one, far}, "", "10.1.2.3:5", "geoLatency: 5 ms from 10.1.2.3, the closest of 2 hub(s)"},
		{[]LinkedHub{one, two, far}, "", "10.1.2.3", "geoLatency: 5 ms from 10.1.2.3, as close as 2 hub(s); by weight among them"},
		{[]LinkedHub{one, two, far}, "two", "10.1.2.3", "geoLatency: the device stays where it is: no allowed hub is closer to 10.1.2.3"},
		{[]LinkedHub{one, two}, "", "203.0.113.9", "geoLatency: no allowed hub has a hint for 203.0.113.9; by weight among 2 hub(s)"},
		{[]LinkedHub{one, two}, "", "?", "geoLatency: no allowed hub has a hint for an address that cannot be read; by weight among 2 hub(s)"},
		{nil, "", "10.1.2.3", "no hub is linked that the enrollment allows"},
	} {
		if got := allocate(enroll.GeoLatency, c.hubs, "pump-7", c.current, c.remote).Why; got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
}

func TestCheckLatency(t *testing.T) {
	hint := func(network string, ms int) Latency { return Latency{netip.MustParsePrefix(network), ms} }
	many := make([]Latency, 101)
	for i := range many {
		many[i] = hint(fmt.Sprintf("10.%d.0.0/16", i), 1)
	}
	for _, c := range []struct {
		name  string
		hints []Latency
		want  string
	}{
		{"none", nil, ""},
		{"all there can be", many[:100], ""},
		{"networks in networks", []Latency{hint("0.0.0.0/0", 60000), hint("10.0.0.0/8", 0), hint("10.1.2.3/32", 1), hint("::/0", 5), hint("2001:db8::/32", 4)}, ""},
		{"too many", many, "latency: 101 networks; 100 are allowed"},
		{"no network", []Latency{hint("10.0.0.0/8", 1), {Milliseconds: 1}}, "latency: hint 1 has no network"},
		{"an address with a length", []Latency{hint("10.1.2.3/8", 1)}, "latency: 10.1.2.3/8 is an address in the network 10.0.0.0/8"},
		{"IPv4 in IPv6", []Latency{hint("::ffff:10.0.0.0/104", 1)}, "latency: ::ffff:10.0.0.0/104 is written as IPv6"},
		{"before it was sent", []Latency{hint("10.0.0.0/8", -1)}, "latency: 10.0.0.0/8: milliseconds must be 0 to 60000"},
		{"the moon's far side", []Latency{hint("10.0.0.0/8", 60001)}, "latency: 10.0.0.0/8: milliseconds must be 0 to 60000"},
		{"twice", []Latency{hint("10.0.0.0/8", 1), hint("::/0", 1), hint("10.0.0.0/8", 2)}, "latency: 10.0.0.0/8 is there twice"},
	} {
		err := CheckLatency(c.hints)
		if (err == nil) != (c.want == "") || err != nil && (!strings.HasPrefix(err.Error(), c.want) || errs.KindOf(err) != errs.Invalid) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// What Share says of a hub is what it gets.
func TestShare(t *testing.T) {
	others := []LinkedHub{{Host: "a", Weight: 1, Allocation: true}, {Host: "b", Weight: 2, Allocation: true}, {Host: "aside", Weight: 900}}
	for weight, want := range map[int]float64{1: 1. / 4, 3: 3. / 6, 997: 997. / 1000, 0: 1. / 4} {
		if got := Share(weight, others); got != want {
			t.Errorf("weight %d: %v, want %v", weight, got, want)
		}
	}
	if got := Share(5, nil); got != 1 {
		t.Errorf("alone: %v", got)
	}
}

// TestMovement adds a hub to 1, 2, … 10 and counts who moves. The table that it
// makes is the one in docs/operate.md.
func TestMovement(t *testing.T) {
	page, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	hub := func(n int) LinkedHub {
		return LinkedHub{Host: fmt.Sprintf("hub-%d.example", n), Weight: 1, Allocation: true}
	}
	hubs := []LinkedHub{hub(1)}
	at := spread(hubs)
	var table strings.Builder
	for n := 1; n <= 10; n++ {
		more := append(slices.Clone(hubs), hub(n+1))
		anew, moved, elsewhere, sticky := spread(more), 0, 0, 0
		for i := range anew {
			if anew[i] != at[i] {
				moved++
				if anew[i] != more[n].Host {
					elsewhere++
				}
			}
			stays := allocate(enroll.Hashed, more, device.RegistrationID(fmt.Sprintf("pump-%d", i)), at[i], "").Hub
			if stays != at[i] {
				sticky++
			}
		}
		ideal := 1 / float64(n+1)
		if share, deviation := float64(moved)/fleet, math.Sqrt(ideal*(1-ideal)/fleet); math.Abs(share-ideal) > 5*deviation {
			t.Errorf("%d to %d hubs: %.4f of the devices move, %.4f ± %.4f were meant", n, n+1, share, ideal, deviation)
		}
		if elsewhere+sticky > 0 {
			t.Errorf("%d to %d hubs: %d move between hubs that were there, %d that are registered move", n, n+1, elsewhere, sticky)
		}
		fmt.Fprintf(&table, "| %d → %d | %.2f %% | %.2f %% | %d | %d |\n", n, n+1, 100*float64(moved)/fleet, 100*ideal, elsewhere, sticky)
		hubs, at = more, anew
	}
	t.Logf("\n%s", table.String())
	if !strings.Contains(string(page), table.String()) {
		t.Error("docs/operate.md has another table")
	}
}
