package provision

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

// rounds is how often a registration is decided anew because another one of the
// same device was faster.
const rounds = 16

// These end a transaction with nothing written.
var (
	errOvertaken = errors.New("another registration of the device was faster")
	errGoesOn    = errors.New("the registration is under way already")
)

// admit gives a device that proved who it is its home and records it, or begins
// to; see leaseTime.
func (r *Registrar) admit(ctx context.Context, c claimant, a *admission, d *Decision) (Outcome, error) {
	linked, err := r.Hubs.Linked(ctx, c.scope.ID)
	if err != nil {
		return Outcome{}, fmt.Errorf("reading the linked hubs: %w", err)
	}
	for range rounds {
		m, err := r.settle(ctx, c, a, linked, *d)
		if errors.Is(err, errOvertaken) {
			continue
		}
		if m != nil {
			*d = m.story
		}
		if err != nil {
			return Outcome{}, err
		}
		if m.record.underWay() {
			r.hand(m.record)
		}
		return r.answer(m.record), nil
	}
	return Outcome{}, errs.New(errs.Unavailable, errs.CodeUnavailable, "The device registers many times at once; try again later.").WithCause(errOvertaken)
}

// answer is what the register call tells. Clients expect every end but a good
// one from polling.
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

// A draft is what a call comes to when it finds the record before.
type draft struct {
	before *Registration
	record *Registration // what it becomes
	// to is what a hub is told in the same commit, or nil; and refused the record
	// in case that it refuses.
	to      *Assignment
	refused *Registration
	story   Decision
}

// settle decides about the device and writes that, with the identity at a hub of
// these servers, in one commit. The draft that it returns with an error is for
// its story.
func (r *Registrar) settle(ctx context.Context, c claimant, a *admission, linked []LinkedHub, d Decision) (*draft, error) {
	names, err := r.drawNames()
	if err != nil {
		return nil, err
	}
	var ahead *draft
	if c.takesTime(a) {
		before, err := r.Records.Registration(ctx, c.scope.ID, c.key)
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return nil, fmt.Errorf("reading the registration record: %w", err)
		}
		if ahead, err = r.draft(ctx, c, a, linked, names, before, d); err != nil {
			return nil, err
		}
	}
	var m *draft
	var refusal error
	err = r.Records.Together(ctx, func(ctx context.Context) error {
		err := r.Records.ChangeRegistration(ctx, c.scope.ID, c.key, func(old *Registration) (_ *Registration, err error) {
			m = ahead
			switch {
			case ahead == nil:
				if m, err = r.draft(ctx, c, a, linked, names, old, d); err != nil {
					return nil, err
				}
			case !ahead.before.same(old):
				return nil, errOvertaken
			}
			if m.record == m.before {
				return nil, errGoesOn
			}
			return m.record, nil
		})
		if err != nil || m.to == nil {
			return err
		}
		refusal = r.Hubs.Assign(ctx, *m.to)
		return refusal
	})
	switch {
	case err == nil || errors.Is(err, errGoesOn):
		return m, nil
	case errors.Is(err, errOvertaken):
		return nil, err
	case refusal == nil:
		return nil, fmt.Errorf("writing the registration record: %w", err)
	}
	m.story.Hub = ""
	if worthRepeating(refusal) {
		return m, fmt.Errorf("assigning to %s: %w", m.to.Hub, refusal)
	}
	m.record = m.refused
	m.record.refuse(m.to.Hub, refusal, &m.story)
	err = r.Records.ChangeRegistration(ctx, c.scope.ID, c.key, func(old *Registration) (*Registration, error) {
		if !m.before.same(old) {
			return nil, errOvertaken
		}
		return m.record, nil
	})
	if err != nil && !errors.Is(err, errOvertaken) {
		err = fmt.Errorf("writing the registration record: %w", err)
	}
	return m, err
}

// worthRepeating reports whether what failed may succeed later without anybody
// changing something.
func worthRepeating(err error) bool {
	switch errs.KindOf(err) {
	case errs.Internal, errs.Unavailable, errs.Busy:
		return true
	}
	return false
}

// takesTime reports whether a decision about the device is too much work for
// inside a transaction.
func (c claimant) takesTime(a *admission) bool {
	return a.tpm != nil || c.allocation(a) == enroll.Custom
}

