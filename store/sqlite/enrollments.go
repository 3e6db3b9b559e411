package sqlite

import (
	"context"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectEntry   = "SELECT " + record.EnrollmentColumns + " FROM enrollment WHERE scope = ? AND kind = ? AND key = ?"
	selectEntries = "SELECT " + record.EnrollmentColumns + " FROM enrollment WHERE scope = ? AND kind = ? AND key > ? ORDER BY key LIMIT ?"
	selectGroups  = "SELECT " + record.EnrollmentColumns + " FROM enrollment WHERE scope = ? AND mechanism = ? AND kind = 'group' ORDER BY key"
	replaceEntry  = "REPLACE INTO enrollment (" + record.EnrollmentColumns + `)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	deleteEntry = "DELETE FROM enrollment WHERE scope = ? AND kind = ? AND key = ?"

	selectList  = "SELECT keys FROM endorsement_key_list WHERE scope = ? AND group_key = ?"
	replaceList = "REPLACE INTO endorsement_key_list (scope, group_key, keys) VALUES (?, ?, ?)"
	deleteList  = "DELETE FROM endorsement_key_list WHERE scope = ? AND group_key = ?"
)

// Entry implements enroll.Store and provision.EnrollmentReader.
func (s *Store) Entry(ctx context.Context, scope device.IDScope, kind enroll.Kind, key device.RegistrationID) (*enroll.Entry, error) {
	return find(ctx, s, record.NoEnrollment(),
		s.codec.Enrollment, selectEntry, string(scope), string(kind), string(key))
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
	return s.write(ctx, func(t *tx) error {
		old, err := one(t.conn, s.codec.Enrollment, selectEntry, string(scope), string(kind), string(key))
		if err != nil {
			return err
		}
		forget := func(e *enroll.Entry) {
			if e != nil && kind == enroll.Group {
				t.then(func() { s.groups.Forget(groupKey{scope, e.Attestation.Type}) })
			}
		}
		forget(old)
		hadList, hadKeys := record.HasList(old), s.codec.KeysInUse(old) // decide may change what it is given
		next, err := decide(old)
		switch {
		case err != nil:
			return err
		case next == nil && old == nil:
			return nil
		case next == nil:
			if err := t.exec(deleteEntry, string(scope), string(kind), string(key)); err != nil {
				return err
			}
			if err := t.forgetKeys(scope, key, hadKeys); err != nil {
				return err
			}
			return t.changeList(scope, key, record.ListChangeOf(hadList, nil))
		}
		if err := record.KeepsEnrollment(scope, kind, key, next); err != nil {
			return err
		}
		keys := s.codec.KeysInUse(next)
		added := record.KeysWithout(keys, hadKeys)
		if unshared {
			if err := t.unshared(scope, key, added); err != nil {
				return err
			}
		}
		forget(next)
		values, err := s.codec.EnrollmentValues(next)
		if err != nil {
			return err
		}
		err = t.exec(replaceEntry, values...)
		if isForeignKey(err) {
			return record.NoScope().WithCause(err)
		}
		if err != nil {
			return err
		}
		if err := t.forgetKeys(scope, key, record.KeysWithout(hadKeys, keys)); err != nil {
			return err
		}
		if err := t.rememberKeys(scope, string(key), added); err != nil {
			return err
		}
		return t.changeList(scope, key, record.ListChangeOf(hadList, next))
	})
}

func (t *tx) changeList(scope device.IDScope, group device.RegistrationID, change record.ListChange) error {
	switch {
	case change.Write != nil:
		return t.exec(replaceList, string(scope), string(group), change.Write)
	case change.Remove:
		return t.exec(deleteList, string(scope), string(group))
	}
	return nil
}
