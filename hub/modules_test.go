package hub_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

var (
	boss    = hub.Operator(owner)
	sasAuth = hub.Authentication{Type: hub.AuthSAS}
	yes, no = true, false
)

func placed(id, module device.ID) hub.Place { return hub.Place{Hub: host, ID: id, Module: module} }

// put creates a device, or fails the test.
func put(t *testing.T, s *hub.Service, id device.ID, spec hub.DeviceSpec) *hub.Identity {
	t.Helper()
	spec.Auth = sasAuth
	d, err := s.PutDevice(t.Context(), owner, placed(id, ""), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func putModule(t *testing.T, s *hub.Service, id, module device.ID) *hub.Identity {
	t.Helper()
	m, err := s.PutModule(t.Context(), boss, placed(id, module), hub.ModuleSpec{Auth: sasAuth}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// modulesOf lists the modules of a device by their IDs.
func modulesOf(t *testing.T, s *hub.Service, id device.ID) string {
	t.Helper()
	ms, err := s.Modules(t.Context(), boss, placed(id, ""))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range ms {
		ids = append(ids, string(m.Module))
	}
	return strings.Join(ids, " ")
}

func TestLifeOfAModule(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	spec := hub.ModuleSpec{ManagedBy: "iotEdge", Auth: sasAuth}
	at := placed("d1", "m1")

	_, err := s.PutModule(ctx, boss, at, spec, nil)
	wantCode(t, "a module of no device", err, errs.CodeDeviceNotFound)
	_, err = s.Modules(ctx, boss, placed("d1", ""))
	wantCode(t, "the modules of no device", err, errs.CodeDeviceNotFound)
	_, err = s.Module(ctx, boss, at)
	wantCode(t, "reading a module of no device", err, errs.CodeDeviceNotFound)
	put(t, s, "d1", hub.DeviceSpec{})
	if got := modulesOf(t, s, "d1"); got != "" {
		t.Errorf("a new device has modules %q", got)
	}
	_, err = s.Module(ctx, boss, at)
	wantCode(t, "reading nothing", err, errs.CodeModuleNotFound)
	_, err = s.PutModule(ctx, boss, at, spec, always)
	wantCode(t, "update of nothing", err, errs.CodeModuleNotFound)
	wantCode(t, "delete of nothing", s.DeleteModule(ctx, boss, at, nil), errs.CodeModuleNotFound)

	m, err := s.PutModule(ctx, boss, at, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Place != at || m.ManagedBy != "iotEdge" || m.GenerationID == "" || m.ETag == "" || len(m.Auth.Keys.Primary.Bytes()) != 32 || m.Auth.Keys.Primary.Equal(m.Auth.Keys.Secondary) {
		t.Errorf("created %+v", m)
	}
	_, err = s.PutModule(ctx, boss, at, spec, nil)
	wantCode(t, "second create", err, errs.CodeModuleAlreadyExists)
	_, err = s.PutModule(ctx, boss, at, spec, is("stale"))
	wantCode(t, "stale update", err, errs.CodePreconditionFailed)
	spec.ManagedBy, spec.Auth.Keys = "", keys(1, 2)
	updated, err := s.PutModule(ctx, boss, at, spec, is(m.ETag))
	if err != nil || updated.GenerationID != m.GenerationID || updated.ETag == m.ETag || updated.ManagedBy != "" || !updated.Auth.Keys.Primary.Equal(key(1)) {
		t.Errorf("updated to %+v, %v", updated, err)
	}
	if read, err := s.Module(ctx, boss, at); err != nil || read.ETag != updated.ETag {
		t.Errorf("read %+v, %v", read, err)
	}
	if _, twin, err := s.Twin(ctx, owner, at); err != nil || twin.Version != 2 || twin.DesiredVersion != 1 {
		t.Errorf("its twin is %+v, %v", twin, err)
	}
	wantCode(t, "stale delete", s.DeleteModule(ctx, boss, at, is(m.ETag)), errs.CodePreconditionFailed)
	if err := s.DeleteModule(ctx, boss, at, is(updated.ETag)); err != nil {
		t.Error(err)
	}
	_, _, err = s.Twin(ctx, owner, at)
	wantCode(t, "twin after delete", err, errs.CodeModuleNotFound)
	if _, err := s.Identity(ctx, owner, placed("d1", "")); err != nil {
		t.Errorf("the device went with its module: %v", err)
	}

	putModule(t, s, "d1", "m1")
	if err := s.Delete(ctx, owner, placed("d1", ""), nil); err != nil {
		t.Fatal(err)
	}
	put(t, s, "d1", hub.DeviceSpec{})
	if got := modulesOf(t, s, "d1"); got != "" {
		t.Errorf("a device created again has the modules %q of the one before", got)
	}
}

func TestADeviceHasFiftyModulesAtMost(t *testing.T) {
	s, _ := open(t)
	put(t, s, "d1", hub.DeviceSpec{IoTEdge: &yes})
	for i := range hub.MaxModules - 2 {
		putModule(t, s, "d1", device.ID(fmt.Sprint("m", i)))
	}
	_, err := s.PutModule(t.Context(), boss, placed("d1", "one"), hub.ModuleSpec{Auth: sasAuth}, nil)
	wantCode(t, "the 51st", err, errs.CodeTooManyModules)
	if _, err := s.PutModule(t.Context(), boss, placed("d1", "m0"), hub.ModuleSpec{Auth: sasAuth}, always); err != nil {
		t.Errorf("updating one of fifty: %v", err)
	}
}

func TestModulesThatAreRefused(t *testing.T) {
	s, _ := open(t)
	put(t, s, "d1", hub.DeviceSpec{})
	for name, c := range map[string]struct {
		module device.ID
		spec   hub.ModuleSpec
		code   errs.Code
	}{
		"a system module of a device without IoT Edge": {hub.EdgeAgent, hub.ModuleSpec{Auth: sasAuth}, errs.CodeSystemModule},
		"one that nobody knows":                        {"$mine", hub.ModuleSpec{Auth: sasAuth}, errs.CodeSystemModule},
		"a long managedBy":                             {"m", hub.ModuleSpec{ManagedBy: strings.Repeat("m", 129), Auth: sasAuth}, errs.CodeArgumentInvalid},
		"no type":                                      {"m", hub.ModuleSpec{}, errs.CodeArgumentInvalid},
		"self-signed without a thumbprint":             {"m", hub.ModuleSpec{Auth: hub.Authentication{Type: hub.AuthSelfSigned}}, errs.CodeArgumentInvalid},
		"none, with keys":                              {"m", hub.ModuleSpec{Auth: hub.Authentication{Type: hub.AuthNone, Keys: keys(1, 2)}}, errs.CodeArgumentInvalid},
		"an authority, with a thumbprint":              {"m", hub.ModuleSpec{Auth: hub.Authentication{Type: hub.AuthCertificateAuthority, PrimaryThumbprint: strings.Repeat("0", 64)}}, errs.CodeArgumentInvalid},
	} {
		_, err := s.PutModule(t.Context(), boss, placed("d1", c.module), c.spec, nil)
		wantCode(t, name, err, c.code)
	}
	for _, kind := range []hub.AuthenticationType{hub.AuthNone, hub.AuthCertificateAuthority} {
		if _, err := s.PutModule(t.Context(), boss, placed("d1", device.ID(kind)), hub.ModuleSpec{Auth: hub.Authentication{Type: kind}}, nil); err != nil {
			t.Errorf("a module of type %s: %v", kind, err)
		}
	}
}

// The modules of IoT Edge are there with the device, whoever made it, can be
// changed, and go with it alone.
func TestModulesOfIoTEdge(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	put(t, s, "new", hub.DeviceSpec{IoTEdge: &yes})
	put(t, s, "later", hub.DeviceSpec{})
	if _, err := s.PutDevice(ctx, owner, placed("later", ""), hub.DeviceSpec{IoTEdge: &yes, Auth: sasAuth}, always); err != nil {
		t.Fatal(err)
	}
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "provisioned", IoTEdge: true, Keys: keys(1, 2)})
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "turned", Keys: keys(1, 2)})
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "turned", IoTEdge: true, Keys: keys(1, 2)})
	provision(t, s, hub.Provisioning{Hub: "hub2.example", DeviceID: "moved", IoTEdge: true, Keys: keys(1, 2)})
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "moved", IoTEdge: true, Keys: keys(1, 2), From: hub.Place{Hub: "hub2.example", ID: "moved"}})
	for _, id := range []device.ID{"new", "later", "provisioned", "turned", "moved"} {
		if got := modulesOf(t, s, id); got != "$edgeAgent $edgeHub" {
			t.Errorf("%s has the modules %q", id, got)
		}
	}

	agent, err := s.Module(ctx, boss, placed("provisioned", hub.EdgeAgent))
	if err != nil || agent.ManagedBy != "iotEdge" {
		t.Fatalf("%+v, %v", agent, err)
	}
	changed, err := s.PutModule(ctx, boss, placed("provisioned", hub.EdgeAgent), hub.ModuleSpec{ManagedBy: "iotEdge", Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys(3, 4)}}, always)
	if err != nil || changed.GenerationID != agent.GenerationID {
		t.Errorf("changed to %+v, %v", changed, err)
	}
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "provisioned", IoTEdge: true, Keys: keys(5, 6)})
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "provisioned", Keys: keys(5, 6)})
	if again, err := s.Module(ctx, boss, placed("provisioned", hub.EdgeAgent)); err != nil || again.ETag != changed.ETag {
		t.Errorf("registering again changed the module: %+v, %v", again, err)
	}
	if d, err := s.Identity(ctx, owner, placed("provisioned", "")); err != nil || !d.IoTEdge {
		t.Errorf("an enrollment without the capability took it: %+v, %v", d, err)
	}
	for _, at := range []hub.Place{placed("new", hub.EdgeAgent), placed("new", hub.EdgeHub)} {
		wantCode(t, "deleting "+at.String(), s.DeleteModule(ctx, boss, at, always), errs.CodeSystemModule)
		wantCode(t, "deleting "+at.String(), s.Delete(ctx, owner, at, nil), errs.CodeSystemModule)
	}

	_, err = s.PutDevice(ctx, owner, placed("new", ""), hub.DeviceSpec{IoTEdge: &no, Auth: sasAuth}, always)
	wantCode(t, "taking the capability", err, errs.CodeArgumentInvalid)
	kept, err := s.PutDevice(ctx, owner, placed("new", ""), hub.DeviceSpec{Auth: sasAuth}, always)
	if err != nil || !kept.IoTEdge {
		t.Errorf("saying nothing of it took it: %+v, %v", kept, err)
	}
}

