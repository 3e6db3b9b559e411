package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

var scopeRules = []rule{
	{"a scope is what was put last", func(t *testing.T, s Store) {
		for _, policy := range []enroll.AllocationPolicy{enroll.GeoLatency, enroll.Static, ""} {
			want := filled[provision.Scope]()
			want.ID, want.Allocation = scopeA, policy
			noError(t, s.PutScope(t.Context(), want))
			got, err := s.Scope(t.Context(), scopeA)
			noError(t, err)
			same(t, got, &want)
			want = provision.Scope{ID: scopeA, Allocation: policy, Hosts: []string{}, SharedKeys: provision.RefuseSharedKeys}
			noError(t, s.PutScope(t.Context(), want))
			got, err = s.Scope(t.Context(), scopeA)
			noError(t, err)
			same(t, got, &want)
			noError(t, s.PutScope(t.Context(), provision.Scope{ID: scopeA}))
			got, err = s.Scope(t.Context(), scopeA)
			noError(t, err)
			same(t, got, &provision.Scope{ID: scopeA, SharedKeys: provision.WarnOfSharedKeys})
		}
	}},
	{"a missing scope is NotFound until it is put", func(t *testing.T, s Store) {
		_, err := s.Scope(t.Context(), nowhere)
		isKind(t, err, errs.NotFound)
		noError(t, s.PutScope(t.Context(), provision.Scope{ID: nowhere}))
		_, err = s.Scope(t.Context(), nowhere)
		noError(t, err)
	}},
	{"a scope that was returned is the caller's own", func(t *testing.T, s Store) {
		want := filled[provision.Scope]()
		want.ID = scopeA
		noError(t, s.PutScope(t.Context(), want))
		got, err := s.Scope(t.Context(), scopeA)
		noError(t, err)
		got.Allocation, got.Hosts[0] = "changed", "changed"
		again, err := s.Scope(t.Context(), scopeA)
		noError(t, err)
		same(t, again, &want)
	}},
	{"scopes are listed by ID", func(t *testing.T, s Store) {
		first := filled[provision.Scope]()
		first.ID = "0ne00000001"
		noError(t, s.PutScope(t.Context(), first))
		got, err := s.ListScopes(t.Context())
		noError(t, err)
		same(t, got, []provision.Scope{
			first, {ID: scopeA, Allocation: enroll.Hashed, SharedKeys: provision.WarnOfSharedKeys},
			{ID: scopeB, Allocation: enroll.Hashed, SharedKeys: provision.WarnOfSharedKeys},
		})
	}},
	{"a scope is removed when it is empty, and takes what is its own with it", func(t *testing.T, s Store) {
		ctx, policy := t.Context(), filled[access.Policy]()
		isKind(t, s.DeleteScope(ctx, nowhere), errs.NotFound)
		full := []struct{ put, remove func() error }{
			{func() error { return putEntry(ctx, s, entry(scopeA, enroll.Individual, "pump-7")) },
				func() error { return deleteEntry(ctx, s, entry(scopeA, enroll.Individual, "pump-7")) }},
			{func() error { return putEntry(ctx, s, entry(scopeA, enroll.Group, "line-1")) },
				func() error { return deleteEntry(ctx, s, entry(scopeA, enroll.Group, "line-1")) }},
			{func() error { return putRegistration(ctx, s, registration(scopeA, "pump-7", "")) },
				func() error {
					return s.ChangeRegistration(ctx, scopeA, "pump-7", func(*provision.Registration) (*provision.Registration, error) { return nil, nil })
				}},
			{func() error { return s.PutLinkedHub(ctx, scopeA, provision.LinkedHub{Host: "hub-1"}) },
				func() error { return s.DeleteLinkedHub(ctx, scopeA, "hub-1") }},
		}
		for _, owner := range []access.Owner{access.ScopeOwner(scopeA), access.ScopeOwner(scopeB)} {
			noError(t, s.PutPolicy(ctx, owner, policy))
		}
		noError(t, putCACertificate(ctx, s, caCertificate(scopeA, "plant")))
		changeTrust(t, s, scopeA, trustChange([]ekcert.TrustAnchor{trustAnchor("one")}))
		for _, c := range full {
			noError(t, c.put())
			isKind(t, s.DeleteScope(ctx, scopeA), errs.Conflict)
			_, err := s.Scope(ctx, scopeA)
			noError(t, err)
			policies, err := s.Policies(ctx, access.ScopeOwner(scopeA))
			noError(t, err)
			same(t, len(policies), 1)
			noError(t, c.remove())
		}
		noError(t, s.DeleteScope(ctx, scopeA))
		_, err := s.Scope(ctx, scopeA)
		isKind(t, err, errs.NotFound)
		isKind(t, s.DeleteScope(ctx, scopeA), errs.NotFound)
		isKind(t, putEntry(ctx, s, entry(scopeA, enroll.Individual, "pump-7")), errs.NotFound)
		scopes, err := s.ListScopes(ctx)
		noError(t, err)
		same(t, len(scopes), 1)

		noError(t, s.PutScope(ctx, provision.Scope{ID: scopeA})) // another one of that name
		for owner, want := range map[access.Owner]int{access.ScopeOwner(scopeA): 0, access.ScopeOwner(scopeB): 1} {
			policies, err := s.Policies(ctx, owner)
			noError(t, err)
			same(t, len(policies), want)
		}
		authorities, err := s.CACertificates(ctx, scopeA)
		noError(t, err)
		same(t, len(authorities), 0)
		sameTrust(t, s, scopeA, 0)
	}},
	{"nothing comes into a scope while it is removed", func(t *testing.T, s Store) {
		var removed atomic.Bool
		race(9, func(i int) error {
			if i == 4 {
				err := s.DeleteScope(t.Context(), scopeA)
				removed.Store(err == nil)
				if err != nil {
					isKind(t, err, errs.Conflict)
				}
				return err
			}
			err := putEntry(t.Context(), s, entry(scopeA, enroll.Individual, fmt.Sprint("pump-", i)))
			if err != nil {
				isKind(t, err, errs.NotFound)
			}
			return err
		})
		left, err := s.Entries(t.Context(), scopeA, enroll.Individual, "", 10)
		noError(t, err)
		_, err = s.Scope(t.Context(), scopeA)
		same(t, errs.KindOf(err) == errs.NotFound, removed.Load())
		same(t, len(left) == 0, removed.Load())
	}},
	{"linked hubs are what was put last, by host, one list a scope", func(t *testing.T, s Store) {
		linked := func(scope device.IDScope, want ...provision.LinkedHub) {
			t.Helper()
			got, err := s.Linked(t.Context(), scope)
			noError(t, err)
			same(t, got, want)
		}
		linked(scopeA)
		one := provision.LinkedHub{Host: "a.example:8443", Weight: 1, Allocation: true}
		two := provision.LinkedHub{Host: "b.example", Weight: 1000}
		noError(t, s.PutLinkedHub(t.Context(), scopeA, two))
		linked(scopeA, two)
		noError(t, s.PutLinkedHub(t.Context(), scopeA, one))
		linked(scopeA, one, two)
		linked(scopeB)
		two.Weight, two.Allocation = 5, true
		noError(t, s.PutLinkedHub(t.Context(), scopeA, two))
		linked(scopeA, one, two)
		noError(t, s.DeleteLinkedHub(t.Context(), scopeA, "A.Example:8443"))
		linked(scopeA, two)
		isKind(t, s.DeleteLinkedHub(t.Context(), scopeA, "a.example:8443"), errs.NotFound)
		isKind(t, s.DeleteLinkedHub(t.Context(), scopeB, "b.example"), errs.NotFound)
		linked(scopeA, two)
	}},
	{"a linked hub is what was put, in every member", func(t *testing.T, s Store) {
		full := filled[provision.LinkedHub]()
		full.Host = "Hub.Example:8443"
		empty := provision.LinkedHub{Host: "hub.example:8443"}
		respelled := full
		respelled.Host, respelled.Connection = "HUB.example:8443", &provision.Connection{Policy: "iothubowner", Key: full.Connection.Key}
		for _, want := range []provision.LinkedHub{full, empty, full, respelled} {
			noError(t, s.PutLinkedHub(t.Context(), scopeA, want))
			got, err := s.Linked(t.Context(), scopeA)
			noError(t, err)
			same(t, got, []provision.LinkedHub{want})
		}
	}},
	{"a hub is linked to a scope there is", func(t *testing.T, s Store) {
		isKind(t, s.PutLinkedHub(t.Context(), nowhere, provision.LinkedHub{Host: "a.example"}), errs.NotFound)
	}},
}

