package postgres

import (
	"context"

	"github.com/berth-iot/berth/access"
)

// PutPolicy creates or replaces the policy of owner that has p's name, which
// is compared without case.
func (s *Store) PutPolicy(ctx context.Context, owner access.Owner, p access.Policy) error {
	keys, err := s.codec.PolicyKeys(owner, p)
	if err != nil {
		return err
	}
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(`INSERT INTO policy (owner, name, rights, keys) VALUES ($1, $2, $3, $4)
			ON CONFLICT (owner, lower(name)) DO UPDATE SET name = excluded.name, rights = excluded.rights, keys = excluded.keys`,
			string(owner), p.Name, int64(p.Rights), keys)
		return nil
	})
}

// Policies implements access.Policies. Names are ordered without case.
func (s *Store) Policies(ctx context.Context, owner access.Owner) ([]access.Policy, error) {
	return list(ctx, s, s.codec.Policy(owner), "SELECT name, rights, keys FROM policy WHERE owner = $1 ORDER BY lower(name)", string(owner))
}
