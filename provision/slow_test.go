package provision_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
)

const (
	away  = "away.example"
	other = "other.example"
)

// A harbour is a service with hubs elsewhere, and several servers on one
// database. Every call of a store or hub is a step, at which something can happen.
type harbour struct {
	*service
	servers [2]*provision.Registrar
	away    map[string]*awayHub

	steps int
	at    func(server, step int, name string, do func() error) error // what happens; nil for nothing
	// alone is set inside of a transaction, where nobody else comes in between.
	alone bool
}

// An awayHub is a hub elsewhere, in memory.
type awayHub struct {
	devices map[device.ID]*awayDevice
	fault   error // what it answers, or nil
	made    int
}

type awayDevice struct {
	keys       attest.SymmetricKeys
	thumbprint string
	left       provision.Departure
}

func newHarbour(t *testing.T, settings ...func(*provision.Config)) *harbour {
	t.Helper()
	w := &harbour{away: map[string]*awayHub{away: {devices: map[device.ID]*awayDevice{}}, other: {devices: map[device.ID]*awayDevice{}}}}
	var config provision.Config
	w.service = newService(t, append(settings, func(c *provision.Config) {
		c.GiveUpAfter, c.Workers, c.Fault = time.Hour, 4, func(error) {}
		config = *c
	})...)
	for i := range w.servers {
		w.servers[i] = w.server(config, i)
	}
	w.registrar = w.servers[0]
	w.linkAway(away)
	return w
}

// server is one of several on the database.
func (w *harbour) server(config provision.Config, i int) *provision.Registrar {
	config.Records = stepRecords{config.Records, w, i}
	config.Hubs = awayHubs{hubs{w.service}, w, i}
	return provision.NewRegistrar(config)
}

