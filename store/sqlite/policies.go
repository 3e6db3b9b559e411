package sqlite

import (
	"context"

	"github.com/berth-iot/berth/access"
)

const selectPolicies = "SELECT name, rights, keys FROM policy WHERE owner = ? ORDER BY name"

// PutPolicy creates or replaces the policy of owner that has p's name, which
// is compared without case.
func (s *Store) PutPolicy(ctx context.Context, owner access.Owner, p access.Policy) error {
	keys, err := s.codec.PolicyKeys(owner, p)
	if err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		return t.exec(`INSERT INTO policy (owner, name, rights, keys) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET name = excluded.name, rights = excluded.rights, keys = excluded.keys`,
			string(owner), p.Name, int64(p.Rights), keys)
	})
}

// Policies implements access.Policies. Names are ordered without case.
func (s *Store) Policies(ctx context.Context, owner access.Owner) ([]access.Policy, error) {
	return list(ctx, s, s.codec.Policy(owner), selectPolicies, string(owner))
}
