package storetest

import (
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

var scopeRules = []rule{
	{"a scope is what was put last", func(t *testing.T, s Store) {
		for _, policy := range []enroll.AllocationPolicy{enroll.GeoLatency, enroll.Static, ""} {
			want := provision.Scope{ID: scopeA, Allocation: policy}
			noError(t, s.PutScope(t.Context(), want))
			got, err := s.Scope(t.Context(), scopeA)
			noError(t, err)
			same(t, got, &want)
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
		got, err := s.Scope(t.Context(), scopeA)
		noError(t, err)
		got.Allocation = "changed"
		again, err := s.Scope(t.Context(), scopeA)
		noError(t, err)
		same(t, again.Allocation, enroll.Hashed)
	}},
	{"scopes are listed by ID", func(t *testing.T, s Store) {
		noError(t, s.PutScope(t.Context(), provision.Scope{ID: "0ne00000001", Allocation: enroll.Custom}))
		got, err := s.ListScopes(t.Context())
		noError(t, err)
		same(t, got, []provision.Scope{{ID: "0ne00000001", Allocation: enroll.Custom}, {ID: scopeA, Allocation: enroll.Hashed}, {ID: scopeB, Allocation: enroll.Hashed}})
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
	}},
}
