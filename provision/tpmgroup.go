package provision

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/attest/tpmid"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// authenticateByTPMGroup tries every TPM group in order: a device does not name
// its group, and the first that knows its endorsement key governs it, disabled or
// not.
func (r *Registrar) authenticateByTPMGroup(ctx context.Context, c claimant, groups []*enroll.Entry, held []tpmKeys, d *Decision) (*admission, error) {
	if c.Credential.TPM == nil {
		return r.authenticateHeld(ctx, c, groups, held, d)
	}
	presented := *c.Credential.TPM
	evidence := ekcert.ReadEvidence(presented.EndorsementKey, c.Credential.EKCertificate, c.Credential.EKChain)
	refusal := attest.Unauthorized()
	trusting := false
	for _, g := range groups {
		judge, err := r.judgeOf(ctx, g)
		if err != nil {
			return nil, err
		}
		trusting = trusting || judge.group.Trust != ""
		known, v := judge.group.Admit(evidence, c.ID, r.Now())
		if !known {
			d.consider(g, false, v.Findings)
			refusal = v.Refusal
			continue
		}
		if !v.Accepted() {
			d.consider(g, true, v.Findings)
			d.Fix = fixRefused(c, g, v)
			return nil, v.Refusal
		}
		return r.challengeOf(c, g, tpmKeys{
			srk: presented.StorageRootKey, ek: presented.EndorsementKey, group: g.Key(), then: judge.version,
		}, v.Findings, d)
	}
	d.Fix = fixUnknownTPM(c, trusting)
	return nil, refusal
}

// authenticateHeld is for calls that hold no TPM keys: a poll, and the answer of
// a client that leaves them out of it. The keys are those that the group took in
// before, and the group must still be there. One that was changed since the
// challenge, or whose trust store was, may have other rules by now: the device
// shows itself again.
func (r *Registrar) authenticateHeld(ctx context.Context, c claimant, groups []*enroll.Entry, held []tpmKeys, d *Decision) (*admission, error) {
	err := error(attest.Unauthorized())
	for _, k := range held {
		i := slices.IndexFunc(groups, func(g *enroll.Entry) bool { return g.Key() == k.group })
		if i < 0 {
			continue
		}
		if k.then != (groupVersion{}) {
			now, err := r.versionOf(ctx, groups[i])
			if err != nil {
				return nil, err
			}
			if now != k.then {
				continue
			}
		}
		var a *admission
		if a, err = r.challengeOf(c, groups[i], k, nil, d); err == nil {
			return a, nil
		}
	}
	return nil, err
}

// challengeOf holds the token against the challenges of a TPM that g admits. The
// error comes with an admission where another challenge could still prove it.
func (r *Registrar) challengeOf(c claimant, g *enroll.Entry, k tpmKeys, findings []attest.Finding, d *Decision) (*admission, error) {
	keys, v := tpmid.VerifyTemplates(attest.TPM{EndorsementKey: k.ek, StorageRootKey: k.srk})
	var a *admission
	if v.Accepted() {
		token, err := r.verifyToken(c, keys)
		if err != nil {
			return nil, err
		}
		a = &admission{entry: g, tpm: &keys, held: k}
		v.Findings, v.Refusal = append(v.Findings, token.Findings...), token.Refusal
	}
	v.Findings = append(findings, v.Findings...)
	d.consider(g, true, v.Findings)
	if v.Accepted() {
		return a, nil
	}
	d.Fix = fixRefused(c, g, v)
	return a, v.Refusal
}

// tpmGroups keeps TPM groups as they judge: reading a list of a hundred thousand
// keys, or a trust store of hundreds of certificates, takes longer than everything
// else about a registration. The zero value is ready.
type tpmGroups struct {
	// mu guards the rest. It is held while a list is read, so that those who wait
	// for the same one read it once.
	mu     sync.Mutex
	known  map[line]tpmGroup
	trusts map[device.IDScope]trustSet
}

type tpmGroup struct {
	version groupVersion
	group   ekcert.Group
}

// A trustSet is the trust store of a scope as it was at a version.
type trustSet struct {
	version int64
	set     ekcert.TrustSet
}

// A groupVersion says what a TPM group knew at a time: its entity tag, and the
// version of the trust store where it refers to that. Its zero value is no time.
type groupVersion struct {
	etag  string
	trust int64
}

