package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// maxWaiting bounds the registrations under way that are counted.
const maxWaiting = 10_000

// hubs are the hubs that devices are assigned to: those of these servers, and
// those elsewhere that are linked. It tells requests which hub of these servers
// they mean, and lets the provisioning service give devices their identities.
type hubs struct {
	store   store
	service *hub.Service
	links   *links

	// known are the names of the hubs of these servers that were seen, for when the
	// store cannot say: their devices are to hear that it is unavailable, and not
	// that there is no such hub.
	known  sync.Map
	scopes *scopeCache
}

func openHubs(ctx context.Context, store store, scopes *scopeCache, links *links) (*hubs, error) {
	h := &hubs{store: store, scopes: scopes, links: links}
	err := h.each(ctx, func(_ provision.Scope, name string) bool { h.known.Store(name, true); return true })
	if err != nil {
		return nil, fmt.Errorf("reading the linked hubs: %w", err)
	}
	return h, nil
}

// each goes through the names of the hubs of these servers, of all scopes, until
// f returns false.
func (h *hubs) each(ctx context.Context, f func(scope provision.Scope, name string) bool) error {
	scopes, err := h.scopes.all(ctx)
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		linked, err := h.store.Linked(ctx, scope.ID)
		if err != nil {
			return err
		}
		for _, l := range linked {
			if l.Connection == nil && !f(scope, hub.HostName(l.Host)) {
				return nil
			}
		}
	}
	return nil
}

// Hub returns the hub of these servers that has a name, in lower case without a
// port, or has it as an alias. Another server may have linked it; the store has the
// list in memory.
func (h *hubs) Hub(name string) (hub.Host, bool) {
	if h.has(name) {
		return hub.NewHost(name), true
	}
	if classic := hub.ClassicName(name); classic != name && h.has(classic) {
		return hub.NewHost(classic), true
	}
	return hub.Host{Name: name}, false
}

// has reports whether there is a hub of this very name.
func (h *hubs) has(name string) bool {
	found := false
	err := h.each(context.Background(), func(_ provision.Scope, n string) bool { found = n == name; return !found })
	switch {
	case err != nil:
		_, found = h.known.Load(name)
	case found:
		h.known.LoadOrStore(name, true)
	default:
		h.known.Delete(name)
	}
	return found
}

// Linked returns the hubs of scope, ordered by host.
func (h *hubs) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	return h.store.Linked(ctx, scope)
}

// ChangeLinkedHub changes the link of a scope to a hub: one elsewhere, or one of
// these servers, which gets an owner policy when it has none. When a link is
// removed, the hub's devices and policies stay, and are there when it is linked
// again.
func (h *hubs) ChangeLinkedHub(ctx context.Context, scope device.IDScope, host string, decide func(*provision.LinkedHub) (*provision.LinkedHub, error)) error {
	local := false
	err := h.store.ChangeLinkedHub(ctx, scope, host, func(old *provision.LinkedHub) (*provision.LinkedHub, error) {
		next, err := decide(old)
		local = next != nil && next.Connection == nil
		return next, err
	})
	if err != nil || !local {
		return err
	}
	// Now that the name is this scope's: who had it before took his policies along.
	return h.store.ChangePolicies(ctx, access.HubOwner(hub.HostName(host)), func(old []access.Policy) ([]access.Policy, error) {
		if len(old) > 0 {
			return old, nil
		}
		policy, err := access.NewPolicy(hubOwner, access.AllHub, rand.Reader)
		return []access.Policy{policy}, err
	})
}

// CheckLink asks a hub elsewhere whether its policy is good for a link.
func (h *hubs) CheckLink(ctx context.Context, l provision.LinkedHub) error {
	return h.links.check(ctx, l)
}

// HubHealth returns how the hubs elsewhere of a scope have answered, ordered by
// host.
func (h *hubs) HubHealth(ctx context.Context, scope device.IDScope) ([]provision.HubHealth, error) {
	linked, err := h.store.Linked(ctx, scope)
	if err != nil {
		return nil, err
	}
	underWay, err := h.store.DueRegistrations(ctx, farFuture, maxWaiting)
	if err != nil {
		return nil, err
	}
	waiting := countWaiting(underWay)
	var all []provision.HubHealth
	for _, l := range linked {
		if l.Connection == nil {
			continue
		}
		health := h.links.health(l)
		health.Waiting = waiting[destinationOf(scope, l.Host)]
		all = append(all, health)
	}
	return all, nil
}

// A destination is a hub of a scope, in lower case.
type destination struct {
	scope device.IDScope
	host  string
}

func destinationOf(scope device.IDScope, host string) destination {
	return destination{scope, strings.ToLower(host)}
}

// countWaiting counts registrations under way by the hub that they are to go to.
func countWaiting(underWay []*provision.Registration) map[destination]int {
	n := map[destination]int{}
	for _, r := range underWay {
		if tried := r.Pending.Tried; len(tried) > 0 {
			n[destinationOf(r.Scope, tried[len(tried)-1].Hub)]++
		}
	}
	return n
}