func (w *harbour) linkAway(host string) {
	w.t.Helper()
	if err := w.store.PutLinkedHub(w.t.Context(), scope, provision.LinkedHub{
		Host: host, Weight: 1, Connection: &provision.Connection{Policy: "registryReadWrite", Key: key(7)},
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *harbour) step(server int, name string, do func() error) error {
	w.steps++
	if w.at == nil {
		return do()
	}
	return w.at(server, w.steps, name, do)
}

type stepRecords struct {
	provision.Records
	w      *harbour
	server int
}

func (r stepRecords) Registration(ctx context.Context, scope device.IDScope, key device.RegistrationID) (record *provision.Registration, err error) {
	err = r.w.step(r.server, "read", func() error { record, err = r.Records.Registration(ctx, scope, key); return err })
	return record, err
}

func (r stepRecords) ChangeRegistration(ctx context.Context, scope device.IDScope, key device.RegistrationID, decide func(*provision.Registration) (*provision.Registration, error)) error {
	return r.w.step(r.server, "change", func() error { return r.Records.ChangeRegistration(ctx, scope, key, decide) })
}

func (r stepRecords) DueRegistrations(ctx context.Context, now time.Time, limit int) (due []*provision.Registration, err error) {
	err = r.w.step(r.server, "due", func() error { due, err = r.Records.DueRegistrations(ctx, now, limit); return err })
	return due, err
}

func (r stepRecords) Together(ctx context.Context, do func(context.Context) error) error {
	return r.w.step(r.server, "together", func() error {
		return r.Records.Together(ctx, func(ctx context.Context) error {
			r.w.alone = true
			defer func() { r.w.alone = false }()
			return do(ctx)
		})
	})
}

type awayHubs struct {
	hubs
	w      *harbour
	server int
}

func (h awayHubs) Assign(ctx context.Context, a provision.Assignment) error {
	return h.w.step(h.server, "assign here", func() error { return h.hubs.Assign(ctx, a) })
}

func (h awayHubs) AssignElsewhere(ctx context.Context, a provision.Assignment) error {
	return provision.Bring(ctx, a, func(host string) (provision.End, error) { return awayEnd{h, host}, nil })
}

// An awayEnd is a hub, elsewhere or not, as an end of a move.
type awayEnd struct {
	awayHubs
	host string
}

func (e awayEnd) step(name string, away func(*awayHub) error, here func() error) error {
	return e.w.step(e.server, name+" "+e.host, func() error {
		there := e.w.away[e.host]
		switch {
		case there == nil:
			return here()
		case there.fault != nil:
			return there.fault
		}
		return away(there)
	})
}

func (e awayEnd) Export(ctx context.Context, id device.ID) (left *provision.Departure, err error) {
	err = e.step("export", func(a *awayHub) error {
		d := a.devices[id]
		if d == nil {
			return errs.New(errs.NotFound, errs.CodeDeviceNotFound, "no device")
		}
		copied := d.left
		left = &copied
		return nil
	}, func() error {
		d, twin, err := e.s.hub.Twin(ctx, operator, hub.Place{Hub: e.host, ID: id})
		if err == nil {
			left = &provision.Departure{Twin: enroll.InitialTwin{Tags: twin.Tags, Desired: twin.Desired}, Disabled: d.Disabled, GenerationID: d.GenerationID, ETag: d.ETag}
		}
		return err
	})
	return left, err
}

func (e awayEnd) Delete(ctx context.Context, id device.ID, etag string) error {
	return e.step("delete", func(a *awayHub) error {
		if d := a.devices[id]; d != nil && d.left.ETag != etag {
			return errs.New(errs.Precondition, errs.CodePreconditionFailed, "changed")
		}
		delete(a.devices, id)
		return nil
	}, func() error {
		err := e.s.hub.Delete(ctx, operator, hub.Place{Hub: e.host, ID: id}, func(tag string) bool { return tag == etag })
		if errs.KindOf(err) == errs.NotFound {
			return nil
		}
		return err
	})
}

func (e awayEnd) Assign(ctx context.Context, a provision.Assignment) error {
	return e.step("assign", func(there *awayHub) error {
		there.settle(a, nil)
		return nil
	}, func() error { return e.s.hub.Provision(ctx, provisioning(a)) })
}

func (e awayEnd) Receive(ctx context.Context, a provision.Assignment, left provision.Departure) (generation string, err error) {
	err = e.step("receive", func(there *awayHub) error {
		generation = there.settle(a, &left)
		return nil
	}, func() error {
		p := provisioning(a)
		tags, desired := left.Sections()
		p.Twin, p.Arrival = &hub.InitialTwin{Tags: tags, Desired: desired}, &hub.Arrival{Disabled: left.Disabled}
		if err := e.s.hub.Provision(ctx, p); err != nil {
			return err
		}
		d, err := e.s.hub.Identity(ctx, operator, hub.Place{Hub: e.host, ID: a.DeviceID})
		if err == nil {
			generation = d.GenerationID
		}
		return err
	})
	return generation, err
}

func provisioning(a provision.Assignment) hub.Provisioning {
	p := hub.Provisioning{Hub: a.Hub, DeviceID: a.DeviceID, IoTEdge: a.IoTEdge, Keys: a.Keys, Thumbprint: a.Thumbprint}
	if a.Twin != nil {
		p.Twin = &hub.InitialTwin{Tags: a.Twin.Tags, Desired: a.Twin.Desired}
	}
	return p
}

// settle gives a device its identity, and the twin that it brings.
func (a *awayHub) settle(to provision.Assignment, left *provision.Departure) (generation string) {
	a.made++
	d := a.devices[to.DeviceID]
	if d == nil {
		d = &awayDevice{left: provision.Departure{GenerationID: fmt.Sprintf("away-%p-%d", a, a.made)}}
		a.devices[to.DeviceID] = d
		if to.Twin != nil {
			d.left.Twin = *to.Twin
		}
	}
	if left != nil && left.GenerationID != d.left.GenerationID {
		d.left.Twin, d.left.Disabled = left.Twin, left.Disabled
	}
	d.keys, d.thumbprint, d.left.ETag = to.Keys, to.Thumbprint, fmt.Sprint(a.made)
	return d.left.GenerationID
}

// begin wants a call to be answered that it goes on.
func (w *harbour) begin(server int, id string, c attest.Credential) provision.Outcome {
	w.t.Helper()
	out, err := w.servers[server].Register(w.t.Context(), request(id, c))
	if err != nil || out.Operation == nil || out.Operation.Registration.Status != provision.Assigning || out.Operation.RetryAfter != 3*time.Second {
		w.t.Fatalf("registering %s: %+v, %v", id, out.Operation, err)
	}
	return out
}

// finish lets a server do what is due.
func (w *harbour) finish(server int) int {
	w.t.Helper()
	n, err := w.servers[server].FinishDue(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// poll asks as the device does.
func (w *harbour) poll(id string, c attest.Credential, operation string) *provision.Operation {
	w.t.Helper()
	out, err := w.registrar.OperationStatus(w.t.Context(), request(id, c), operation)
	if err != nil {
		w.t.Fatal(err)
	}
	return out.Operation
}

// keys are what a hub knows a device by.
func (w *harbour) keys(host, id string) (keys attest.SymmetricKeys, thumbprint string, ok bool) {
	w.t.Helper()
	if there := w.away[host]; there != nil {
		d := there.devices[device.ID(id)]
		if d == nil {
			return keys, "", false
		}
		return d.keys, d.thumbprint, true
	}
	d := w.device(host, id)
	if d == nil {
		return keys, "", false
	}
	return d.Auth.Keys, d.Auth.PrimaryThumbprint, true
}

// pinned is an enrollment that allows one hub.
func pinned(e *enroll.Entry, host string) *enroll.Entry {
	e.IoTHub = host
	return e
}

func TestAHubElsewhere(t *testing.T) {
	w := newHarbour(t)
	own := pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away)
	own.InitialTwin = &enroll.InitialTwin{Desired: json.RawMessage(`{"rate":1}`)}
	w.enroll(own)
	token := w.token(key(1), "pump-7")
	begun := w.begin(0, "pump-7", token)
	if o := w.poll("pump-7", token, begun.Operation.ID); o.Registration.Status != provision.Assigning || o.RetryAfter != 3*time.Second {
		t.Errorf("polled at once: %+v", o)
	}
	if looked, err := w.registrar.Lookup(t.Context(), request("pump-7", token)); err != nil || looked.Status != provision.Assigning {
		t.Errorf("looked up: %+v, %v", looked, err)
	}
	if d := w.decisions("pump-7")[0]; !d.Accepted || d.Result != provision.ResultAssigning || !strings.Contains(d.Outcome, away) {
		t.Errorf("the decision is %+v", d)
	}
	// Who asks again is answered the same operation.
	if again := w.begin(1, "pump-7", token); again.Operation.ID != begun.Operation.ID {
		t.Errorf("asked again: %s, begun as %s", again.Operation.ID, begun.Operation.ID)
	}
	w.finish(0)
	o := w.poll("pump-7", token, begun.Operation.ID)
	if r := o.Registration; o.RetryAfter != 0 || r.Status != provision.Assigned || r.Hub != away || r.Substatus != provision.InitialAssignment || r.DeviceID != "pump-7" || r.Pending != nil {
		t.Errorf("polled in the end: %+v", o)
	}
	keys, _, _ := w.keys(away, "pump-7")
	if !keys.Primary.Equal(key(1)) || !keys.Secondary.Equal(key(2)) || string(w.away[away].devices["pump-7"].left.Twin.Desired) != `{"rate":1}` {
		t.Error("the hub has another identity")
	}
	if d := w.decisions("pump-7")[0]; d.Call != "finish" || d.Result != provision.ResultAssigned || !strings.Contains(d.Hub, away) || d.TrackingID != "track-pump-7" {
		t.Errorf("the decision is %+v", d)
	}

	// Home, and away again.
	for _, to := range []string{hub1, away, other, hub1, hub1} {
		w.linkAway(other)
		w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(3), key(2)), to))
		was := w.record("pump-7").Hub
		out, err := w.registrar.Register(t.Context(), request("pump-7", w.token(key(3), "pump-7")))
		if err != nil {
			t.Fatal(err)
		}
		fast := out.Operation.RetryAfter == 0
		if fast != (was == hub1 && to == hub1) {
			t.Errorf("from %s to %s: fast %v", was, to, fast)
		}
		w.finish(1)
		r := w.record("pump-7")
		want := provision.DeviceDataMigrated
		if was == to {
			want = provision.ReprovisionedToInitialAssignment
		}
		if r.Hub != to || r.Substatus != want {
			t.Errorf("from %s to %s: %+v", was, to, r)
		}
		for _, host := range []string{hub1, away, other} {
			keys, _, ok := w.keys(host, "pump-7")
			if ok != (host == to) || ok && !keys.Primary.Equal(key(3)) {
				t.Errorf("from %s to %s: at %s is %v", was, to, host, ok)
			}
		}
		if to == hub1 && string(w.twin(hub1, "pump-7").Desired) != `{"rate":1}` {
			t.Errorf("it left its twin: %s", w.twin(hub1, "pump-7").Desired)
		}
	}
}

