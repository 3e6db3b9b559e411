package sqlite

import (
	"context"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/store/internal/record"
)

// learnBatch bounds how many enrollments one transaction learns the keys of.
const learnBatch = 1000

const (
	insertKeyUse  = "INSERT OR IGNORE INTO symmetric_key_use (scope, digest, key) VALUES (?, ?, ?)"
	deleteKeyUse  = "DELETE FROM symmetric_key_use WHERE scope = ? AND digest = ? AND key = ?"
	selectSharers = `SELECT id FROM enrollment WHERE scope = ?1 AND kind = 'individual' AND key IN (
		SELECT DISTINCT key FROM symmetric_key_use WHERE scope = ?1 AND digest IN (?2, ?3) AND key <> ?4 ORDER BY key LIMIT ?5) ORDER BY key`
	selectKeys = `SELECT key, keys FROM enrollment
		WHERE scope = ? AND kind = 'individual' AND key > ? AND keys IS NOT NULL ORDER BY key LIMIT ?`
)

var selectAllSharers = record.SelectSharers("?1")

// SharedKeys implements enroll.Store.
func (s *Store) SharedKeys(ctx context.Context, scope device.IDScope, keys attest.SymmetricKeys, except device.RegistrationID) (ids []string, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		ids, err = sharers(c, scope, s.codec.KeyDigests(scope, keys), except)
		return err
	})
	return ids, err
}

// ListSharedKeys returns up to limit groups of enrollment IDs that have a
// symmetric key in common, each with the first ten of them.
func (s *Store) ListSharedKeys(ctx context.Context, scope device.IDScope, limit int) ([][]string, error) {
	var all record.Sharers
	err := s.read(ctx, func(c *conn) error { return c.each(all.Read, selectAllSharers, string(scope)) })
	return all.Groups(limit), err
}

// sharers returns the IDs of the enrollments other than except that have a key
// with one of the digests, of which there are at most two.
func sharers(c *conn, scope device.IDScope, digests [][]byte, except device.RegistrationID) ([]string, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	return all(c, func(r *record.Row) (string, error) { return r.Text(), nil }, selectSharers,
		string(scope), digests[0], digests[len(digests)-1], string(except), int64(record.MaxSharers))
}

// unshared returns an error when another enrollment has a key with one of the
// digests.
func (t *tx) unshared(scope device.IDScope, key device.RegistrationID, digests [][]byte) error {
	ids, err := sharers(t.conn, scope, digests, key)
	if err == nil && len(ids) > 0 {
		return record.KeyShared(ids)
	}
	return err
}

func (t *tx) rememberKeys(scope device.IDScope, key string, digests [][]byte) error {
	for _, d := range digests {
		if err := t.exec(insertKeyUse, string(scope), d, key); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) forgetKeys(scope device.IDScope, key device.RegistrationID, digests [][]byte) error {
	for _, d := range digests {
		if err := t.exec(deleteKeyUse, string(scope), d, string(key)); err != nil {
			return err
		}
	}
	return nil
}

// learnKeys finds out, once, which keys the enrollments have that an older
// program wrote. Where it is interrupted, it begins anew.
func (s *Store) learnKeys(ctx context.Context) error {
	known, err := s.writer.number("SELECT count(*) FROM symmetric_keys_known")
	if err != nil || known > 0 {
		return err
	}
	scopes, err := all(s.writer, record.Scope, selectScopes)
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		for after, more := "", true; more; {
			if err := ctx.Err(); err != nil {
				return err
			}
			if after, more, err = s.learnMore(scope.ID, after); err != nil {
				return err
			}
		}
	}
	return s.writer.exec("INSERT INTO symmetric_keys_known (id) VALUES (1)")
}

// learnMore learns the keys of the next enrollments after the one with the key
// after, and returns the last one's.
func (s *Store) learnMore(scope device.IDScope, after string) (last string, more bool, err error) {
	uses, err := all(s.writer, s.codec.KeyUse(scope), selectKeys, string(scope), after, int64(learnBatch))
	if err != nil || len(uses) == 0 {
		return "", false, err
	}
	if err := s.writer.exec("BEGIN IMMEDIATE"); err != nil {
		return "", false, err
	}
	t := &tx{conn: s.writer}
	for _, u := range uses {
		if err := t.rememberKeys(scope, u.Key, u.Digests); err != nil {
			s.rollback()
			return "", false, err
		}
	}
	return uses[len(uses)-1].Key, len(uses) == learnBatch, s.writer.exec("COMMIT")
}
