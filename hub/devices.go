package hub

import (
	"context"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// A DeviceSpec is what an operator may say about a device; the rest of its
// identity is the registry's. SAS keys that are left out are generated.
type DeviceSpec struct {
	Disabled     bool
	StatusReason string // at most 128 characters
	// IoTEdge says whether the device runs IoT Edge; nil leaves it as it is, and a
	// new device does not. A device that does has the modules $edgeAgent and
	// $edgeHub, and remains one that does.
	IoTEdge *bool
	// DeviceScope and ParentScopes both name the IoT Edge device that this one is a
	// child of; nil says nothing. See [Identity.ParentScopes].
	DeviceScope  *string
	ParentScopes []string
	Auth         Authentication
}

// Identity returns the identity of a device or a module, keys included. It takes
// RegistryRead.
func (s *Service) Identity(ctx context.Context, caller access.Caller, at Place) (*Identity, error) {
	if err := caller.Require(access.RegistryRead); err != nil {
		return nil, err
	}
	return s.identityAt(ctx, at)
}

func (s *Service) identityAt(ctx context.Context, at Place) (*Identity, error) {
	d, err := s.registry.Identity(ctx, at)
	if errs.KindOf(err) == errs.NotFound {
		return nil, notFound(at)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the identity of %q of %s: %w", at, at.Hub, err)
	}
	return d, nil
}

// MaxDevices is the most identities that one call lists.
const MaxDevices = 1000

// Devices returns identities, keys included, ordered by ID: the first ones, up
// to limit and [MaxDevices]. It takes RegistryRead.
func (s *Service) Devices(ctx context.Context, caller access.Caller, hub string, limit int) ([]*Identity, error) {
	if err := caller.Require(access.RegistryRead); err != nil {
		return nil, err
	}
	ds, err := s.registry.Devices(ctx, hub, "", min(limit, MaxDevices))
	if err != nil {
		return nil, fmt.Errorf("listing the devices of %s: %w", hub, err)
	}
	return ds, nil
}

// Statistics counts a hub's devices. It takes RegistryRead.
func (s *Service) Statistics(ctx context.Context, caller access.Caller, hub string) (Statistics, error) {
	if err := caller.Require(access.RegistryRead); err != nil {
		return Statistics{}, err
	}
	counted, err := s.registry.Statistics(ctx, hub)
	if err != nil {
		return Statistics{}, fmt.Errorf("counting the devices of %s: %w", hub, err)
	}
	return counted, nil
}

// ServiceStatistics counts the devices of a hub that are connected, to whichever
// server, as it was about a second ago. It takes RegistryRead.
func (s *Service) ServiceStatistics(ctx context.Context, caller access.Caller, hub string) (connected int, err error) {
	if err := caller.Require(access.RegistryRead); err != nil {
		return 0, err
	}
	return s.CountConnected(ctx, hub)
}

// PutDevice creates an identity, when there is no precondition, or replaces
// what the operator may say about an existing one, when its entity tag
// satisfies the precondition. It takes RegistryWrite.
//
// The modules of a device that runs IoT Edge are made in the same commit. Errors:
// errs.Conflict where a device without a precondition exists; errs.Precondition;
// errs.NotFound; errs.Invalid, with the code of a bad device scope for a parent that
// is none.
func (s *Service) PutDevice(ctx context.Context, caller access.Caller, at Place, spec DeviceSpec, ifMatch Precondition) (*Identity, error) {
	if err := caller.Require(access.RegistryWrite); err != nil {
		return nil, err
	}
	var put *Identity
	err := s.together(ctx, func(ctx context.Context) (err error) {
		put, err = s.putDevice(ctx, at, spec, createOrUpdate(ifMatch), nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("writing device %q of %s: %w", at, at.Hub, err)
	}
	return put, nil
}

// A rule judges what is in a place before it is written: nil for nothing.
type rule func(at Place, old *Identity) error

// createOrUpdate is the rule of a PUT: it creates without a precondition, and
// updates with one.
func createOrUpdate(ifMatch Precondition) rule {
	return func(at Place, old *Identity) error {
		switch {
		case ifMatch == nil && old == nil:
			return nil
		case ifMatch == nil:
			return alreadyExists(at)
		}
		return update(ifMatch)(at, old)
	}
}

// update is the rule for what must be there, with an entity tag that satisfies the
// precondition if there is one.
func update(ifMatch Precondition) rule {
	return func(at Place, old *Identity) error {
		switch {
		case old == nil:
			return notFound(at)
		case ifMatch != nil && !ifMatch(old.ETag):
			return preconditionFailed()
		}
		return nil
	}
}

// putDevice writes a device in the transaction of ctx. initial is what the twin of a
// new one starts with, or nil.
func (s *Service) putDevice(ctx context.Context, at Place, spec DeviceSpec, allowed rule, initial *InitialTwin) (*Identity, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	parent, err := s.parent(ctx, at, spec)
	if err != nil {
		return nil, err
	}
	var put, before *Identity
	var with *Twin
	err = s.registry.Change(ctx, at, func(old *Identity, twin *Twin) (_ *Identity, _ *Twin, err error) {
		if err := allowed(at, old); err != nil {
			return nil, nil, err
		}
		if old == nil {
			twin = s.freshTwin(initial)
		}
		before, with = old, twin
		put, err = s.identity(at, old, spec, parent)
		return put, twin, err
	})
	if err != nil {
		return nil, err
	}
	if err := s.addSystemModules(ctx, put); err != nil {
		return nil, err
	}
	if put.Disabled {
		places, err := s.withModules(ctx, at)
		if err != nil {
			return nil, err
		}
		committed(ctx, func() { s.cutAll(places, NewsDisabled) })
	}
	committed(ctx, func() {
		s.identityChanged(before, put, with)
		s.deploying.twin(at, false)
	})
	return put, nil
}

// Delete removes an identity and its twin, and with a device its modules and the
// messages to it, when its entity tag satisfies the precondition. It takes
// RegistryWrite. The modules of IoT Edge itself go with their device alone.
func (s *Service) Delete(ctx context.Context, caller access.Caller, at Place, ifMatch Precondition) error {
	if err := caller.Require(access.RegistryWrite); err != nil {
		return err
	}
	err := s.together(ctx, func(ctx context.Context) error { return s.delete(ctx, at, update(ifMatch)) })
	if err != nil {
		return fmt.Errorf("deleting %q of %s: %w", at, at.Hub, err)
	}
	return nil
}

// delete removes an identity in the transaction of ctx.
func (s *Service) delete(ctx context.Context, at Place, allowed rule) error {
	places, err := s.withModules(ctx, at)
	if err != nil {
		return err
	}
	var was *Identity
	var with *Twin
	err = s.registry.Change(ctx, at, func(old *Identity, twin *Twin) (*Identity, *Twin, error) {
		was, with = old, twin
		if err := allowed(at, old); err != nil {
			return nil, nil, err
		}
		if isSystemModule(at.Module) {
			return nil, nil, errs.New(errs.Denied, errs.CodeSystemModule, "The module %s goes with its device.", at.Module)
		}
		return nil, nil, nil
	})
	if err != nil {
		return err
	}
	committed(ctx, func() {
		s.cutAll(places, NewsDeleted)
		s.identityChanged(was, nil, with)
	})
	return nil
}

// withModules returns a place, and with a device those of its modules.
func (s *Service) withModules(ctx context.Context, at Place) ([]Place, error) {
	places := []Place{at}
	if at.Module != "" {
		return places, nil
	}
	modules, err := s.registry.Modules(ctx, at.Hub, at.ID)
	if err != nil {
		return nil, fmt.Errorf("reading the modules of %q: %w", at, err)
	}
	for _, m := range modules {
		places = append(places, m.Place)
	}
	return places, nil
}

// cutAll ends the connections of what is at places.
func (s *Service) cutAll(places []Place, kind NewsKind) {
	for _, at := range places {
		s.cut(at, kind)
	}
}

// together makes one commit of what do writes, and has what is to happen after it
// happen.
func (s *Service) together(ctx context.Context, do func(context.Context) error) error {
	var after []func()
	err := s.registry.Together(ctx, func(ctx context.Context) error {
		after = nil // of an attempt before
		return do(AfterCommit(ctx, &after))
	})
	if err != nil {
		return err
	}
	committed(ctx, func() {
		for _, f := range after {
			f()
		}
	})
	return nil
}

// Twin returns a twin and the identity that its document repeats parts of. It
// takes ServiceConnect.
func (s *Service) Twin(ctx context.Context, caller access.Caller, at Place) (*Identity, *Twin, error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return nil, nil, err
	}
	d, err := s.identityAt(ctx, at)
	if err != nil {
		return nil, nil, err
	}
	twin, err := s.registry.Twin(ctx, at)
	if errs.KindOf(err) == errs.NotFound {
		return nil, nil, notFound(at) // deleted since the line before
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the twin of %q of %s: %w", at, at.Hub, err)
	}
	return d, twin, nil
}

// identity returns what old, nil for a new device, becomes when spec is written
// over it. parent is the device scope of the parent that it says.
func (s *Service) identity(at Place, old *Identity, spec DeviceSpec, parent string) (*Identity, error) {
	d, err := s.written(at, old, spec.Auth)
	if err != nil {
		return nil, err
	}
	if old != nil {
		d.StatusUpdated, d.IoTEdge = old.StatusUpdated, old.IoTEdge
	}
	if wasDisabled := old != nil && old.Disabled; spec.Disabled != wasDisabled {
		d.StatusUpdated = s.now()
	}
	d.Disabled, d.StatusReason = spec.Disabled, spec.StatusReason
	if spec.IoTEdge != nil {
		if d.IoTEdge && !*spec.IoTEdge {
			return nil, invalid("a device that runs IoT Edge remains one: capabilities.iotEdge cannot become false")
		}
		d.IoTEdge = *spec.IoTEdge
	}
	d.ParentScope = parent
	return d, nil
}

// written returns the identity that replaces old, nil for none, as far as devices
// and modules have it in common.
func (s *Service) written(at Place, old *Identity, auth Authentication) (*Identity, error) {
	d := &Identity{Place: at, Auth: auth, GenerationID: generationID(s.now())}
	if old != nil {
		d.GenerationID = old.GenerationID
	}
	if auth.Type == AuthSAS {
		if err := s.completeKeys(&d.Auth); err != nil {
			return nil, err
		}
	}
	var err error
	d.ETag, err = s.newETag()
	return d, err
}

// keySize is the size in bytes of the keys that are made here.
const keySize = 32

// completeKeys makes the keys that are missing.
func (s *Service) completeKeys(auth *Authentication) error {
	for _, k := range []*device.SymmetricKey{&auth.Keys.Primary, &auth.Keys.Secondary} {
		if !k.IsZero() {
			continue
		}
		var err error
		if *k, err = device.GenerateSymmetricKey(s.random, keySize); err != nil {
			return err
		}
	}
	return nil
}

func (spec DeviceSpec) check() error {
	if n := len([]rune(spec.StatusReason)); n > 128 {
		return invalid("statusReason has %d characters; 128 are allowed", n)
	}
	return spec.Auth.check()
}

func (a Authentication) check() error {
	hasKey := !a.Keys.Primary.IsZero() || !a.Keys.Secondary.IsZero()
	hasThumbprint := a.PrimaryThumbprint != "" || a.SecondaryThumbprint != ""
	switch a.Type {
	case AuthSAS, AuthCertificateAuthority, AuthNone:
		if hasThumbprint {
			return invalid("authentication of type %s must not carry thumbprints", a.Type)
		}
	case AuthSelfSigned:
		switch {
		case a.PrimaryThumbprint == "":
			return invalid("authentication of type selfSigned takes a primaryThumbprint")
		case !isThumbprint(a.PrimaryThumbprint), a.SecondaryThumbprint != "" && !isThumbprint(a.SecondaryThumbprint):
			return invalid("a thumbprint is 40 (SHA-1) or 64 (SHA-256) hexadecimal digits")
		}
	default:
		return invalid("authentication type %q is not known; sas, selfSigned, certificateAuthority and none are", a.Type)
	}
	if hasKey && a.Type != AuthSAS {
		return invalid("authentication of type %s must not carry symmetric keys", a.Type)
	}
	return nil
}

func isThumbprint(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

func (a Authentication) equal(b Authentication) bool {
	return a.Type == b.Type && a.Keys.Primary.Equal(b.Keys.Primary) && a.Keys.Secondary.Equal(b.Keys.Secondary) &&
		a.PrimaryThumbprint == b.PrimaryThumbprint && a.SecondaryThumbprint == b.SecondaryThumbprint
}

func alreadyExists(at Place) error {
	if at.Module != "" {
		return errs.New(errs.Conflict, errs.CodeModuleAlreadyExists, "A module with ID '%s' is already registered on the device '%s'.", at.Module, at.ID)
	}
	return errs.New(errs.Conflict, errs.CodeDeviceAlreadyExists, "A device with ID '%s' is already registered.", at)
}