// draft says what comes of the call when the record is before, which may be nil.
func (r *Registrar) draft(ctx context.Context, c claimant, a *admission, linked []LinkedHub, names names, before *Registration, d Decision) (*draft, error) {
	now := r.Now()
	m := &draft{before: before, record: c.newRecord(a, names, before, now), story: d}
	if before.underWay() {
		pending := c.pending(a, now)
		if before.isOf(m.record, pending) {
			m.record = before
			m.story.end(ResultAssigning, ", as begun at %s", before.Updated.UTC().Format(time.RFC3339))
			m.story.Cause = before.Pending.LastError
			return m, nil
		}
		pending.Tried = before.Pending.Tried
		if before.leased(now) {
			pending.Lease, pending.Due = before.Pending.Lease, before.Pending.Lease
		}
		if pending.Tried != nil || pending.Due.After(now) {
			m.wait(pending, "a registration before this one is not over")
			return m, nil
		}
	}
	if a.entry.Disabled {
		m.record.disable(a.entry, &m.story)
		return m, nil
	}
	var choice *Choice
	if c.asks(a, before) {
		if a.entry.Custom != nil && a.entry.Custom.WebhookURL != "" {
			m.wait(c.pending(a, now), "a webhook decides about the hub")
			return m, nil
		}
		var err error
		choice, err = r.choose(ctx, c, a, linked, before)
		switch {
		case err == nil:
		case worthRepeating(err):
			return nil, err
		default:
			m.record.failBy(err, &m.story)
			return m, nil
		}
	}
	to := c.place(a, linked, before, choice, m.record, &m.story)
	switch {
	case to == nil:
		return m, nil
	case elsewhere(linked, to.Hub) || elsewhere(linked, to.From.Hub):
		pending := c.pending(a, now)
		pending.Tried = []Place{{to.Hub, to.DeviceID}} // soon, and then it is there already
		m.wait(pending, "a hub elsewhere is to be told: "+to.Hub)
		return m, nil
	}
	blob, err := r.credential(a, to)
	if err != nil {
		return nil, err
	}
	m.to, m.refused = to, m.record
	m.record = m.refused.assigned(to, blob, &m.story)
	return m, nil
}

// wait makes the registration one that is finished later.
func (m *draft) wait(p *Pending, why string) {
	m.record.Status, m.record.Pending = Assigning, p
	m.story.end(ResultAssigning, ": %s", why)
}

// elsewhere reports whether the hub is linked and not one of these servers.
func elsewhere(linked []LinkedHub, host string) bool {
	h, ok := find(linked, host)
	return ok && h.Connection != nil
}

// names are what is drawn for a new record.
type names struct{ operation, etag string }