func TestTroubleElsewhereIsRepeatedAndShown(t *testing.T) {
	w := newHarbour(t)
	w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away))
	for name, fault := range map[string]error{
		"unavailable": errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The linked IoT hub cannot be reached; try again later.").WithCause(errHubDown),
		"internal":    fmt.Errorf("linked hub: %w", errHubDown),
		"busy":        errs.New(errs.Busy, errs.CodeThrottling, "Too many.").WithCause(errHubDown),
	} {
		w.away[away].fault = fault
		token := w.token(key(1), "pump-7")
		begun := w.begin(0, "pump-7", token)
		for attempt := 1; attempt <= 8; attempt++ {
			if n := w.finish(attempt % 2); n != 1 {
				t.Fatalf("%s: %d were due for attempt %d", name, n, attempt)
			}
			p := w.record("pump-7").Pending
			if !p.Lease.IsZero() || p.Attempts != attempt || !strings.Contains(p.LastError, "connection refused") {
				t.Errorf("%s, attempt %d: %+v", name, attempt, p)
			}
			wait := p.Due.Sub(w.clock())
			if most := provision.NextDue(attempt); wait > most || wait < most/3*2-time.Second {
				t.Errorf("%s: after attempt %d it waits for %s, at most %s", name, attempt, wait, most)
			}
			d := w.decisions("pump-7")[0]
			if !strings.Contains(d.Outcome, fmt.Sprintf("attempt %d failed", attempt)) || !strings.Contains(d.Cause, "connection refused") {
				t.Errorf("%s: the decision is %+v", name, d)
			}
			if n := w.finish(0); n != 0 {
				t.Errorf("%s: it is tried again at once", name)
			}
			w.pass(wait)
		}
		if n := len(w.decisions("pump-7")); n > 12 {
			t.Errorf("%d decisions are remembered", n)
		}
		w.away[away].fault = nil
		waiting := w.record("pump-7")
		w.finish(1)
		if o := w.poll("pump-7", token, begun.Operation.ID); o.Registration.Status != provision.Assigned {
			t.Errorf("%s, when it is over: %+v", name, o)
		}
		if r := w.record("pump-7"); r.ETag == waiting.ETag || !r.Updated.Equal(w.clock()) || !r.Created.Equal(waiting.Created) {
			t.Errorf("%s: who read that it waits cannot tell that from %+v", name, r)
		}
	}

	// A hub says when to come again.
	busy := errs.New(errs.Busy, errs.CodeThrottling, "Too many.")
	busy.RetryAfter = 4 * time.Minute
	w.away[away].fault = busy
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.finish(0)
	if wait := w.record("pump-7").Pending.Due.Sub(w.clock()); wait != 4*time.Minute {
		t.Errorf("it waits for %s", wait)
	}
}

