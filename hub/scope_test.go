package hub_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/sas"
)

// edge creates an IoT Edge device below another one, or below none.
func edge(t *testing.T, s *hub.Service, id device.ID, above *hub.Identity) *hub.Identity {
	t.Helper()
	spec := hub.DeviceSpec{IoTEdge: &yes}
	if above != nil {
		spec.ParentScopes = []string{above.DeviceScope()}
	}
	return put(t, s, id, spec)
}

// child creates a device below an IoT Edge device.
func child(t *testing.T, s *hub.Service, id device.ID, above *hub.Identity) *hub.Identity {
	t.Helper()
	return put(t, s, id, hub.DeviceSpec{ParentScopes: []string{above.DeviceScope()}})
}

func scopes(all ...string) []string { return all }

func TestParents(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	top := edge(t, s, "top-1", nil)
	middle := edge(t, s, "middle", top)
	leaf := child(t, s, "leaf", middle)
	plain := put(t, s, "plain", hub.DeviceSpec{})
	if top.DeviceScope() != "ms-azure-iot-edge://top-1-"+top.GenerationID || len(top.ParentScopes()) != 0 {
		t.Errorf("the top is in %q, below %v", top.DeviceScope(), top.ParentScopes())
	}
	if middle.DeviceScope() != "ms-azure-iot-edge://middle-"+middle.GenerationID || middle.ParentScope != top.DeviceScope() {
		t.Errorf("the middle is in %q, below %v", middle.DeviceScope(), middle.ParentScopes())
	}
	if leaf.DeviceScope() != middle.DeviceScope() || leaf.ParentScope != middle.DeviceScope() {
		t.Errorf("the leaf is in %q, below %v", leaf.DeviceScope(), leaf.ParentScopes())
	}
	elsewhere := hub.Place{Hub: "hub2.example", ID: "e"}
	other, err := s.PutDevice(ctx, owner, elsewhere, hub.DeviceSpec{IoTEdge: &yes, Auth: sasAuth}, nil)
	if err != nil {
		t.Fatal(err)
	}

	text := func(s string) *string { return &s }
	for name, c := range map[string]struct {
		id   device.ID
		spec hub.DeviceSpec
	}{
		"no scope at all":               {"leaf", hub.DeviceSpec{ParentScopes: scopes("middle")}},
		"another scheme":                {"leaf", hub.DeviceSpec{ParentScopes: scopes(strings.Replace(top.DeviceScope(), "ms-azure", "ms", 1))}},
		"a scheme alone":                {"leaf", hub.DeviceSpec{ParentScopes: scopes("ms-azure-iot-edge://")}},
		"no device":                     {"leaf", hub.DeviceSpec{ParentScopes: scopes("ms-azure-iot-edge://-1")}},
		"a device that is not there":    {"leaf", hub.DeviceSpec{DeviceScope: text("ms-azure-iot-edge://nobody-1")}},
		"another generation":            {"leaf", hub.DeviceSpec{ParentScopes: scopes("ms-azure-iot-edge://top-1-1")}},
		"a device without IoT Edge":     {"leaf", hub.DeviceSpec{ParentScopes: scopes("ms-azure-iot-edge://plain-" + plain.GenerationID)}},
		"a device of another hub":       {"leaf", hub.DeviceSpec{ParentScopes: scopes(other.DeviceScope())}},
		"two":                           {"leaf", hub.DeviceSpec{ParentScopes: scopes(top.DeviceScope(), middle.DeviceScope())}},
		"two that are said differently": {"plain", hub.DeviceSpec{DeviceScope: text(top.DeviceScope()), ParentScopes: scopes(middle.DeviceScope())}},
		"itself":                        {"top-1", hub.DeviceSpec{ParentScopes: scopes(top.DeviceScope())}},
		"its child":                     {"top-1", hub.DeviceSpec{ParentScopes: scopes(middle.DeviceScope())}},
	} {
		c.spec.Auth = sasAuth
		_, err := s.PutDevice(ctx, owner, placed(c.id, ""), c.spec, always)
		wantCode(t, name, err, errs.CodeInvalidDeviceScope)
	}

	// A parent that is gone stays named, through changes of other things, and is not
	// the device that is created after it.
	if err := s.Delete(ctx, owner, middle.Place, nil); err != nil {
		t.Fatal(err)
	}
	again := edge(t, s, "middle", top)
	kept, err := s.PutDevice(ctx, owner, leaf.Place, hub.DeviceSpec{Disabled: true, DeviceScope: text(leaf.DeviceScope()), ParentScopes: leaf.ParentScopes(), Auth: sasAuth}, always)
	if err != nil || kept.ParentScope != middle.DeviceScope() || kept.ParentScope == again.DeviceScope() {
		t.Errorf("the orphan is %+v, %v", kept, err)
	}
	if _, err := s.PutDevice(ctx, owner, plain.Place, hub.DeviceSpec{ParentScopes: leaf.ParentScopes(), Auth: sasAuth}, always); err == nil {
		t.Error("a parent that is gone was taken")
	}
	freed, err := s.PutDevice(ctx, owner, leaf.Place, hub.DeviceSpec{Auth: sasAuth}, always)
	if err != nil || freed.ParentScope != "" || freed.DeviceScope() != "" {
		t.Errorf("freed: %+v, %v", freed, err)
	}

	// Registering again does not take a parent away.
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "registered", Keys: keys(1, 2)})
	if _, err := s.PutDevice(ctx, owner, placed("registered", ""), hub.DeviceSpec{ParentScopes: scopes(again.DeviceScope()), Auth: sasAuth}, always); err != nil {
		t.Fatal(err)
	}
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "registered", Keys: keys(3, 4)})
	if d, err := s.Identity(ctx, owner, placed("registered", "")); err != nil || d.ParentScope != again.DeviceScope() || !d.Auth.Keys.Primary.Equal(key(3)) {
		t.Errorf("registered again: %+v, %v", d, err)
	}
}

