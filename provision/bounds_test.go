package provision

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// Strangers can be challenged as often as they like: the table is forgotten a
// generation at a time.
func TestTableOfChallengesIsBounded(t *testing.T) {
	var c challenged
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	most := 0
	for i := range 5*maxChallenged/2 + 1 {
		c.remember(line{"0ne00111111", device.RegistrationID(fmt.Sprint(i))}, tpmKeys{srk: []byte("srk")}, now, time.Minute)
		most = max(most, len(c.now)+len(c.old))
	}
	if most > 2*maxChallenged {
		t.Errorf("%d devices were remembered at once", most)
	}
	at := func(i int) int { return len(c.recall(line{"0ne00111111", device.RegistrationID(fmt.Sprint(i))})) }
	if at(0) != 0 || at(5*maxChallenged/2) != 1 || at(3*maxChallenged/2) != 1 {
		t.Errorf("the first has %d keys, one of the generation before %d, the last %d", at(0), at(3*maxChallenged/2), at(5*maxChallenged/2))
	}
}

func TestChallengesOfOneDevice(t *testing.T) {
	const lifetime = 10 * time.Minute
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	own, others := line{"0ne00111111", "a"}, line{"0ne00222222", "a"}
	type step struct {
		l     line
		srk   string
		after time.Duration // since the start
	}
	for _, c := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"none", nil, "[]"},
		{"another scope's", []step{{others, "x", 0}}, "[]"},
		{"one", []step{{own, "x", 0}}, "[x]"},
		{"one twice", []step{{own, "x", 0}, {own, "x", 1}}, "[x]"},
		{"two, newest first", []step{{own, "x", 0}, {own, "y", 1}}, "[y x]"},
		{"the first again", []step{{own, "x", 0}, {own, "y", 1}, {own, "x", 2}}, "[x y]"},
		{"the oldest of three is forgotten", []step{{own, "x", 0}, {own, "y", 1}, {own, "z", 2}}, "[z y]"},
		{"of the generation before", []step{{own, "x", 0}, {others, "y", lifetime + 1}}, "[x]"},
		{"of both generations", []step{{own, "x", 0}, {own, "y", lifetime + 1}}, "[y x]"},
		{"of two generations before", []step{{own, "x", 0}, {others, "y", lifetime + 1}, {others, "y", 2*lifetime + 2}}, "[]"},
	} {
		var table challenged
		for _, s := range c.steps {
			table.remember(s.l, tpmKeys{srk: []byte(s.srk)}, now.Add(s.after), lifetime)
		}
		var srks [][]byte
		for _, k := range table.recall(own) {
			srks = append(srks, k.srk)
		}
		if got := fmt.Sprintf("%s", srks); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// What is remembered is the table's own.
	var table challenged
	srk, ek := []byte("x"), []byte("x")
	table.remember(own, tpmKeys{srk: srk, ek: ek}, now, lifetime)
	srk[0], ek[0] = 'y', 'y'
	if got := table.recall(own)[0]; string(got.srk) != "x" || string(got.ek) != "x" {
		t.Errorf("remembered %s and %s", got.srk, got.ek)
	}
	// An individual enrollment and a group may have seen one TPM each.
	table.remember(own, tpmKeys{srk: []byte("x")}, now, lifetime)
	if got := table.recall(own); len(got) != 2 || got[0].ek != nil || got[1].ek == nil {
		t.Errorf("remembered %v", got)
	}
}

func TestJournalIsBounded(t *testing.T) {
	j := NewJournal(3)
	for i := range 10 {
		j.add(Decision{Scope: "0ne00111111", RegistrationID: "Pump-7", TrackingID: errs.TrackingID(fmt.Sprint("T", i))})
		found := j.find("0ne00111111", "pump-7")
		want := ""
		for n := i; n >= 0 && n > i-3; n-- {
			want += fmt.Sprint("T", n, " ")
		}
		got := ""
		for _, d := range found {
			got += string(d.TrackingID) + " "
		}
		if got != want {
			t.Errorf("after %d decisions: %s, want %s", i+1, got, want)
		}
	}
	if len(j.find("0ne00111111", "t9")) != 1 || len(j.find("0ne00111111", "T6")) != 0 {
		t.Error("a decision is found by its tracking ID until it is forgotten")
	}
	if len(j.find("0ne00222222", "pump-7")) != 0 || len(j.find("0ne00222222", "T9")) != 0 {
		t.Error("another scope's decisions are found")
	}
}

func TestDecisionsAreBounded(t *testing.T) {
	huge := fmt.Sprintf("%01000d", 0)
	d := Decision{Presented: huge}
	d.conclude(Outcome{}, errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized").WithCause(errors.New("why")))
	if len(d.Presented) > 520 || d.Cause != "why" || d.Accepted {
		t.Errorf("concluded %+v", d)
	}
	r := Registrar{Config: Config{Now: time.Now}}
	if got := r.decision(Request{ID: huge, Scope: huge}, "register"); len(got.RegistrationID) > 128 || got.Scope != "" {
		t.Errorf("%d characters of ID, scope %q", len(got.RegistrationID), got.Scope)
	}
}
