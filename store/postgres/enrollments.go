package postgres

import (
	"context"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectEntry   = "SELECT " + record.EnrollmentColumns + " FROM enrollment WHERE scope = $1 AND kind = $2 AND key = $3"
	selectEntries = "SELECT " + record.EnrollmentColumns + " FROM enrollment WHERE scope = $1 AND kind = $2 AND key > $3 ORDER BY key LIMIT $4"
	selectGroups  = "SELECT " + record.EnrollmentColumns + " FROM enrollment WHERE scope = $1 AND mechanism = $2 AND kind = 'group' ORDER BY key"
	deleteEntry   = "DELETE FROM enrollment WHERE scope = $1 AND kind = $2 AND key = $3"

	selectList = "SELECT keys FROM endorsement_key_list WHERE scope = $1 AND group_key = $2"
	putList    = `INSERT INTO endorsement_key_list (scope, group_key, keys) VALUES ($1, $2, $3)
		ON CONFLICT (scope, group_key) DO UPDATE SET keys = excluded.keys`
	deleteList = "DELETE FROM endorsement_key_list WHERE scope = $1 AND group_key = $2"
)

var (
	insertEntry = insert("enrollment", record.EnrollmentColumns)
	updateEntry = update("enrollment", record.EnrollmentColumns, 3)
)

// Entry implements enroll.Store and provision.EnrollmentReader.
func (s *Store) Entry(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID) (*enroll.Entry, error) {
	return find(ctx, s, record.NoEnrollment(), s.codec.Enrollment, selectEntry, string(scope), string(kind), string(key))
}

// Entries implements enroll.Store.
func (s *Store) Entries(ctx context.Context, scope device.IDScope, kind enroll.Kind, after device.RegistrationID, limit int) ([]*enroll.Entry, error) {
	return list(ctx, s, s.codec.Enrollment, selectEntries, string(scope), string(kind), string(after), record.Limit(limit))
}

// Groups implements provision.EnrollmentReader.
func (s *Store) Groups(ctx context.Context, scope device.IDScope, mechanism attest.Type) ([]*enroll.Entry, error) {
	return cached(ctx, s, &s.groups, groupKey{scope, mechanism}, func(ctx context.Context) ([]*enroll.Entry, error) {
		return list(ctx, s, s.codec.Enrollment, selectGroups, string(scope), string(mechanism))
	})
}

// EndorsementKeys implements provision.EnrollmentReader.
func (s *Store) EndorsementKeys(ctx context.Context, scope device.IDScope, group device.RegistrationID) ([]byte, error) {
	keys, err := find(ctx, s, record.NoEnrollment(), record.EndorsementKeys, selectList, string(scope), string(group))
	if err != nil {
		return nil, err
	}
	return *keys, nil
}

// ChangeEntry implements enroll.Store. It returns an error of kind
// errs.NotFound when there is no such scope.
func (s *Store) ChangeEntry(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID, decide func(*enroll.Entry) (*enroll.Entry, error)) error {
	return s.changeEntry(ctx, scope, kind, key, decide, false)
}

// ChangeEntryUnshared implements enroll.Store. It returns an error of kind
// errs.NotFound when there is no such scope.
func (s *Store) ChangeEntryUnshared(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID, decide func(*enroll.Entry) (*enroll.Entry, error)) error {
	return s.changeEntry(ctx, scope, kind, key, decide, true)
}

func (s *Store) changeEntry(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID, decide func(*enroll.Entry) (*enroll.Entry, error), unshared bool) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		var old *enroll.Entry
		err := t.read(ctx, query{into(&old, s.codec.Enrollment), selectEntry + " FOR UPDATE", []any{string(scope), string(kind), string(key)}})
		if err != nil {
			return err
		}
		forget := func(e *enroll.Entry) {
			if e != nil && kind == enroll.Group {
				k := groupKey{scope, e.Attestation.Type} // decide may change what it is given
				t.then(func() { s.groups.Forget(k) })
			}
		}
		forget(old)
		exists, hadList, hadKeys := old != nil, record.HasList(old), s.codec.KeysInUse(old)
		next, err := decide(old)
		switch {
		case err != nil:
			return err
		case next == nil && !exists:
			return nil
		case next == nil:
			t.write(deleteEntry, string(scope), string(kind), string(key))
			t.forgetKeys(scope, key, hadKeys)
		default:
			forget(next)
			keys := s.codec.KeysInUse(next)
			added := record.KeysWithout(keys, hadKeys)
			if unshared {
				if err := s.unshared(ctx, t, scope, key, added); err != nil {
					return err
				}
			}
			if err := s.writeEntry(t, scope, kind, key, next, exists); err != nil {
				return err
			}
			t.forgetKeys(scope, key, record.KeysWithout(hadKeys, keys))
			t.rememberKeys(scope, key, added)
		}
		t.changeList(scope, key, record.ListChangeOf(hadList, next))
		if kind == enroll.Group {
			t.changed()
		}
		return nil
	})
}

func (s *Store) writeEntry(t *tx, scope device.IDScope, kind enroll.Kind, key device.RegistrationID, next *enroll.Entry, exists bool) error {
	if err := record.KeepsEnrollment(scope, kind, key, next); err != nil {
		return err
	}
	values, err := s.codec.EnrollmentValues(next)
	if err != nil {
		return err
	}
	if exists {
		t.write(updateEntry, values...)
	} else {
		t.write(insertEntry, values...)
	}
	return nil
}

func (t *tx) changeList(scope device.IDScope, group device.RegistrationID, change record.ListChange) {
	switch {
	case change.Write != nil:
		t.write(putList, string(scope), string(group), change.Write)
	case change.Remove:
		t.write(deleteList, string(scope), string(group))
	}
}