func TestRegistrationsAreGivenUp(t *testing.T) {
	w := newHarbour(t)
	w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away))
	w.away[away].fault = errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The linked IoT hub cannot be reached; try again later.").WithCause(errHubDown)
	begin := w.clock()
	token := w.token(key(1), "pump-7")
	begun := w.begin(0, "pump-7", token)
	for w.record("pump-7").Status == provision.Assigning {
		w.finish(0)
		if p := w.record("pump-7").Pending; p != nil {
			w.pass(p.Due.Sub(w.clock()))
		}
	}
	if took := w.clock().Sub(begin); took != time.Hour {
		t.Errorf("given up after %s", took)
	}
	r := w.poll("pump-7", w.token(key(1), "pump-7"), begun.Operation.ID).Registration
	if r.Status != provision.Failed || r.ErrorCode != errs.CodeServiceUnavailable || r.Pending != nil ||
		r.ErrorMessage != "The linked IoT hub cannot be reached; try again later (given up after 1h0m0s)" {
		t.Errorf("%+v", r)
	}
	if d := w.decisions("pump-7")[0]; d.Result != provision.ResultFailed || !strings.Contains(d.Cause, "connection refused") || !strings.Contains(d.Hub, "left at "+away) || d.Fix == "" {
		t.Errorf("the decision is %+v", d)
	}
	w.away[away].fault = nil
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.finish(0)
	if r := w.record("pump-7"); r.Status != provision.Assigned || r.Substatus != provision.InitialAssignment {
		t.Errorf("registered again: %+v", r)
	}
}

func TestARefusalElsewhereIsFinal(t *testing.T) {
	for kind, code := range map[errs.Kind]errs.Code{
		errs.Invalid: errs.CodeArgumentInvalid, errs.Denied: errs.CodeUnauthorizedAccess, errs.Forbidden: errs.CodeQuotaExceeded,
	} {
		w := newHarbour(t)
		w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away))
		w.away[away].fault = errs.New(kind, code, "No.")
		w.begin(0, "pump-7", w.token(key(1), "pump-7"))
		w.finish(0)
		if r := w.record("pump-7"); r.Status != provision.Failed || r.ErrorCode != code || r.ErrorMessage != "No." || r.Pending != nil || r.Hub != "" {
			t.Errorf("%v: %+v", kind, r)
		}
	}
}

// What the operator changed since the device called is what counts.
func TestTheEnrollmentIsAskedAgain(t *testing.T) {
	group := key(9)
	for name, c := range map[string]struct {
		change func(*harbour)
		status provision.Status
		code   errs.Code
	}{
		"nothing": {func(*harbour) {}, provision.Assigned, 0},
		"the group is deleted": {func(w *harbour) {
			if err := w.enroller.Delete(t.Context(), operator, scope, enroll.Group, "pumps", nil); err != nil {
				t.Fatal(err)
			}
		}, provision.Failed, errs.CodeEnrollmentNotFound},
		"the group is disabled": {func(w *harbour) {
			g := pinned(byKey(enroll.Group, "pumps", group, key(8)), away)
			g.Disabled = true
			w.enroll(g)
		}, provision.Disabled, 0},
		"the device is barred": {func(w *harbour) {
			e := byKey(enroll.Individual, "pump-7", key(1), key(2))
			e.Disabled = true
			w.enroll(e)
		}, provision.Disabled, 0},
		"the device has an enrollment of its own": {func(w *harbour) {
			w.enroll(byKey(enroll.Individual, "pump-7", key(1), key(2)))
		}, provision.Failed, errs.CodeUnauthorizedAccess},
		"the hub is unlinked": {func(w *harbour) { w.unlink(away) }, provision.Failed, errs.CodeHubNotSpecified},
		"the group's keys are rolled": {func(w *harbour) {
			w.enroll(pinned(byKey(enroll.Group, "pumps", key(5), group), away))
		}, provision.Assigned, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newHarbour(t)
			w.enroll(pinned(byKey(enroll.Group, "pumps", group, key(8)), away))
			w.begin(0, "pump-7", w.token(derived(group, "pump-7"), "pump-7"))
			c.change(w)
			w.finish(1)
			r := w.record("pump-7")
			if r.Status != c.status || r.ErrorCode != c.code || r.Pending != nil {
				t.Errorf("%+v", r)
			}
			keys, _, ok := w.keys(away, "pump-7")
			if ok != (c.status == provision.Assigned) {
				t.Errorf("the hub knows the device: %v", ok)
			}
			want := derived(group, "pump-7")
			if ok && !keys.Primary.Equal(want) && !keys.Secondary.Equal(want) {
				t.Error("the hub has keys of another kind")
			}
		})
	}
}

// A device of a group that derives its key from its ID in lower case is known by
// that at the hub too.
func TestTheDerivedKeyIsTheOneThatSigned(t *testing.T) {
	w := newHarbour(t)
	w.enroll(pinned(byKey(enroll.Group, "pumps", key(9), key(8)), away))
	for id, from := range map[string]string{"Pump-7": "pump-7", "Pump-8": "Pump-8"} {
		w.begin(0, id, w.token(derived(key(9), from), id))
		w.finish(0)
		if keys, _, _ := w.keys(away, id); !keys.Primary.Equal(derived(key(9), from)) || !keys.Secondary.Equal(derived(key(8), from)) {
			t.Errorf("%s has another key at its hub", id)
		}
	}
}

var errCrash = errs.New(errs.Unavailable, errs.CodeUnavailable, "the server is gone")

