package access

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

const (
	ofScope Owner = "dps:0ne00000001"
	ofHub   Owner = "hub:hub.example"
)

func made(t *testing.T, name string, rights Right) Policy {
	t.Helper()
	p, err := NewPolicy(name, rights, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func anyPolicy(Policy) bool   { return true }
func otherPolicy(Policy) bool { return false }

func TestRightsAreThoseOfTheOwner(t *testing.T) {
	for _, c := range []struct {
		owner Owner
		names string
		want  Right
	}{
		{ofScope, "ServiceConfig", ServiceConfig},
		{ofScope, "enrollmentread EnrollmentWrite EnrollmentRead", EnrollmentRead | EnrollmentWrite},
		{ofScope, "DeviceConnect", DeviceConnect},
		{ofHub, "DeviceConnect", HubDeviceConnect},
		{ofHub, "RegistryRead RegistryWrite ServiceConnect DeviceConnect", AllHub},
		{ofHub, "ServiceConfig", 0},
		{ofScope, "RegistryRead", 0},
		{ofScope, "ServiceConfig Everything", 0},
		{ofScope, "", 0},
	} {
		got, err := c.owner.ParseRights(strings.Fields(c.names))
		if got != c.want || (c.want == 0) != (errs.KindOf(err) == errs.Invalid && err != nil) {
			t.Errorf("%s of %s: %s, %v", c.names, c.owner, got, err)
		}
		if again, err := c.owner.ParseRights(got.Names()); c.want != 0 && (again != got || err != nil) {
			t.Errorf("%s is not read back: %s, %v", got, again, err)
		}
	}
}

func TestPut(t *testing.T) {
	owner, reader := made(t, "owner", AllProvisioning), made(t, "Reader", EnrollmentRead)
	before := []Policy{owner, reader}
	after, err := Put(before, ofScope, Policy{Name: "line-1", Rights: EnrollmentWrite}, nil, rand.Reader)
	if err != nil || len(after) != 3 || after[2].Primary.IsZero() || after[2].Secondary.IsZero() || len(before) != 2 {
		t.Fatalf("%v, %v", after, err)
	}
	given := made(t, "given", EnrollmentRead)
	after, err = Put(before, ofScope, given, nil, rand.Reader)
	if err != nil || !after[2].Primary.Equal(given.Primary) || !after[2].Secondary.Equal(given.Secondary) {
		t.Errorf("given keys: %v, %v", after, err)
	}
	after, err = Put(before, ofScope, Policy{Name: "READER", Rights: EnrollmentRead | EnrollmentWrite}, anyPolicy, rand.Reader)
	if err != nil || after[1].Name != "Reader" || after[1].Rights != EnrollmentRead|EnrollmentWrite || !after[1].Primary.Equal(reader.Primary) || before[1].Rights != EnrollmentRead {
		t.Errorf("new rights: %v, %v", after, err)
	}
	if after, err = Put(nil, ofHub, Policy{Name: "any", Rights: RegistryRead}, nil, rand.Reader); err != nil || len(after) != 1 {
		t.Errorf("the first of a hub: %v, %v", after, err)
	}
}

func TestPutRefuses(t *testing.T) {
	owner, reader := made(t, "owner", AllProvisioning), made(t, "reader", EnrollmentRead)
	same := Policy{"same", owner.Primary, owner.Primary, EnrollmentRead}
	full := make([]Policy, maxPolicies)
	for i := range full {
		full[i] = Policy{Name: fmt.Sprint("p", i), Rights: ServiceConfig}
	}
	for name, c := range map[string]struct {
		before []Policy
		next   Policy
		match  Match
		want   errs.Kind
	}{
		"it exists":              {[]Policy{owner}, Policy{Name: "OWNER", Rights: ServiceConfig}, nil, errs.Conflict},
		"nothing to update":      {[]Policy{owner}, Policy{Name: "nobody", Rights: ServiceConfig}, anyPolicy, errs.NotFound},
		"changed meanwhile":      {[]Policy{owner, reader}, Policy{Name: "reader", Rights: ServiceConfig}, otherPolicy, errs.Precondition},
		"no name":                {[]Policy{owner}, Policy{Rights: ServiceConfig}, nil, errs.Invalid},
		"name ends the string":   {[]Policy{owner}, Policy{Name: "a;HostName=evil", Rights: ServiceConfig}, nil, errs.Invalid},
		"name ends the field":    {[]Policy{owner}, Policy{Name: "a&sig=x", Rights: ServiceConfig}, nil, errs.Invalid},
		"name breaks a line":     {[]Policy{owner}, Policy{Name: "a\nb", Rights: ServiceConfig}, nil, errs.Invalid},
		"name is a path":         {[]Policy{owner}, Policy{Name: "..", Rights: ServiceConfig}, nil, errs.Invalid},
		"name without end":       {[]Policy{owner}, Policy{Name: strings.Repeat("a", 65), Rights: ServiceConfig}, nil, errs.Invalid},
		"one key twice":          {[]Policy{owner}, same, nil, errs.Invalid},
		"one too many":           {full, reader, nil, errs.Conflict},
		"the last that may":      {[]Policy{owner, reader}, Policy{Name: "owner", Rights: AllProvisioning &^ ServiceConfig}, anyPolicy, errs.Conflict},
		"the only one, weakened": {[]Policy{owner}, Policy{Name: "owner", Rights: EnrollmentRead}, anyPolicy, errs.Conflict},
	} {
		if _, err := Put(c.before, ofScope, c.next, c.match, rand.Reader); err == nil || errs.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Put(nil, ofScope, Policy{Name: "a", Rights: ServiceConfig}, nil, iotest.ErrReader(errors.New("no entropy"))); err == nil {
		t.Error("a policy without keys")
	}
}

func TestRoll(t *testing.T) {
	before := []Policy{made(t, "owner", AllProvisioning), made(t, "reader", EnrollmentRead)}
	for _, slot := range []Slot{Primary, Secondary} {
		after, rolled, err := Roll(before, "Reader", slot, anyPolicy, rand.Reader)
		if err != nil || rolled.Name != "reader" || rolled.Rights != EnrollmentRead {
			t.Fatalf("%v, %v", rolled, err)
		}
		kept, gone := [2]device.SymmetricKey{rolled.Secondary, before[1].Secondary}, [2]device.SymmetricKey{rolled.Primary, before[1].Primary}
		if slot == Secondary {
			kept, gone = gone, kept
		}
		if !kept[0].Equal(kept[1]) || gone[0].Equal(gone[1]) || !after[1].Primary.Equal(rolled.Primary) || !after[0].Primary.Equal(before[0].Primary) {
			t.Errorf("rolling the %s key", slot)
		}
	}
	for name, c := range map[string]struct {
		policy string
		slot   Slot
		match  Match
		want   errs.Kind
	}{
		"nobody":            {"nobody", Primary, nil, errs.NotFound},
		"no slot":           {"owner", "", nil, errs.Invalid},
		"a third slot":      {"owner", "tertiary", nil, errs.Invalid},
		"changed meanwhile": {"owner", Primary, otherPolicy, errs.Precondition},
	} {
		if _, _, err := Roll(before, c.policy, c.slot, c.match, rand.Reader); err == nil || errs.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRemove(t *testing.T) {
	owner, second, reader := made(t, "owner", AllProvisioning), made(t, "second", ServiceConfig), made(t, "reader", EnrollmentRead)
	all := []Policy{owner, second, reader}
	after, err := Remove(all, ofScope, "OWNER", nil)
	if err != nil || !slices.EqualFunc(after, []Policy{second, reader}, func(a, b Policy) bool { return a.Name == b.Name }) || all[0].Name != "owner" {
		t.Errorf("%v, %v", after, err)
	}
	if after, err := Remove([]Policy{made(t, "iothubowner", AllHub)}, ofHub, "iothubowner", anyPolicy); err != nil || len(after) != 0 {
		t.Errorf("the last of a hub: %v, %v", after, err)
	}
	for name, c := range map[string]struct {
		policy string
		match  Match
		want   errs.Kind
	}{
		"the last that may": {"second", nil, errs.Conflict},
		"nobody":            {"owner", nil, errs.NotFound},
		"changed meanwhile": {"reader", otherPolicy, errs.Precondition},
	} {
		if _, err := Remove([]Policy{second, reader}, ofScope, c.policy, c.match); err == nil || errs.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