func TestLayersEnd(t *testing.T) {
	s, _ := open(t)
	above := edge(t, s, "e0", nil)
	for i := 1; ; i++ {
		spec := hub.DeviceSpec{IoTEdge: &yes, ParentScopes: scopes(above.DeviceScope()), Auth: sasAuth}
		next, err := s.PutDevice(t.Context(), owner, placed(device.ID(fmt.Sprint("e", i)), ""), spec, nil)
		if err != nil {
			if wantCode(t, "one layer more", err, errs.CodeInvalidDeviceScope); i < 6 {
				t.Errorf("only %d layers", i)
			}
			return
		}
		if above = next; i > 50 {
			t.Fatal("there is no end")
		}
	}
}

// names lists who is in a scope.
func names(s *hub.Scope) string {
	var all []string
	for _, d := range append(s.Devices, s.Modules...) {
		all = append(all, d.String())
	}
	return strings.Join(all, " ")
}

// An IoT Edge device learns of itself and of who is below it, and of nobody else.
func TestWhatAGatewayLearns(t *testing.T) {
	s, m := open(t)
	ctx := t.Context()
	for _, p := range policies {
		m.keep(t, p)
	}
	top := edge(t, s, "top", nil)
	middle := edge(t, s, "middle", top)
	child(t, s, "a", top)
	child(t, s, "b", top)
	child(t, s, "c", middle)
	child(t, s, "away", edge(t, s, "stranger", nil))
	putModule(t, s, "a", "m1")
	later := t0.Add(time.Hour)
	gateway := func(d *hub.Identity) hub.Gateway {
		t.Helper()
		signed := tokenOf(t, d.Auth.Keys.Primary, host+"/devices/"+string(d.ID), later)
		g, err := s.AuthenticateGateway(ctx, testHost, d.ID, attest.Credential{Token: signed}, hub.Approach{})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	for name, c := range map[string]struct {
		by        *hub.Identity
		of, after device.ID
		limit     int
		want      string
		next      device.ID
	}{
		"its own":       {top, "top", "", 100, "top a b middle top/$edgeAgent top/$edgeHub a/m1 middle/$edgeAgent middle/$edgeHub", ""},
		"a page":        {top, "top", "", 2, "top a b top/$edgeAgent top/$edgeHub a/m1", "b"},
		"the next":      {top, "top", "b", 2, "middle middle/$edgeAgent middle/$edgeHub", ""},
		"its child's":   {top, "middle", "", 100, "middle c middle/$edgeAgent middle/$edgeHub", ""},
		"a lower one's": {middle, "middle", "", 100, "middle c middle/$edgeAgent middle/$edgeHub", ""},
	} {
		found, err := s.InScope(ctx, gateway(c.by), c.of, c.after, c.limit)
		if err != nil || names(found) != c.want || found.Next != c.next {
			t.Errorf("%s: %v, %v", name, found, err)
			continue
		}
		if found.Devices[0].Auth.Keys.Primary.IsZero() {
			t.Errorf("%s: without keys", name)
		}
	}
	for name, c := range map[string]struct {
		id, module device.ID
		want       string
	}{
		"itself": {"top", "", "top"}, "a child": {"a", "", "a"}, "its module": {"a", "m1", "a a/m1"}, "a grandchild": {"c", "", "c"},
		"a system module below": {"middle", hub.EdgeHub, "middle middle/$edgeHub"},
	} {
		found, err := s.OnBehalfOf(ctx, gateway(top), c.id, c.module)
		if err != nil || names(found) != c.want {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}

	for name, c := range map[string]struct {
		by device.ID
		of device.ID
	}{"a parent": {"middle", "top"}, "a sibling": {"middle", "a"}, "a stranger": {"top", "stranger"}, "a stranger's child": {"top", "away"}, "nobody": {"top", "nobody"}} {
		by, err := s.Identity(ctx, owner, placed(c.by, ""))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.OnBehalfOf(ctx, gateway(by), c.of, "")
		wantCode(t, name, err, errs.CodeInvalidDeviceScope)
		_, err = s.InScope(ctx, gateway(by), c.of, "", 10)
		wantCode(t, name, err, errs.CodeInvalidDeviceScope)
	}
	_, err := s.InScope(ctx, gateway(top), "a", "", 10)
	wantCode(t, "the scope of a leaf", err, errs.CodeInvalidDeviceScope)
	_, err = s.InScope(ctx, hub.Gateway{}, "top", "", 10)
	wantCode(t, "nobody's", err, errs.CodeInvalidDeviceScope)
	_, err = s.OnBehalfOf(ctx, gateway(top), "a", "m9")
	wantCode(t, "no module", err, errs.CodeModuleNotFound)
}

func TestWhoIsAGateway(t *testing.T) {
	s, m := open(t)
	ctx := t.Context()
	for _, p := range policies {
		m.keep(t, p)
	}
	e, leaf := edge(t, s, "e", nil), put(t, s, "leaf", hub.DeviceSpec{})
	module := func(id device.ID) *hub.Identity {
		t.Helper()
		got, err := s.Module(ctx, boss, placed("e", id))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	edgeHub, edgeAgent := module(hub.EdgeHub), module(hub.EdgeAgent)
	later := t0.Add(time.Hour)
	ask := func(id device.ID, credential attest.Credential) error {
		by, err := s.AuthenticateGateway(ctx, testHost, id, credential, hub.Approach{Wire: "https"})
		if (err == nil) != (by != hub.Gateway{}) {
			t.Errorf("%+v, %v", by, err)
		}
		return err
	}
	own := attest.Credential{Token: tokenOf(t, e.Auth.Keys.Secondary, host+"/devices/e", later)}
	its := attest.Credential{Token: tokenOf(t, edgeHub.Auth.Keys.Primary, host+"/devices/e/modules/$edgehub", later)}
	for name, credential := range map[string]attest.Credential{"the device": own, "its module": its} {
		if err := ask("e", credential); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left := s.Refusals(host, "e"); len(left) != 0 {
		t.Errorf("who was let in is among the refused: %+v", left)
	}
	for name, c := range map[string]struct {
		id         device.ID
		credential attest.Credential
	}{
		"another module":        {"e", attest.Credential{Token: tokenOf(t, edgeAgent.Auth.Keys.Primary, host+"/devices/e/modules/$edgeAgent", later)}},
		"the module, elsewhere": {"leaf", its},
		"without IoT Edge":      {"leaf", attest.Credential{Token: tokenOf(t, leaf.Auth.Keys.Primary, host+"/devices/leaf", later)}},
		"who speaks for all":    {"e", attest.Credential{Token: token(t, 3, host, later, "device")}},
		"an operator":           {"e", attest.Credential{Token: token(t, 5, host, later, "service")}},
		"an old token":          {"e", attest.Credential{Token: tokenOf(t, e.Auth.Keys.Primary, host+"/devices/e", t0.Add(-time.Hour))}},
		"nothing":               {"e", attest.Credential{}},
	} {
		if err := ask(c.id, c.credential); errs.KindOf(err) != errs.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.PutDevice(ctx, owner, e.Place, hub.DeviceSpec{Disabled: true, Auth: e.Auth}, always); err != nil {
		t.Fatal(err)
	}
	for name, credential := range map[string]attest.Credential{"the device": own, "its module": its} {
		wantCode(t, name+", disabled", ask("e", credential), errs.CodeDeviceDisabled)
	}
}

// tokenOf is a token made with a key.
func tokenOf(t *testing.T, k device.SymmetricKey, resource string, expiry time.Time) *sas.Token {
	t.Helper()
	token, err := sas.Parse(sas.Sign(k.Bytes(), resource, expiry, ""))
	if err != nil {
		t.Fatal(err)
	}
	return &token
}
