package provision

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/tpm"
)

// pollAfter is what a device is told to wait between polls: what the original
// service says, and what every client accepts.
const pollAfter = 3 * time.Second

// hubKeySize is the size in bytes of the hub keys made for TPM devices. Blobs
// of other sizes would be new to clients.
const hubKeySize = 32

// A Config is what a Registrar works with. All members but Observe are needed.
type Config struct {
	Enrollments EnrollmentReader
	Trust       TrustReader
	Records     Records
	Scopes      Scopes
	Hubs        Hubs
	Secrets     hsm.Deriver // the same on every server of a scope
	Journal     *Journal
	Now         func() time.Time
	Random      io.Reader
	// ChallengeWindow is how long a TPM may at least take to answer; at most
	// it has twice as long.
	ChallengeWindow time.Duration
	// AnswerAtOnce puts the assignment into the answer to the register call.
	// Otherwise a device learns it by polling, as from the original service.
	AnswerAtOnce bool
	// Observe is told what every register call came to.
	Observe func(Result)
}

// A Registrar is the devices' side of the service.
type Registrar struct {
	Config
	turns        turns
	challenged   challenged
	certificates certificates
	tpmGroups    tpmGroups
}

// NewRegistrar returns a registrar.
func NewRegistrar(c Config) *Registrar { return &Registrar{Config: c} }

// Register decides about a device and gives it a home. The record and the
// identity at the hub are durable when it returns without an error.
//
// Errors are of the kinds Invalid (the request), Denied (the credential),
// NotFound (the scope or the enrollment) and Internal.
func (r *Registrar) Register(ctx context.Context, req Request) (Outcome, error) {
	d := r.decision(req, "register")
	out, err := r.register(ctx, req, &d)
	d.conclude(out, err)
	r.Journal.add(d)
	if r.Observe != nil {
		r.Observe(d.Result)
	}
	return out, err
}

func (r *Registrar) register(ctx context.Context, req Request, d *Decision) (Outcome, error) {
	c, err := r.identify(ctx, req)
	if err != nil {
		return Outcome{}, err
	}
	held := r.challenged.recall(c.line())
	if req.Credential.TPM != nil {
		held = []tpmKeys{{srk: req.Credential.TPM.StorageRootKey}}
	}
	a, err := r.authenticate(ctx, c, held, d)
	if a != nil && err != nil {
		challenge, err := r.challenge(c, a)
		return Outcome{Challenge: challenge}, err
	}
	if err != nil {
		return Outcome{}, err
	}
	release, err := r.turns.take(ctx, c.line())
	if err != nil {
		return Outcome{}, fmt.Errorf("waiting for an earlier registration of the device: %w", err)
	}
	defer release()
	return r.admit(ctx, c, a, d)
}

// identify finds the scope and reads the registration ID.
func (r *Registrar) identify(ctx context.Context, req Request) (claimant, error) {
	key, err := device.ParseRegistrationID(req.ID)
	if err != nil {
		return claimant{}, errs.New(errs.Invalid, errs.CodeBadRequest, "registrationId: %v", err)
	}
	id, err := device.ParseIDScope(req.Scope)
	if err != nil {
		return claimant{}, scopeNotFound()
	}
	scope, err := r.Scopes.Scope(ctx, id)
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return claimant{}, scopeNotFound()
	case err != nil:
		return claimant{}, fmt.Errorf("reading the scope: %w", err)
	}
	return claimant{req, scope, key}, nil
}

func scopeNotFound() error {
	return errs.New(errs.NotFound, errs.CodeGenericNotFound, "ID scope not found.")
}

// admit gives a device that proved who it is its home, and records it.
func (r *Registrar) admit(ctx context.Context, c claimant, a *admission, d *Decision) (Outcome, error) {
	before, err := r.Records.Registration(ctx, c.scope.ID, c.key)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return Outcome{}, fmt.Errorf("reading the registration record: %w", err)
	}
	record, err := r.newRecord(c, a, before)
	if err != nil {
		return Outcome{}, err
	}
	if a.entry.Disabled {
		record.Status = Disabled
		d.end(ResultDisabled, ": %s %q is disabled", a.entry.Kind, a.entry.ID)
		d.Fix = fixDisabled(a.entry)
	} else if err := r.assign(ctx, c, a, before, record, d); err != nil {
		return Outcome{}, err
	}
	put := func(*Registration) (*Registration, error) { return record, nil }
	if err := r.Records.ChangeRegistration(ctx, c.scope.ID, c.key, put); err != nil {
		return Outcome{}, fmt.Errorf("writing the registration record: %w", err)
	}
	return r.answer(record), nil
}