// reset makes the harbour as it was when it was new, but for its enrollments.
func (w *harbour) reset(start time.Time) {
	w.t.Helper()
	w.at, w.steps = nil, 0
	w.pass(start.Sub(w.clock()))
	if w.record("pump-7") != nil {
		w.pass(provision.LeaseTime)
		if err := w.enroller.DeleteRegistration(w.t.Context(), operator, scope, "pump-7", nil); err != nil {
			w.t.Fatal(err)
		}
		w.pass(-provision.LeaseTime)
	}
	if err := w.hub.Delete(w.t.Context(), operator, hub.Place{Hub: hub1, ID: "pump-7"}, nil); err != nil && errs.KindOf(err) != errs.NotFound {
		w.t.Fatal(err)
	}
	clear(w.away[away].devices)
	clear(w.away[other].devices)
}

// A TPM's hub key is another one in every attempt, and tells them apart.
func TestEverythingFailsOnce(t *testing.T) {
	c, w := newChip(t), newHarbour(t)
	w.linkAway(other)
	w.enroll(byTPM("pump-7", c.keys))
	c.activate(w.challenged("pump-7", attest.Credential{TPM: &c.keys}).Blob)
	answer, start := attest.Credential{TPM: &c.keys, Token: w.signedBy(c, "pump-7")}, w.clock()
	check := func(t *testing.T, w *harbour, to string) {
		t.Helper()
		r := w.record("pump-7")
		if r == nil || r.Status != provision.Assigned || r.Hub != to || r.Pending != nil {
			t.Fatalf("the record is %+v", r)
		}
		for _, host := range []string{hub1, away, other} {
			keys, _, ok := w.keys(host, "pump-7")
			if ok != (host == to) {
				t.Fatalf("at %s is an identity: %v", host, ok)
			}
			if !ok {
				continue
			}
			c.activate(r.HubKeyBlob)
			if !c.holds(keys.Primary) {
				t.Fatal("the hub has another key than the record's blob")
			}
		}
	}
	for _, journey := range []struct{ from, to string }{
		{"", away}, {away, away}, {hub1, away}, {away, hub1}, {away, other}, {hub1, hub1}, {"", hub1},
	} {
		for _, mode := range []string{"fails before", "fails after", "is killed before", "is killed after"} {
			t.Run(journey.from+" to "+journey.to+" "+mode, func(t *testing.T) {
				for n := 1; ; n++ {
					w.reset(start)
					if journey.from != "" {
						w.enroll(pinned(byTPM("pump-7", c.keys), journey.from))
						w.registrar.Register(t.Context(), request("pump-7", answer))
						w.finish(0)
						if journey.from == hub1 {
							setDesired(w.service, hub1, "pump-7", json.RawMessage(`{"rate":5}`))
						} else {
							w.away[away].devices["pump-7"].left.Twin.Desired = json.RawMessage(`{"rate":5}`)
						}
					}
					w.enroll(pinned(byTPM("pump-7", c.keys), journey.to))
					w.steps = 0
					dead, hit := false, ""
					w.at = func(server, step int, name string, do func() error) error {
						if server == 0 && dead {
							return errCrash
						}
						if step != n {
							return do()
						}
						hit = name
						dead = strings.Contains(mode, "killed")
						if strings.Contains(mode, "after") {
							if err := do(); err != nil {
								return err
							}
						}
						return errCrash
					}
					_, err := w.servers[0].Register(t.Context(), request("pump-7", answer))
					w.servers[0].FinishDue(t.Context())
					if hit == "" {
						if n < 2 || err != nil {
							t.Errorf("it had %d steps; %v", n, err)
						}
						return
					}
					// The device asks again where the call was not answered; another server
					// goes on with the rest.
					if err != nil {
						if _, err := w.servers[1].Register(t.Context(), request("pump-7", answer)); err != nil {
							t.Fatalf("%s, step %d: %v", hit, n, err)
						}
					}
					for range 3 {
						if r := w.record("pump-7"); r.Pending != nil {
							w.pass(r.Pending.Due.Sub(w.clock()))
						}
						w.finish(1)
					}
					check(t, w, journey.to)
					if journey.from != "" {
						desired := ""
						if journey.to == hub1 {
							desired = string(w.twin(hub1, "pump-7").Desired)
						} else {
							desired = string(w.away[journey.to].devices["pump-7"].left.Twin.Desired)
						}
						if desired != `{"rate":5}` {
							t.Errorf("%s, step %d: the twin is %s", hit, n, desired)
						}
					}
				}
			})
		}
	}
}