func (r *Registrar) drawNames() (n names, err error) {
	if n.operation, err = r.operationID(); err != nil {
		return n, err
	}
	n.etag, err = errs.NewUUID(r.Random)
	return n, err
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

// newRecord begins the record that takes the place of before (nil when there
// is none).
func (c claimant) newRecord(a *admission, n names, before *Registration, now time.Time) *Registration {
	record := &Registration{
		Scope: c.scope.ID, Key: c.key, ID: c.ID, Attestation: a.entry.Attestation.Type,
		OperationID: n.operation, ETag: n.etag, Created: now, Updated: now, StorageRootKey: a.held.srk,
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
	return record
}

// allocation is the policy by which the device's hub is chosen.
func (c claimant) allocation(a *admission) enroll.AllocationPolicy {
	if a.entry.Allocation != "" {
		return a.entry.Allocation
	}
	return c.scope.Allocation
}

func (a *admission) reprovision() enroll.ReprovisionPolicy {
	if a.entry.Reprovision != nil {
		return *a.entry.Reprovision
	}
	return enroll.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}
}

// home is where the device of the record lives; it may be nil.
func (r *Registration) home() Place {
	if r == nil {
		return Place{}
	}
	return Place{r.Hub, r.DeviceID}
}

// stays reports whether the reprovision policy keeps the device where it is.
func (a *admission) stays(before *Registration) bool {
	return before.home().Hub != "" && !a.reprovision().UpdateHubAssignment
}

// asks reports whether custom allocation is to choose the hub.
func (c claimant) asks(a *admission, before *Registration) bool {
	return c.allocation(a) == enroll.Custom && !a.stays(before)
}

// choose asks custom allocation.
func (r *Registrar) choose(ctx context.Context, c claimant, a *admission, linked []LinkedHub, before *Registration) (*Choice, error) {
	q := Question{Entry: a.entry, ID: c.ID, Current: before.home(), Payload: c.Payload}
	for _, h := range candidates(a.entry, linked) {
		q.Linked = append(q.Linked, h.Host)
	}
	switch {
	case len(c.Credential.Chain) > 0:
		q.Certificate = c.Credential.Chain[0].Raw
	case a.tpm != nil:
		q.TPM = &attest.TPM{EndorsementKey: a.held.ek, StorageRootKey: a.held.srk}
		if a.entry.Kind == enroll.Individual {
			q.TPM.EndorsementKey = a.entry.Attestation.TPM.EndorsementKey
		}
	}
	choice, err := r.Chooser.Choose(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("asking where the device is to live: %w", err)
	}
	return choice, nil
}

// place says where the device goes and how. choice is what custom allocation
// answered where it was asked. It returns nil when there is nowhere to go; then
// that is in the record.
func (c claimant) place(a *admission, linked []LinkedHub, before *Registration, choice *Choice, record *Registration, d *Decision) *Assignment {
	at := before.home()
	to := &Assignment{Scope: c.scope.ID, DeviceID: a.deviceID(c, at), IoTEdge: a.entry.IoTEdge, Twin: a.entry.InitialTwin}
	if a.stays(before) {
		d.Allocation = "the reprovision policy keeps the device where it is"
		to.Hub = at.Hub
		if _, ok := find(linked, at.Hub); !ok {
			record.fail(errs.New(errs.Invalid, errs.CodeHubNotSpecified, "The device's IoT hub is not linked."), d)
			d.Fix = fixUnlinkedHome(a.entry, at.Hub)
			return nil
		}
		return to
	}
	allowed := candidates(a.entry, linked)
	migrate := a.reprovision().MigrateDeviceData
	if c.asks(a, before) {
		chosen, ok := find(allowed, choice.Hub)
		if !ok {
			allowed = nil
		}
		to.Hub, d.Allocation = chosen.Host, "custom: "+choice.Hub
		record.Payload = choice.Payload
		if choice.Twin != nil {
			to.Twin, migrate = choice.Twin, false
		}
	} else {
		chosen := allocate(c.allocation(a), allowed, c.key, at.Hub, c.Remote)
		to.Hub, d.Allocation = chosen.Hub, chosen.Why
	}
	if to.Hub == "" {
		record.fail(errs.New(errs.Invalid, errs.CodeHubNotSpecified, "No IoT hub is available for this device."), d)
		d.Fix = fixNoHub(a.entry)
		return nil
	}
	if at.Hub != "" && at.DeviceID == to.DeviceID && !strings.EqualFold(at.Hub, to.Hub) {
		to.From, to.MigrateTwin = at, migrate
		if _, ok := find(linked, at.Hub); !ok {
			d.Allocation += fmt.Sprintf("; %s is not linked any more: if it is a hub elsewhere, the identity there stays", at.Hub)
		}
	}
	return to
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
// made anew at every registration, for what a TPM holds nobody can read back; the
// blob is for the device.
func (r *Registrar) credential(a *admission, to *Assignment) (blob []byte, err error) {
	to.Keys, to.Thumbprint = a.keys, a.thumbprint
	if a.tpm == nil {
		return nil, nil
	}
	if to.Keys.Primary, err = device.GenerateSymmetricKey(r.Random, hubKeySize); err != nil {
		return nil, err
	}
	if to.Keys.Secondary, err = device.GenerateSymmetricKey(r.Random, hubKeySize); err != nil {
		return nil, err
	}
	blob, err = tpm.Activation(r.Random, a.tpm.EndorsementKey, a.tpm.StorageRootKey, to.Keys.Primary.Bytes(), sealedText(to.Hub+"/devices/"+string(to.DeviceID)))
	if err != nil {
		return nil, fmt.Errorf("sealing the hub key: %w", err)
	}
	return blob, nil
}

// assigned returns the record of the device when it is at home where it was
// assigned to; r says where it was until then.
func (r *Registration) assigned(to *Assignment, blob []byte, d *Decision) *Registration {
	next := *r
	next.Status, next.Substatus, next.Pending = Assigned, substatus(r.home(), to), nil
	next.Hub, next.DeviceID, next.HubKeyBlob = to.Hub, to.DeviceID, blob
	d.Hub = to.Hub + " accepted the identity"
	d.end(ResultAssigned, " to %s as %s", next.Hub, next.DeviceID)
	return &next
}

func (r *Registration) disable(e *enroll.Entry, d *Decision) {
	r.Status, r.Pending = Disabled, nil
	d.end(ResultDisabled, ": %s %q is disabled", e.Kind, e.ID)
	d.Fix = fixDisabled(e)
}

// refuse makes the registration one that failed at the hub, in its words.
func (r *Registration) refuse(host string, err error, d *Decision) {
	r.fail(errs.Public(err), d)
	d.Hub = fmt.Sprintf("%s refused: %v", host, err)
}

// failBy makes the registration one that failed for a reason that the operator is
// told in full.
func (r *Registration) failBy(err error, d *Decision) {
	r.fail(errs.Public(err), d)
	if cause := errors.Unwrap(errs.Public(err)); cause != nil {
		d.Cause = cause.Error()
	}
}

func (r *Registration) fail(e *errs.Error, d *Decision) {
	r.Status, r.ErrorCode, r.ErrorMessage, r.Pending = Failed, e.Code, e.Message, nil
	d.end(ResultFailed, ": %s", e.Message)
	d.ErrorCode = e.Code
}

func substatus(was Place, to *Assignment) Substatus {
	switch {
	case was.Hub == "":
		return InitialAssignment
	case to.From.Hub == "" && was.DeviceID == to.DeviceID:
		return ReprovisionedToInitialAssignment
	case to.From.Hub == "":
		return InitialAssignment
	case to.MigrateTwin:
		return DeviceDataMigrated
	}
	return DeviceDataReset
}
