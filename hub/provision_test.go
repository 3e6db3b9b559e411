package hub_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

var (
	initial = &hub.InitialTwin{Tags: json.RawMessage(`{"site":"a"}`), Desired: json.RawMessage(`{"rate":1}`)}
	first   = hub.Provisioning{Hub: host, DeviceID: "d1", Keys: keys(1, 2), Twin: initial}
	there   = hub.Place{Hub: "hub2.example", ID: "d1"}
)

func provision(t *testing.T, s *hub.Service, p hub.Provisioning) {
	t.Helper()
	if err := s.Provision(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// at returns what is at a place; nil, nil when nothing is.
func at(t *testing.T, s *hub.Service, p hub.Place) (*hub.Identity, *hub.Twin) {
	t.Helper()
	d, twin, err := s.Twin(t.Context(), owner, p)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		t.Fatal(err)
	}
	return d, twin
}

// change lets the device and the operator have written to a twin and identity.
func change(t *testing.T, m store, p hub.Place, f func(*hub.Identity, *hub.Twin)) {
	t.Helper()
	err := m.Change(t.Context(), p, func(d *hub.Identity, twin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		if d == nil {
			return nil, nil, errors.New("there is no device to change")
		}
		f(d, twin)
		return d, twin, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func lived(_ *hub.Identity, twin *hub.Twin) {
	twin.Reported, twin.ReportedVersion = json.RawMessage(`{"uptime":7}`), 5
	twin.Desired, twin.DesiredVersion = json.RawMessage(`{"rate":2}`), 3
	twin.Version = 9
}

func TestFirstAssignment(t *testing.T) {
	s, _ := open(t)
	p := first
	p.Hub, p.IoTEdge = "Hub1.Example:8443", true
	provision(t, s, p)
	d, twin := at(t, s, hub.Place{Hub: host, ID: "d1"})
	if d == nil || d.Hub != host || d.Disabled || !d.IoTEdge || d.Auth.Type != hub.AuthSAS ||
		!d.Auth.Keys.Primary.Equal(key(1)) || !d.Auth.Keys.Secondary.Equal(key(2)) {
		t.Fatalf("%+v", d)
	}
	if string(twin.Tags) != `{"site":"a"}` || string(twin.Desired) != `{"rate":1}` || string(twin.Reported) != "{}" || twin.DesiredVersion != 1 {
		t.Errorf("%+v", twin)
	}
}

func TestThumbprintFillsBothSlots(t *testing.T) {
	s, _ := open(t)
	thumbprint := strings.Repeat("AB", 32)
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "d1", Thumbprint: thumbprint})
	d, _ := at(t, s, hub.Place{Hub: host, ID: "d1"})
	if d.Auth.Type != hub.AuthSelfSigned || d.Auth.PrimaryThumbprint != thumbprint || d.Auth.SecondaryThumbprint != thumbprint || !d.Auth.Keys.Primary.IsZero() {
		t.Errorf("%+v", d.Auth)
	}
}

// Whoever asks again, having lost the answer or with new credentials, finds the
// device as it was.
func TestAskingAgain(t *testing.T) {
	s, m := open(t)
	here := hub.Place{Hub: host, ID: "d1"}
	provision(t, s, first)
	change(t, m, here, lived)
	before, twinBefore := at(t, s, here)

	for _, from := range []hub.Place{{}, here, {Hub: "HUB1.example:443", ID: "d1"}} {
		p := first
		p.From = from
		provision(t, s, p)
		d, twin := at(t, s, here)
		if d.ETag != before.ETag || d.GenerationID != before.GenerationID || twin.Version != twinBefore.Version {
			t.Errorf("from %v: a repetition changed the device", from)
		}
	}

	p := first
	p.From, p.Keys, p.MigrateTwin = here, keys(3, 4), false
	provision(t, s, p)
	d, twin := at(t, s, here)
	if !d.Auth.Keys.Primary.Equal(key(3)) || d.ETag == before.ETag || d.GenerationID != before.GenerationID {
		t.Errorf("credentials were not refreshed in place: %+v", d)
	}
	if string(twin.Desired) != `{"rate":2}` || string(twin.Reported) != `{"uptime":7}` || twin.Version != 9 {
		t.Errorf("the twin did not stay: %+v", twin)
	}
}

func TestMove(t *testing.T) {
	for _, c := range []struct {
		name              string
		migrate           bool
		desired, reported string
		version           int64
	}{
		{"with its data", true, `{"rate":2}`, `{"uptime":7}`, 9},
		{"anew", false, `{"rate":1}`, `{}`, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, m := open(t)
			old := first
			old.Hub = there.Hub
			provision(t, s, old)
			change(t, m, there, lived)

			p := first
			p.From, p.MigrateTwin = there, c.migrate
			for range 2 { // the second time the caller had not heard of the first
				provision(t, s, p)
				d, twin := at(t, s, hub.Place{Hub: host, ID: "d1"})
				if d == nil || string(twin.Desired) != c.desired || string(twin.Reported) != c.reported || twin.Version != c.version {
					t.Errorf("%+v %+v", d, twin)
				}
				if left, _ := at(t, s, there); left != nil {
					t.Error("the device is at two hubs")
				}
			}
		})
	}
}

func TestMoveToAnotherNameAtTheSameHub(t *testing.T) {
	s, _ := open(t)
	provision(t, s, first)
	p := first
	p.DeviceID, p.From, p.MigrateTwin = "D1", hub.Place{Hub: host, ID: "d1"}, true
	provision(t, s, p)
	if d, _ := at(t, s, hub.Place{Hub: host, ID: "d1"}); d != nil {
		t.Error("the old name is still there")
	}
	if d, _ := at(t, s, hub.Place{Hub: host, ID: "D1"}); d == nil {
		t.Error("the new name is not there")
	}
}

// A device that comes back to a hub where something was left finds versions
// that went on.
func TestMoveOntoALeftover(t *testing.T) {
	for migrate, want := range map[bool]string{true: `{"rate":2}`, false: `{"rate":1}`} {
		s, m := open(t)
		provision(t, s, first)
		leftover, _ := at(t, s, hub.Place{Hub: host, ID: "d1"})
		old := first
		old.Hub = there.Hub
		provision(t, s, old)
		change(t, m, there, lived)

		p := first
		p.From, p.MigrateTwin, p.Keys = there, migrate, keys(5, 6)
		provision(t, s, p)
		d, twin := at(t, s, hub.Place{Hub: host, ID: "d1"})
		if string(twin.Desired) != want || twin.Version != 10 || twin.DesiredVersion != 4 || twin.ReportedVersion != 6 ||
			d.GenerationID != leftover.GenerationID || !d.Auth.Keys.Primary.Equal(key(5)) {
			t.Errorf("migrate %v: %+v %+v", migrate, d, twin)
		}
	}
}

func TestMoveFromAPlaceThatIsEmpty(t *testing.T) {
	s, _ := open(t)
	p := first
	p.From, p.MigrateTwin = there, true
	provision(t, s, p)
	if _, twin := at(t, s, hub.Place{Hub: host, ID: "d1"}); twin == nil || string(twin.Desired) != `{"rate":1}` {
		t.Errorf("%+v", twin)
	}
}

// A device arrives from a hub elsewhere, the second time because the caller had
// not heard of the first.
func TestArrivalFromAHubElsewhere(t *testing.T) {
	p := first
	p.Twin = &hub.InitialTwin{Tags: json.RawMessage(`{"site" : "b", "old": null}`), Desired: json.RawMessage(`{"rate":7}`)}
	p.Arrival = &hub.Arrival{Disabled: true, StatusReason: "stolen"}
	for name, leftover := range map[string]bool{"to nothing": false, "to a leftover": true} {
		s, m := open(t)
		here := hub.Place{Hub: host, ID: "d1"}
		version := int64(2)
		if leftover {
			provision(t, s, first)
			change(t, m, here, lived)
			version = 10
		}
		for range 2 {
			provision(t, s, p)
			d, twin := at(t, s, here)
			if !d.Disabled || d.StatusReason != "stolen" || twin.Version != version ||
				string(twin.Tags) != `{"site":"b"}` || string(twin.Desired) != `{"rate":7}` || string(twin.Reported) != `{}` {
				t.Errorf("%s: %+v %+v", name, d, twin)
			}
		}
		p := p
		p.Arrival = &hub.Arrival{}
		provision(t, s, p)
		if d, _ := at(t, s, here); !d.Disabled {
			t.Errorf("%s: the device was enabled by arriving again", name)
		}
	}
}

// Registering again gets no device past the operator who disabled it.
func TestDisabledStaysDisabled(t *testing.T) {
	disable := func(d *hub.Identity, _ *hub.Twin) { d.Disabled, d.StatusReason = true, "stolen" }
	check := func(t *testing.T, s *hub.Service, wantPrimary byte) {
		t.Helper()
		d, _ := at(t, s, hub.Place{Hub: host, ID: "d1"})
		if !d.Disabled || d.StatusReason != "stolen" || !d.Auth.Keys.Primary.Equal(key(wantPrimary)) {
			t.Errorf("%+v", d)
		}
	}
	again := first
	again.Keys = keys(3, 4)

	t.Run("in place", func(t *testing.T) {
		s, m := open(t)
		provision(t, s, first)
		change(t, m, hub.Place{Hub: host, ID: "d1"}, disable)
		provision(t, s, again)
		check(t, s, 3)
	})
	for _, migrate := range []bool{true, false} {
		t.Run("moving", func(t *testing.T) {
			s, m := open(t)
			old, p := first, again
			old.Hub = there.Hub
			provision(t, s, old)
			change(t, m, there, disable)
			p.From, p.MigrateTwin = there, migrate
			provision(t, s, p)
			check(t, s, 3)
		})
	}
}

func TestReasonOfTheOperatorStays(t *testing.T) {
	s, m := open(t)
	provision(t, s, first)
	change(t, m, hub.Place{Hub: host, ID: "d1"}, func(d *hub.Identity, _ *hub.Twin) { d.StatusReason = "back from repair" })
	before, _ := at(t, s, hub.Place{Hub: host, ID: "d1"})
	provision(t, s, first)
	if d, _ := at(t, s, hub.Place{Hub: host, ID: "d1"}); d.StatusReason != "back from repair" || d.ETag != before.ETag {
		t.Errorf("%+v", d)
	}
}

func TestProvisioningsThatAreRefused(t *testing.T) {
	for name, p := range map[string]hub.Provisioning{
		"no device ID":       {Hub: host, Keys: keys(1, 2)},
		"bad device ID":      {Hub: host, DeviceID: "a/b", Keys: keys(1, 2)},
		"no credential":      {Hub: host, DeviceID: "d1"},
		"one key":            {Hub: host, DeviceID: "d1", Keys: attest.SymmetricKeys{Primary: key(1)}},
		"bad thumbprint":     {Hub: host, DeviceID: "d1", Thumbprint: "AB"},
		"tags are a string":  {Hub: host, DeviceID: "d1", Keys: keys(1, 2), Twin: &hub.InitialTwin{Tags: json.RawMessage(`"x"`)}},
		"a name with a dot":  {Hub: host, DeviceID: "d1", Keys: keys(1, 2), Twin: &hub.InitialTwin{Desired: json.RawMessage(`{"a.b":1}`)}},
		"desired is cut off": {Hub: host, DeviceID: "d1", Keys: keys(1, 2), Twin: &hub.InitialTwin{Desired: json.RawMessage(`{"a":`)}},
	} {
		s, m := open(t)
		if err := s.Provision(t.Context(), p); errs.KindOf(err) != errs.Invalid || m.holds(t, "d1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
