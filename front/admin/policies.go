package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// policyJSON is a policy without its keys.
type policyJSON struct {
	Name   string   `json:"name"`
	Rights []string `json:"rights"`
	ETag   string   `json:"etag"`
}

// policyKeysJSON is one with them, for who asked for exactly that.
type policyKeysJSON struct {
	policyJSON
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

// policyRoutes are the operations on the policies of what owner finds.
func (f front) policyRoutes(path string, owner func(call) (access.Owner, error)) []rest.Route {
	of := func(serve func(http.ResponseWriter, call, access.Owner) error) func(http.ResponseWriter, *rest.Request) error {
		return f.operator(func(w http.ResponseWriter, r call) error {
			o, err := owner(r)
			if err != nil {
				return err
			}
			return serve(w, r, o)
		})
	}
	return []rest.Route{
		{Method: http.MethodGet, Pattern: path, Serve: of(f.listPolicies)},
		{Method: http.MethodGet, Pattern: path + "/{policy}", Serve: of(f.getPolicy)},
		{Method: http.MethodPut, Pattern: path + "/{policy}", Serve: of(f.putPolicy)},
		{Method: http.MethodDelete, Pattern: path + "/{policy}", Serve: of(f.deletePolicy)},
		{Method: http.MethodPost, Pattern: path + "/{policy}/listKeys", Serve: of(f.listKeys)},
		{Method: http.MethodPost, Pattern: path + "/{policy}/rollKey", Serve: of(f.rollKey)},
	}
}

// scopeOwner owns the policies of the caller's scope.
func (f front) scopeOwner(r call) (access.Owner, error) { return access.ScopeOwner(r.scope.ID), nil }

// hubOwner owns the policies of a hub of these servers.
func (f front) hubOwner(r call) (access.Owner, error) {
	h, err := f.ours(r)
	return access.HubOwner(hub.HostName(h.Host)), err
}

// ours returns the hub of the path, if it is linked to the caller's scope and
// one of these servers: what a hub elsewhere keeps is not here.
func (f front) ours(r call) (provision.LinkedHub, error) {
	h, err := f.linked(r.Context(), r.scope.ID, r.PathValue("host"))
	if err == nil && h.Connection != nil {
		err = errs.New(errs.Conflict, 0, "The hub %s is elsewhere: its policies and messages are not here", h.Host)
	}
	return h, err
}

// mayHandle reports why the caller may not have a policy of owner with some rights,
// or nil: nobody gives out a right, or sees a key with one, that they lack. The
// rights of a hub come with ServiceConfig of its scope.
func (r call) mayHandle(owner access.Owner, rights access.Right) error {
	if lacks := rights &^ r.caller.Rights; owner == access.ScopeOwner(r.scope.ID) && lacks != 0 {
		return errs.New(errs.Forbidden, 0, "Your policy %q lacks %s", r.caller.Policy, lacks)
	}
	return nil
}

// linked returns the hub of a scope that has a host.
func (f front) linked(ctx context.Context, scope device.IDScope, host string) (provision.LinkedHub, error) {
	host, err := parseHost(host)
	if err != nil {
		return provision.LinkedHub{}, err
	}
	linked, err := f.Links.Linked(ctx, scope)
	if err != nil {
		return provision.LinkedHub{}, fmt.Errorf("listing the linked hubs: %w", err)
	}
	i := slices.IndexFunc(linked, func(h provision.LinkedHub) bool { return strings.EqualFold(h.Host, host) })
	if i < 0 {
		return provision.LinkedHub{}, notLinked(host)
	}
	return linked[i], nil
}

func (f front) listPolicies(w http.ResponseWriter, r call, owner access.Owner) error {
	policies, err := f.Policies.Policies(r.Context(), owner)
	if err != nil {
		return err
	}
	all := []policyJSON{}
	for _, p := range policies {
		body, err := f.policyBody(p)
		if err != nil {
			return err
		}
		all = append(all, body)
	}
	return answer(w, all)
}

func (f front) getPolicy(w http.ResponseWriter, r call, owner access.Owner) error {
	p, err := f.policy(r, owner)
	if err != nil {
		return err
	}
	return f.answerPolicy(w, p)
}

func (f front) policy(r call, owner access.Owner) (access.Policy, error) {
	policies, err := f.Policies.Policies(r.Context(), owner)
	if err != nil {
		return access.Policy{}, err
	}
	return access.Find(policies, r.PathValue("policy"))
}

// putPolicy creates a policy, or with If-Match changes one.
func (f front) putPolicy(w http.ResponseWriter, r call, owner access.Owner) error {
	var sent struct {
		Rights       []string `json:"rights"`
		PrimaryKey   string   `json:"primaryKey"`
		SecondaryKey string   `json:"secondaryKey"`
	}
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	next := access.Policy{Name: r.PathValue("policy")}
	var err error
	if next.Rights, err = owner.ParseRights(sent.Rights); err != nil {
		return err
	}
	if err := r.mayHandle(owner, next.Rights); err != nil {
		return err
	}
	for _, k := range []struct {
		member, text string
		key          *device.SymmetricKey
	}{{"primaryKey", sent.PrimaryKey, &next.Primary}, {"secondaryKey", sent.SecondaryKey, &next.Secondary}} {
		if k.text == "" {
			continue
		}
		if *k.key, err = device.ParseSymmetricKey(k.text); err != nil {
			return invalid("%s %s", k.member, err)
		}
	}
	match := f.matches(precondition(r))
	err = f.Policies.ChangePolicies(r.Context(), owner, func(old []access.Policy) ([]access.Policy, error) {
		after, err := access.Put(old, owner, next, match, f.Random)
		if err == nil {
			next, err = access.Find(after, next.Name)
		}
		return after, err
	})
	if err != nil {
		return err
	}
	return f.answerPolicy(w, next)
}

func (f front) deletePolicy(w http.ResponseWriter, r call, owner access.Owner) error {
	match := f.matches(precondition(r))
	err := f.Policies.ChangePolicies(r.Context(), owner, func(old []access.Policy) ([]access.Policy, error) {
		return access.Remove(old, owner, r.PathValue("policy"), match)
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (f front) listKeys(w http.ResponseWriter, r call, owner access.Owner) error {
	p, err := f.policy(r, owner)
	if err == nil {
		err = r.mayHandle(owner, p.Rights)
	}
	if err != nil {
		return err
	}
	return f.answerKeys(w, p)
}

// rollKey makes a fresh key and answers with it: whoever rolls the key that the
// call was signed with could not ask for it afterwards.
func (f front) rollKey(w http.ResponseWriter, r call, owner access.Owner) error {
	var sent struct {
		Key access.Slot `json:"key"`
	}
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	match := f.matches(precondition(r))
	var rolled access.Policy
	err := f.Policies.ChangePolicies(r.Context(), owner, func(old []access.Policy) (after []access.Policy, err error) {
		if after, rolled, err = access.Roll(old, r.PathValue("policy"), sent.Key, match, f.Random); err != nil {
			return nil, err
		}
		return after, r.mayHandle(owner, rolled.Rights)
	})
	if err != nil {
		return err
	}
	return f.answerKeys(w, rolled)
}

// matches judges policies as match judges their entity tags; nil stays nil.
func (f front) matches(match provision.Precondition) access.Match {
	if match == nil {
		return nil
	}
	return func(p access.Policy) bool {
		tag, err := f.policyTag(p)
		return err == nil && match(tag)
	}
}

func (f front) policyTag(p access.Policy) (string, error) {
	return f.tag("policy", p.Name, strconv.Itoa(int(p.Rights)), p.Primary.Base64(), p.Secondary.Base64())
}

func (f front) policyBody(p access.Policy) (policyJSON, error) {
	tag, err := f.policyTag(p)
	return policyJSON{p.Name, p.Rights.Names(), dpsjson.EncodeETag(tag)}, err
}

func (f front) answerPolicy(w http.ResponseWriter, p access.Policy) error {
	body, err := f.policyBody(p)
	if err != nil {
		return err
	}
	return answerTagged(w, body.ETag, body)
}

func (f front) answerKeys(w http.ResponseWriter, p access.Policy) error {
	body, err := f.policyBody(p)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answerTagged(w, body.ETag, policyKeysJSON{body, p.Primary.Base64(), p.Secondary.Base64()})
}
