package sqlite

import (
	"context"

	"github.com/berth-iot/berth/access"
)

const (
	selectPolicies = "SELECT name, rights, keys FROM policy WHERE owner = ? ORDER BY name"
	putPolicy      = `INSERT INTO policy (owner, name, rights, keys) VALUES (?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET name = excluded.name, rights = excluded.rights, keys = excluded.keys`
)

// PutPolicy creates or replaces the policy of owner that has p's name, which
// is compared without case.
func (s *Store) PutPolicy(ctx context.Context, owner access.Owner, p access.Policy) error {
	keys, err := s.codec.PolicyKeys(owner, p)
	if err != nil {
		return err
	}
	return s.write(ctx, func(t *tx) error {
		return t.exec(putPolicy, string(owner), p.Name, int64(p.Rights), keys)
	})
}

// ChangePolicies implements access.Keeper.
func (s *Store) ChangePolicies(ctx context.Context, owner access.Owner, decide func([]access.Policy) ([]access.Policy, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := all(t.conn, s.codec.Policy(owner), selectPolicies, string(owner))
		if err != nil {
			return err
		}
		change, err := s.codec.PolicyChange(owner, old, decide)
		if err != nil {
			return err
		}
		for _, name := range change.Remove {
			if err := t.exec("DELETE FROM policy WHERE owner = ? AND name = ?", string(owner), name); err != nil {
				return err
			}
		}
		for _, p := range change.Put {
			if err := t.exec(putPolicy, string(owner), p.Name, int64(p.Rights), p.Keys); err != nil {
				return err
			}
		}
		return nil
	})
}

// Policies implements access.Policies. Names are ordered without case.
func (s *Store) Policies(ctx context.Context, owner access.Owner) ([]access.Policy, error) {
	return list(ctx, s, s.codec.Policy(owner), selectPolicies, string(owner))
}
