package postgres

import (
	"context"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// lockScope keeps changes of one trust store apart, also the first, which finds
	// no row of the store to lock.
	lockScope   = "SELECT id FROM scope WHERE id = $1 FOR NO KEY UPDATE"
	selectTrust = "SELECT version, " + record.TrustAnchorMembers + ` FROM
		(SELECT coalesce(max(version), 0) AS version FROM trust_version WHERE scope = $1) AS newest
		LEFT JOIN trust_anchor ON scope = $1 AND removed IS NULL ORDER BY thumbprint`
	selectTrustVersions = "SELECT " + record.TrustVersionMembers + " FROM trust_version WHERE scope = $1 ORDER BY version DESC"
	removeTrustAnchor   = "UPDATE trust_anchor SET removed = $1 WHERE scope = $2 AND thumbprint = $3 AND removed IS NULL"
	countRegistrations  = `SELECT count(*) FROM registration
		WHERE scope = $1 AND lower(group_id) = lower($2::text COLLATE "C") AND group_id <> ''`
)

var (
	insertTrustVersion = insert("trust_version", record.TrustVersionColumns)
	insertTrustAnchor  = insert("trust_anchor", record.TrustAnchorColumns)
)

// TrustAnchors implements provision.TrustStore.
func (s *Store) TrustAnchors(ctx context.Context, scope device.IDScope) (*ekcert.Trust, error) {
	return cached(ctx, s, &s.trust, scope, func(ctx context.Context) (*ekcert.Trust, error) {
		now := &ekcert.Trust{}
		return now, s.query(ctx, record.Trust(now), selectTrust, string(scope))
	})
}

// TrustVersions implements provision.TrustStore.
func (s *Store) TrustVersions(ctx context.Context, scope device.IDScope) ([]ekcert.TrustVersion, error) {
	return list(ctx, s, record.TrustVersion, selectTrustVersions, string(scope))
}

// ChangeTrust implements provision.TrustStore.
func (s *Store) ChangeTrust(ctx context.Context, scope device.IDScope, decide func(ekcert.Trust) (ekcert.TrustChange, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		t.then(func() { s.trust.Forget(scope) })
		var now ekcert.Trust
		exists := false
		err := t.read(ctx,
			query{func(*record.Row) error { exists = true; return nil }, lockScope, []any{string(scope)}},
			query{record.Trust(&now), selectTrust, []any{string(scope)}})
		if err != nil {
			return err
		}
		if !exists {
			return record.NoScope()
		}
		change, err := decide(now)
		if err != nil {
			return err
		}
		next, ok, err := record.NextTrust(now, change)
		if err != nil || !ok {
			return err
		}
		t.write(insertTrustVersion, record.TrustVersionValues(scope, next.Version)...)
		for _, print := range next.Remove {
			t.write(removeTrustAnchor, next.Version.Version, string(scope), print)
		}
		for _, a := range next.Add {
			t.write(insertTrustAnchor, record.TrustAnchorValues(scope, a)...)
		}
		t.changed()
		return nil
	})
}

// CountRegistrations implements provision.TrustStore.
func (s *Store) CountRegistrations(ctx context.Context, scope device.IDScope, group string) (int, error) {
	var n int64
	err := s.query(ctx, record.Count(&n), countRegistrations, string(scope), group)
	return int(n), err
}
