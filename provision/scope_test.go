package provision

import (
	"fmt"
	"strings"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

func TestCheckScope(t *testing.T) {
	good := func(change ...func(*Scope)) Scope {
		s := Scope{ID: "0ne0000000a", Allocation: enroll.Hashed, Hosts: []string{"north.example"}, SharedKeys: WarnOfSharedKeys}
		for _, f := range change {
			f(&s)
		}
		return s
	}
	hosts := func(names ...string) func(*Scope) { return func(s *Scope) { s.Hosts = names } }
	var many []string
	for i := range maxScopeHosts + 1 {
		many = append(many, fmt.Sprintf("h%d.example", i))
	}
	others := []Scope{{ID: "0ne0000000b", Hosts: []string{"South.example", "south"}}, good()}
	for _, s := range []Scope{
		good(), good(hosts()), good(hosts(many[1:]...)), good(hosts("a", "1.2.3.4", strings.Repeat("a", 63)+".example")),
		good(func(s *Scope) { s.Allocation = enroll.GeoLatency; s.SharedKeys = RefuseSharedKeys }),
		good(func(s *Scope) { s.Limits = Limits{PerAddress: "10/1s", PerDevice: "off"} }),
	} {
		if err := CheckScope(s, others); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for want, s := range map[string]Scope{
		"idScope: an":                                good(func(s *Scope) { s.ID = "0ne" }),
		"idScope: an ID":                             good(func(s *Scope) { s.ID = "0NE0000000A" }),
		"allocationPolicy: is \"\"":                  good(func(s *Scope) { s.Allocation = "" }),
		"allocationPolicy: is \"c":                   good(func(s *Scope) { s.Allocation = enroll.Custom }),
		"sharedKeys":                                 good(func(s *Scope) { s.SharedKeys = "" }),
		"limits.perAddress":                          good(func(s *Scope) { s.Limits.PerAddress = "fast" }),
		"limits.perDevice":                           good(func(s *Scope) { s.Limits.PerDevice = "0/1s" }),
		"hosts: has 21":                              good(hosts(many...)),
		"hosts[1]: a.example is":                     good(hosts("a.example", "a.example")),
		"hosts[0]: \"North":                          good(hosts("North.example")),
		"hosts[0]: \"north.example:":                 good(hosts("north.example:443")),
		"hosts[0]: \"a b":                            good(hosts("a b")),
		"hosts[0]: \"\"":                             good(hosts("")),
		"hosts[0]: \"*":                              good(hosts("*.example")),
		"hosts[0]: \"a.":                             good(hosts("a.")),
		"hosts[0]: \"" + strings.Repeat("abcd.", 51): good(hosts(strings.Repeat("abcd.", 51) + "abcd")),
	} {
		if err := CheckScope(s, others); err == nil || errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := CheckScope(good(hosts("north.example", "south.example")), others); errs.KindOf(err) != errs.Conflict || err == nil {
		t.Errorf("another scope's host: %v", err)
	}
	for i := range maxScopes {
		others = append(others, Scope{ID: device.IDScope(fmt.Sprintf("0ne1%07x", i))})
	}
	if err := CheckScope(good(), others); errs.KindOf(err) != errs.Conflict || err == nil {
		t.Errorf("one too many: %v", err)
	}
}
