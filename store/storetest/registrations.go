package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

func registration(scope device.IDScope, key device.RegistrationID, group string) *provision.Registration {
	r := filled[*provision.Registration]()
	r.Scope, r.Key, r.GroupID = scope, key, group
	return r
}

func putRegistration(ctx context.Context, s Store, r *provision.Registration) error {
	return s.ChangeRegistration(ctx, r.Scope, r.Key, func(*provision.Registration) (*provision.Registration, error) { return r, nil })
}

var registrationRules = []rule{
	{"a registration record is what was put, in every member", func(t *testing.T, s Store) {
		full := registration(scopeA, "pump-7", "Line-1")
		empty := &provision.Registration{Scope: scopeA, Key: "pump-7", GroupID: "Line-1"}
		little := &provision.Registration{Scope: scopeA, Key: "pump-7", Payload: json.RawMessage{}, HubKeyBlob: []byte{}, StorageRootKey: []byte{}, EndorsementKey: []byte{}}
		waiting := &provision.Registration{Scope: scopeA, Key: "pump-7", GroupID: "Line-1", Pending: &provision.Pending{}}
		chosen := &provision.Registration{Scope: scopeA, Key: "pump-7", Pending: &provision.Pending{Due: epoch, Payload: json.RawMessage("null"),
			Choice: &provision.Choice{Twin: &enroll.InitialTwin{}}}}
		for _, want := range []*provision.Registration{full, empty, full, little, full, waiting, chosen, waiting, empty} {
			noError(t, putRegistration(t.Context(), s, want))
			got, err := s.Registration(t.Context(), scopeA, "pump-7")
			noError(t, err)
			same(t, got, want)
		}
	}},
	{"a missing registration record is NotFound", func(t *testing.T, s Store) {
		noError(t, putRegistration(t.Context(), s, registration(scopeA, "pump-7", "")))
		_, err := s.Registration(t.Context(), scopeA, "pump-8")
		isKind(t, err, errs.NotFound)
		_, err = s.Registration(t.Context(), scopeB, "pump-7")
		isKind(t, err, errs.NotFound)
	}},
	{"a change sees the record it replaces, and may remove it", func(t *testing.T, s Store) {
		want := registration(scopeA, "pump-7", "line-1")
		noError(t, s.ChangeRegistration(t.Context(), scopeA, "pump-7", func(old *provision.Registration) (*provision.Registration, error) {
			same(t, old, (*provision.Registration)(nil))
			return want, nil
		}))
		noError(t, s.ChangeRegistration(t.Context(), scopeA, "pump-7", func(old *provision.Registration) (*provision.Registration, error) {
			same(t, old, want)
			return nil, nil
		}))
		_, err := s.Registration(t.Context(), scopeA, "pump-7")
		isKind(t, err, errs.NotFound)
		page, err := s.Registrations(t.Context(), scopeA, "line-1", "", 10)
		noError(t, err)
		same(t, len(page), 0)
	}},
	{"a record's change that decides for an error writes nothing", func(t *testing.T, s Store) {
		want := registration(scopeA, "pump-7", "")
		noError(t, putRegistration(t.Context(), s, want))
		refusal := errors.New("no")
		err := s.ChangeRegistration(t.Context(), scopeA, "pump-7", func(old *provision.Registration) (*provision.Registration, error) {
			old.Hub = "changed"
			return old, refusal
		})
		if err != refusal {
			t.Errorf("decide's error came back as %v", err)
		}
		got, err := s.Registration(t.Context(), scopeA, "pump-7")
		noError(t, err)
		same(t, got, want)
	}},
	{"no change of many racing to change a record is lost", func(t *testing.T, s Store) {
		race(32, func(int) error {
			err := s.ChangeRegistration(t.Context(), scopeA, "pump-7", func(old *provision.Registration) (*provision.Registration, error) {
				if old == nil {
					old = &provision.Registration{Scope: scopeA, Key: "pump-7"}
				}
				old.ErrorCode++
				return old, nil
			})
			if err != nil {
				t.Error(err)
			}
			return err
		})
		got, err := s.Registration(t.Context(), scopeA, "pump-7")
		noError(t, err)
		same(t, got.ErrorCode, errs.Code(32))
	}},
	{"a change cannot rename a record", func(t *testing.T, s Store) {
		for _, other := range []*provision.Registration{registration(scopeA, "pump-8", ""), registration(scopeB, "pump-7", "")} {
			err := s.ChangeRegistration(t.Context(), scopeA, "pump-7", func(*provision.Registration) (*provision.Registration, error) { return other, nil })
			isKind(t, err, errs.Internal)
		}
	}},
	{"records are listed by enrollment group and key, page by page", func(t *testing.T, s Store) {
		keys := func(group string, after device.RegistrationID, limit int) string {
			t.Helper()
			page, err := s.Registrations(t.Context(), scopeA, group, after, limit)
			noError(t, err)
			var keys []device.RegistrationID
			for _, r := range page {
				keys = append(keys, r.Key)
			}
			return fmt.Sprint(keys)
		}
		for _, r := range []*provision.Registration{
			registration(scopeA, "c", "Line-1"), registration(scopeA, "a", "LINE-1"), registration(scopeA, "b", "line-1"),
			registration(scopeA, "d", "line-2"), registration(scopeA, "e", ""), registration(scopeB, "f", "line-1"),
		} {
			noError(t, putRegistration(t.Context(), s, r))
		}
		same(t, keys("line-1", "", 10), "[a b c]")
		same(t, keys("liNe-1", "", 2), "[a b]")
		same(t, keys("line-1", "b", 2), "[c]")
		same(t, keys("line-1", "c", 2), "[]")
		same(t, keys("line-3", "", 10), "[]")
		same(t, keys("", "", 10), "[]")
		noError(t, putRegistration(t.Context(), s, registration(scopeA, "b", "line-2")))
		noError(t, putRegistration(t.Context(), s, registration(scopeA, "c", "")))
		noError(t, putRegistration(t.Context(), s, registration(scopeA, "e", "line-2")))
		same(t, keys("line-1", "", 10), "[a]")
		same(t, keys("line-2", "", 10), "[b d e]")
	}},
	{"what is pending is found when it is due, the longest waiting first, in all scopes", func(t *testing.T, s Store) {
		due := func(now time.Time, limit int) string {
			t.Helper()
			page, err := s.DueRegistrations(t.Context(), now, limit)
			noError(t, err)
			var keys []device.RegistrationID
			for _, r := range page {
				keys = append(keys, r.Key)
			}
			return fmt.Sprint(keys)
		}
		put := func(scope device.IDScope, key device.RegistrationID, p *provision.Pending) {
			t.Helper()
			noError(t, putRegistration(t.Context(), s, &provision.Registration{Scope: scope, Key: key, Status: provision.Assigning, Pending: p}))
		}
		put(scopeA, "a", nil)
		put(scopeA, "b", &provision.Pending{Due: epoch})
		put(scopeB, "c", &provision.Pending{Due: epoch.Add(-1)})
		put(scopeA, "d", &provision.Pending{})
		put(scopeA, "e", &provision.Pending{Due: epoch.Add(1)})
		same(t, due(epoch.Add(-2), 10), "[d]")
		same(t, due(epoch, 10), "[d c b]")
		same(t, due(epoch, 2), "[d c]")
		same(t, due(epoch, 0), "[]")
		same(t, due(epoch.AddDate(1000, 0, 0), 10), "[d c b e]")
		put(scopeA, "b", &provision.Pending{Due: epoch.Add(time.Hour), Attempts: 1})
		put(scopeA, "d", nil)
		same(t, due(epoch.Add(1), 10), "[c e]")
		page, err := s.DueRegistrations(t.Context(), epoch, 10)
		noError(t, err)
		same(t, page, []*provision.Registration{{Scope: scopeB, Key: "c", Status: provision.Assigning, Pending: &provision.Pending{Due: epoch.Add(-1)}}})
	}},
}