// answer is what the register call tells of a finished registration. Clients
// expect every end but a good one from polling.
func (r *Registrar) answer(record *Registration) Outcome {
	if record.Status == Assigned && r.AnswerAtOnce {
		return Outcome{Operation: &Operation{ID: record.OperationID, Registration: *record}}
	}
	return Outcome{Operation: &Operation{
		ID:           record.OperationID,
		Registration: Registration{ID: record.ID, Status: Assigning},
		RetryAfter:   pollAfter,
	}}
}

// newRecord begins the record that takes the place of before (nil when there
// is none).
func (r *Registrar) newRecord(c claimant, a *admission, before *Registration) (*Registration, error) {
	operation, err := r.operationID()
	if err != nil {
		return nil, err
	}
	etag, err := errs.NewUUID(r.Random)
	if err != nil {
		return nil, err
	}
	now := r.Now()
	record := &Registration{
		Scope: c.scope.ID, Key: c.key, ID: c.ID, Attestation: a.entry.Attestation.Type,
		OperationID: operation, ETag: etag, Created: now, Updated: now, StorageRootKey: a.held.srk,
	}
	if a.entry.Kind == enroll.Individual {
		record.ID = a.entry.ID
	} else {
		record.GroupID, record.EndorsementKey = a.entry.ID, a.held.ek
	}
	if before != nil {
		record.Created = before.Created
		record.Hub, record.DeviceID = before.Hub, before.DeviceID // where it lives, whatever comes of this
	}
	return record, nil
}

// operationID has the form of the original's: a shard, sixteen hexadecimal
// digits and a UUID, with nothing that a URL or a topic would have to encode.
func (r *Registrar) operationID() (string, error) {
	var instance [8]byte
	if _, err := io.ReadFull(r.Random, instance[:]); err != nil {
		return "", fmt.Errorf("drawing an operation ID: %w", err)
	}
	id, err := errs.NewUUID(r.Random)
	return "1." + hex.EncodeToString(instance[:]) + "." + id, err
}

// assign chooses a hub, tells it about the device and completes the record. An
// end that the device is to learn by polling is in the record; an error means
// that nothing was decided and the device may ask again.
func (r *Registrar) assign(ctx context.Context, c claimant, a *admission, before, record *Registration, d *Decision) error {
	assignment, reason, err := r.plan(ctx, c, a, before)
	if err != nil {
		return err
	}
	d.Allocation = reason
	if assignment.Hub == "" {
		record.fail(errs.New(errs.Invalid, errs.CodeHubNotSpecified, "No IoT hub is available for this device."), d)
		d.Fix = fixNoHub(a.entry)
		return nil
	}
	if err := r.credential(a, assignment, record); err != nil {
		return err
	}
	err = r.Hubs.Assign(ctx, *assignment)
	if err != nil {
		switch errs.KindOf(err) {
		case errs.Internal, errs.Unavailable, errs.Busy:
			return fmt.Errorf("assigning to %s: %w", assignment.Hub, err)
		}
		record.fail(errs.Public(err), d)
		d.Hub = fmt.Sprintf("%s refused: %v", assignment.Hub, err)
		return nil
	}
	d.Hub = assignment.Hub + " accepted the identity"
	record.Status, record.Hub, record.DeviceID = Assigned, assignment.Hub, assignment.DeviceID
	record.Substatus = substatus(before, assignment)
	d.end(ResultAssigned, " to %s as %s", record.Hub, record.DeviceID)
	return nil
}

// plan says where the device goes; its Hub is empty when there is nowhere.
func (r *Registrar) plan(ctx context.Context, c claimant, a *admission, before *Registration) (*Assignment, string, error) {
	linked, err := r.Hubs.Linked(ctx, c.scope.ID)
	if err != nil {
		return nil, "", fmt.Errorf("reading the linked hubs: %w", err)
	}
	policy, reprovision := a.entry.Allocation, enroll.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}
	if policy == "" {
		policy = c.scope.Allocation
	}
	if a.entry.Reprovision != nil {
		reprovision = *a.entry.Reprovision
	}
	var at Place
	if before != nil {
		at = Place{before.Hub, before.DeviceID}
	}
	next := &Assignment{DeviceID: a.deviceID(c, at), IoTEdge: a.entry.IoTEdge, Twin: a.entry.InitialTwin}
	if at.Hub != "" && !reprovision.UpdateHubAssignment {
		next.Hub = at.Hub
		return next, "the reprovision policy keeps the device where it is", nil
	}
	choice := allocate(policy, candidates(a.entry, linked), c.key, at.Hub, c.Remote)
	next.Hub = choice.Hub
	if at.Hub != "" && at.DeviceID == next.DeviceID && !strings.EqualFold(at.Hub, next.Hub) {
		next.From, next.MigrateTwin = at, reprovision.MigrateDeviceData
	}
	return next, choice.Why, nil
}