var policyRules = []rule{
	{"policies are what was put last, by name, one list an owner", func(t *testing.T, s Store) {
		policies := func(owner access.Owner, want ...access.Policy) {
			t.Helper()
			got, err := s.Policies(t.Context(), owner)
			noError(t, err)
			same(t, got, want)
		}
		owner := access.ScopeOwner(scopeA)
		policies(owner)
		one, two := filled[access.Policy](), filled[access.Policy]()
		one.Name, two.Name = "provisioningserviceowner", "reader/of all"
		noError(t, s.PutPolicy(t.Context(), owner, two))
		noError(t, s.PutPolicy(t.Context(), owner, one))
		policies(owner, one, two)
		policies(access.HubOwner("hub-1"))
		one.Name, one.Primary, one.Secondary = "ProvisioningServiceOwner", one.Secondary, device.SymmetricKey{}
		noError(t, s.PutPolicy(t.Context(), owner, one))
		policies(owner, one, two)
		none := access.Policy{Name: "nothing"}
		noError(t, s.PutPolicy(t.Context(), access.HubOwner("hub-1"), none))
		policies(access.HubOwner("hub-1"), none)
	}},	{"changed policies are what was decided about those there were", func(t *testing.T, s Store) {
		owner := access.ScopeOwner(scopeA)
		one, two, three := filled[access.Policy](), filled[access.Policy](), filled[access.Policy]()
		one.Name, two.Name, three.Name = "one", "two", "three"
		change := func(decide func([]access.Policy) ([]access.Policy, error)) error {
			return s.ChangePolicies(t.Context(), owner, decide)
		}
		stored := func(want ...access.Policy) {
			t.Helper()
			got, err := s.Policies(t.Context(), owner)
			noError(t, err)
			same(t, got, want)
		}
		noError(t, change(func(old []access.Policy) ([]access.Policy, error) {
			same(t, len(old), 0)
			return []access.Policy{two, one}, nil
		}))
		stored(one, two)
		renamed := one
		renamed.Name, renamed.Primary, renamed.Secondary = "ONE", one.Secondary, device.SymmetricKey{}
		noError(t, change(func(old []access.Policy) ([]access.Policy, error) {
			same(t, old, []access.Policy{one, two})
			old[1].Name = "scribbled on"
			return []access.Policy{renamed, three}, nil
		}))
		stored(renamed, three)
		refusal := errs.New(errs.Conflict, 0, "no")
		if err := change(func([]access.Policy) ([]access.Policy, error) { return nil, refusal }); err != error(refusal) {
			t.Errorf("decide's error became %v", err)
		}
		stored(renamed, three)
		other, err := s.Policies(t.Context(), access.ScopeOwner(scopeB))
		noError(t, err)
		same(t, len(other), 0)
		noError(t, change(func([]access.Policy) ([]access.Policy, error) { return nil, nil }))
		stored()
	}},
	{"of changes to policies at the same time each sees the others", func(t *testing.T, s Store) {
		const callers = 8
		owner := access.ScopeOwner(scopeA)
		noError(t, s.ChangePolicies(t.Context(), owner, func([]access.Policy) (all []access.Policy, _ error) {
			for i := range callers {
				p := filled[access.Policy]()
				p.Name = fmt.Sprint("p", i)
				all = append(all, p)
			}
			return all, nil
		}))
		last := errs.New(errs.Conflict, 0, "it is the last")
		var removed atomic.Int64
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				err := s.ChangePolicies(t.Context(), owner, func(old []access.Policy) ([]access.Policy, error) {
					if len(old) == 1 {
						return nil, last
					}
					return slices.DeleteFunc(old, func(p access.Policy) bool { return p.Name == fmt.Sprint("p", i) }), nil
				})
				if err == nil {
					removed.Add(1)
				} else if !errors.Is(err, last) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		left, err := s.Policies(t.Context(), owner)
		noError(t, err)
		if len(left) != 1 || removed.Load() != callers-1 {
			t.Errorf("%d were removed and %d are left", removed.Load(), len(left))
		}
	}},
}
