package provision

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm"
)

// pollAfter is what a device is told to wait between polls: what the original
// service says, and what every client accepts.
const pollAfter = 3 * time.Second

// hubKeySize is the size in bytes of the hub keys made for TPM devices. Blobs
// of other sizes would be new to clients.
const hubKeySize = 32

// A Config is what a Registrar works with. All members but Observe and Finished are
// needed, and Chooser only where enrollments have allocation policy custom.
type Config struct {
	Enrollments EnrollmentReader
	Trust       TrustReader
	Records     Records
	Scopes      Scopes
	Hubs        Hubs
	Chooser     Chooser
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
	// GiveUpAfter is how long a registration may be under way before it fails,
	// because a hub or a webhook is out of reach.
	GiveUpAfter time.Duration
	// Workers is how many registrations Run works on at a time.
	Workers int
	// Observe is told what every register call came to.
	Observe func(Result)
	// Finished is told what a registration came to for which that was assigning, and
	// how long it was under way.
	Finished func(result Result, took time.Duration)
	// Fault is told what keeps Run from its work.
	Fault func(error)
}

// A Registrar is the devices' side of the service.
type Registrar struct {
	Config
	handed       chan *Registration
	challenged   challenged
	certificates certificates
	tpmGroups    tpmGroups
}

// NewRegistrar returns a registrar.
func NewRegistrar(c Config) *Registrar {
	return &Registrar{Config: c, handed: make(chan *Registration, maxHanded)}
}

// Register decides about a device and gives it a home, or begins to. What it
// answers is durable when it returns: the record, and the identity at a hub of
// these servers.
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
	o := &Operation{ID: record.OperationID, Registration: *record}
	if record.Status == Assigning {
		o.RetryAfter = pollAfter
	}
	return Outcome{Operation: o}, nil
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
