package admin

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// Tenants keeps the provisioning scopes. Each write is durable when it returns.
type Tenants interface {
	// ListScopes returns every scope, ordered by ID.
	ListScopes(ctx context.Context) ([]provision.Scope, error)
	// ChangeScopes reads every scope, lets decide say which one to create or
	// replace, and writes that, with no other change to them in between. An error
	// from decide is returned as it is and nothing is written. decide may be
	// called more than once.
	ChangeScopes(ctx context.Context, decide func([]provision.Scope) (*provision.Scope, error)) error
	// DeleteScope removes a scope and what is its own. The error is of kind
	// errs.NotFound when there is none, and of kind errs.Conflict while something
	// is in it.
	DeleteScope(ctx context.Context, id device.IDScope) error
}

// ownerPolicy is the name of the policy that a scope begins with, as in the
// original.
const ownerPolicy = "provisioningserviceowner"

// scopeJSON is a scope as it is read.
type scopeJSON struct {
	IDScope    device.IDScope          `json:"idScope"`
	Home       bool                    `json:"home"` // whether the server is made for it
	Hosts      []string                `json:"hosts"`
	Allocation enroll.AllocationPolicy `json:"allocationPolicy"`
	Limits     provision.Limits        `json:"limits"`
	SharedKeys provision.SharedKeys    `json:"sharedKeys"`
	ETag       string                  `json:"etag"`
}

// scopePatch is what is written of a scope; what is left out stays.
type scopePatch struct {
	Hosts      *[]string                `json:"hosts"`
	Allocation *enroll.AllocationPolicy `json:"allocationPolicy"`
	Limits     *provision.Limits        `json:"limits"`
	SharedKeys *provision.SharedKeys    `json:"sharedKeys"`
}

func (f front) scopeRoutes() []rest.Route {
	return []rest.Route{
		{Method: http.MethodGet, Pattern: "/berth/v1/scope", Serve: f.operator(f.ownScope)},
		{Method: http.MethodPatch, Pattern: "/berth/v1/scope", Serve: f.operator(f.patchOwnScope)},
		{Method: http.MethodGet, Pattern: "/berth/v1/scopes", Serve: f.landlord(f.scopes)},
		{Method: http.MethodPost, Pattern: "/berth/v1/scopes", Serve: f.landlord(f.createScope)},
		{Method: http.MethodGet, Pattern: "/berth/v1/scopes/{idScope}", Serve: f.landlord(f.getScope)},
		{Method: http.MethodPatch, Pattern: "/berth/v1/scopes/{idScope}", Serve: f.landlord(f.patchScope)},
		{Method: http.MethodDelete, Pattern: "/berth/v1/scopes/{idScope}", Serve: f.landlord(f.deleteScope)},
		{Method: http.MethodPost, Pattern: "/berth/v1/scopes/{idScope}/listKeys", Serve: f.landlord(f.scopeKeys)},
	}
}

// landlord wraps an operation on other scopes than the caller's: it is for the
// operators of the scope that the server is made for.
func (f front) landlord(serve func(http.ResponseWriter, call) error) func(http.ResponseWriter, *rest.Request) error {
	return f.operator(func(w http.ResponseWriter, r call) error {
		if r.scope.ID != f.Home {
			return errs.New(errs.Forbidden, 0, "Only operators of the server's own scope may do this")
		}
		return serve(w, r)
	})
}

func (f front) ownScope(w http.ResponseWriter, r call) error {
	return f.answerStored(w, r, r.scope.ID)
}

// patchOwnScope lets operators of a scope change how it works. What it may take
// of the server is not theirs to say.
func (f front) patchOwnScope(w http.ResponseWriter, r call) error {
	var sent scopePatch
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	if r.scope.ID != f.Home && (sent.Hosts != nil || sent.Limits != nil) {
		return errs.New(errs.Forbidden, 0, "hosts and limits are set by operators of the server's own scope")
	}
	return f.changeScope(w, r, r.scope.ID, sent)
}

