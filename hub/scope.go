package hub

import (
	"context"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// scopePrefix begins a device scope; the ID and the generation ID of an IoT Edge
// device follow, with a hyphen between them.
const scopePrefix = "ms-azure-iot-edge://"

// maxLayers is how many IoT Edge devices may stand above each other. It only has to
// be more than anybody builds, and to end.
const maxLayers = 16

// DeviceScope returns the scope that a device is in: its own where it runs IoT Edge,
// or else that of its parent, which is empty where it has none.
func (d *Identity) DeviceScope() string {
	if d.IoTEdge {
		return scopePrefix + string(d.ID) + "-" + d.GenerationID
	}
	return d.ParentScope
}

// ParentScopes returns the device scopes of a device's parents: one or none. A
// parent that is deleted remains named, and is not the one that is created after it:
// the generation ID in the scope tells them apart.
func (d *Identity) ParentScopes() []string {
	if d.ParentScope == "" {
		return []string{}
	}
	return []string{d.ParentScope}
}

// parent returns the device scope of the parent that the spec says, in the
// transaction of ctx, empty for none. One that is not the parent already has to be an
// IoT Edge device of the hub that is not below the device itself.
func (s *Service) parent(ctx context.Context, at Place, spec DeviceSpec) (string, error) {
	if spec.DeviceScope == nil && len(spec.ParentScopes) == 0 {
		return "", nil
	}
	edge, before := spec.IoTEdge != nil && *spec.IoTEdge, ""
	old, err := s.registry.Identity(ctx, at)
	switch {
	case err == nil:
		edge, before = edge || old.IoTEdge, old.ParentScope
	case errs.KindOf(err) != errs.NotFound:
		return "", fmt.Errorf("reading the identity of %q: %w", at, err)
	}
	scope, err := spec.parentScope(edge, before)
	if err != nil || scope == "" || scope == before {
		return scope, err
	}
	return scope, s.checkParent(ctx, at, scope)
}

// parentScope returns the parent that the spec says. Clients send back what they
// read with one of the members changed: of two that differ, the one that is not as
// before counts. The device scope of a device that runs IoT Edge is its own, and
// nothing that a client could say.
func (spec DeviceSpec) parentScope(edge bool, before string) (string, error) {
	if n := len(spec.ParentScopes); n > 1 {
		return "", badScope("parentScopes has %d elements; one is allowed", n)
	}
	above := strings.Join(spec.ParentScopes, "")
	switch {
	case edge || spec.DeviceScope == nil || *spec.DeviceScope == above:
		return above, nil
	case spec.ParentScopes == nil || above == before:
		return *spec.DeviceScope, nil
	case *spec.DeviceScope == before:
		return above, nil
	}
	return "", badScope("deviceScope and parentScopes name two parents")
}

// checkParent refuses a device scope that is not that of a device which at can be a
// child of.
func (s *Service) checkParent(ctx context.Context, at Place, scope string) error {
	above, err := s.edgeDevice(ctx, at.Hub, scope)
	if err != nil {
		return err
	}
	if above == nil {
		return badScope("%q is not the scope of an IoT Edge device of this hub", scope)
	}
	for layer := 1; above != nil; layer++ {
		switch {
		case above.ID == at.ID:
			return badScope("the device %s cannot be below itself", at.ID)
		case layer > maxLayers:
			return badScope("more than %d layers of IoT Edge devices", maxLayers)
		}
		if above, err = s.edgeDevice(ctx, at.Hub, above.ParentScope); err != nil {
			return err
		}
	}
	return nil
}

// edgeDevice returns the IoT Edge device of a hub that has a device scope, or nil.
func (s *Service) edgeDevice(ctx context.Context, hub, scope string) (*Identity, error) {
	name, ok := strings.CutPrefix(scope, scopePrefix)
	hyphen := strings.LastIndexByte(name, '-')
	if !ok || hyphen < 1 {
		return nil, nil
	}
	d, err := s.registry.Identity(ctx, Place{Hub: hub, ID: device.ID(name[:hyphen])})
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the device of scope %q: %w", scope, err)
	case !d.IoTEdge || d.DeviceScope() != scope:
		return nil, nil
	}
	return d, nil
}

func badScope(format string, args ...any) error {
	return errs.New(errs.Invalid, errs.CodeInvalidDeviceScope, format, args...)
}
