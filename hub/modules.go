package hub

import (
	"context"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// MaxModules is how many modules a device may have, those of IoT Edge included. It
// is the documented limit.
const MaxModules = 50

// The modules of a device that runs IoT Edge. They come and go with it.
const (
	EdgeAgent device.ID = "$edgeAgent"
	EdgeHub   device.ID = "$edgeHub"
)

// managedByEdge is who manages the modules of IoT Edge.
const managedByEdge = "iotEdge"

// isSystemModule: a dollar sign marks the modules that the hub makes.
func isSystemModule(id device.ID) bool { return strings.HasPrefix(string(id), "$") }

// A ModuleSpec is what may be said about a module; the rest of its identity is the
// registry's. SAS keys that are left out are generated.
type ModuleSpec struct {
	ManagedBy string // at most 128 characters
	Auth      Authentication
}

func (spec ModuleSpec) check() error {
	if n := len([]rune(spec.ManagedBy)); n > 128 {
		return invalid("managedBy has %d characters; 128 are allowed", n)
	}
	return spec.Auth.check()
}

// An Actor is who reads or changes the modules of a device: an operator, or the
// device itself. The zero value may do nothing.
type Actor struct {
	caller access.Caller
	device Place // the device that proved itself, if one did
}

// Operator is an actor with the rights of a shared access policy: RegistryRead to
// read, RegistryWrite to change.
func Operator(caller access.Caller) Actor { return Actor{caller: caller} }

// AuthenticateOwner lets a device in by credentials of its own, to read and change
// its own modules and nothing else. The token of a policy is not one of them: its
// rights are for [Operator].
func (s *Service) AuthenticateOwner(ctx context.Context, h Host, id device.ID, credential attest.Credential, by Approach) (Actor, error) {
	if err := ownCredential(credential); err != nil {
		return Actor{}, err
	}
	from, err := s.Authenticate(ctx, h, id, "", credential, by)
	return Actor{device: from.Place}, err
}

// ownCredential refuses the token of a policy, with which many can speak for a
// device.
func ownCredential(credential attest.Credential) error {
	if credential.Token != nil && credential.Token.KeyName != "" {
		return denied(errs.CodeUnauthorizedAccess, "the token is a policy's, and not the device's own")
	}
	return nil
}

// require refuses an actor who may not use a right on the modules of a device.
func (a Actor) require(right access.Right, of Place) error {
	if a.device != (Place{}) && a.device == of.Device() {
		return nil
	}
	return a.caller.Require(right)
}

// Module returns the identity of a module, keys included.
func (s *Service) Module(ctx context.Context, by Actor, at Place) (*Identity, error) {
	if err := by.require(access.RegistryRead, at); err != nil {
		return nil, err
	}
	m, err := s.identityAt(ctx, at)
	if errs.KindOf(err) == errs.NotFound {
		if _, missing := s.identityAt(ctx, at.Device()); missing != nil {
			return nil, missing
		}
	}
	return m, err
}

// Modules returns the identities of a device's modules, keys included, ordered by
// ID.
func (s *Service) Modules(ctx context.Context, by Actor, of Place) ([]*Identity, error) {
	if err := by.require(access.RegistryRead, of); err != nil {
		return nil, err
	}
	if _, err := s.identityAt(ctx, of); err != nil {
		return nil, err
	}
	modules, err := s.registry.Modules(ctx, of.Hub, of.ID)
	if err != nil {
		return nil, fmt.Errorf("listing the modules of %q of %s: %w", of, of.Hub, err)
	}
	return modules, nil
}

// PutModule creates a module, when there is no precondition, or replaces what may
// be said about an existing one, when its entity tag satisfies the precondition.
//
// Errors: errs.Conflict where a module without a precondition exists;
// errs.Precondition; errs.NotFound for a module, or its device, that does not exist;
// errs.TooLarge with the code of a device that has [MaxModules]; errs.Denied with the
// code of a system module, whose ID begins with a dollar sign: those are not created.
func (s *Service) PutModule(ctx context.Context, by Actor, at Place, spec ModuleSpec, ifMatch Precondition) (*Identity, error) {
	if err := by.require(access.RegistryWrite, at); err != nil {
		return nil, err
	}
	var put *Identity
	err := s.together(ctx, func(ctx context.Context) (err error) {
		put, err = s.putModule(ctx, at, spec, createOrUpdate(ifMatch), nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("writing module %q of %s: %w", at, at.Hub, err)
	}
	return put, nil
}

// DeleteModule removes a module and its twin, when its entity tag satisfies the
// precondition. Those of IoT Edge itself go with their device alone.
func (s *Service) DeleteModule(ctx context.Context, by Actor, at Place, ifMatch Precondition) error {
	if err := by.require(access.RegistryWrite, at); err != nil {
		return err
	}
	err := s.together(ctx, func(ctx context.Context) error { return s.delete(ctx, at, update(ifMatch)) })
	if err != nil {
		return fmt.Errorf("deleting module %q of %s: %w", at, at.Hub, err)
	}
	return nil
}

// putModule writes a module in the transaction of ctx. initial is what the twin of a
// new one starts with, or nil.
func (s *Service) putModule(ctx context.Context, at Place, spec ModuleSpec, allowed rule, initial *InitialTwin) (*Identity, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if _, err := s.identityAt(ctx, at.Device()); err != nil {
		return nil, err
	}
	there, err := s.registry.Modules(ctx, at.Hub, at.ID)
	if err != nil {
		return nil, fmt.Errorf("reading the modules of %q: %w", at.ID, err)
	}
	var put *Identity
	err = s.changeModule(ctx, at, initial, func(old *Identity) (_ *Identity, err error) {
		if err := allowed(at, old); err != nil {
			return nil, err
		}
		if old == nil && isSystemModule(at.Module) {
			return nil, errs.New(errs.Denied, errs.CodeSystemModule, "Modules whose ID begins with $ are made with a device that runs IoT Edge.")
		}
		// Writers at the same moment, on several servers, may exceed it by one each.
		if old == nil && len(there) >= MaxModules {
			return nil, errs.New(errs.TooLarge, errs.CodeTooManyModules, "The device %s has %d modules; no more are allowed", at.ID, len(there))
		}
		if put, err = s.written(at, old, spec.Auth); err != nil {
			return nil, err
		}
		put.ManagedBy = spec.ManagedBy
		return put, nil
	})
	return put, err
}

// changeModule writes what decide makes of a module, in the transaction of ctx.
func (s *Service) changeModule(ctx context.Context, at Place, initial *InitialTwin, decide func(old *Identity) (*Identity, error)) error {
	var before, put *Identity
	var with *Twin
	err := s.registry.Change(ctx, at, func(old *Identity, twin *Twin) (_ *Identity, _ *Twin, err error) {
		if twin == nil {
			twin = s.freshTwin(initial)
		}
		before, with = old, twin
		put, err = decide(old)
		return put, twin, err
	})
	if err != nil {
		return err
	}
	committed(ctx, func() {
		s.identityChanged(before, put, with)
		s.deploying.twin(at, false)
	})
	return nil
}

// addSystemModules makes the modules that a device has which runs IoT Edge, and does
// not have yet, in the transaction of ctx.
func (s *Service) addSystemModules(ctx context.Context, d *Identity) error {
	if !d.IoTEdge {
		return nil
	}
	for _, id := range []device.ID{EdgeAgent, EdgeHub} {
		at := Place{Hub: d.Hub, ID: d.ID, Module: id}
		_, err := s.registry.Identity(ctx, at)
		if err == nil {
			continue
		}
		if errs.KindOf(err) != errs.NotFound {
			return fmt.Errorf("reading module %q: %w", at, err)
		}
		err = s.changeModule(ctx, at, nil, func(old *Identity) (*Identity, error) {
			if old != nil {
				return old, nil
			}
			m, err := s.written(at, nil, Authentication{Type: AuthSAS})
			if err != nil {
				return nil, err
			}
			m.ManagedBy = managedByEdge
			return m, nil
		})
		if err != nil {
			return fmt.Errorf("making module %q: %w", at, err)
		}
	}
	return nil
}