func (f front) scopes(w http.ResponseWriter, r call) error {
	stored, err := f.Tenants.ListScopes(r.Context())
	if err != nil {
		return err
	}
	all := []scopeJSON{}
	for _, s := range stored {
		body, err := f.scopeBody(s)
		if err != nil {
			return err
		}
		all = append(all, body)
	}
	return answer(w, all)
}

func (f front) getScope(w http.ResponseWriter, r call) error {
	id, err := parseScope(r)
	if err != nil {
		return err
	}
	return f.answerStored(w, r, id)
}

func (f front) answerStored(w http.ResponseWriter, r call, id device.IDScope) error {
	all, err := f.Tenants.ListScopes(r.Context())
	if err != nil {
		return err
	}
	s, err := findScope(all, id)
	if err != nil {
		return err
	}
	return f.answerScope(w, *s)
}

// createScope makes a scope with an owner policy, and answers with its keys.
func (f front) createScope(w http.ResponseWriter, r call) error {
	var sent struct {
		IDScope string `json:"idScope"`
		scopePatch
	}
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	if sent.Hosts == nil || len(*sent.Hosts) == 0 {
		return invalid("hosts: names none; nobody could call the scope's service API")
	}
	made := provision.Scope{Allocation: enroll.Hashed, SharedKeys: provision.WarnOfSharedKeys}
	if sent.IDScope != "" {
		id, err := device.ParseIDScope(sent.IDScope)
		if err != nil {
			return invalid("idScope: %v", err)
		}
		made.ID = id
	}
	sent.apply(&made)
	err := f.Tenants.ChangeScopes(r.Context(), func(all []provision.Scope) (*provision.Scope, error) {
		next := made
		if next.ID == "" {
			id, err := freshScope(f.Random, all)
			if err != nil {
				return nil, err
			}
			next.ID = id
		} else if _, err := findScope(all, next.ID); err == nil {
			return nil, errs.New(errs.Conflict, 0, "There is a scope %s already", next.ID)
		}
		made.ID = next.ID
		return &next, provision.CheckScope(next, all)
	})
	if err != nil {
		return err
	}
	policies, err := f.ownPolicies(r.Context(), made.ID)
	if err != nil {
		return err
	}
	body, err := f.scopeBody(made)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, struct {
		scopeJSON
		Policies []policyKeysJSON `json:"policies"`
	}{body, policies})
}

// freshScope draws an ID that no scope has.
func freshScope(random io.Reader, all []provision.Scope) (device.IDScope, error) {
	for {
		var b [4]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return "", fmt.Errorf("drawing an ID scope: %w", err)
		}
		id := device.IDScope("0ne" + hex.EncodeToString(b[:]))
		if _, err := findScope(all, id); err != nil {
			return id, nil
		}
	}
}

// ownPolicies returns the policies of a scope with their keys, after giving it an
// owner policy when nobody could administer it.
func (f front) ownPolicies(ctx context.Context, id device.IDScope) ([]policyKeysJSON, error) {
	owner := access.ScopeOwner(id)
	var now []access.Policy
	err := f.Policies.ChangePolicies(ctx, owner, func(old []access.Policy) (_ []access.Policy, err error) {
		now = old
		if slices.ContainsFunc(old, func(p access.Policy) bool { return p.Rights&access.ServiceConfig != 0 }) {
			return old, nil
		}
		var match access.Match
		if _, err := access.Find(old, ownerPolicy); err == nil {
			match = func(access.Policy) bool { return true }
		}
		now, err = access.Put(old, owner, access.Policy{Name: ownerPolicy, Rights: access.AllProvisioning}, match, f.Random)
		return now, err
	})
	if err != nil {
		return nil, err
	}
	all := []policyKeysJSON{}
	for _, p := range now {
		body, err := f.policyBody(p)
		if err != nil {
			return nil, err
		}
		all = append(all, policyKeysJSON{body, p.Primary.Base64(), p.Secondary.Base64()})
	}
	return all, nil
}

