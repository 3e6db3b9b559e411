package postgres

import (
	"context"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectPolicies = "SELECT name, rights, keys FROM policy WHERE owner = $1 ORDER BY lower(name)"
	putPolicy      = `INSERT INTO policy (owner, name, rights, keys) VALUES ($1, $2, $3, $4)
		ON CONFLICT (owner, lower(name)) DO UPDATE SET name = excluded.name, rights = excluded.rights, keys = excluded.keys`
)

// PutPolicy creates or replaces the policy of owner that has p's name, which
// is compared without case.
func (s *Store) PutPolicy(ctx context.Context, owner access.Owner, p access.Policy) error {
	keys, err := s.codec.PolicyKeys(owner, p)
	if err != nil {
		return err
	}
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write(putPolicy, string(owner), p.Name, int64(p.Rights), keys)
		return nil
	})
}

// ChangePolicies implements access.Keeper.
func (s *Store) ChangePolicies(ctx context.Context, owner access.Owner, decide func([]access.Policy) ([]access.Policy, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		var old []access.Policy
		read := s.codec.Policy(owner)
		err := t.read(ctx, reserve("policies of "+string(owner)), query{func(r *record.Row) error {
			p, err := read(r)
			old = append(old, p)
			return err
		}, selectPolicies, []any{string(owner)}})
		if err != nil {
			return err
		}
		change, err := s.codec.PolicyChange(owner, old, decide)
		if err != nil {
			return err
		}
		for _, name := range change.Remove {
			t.write(`DELETE FROM policy WHERE owner = $1 AND lower(name) = lower($2::text COLLATE "C")`, string(owner), name)
		}
		for _, p := range change.Put {
			t.write(putPolicy, string(owner), p.Name, int64(p.Rights), p.Keys)
		}
		return nil
	})
}

// Policies implements access.Policies. Names are ordered without case.
func (s *Store) Policies(ctx context.Context, owner access.Owner) ([]access.Policy, error) {
	return list(ctx, s, s.codec.Policy(owner), selectPolicies, string(owner))
}