// Who manages modules: an operator by the rights of a policy, and a device its own
// and no more.
func TestWhoManagesModules(t *testing.T) {
	s, m := open(t)
	ctx := t.Context()
	for _, p := range policies {
		m.keep(t, p)
	}
	provision(t, s, first)
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "d2", Keys: keys(7, 8)})
	putModule(t, s, "d1", "m1")
	putModule(t, s, "d2", "m1")
	later := t0.Add(time.Hour)
	self, err := s.AuthenticateOwner(ctx, testHost, "d1", attest.Credential{Token: token(t, 1, strings.ToLower(host+"/devices/d1"), later, "")}, hub.Approach{})
	if err != nil {
		t.Fatal(err)
	}
	spec := hub.ModuleSpec{Auth: sasAuth}
	all := map[string]func(hub.Actor, device.ID) error{
		"read": func(by hub.Actor, id device.ID) error { _, err := s.Module(ctx, by, placed(id, "m1")); return err },
		"list": func(by hub.Actor, id device.ID) error { _, err := s.Modules(ctx, by, placed(id, "")); return err },
		"update": func(by hub.Actor, id device.ID) error {
			_, err := s.PutModule(ctx, by, placed(id, "m1"), spec, always)
			return err
		},
		"create": func(by hub.Actor, id device.ID) error {
			_, err := s.PutModule(ctx, by, placed(id, "m2"), spec, nil)
			return err
		},
		"delete": func(by hub.Actor, id device.ID) error { return s.DeleteModule(ctx, by, placed(id, "m2"), always) },
	}
	order := []string{"read", "list", "update", "create", "delete"}
	for _, c := range []struct {
		name  string
		by    hub.Actor
		id    device.ID
		reads bool
		all   bool
	}{
		{"an operator", boss, "d2", true, true},
		{"the device", self, "d1", true, true},
		{"a reader", hub.Operator(access.Caller{Policy: "r", Rights: access.RegistryRead}), "d2", true, false},
		{"another device", self, "d2", false, false},
		{"who may speak for devices", hub.Operator(access.Caller{Policy: "device", Rights: access.HubDeviceConnect | access.ServiceConnect}), "d2", false, false},
		{"nobody", hub.Actor{}, "d1", false, false},
	} {
		for _, what := range order {
			err := all[what](c.by, c.id)
			allowed := c.all || c.reads && slices.Contains([]string{"read", "list"}, what)
			if allowed && err != nil || !allowed && errs.KindOf(err) != errs.Denied {
				t.Errorf("%s: %s: %v", c.name, what, err)
			}
		}
	}

	for name, credential := range map[string]attest.Credential{
		"a policy's token": {Token: token(t, 3, host, later, "device")},
		"a module's token": {Token: token(t, 1, host+"/devices/d1/modules/m1", later, "")},
		"another device's": {Token: token(t, 7, host+"/devices/d2", later, "")},
		"nothing":          {},
	} {
		if by, err := s.AuthenticateOwner(ctx, testHost, "d1", credential, hub.Approach{}); errs.KindOf(err) != errs.Denied || by != (hub.Actor{}) {
			t.Errorf("%s: %+v, %v", name, by, err)
		}
	}
}

