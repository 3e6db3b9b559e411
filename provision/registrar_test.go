package provision_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

func TestRepeatedRegistrationRefreshesKeys(t *testing.T) {
	s := newService(t)
	s.enroll(byKey(enroll.Individual, "pump-7", key(1), key(2)))
	first := s.register("pump-7", s.token(key(1), "pump-7"))
	if first.Status != provision.Assigned || first.Substatus != provision.InitialAssignment || first.Hub != hub1 || first.DeviceID != "pump-7" {
		t.Fatalf("first: %+v", first)
	}
	born := s.device(hub1, "pump-7")

	s.pass(time.Hour)
	s.enroll(byKey(enroll.Individual, "pump-7", key(3), key(2))) // the primary is rolled
	s.refused(errs.CodeUnauthorizedAccess, "pump-7", s.token(key(1), "pump-7"))
	second := s.register("pump-7", s.token(key(2), "pump-7"))
	if second.Hub != hub1 || second.Substatus != provision.ReprovisionedToInitialAssignment {
		t.Errorf("second: %+v", second)
	}
	if second.ETag == first.ETag || second.OperationID == first.OperationID || !second.Created.Equal(first.Created) || !second.Updated.After(first.Updated) {
		t.Errorf("etag, operation, created or updated: %+v after %+v", second, first)
	}
	grown := s.device(hub1, "pump-7")
	if !grown.Auth.Keys.Primary.Equal(key(3)) || !grown.Auth.Keys.Secondary.Equal(key(2)) {
		t.Error("the hub has old keys")
	}
	if grown.GenerationID != born.GenerationID {
		t.Error("the device was made again, and its twin with it")
	}
}

func TestIndividualEnrollmentHidesGroups(t *testing.T) {
	s := newService(t)
	group := key(9)
	s.enroll(byKey(enroll.Group, "pumps", group, key(8)))
	own := s.token(derived(group, "pump-7"), "pump-7")
	if r := s.register("pump-7", own); r.GroupID != "pumps" {
		t.Fatalf("by its group: %+v", r)
	}

	s.enroll(byKey(enroll.Individual, "pump-7", key(1), key(2)))
	s.refused(errs.CodeUnauthorizedAccess, "pump-7", own)
	if r := s.register("pump-7", s.token(key(1), "pump-7")); r.GroupID != "" || r.Status != provision.Assigned {
		t.Errorf("by its own: %+v", r)
	}

	// A disabled one takes a single device out of an enabled group: what the
	// group would take is refused, and who proves to be that device is told.
	shut := byKey(enroll.Individual, "Pump-8", derived(group, "pump-8"), key(2))
	shut.Disabled = true
	s.enroll(shut)
	before := s.device(hub1, "pump-8")
	s.register("pump-8", s.token(derived(group, "pump-8"), "pump-8"))
	if r := s.record("pump-8"); r.Status != provision.Disabled || r.Hub != "" || before != nil || s.device(hub1, "pump-8") != nil {
		t.Errorf("the record is %+v", r)
	}
	if d := s.decisions("pump-8")[0]; d.Accepted || !strings.Contains(d.Outcome, `individual "Pump-8" is disabled`) || d.Fix == "" {
		t.Errorf("the decision is %+v", d)
	}
	// The group's other devices come in as before.
	s.register("pump-9", s.token(derived(group, "pump-9"), "pump-9"))

	s.enroll(byKey(enroll.Individual, "pump-8", derived(group, "pump-8"), key(2)))
	if r := s.register("pump-8", s.token(key(2), "pump-8")); r.Status != provision.Assigned || r.Substatus != provision.InitialAssignment {
		t.Errorf("enabled again: %+v", r)
	}
}

// Disabling an enrollment does not touch the identity that its device has.
func TestDisabledDeviceKeepsItsHome(t *testing.T) {
	s := newService(t)
	e := byKey(enroll.Individual, "pump-7", key(1), key(2))
	s.enroll(e)
	s.register("pump-7", s.token(key(1), "pump-7"))
	e.Disabled = true
	s.enroll(e)
	out, err := s.registrar.Register(t.Context(), request("pump-7", s.token(key(1), "pump-7")))
	if err != nil || out.Operation.Registration.Status != provision.Assigning || out.Operation.RetryAfter != 3*time.Second {
		t.Fatalf("the call is answered %+v, %v", out.Operation, err)
	}
	polled, err := s.registrar.OperationStatus(t.Context(), request("pump-7", s.token(key(1), "pump-7")), out.Operation.ID)
	if err != nil || polled.Operation.Registration.Status != provision.Disabled || polled.Operation.RetryAfter != 0 {
		t.Fatalf("the poll is answered %+v, %v", polled.Operation, err)
	}
	if s.device(hub1, "pump-7") == nil {
		t.Error("the hub's identity is gone")
	}
	e.Disabled = false
	s.enroll(e)
	if r := s.register("pump-7", s.token(key(1), "pump-7")); r.Hub != hub1 || r.Substatus != provision.ReprovisionedToInitialAssignment {
		t.Errorf("enabled again: %+v", r)
	}
}

