package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub/twin"
)

// A Provisioning is what the provisioning service tells a hub about a device
// that it assigns there.
type Provisioning struct {
	Hub      string // the host name, in any case and perhaps with a port
	DeviceID device.ID
	IoTEdge  bool
	// Both Keys authenticate the device, unless Thumbprint does: the SHA-256
	// thumbprint of its certificate in hexadecimal.
	Keys       attest.SymmetricKeys
	Thumbprint string
	// Twin is what the device's twin starts with, or nil.
	Twin *InitialTwin
	// From is the device's place before; its zero value means this is the
	// first. What is at another place than this one is removed.
	From Place
	// MigrateTwin takes the twin along from another place; otherwise it starts
	// anew here.
	MigrateTwin bool
	// Arrival is set for a device that comes from a hub elsewhere, and not in
	// the same commit: From is then empty.
	Arrival *Arrival
}

// An InitialTwin is what a twin starts with. Each member is a JSON object or nil.
type InitialTwin struct{ Tags, Desired json.RawMessage }

// An Arrival is what a device brings from a hub elsewhere, besides the Twin,
// which takes the place of one that was left over here.
type Arrival struct {
	Disabled     bool
	StatusReason string
}

// Provision gives a device its identity. It is idempotent, also after a crash
// between its commit and the caller's: a device that is at its place already
// keeps its twin and generation ID, and only its credentials are refreshed.
//
// A disabled identity stays disabled, here and through a move: the hub's
// operator decided that, and registering again must not undo it.
func (s *Service) Provision(ctx context.Context, p Provisioning) error {
	p.Hub, p.From.Hub = HostName(p.Hub), HostName(p.From.Hub)
	if _, err := device.ParseID(string(p.DeviceID)); err != nil {
		return invalid("the device ID %v", err)
	}
	if p.Thumbprint == "" && (p.Keys.Primary.IsZero() || p.Keys.Secondary.IsZero()) {
		return invalid("a device takes two symmetric keys or a thumbprint")
	}
	if err := p.authentication().check(); err != nil {
		return err
	}
	var err error
	if p.Twin, err = p.Twin.checked(); err != nil {
		return err
	}
	write := func(ctx context.Context) error { return s.provision(ctx, p) }
	if p.IoTEdge { // and so has modules to make
		once := write
		write = func(ctx context.Context) error { return s.together(ctx, once) }
	}
	if err := write(ctx); err != nil {
		return fmt.Errorf("provisioning device %q at %s: %w", p.DeviceID, p.Hub, err)
	}
	return nil
}

func (s *Service) provision(ctx context.Context, p Provisioning) (err error) {
	here := Place{Hub: p.Hub, ID: p.DeviceID}
	var leaving []Place // whose connections end
	if p.From != (Place{}) && p.From != here {
		if leaving, err = s.withModules(ctx, p.From); err != nil {
			return err
		}
	}
	var next *Identity
	var announce func()
	settle := func(at *Identity, twin *Twin, left *Identity, leftTwin *Twin) (*Identity, *Twin, error) {
		settled, settledTwin, err := s.settle(p, at, twin, left, leftTwin)
		next, announce = settled, func() {
			if left != nil {
				s.cutAll(leaving, NewsDeleted)
			}
			s.identityChanged(left, nil, leftTwin)
			s.identityChanged(at, settled, settledTwin)
			s.deploying.twin(settled.Place, false)
		}
		return settled, settledTwin, err
	}
	if leaving == nil {
		err = s.registry.Change(ctx, here, func(at *Identity, twin *Twin) (*Identity, *Twin, error) {
			return settle(at, twin, nil, nil)
		})
	} else {
		err = s.registry.Move(ctx, p.From, here, settle)
	}
	if err != nil {
		return err
	}
	committed(ctx, announce)
	if p.IoTEdge {
		return s.addSystemModules(ctx, next)
	}
	return nil
}