// While a server works on a registration, at every step of it, the enrollment is
// given to another TPM, which registers at another server and is finished there
// as soon as that may be. Whoever comes last, record and hub agree.
func TestSomebodyElseRegistersAtEveryStep(t *testing.T) {
	first, second, w := newChip(t), newChip(t), newHarbour(t)
	w.linkAway(other)
	var answers []attest.Credential
	for _, c := range []*chip{first, second} {
		w.enroll(byTPM("pump-7", c.keys))
		c.activate(w.challenged("pump-7", attest.Credential{TPM: &c.keys}).Blob)
		answers = append(answers, attest.Credential{TPM: &c.keys, Token: w.signedBy(c, "pump-7")})
	}
	start := w.clock()
	for _, journey := range []struct{ from, to, then string }{
		{"", away, away}, {"", away, hub1}, {hub1, away, hub1}, {away, hub1, away}, {away, other, hub1}, {away, other, away},
		{"", hub1, away}, {hub1, hub1, away}, {"", hub1, hub1},
	} {
		t.Run(journey.from+" to "+journey.to+" then "+journey.then, func(t *testing.T) {
			for n := 1; ; n++ {
				w.reset(start)
				if journey.from != "" {
					w.enroll(pinned(byTPM("pump-7", first.keys), journey.from))
					w.registrar.Register(t.Context(), request("pump-7", answers[0]))
					w.finish(0)
				}
				w.enroll(pinned(byTPM("pump-7", first.keys), journey.to))
				w.steps = 0
				hit := ""
				w.at = func(server, step int, name string, do func() error) error {
					if server == 0 && step >= n && hit == "" && !w.alone {
						hit = name
						w.at = nil
						w.enroll(pinned(byTPM("pump-7", second.keys), journey.then))
						if _, err := w.servers[1].Register(t.Context(), request("pump-7", answers[1])); err != nil {
							t.Errorf("%s, step %d: %v", name, n, err)
						}
						w.finish(1)
					}
					return do()
				}
				w.servers[0].Register(t.Context(), request("pump-7", answers[0]))
				w.servers[0].FinishDue(t.Context())
				if hit == "" {
					return
				}
				for range 3 {
					if r := w.record("pump-7"); r.Pending != nil {
						w.pass(max(0, r.Pending.Due.Sub(w.clock())))
					}
					w.finish(1)
				}
				r := w.record("pump-7")
				if r.Status != provision.Assigned {
					if r.Status != provision.Failed || !strings.Contains(r.ErrorMessage, "key is invalid") {
						t.Fatalf("%s, step %d: %+v", hit, n, r)
					}
					continue
				}
				keys, _, ok := w.keys(r.Hub, "pump-7")
				if !ok {
					t.Fatalf("%s, step %d: nothing is at %s", hit, n, r.Hub)
				}
				owner := first
				if string(r.StorageRootKey) == string(second.keys.StorageRootKey) {
					owner = second
				}
				owner.activate(r.HubKeyBlob)
				if !owner.holds(keys.Primary) {
					t.Fatalf("%s, step %d: the hub has another key than the record's blob", hit, n)
				}
				for _, host := range []string{hub1, away, other} {
					if _, _, ok := w.keys(host, "pump-7"); ok != (host == r.Hub) {
						t.Fatalf("%s, step %d: at %s is an identity: %v", hit, n, host, ok)
					}
				}
			}
		})
	}
}

// Nobody begins while another has the lease, whatever comes of it, and the record
// is not deleted.
func TestALeaseKeepsEverybodyAway(t *testing.T) {
	w := newHarbour(t)
	root := byKey(enroll.Individual, "pump-7", key(1), key(2))
	w.enroll(pinned(root, away))
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	told := 0
	w.at = func(_, _ int, name string, do func() error) error {
		if !strings.HasPrefix(name, "assign") {
			return do()
		}
		if told++; told > 1 {
			return do()
		}
		w.at = nil
		// The same again is the same; it is the lease's holder who works on it.
		w.begin(1, "pump-7", w.token(key(1), "pump-7"))
		if n := w.finish(1); n != 0 {
			t.Error("another server works on it too")
		}
		if err := w.enroller.DeleteRegistration(t.Context(), operator, scope, "pump-7", nil); errs.KindOf(err) != errs.Conflict {
			t.Errorf("deleting the record: %v", err)
		}
		// Another credential, a hub of these servers, a disabled enrollment: all wait.
		before := w.record("pump-7").Pending.Due
		b := newBearer(w, "pump-7")
		for _, next := range []struct {
			entry *enroll.Entry
			shown attest.Credential
		}{
			{pinned(b.entry("pump-7"), hub1), shown(b.leaf)},
			{disabled(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), hub1)), w.token(key(1), "pump-7")},
			{pinned(b.entry("pump-7"), hub1), shown(b.leaf)},
		} {
			w.enroll(next.entry)
			w.begin(1, "pump-7", next.shown)
			if err := w.servers[1].Finish(t.Context(), w.record("pump-7")); !provision.IsLost(err) {
				t.Errorf("another server works on it: %v", err)
			}
			if r := w.record("pump-7"); r.Pending.Attempts != 0 || !r.Pending.Due.Equal(before) || w.finish(1) != 0 {
				t.Errorf("the record is %+v, %+v", r, r.Pending)
			}
			if w.device(hub1, "pump-7") != nil {
				t.Error("the hub is told")
			}
		}
		return do()
	}
	w.finish(0)
	if told != 1 {
		t.Fatalf("the hub was told %d times", told)
	}
	// Who had the lease gives way: the next need not wait for the end of it.
	if r := w.record("pump-7"); r.Status != provision.Assigning || r.Pending.Due.After(w.clock()) {
		t.Fatalf("the record is %+v, %+v", r, r.Pending)
	}
	w.finish(1)
	r := w.record("pump-7")
	if _, thumbprint, ok := w.keys(hub1, "pump-7"); r.Status != provision.Assigned || r.Hub != hub1 || !ok || thumbprint == "" {
		t.Errorf("the record is %+v", r)
	}
	if _, _, ok := w.keys(away, "pump-7"); ok {
		t.Error("what the first attempt made is still there")
	}
}

func disabled(e *enroll.Entry) *enroll.Entry {
	e.Disabled = true
	return e
}

