package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// hubs are the hubs of this process: it links them to the scope, tells requests
// which hub they mean, and lets the provisioning service give devices their
// identities there.
type hubs struct {
	store   store
	scope   device.IDScope
	service *hub.Service

	// known are the linked hubs as they were last seen, for when the store
	// cannot say: their devices are to hear that it is unavailable, and not that
	// there is no such hub.
	known atomic.Pointer[[]provision.LinkedHub]
}

func openHubs(ctx context.Context, store store, scope device.IDScope) (*hubs, error) {
	h := &hubs{store: store, scope: scope}
	linked, err := store.Linked(ctx, scope)
	if err != nil {
		return nil, fmt.Errorf("reading the linked hubs: %w", err)
	}
	h.known.Store(&linked)
	return h, nil
}

// Hub returns the hub of a name in lower case without a port. Another server
// may have linked it; the store has the list in memory.
func (h *hubs) Hub(name string) (hub.Host, bool) {
	linked, err := h.store.Linked(context.Background(), h.scope)
	if err == nil {
		h.known.Store(&linked)
	}
	for _, l := range *h.known.Load() {
		if hub.HostName(l.Host) == name {
			return hub.Host{Name: name}, true
		}
	}
	return hub.Host{}, false
}

// Linked returns the hubs of scope, ordered by host.
func (h *hubs) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	return h.store.Linked(ctx, scope)
}

// PutLinkedHub makes a hub of this process part of the scope, with an owner
// policy when it has none yet.
func (h *hubs) PutLinkedHub(ctx context.Context, scope device.IDScope, l provision.LinkedHub) error {
	owner := access.HubOwner(hub.HostName(l.Host))
	policies, err := h.store.Policies(ctx, owner)
	if err != nil {
		return err
	}
	if len(policies) == 0 {
		policy, err := access.NewPolicy(hubOwner, access.AllHub, rand.Reader)
		if err != nil {
			return err
		}
		if err := h.store.PutPolicy(ctx, owner, policy); err != nil {
			return err
		}
	}
	return h.store.PutLinkedHub(ctx, scope, l)
}

// DeleteLinkedHub takes a hub out of the scope. Its devices and policies stay in
// the database, and are there when it is linked again.
func (h *hubs) DeleteLinkedHub(ctx context.Context, scope device.IDScope, host string) error {
	return h.store.DeleteLinkedHub(ctx, scope, host)
}

// Assign gives a device its identity at a hub of this process.
func (h *hubs) Assign(ctx context.Context, a provision.Assignment) error {
	return h.service.Provision(ctx, hub.Provisioning{
		Hub: a.Hub, DeviceID: a.DeviceID, IoTEdge: a.IoTEdge, Keys: a.Keys, Thumbprint: a.Thumbprint,
		Twin: twin(a.Twin), From: hub.Place{Hub: a.From.Hub, ID: a.From.DeviceID}, MigrateTwin: a.MigrateTwin,
	})
}

func twin(t *enroll.InitialTwin) *hub.InitialTwin {
	if t == nil {
		return nil
	}
	return &hub.InitialTwin{Tags: t.Tags, Desired: t.Desired}
}