// deviceID is the device's name at the hub. A device of a group keeps the
// spelling it first came with: the hub tells cases apart, and this service does
// not.
func (a *admission) deviceID(c claimant, at Place) device.ID {
	switch {
	case a.entry.DeviceID != "":
		return a.entry.DeviceID
	case strings.EqualFold(string(at.DeviceID), c.ID):
		return at.DeviceID
	case a.entry.Kind == enroll.Individual:
		return device.ID(a.entry.ID)
	}
	return device.ID(c.ID)
}

// credential says by what the hub is to know the device. For a TPM it is a key
// made anew at every registration, for what a TPM holds nobody can read back.
func (r *Registrar) credential(a *admission, to *Assignment, record *Registration) error {
	to.Keys, to.Thumbprint = a.keys, a.thumbprint
	if a.tpm == nil {
		return nil
	}
	key, err := device.GenerateSymmetricKey(r.Random, hubKeySize)
	if err != nil {
		return err
	}
	other, err := device.GenerateSymmetricKey(r.Random, hubKeySize)
	if err != nil {
		return err
	}
	to.Keys = attest.SymmetricKeys{Primary: key, Secondary: other}
	record.HubKeyBlob, err = tpm.Activation(r.Random, a.tpm.EndorsementKey, a.tpm.StorageRootKey, key.Bytes(), sealedText(to.Hub+"/devices/"+string(to.DeviceID)))
	if err != nil {
		return fmt.Errorf("sealing the hub key: %w", err)
	}
	return nil
}

func (r *Registration) fail(e *errs.Error, d *Decision) {
	r.Status, r.ErrorCode, r.ErrorMessage = Failed, e.Code, e.Message
	d.end(ResultFailed, ": %s", e.Message)
	d.ErrorCode = e.Code
}

func substatus(before *Registration, to *Assignment) Substatus {
	switch {
	case before == nil || before.Hub == "":
		return InitialAssignment
	case to.From.Hub == "" && before.DeviceID == to.DeviceID:
		return ReprovisionedToInitialAssignment
	case to.From.Hub == "":
		return InitialAssignment
	case to.MigrateTwin:
		return DeviceDataMigrated
	}
	return DeviceDataReset
}

// OperationStatus returns the outcome of a registration the device began.
//
// Errors are those of Register, and NotFound for an operation that is not the
// device's last.
func (r *Registrar) OperationStatus(ctx context.Context, req Request, operationID string) (Outcome, error) {
	d := r.decision(req, "operation status")
	record, err := r.record(ctx, req, &d)
	if err == nil && record.OperationID != operationID {
		err = errs.New(errs.NotFound, errs.CodeOperationNotFound, "Operation not found.")
	}
	if err != nil {
		d.conclude(Outcome{}, err)
		r.Journal.add(d)
		return Outcome{}, err
	}
	return Outcome{Operation: &Operation{ID: record.OperationID, Registration: *record}}, nil
}

// Lookup returns the device's registration record. Its errors are those of
// Register, and NotFound when the device has never registered.
func (r *Registrar) Lookup(ctx context.Context, req Request) (Registration, error) {
	d := r.decision(req, "lookup")
	record, err := r.record(ctx, req, &d)
	if err != nil {
		d.conclude(Outcome{}, err)
		r.Journal.add(d)
		return Registration{}, err
	}
	return *record, nil
}

// record returns the device's record after the device proved who it is, as in
// Register; a TPM device does so with the key of the challenge it answered.
func (r *Registrar) record(ctx context.Context, req Request, d *Decision) (*Registration, error) {
	c, err := r.identify(ctx, req)
	if err != nil {
		return nil, err
	}
	record, notFound := r.Records.Registration(ctx, c.scope.ID, c.key)
	if notFound != nil && errs.KindOf(notFound) != errs.NotFound {
		return nil, fmt.Errorf("reading the registration record: %w", notFound)
	}
	held := recorded(record)
	if heldByGroup(held) {
		// The group judged them when it let the device in; a call that is not to
		// register need not show the certificate again.
		c.Credential.TPM = nil
	}
	if _, err := r.authenticate(ctx, c, held, d); err != nil {
		return nil, err
	}
	return record, notFound
}

// decision begins the story of a call.
func (r *Registrar) decision(req Request, call string) Decision {
	id := req.ID
	if len(id) > 128 {
		id = id[:128]
	}
	scope, _ := device.ParseIDScope(req.Scope)
	return Decision{
		TrackingID: req.TrackingID, Time: r.Now(), Scope: scope, RegistrationID: id,
		Call: call, Wire: req.Wire, Remote: req.Remote, Presented: req.Credential.Describe(),
	}
}

func fixNoHub(e *enroll.Entry) string {
	const allowed = "link a hub that the enrollment allows:"
	switch {
	case e.IoTHub != "":
		return lines(allowed, "berth hub link "+e.IoTHub)
	case len(e.IoTHubs) > 0:
		return lines(allowed, "berth hub link "+e.IoTHubs[0])
	}
	return lines("link a hub, or let one that is linked take part in allocation:", "berth hub link HOST")
}
