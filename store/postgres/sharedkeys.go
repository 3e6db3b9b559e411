package postgres

import (
	"context"
	"encoding/binary"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/store/internal/record"
)

// learnBatch bounds how many enrollments one transaction learns the keys of, and
// locks.
const learnBatch = 1000

const (
	insertKeyUse  = "INSERT INTO symmetric_key_use (scope, digest, key) SELECT $1, d, $2 FROM unnest($3::bytea[]) AS d ON CONFLICT DO NOTHING"
	deleteKeyUse  = "DELETE FROM symmetric_key_use WHERE scope = $1 AND key = $2 AND digest = ANY($3::bytea[])"
	learnKeyUse   = "INSERT INTO symmetric_key_use (scope, digest, key) SELECT $1, d, k FROM unnest($2::bytea[], $3::text[]) AS u (d, k) ON CONFLICT DO NOTHING"
	selectSharers = "SELECT DISTINCT key FROM symmetric_key_use WHERE scope = $1 AND digest = ANY($2::bytea[]) AND key <> $3 ORDER BY key LIMIT $4"
	selectKeysOf  = "SELECT id, key, keys FROM enrollment WHERE scope = $1 AND kind = 'individual' AND key = ANY($2::text[]) ORDER BY key"
	selectKeys    = `SELECT key, keys FROM enrollment
		WHERE scope = $1 AND kind = 'individual' AND key > $2 AND keys IS NOT NULL ORDER BY key LIMIT $3 FOR SHARE`
)

var selectAllSharers = record.SelectSharers("$1")

// SharedKeys implements enroll.Store.
func (s *Store) SharedKeys(ctx context.Context, scope device.IDScope, keys attest.SymmetricKeys, except device.RegistrationID) ([]string, error) {
	digests := s.codec.KeyDigests(scope, keys)
	if len(digests) == 0 {
		return nil, nil
	}
	return s.sharers(scope, digests, except, func(q query) error { return s.query(ctx, q.use, q.sql, q.args...) })
}

// ListSharedKeys returns up to limit groups of enrollment IDs that have a
// symmetric key in common, each with the first ten of them.
func (s *Store) ListSharedKeys(ctx context.Context, scope device.IDScope, limit int) ([][]string, error) {
	var all record.Sharers
	err := s.query(ctx, all.Read, selectAllSharers, string(scope))
	return all.Groups(limit), err
}

// sharers returns the IDs of the enrollments other than except that have a key
// with one of the digests. It asks for their keys first, and mostly there are
// none: of a join the server might make something slow while the tables grow.
// Whom a server of schema 1 gave another key meanwhile is not meant any more.
func (s *Store) sharers(scope device.IDScope, digests [][]byte, except device.RegistrationID, ask func(query) error) (ids []string, err error) {
	var keys []string
	err = ask(query{
		func(r *record.Row) error { keys = append(keys, r.Text()); return nil },
		selectSharers, []any{string(scope), digests, string(except), int64(record.MaxSharers)},
	})
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	read := s.codec.KeyUse(scope)
	err = ask(query{func(r *record.Row) error {
		id := r.Text()
		use, err := read(r)
		if len(record.KeysWithout(digests, use.Digests)) < len(digests) {
			ids = append(ids, id)
		}
		return err
	}, selectKeysOf, []any{string(scope), keys}})
	return ids, err
}

// unshared returns an error when another enrollment has a key with one of the
// digests, and keeps others from getting one until the transaction ends.
func (s *Store) unshared(ctx context.Context, t *tx, scope device.IDScope, key device.RegistrationID, digests [][]byte) error {
	if len(digests) == 0 {
		return nil
	}
	var reads []query
	for _, d := range digests { // in their order, so that nobody waits in a circle
		lock := int64(binary.BigEndian.Uint64(d))
		reads = append(reads, query{func(*record.Row) error { return nil }, "SELECT pg_advisory_xact_lock($1)", []any{lock}})
	}
	ids, err := s.sharers(scope, digests, key, func(q query) error {
		err := t.read(ctx, append(reads, q)...)
		reads = nil
		return err
	})
	if err == nil && len(ids) > 0 {
		return record.KeyShared(ids)
	}
	return err
}

func (t *tx) rememberKeys(scope device.IDScope, key device.RegistrationID, digests [][]byte) {
	if len(digests) > 0 {
		t.write(insertKeyUse, string(scope), string(key), digests)
	}
}

func (t *tx) forgetKeys(scope device.IDScope, key device.RegistrationID, digests [][]byte) {
	if len(digests) > 0 {
		t.write(deleteKeyUse, string(scope), string(key), digests)
	}
}

// learnKeys finds out, once, which keys the enrollments have that an older
// program wrote. Where it is interrupted, it begins anew; servers that do so at
// the same time find the same. What an older server writes afterwards, while
// servers are upgraded one after the other, is not known until it is changed.
func (s *Store) learnKeys(ctx context.Context) error {
	known := false
	err := s.query(ctx, func(*record.Row) error { known = true; return nil }, "SELECT id FROM symmetric_keys_known")
	if err != nil || known {
		return err
	}
	scopes, err := s.ListScopes(ctx)
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		for after, more := "", true; more; {
			if after, more, err = s.learnMore(ctx, scope.ID, after); err != nil {
				return err
			}
		}
	}
	return s.transact(ctx, func(_ context.Context, t *tx) error {
		t.write("INSERT INTO symmetric_keys_known (id) VALUES (1) ON CONFLICT DO NOTHING")
		return nil
	})
}

// learnMore learns the keys of the next enrollments after the one with the key
// after, and returns the last one's. They do not change meanwhile.
func (s *Store) learnMore(ctx context.Context, scope device.IDScope, after string) (last string, more bool, err error) {
	err = s.transact(ctx, func(ctx context.Context, t *tx) error {
		var digests [][]byte
		var keys []string
		enrollments, read := 0, s.codec.KeyUse(scope)
		err := t.read(ctx, query{func(r *record.Row) error {
			use, err := read(r)
			for _, d := range use.Digests {
				digests, keys = append(digests, d), append(keys, use.Key)
			}
			enrollments, last = enrollments+1, use.Key
			return err
		}, selectKeys, []any{string(scope), after, int64(learnBatch)}})
		if more = enrollments == learnBatch; err == nil && len(digests) > 0 {
			t.write(learnKeyUse, string(scope), digests, keys)
		}
		return err
	})
	return last, more, err
}