// refersToTrust reports whether the trust store counts for g.
func refersToTrust(g *enroll.Entry) bool {
	t := g.Attestation.TPMGroup
	return t != nil && (t.Trusted || t.TrustedTest)
}

// trustOf returns the trust store that counts for g: an empty one where none does.
func (r *Registrar) trustOf(ctx context.Context, g *enroll.Entry) (*ekcert.Trust, error) {
	if !refersToTrust(g) {
		return &ekcert.Trust{}, nil
	}
	trust, err := r.Trust.TrustAnchors(ctx, g.Scope)
	if err != nil {
		return nil, fmt.Errorf("reading the trust store: %w", err)
	}
	return trust, nil
}

func (r *Registrar) versionOf(ctx context.Context, g *enroll.Entry) (groupVersion, error) {
	trust, err := r.trustOf(ctx, g)
	if err != nil {
		return groupVersion{}, err
	}
	return groupVersion{g.ETag, trust.Version}, nil
}

// judgeOf returns what g knows of its TPMs.
func (r *Registrar) judgeOf(ctx context.Context, g *enroll.Entry) (tpmGroup, error) {
	trust, err := r.trustOf(ctx, g)
	if err != nil {
		return tpmGroup{}, err
	}
	return r.tpmGroups.judge(ctx, r.Enrollments, g, trust)
}

func (t *tpmGroups) judge(ctx context.Context, from EnrollmentReader, g *enroll.Entry, trust *ekcert.Trust) (tpmGroup, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, version := line{g.Scope, g.Key()}, groupVersion{g.ETag, trust.Version}
	if known, ok := t.known[at]; ok && known.version == version {
		return known, nil
	}
	group, err := readTPMGroup(ctx, from, g)
	if err != nil {
		return tpmGroup{}, fmt.Errorf("reading the TPM group %q: %w", g.ID, err)
	}
	if refersToTrust(g) {
		*group.Policy, group.Trust = t.parsed(g.Scope, trust).Extend(*group.Policy)
	}
	if t.known == nil || len(t.known) >= 2*maxGroups { // some of them were deleted
		t.known = make(map[line]tpmGroup)
	}
	t.known[at] = tpmGroup{version, group}
	return t.known[at], nil
}

// parsed reads the certificates of a trust store once for all groups. The caller
// holds mu.
func (t *tpmGroups) parsed(scope device.IDScope, trust *ekcert.Trust) ekcert.TrustSet {
	known, ok := t.trusts[scope]
	if !ok || known.version != trust.Version {
		if t.trusts == nil {
			t.trusts = make(map[device.IDScope]trustSet) // as many as there are scopes
		}
		known = trustSet{trust.Version, trust.Parse()}
		t.trusts[scope] = known
	}
	return known.set
}

func readTPMGroup(ctx context.Context, from EnrollmentReader, g *enroll.Entry) (group ekcert.Group, err error) {
	if g.Attestation.TPMGroup == nil {
		return group, nil
	}
	if group.Policy, err = ekcert.ParsePolicy(*g.Attestation.TPMGroup); err != nil {
		return group, err
	}
	list := g.Attestation.TPMGroup.List
	switch {
	case list == nil:
		return group, nil
	case list.Count == 0:
		group.List = &ekcert.List{}
		return group, nil
	}
	keys, err := from.EndorsementKeys(ctx, g.Scope, g.Key())
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return group, err
	}
	if err == nil {
		group.List, err = ekcert.ParseStored(*list, keys)
	}
	if err != nil {
		// It was replaced after g was read; who asks again reads the new one.
		return group, errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The enrollment group is being changed; try again.").WithCause(err)
	}
	return group, nil
}

// heldByGroup reports whether keys are those of a device of a TPM group.
func heldByGroup(keys []tpmKeys) bool {
	return slices.ContainsFunc(keys, func(k tpmKeys) bool { return k.ek != nil })
}

// recorded returns the TPM keys that a device registered with last.
func recorded(r *Registration) []tpmKeys {
	if r == nil || r.StorageRootKey == nil {
		return nil
	}
	k := tpmKeys{srk: r.StorageRootKey}
	if r.EndorsementKey != nil {
		k.ek = r.EndorsementKey
		k.group, _ = device.ParseRegistrationID(r.GroupID)
	}
	return []tpmKeys{k}
}