// A webhook is asked once, and what it says survives the server.
func TestAWebhookIsAskedOnce(t *testing.T) {
	oracle := &oracle{choice: &provision.Choice{
		Hub: away, Twin: &enroll.InitialTwin{Tags: json.RawMessage(`{"by":"hook"}`)}, Payload: json.RawMessage(`{"hello":"device"}`),
	}}
	w := newHarbour(t, func(c *provision.Config) { c.Chooser = oracle })
	e := byKey(enroll.Individual, "pump-7", key(1), key(2))
	e.Allocation, e.Custom = enroll.Custom, &enroll.CustomAllocation{WebhookURL: "https://hook.example/", APIVersion: "2021-10-01"}
	e.IoTHubs = []string{away, hub1}
	w.enroll(e)
	call := request("pump-7", w.token(key(1), "pump-7"))
	call.Payload = json.RawMessage(`{"model":"x"}`)
	if _, err := w.registrar.Register(t.Context(), call); err != nil || oracle.asked != 0 {
		t.Fatalf("%v, asked %d times", err, oracle.asked)
	}
	w.away[away].fault = errHubDown
	for range 3 {
		w.finish(0)
		w.pass(time.Hour / 20)
	}
	w.away[away].fault = nil
	w.finish(1)
	r := w.record("pump-7")
	if r.Status != provision.Assigned || r.Hub != away || string(r.Payload) != `{"hello":"device"}` || oracle.asked != 1 {
		t.Errorf("asked %d times: %+v", oracle.asked, r)
	}
	if q := oracle.last; q.ID != "pump-7" || string(q.Payload) != `{"model":"x"}` || strings.Join(q.Linked, " ") != away+" "+hub1 || q.Entry.ID != "pump-7" || q.Current != (provision.Place{}) {
		t.Errorf("it was asked %+v", q)
	}
	if tags := w.away[away].devices["pump-7"].left.Twin.Tags; string(tags) != `{"by":"hook"}` {
		t.Errorf("the twin has %s", tags)
	}

	// Another answer, a refusal, an outage.
	oracle.choice = &provision.Choice{Hub: hub1}
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.finish(0)
	if r := w.record("pump-7"); r.Hub != hub1 || r.Substatus != provision.DeviceDataMigrated || oracle.last.Current != (provision.Place{Hub: away, DeviceID: "pump-7"}) {
		t.Errorf("%+v, asked %+v", r, oracle.last)
	}
	oracle.err = errs.New(errs.Invalid, errs.CodeCustomAllocation, "Custom allocation failed with status code: 400")
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.finish(0)
	if r := w.record("pump-7"); r.Status != provision.Failed || r.ErrorCode != 400207 || r.ErrorMessage != "Custom allocation failed with status code: 400" || r.Hub != hub1 {
		t.Errorf("%+v", r)
	}
	oracle.err = errs.New(errs.Unavailable, errs.CodeCustomAllocation, "Custom allocation failed with status code: 503")
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.finish(0)
	if r := w.record("pump-7"); r.Status != provision.Assigning || !strings.Contains(r.Pending.LastError, "503") {
		t.Errorf("%+v", r)
	}
}

// An expression is quick: its devices are taken in at once.
func TestAnExpressionIsAskedAtOnce(t *testing.T) {
	oracle := &oracle{choice: &provision.Choice{Hub: hub1, Payload: json.RawMessage(`1`)}}
	w := newHarbour(t, func(c *provision.Config) { c.Chooser = oracle })
	e := byKey(enroll.Individual, "pump-7", key(1), key(2))
	e.Allocation, e.Custom, e.IoTHubs = enroll.Custom, &enroll.CustomAllocation{Expression: "hubs[0]"}, []string{away, hub1}
	w.enroll(e)
	if r := w.register("pump-7", w.token(key(1), "pump-7")); r.Hub != hub1 || string(r.Payload) != "1" {
		t.Errorf("%+v", r)
	}
	oracle.choice = &provision.Choice{Hub: "elsewhere.example"}
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	if r := w.record("pump-7"); r.Status != provision.Failed || r.ErrorCode != errs.CodeHubNotSpecified {
		t.Errorf("%+v", r)
	}
	oracle.choice = &provision.Choice{Hub: away}
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.finish(0)
	if r := w.record("pump-7"); r.Hub != away {
		t.Errorf("%+v", r)
	}
}

// An oracle is a custom allocation.
type oracle struct {
	choice *provision.Choice
	err    error
	asked  int
	last   provision.Question
}

func (o *oracle) Choose(_ context.Context, q provision.Question) (*provision.Choice, error) {
	o.asked++
	o.last = q
	if o.err != nil {
		return nil, o.err
	}
	return o.choice, nil
}

// A device whose hub cannot be asked any more and that is to stay there fails.
func TestAHomeThatIsNotLinked(t *testing.T) {
	w := newHarbour(t)
	e := pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away)
	e.Reprovision = &enroll.ReprovisionPolicy{}
	w.enroll(e)
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.finish(0)
	w.unlink(away)
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	if r := w.record("pump-7"); r.Status != provision.Failed || r.ErrorCode != errs.CodeHubNotSpecified || r.Hub != away {
		t.Errorf("%+v", r)
	}
	if d := w.decisions("pump-7")[0]; !strings.Contains(d.Fix, "berth hub link "+away) {
		t.Errorf("the decision is %+v", d)
	}
	// One that may move does.
	e.Reprovision, e.IoTHub = nil, hub1
	w.enroll(e)
	if r := w.register("pump-7", w.token(key(1), "pump-7")); r.Hub != hub1 {
		t.Errorf("%+v", r)
	}
	if d := w.decisions("pump-7")[0]; !strings.Contains(d.Allocation, away+" is not linked any more") {
		t.Errorf("the decision is %+v", d)
	}
	if _, _, ok := w.keys(away, "pump-7"); !ok {
		t.Error("the old identity did not stay")
	}
}