// scopeKeys answers with the policies of a scope and their keys, as the original's
// listkeys does.
func (f front) scopeKeys(w http.ResponseWriter, r call) error {
	id, err := parseScope(r)
	if err != nil {
		return err
	}
	all, err := f.Tenants.ListScopes(r.Context())
	if err != nil {
		return err
	}
	if _, err := findScope(all, id); err != nil {
		return err
	}
	policies, err := f.ownPolicies(r.Context(), id)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, policies)
}

func (f front) patchScope(w http.ResponseWriter, r call) error {
	id, err := parseScope(r)
	if err != nil {
		return err
	}
	var sent scopePatch
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	return f.changeScope(w, r, id, sent)
}

func (f front) changeScope(w http.ResponseWriter, r call, id device.IDScope, sent scopePatch) error {
	match := precondition(r)
	var now provision.Scope
	err := f.Tenants.ChangeScopes(r.Context(), func(all []provision.Scope) (*provision.Scope, error) {
		old, err := findScope(all, id)
		if err != nil {
			return nil, err
		}
		if err := f.mayChangeScope(*old, match); err != nil {
			return nil, err
		}
		now = *old
		if now.Allocation == "" {
			now.Allocation = enroll.Hashed
		}
		sent.apply(&now)
		if len(now.Hosts) == 0 && id != f.Home {
			return nil, invalid("hosts: names none; nobody could call the scope's service API")
		}
		next := now
		return &next, provision.CheckScope(next, all)
	})
	if err != nil {
		return err
	}
	return f.answerScope(w, now)
}

func (p scopePatch) apply(s *provision.Scope) {
	if p.Hosts != nil {
		s.Hosts = nil
		for _, h := range *p.Hosts {
			s.Hosts = append(s.Hosts, strings.ToLower(h))
		}
	}
	if p.Allocation != nil {
		s.Allocation = *p.Allocation
	}
	if p.Limits != nil {
		s.Limits = *p.Limits
	}
	if p.SharedKeys != nil {
		s.SharedKeys = *p.SharedKeys
	}
}

func (f front) deleteScope(w http.ResponseWriter, r call) error {
	id, err := parseScope(r)
	if err != nil {
		return err
	}
	if id == f.Home {
		return errs.New(errs.Conflict, 0, "The server is made for the scope %s", id)
	}
	if err := f.Tenants.DeleteScope(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (f front) mayChangeScope(s provision.Scope, match provision.Precondition) error {
	if match == nil {
		return nil
	}
	tag, err := f.scopeTag(s)
	if err == nil && !match(tag) {
		err = errs.New(errs.Precondition, 0, "The etag is not the current one; read the scope again.")
	}
	return err
}

func (f front) scopeTag(s provision.Scope) (string, error) {
	return f.tag(append([]string{
		"scope", string(s.ID), string(s.Allocation), s.Limits.PerAddress, s.Limits.PerDevice, string(s.SharedKeys),
	}, s.Hosts...)...)
}

func (f front) scopeBody(s provision.Scope) (scopeJSON, error) {
	tag, err := f.scopeTag(s)
	if s.Hosts == nil {
		s.Hosts = []string{}
	}
	return scopeJSON{s.ID, s.ID == f.Home, s.Hosts, s.Allocation, s.Limits, s.SharedKeys, dpsjson.EncodeETag(tag)}, err
}

func (f front) answerScope(w http.ResponseWriter, s provision.Scope) error {
	body, err := f.scopeBody(s)
	if err != nil {
		return err
	}
	return answerTagged(w, body.ETag, body)
}

func parseScope(r call) (device.IDScope, error) {
	id, err := device.ParseIDScope(r.PathValue("idScope"))
	if err != nil {
		return "", invalid("%v", err)
	}
	return id, nil
}

func findScope(all []provision.Scope, id device.IDScope) (*provision.Scope, error) {
	i := slices.IndexFunc(all, func(s provision.Scope) bool { return s.ID == id })
	if i < 0 {
		return nil, errs.New(errs.NotFound, 0, "There is no scope %s", id)
	}
	return &all[i], nil
}
