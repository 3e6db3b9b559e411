package provision

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/attest/tpmid"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// Repetitions of an attempt wait for this long, twice as long each time and with
// up to half of it added by chance, or for as long as the hub asks for.
const (
	firstDelay = 2 * time.Second
	lastDelay  = time.Minute
	askedDelay = 10 * time.Minute // at most
)

// errLost is for who finds that the lease is not his any more.
var errLost = errors.New("the lease is lost")

// finish works once on a registration that is under way, unless somebody else
// does. What comes of it is in the record and in the journal.
func (r *Registrar) finish(ctx context.Context, found *Registration) error {
	held, err := r.lease(ctx, found)
	if err != nil {
		return err
	}
	d := held.decision(r.Now())
	working, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	err = r.work(working, held, &d)
	if err != nil && !errors.Is(err, errLost) {
		// What is written from here on tells no hub anything.
		var release context.CancelFunc
		ctx, release = context.WithTimeout(context.WithoutCancel(ctx), leaseTime-attemptTime)
		defer release()
		err = r.giveBack(ctx, held, err, context.Cause(working), &d)
	}
	if errors.Is(err, errLost) {
		return r.letNext(context.WithoutCancel(ctx), held)
	}
	d.Time = r.Now()
	r.Journal.put(d)
	if r.Finished != nil && err == nil && d.Result != ResultAssigning {
		r.Finished(d.Result, d.Time.Sub(held.Updated))
	}
	return err
}

// lease takes a registration that was found due, or returns errLost.
func (r *Registrar) lease(ctx context.Context, found *Registration) (*Registration, error) {
	var held *Registration
	err := r.Records.ChangeRegistration(ctx, found.Scope, found.Key, func(old *Registration) (*Registration, error) {
		now := r.Now()
		if !found.same(old) || !old.underWay() || old.Pending.Due.After(now) {
			return nil, errLost
		}
		next, pending := *old, *old.Pending
		pending.Lease, pending.Attempts = now.Add(leaseTime), pending.Attempts+1
		pending.Due = pending.Lease
		next.Pending = &pending
		held = &next
		return held, nil
	})
	return held, err
}

// change writes what becomes of a registration while its lease is held, or
// returns errLost. One that has ended is another one to whoever read it before.
func (r *Registrar) change(ctx context.Context, held, next *Registration) error {
	if next.Status != Assigning {
		etag, err := errs.NewUUID(r.Random)
		if err != nil {
			return err
		}
		next.ETag, next.Updated = etag, r.Now()
	}
	return r.Records.ChangeRegistration(ctx, held.Scope, held.Key, func(old *Registration) (*Registration, error) {
		if !held.same(old) {
			return nil, errLost
		}
		return next, nil
	})
}

// giveBack ends an attempt that came to nothing: the next one has its time, or
// there is none.
func (r *Registrar) giveBack(ctx context.Context, held *Registration, failure, cause error, d *Decision) error {
	now := r.Now()
	next, pending := *held, *held.Pending
	next.Pending = &pending
	pending.Lease = time.Time{}
	end := held.Updated.Add(r.GiveUpAfter)
	switch {
	case errors.Is(cause, errStopping):
		pending.Due, pending.Attempts = now, pending.Attempts-1
		d.end(ResultAssigning, ": this server stops; another attempt goes on")
	case !now.Before(end):
		next.giveUp(failure, r.GiveUpAfter, d)
	default:
		delay, err := r.delay(pending.Attempts, failure)
		if err != nil {
			return err
		}
		pending.Due, pending.LastError = now.Add(delay), failure.Error()
		if pending.Due.After(end) {
			pending.Due = end // and not long after
		}
		d.end(ResultAssigning, ": attempt %d failed; the next is at %s", pending.Attempts, pending.Due.UTC().Format(time.RFC3339))
		d.Cause = pending.LastError
	}
	return r.change(ctx, held, &next)
}

// giveUp makes the registration one that failed because nothing helped.
func (r *Registration) giveUp(failure error, after time.Duration, d *Decision) {
	public := *errs.Public(failure)
	if public.Code == 0 {
		public.Code = errs.CodeInternal
	}
	public.Message = fmt.Sprintf("%s (given up after %s)", strings.TrimSuffix(public.Message, "."), after)
	attempts, tried := r.Pending.Attempts, r.Pending.Tried
	r.fail(&public, d)
	d.Cause = fmt.Sprintf("%d attempts failed, the last with: %v", attempts, failure)
	d.Fix = "see to it that the hub can be reached; a device that registers again is taken up again"
	if i := slices.IndexFunc(tried, func(p Place) bool { return p != r.home() }); i >= 0 {
		d.Hub = "an identity may have been left at " + tried[i].Hub
	}
}