// A link that remembers why it was closed.
type closedLink struct {
	hub.Link
	why chan error
}

func (l closedLink) Close(why error) { l.why <- why }

func attach(t *testing.T, s *hub.Service, id *hub.Identity) closedLink {
	t.Helper()
	l := closedLink{why: make(chan error, 1)}
	s.Attach(context.Background(), hub.Sender{Place: id.Place, GenerationID: id.GenerationID}, l)
	return l
}

func (l closedLink) want(t *testing.T, what string, why error) {
	t.Helper()
	select {
	case got := <-l.why:
		if got != why {
			t.Errorf("%s was cut: %v, want %v", what, got, why)
		}
	default:
		if why != nil {
			t.Errorf("%s is connected still", what)
		}
	}
}

func TestConnectionsOfModulesEndWithTheirDevice(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	d := put(t, s, "d1", hub.DeviceSpec{})
	m1, m2 := putModule(t, s, "d1", "m1"), putModule(t, s, "d1", "m2")
	other := put(t, s, "d2", hub.DeviceSpec{})
	links := map[string]closedLink{"d1": attach(t, s, d), "m1": attach(t, s, m1), "m2": attach(t, s, m2), "d2": attach(t, s, other)}

	if err := s.DeleteModule(ctx, boss, m1.Place, nil); err != nil {
		t.Fatal(err)
	}
	links["m1"].want(t, "the deleted module", hub.ErrDeleted)
	links["m2"].want(t, "another module", nil)
	links["d1"].want(t, "the device of a deleted module", nil)
	if _, err := s.PutDevice(ctx, owner, d.Place, hub.DeviceSpec{Disabled: true, Auth: sasAuth}, always); err != nil {
		t.Fatal(err)
	}
	links["d1"].want(t, "the disabled device", hub.ErrDisabled)
	links["m2"].want(t, "its module", hub.ErrDisabled)
	links["d2"].want(t, "another device", nil)

	d3, m3 := put(t, s, "d3", hub.DeviceSpec{}), putModule(t, s, "d3", "m3")
	l := attach(t, s, m3)
	if err := s.Delete(ctx, owner, d3.Place, nil); err != nil {
		t.Fatal(err)
	}
	l.want(t, "the module of a deleted device", hub.ErrDeleted)
}