// settle says what the identity and twin at the device's place become, given
// those at it and those at the place it left, each nil when there is none.
func (s *Service) settle(p Provisioning, at *Identity, twin *Twin, left *Identity, leftTwin *Twin) (*Identity, *Twin, error) {
	spec := DeviceSpec{Auth: p.authentication()}
	if p.IoTEdge {
		spec.IoTEdge = &p.IoTEdge
	}
	parent := "" // a parent at another hub is none here
	if at != nil {
		spec.Disabled, spec.StatusReason, parent = at.Disabled, at.StatusReason, at.ParentScope
	}
	if left != nil && left.Disabled {
		spec.Disabled, spec.StatusReason = true, left.StatusReason
	}
	if p.Arrival != nil && p.Arrival.Disabled {
		spec.Disabled, spec.StatusReason = true, p.Arrival.StatusReason
	}
	d := at
	if at == nil || !at.says(spec) {
		var err error
		if d, err = s.identity(Place{Hub: p.Hub, ID: p.DeviceID}, at, spec, parent); err != nil {
			return nil, nil, err
		}
	}
	return d, s.settleTwin(p, twin, leftTwin), nil
}

func (s *Service) settleTwin(p Provisioning, twin, left *Twin) *Twin {
	switch {
	case twin == nil && left != nil && p.MigrateTwin:
		return left
	case twin == nil:
		return s.freshTwin(p.Twin)
	case p.Arrival != nil:
		return s.arrivedTwin(p.Twin, twin)
	case left == nil:
		// A first assignment finds an identity that somebody else made, or
		// this one was made before and the caller did not get to know.
		return twin
	}
	// The device comes from elsewhere to an identity that was left over here.
	// Its versions go on: whoever knew them must see a change.
	next := s.freshTwin(p.Twin)
	if p.MigrateTwin {
		*next = *left
	}
	next.Version = max(twin.Version, left.Version) + 1
	next.DesiredVersion = max(twin.DesiredVersion, left.DesiredVersion) + 1
	next.ReportedVersion = max(twin.ReportedVersion, left.ReportedVersion) + 1
	return next
}

// arrivedTwin is what a twin that was left over here becomes when the device
// arrives with another. A repetition changes nothing.
func (s *Service) arrivedTwin(with *InitialTwin, leftover *Twin) *Twin {
	next := s.freshTwin(with)
	if bytes.Equal(next.Tags, leftover.Tags) && bytes.Equal(next.Desired, leftover.Desired) {
		return leftover
	}
	next.Version, next.DesiredVersion, next.ReportedVersion = leftover.Version+1, leftover.DesiredVersion+1, leftover.ReportedVersion+1
	return next
}

// authentication is how the device proves itself. One certificate fills both
// slots, as at IoT Hub.
func (p Provisioning) authentication() Authentication {
	if p.Thumbprint == "" {
		return Authentication{Type: AuthSAS, Keys: p.Keys}
	}
	return Authentication{Type: AuthSelfSigned, PrimaryThumbprint: p.Thumbprint, SecondaryThumbprint: p.Thumbprint}
}

// says reports whether writing spec over d would change nothing.
func (d *Identity) says(spec DeviceSpec) bool {
	return d.Disabled == spec.Disabled && d.StatusReason == spec.StatusReason &&
		(spec.IoTEdge == nil || d.IoTEdge == *spec.IoTEdge) && d.Auth.equal(spec.Auth)
}

var emptyObject = json.RawMessage("{}")

// checked returns the twin as it is kept, or what is wrong with it.
func (t *InitialTwin) checked() (*InitialTwin, error) {
	if t == nil {
		return nil, nil
	}
	tags, err := twin.Tags.Replace(t.Tags)
	if err != nil {
		return nil, fmt.Errorf("the initial twin: %w", err)
	}
	desired, err := twin.Desired.Replace(t.Desired)
	if err != nil {
		return nil, fmt.Errorf("the initial twin: %w", err)
	}
	return &InitialTwin{tags, desired}, nil
}
