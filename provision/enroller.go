package provision

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// maxGroups is how many enrollment groups of one attestation mechanism a scope
// may have: every registration through a group may have to try them all. It is
// the original's limit.
const maxGroups = 100

// An EnrollerConfig is what an Enroller works with. All members but CheckCustom are
// needed.
type EnrollerConfig struct {
	Store   EnrollmentStore
	Scopes  Scopes
	Records Records
	Trust   TrustStore
	Journal *Journal
	Now     func() time.Time
	Random  io.Reader
	// CheckCustom reports why the Chooser could not work with a definition that is
	// valid in itself. The error may be shown to who wrote it.
	CheckCustom func(*enroll.CustomAllocation) error
}

// EnrollmentStore is what an Enroller needs of the enrollment store.
type EnrollmentStore interface {
	enroll.Store
	enroll.CACertificates
	EnrollmentReader
	// ListSharedKeys returns up to limit groups of IDs of individual enrollments
	// that have a symmetric key in common, each with the first ten of them.
	ListSharedKeys(ctx context.Context, scope device.IDScope, limit int) ([][]string, error)
}

// An Enroller is the operators' side of the service: enrollments, registration
// records and decisions. Every method checks the caller's right before anything
// else; without it the error is of kind errs.Denied.
type Enroller struct{ EnrollerConfig }

// NewEnroller returns an enroller.
func NewEnroller(c EnrollerConfig) *Enroller { return &Enroller{c} }

// Put creates an enrollment (match nil) or updates one whose entity tag match
// accepts, and returns it with its symmetric keys. The errors are those of
// enroll.Change, errs.Invalid for a group that names a CA certificate which is not
// there or not verified, and errs.Conflict for an individual enrollment that gets a
// symmetric key which another one has, where the scope refuses that.
func (e *Enroller) Put(ctx context.Context, caller access.Caller, next *enroll.Entry, match Precondition) (*enroll.Entry, error) {
	if err := caller.Require(access.EnrollmentWrite); err != nil {
		return nil, err
	}
	if err := enroll.Validate(next); err != nil && match == nil {
		return nil, err // what is updated may lean on what is stored; see enroll.Change
	}
	if next.Custom != nil && e.CheckCustom != nil {
		if err := e.CheckCustom(next.Custom); err != nil {
			return nil, errs.New(errs.Invalid, errs.CodeBadRequest, "customAllocationDefinition.%v", err)
		}
	}
	if err := e.checkGroupLimit(ctx, next, match); err != nil {
		return nil, err
	}
	if err := e.checkDeviceID(ctx, next); err != nil {
		return nil, err
	}
	unfit, err := e.unfitReferences(ctx, next)
	if err != nil {
		return nil, err
	}
	var written *enroll.Entry
	change := func(old *enroll.Entry) (_ *enroll.Entry, err error) {
		if written, err = enroll.Change(old, next, match, e.Now(), e.Random); err != nil {
			return nil, err
		}
		return written, checkReferences(old, next, unfit)
	}
	write, err := e.writer(ctx, next)
	if err != nil {
		return nil, err
	}
	if err := write(ctx, next.Scope, next.Kind, next.Key(), change); err != nil {
		return nil, err
	}
	return written, nil
}

// writer returns what writes an enrollment as its scope wants it.
func (e *Enroller) writer(ctx context.Context, next *enroll.Entry) (write func(context.Context, device.IDScope, enroll.Kind, device.RegistrationID, func(*enroll.Entry) (*enroll.Entry, error)) error, err error) {
	if !ownsKey(next) {
		return e.Store.ChangeEntry, nil
	}
	scope, err := e.Scopes.Scope(ctx, next.Scope)
	if err != nil {
		return nil, fmt.Errorf("reading the scope %s: %w", next.Scope, err)
	}
	if scope.SharedKeys == RefuseSharedKeys {
		return e.Store.ChangeEntryUnshared, nil
	}
	return e.Store.ChangeEntry, nil
}

// ownsKey reports whether an enrollment has a symmetric key that should be no
// other's.
func ownsKey(e *enroll.Entry) bool {
	return e.Kind == enroll.Individual && e.Attestation.Type == attest.TypeSymmetricKey
}

