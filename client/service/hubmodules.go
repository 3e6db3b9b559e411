package service

import (
	"context"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

// CreateModule makes the identity of a module. The hub generates symmetric keys that
// are not given; they are in the answer.
func (h *Hub) CreateModule(ctx context.Context, m hubjson.Module) (*hubjson.Module, error) {
	return h.calls.PutModule(ctx, m, "")
}

// Module returns the identity of a module, symmetric keys included.
func (h *Hub) Module(ctx context.Context, id, module device.ID) (*hubjson.Module, error) {
	return h.calls.Module(ctx, id, module)
}

// Modules returns the identities of a device's modules, symmetric keys included.
func (h *Hub) Modules(ctx context.Context, id device.ID) ([]hubjson.Module, error) {
	return h.calls.Modules(ctx, id)
}

// UpdateModule replaces the identity of a module, on the terms of
// [Hub.UpdateDevice].
func (h *Hub) UpdateModule(ctx context.Context, m hubjson.Module) (*hubjson.Module, error) {
	if m.ETag == "" {
		return nil, errNoETag(string(m.DeviceID) + "/" + string(m.ModuleID))
	}
	return h.calls.PutModule(ctx, m, m.ETag)
}

// DeleteModule removes a module and its twin, on the terms of [Hub.DeleteDevice].
func (h *Hub) DeleteModule(ctx context.Context, id, module device.ID, etag string) error {
	return h.calls.DeleteModule(ctx, id, module, etag)
}

// ModuleTwin returns a module's twin.
func (h *Hub) ModuleTwin(ctx context.Context, id, module device.ID) (*hubjson.Twin, error) {
	return h.calls.Twin(ctx, id, module)
}

// PatchModuleTwin is [Hub.PatchTwin] for a module.
func (h *Hub) PatchModuleTwin(ctx context.Context, id, module device.ID, c hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	return h.calls.PatchTwin(ctx, id, module, c, etag)
}

// ReplaceModuleTwin is [Hub.ReplaceTwin] for a module.
func (h *Hub) ReplaceModuleTwin(ctx context.Context, id, module device.ID, c hubjson.TwinChange, etag string) (*hubjson.Twin, error) {
	if err := saysAll(c); err != nil {
		return nil, err
	}
	return h.calls.ReplaceTwin(ctx, id, module, c, etag)
}

// InvokeModule is [Hub.Invoke] for a module.
func (h *Hub) InvokeModule(ctx context.Context, id, module device.ID, m hubjson.Method) (hubjson.MethodResult, error) {
	return h.calls.Invoke(ctx, id, module, m)
}
