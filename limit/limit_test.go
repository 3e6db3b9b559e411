package limit

import (
	"fmt"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestABurstThenTheRate(t *testing.T) {
	l := New(Rate{5, 10 * time.Second})
	for i := range 5 {
		if wait := l.Take("a", start); wait != 0 {
			t.Fatalf("event %d of the burst: wait %v", i+1, wait)
		}
	}
	if wait := l.Take("a", start); wait != 2*time.Second {
		t.Errorf("one more: wait %v, want 2s", wait)
	}
	if wait := l.Take("b", start); wait != 0 {
		t.Errorf("somebody else: wait %v", wait)
	}
	if wait := l.Take("a", start.Add(2*time.Second)); wait != 0 {
		t.Errorf("after the wait: %v", wait)
	}
	if wait := l.Take("a", start.Add(2*time.Second)); wait == 0 {
		t.Error("two for one wait")
	}
	for i := range 5 {
		if wait := l.Take("a", start.Add(time.Minute)); wait != 0 {
			t.Errorf("event %d after a quiet minute: wait %v", i+1, wait)
		}
	}
}

// Refused calls must not push the next allowed one further away.
func TestRefusalsAreNotCounted(t *testing.T) {
	l := New(Rate{1, time.Second})
	l.Take("a", start)
	for range 1000 {
		l.Take("a", start)
	}
	if wait := l.Take("a", start.Add(time.Second)); wait != 0 {
		t.Errorf("wait %v", wait)
	}
}

func TestNoRateAllowsEverything(t *testing.T) {
	l := New(Rate{})
	for range 1000 {
		if l.Take("a", start) != 0 {
			t.Fatal("refused")
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	l := New(Rate{1, time.Hour})
	l.Take("known", start)
	for i := range 3 * maxKeys {
		l.Take(fmt.Sprint(i), start)
	}
	if n := len(l.due); n > maxKeys+1 {
		t.Errorf("%d keys are kept", n)
	}
	if l.Take("known", start) == 0 {
		t.Error("a flood of names made a known one forgotten")
	}
	if l.Take("late", start) == 0 {
		t.Error("late-comers are not limited")
	}
	if l.Take("late", start.Add(2*time.Hour)) != 0 {
		t.Error("quiet names are not forgotten")
	}
}

func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:5000":           "192.0.2.7",
		"[::ffff:192.0.2.7]:5000":  "192.0.2.7",
		"[2001:db8:1:2:3::4]:5000": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:5000":      "fe80::/64",
		"pipe":                     "pipe",
	} {
		if got := Address(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"2000/1s": {2000, time.Second}, "5/10s": {5, 10 * time.Second}, "off": {},
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "0/1s", "-1/1s", "5/0s", "5/-1s", "5/second", "x/1s", "2/1ns", "99999999999999999999/1s"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func TestTenantsAreBoundedApart(t *testing.T) {
	var none By
	if wait := none.Take("north", "k", time.Now()); wait != 0 {
		t.Errorf("no limiters: %v", wait)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	limiters := map[string]*Limiter{"north": New(Rate{1, time.Second}), "south": New(Rate{1, time.Second})}
	by := By(func(tenant string) *Limiter { return limiters[tenant] })
	for _, c := range []struct {
		tenant string
		want   time.Duration
	}{{"north", 0}, {"north", time.Second}, {"south", 0}, {"south", time.Second}, {"elsewhere", 0}, {"elsewhere", 0}} {
		if wait := by.Take(c.tenant, "k", now); wait != c.want {
			t.Errorf("%s: %v, want %v", c.tenant, wait, c.want)
		}
	}
	shared := Always(New(Rate{1, time.Second}))
	if first, second := shared.Take("north", "k", now), shared.Take("south", "k", now); first != 0 || second != time.Second {
		t.Errorf("shared: %v, %v", first, second)
	}
}