// SharedWith returns the IDs of up to ten other individual enrollments that have a
// symmetric key of e, which was just put.
func (e *Enroller) SharedWith(ctx context.Context, caller access.Caller, entry *enroll.Entry) ([]string, error) {
	if err := caller.Require(access.EnrollmentWrite); err != nil {
		return nil, err
	}
	if !ownsKey(entry) || entry.Attestation.SymmetricKey == nil {
		return nil, nil
	}
	return e.Store.SharedKeys(ctx, entry.Scope, *entry.Attestation.SymmetricKey, entry.Key())
}

// SharedKeys returns up to limit groups of IDs of individual enrollments that have
// a symmetric key in common, each with the first ten of them: whoever opens one such
// device can speak for the others.
func (e *Enroller) SharedKeys(ctx context.Context, caller access.Caller, scope device.IDScope, limit int) ([][]string, error) {
	if err := caller.Require(access.EnrollmentRead); err != nil {
		return nil, err
	}
	return e.Store.ListSharedKeys(ctx, scope, limit)
}

// PutEndorsementKeys gives a TPM group its list of endorsement keys, in place of
// the one it may have, and returns the group. match may be nil.
//
// Errors are those of enroll.Change, and errs.Invalid for a group of another
// attestation mechanism.
func (e *Enroller) PutEndorsementKeys(ctx context.Context, caller access.Caller, scope device.IDScope, group string, list *ekcert.List, match Precondition) (*enroll.Entry, error) {
	if err := caller.Require(access.EnrollmentWrite); err != nil {
		return nil, err
	}
	key, err := parseID(enroll.Group, group)
	if err != nil {
		return nil, err
	}
	if match == nil {
		match = func(string) bool { return true }
	}
	stored := list.Stored()
	var written *enroll.Entry
	change := func(old *enroll.Entry) (_ *enroll.Entry, err error) {
		if old == nil {
			return nil, enroll.NotFound()
		}
		if old.Attestation.TPMGroup == nil {
			return nil, errs.New(errs.Invalid, errs.CodeBadRequest, "attestation.type: is %s; endorsement keys are for a tpm group", old.Attestation.Type)
		}
		next, changed := *old, *old.Attestation.TPMGroup
		changed.List = stored
		next.Attestation.TPMGroup = &changed
		written, err = enroll.Change(old, &next, match, e.Now(), e.Random)
		return written, err
	}
	if err := e.Store.ChangeEntry(ctx, scope, enroll.Group, key, change); err != nil {
		return nil, err
	}
	return written, nil
}

func (e *Enroller) checkGroupLimit(ctx context.Context, next *enroll.Entry, match Precondition) error {
	if next.Kind != enroll.Group || match != nil {
		return nil
	}
	groups, err := e.Store.Groups(ctx, next.Scope, next.Attestation.Type)
	if err != nil {
		return err
	}
	if len(groups) >= maxGroups {
		if _, err := e.Store.Entry(ctx, next.Scope, enroll.Group, next.Key()); err == nil {
			return nil // the change says that it exists
		}
		return errs.New(errs.Invalid, errs.CodeBadRequest, "enrollmentGroupId: there are %d %s groups already; %d are allowed", len(groups), next.Attestation.Type, maxGroups)
	}
	return nil
}

// checkDeviceID keeps a device that has a home from being renamed there.
func (e *Enroller) checkDeviceID(ctx context.Context, next *enroll.Entry) error {
	if next.Kind != enroll.Individual {
		return nil
	}
	record, err := e.Records.Registration(ctx, next.Scope, next.Key())
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return nil
	case err != nil:
		return err
	case record.DeviceID == "" || record.DeviceID == next.DeviceID:
		return nil
	case next.DeviceID == "" && strings.EqualFold(string(record.DeviceID), next.ID):
		return nil // the name it has anyway, in the spelling it first came with
	}
	return errs.New(errs.Invalid, errs.CodeBadRequest, "deviceId: the device has registered as %q; delete its registration record first", record.DeviceID)
}

// Entry returns an enrollment, or an error of kind errs.NotFound.
func (e *Enroller) Entry(ctx context.Context, caller access.Caller, scope device.IDScope, kind enroll.Kind, id string) (*enroll.Entry, error) {
	if err := caller.Require(access.EnrollmentRead); err != nil {
		return nil, err
	}
	key, err := parseID(kind, id)
	if err != nil {
		return nil, err
	}
	entry, err := e.Store.Entry(ctx, scope, kind, key)
	if errs.KindOf(err) == errs.NotFound {
		return nil, enroll.NotFound()
	}
	return entry, err
}