// Without the hub that an attempt had begun with, another one is found for the
// device, wherever the first attempt left it.
func TestAnotherHubIsFoundHalfway(t *testing.T) {
	for cut := 1; ; cut++ {
		w := newHarbour(t)
		w.linkAway(other)
		w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), hub1))
		w.register("pump-7", w.token(key(1), "pump-7"))
		setDesired(w.service, hub1, "pump-7", json.RawMessage(`{"rate":5}`))
		w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away))
		w.begin(0, "pump-7", w.token(key(1), "pump-7"))
		w.steps = 0
		hit := false
		w.at = func(_, step int, _ string, do func() error) error {
			err := do()
			if step == cut {
				hit, err = true, errCrash
			}
			if hit {
				return errCrash
			}
			return err
		}
		w.servers[0].FinishDue(t.Context())
		w.at = nil
		if !hit {
			return
		}
		for _, to := range []string{other, hub1, away} {
			w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), to))
			if r := w.record("pump-7"); r.Pending != nil {
				w.pass(max(0, r.Pending.Due.Sub(w.clock())))
			} else {
				w.registrar.Register(t.Context(), request("pump-7", w.token(key(1), "pump-7")))
			}
			w.finish(1)
			r := w.record("pump-7")
			if r.Status != provision.Assigned || r.Hub != to {
				t.Fatalf("cut at step %d, to %s: %+v", cut, to, r)
			}
			for _, host := range []string{hub1, away, other} {
				if _, _, ok := w.keys(host, "pump-7"); ok != (host == to) {
					t.Errorf("cut at step %d, to %s: at %s is an identity: %v", cut, to, host, ok)
				}
			}
			desired := ""
			if to == hub1 {
				desired = string(w.twin(hub1, "pump-7").Desired)
			} else {
				desired = string(w.away[to].devices["pump-7"].left.Twin.Desired)
			}
			if desired != `{"rate":5}` {
				t.Errorf("cut at step %d, to %s: the twin is %s", cut, to, desired)
			}
		}
	}
}

// A device that waits for a hub that is down, or that lets nobody in any more,
// goes elsewhere when the operator says so. What it may have left at the first is
// no loss.
func TestDevicesThatWaitCanBeRedirected(t *testing.T) {
	for _, fault := range []error{errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "down"), errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "no")} {
		for _, from := range []string{"", hub1} {
			w := newHarbour(t)
			w.linkAway(other)
			if from != "" {
				w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), from))
				w.register("pump-7", w.token(key(1), "pump-7"))
			}
			w.away[away].fault = errHubDown
			w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away))
			w.begin(0, "pump-7", w.token(key(1), "pump-7"))
			w.finish(0)
			w.away[away].fault = fault
			w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), other))
			w.pass(time.Minute)
			w.finish(0)
			if r := w.record("pump-7"); r.Status != provision.Assigned || r.Hub != other {
				t.Errorf("from %q, %v: %+v, %+v", from, fault, r, r.Pending)
			}
		}
	}
	// One that was on its way may be nowhere but there: it waits.
	w := newHarbour(t)
	w.linkAway(other)
	w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), hub1))
	w.register("pump-7", w.token(key(1), "pump-7"))
	w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), away))
	w.begin(0, "pump-7", w.token(key(1), "pump-7"))
	w.at = func(_, _ int, name string, do func() error) error {
		err := do()
		if strings.HasPrefix(name, "delete ") {
			w.at = func(int, int, string, func() error) error { return errCrash }
		}
		return err
	}
	w.servers[0].FinishDue(t.Context())
	w.at = nil
	w.away[away].fault = errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "no")
	w.enroll(pinned(byKey(enroll.Individual, "pump-7", key(1), key(2)), other))
	w.pass(provision.LeaseTime)
	w.finish(0)
	if r := w.record("pump-7"); r.Status != provision.Assigning || !strings.Contains(r.Pending.LastError, "may be at cannot be asked") {
		t.Errorf("%+v", r)
	}
	w.away[away].fault = nil
	w.pass(time.Minute)
	w.finish(0)
	if r := w.record("pump-7"); r.Status != provision.Assigned || r.Hub != other {
		t.Errorf("%+v", r)
	}
}

// A bearer has a certificate of its own.
type bearer struct{ leaf *pki.Leaf }

func newBearer(w *harbour, id string) bearer {
	w.t.Helper()
	root, err := pki.NewRoot("Root", w.clock(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	leaf, err := root.IssueDevice(id, w.clock(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return bearer{leaf}
}

func (b bearer) entry(id string) *enroll.Entry {
	return &enroll.Entry{Kind: enroll.Individual, ID: id, Attestation: attest.Mechanism{
		Type: attest.TypeX509, X509: &attest.X509{Use: attest.ClientCertificates, Primary: b.leaf.Certificate.Raw}}}
}
