package hub

import (
	"context"
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// MaxInScope is the most children of an IoT Edge device that one call lists.
const MaxInScope = 100

// A Gateway is an IoT Edge device that proved itself, to learn the identities of who
// connects to it: its children, theirs, and the modules of all of them, keys included.
// The zero value may learn nothing.
type Gateway struct{ device Place }

// AuthenticateGateway lets an IoT Edge device in, by credentials of its own or of its
// module $edgeHub. The token of a policy is not one of them: it would give away the
// keys of devices to who may only speak for them.
func (s *Service) AuthenticateGateway(ctx context.Context, h Host, id device.ID, credential attest.Credential, by Approach) (Gateway, error) {
	if err := ownCredential(credential); err != nil {
		return Gateway{}, err
	}
	at := Place{Hub: h.Name, ID: id}
	var refused func() error
	for _, module := range []device.ID{"", EdgeHub} {
		a, err := s.attempt(ctx, h, Place{Hub: at.Hub, ID: at.ID, Module: module}, credential)
		if err != nil {
			return Gateway{}, err
		}
		v := AuthenticateDevice(a)
		if v.Accepted() {
			return gatewayOf(a)
		}
		// What is told and remembered is about the device, unless the module proved
		// itself and its device is disabled.
		if refused == nil || v.Refusal.Code == errs.CodeDeviceDisabled {
			refused = func() error { return s.refuse(a, by, v) }
		}
	}
	return Gateway{}, refused()
}

func gatewayOf(a Attempt) (Gateway, error) {
	if !a.Device.IoTEdge {
		return Gateway{}, denied(errs.CodeUnauthorizedAccess, "the device does not run IoT Edge")
	}
	return Gateway{a.At.Device()}, nil
}

// A Scope is who is in a device scope, or a part of it.
type Scope struct {
	Devices, Modules []*Identity
	Next             device.ID // the list goes on after it, empty at the end
}

// InScope returns who is in the scope of an IoT Edge device: that device, the devices
// whose parent it is, and the modules of all of them. It is the gateway, or below it.
// Up to limit children and [MaxInScope] are listed, those with IDs above after; the
// device itself comes with the first.
func (s *Service) InScope(ctx context.Context, by Gateway, of, after device.ID, limit int) (*Scope, error) {
	edge, err := s.below(ctx, by, of)
	if err != nil {
		return nil, err
	}
	if !edge.IoTEdge {
		return nil, badScope("%s does not run IoT Edge", of)
	}
	limit = min(limit, MaxInScope)
	children, err := s.registry.Children(ctx, edge.Hub, edge.DeviceScope(), after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing the children of %q of %s: %w", of, edge.Hub, err)
	}
	found := &Scope{Devices: children}
	if len(children) == limit {
		found.Next = children[limit-1].ID
	}
	if after == "" {
		found.Devices = append([]*Identity{edge}, children...)
	}
	for _, d := range found.Devices {
		modules, err := s.registry.Modules(ctx, d.Hub, d.ID)
		if err != nil {
			return nil, fmt.Errorf("listing the modules of %q of %s: %w", d, d.Hub, err)
		}
		found.Modules = append(found.Modules, modules...)
	}
	return found, nil
}

// OnBehalfOf returns a device that is the gateway, or below it, and one of its modules
// where module is not empty.
func (s *Service) OnBehalfOf(ctx context.Context, by Gateway, of, module device.ID) (*Scope, error) {
	d, err := s.below(ctx, by, of)
	if err != nil {
		return nil, err
	}
	found := &Scope{Devices: []*Identity{d}}
	if module == "" {
		return found, nil
	}
	m, err := s.identityAt(ctx, Place{Hub: d.Hub, ID: d.ID, Module: module})
	if err != nil {
		return nil, err
	}
	found.Modules = []*Identity{m}
	return found, nil
}

// below returns a device that is the gateway, or has it above. What a client says
// stands between is looked up and not believed. A device that is elsewhere and one
// that does not exist are refused with the same words.
func (s *Service) below(ctx context.Context, by Gateway, id device.ID) (*Identity, error) {
	notBelow := badScope("%s is not in the scope of %s", id, by.device.ID)
	if by.device == (Place{}) {
		return nil, notBelow
	}
	d, err := s.identityAt(ctx, Place{Hub: by.device.Hub, ID: id})
	if errs.KindOf(err) == errs.NotFound {
		return nil, notBelow
	}
	if err != nil {
		return nil, err
	}
	above := d
	for range maxLayers + 1 {
		if above == nil {
			break
		}
		if above.Place == by.device {
			return d, nil
		}
		if above, err = s.edgeDevice(ctx, above.Hub, above.ParentScope); err != nil {
			return nil, err
		}
	}
	return nil, notBelow
}
