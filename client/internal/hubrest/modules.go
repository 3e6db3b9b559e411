package hubrest

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

// Module returns the identity of a module, keys included.
func (h *Hub) Module(ctx context.Context, id, module device.ID) (*hubjson.Module, error) {
	var m hubjson.Module
	err := h.moduleCall(ctx, request{method: http.MethodGet, id: id, module: module, repeatable: true}, &m)
	if err == nil && (m.DeviceID != id || m.ModuleID != module) {
		err = errors.New("the answer is about another module")
	}
	if err != nil {
		return nil, fmt.Errorf("reading module %s: %w", name(id, module), err)
	}
	return &m, nil
}

// Modules returns the identities of a device's modules, keys included.
func (h *Hub) Modules(ctx context.Context, id device.ID) ([]hubjson.Module, error) {
	var all []hubjson.Module
	if err := h.call(ctx, request{method: http.MethodGet, collection: "/devices/", id: id, below: "/modules", repeatable: true}, &all); err != nil {
		return nil, fmt.Errorf("reading the modules of %s: %w", id, err)
	}
	return all, nil
}

// PutModule creates a module when etag is empty, or else replaces the one that has
// it.
func (h *Hub) PutModule(ctx context.Context, m hubjson.Module, etag string) (*hubjson.Module, error) {
	var put hubjson.Module
	err := h.moduleCall(ctx, request{method: http.MethodPut, id: m.DeviceID, module: m.ModuleID, etag: etag, body: m, repeatable: h.Resume}, &put)
	if err != nil {
		return nil, fmt.Errorf("writing module %s: %w", name(m.DeviceID, m.ModuleID), err)
	}
	return &put, nil
}

// DeleteModule removes a module if it has the entity tag, or in any case if that is
// empty. After a lost answer it is repeated.
func (h *Hub) DeleteModule(ctx context.Context, id, module device.ID, etag string) error {
	if err := h.moduleCall(ctx, request{method: http.MethodDelete, id: id, module: module, etag: etag, repeatable: true}, nil); err != nil {
		return fmt.Errorf("deleting module %s: %w", name(id, module), err)
	}
	return nil
}

func (h *Hub) moduleCall(ctx context.Context, r request, v any) error {
	if r.module == "" {
		return errors.New("the module ID is empty")
	}
	r.collection = "/devices/"
	return h.call(ctx, r, v)
}
