package access

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func policy(t *testing.T, name string, rights Right) Policy {
	t.Helper()
	p, err := NewPolicy(name, rights, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAuthenticate(t *testing.T) {
	const host = "dps.example"
	owner, reader := policy(t, "owner", AllProvisioning), policy(t, "reader", EnrollmentRead)
	policies := []Policy{owner, reader, {Name: "empty", Rights: AllProvisioning}}
	ours := func(resource string) bool { return sas.HostResource(resource, host) }
	soon := now.Add(time.Hour)

	for _, c := range []struct {
		name     string
		key      device.SymmetricKey
		resource string
		expiry   time.Time
		keyName  string
		caller   string // the policy that is recognised; empty for a refusal
		told     string // why, for a refused caller who holds a key
	}{
		{"primary key", owner.Primary, host, soon, "owner", "owner", ""},
		{"secondary key", owner.Secondary, host, soon, "owner", "owner", ""},
		{"name in another case", owner.Primary, host, soon, "OWNER", "owner", ""},
		{"whole endpoint as resource", owner.Primary, "https://DPS.example:443/", soon, "owner", "owner", ""},
		{"expired within the skew", owner.Primary, host, now.Add(-skew + time.Second), "owner", "owner", ""},
		{"the other policy", reader.Primary, host, soon, "reader", "reader", ""},

		{"another policy's key", reader.Primary, host, soon, "owner", "", ""},
		{"a policy that is not there", owner.Primary, host, soon, "nobody", "", ""},
		{"no policy named", owner.Primary, host, soon, "", "", ""},
		{"the empty key of a policy without keys", device.SymmetricKey{}, host, soon, "empty", "", ""},
		{"another host", owner.Primary, "other.example", soon, "owner", "", "the token is for another resource"},
		{"a device's resource", owner.Primary, "0ne00000000/registrations/d", soon, "owner", "", "the token is for another resource"},
		{"expired", owner.Primary, host, now.Add(-skew), "owner", "", "the token expired at 2026-03-01T11:55:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token, err := sas.Parse(sas.Sign(c.key.Bytes(), c.resource, c.expiry, c.keyName))
			if err != nil {
				t.Fatal(err)
			}
			caller, err := Authenticate(policies, token, ours, now)
			switch {
			case c.caller != "" && (err != nil || caller.Policy != c.caller):
				t.Errorf("caller %q, %v", caller.Policy, err)
			case c.caller == "" && (errs.KindOf(err) != errs.Denied || caller != Caller{}):
				t.Errorf("let in as %q, %v", caller.Policy, err)
			case c.caller == "" && (errs.Public(err).Message != strings.TrimSuffix("Unauthorized: "+c.told, ": ") || errors.Unwrap(err) == nil):
				t.Errorf("the caller is told %q, and the reason kept is %v", errs.Public(err).Message, errors.Unwrap(err))
			}
		})
	}
}

func TestRequireWantsEveryRight(t *testing.T) {
	all := []Right{ServiceConfig, EnrollmentRead, EnrollmentWrite, DeviceConnect, RegistrationStatusRead,
		RegistrationStatusWrite, RegistryRead, RegistryWrite, ServiceConnect, HubDeviceConnect}
	for _, need := range all {
		for _, have := range all {
			err := Caller{"p", have}.Require(need)
			if (err == nil) != (need == have) {
				t.Errorf("with %v, %v: %v", have, need, err)
			}
			if err != nil && (errs.KindOf(err) != errs.Denied || errs.Public(err).Message != `Unauthorized: policy "p" lacks `+need.String()) {
				t.Errorf("with %v, %v: %v", have, need, errs.KindOf(err))
			}
		}
	}
	if err := (Caller{"p", EnrollmentRead}).Require(EnrollmentRead | EnrollmentWrite); err == nil {
		t.Error("one right of two was enough")
	}
	if HubDeviceConnect == DeviceConnect || AllProvisioning&AllHub != 0 {
		t.Error("a right of the provisioning service is one of the hub")
	}
	if got := (EnrollmentRead | RegistryWrite).String(); got != "EnrollmentRead, RegistryWrite" {
		t.Errorf("rights are written %q", got)
	}
}
