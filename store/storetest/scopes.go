package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
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
	{"a changed link is what was decided about the one there was", func(t *testing.T, s Store) {
		change := func(decide func(*provision.LinkedHub) (*provision.LinkedHub, error)) error {
			return s.ChangeLinkedHub(t.Context(), scopeA, "A.example", decide)
		}
		linked := func(want ...provision.LinkedHub) {
			t.Helper()
			got, err := s.Linked(t.Context(), scopeA)
			noError(t, err)
			same(t, got, want)
		}
		first := filled[provision.LinkedHub]()
		first.Host = "a.example"
		noError(t, change(func(old *provision.LinkedHub) (*provision.LinkedHub, error) {
			same(t, old == nil, true)
			return &first, nil
		}))
		linked(first)
		second := first
		second.Weight++
		noError(t, change(func(old *provision.LinkedHub) (*provision.LinkedHub, error) {
			same(t, old, &first)
			return &second, nil
		}))
		linked(second)
		refusal := errs.New(errs.Precondition, 0, "no")
		if err := change(func(*provision.LinkedHub) (*provision.LinkedHub, error) { return nil, refusal }); err != error(refusal) {
			t.Errorf("decide's error became %v", err)
		}
		linked(second)
		noError(t, change(func(*provision.LinkedHub) (*provision.LinkedHub, error) { return nil, nil }))
		linked()
		noError(t, change(func(*provision.LinkedHub) (*provision.LinkedHub, error) { return nil, nil }))

		noError(t, s.PutLinkedHub(t.Context(), scopeA, provision.LinkedHub{Host: "a.example"}))
		const callers = 8
		same(t, len(race(callers, func(int) error {
			return change(func(old *provision.LinkedHub) (*provision.LinkedHub, error) { old.Weight++; return old, nil })
		})), callers)
		linked(provision.LinkedHub{Host: "a.example", Weight: callers})
	}},
	{"a hub of these servers is one scope's, until nothing is left of it", func(t *testing.T, s Store) {
		ctx, local := t.Context(), func(host string) provision.LinkedHub { return provision.LinkedHub{Host: host, Weight: 1} }
		owned := func(name string, want device.IDScope) {
			t.Helper()
			got, err := s.HubScope(ctx, name)
			noError(t, err)
			same(t, got, want)
		}
		owned("hub.example", "")
		noError(t, s.PutLinkedHub(ctx, scopeA, local("Hub.example:8443")))
		owned("hub.example", scopeA)
		for _, host := range []string{"hub.example:8443", "hub.example", "HUB.EXAMPLE:9443"} {
			isKind(t, s.PutLinkedHub(ctx, scopeB, local(host)), errs.Conflict)
		}
		none, err := s.Linked(ctx, scopeB)
		noError(t, err)
		same(t, len(none), 0)
		noError(t, s.PutLinkedHub(ctx, scopeB, local("hub.example2")))
		noError(t, s.PutLinkedHub(ctx, scopeA, local("hub.example:9443"))) // the same, on another port

		// Elsewhere a hub can be linked to many.
		elsewhere := filled[provision.LinkedHub]()
		elsewhere.Host = "hub.example"
		noError(t, s.PutLinkedHub(ctx, scopeB, elsewhere))
		noError(t, s.DeleteLinkedHub(ctx, scopeB, "hub.example"))
		owned("hub.example", scopeA)

		// What it has stays its scope's when it is not linked.
		policy := filled[access.Policy]()
		noError(t, s.PutPolicy(ctx, access.HubOwner("hub.example"), policy))
		noError(t, s.DeleteLinkedHub(ctx, scopeA, "hub.example:8443"))
		isKind(t, s.PutLinkedHub(ctx, scopeB, local("hub.example")), errs.Conflict) // the other port
		noError(t, s.DeleteLinkedHub(ctx, scopeA, "hub.example:9443"))
		d, twin := home("hub.example", "pump-7")
		noError(t, putHome(ctx, s, d, twin))
		isKind(t, s.PutLinkedHub(ctx, scopeB, local("hub.example")), errs.Conflict)
		isKind(t, s.DeleteScope(ctx, scopeA), errs.Conflict)
		noError(t, s.PutLinkedHub(ctx, scopeA, local("hub.example")))
		noError(t, s.DeleteLinkedHub(ctx, scopeA, "hub.example"))
		noError(t, s.Change(ctx, d.Place, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
		noError(t, s.Append(ctx, []*hub.Message{message("hub.example", "pump-7")}))
		isKind(t, s.PutLinkedHub(ctx, scopeB, local("hub.example")), errs.Conflict)
		isKind(t, s.DeleteScope(ctx, scopeA), errs.Conflict)
		if _, err := s.Trim(ctx, hub.Retention{Before: time.Now().AddDate(1000, 0, 0)}); err != nil {
			t.Fatal(err)
		}
		policies, err := s.Policies(ctx, access.HubOwner("hub.example"))
		noError(t, err)
		same(t, len(policies), 1)

		// Then its name is free, and its policies open nothing of the next.
		noError(t, s.PutLinkedHub(ctx, scopeB, local("hub.example")))
		owned("hub.example", scopeB)
		policies, err = s.Policies(ctx, access.HubOwner("hub.example"))
		noError(t, err)
		same(t, len(policies), 0)
		isKind(t, s.PutLinkedHub(ctx, scopeA, local("hub.example")), errs.Conflict)
		noError(t, s.DeleteScope(ctx, scopeA))
	}},
	{"of two scopes that link a hub of one name, one gets it", func(t *testing.T, s Store) {
		scopes := []device.IDScope{scopeA, scopeB}
		won := race(2, func(i int) error {
			err := s.PutLinkedHub(t.Context(), scopes[i], provision.LinkedHub{Host: "hub.example"})
			if err != nil {
				isKind(t, err, errs.Conflict)
			}
			return err
		})
		same(t, len(won), 1)
	}},
	{"a changed scope is what was decided about all there are", func(t *testing.T, s Store) {
		change := func(decide func([]provision.Scope) (*provision.Scope, error)) error {
			return s.ChangeScopes(t.Context(), decide)
		}
		next := filled[provision.Scope]()
		next.ID = scopeB
		noError(t, change(func(all []provision.Scope) (*provision.Scope, error) {
			same(t, len(all), 2)
			same(t, all[1].ID, scopeB)
			return &next, nil
		}))
		got, err := s.Scope(t.Context(), scopeB)
		noError(t, err)
		same(t, got, &next)
		refusal := errs.New(errs.Conflict, 0, "no")
		if err := change(func([]provision.Scope) (*provision.Scope, error) { return nil, refusal }); err != error(refusal) {
			t.Errorf("decide's error became %v", err)
		}
		// Each sees the others: a host name is of one scope alone.
		won := race(8, func(i int) error {
			return change(func(all []provision.Scope) (*provision.Scope, error) {
				for _, scope := range all {
					if slices.Contains(scope.Hosts, "one.example") {
						return nil, refusal
					}
				}
				return &provision.Scope{ID: device.IDScope(fmt.Sprintf("0ne0000010%d", i)), Hosts: []string{"one.example"}}, nil
			})
		})
		same(t, len(won), 1)
		all, err := s.ListScopes(t.Context())
		noError(t, err)
		same(t, len(all), 3)
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
	}}, {"changed policies are what was decided about those there were", func(t *testing.T, s Store) {
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
