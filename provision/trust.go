package provision

import (
	"context"
	"fmt"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// TrustReader is the part of the trust store that registration reads.
type TrustReader interface {
	// TrustAnchors returns what counts in scope; a scope that has no store yet has
	// an empty one. The caller does not change it.
	TrustAnchors(ctx context.Context, scope device.IDScope) (*ekcert.Trust, error)
}

// TrustStore keeps the trust stores of scopes. Each write is durable when it
// returns.
type TrustStore interface {
	TrustReader
	// TrustVersions returns every change of the store of scope, newest first.
	TrustVersions(ctx context.Context, scope device.IDScope) ([]ekcert.TrustVersion, error)
	// ChangeTrust reads the store of scope, lets decide say what to change and
	// makes a version of that, with no other change in between. It numbers the
	// version and the anchors, and counts them. A change that neither adds nor
	// removes anything is not made. An error from decide is returned as it is and
	// nothing is written. decide must not call the store and may be called more
	// than once. In a scope that does not exist the error is of kind errs.NotFound.
	ChangeTrust(ctx context.Context, scope device.IDScope, decide func(ekcert.Trust) (ekcert.TrustChange, error)) error
	// CountRegistrations returns how many registration records were made through
	// an enrollment group.
	CountRegistrations(ctx context.Context, scope device.IDScope, group string) (int, error)
}

// A TrustReport says what a change of a trust store did, or would do.
type TrustReport struct {
	// Version is the store's newest: the one that was made, unless DryRun is set or
	// there was nothing to change.
	Version      int64                 `json:"version"`
	Changed      bool                  `json:"changed"` // whether there was something to change
	DryRun       bool                  `json:"dryRun"`
	Digest       string                `json:"digest"`       // of the certificates it is about; see ekcert.TrustVersion
	Certificates []ekcert.TrustOutcome `json:"certificates"` // without the certificates themselves
	// Groups are the enrollment groups that go by a certificate that is removed.
	Groups []TrustingGroup `json:"groups,omitempty"`
}

// A TrustingGroup is an enrollment group that goes by anchors of the trust store.
type TrustingGroup struct {
	ID string `json:"id"`
	// Loses are the thumbprints of the certificates that stop counting for it, and
	// Keeps of those that it has pinned besides.
	Loses []string `json:"loses,omitempty"`
	Keeps []string `json:"keeps,omitempty"`
	// Devices is how many registered through the group. Which certificate each of
	// them showed is not recorded: no more than these can lose their way back in.
	Devices int `json:"devices"`
}

// TrustAnchors returns the trust store of scope.
func (e *Enroller) TrustAnchors(ctx context.Context, caller access.Caller, scope device.IDScope) (*ekcert.Trust, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	return e.Trust.TrustAnchors(ctx, scope)
}

// TrustVersions returns every change of the trust store of scope, newest first.
func (e *Enroller) TrustVersions(ctx context.Context, caller access.Caller, scope device.IDScope) ([]ekcert.TrustVersion, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	return e.Trust.TrustVersions(ctx, scope)
}

// ImportTrust takes what is fit of an offer into the trust store of scope, in one
// version, and says what became of each certificate. Where all of it is there
// already no version is made. dryRun changes nothing.
func (e *Enroller) ImportTrust(ctx context.Context, caller access.Caller, scope device.IDScope, offer ekcert.Offer, dryRun bool) (*TrustReport, error) {
	return e.changeTrust(ctx, caller, scope, dryRun, func(now ekcert.Trust, at time.Time) (ekcert.TrustChange, []ekcert.TrustOutcome, error) {
		return now.Import(offer, at)
	})
}

// RemoveTrust takes certificates out of the trust store of scope, in one version,
// and says which groups went by them. Devices that are at home at a hub stay
// there, but cannot register again where nothing else vouches for their TPMs.
// source says why, for the history. dryRun changes nothing.
//
// The error is of kind errs.Invalid where a thumbprint is not in the store.
func (e *Enroller) RemoveTrust(ctx context.Context, caller access.Caller, scope device.IDScope, thumbprints []string, source string, dryRun bool) (*TrustReport, error) {
	report, err := e.changeTrust(ctx, caller, scope, dryRun, func(now ekcert.Trust, at time.Time) (ekcert.TrustChange, []ekcert.TrustOutcome, error) {
		return now.Remove(thumbprints, source, at)
	})
	if err != nil {
		return nil, err
	}
	report.Groups, err = e.trusting(ctx, scope, report.Certificates)
	return report, err
}

func (e *Enroller) changeTrust(ctx context.Context, caller access.Caller, scope device.IDScope, dryRun bool,
	judge func(ekcert.Trust, time.Time) (ekcert.TrustChange, []ekcert.TrustOutcome, error)) (*TrustReport, error) {
	if err := caller.Require(access.ServiceConfig); err != nil {
		return nil, err
	}
	report := &TrustReport{DryRun: dryRun}
	decide := func(now ekcert.Trust) (ekcert.TrustChange, error) {
		change, outcomes, err := judge(now, e.Now())
		if err != nil {
			return change, errs.New(errs.Invalid, errs.CodeBadRequest, "%v", err)
		}
		for i := range outcomes {
			outcomes[i].Certificate = nil
		}
		change.Version.Policy = caller.Policy
		report.Version, report.Digest, report.Certificates = now.Version, change.Version.Digest, outcomes
		if report.Changed = len(change.Add)+len(change.Remove) > 0; report.Changed && !dryRun {
			report.Version++
		}
		return change, nil
	}
	if dryRun {
		now, err := e.Trust.TrustAnchors(ctx, scope)
		if err == nil {
			_, err = decide(*now)
		}
		return report, err
	}
	return report, e.Trust.ChangeTrust(ctx, scope, decide)
}

// trusting returns the groups that go by one of the removed anchors, in the order
// of their names.
func (e *Enroller) trusting(ctx context.Context, scope device.IDScope, removed []ekcert.TrustOutcome) ([]TrustingGroup, error) {
	groups, err := e.Store.Groups(ctx, scope, attest.TypeTPM)
	if err != nil {
		return nil, fmt.Errorf("reading the enrollment groups: %w", err)
	}
	var found []TrustingGroup
	for _, g := range groups {
		t := concerns(g, removed)
		if t.Loses == nil && t.Keeps == nil {
			continue
		}
		if t.Devices, err = e.Trust.CountRegistrations(ctx, scope, g.ID); err != nil {
			return nil, fmt.Errorf("counting the devices of %q: %w", g.ID, err)
		}
		found = append(found, t)
	}
	return found, nil
}

// concerns says what the removal of anchors means for a group.
func concerns(g *enroll.Entry, removed []ekcert.TrustOutcome) TrustingGroup {
	t := TrustingGroup{ID: g.ID}
	if g.Attestation.TPMGroup == nil {
		return t
	}
	for _, a := range removed {
		switch refers, pins := ekcert.RefersTo(*g.Attestation.TPMGroup, a.TrustAnchor); {
		case refers && pins:
			t.Keeps = append(t.Keeps, a.Thumbprint)
		case refers:
			t.Loses = append(t.Loses, a.Thumbprint)
		}
	}
	return t
}