// delay is how long to wait after so many attempts.
func (r *Registrar) delay(attempts int, failure error) (time.Duration, error) {
	var chance [8]byte
	if _, err := r.Random.Read(chance[:]); err != nil {
		return 0, fmt.Errorf("drawing a delay: %w", err)
	}
	d := lastDelay
	if doubled := firstDelay << min(max(attempts-1, 0), 20); doubled < lastDelay {
		d = doubled
	}
	d += time.Duration(binary.BigEndian.Uint64(chance[:]) % uint64(d/2))
	return max(d, min(errs.Public(failure).RetryAfter, askedDelay)), nil
}

// letNext tells the registration that took this one's place, and waits for its
// lease to end, that it has: who held it has stopped.
func (r *Registrar) letNext(ctx context.Context, held *Registration) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTime-attemptTime)
	defer cancel()
	var next *Registration
	err := r.Records.ChangeRegistration(ctx, held.Scope, held.Key, func(old *Registration) (*Registration, error) {
		if !old.underWay() || old.OperationID == held.OperationID || !old.Pending.Lease.Equal(held.Pending.Lease) {
			return nil, errLost
		}
		changed, pending := *old, *old.Pending
		pending.Lease, pending.Due = time.Time{}, r.Now()
		changed.Pending = &pending
		next = &changed
		return next, nil
	})
	if err == nil {
		r.hand(next)
	}
	return err
}

// decision begins the story of an attempt.
func (r *Registration) decision(now time.Time) Decision {
	p := r.Pending
	return Decision{
		TrackingID: p.TrackingID, Time: now, Scope: r.Scope, RegistrationID: r.ID,
		Call: "finish", Wire: p.Wire, Remote: p.Remote, Presented: fmt.Sprintf("what it did at %s", r.Updated.UTC().Format(time.RFC3339)),
	}
}

// work does everything that is left of a registration and writes its end. An
// error means that it has none yet. What it notes on the way is also in held.
func (r *Registrar) work(ctx context.Context, held *Registration, d *Decision) error {
	fail := func(err error) error {
		if worthRepeating(err) {
			return err
		}
		next := *held
		next.failBy(err, d)
		return r.change(ctx, held, &next)
	}
	c, err := r.claimant(ctx, held)
	if err != nil {
		return fail(err)
	}
	a, err := r.readmit(ctx, c, held, d)
	if err != nil {
		return fail(err)
	}
	next := *held
	if a.entry.Disabled {
		next.disable(a.entry, d)
		return r.change(ctx, held, &next)
	}
	linked, err := r.Hubs.Linked(ctx, c.scope.ID)
	if err != nil {
		return fmt.Errorf("reading the linked hubs: %w", err)
	}
	choice := held.Pending.Choice
	if choice == nil && c.asks(a, held) {
		if choice, err = r.choose(ctx, c, a, linked, held); err != nil {
			return fail(err)
		}
	}
	to := c.place(a, linked, held, choice, &next, d)
	if to == nil {
		return r.change(ctx, held, &next)
	}
	blob, err := r.credential(a, to)
	if err != nil {
		return err
	}
	if !elsewhere(linked, to.Hub) && !elsewhere(linked, to.From.Hub) && held.Pending.Tried == nil {
		return r.assignHere(ctx, held, &next, to, blob, d)
	}
	// What was chosen is durable before a hub is told: nobody is asked again, and
	// the device can be found.
	if err := r.note(ctx, held, choice, Place{to.Hub, to.DeviceID}); err != nil {
		return err
	}
	to.First = held.home().Hub == ""
	for _, p := range held.Pending.Tried {
		if p != (Place{to.Hub, to.DeviceID}) && p != to.From {
			to.Tried = append(to.Tried, p)
		}
	}
	if err := r.Hubs.AssignElsewhere(ctx, *to); err != nil {
		return r.refused(ctx, held, &next, to, err, d)
	}
	return r.change(ctx, held, next.assigned(to, blob, d))
}