// farFuture is when everything is due.
var farFuture = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// Assign gives a device its identity at a hub of these servers.
func (h *hubs) Assign(ctx context.Context, a provision.Assignment) error {
	p := provisioning(a)
	if a.From.Hub != a.Hub {
		foreign, err := h.foreign(ctx, a.Scope, a.From.Hub)
		if err != nil {
			return err
		}
		if foreign {
			return h.service.Provision(ctx, p) // the identity there stays, as at any hub elsewhere that is not linked any more
		}
	}
	p.From, p.MigrateTwin = hub.Place{Hub: a.From.Hub, ID: a.From.DeviceID}, a.MigrateTwin
	return h.service.Provision(ctx, p)
}

// foreign reports whether a hub of these servers is another scope's. A scope that
// was linked to it by a connection string has its name in registration records, and
// nothing to say there once the link is gone.
func (h *hubs) foreign(ctx context.Context, scope device.IDScope, host string) (bool, error) {
	if host == "" {
		return false, nil
	}
	owner, err := h.store.HubScope(ctx, hub.HostName(host))
	if err != nil {
		return false, fmt.Errorf("reading whose hub %s is: %w", host, err)
	}
	return owner != "" && owner != scope, nil
}

// AssignElsewhere gives a device its identity where one of the hubs is elsewhere.
func (h *hubs) AssignElsewhere(ctx context.Context, a provision.Assignment) error {
	linked, err := h.store.Linked(ctx, a.Scope)
	if err != nil {
		return fmt.Errorf("reading the linked hubs: %w", err)
	}
	return provision.Bring(ctx, a, func(host string) (provision.End, error) { return h.end(ctx, a.Scope, linked, host) })
}

// end returns the hub of a name. One that is not linked can be one of these
// servers' that was: its devices are in the database. It cannot be one elsewhere,
// which then has none here.
func (h *hubs) end(ctx context.Context, scope device.IDScope, linked []provision.LinkedHub, host string) (provision.End, error) {
	for _, l := range linked {
		if strings.EqualFold(l.Host, host) && l.Connection != nil {
			return h.links.open(l)
		}
	}
	foreign, err := h.foreign(ctx, scope, host)
	if err != nil {
		return nil, err
	}
	if foreign {
		return noHub{}, nil
	}
	return localHub{h.service, hub.HostName(host)}, nil
}

// A noHub is an end that the scope has nothing to say at, not any more: no device is
// found there.
type noHub struct{}

func (noHub) Export(context.Context, device.ID) (*provision.Departure, error) {
	return nil, errs.New(errs.NotFound, errs.CodeDeviceNotFound, "The hub is not linked.")
}

func (noHub) Delete(context.Context, device.ID, string) error { return nil }

func (noHub) Assign(context.Context, provision.Assignment) error {
	return errs.New(errs.Conflict, errs.CodeConflict, "The hub is not linked.")
}

func (noHub) Receive(context.Context, provision.Assignment, provision.Departure) (string, error) {
	return "", errs.New(errs.Conflict, errs.CodeConflict, "The hub is not linked.")
}

// A localHub is one hub of these servers as an end of a move to or from one
// elsewhere.
type localHub struct {
	service *hub.Service
	host    string
}

// mover is who moves a device: this process.
var mover = access.Caller{Policy: "provisioning", Rights: access.AllHub}

// Export implements provision.Origin.
func (l localHub) Export(ctx context.Context, id device.ID) (*provision.Departure, error) {
	d, twin, err := l.service.Twin(ctx, mover, hub.Place{Hub: l.host, ID: id})
	if err != nil {
		return nil, err
	}
	return &provision.Departure{
		Twin:     enroll.InitialTwin{Tags: twin.Tags, Desired: twin.Desired},
		Disabled: d.Disabled, StatusReason: d.StatusReason, GenerationID: d.GenerationID, ETag: d.ETag,
	}, nil
}

// Delete implements provision.Origin.
func (l localHub) Delete(ctx context.Context, id device.ID, etag string) error {
	err := l.service.Delete(ctx, mover, hub.Place{Hub: l.host, ID: id}, func(current string) bool { return current == etag })
	if errs.KindOf(err) == errs.NotFound {
		return nil
	}
	return err
}

// Assign implements provision.Destination.
func (l localHub) Assign(ctx context.Context, a provision.Assignment) error {
	return l.service.Provision(ctx, provisioning(a))
}

// Receive implements provision.Destination.
func (l localHub) Receive(ctx context.Context, a provision.Assignment, left provision.Departure) (generationID string, err error) {
	tags, desired := left.Sections()
	p := provisioning(a)
	p.Twin = &hub.InitialTwin{Tags: tags, Desired: desired}
	p.Arrival = &hub.Arrival{Disabled: left.Disabled, StatusReason: left.StatusReason}
	if err := l.service.Provision(ctx, p); err != nil {
		return "", err
	}
	d, err := l.service.Identity(ctx, mover, hub.Place{Hub: l.host, ID: a.DeviceID})
	if err != nil {
		return "", err
	}
	return d.GenerationID, nil
}

// provisioning is what a hub of these servers is told by an assignment, but for
// where the device comes from.
func provisioning(a provision.Assignment) hub.Provisioning {
	p := hub.Provisioning{Hub: a.Hub, DeviceID: a.DeviceID, IoTEdge: a.IoTEdge, Keys: a.Keys, Thumbprint: a.Thumbprint}
	if a.Twin != nil {
		p.Twin = &hub.InitialTwin{Tags: a.Twin.Tags, Desired: a.Twin.Desired}
	}
	return p
}