// Delete removes an enrollment if match (which may be nil) accepts its entity
// tag. Registration records and hub identities stay.
func (e *Enroller) Delete(ctx context.Context, caller access.Caller, scope device.IDScope, kind enroll.Kind, id string, match Precondition) error {
	if err := caller.Require(access.EnrollmentWrite); err != nil {
		return err
	}
	key, err := parseID(kind, id)
	if err != nil {
		return err
	}
	return e.Store.ChangeEntry(ctx, scope, kind, key, func(old *enroll.Entry) (*enroll.Entry, error) {
		return nil, enroll.Remove(old, match)
	})
}

// Entries returns a page of enrollments ordered by key.
func (e *Enroller) Entries(ctx context.Context, caller access.Caller, scope device.IDScope, kind enroll.Kind, page Page) ([]*enroll.Entry, error) {
	if err := caller.Require(access.EnrollmentRead); err != nil {
		return nil, err
	}
	return e.Store.Entries(ctx, scope, kind, device.RegistrationID(page.After), page.Limit)
}

// AttestationMechanism returns what an enrollment expects, with its symmetric
// keys.
func (e *Enroller) AttestationMechanism(ctx context.Context, caller access.Caller, scope device.IDScope, kind enroll.Kind, id string) (attest.Mechanism, error) {
	entry, err := e.Entry(ctx, caller, scope, kind, id)
	if err != nil {
		return attest.Mechanism{}, err
	}
	return entry.Attestation, nil
}

// Registration returns a registration record, or an error of kind
// errs.NotFound.
func (e *Enroller) Registration(ctx context.Context, caller access.Caller, scope device.IDScope, id string) (*Registration, error) {
	if err := caller.Require(access.RegistrationStatusRead); err != nil {
		return nil, err
	}
	key, err := parseID(enroll.Individual, id)
	if err != nil {
		return nil, err
	}
	record, err := e.Records.Registration(ctx, scope, key)
	if errs.KindOf(err) == errs.NotFound {
		return nil, recordNotFound()
	}
	return record, err
}

// DeleteRegistration removes a registration record if match (which may be nil)
// accepts its entity tag. The device's identity at the hub stays. While a hub is
// being told about the device, the error is of kind errs.Conflict.
func (e *Enroller) DeleteRegistration(ctx context.Context, caller access.Caller, scope device.IDScope, id string, match Precondition) error {
	if err := caller.Require(access.RegistrationStatusWrite); err != nil {
		return err
	}
	key, err := parseID(enroll.Individual, id)
	if err != nil {
		return err
	}
	return e.Records.ChangeRegistration(ctx, scope, key, func(old *Registration) (*Registration, error) {
		switch {
		case old == nil:
			return nil, recordNotFound()
		case match != nil && !match(old.ETag):
			return nil, errs.New(errs.Precondition, errs.CodePrecondition, "The etag is not the current one; read the registration again.")
		case old.leased(e.Now()):
			return nil, errs.New(errs.Conflict, errs.CodeConflict, "The device is being assigned at this moment; try again in two minutes.")
		}
		return nil, nil
	})
}

// Registrations returns a page of the records made through an enrollment
// group, ordered by key. The group need not exist any more.
func (e *Enroller) Registrations(ctx context.Context, caller access.Caller, scope device.IDScope, group string, page Page) ([]*Registration, error) {
	if err := caller.Require(access.RegistrationStatusRead); err != nil {
		return nil, err
	}
	if _, err := parseID(enroll.Group, group); err != nil {
		return nil, err
	}
	return e.Records.Registrations(ctx, scope, group, device.RegistrationID(page.After), page.Limit)
}

// Decisions returns what was decided about a registration ID, or in the call
// with a tracking ID, newest first. Only the last decisions are remembered.
func (e *Enroller) Decisions(_ context.Context, caller access.Caller, scope device.IDScope, id string) ([]Decision, error) {
	if err := caller.Require(access.RegistrationStatusRead); err != nil {
		return nil, err
	}
	return e.Journal.find(scope, id), nil
}

func recordNotFound() error {
	return errs.New(errs.NotFound, errs.CodeRegistrationNotFound, "Registration not found.")
}

// parseID reads the ID of a path.
func parseID(kind enroll.Kind, id string) (device.RegistrationID, error) {
	key, err := device.ParseRegistrationID(id)
	if err != nil {
		name := "registrationId"
		if kind == enroll.Group {
			name = "enrollmentGroupId"
		}
		return "", errs.New(errs.Invalid, errs.CodeBadRequest, "%s: %s", name, fmt.Sprint(err))
	}
	return key, nil
}
