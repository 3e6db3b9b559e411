package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/sqlite"
)

// hubs are the hubs of this process: it links them to the scope, tells requests
// which hub they mean, and lets the provisioning service give devices their
// identities there.
type hubs struct {
	store   *sqlite.Store
	service *hub.Service

	mu    sync.RWMutex        // guards known
	known map[string]hub.Host // by name, without port
}

func openHubs(ctx context.Context, store *sqlite.Store, scope device.IDScope) (*hubs, error) {
	h := &hubs{store: store}
	linked, err := store.Linked(ctx, scope)
	if err != nil {
		return nil, fmt.Errorf("reading the linked hubs: %w", err)
	}
	h.know(linked)
	return h, nil
}

func (h *hubs) know(linked []provision.LinkedHub) {
	known := make(map[string]hub.Host)
	for _, l := range linked {
		name := hub.HostName(l.Host)
		known[name] = hub.Host{Name: name}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known = known
}

// Hub returns the hub of a name in lower case without a port.
func (h *hubs) Hub(name string) (hub.Host, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	host, ok := h.known[name]
	return host, ok
}

// Linked returns the hubs of scope, ordered by host.
func (h *hubs) Linked(ctx context.Context, scope device.IDScope) ([]provision.LinkedHub, error) {
	return h.store.Linked(ctx, scope)
}

// PutLinkedHub makes a hub of this process part of the scope, with an owner policy when
// it has none yet.
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
	if err := h.store.PutLinkedHub(ctx, scope, l); err != nil {
		return err
	}
	return h.relearn(ctx, scope)
}

// DeleteLinkedHub takes a hub out of the scope. Its devices and policies stay in the
// database, and are there when it is linked again.
func (h *hubs) DeleteLinkedHub(ctx context.Context, scope device.IDScope, host string) error {
	if err := h.store.DeleteLinkedHub(ctx, scope, host); err != nil {
		return err
	}
	return h.relearn(ctx, scope)
}

func (h *hubs) relearn(ctx context.Context, scope device.IDScope) error {
	linked, err := h.store.Linked(ctx, scope)
	if err != nil {
		return err
	}
	h.know(linked)
	return nil
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