func TestNearestAuthorityDecides(t *testing.T) {
	s := newService(t)
	root, err := pki.NewRoot("Root", s.now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	site, err := root.NewIntermediate("Site", s.now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(id string) *pki.Leaf {
		l, err := site.IssueDevice(id, s.now, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	s.enroll(byCA("all", root.Certificate))
	pump := leaf("pump-7")
	if r := s.register("pump-7", shown(pump)); r.GroupID != "all" || r.Status != provision.Assigned {
		t.Fatalf("by the root: %+v", r)
	}
	if d := s.device(hub1, "pump-7"); d.Auth.PrimaryThumbprint != attest.Thumbprint(pump.Certificate.Raw) {
		t.Errorf("the hub knows the device by %q", d.Auth.PrimaryThumbprint)
	}
	s.enroll(byCA("site", site.Certificate))
	if r := s.register("pump-8", shown(leaf("pump-8"))); r.GroupID != "site" {
		t.Errorf("by the nearer CA: %+v", r)
	}
	// An enabled group further up does not let in what the nearest shuts out.
	shut := byCA("site", site.Certificate)
	shut.Disabled = true
	s.enroll(shut)
	s.register("pump-9", shown(leaf("pump-9")))
	if r := s.record("pump-9"); r.Status != provision.Disabled || r.GroupID != "site" {
		t.Errorf("by a disabled nearer CA: %+v", r)
	}
	// Nor do its faults.
	s.refused(errs.CodeUnauthorizedAccess, "pump-10", shown(leaf("pump-11")))
}

// A device does not name its group: whose key signed decides, and where two
// groups share one, the first in order.
func TestGroupKeysAreTriedInOrder(t *testing.T) {
	s := newService(t)
	shut := byKey(enroll.Group, "b-shut", key(4), key(5))
	shut.Disabled = true
	s.enroll(byKey(enroll.Group, "c-last", key(6), key(7)))
	s.enroll(byKey(enroll.Group, "a-first", key(2), key(3)))
	s.enroll(shut)
	s.enroll(byKey(enroll.Group, "d-twin", key(2), key(5)))
	for _, c := range []struct {
		name   string
		group  device.SymmetricKey
		want   string
		status provision.Status
	}{
		{"the first", key(2), "a-first", provision.Assigned},
		{"its secondary", key(3), "a-first", provision.Assigned},
		{"the last", key(7), "c-last", provision.Assigned},
		{"a disabled one", key(4), "b-shut", provision.Disabled},
		{"a disabled one that another enabled one shares a key with", key(5), "b-shut", provision.Disabled},
	} {
		id := "pump-" + hex.EncodeToString(c.group.Bytes()[:2])
		s.register(id, s.token(derived(c.group, id), id))
		if r := s.record(id); r.GroupID != c.want || r.Status != c.status {
			t.Errorf("%s: group %q, status %s", c.name, r.GroupID, r.Status)
		}
	}
	s.refused(errs.CodeUnauthorizedAccess, "pump-x", s.token(derived(key(1), "pump-x"), "pump-x"))
	s.refused(errs.CodeUnauthorizedAccess, "pump-x", s.token(key(2), "pump-x"))                    // the group's own key
	s.refused(errs.CodeUnauthorizedAccess, "pump-x", s.token(derived(key(2), "pump-y"), "pump-x")) // another device's
}

func TestUnknownsAreRefused(t *testing.T) {
	s := newService(t)
	s.refused(errs.CodeEnrollmentNotFound, "pump-7", attest.Credential{})
	s.refused(errs.CodeEnrollmentNotFound, "pump-7", s.token(key(1), "pump-7"))
	s.enroll(byKey(enroll.Individual, "pump-7", key(1), key(2)))
	s.refused(errs.CodeUnauthorizedAccess, "pump-7", attest.Credential{})
	for bad, code := range map[string]errs.Code{"0neffffffff": errs.CodeGenericNotFound, "scope": errs.CodeGenericNotFound, "": errs.CodeGenericNotFound} {
		r := request("pump-7", s.token(key(1), "pump-7"))
		r.Scope = bad
		if _, err := s.registrar.Register(t.Context(), r); errs.Public(err).Code != code {
			t.Errorf("scope %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "pump 7", "pump/7", strings.Repeat("a", 129)} {
		if _, err := s.registrar.Register(t.Context(), request(bad, attest.Credential{})); errs.KindOf(err) != errs.Invalid {
			t.Errorf("ID %q: %v", bad, err)
		}
	}
}

func TestDeviceIDs(t *testing.T) {
	s := newService(t)
	named := byKey(enroll.Individual, "serial-0001", key(1), key(2))
	named.DeviceID = "Pump#7"
	s.enroll(named)
	if r := s.register("SERIAL-0001", s.token(key(1), "serial-0001")); r.DeviceID != "Pump#7" || r.ID != "serial-0001" {
		t.Errorf("registered as %q, named %q", r.ID, r.DeviceID)
	}
	if s.device(hub1, "Pump#7") == nil || s.device(hub1, "serial-0001") != nil {
		t.Error("the hub has it under another name")
	}
	// Its name at the hub stays while the record does.
	for _, rename := range []device.ID{"Pump#8", ""} {
		again := byKey(enroll.Individual, "serial-0001", key(1), key(2))
		again.Scope, again.DeviceID = scope, rename
		_, err := s.enroller.Put(t.Context(), operator, again, func(string) bool { return true })
		if errs.KindOf(err) != errs.Invalid || !strings.HasPrefix(err.Error(), "deviceId: ") {
			t.Errorf("renaming to %q: %v", rename, err)
		}
	}
	if err := s.enroller.DeleteRegistration(t.Context(), operator, scope, "serial-0001", nil); err != nil {
		t.Fatal(err)
	}
	named.DeviceID = "Pump#8"
	s.enroll(named)
	if r := s.register("serial-0001", s.token(key(1), "serial-0001")); r.DeviceID != "Pump#8" || r.Substatus != provision.InitialAssignment {
		t.Errorf("renamed: %+v", r)
	}
	if s.device(hub1, "Pump#7") == nil {
		t.Error("the identity under the old name is gone; it is the operator's to remove")
	}

	// A device of a group keeps the spelling it first came with.
	s.enroll(byKey(enroll.Group, "pumps", key(9), key(8)))
	for _, spelling := range []string{"Pump-7", "PUMP-7", "pump-7"} {
		if r := s.register(spelling, s.token(derived(key(9), spelling), spelling)); r.DeviceID != "Pump-7" {
			t.Errorf("%s is %q at the hub", spelling, r.DeviceID)
		}
	}
}

func TestEdgeCapabilityAndInitialTwinReachTheHub(t *testing.T) {
	s := newService(t)
	e := byKey(enroll.Individual, "gateway-1", key(1), key(2))
	e.IoTEdge = true
	e.InitialTwin = &enroll.InitialTwin{Tags: json.RawMessage(`{"site":"a"}`), Desired: json.RawMessage(`{"rate":1}`)}
	s.enroll(e)
	s.register("gateway-1", s.token(key(1), "gateway-1"))
	if d := s.device(hub1, "gateway-1"); !d.IoTEdge {
		t.Error("it is no edge device")
	}
	if twin := s.twin(hub1, "gateway-1"); string(twin.Tags) != `{"site":"a"}` || string(twin.Desired) != `{"rate":1}` {
		t.Errorf("its twin is %s, %s", twin.Tags, twin.Desired)
	}
}

// What the reprovision policy says about a device whose hub is no longer one of
// those its enrollment allows.
func TestReprovisionPolicies(t *testing.T) {
	const initial, changed = `{"rate":1}`, `{"rate":2}`
	for _, c := range []struct {
		name      string
		policy    *enroll.ReprovisionPolicy
		hub       string
		substatus provision.Substatus
		desired   string
	}{
		{"none", nil, hub2, provision.DeviceDataMigrated, changed},
		{"migrate", &enroll.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}, hub2, provision.DeviceDataMigrated, changed},
		{"reset", &enroll.ReprovisionPolicy{UpdateHubAssignment: true}, hub2, provision.DeviceDataReset, initial},
		{"never", &enroll.ReprovisionPolicy{MigrateDeviceData: true}, hub1, provision.ReprovisionedToInitialAssignment, changed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t)
			s.link(hub2, 1)
			e := byKey(enroll.Individual, "pump-7", key(1), key(2))
			e.IoTHubs, e.Reprovision = []string{hub1}, c.policy
			e.InitialTwin = &enroll.InitialTwin{Desired: json.RawMessage(initial)}
			s.enroll(e)
			s.register("pump-7", s.token(key(1), "pump-7"))
			patch := json.RawMessage(changed)
			setDesired(s, hub1, "pump-7", patch)

			e.IoTHubs = []string{hub2}
			s.enroll(e)
			r := s.register("pump-7", s.token(key(1), "pump-7"))
			if r.Hub != c.hub || r.Substatus != c.substatus {
				t.Errorf("assigned to %s, %s", r.Hub, r.Substatus)
			}
			if got := s.twin(c.hub, "pump-7").Desired; string(got) != c.desired {
				t.Errorf("desired is %s", got)
			}
			for _, host := range []string{hub1, hub2} {
				if there := s.device(host, "pump-7") != nil; there != (host == c.hub) {
					t.Errorf("an identity at %s: %v", host, there)
				}
			}
		})
	}
}

func TestNoHubIsAFailedRegistration(t *testing.T) {
	for name, arrange := range map[string]func(*service, *enroll.Entry){
		"the enrollment lists an unlinked hub": func(_ *service, e *enroll.Entry) { e.IoTHubs = []string{"elsewhere.example"} },
		"the enrollment pins an unlinked hub":  func(_ *service, e *enroll.Entry) { e.IoTHub = "elsewhere.example" },
		"no hub is linked":                     func(s *service, _ *enroll.Entry) { s.unlink(hub1) },
		"no hub takes part": func(s *service, _ *enroll.Entry) {
			if err := s.store.PutLinkedHub(s.t.Context(), scope, provision.LinkedHub{Host: hub1, Weight: 1}); err != nil {
				s.t.Fatal(err)
			}
		},
		"the hub refuses": func(s *service, _ *enroll.Entry) {
			s.refusal = errs.New(errs.Invalid, errs.CodeHubNotSpecified, "No IoT hub is available for this device.")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			e := byKey(enroll.Individual, "pump-7", key(1), key(2))
			arrange(s, e)
			s.enroll(e)
			out, err := s.registrar.Register(t.Context(), request("pump-7", s.token(key(1), "pump-7")))
			if err != nil || out.Operation.Registration.Status != provision.Assigning {
				t.Fatalf("the call is answered %+v, %v", out.Operation, err)
			}
			r := s.record("pump-7")
			if r.Status != provision.Failed || r.ErrorCode != errs.CodeHubNotSpecified || r.ErrorMessage == "" || r.Hub != "" || r.ETag == "" {
				t.Errorf("the record is %+v", r)
			}
			if d := s.decisions("pump-7")[0]; d.Accepted || !strings.HasPrefix(d.Outcome, "failed: ") {
				t.Errorf("the decision is %+v", d)
			}
			// The next attempt can be good.
			s.refusal = nil
			s.link(hub1, 1)
			e.IoTHub, e.IoTHubs = "", nil
			s.enroll(e)
			if r := s.register("pump-7", s.token(key(1), "pump-7")); r.Status != provision.Assigned || r.ErrorCode != 0 || r.Substatus != provision.InitialAssignment {
				t.Errorf("after the fault was mended: %+v", r)
			}
		})
	}
}

// A hub that is down is nothing the device did: it is told to come again, and
// the record stays as it was.
func TestHubThatIsDownChangesNothing(t *testing.T) {
	s := newService(t)
	s.enroll(byKey(enroll.Individual, "pump-7", key(1), key(2)))
	s.refusal = errHubDown
	_, err := s.registrar.Register(t.Context(), request("pump-7", s.token(key(1), "pump-7")))
	if errs.KindOf(err) != errs.Internal || !errors.Is(err, errHubDown) || s.record("pump-7") != nil {
		t.Errorf("error %v, record %+v", err, s.record("pump-7"))
	}
	if d := s.decisions("pump-7")[0]; !strings.Contains(d.Cause, "connection refused") || strings.Contains(d.Outcome, "refused: connection") {
		t.Errorf("the decision is %+v", d)
	}
	for kind, code := range map[errs.Kind]errs.Code{errs.Unavailable: errs.CodeServiceUnavailable, errs.Busy: errs.CodeThrottling} {
		s.refusal = errs.New(kind, code, "try again")
		if _, err := s.registrar.Register(t.Context(), request("pump-7", s.token(key(1), "pump-7"))); errs.KindOf(err) != kind || s.record("pump-7") != nil {
			t.Errorf("error %v, record %+v", err, s.record("pump-7"))
		}
	}
}

// hosts registers n devices of a group and counts where they went.
func hosts(s *service, group device.SymmetricKey, n int) map[string][]string {
	s.t.Helper()
	at := map[string][]string{}
	for i := range n {
		id := fmt.Sprintf("pump-%d", i)
		r := s.register(id, s.token(derived(group, id), id))
		at[r.Hub] = append(at[r.Hub], id)
	}
	return at
}

func TestAllocation(t *testing.T) {
	s := newService(t)
	s.link(hub2, 3)
	s.enroll(byKey(enroll.Group, "pumps", key(9), key(8)))
	const n = 80
	first := hosts(s, key(9), n)
	if len(first[hub1]) < n/10 || len(first[hub2]) < n/2 { // 20 and 60 are meant
		t.Errorf("%d and %d of %d devices", len(first[hub1]), len(first[hub2]), n)
	}
	// A third hub takes none of those that have a home.
	s.link("hub-0.example", 1000)
	if second := hosts(s, key(9), n); len(second[hub1]) != len(first[hub1]) || len(second[hub2]) != len(first[hub2]) {
		t.Errorf("devices moved: %d and %d, before %d and %d", len(second[hub1]), len(second[hub2]), len(first[hub1]), len(first[hub2]))
	}
	// Those of a hub that is unlinked find another one.
	s.unlink(hub1)
	for _, id := range first[hub1][:3] {
		if r := s.register(id, s.token(derived(key(9), id), id)); r.Hub == hub1 || r.Substatus != provision.DeviceDataMigrated {
			t.Errorf("%s went to %s, %s", id, r.Hub, r.Substatus)
		}
	}

	pinned := byKey(enroll.Individual, "pinned", key(1), key(2))
	pinned.IoTHub = strings.ToUpper(hub2)
	s.enroll(pinned)
	if r := s.register("pinned", s.token(key(1), "pinned")); r.Hub != hub2 {
		t.Errorf("pinned to %s, assigned to %s", pinned.IoTHub, r.Hub)
	}
	static := byKey(enroll.Individual, "static", key(1), key(2))
	static.Allocation, static.IoTHubs = enroll.Static, []string{"elsewhere.example", hub2, "hub-0.example"}
	s.enroll(static)
	if r := s.register("static", s.token(key(1), "static")); r.Hub != hub2 {
		t.Errorf("static: assigned to %s; the first that is linked was meant", r.Hub)
	}
	if d := s.decisions("static")[0]; !strings.HasPrefix(d.Allocation, "static: ") || !strings.Contains(d.Hub, hub2) {
		t.Errorf("the decision is %+v", d)
	}
}

func TestTPM(t *testing.T) {
	s, c := newService(t), newChip(t)
	s.enroll(byTPM("pump-7", c.keys))
	withKeys := attest.Credential{TPM: &c.keys}

	challenge := s.challenged("pump-7", withKeys)
	if challenge.KeyName != "registration" || s.record("pump-7") != nil {
		t.Fatalf("key name %q, record %+v", challenge.KeyName, s.record("pump-7"))
	}
	c.activate(challenge.Blob)
	nonce := s.signedBy(c, "pump-7")
	first := s.register("pump-7", attest.Credential{TPM: &c.keys, Token: nonce})
	if first.Status != provision.Assigned || len(first.HubKeyBlob) == 0 {
		t.Fatalf("assigned: %+v", first)
	}
	was := s.device(hub1, "pump-7").Auth.Keys

	// The poll that follows is signed with the same key.
	polled, err := s.registrar.OperationStatus(t.Context(), request("pump-7", attest.Credential{Token: nonce}), first.OperationID)
	if err != nil || !bytes.Equal(polled.Operation.Registration.HubKeyBlob, first.HubKeyBlob) {
		t.Errorf("polled: %+v, %v", polled, err)
	}

	// One client leaves its keys out of the second call. The hub key is another
	// one after every registration.
	second := s.register("pump-7", attest.Credential{Token: nonce})
	if bytes.Equal(second.HubKeyBlob, first.HubKeyBlob) || !bytes.Equal(second.StorageRootKey, c.keys.StorageRootKey) {
		t.Errorf("second: %+v", second)
	}
	is := s.device(hub1, "pump-7").Auth.Keys
	if is.Primary.Equal(was.Primary) || is.Secondary.Equal(was.Secondary) || is.Primary.Equal(is.Secondary) {
		t.Error("the hub's keys did not change")
	}
	c.activate(first.HubKeyBlob)
	if !c.holds(was.Primary) || c.holds(is.Primary) {
		t.Error("the first blob holds another key than the hub had")
	}
	c.activate(second.HubKeyBlob)
	if !c.holds(is.Primary) {
		t.Error("the second blob holds another key than the hub has")
	}
	// The hub's key is not good for provisioning: the nonce of a challenge is.
	s.challenged("pump-7", attest.Credential{TPM: &c.keys, Token: s.signedBy(c, "pump-7")})
}

func TestChallengeExpires(t *testing.T) {
	s, c := newService(t), newChip(t)
	s.enroll(byTPM("pump-7", c.keys))
	s.now = s.now.Truncate(window) // a challenge at the start of a window lives for two whole ones
	c.activate(s.challenged("pump-7", attest.Credential{TPM: &c.keys}).Blob)
	answer := attest.Credential{TPM: &c.keys, Token: s.signedBy(c, "pump-7")}

	s.pass(2*window - time.Nanosecond)
	answered := s.register("pump-7", answer)
	s.pass(time.Nanosecond)
	next := s.challenged("pump-7", answer)
	s.refusedPoll(errs.CodeUnauthorizedAccess, "pump-7", answer, answered.OperationID)
	// So it is for the client that leaves its keys out.
	again := s.challenged("pump-7", attest.Credential{Token: answer.Token})
	c.activate(again.Blob)
	c.activate(next.Blob) // both challenges hold the nonce of this window
	s.register("pump-7", attest.Credential{Token: s.signedBy(c, "pump-7")})
}

func (s *service) refusedPoll(code errs.Code, id string, c attest.Credential, operation string) {
	s.t.Helper()
	if out, err := s.registrar.OperationStatus(s.t.Context(), request(id, c), operation); err == nil || errs.Public(err).Code != code {
		s.t.Errorf("polling %s: %+v, %v; want error %d", id, out, err, code)
	}
}

func TestTPMRefusals(t *testing.T) {
	s, c, other := newService(t), newChip(t), newChip(t)
	s.enroll(byTPM("pump-7", attest.TPM{EndorsementKey: c.keys.EndorsementKey}))
	s.enroll(byTPM("pump-8", attest.TPM{EndorsementKey: c.keys.EndorsementKey}))
	own := attest.Credential{TPM: &c.keys}

	s.refused(errs.CodeBadRequest, "pump-7", attest.Credential{TPM: &other.keys})
	s.refused(errs.CodeBadRequest, "pump-7", attest.Credential{TPM: &attest.TPM{EndorsementKey: c.keys.EndorsementKey}})
	s.refused(errs.CodeBadRequest, "pump-7", attest.Credential{TPM: &attest.TPM{EndorsementKey: c.keys.EndorsementKey, StorageRootKey: c.keys.EndorsementKey}})
	s.refused(errs.CodeUnauthorizedAccess, "pump-7", attest.Credential{}) // no challenge is open
	s.refused(errs.CodeUnauthorizedAccess, "pump-7", s.token(key(1), "pump-7"))
	s.refused(errs.CodeEnrollmentNotFound, "pump-9", own)

	c.activate(s.challenged("pump-7", own).Blob)
	s.challenged("pump-8", attest.Credential{TPM: &c.keys, Token: s.signedBy(c, "pump-8")}) // the nonce is for pump-7
	s.challenged("pump-7", attest.Credential{TPM: &c.keys, Token: s.signedBy(c, "pump-8")}) // so must the token be
	s.challenged("pump-7", attest.Credential{TPM: &attest.TPM{EndorsementKey: c.keys.EndorsementKey, StorageRootKey: other.keys.StorageRootKey},
		Token: s.signedBy(c, "pump-7")}) // and the SRK the one it was sealed for
	if err := other.Activate(t.Context(), s.challenged("pump-7", own).Blob); errs.KindOf(err) != errs.Denied {
		t.Errorf("another TPM took the challenge in: %v", err)
	}
	if s.record("pump-7") != nil || s.record("pump-8") != nil {
		t.Error("something was recorded")
	}
	// For all those calls, the one that is right comes in, also with its keys
	// left out.
	s.register("pump-7", attest.Credential{Token: s.signedBy(c, "pump-7")})
}

// Of registrations of one device that overlap, the last to tell the hub is the
// last to be recorded.
func TestOverlappingRegistrationsEndConsistent(t *testing.T) {
	s, c := newService(t), newChip(t)
	s.enroll(byTPM("pump-7", c.keys))
	c.activate(s.challenged("pump-7", attest.Credential{TPM: &c.keys}).Blob)
	answer := attest.Credential{TPM: &c.keys, Token: s.signedBy(c, "pump-7")}
	for range 4 {
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := s.registrar.Register(t.Context(), request("pump-7", answer)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		c.activate(s.record("pump-7").HubKeyBlob)
		if !c.holds(s.device(hub1, "pump-7").Auth.Keys.Primary) {
			t.Fatal("the record's blob holds another key than the hub has")
		}
	}
}

func TestPolling(t *testing.T) {
	s := newService(t, func(c *provision.Config) { c.AnswerAtOnce = false })
	s.enroll(byKey(enroll.Individual, "pump-7", key(1), key(2)))
	s.enroll(byKey(enroll.Individual, "pump-8", key(3), key(4)))
	own := s.token(key(1), "pump-7")
	out, err := s.registrar.Register(t.Context(), request("pump-7", own))
	if err != nil || out.Operation.Registration.Status != provision.Assigning || out.Operation.Registration.Hub != "" || out.Operation.RetryAfter != 3*time.Second {
		t.Fatalf("registered: %+v, %v", out.Operation, err)
	}
	polled, err := s.registrar.OperationStatus(t.Context(), request("pump-7", own), out.Operation.ID)
	if err != nil || polled.Operation.Registration.Hub != hub1 || polled.Operation.RetryAfter != 0 {
		t.Errorf("polled: %+v, %v", polled.Operation, err)
	}
	looked, err := s.registrar.Lookup(t.Context(), request("pump-7", own))
	if err != nil || looked.ETag != polled.Operation.Registration.ETag {
		t.Errorf("looked up: %+v, %v", looked, err)
	}
	s.refusedPoll(errs.CodeOperationNotFound, "pump-7", own, "1.0.0")
	s.refusedPoll(errs.CodeUnauthorizedAccess, "pump-7", s.token(key(3), "pump-7"), out.Operation.ID)
	s.refusedPoll(errs.CodeUnauthorizedAccess, "pump-7", attest.Credential{}, out.Operation.ID)
	s.refusedPoll(errs.CodeUnauthorizedAccess, "pump-8", own, out.Operation.ID)
	s.refusedPoll(errs.CodeRegistrationNotFound, "pump-8", s.token(key(3), "pump-8"), out.Operation.ID)
	s.refusedPoll(errs.CodeEnrollmentNotFound, "pump-9", own, out.Operation.ID)
	if _, err := s.registrar.Lookup(t.Context(), request("pump-8", s.token(key(3), "pump-8"))); errs.Public(err).Code != errs.CodeRegistrationNotFound {
		t.Errorf("looking up who never registered: %v", err)
	}
	// The operation of a registration before is over.
	again, err := s.registrar.Register(t.Context(), request("pump-7", own))
	if err != nil || again.Operation.ID == out.Operation.ID {
		t.Fatalf("again: %+v, %v", again.Operation, err)
	}
	s.refusedPoll(errs.CodeOperationNotFound, "pump-7", own, out.Operation.ID)
}

// A decision is the operator's to read, and the operator is not the device.
func TestDecisionsHoldNoKeyMaterial(t *testing.T) {
	s, c := newService(t), newChip(t)
	group, groupKey := byKey(enroll.Group, "pumps", device.SymmetricKey{}, device.SymmetricKey{}), device.SymmetricKey{}
	put := s.enroll(group)
	groupKey = put.Attestation.SymmetricKey.Primary
	secrets := map[string][]byte{
		"individual primary": key(1).Bytes(), "individual secondary": key(2).Bytes(),
		"group primary": groupKey.Bytes(), "group secondary": put.Attestation.SymmetricKey.Secondary.Bytes(),
		"derived": derived(groupKey, "pump-2").Bytes(), "stranger": key(3).Bytes(),
	}
	s.enroll(byKey(enroll.Individual, "pump-1", key(1), key(2)))
	s.enroll(byTPM("pump-3", c.keys))
	show := func(id string, credential attest.Credential) provision.Outcome {
		out, _ := s.registrar.Register(t.Context(), request(id, credential))
		if credential.Token != nil {
			s.registrar.OperationStatus(t.Context(), request(id, credential), "none")
		}
		return out
	}
	for _, k := range []device.SymmetricKey{key(1), key(2), key(3)} {
		show("pump-1", s.token(k, "pump-1"))
		show("pump-1", s.token(k, "pump-2"))
		show("pump-9", s.token(k, "pump-9"))
	}
	show("pump-2", s.token(derived(groupKey, "pump-2"), "pump-2"))
	show("pump-2", s.token(groupKey, "pump-2"))
	blob := show("pump-3", attest.Credential{TPM: &c.keys}).Challenge.Blob
	c.activate(blob)
	token := s.signedBy(c, "pump-3")
	answered := show("pump-3", attest.Credential{TPM: &c.keys, Token: token})
	secrets["challenge"] = blob
	secrets["hub key blob"] = answered.Operation.Registration.HubKeyBlob
	for _, id := range []string{"pump-1", "pump-2", "pump-3"} {
		keys := s.device(hub1, id).Auth.Keys
		secrets["hub primary of "+id], secrets["hub secondary of "+id] = keys.Primary.Bytes(), keys.Secondary.Bytes()
	}
	expiry := s.clock().Add(time.Hour)
	for _, k := range []device.SymmetricKey{key(1), key(3), derived(groupKey, "pump-2")} {
		for _, id := range []string{"pump-1", "pump-2"} {
			mac := signature(k, id, expiry)
			secrets["signature of "+id+hex.EncodeToString(k.Bytes()[:2])] = mac
		}
	}

	var all []provision.Decision
	for _, id := range []string{"pump-1", "pump-2", "pump-3", "pump-9"} {
		all = append(all, s.decisions(id)...)
	}
	if len(all) < 20 {
		t.Errorf("only %d decisions", len(all))
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	story := string(text) + fmt.Sprintf("%+v %#v", all, all)
	for name, secret := range secrets {
		for _, form := range []string{
			string(secret), base64.StdEncoding.EncodeToString(secret), base64.URLEncoding.EncodeToString(secret),
			base64.RawStdEncoding.EncodeToString(secret), strings.ReplaceAll(base64.StdEncoding.EncodeToString(secret), "/", `\/`),
			hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), fmt.Sprint(secret),
		} {
			if strings.Contains(story, form) {
				t.Errorf("the decisions show the %s: %.40s…", name, form)
			}
		}
	}
}

// signature is what stands in a token as sig.
func signature(k device.SymmetricKey, id string, expiry time.Time) []byte {
	text := sas.Sign(k.Bytes(), sas.DeviceResource(string(scope), id), expiry, "registration")
	_, rest, _ := strings.Cut(text, "sig=")
	escaped, _, _ := strings.Cut(rest, "&")
	mac, _ := base64.StdEncoding.DecodeString(strings.NewReplacer("%2B", "+", "%2F", "/", "%3D", "=").Replace(escaped))
	return mac
}

// Every method of the operators' side asks for its right first.
func TestEnrollerAsksForRights(t *testing.T) {
	s := newService(t)
	e := byKey(enroll.Individual, "pump-7", key(1), key(2))
	e.Scope = scope
	for name, c := range map[string]struct {
		right access.Right
		call  func(access.Caller) error
	}{
		"Put":    {access.EnrollmentWrite, func(c access.Caller) error { _, err := s.enroller.Put(t.Context(), c, e, nil); return err }},
		"Delete": {access.EnrollmentWrite, func(c access.Caller) error { return s.enroller.Delete(t.Context(), c, scope, e.Kind, e.ID, nil) }},
		"Entry": {access.EnrollmentRead, func(c access.Caller) error {
			_, err := s.enroller.Entry(t.Context(), c, scope, e.Kind, e.ID)
			return err
		}},
		"Entries": {access.EnrollmentRead, func(c access.Caller) error {
			_, err := s.enroller.Entries(t.Context(), c, scope, e.Kind, provision.Page{Limit: 1})
			return err
		}},
		"AttestationMechanism": {access.EnrollmentRead, func(c access.Caller) error {
			_, err := s.enroller.AttestationMechanism(t.Context(), c, scope, e.Kind, e.ID)
			return err
		}},
		"Registration": {access.RegistrationStatusRead, func(c access.Caller) error {
			_, err := s.enroller.Registration(t.Context(), c, scope, e.ID)
			return err
		}},
		"Registrations": {access.RegistrationStatusRead, func(c access.Caller) error {
			_, err := s.enroller.Registrations(t.Context(), c, scope, e.ID, provision.Page{Limit: 1})
			return err
		}},
		"DeleteRegistration": {access.RegistrationStatusWrite, func(c access.Caller) error {
			return s.enroller.DeleteRegistration(t.Context(), c, scope, e.ID, nil)
		}},
		"PutEndorsementKeys": {access.EnrollmentWrite, func(c access.Caller) error {
			_, err := s.enroller.PutEndorsementKeys(t.Context(), c, scope, e.ID, &ekcert.List{}, nil)
			return err
		}},
		"Decisions": {access.RegistrationStatusRead, func(c access.Caller) error {
			_, err := s.enroller.Decisions(t.Context(), c, scope, e.ID)
			return err
		}},
	} {
		without := access.Caller{Policy: "lacking", Rights: access.AllProvisioning &^ c.right}
		if err := c.call(without); errs.KindOf(err) != errs.Denied {
			t.Errorf("%s without %v: %v", name, c.right, err)
		}
		if err := c.call(access.Caller{Policy: "exact", Rights: c.right}); errs.KindOf(err) == errs.Denied {
			t.Errorf("%s with %v: %v", name, c.right, err)
		}
	}
}

func TestGroupsAreLimited(t *testing.T) {
	s := newService(t)
	for i := range 100 {
		s.enroll(byKey(enroll.Group, fmt.Sprintf("group-%d", i), key(1), key(2)))
	}
	more := byKey(enroll.Group, "one-more", key(1), key(2))
	more.Scope = scope
	if _, err := s.enroller.Put(t.Context(), operator, more, nil); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "100 are allowed") {
		t.Errorf("the 101st group: %v", err)
	}
	there := byKey(enroll.Group, "group-7", key(3), key(4))
	there.Scope = scope
	if _, err := s.enroller.Put(t.Context(), operator, there, func(string) bool { return true }); err != nil {
		t.Errorf("changing one of the 100: %v", err)
	}
	again := byKey(enroll.Group, "GROUP-7", key(5), key(6))
	again.Scope = scope
	if _, err := s.enroller.Put(t.Context(), operator, again, nil); errs.Public(err).Code != errs.CodeEnrollmentConflict {
		t.Errorf("creating one of the 100 again: %v", err)
	}
	ca, err := pki.NewRoot("Root", s.now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.enroll(byCA("by-ca", ca.Certificate)) // the limit is for each mechanism
}

// The group of a record need not exist any more.
func TestRecordsOutliveTheirGroup(t *testing.T) {
	s := newService(t)
	s.enroll(byKey(enroll.Group, "Pumps", key(9), key(8)))
	hosts(s, key(9), 3)
	if err := s.enroller.Delete(t.Context(), operator, scope, enroll.Group, "pumps", nil); err != nil {
		t.Fatal(err)
	}
	s.refused(errs.CodeEnrollmentNotFound, "pump-0", s.token(derived(key(9), "pump-0"), "pump-0"))
	page, err := s.enroller.Registrations(t.Context(), operator, scope, "PUMPS", provision.Page{After: "pump-0", Limit: 5})
	if err != nil || len(page) != 2 || page[0].ID != "pump-1" {
		t.Errorf("%d records, %v", len(page), err)
	}
	r := s.record("pump-1")
	if err := s.enroller.DeleteRegistration(t.Context(), operator, scope, "pump-1", func(etag string) bool { return etag != r.ETag }); errs.KindOf(err) != errs.Precondition {
		t.Errorf("deleting with an old tag: %v", err)
	}
	if err := s.enroller.DeleteRegistration(t.Context(), operator, scope, "pump-1", func(etag string) bool { return etag == r.ETag }); err != nil {
		t.Error(err)
	}
	if err := s.enroller.DeleteRegistration(t.Context(), operator, scope, "pump-1", nil); errs.Public(err).Code != errs.CodeRegistrationNotFound {
		t.Errorf("deleting twice: %v", err)
	}
	if s.device(hub1, "pump-1") == nil {
		t.Error("the identity at the hub went with the record")
	}
}

// setDesired is an operator writing the desired properties of a twin.
func setDesired(s *service, host string, id device.ID, desired json.RawMessage) {
	s.t.Helper()
	err := s.store.Change(s.t.Context(), hub.Place{Hub: host, ID: id}, func(d *hub.Identity, twin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		twin.Desired = desired
		return d, twin, nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}