// assignHere makes one commit of the end of a registration and the identity at a
// hub of these servers, whatever made it a slow one.
func (r *Registrar) assignHere(ctx context.Context, held, next *Registration, to *Assignment, blob []byte, d *Decision) error {
	var refusal error
	told := *d
	err := r.Records.Together(ctx, func(ctx context.Context) error {
		if err := r.change(ctx, held, next.assigned(to, blob, &told)); err != nil {
			return err
		}
		refusal = r.Hubs.Assign(ctx, *to)
		return refusal
	})
	switch {
	case err == nil:
		*d = told
		return nil
	case refusal != nil:
		return r.refused(ctx, held, next, to, refusal, d)
	}
	return err
}

// refused ends the registration when the hub has decided that.
func (r *Registrar) refused(ctx context.Context, held, next *Registration, to *Assignment, err error, d *Decision) error {
	if worthRepeating(err) {
		d.Hub = to.Hub + " has not accepted the identity yet"
		return fmt.Errorf("assigning to %s: %w", to.Hub, err)
	}
	next.refuse(to.Hub, err, d)
	return r.change(ctx, held, next)
}

// note keeps what was decided about a registration under way.
func (r *Registrar) note(ctx context.Context, held *Registration, choice *Choice, to Place) error {
	was := held.Pending
	if was.Choice == choice && slices.Contains(was.Tried, to) {
		return nil
	}
	next, pending := *held, *was
	pending.Choice = choice
	if !slices.Contains(was.Tried, to) {
		pending.Tried = append(slices.Clone(was.Tried), to)
	}
	next.Pending = &pending
	if err := r.change(ctx, held, &next); err != nil {
		return err
	}
	*held = next
	return nil
}

// claimant is who made the call that the registration began with.
func (r *Registrar) claimant(ctx context.Context, held *Registration) (claimant, error) {
	p := held.Pending
	scope, err := r.Scopes.Scope(ctx, held.Scope)
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return claimant{}, scopeNotFound()
	case err != nil:
		return claimant{}, fmt.Errorf("reading the scope: %w", err)
	}
	chain, err := x509.ParseCertificates(p.Chain)
	if err != nil {
		return claimant{}, fmt.Errorf("reading the certificates that the device showed: %w", err)
	}
	return claimant{Request{
		Scope: string(held.Scope), ID: held.ID, Credential: attest.Credential{Chain: chain}, Payload: p.Payload,
		APIVersion: p.APIVersion, TrackingID: p.TrackingID, Wire: p.Wire, Remote: p.Remote,
	}, scope, held.Key}, nil
}

// readmit asks again what authenticate did when the device called: its enrollment
// may have been changed, disabled or deleted since. That the device has the key
// that it showed was proved then.
func (r *Registrar) readmit(ctx context.Context, c claimant, held *Registration, d *Decision) (*admission, error) {
	if held.Attestation == attest.TypeX509 {
		return r.authenticate(ctx, c, nil, d)
	}
	entry, err := r.Enrollments.Entry(ctx, c.scope.ID, enroll.Individual, c.key)
	hidden := err == nil && held.GroupID != ""
	if errs.KindOf(err) == errs.NotFound && held.GroupID != "" {
		group, _ := device.ParseRegistrationID(held.GroupID) // it was enrolled
		entry, err = r.Enrollments.Entry(ctx, c.scope.ID, enroll.Group, group)
	}
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return nil, enroll.NotFound()
	case err != nil:
		return nil, fmt.Errorf("reading the enrollment: %w", err)
	}
	d.consider(entry, true, nil)
	a := &admission{entry: entry}
	switch {
	case entry.Disabled:
		return a, nil
	case hidden || entry.Attestation.Type != held.Attestation:
		return nil, attest.Unauthorized().WithCause(errors.New("the device proved itself to another enrollment"))
	case held.Attestation == attest.TypeSymmetricKey:
		a.keys = *entry.Attestation.SymmetricKey
		if entry.Kind == enroll.Group {
			a.keys = symkey.Derive(a.keys, held.Pending.KeyName)
		}
		return a, nil
	}
	a.held = tpmKeys{srk: held.StorageRootKey, ek: held.EndorsementKey}
	keys, v := tpmid.VerifyTemplates(attest.TPM{EndorsementKey: a.held.ek, StorageRootKey: a.held.srk})
	if entry.Kind == enroll.Individual {
		presented := attest.TPM{EndorsementKey: entry.Attestation.TPM.EndorsementKey, StorageRootKey: a.held.srk}
		keys, v = tpmid.VerifyKeys(*entry.Attestation.TPM, presented)
	}
	if !v.Accepted() {
		return nil, v.Refusal
	}
	a.tpm = &keys
	return a, nil
}
