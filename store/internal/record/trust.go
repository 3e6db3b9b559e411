package record

import (
	"fmt"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
)

// TrustVersionColumns are in the order in which TrustVersion, after the scope,
// and TrustVersionValues go through them. The first two are the key.
const TrustVersionColumns = "scope, " + TrustVersionMembers

// TrustVersionMembers are what TrustVersion reads.
const TrustVersionMembers = "version, time, policy, source, digest, added, removed"

// TrustVersionValues returns the row of a change of a trust store.
func TrustVersionValues(scope device.IDScope, v ekcert.TrustVersion) []any {
	return []any{string(scope), v.Version, Nanoseconds(v.Time), v.Policy, v.Source, v.Digest, int64(v.Added), int64(v.Removed)}
}

// TrustVersion reads the row of a change of a trust store.
func TrustVersion(r *Row) (ekcert.TrustVersion, error) {
	return ekcert.TrustVersion{
		Version: r.Number(), Time: r.Time(), Policy: r.Text(), Source: r.Text(), Digest: r.Text(),
		Added: int(r.Number()), Removed: int(r.Number()),
	}, nil
}

// TrustAnchorColumns are in the order in which Trust, after the scope, and
// TrustAnchorValues go through them.
const TrustAnchorColumns = "scope, " + TrustAnchorMembers

// TrustAnchorMembers are what Trust reads after the version.
const TrustAnchorMembers = "thumbprint, added, certificate, root, test, vendor, file"

// TrustAnchorValues returns the row of an anchor.
func TrustAnchorValues(scope device.IDScope, a ekcert.TrustAnchor) []any {
	return []any{string(scope), a.Thumbprint, a.Added, a.Certificate, a.Root, a.Test, a.Vendor, a.File}
}

// Trust reads rows of the newest version and an anchor each into t; without any
// anchor there is one row, in which those columns are NULL.
func Trust(t *ekcert.Trust) func(*Row) error {
	return func(r *Row) error {
		t.Version = r.Number()
		a := ekcert.TrustAnchor{
			Thumbprint: r.Text(), Added: r.Number(), Certificate: r.Blob(), Root: r.Flag(), Test: r.Flag(), Vendor: r.Text(), File: r.Text(),
		}
		if a.Thumbprint != "" {
			t.Anchors = append(t.Anchors, a)
		}
		return nil
	}
}

// NextTrust numbers and counts a change of a trust store at the given time; ok is
// false for one that changes nothing. An anchor that is there cannot be added, and
// one that is not there cannot be removed.
func NextTrust(now ekcert.Trust, change ekcert.TrustChange) (next ekcert.TrustChange, ok bool, err error) {
	for _, a := range change.Add {
		if _, there := now.Find(a.Thumbprint); there || a.Thumbprint == "" {
			return next, false, fmt.Errorf("adding the trust anchor %q: it is there, or has no name", a.Thumbprint)
		}
		a.Added = now.Version + 1
		next.Add = append(next.Add, a)
	}
	for _, print := range change.Remove {
		if _, there := now.Find(print); !there {
			return next, false, fmt.Errorf("removing the trust anchor %q: it is not there", print)
		}
	}
	next.Remove, next.Version = change.Remove, change.Version
	next.Version.Version, next.Version.Added, next.Version.Removed = now.Version+1, len(next.Add), len(next.Remove)
	return next, len(next.Add)+len(next.Remove) > 0, nil
}

// Count reads a row with a number.
func Count(n *int64) func(*Row) error {
	return func(r *Row) error { *n = r.Number(); return nil }
}
