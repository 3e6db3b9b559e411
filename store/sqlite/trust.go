package sqlite

import (
	"context"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectTrust = "SELECT version, " + record.TrustAnchorMembers + ` FROM
		(SELECT coalesce(max(version), 0) AS version FROM trust_version WHERE scope = ?1)
		LEFT JOIN trust_anchor ON scope = ?1 AND removed IS NULL ORDER BY thumbprint`
	selectTrustVersions = "SELECT " + record.TrustVersionMembers + " FROM trust_version WHERE scope = ? ORDER BY version DESC"
	insertTrustVersion  = "INSERT INTO trust_version (" + record.TrustVersionColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
	insertTrustAnchor   = "INSERT INTO trust_anchor (" + record.TrustAnchorColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
	removeTrustAnchor   = "UPDATE trust_anchor SET removed = ? WHERE scope = ? AND thumbprint = ? AND removed IS NULL"
	countRegistrations  = "SELECT count(*) FROM registration WHERE scope = ? AND group_id = ? AND group_id <> ''"
)

// TrustAnchors implements provision.TrustStore.
func (s *Store) TrustAnchors(ctx context.Context, scope device.IDScope) (*ekcert.Trust, error) {
	return cached(ctx, s, &s.trust, scope, func(ctx context.Context) (*ekcert.Trust, error) {
		now := &ekcert.Trust{}
		return now, s.read(ctx, func(c *conn) error { return c.each(record.Trust(now), selectTrust, string(scope)) })
	})
}

// TrustVersions implements provision.TrustStore.
func (s *Store) TrustVersions(ctx context.Context, scope device.IDScope) ([]ekcert.TrustVersion, error) {
	return list(ctx, s, record.TrustVersion, selectTrustVersions, string(scope))
}

// ChangeTrust implements provision.TrustStore.
func (s *Store) ChangeTrust(ctx context.Context, scope device.IDScope, decide func(ekcert.Trust) (ekcert.TrustChange, error)) error {
	return s.write(ctx, func(t *tx) error {
		t.then(func() { s.trust.Forget(scope) })
		var now ekcert.Trust
		if err := t.each(record.Trust(&now), selectTrust, string(scope)); err != nil {
			return err
		}
		change, err := decide(now)
		if err != nil {
			return err
		}
		next, ok, err := record.NextTrust(now, change)
		if err != nil || !ok {
			return err
		}
		err = t.exec(insertTrustVersion, record.TrustVersionValues(scope, next.Version)...)
		if isForeignKey(err) {
			return record.NoScope().WithCause(err)
		}
		if err != nil {
			return err
		}
		for _, print := range next.Remove {
			if err := t.exec(removeTrustAnchor, next.Version.Version, string(scope), print); err != nil {
				return err
			}
		}
		for _, a := range next.Add {
			if err := t.exec(insertTrustAnchor, record.TrustAnchorValues(scope, a)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// CountRegistrations implements provision.TrustStore.
func (s *Store) CountRegistrations(ctx context.Context, scope device.IDScope, group string) (int, error) {
	var n int64
	err := s.read(ctx, func(c *conn) error { return c.each(record.Count(&n), countRegistrations, string(scope), group) })
	return int(n), err
}
