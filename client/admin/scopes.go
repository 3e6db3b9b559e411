package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/provision"
)

// A Scope is a provisioning tenant as it is read.
type Scope struct {
	IDScope    device.IDScope          `json:"idScope"`
	Home       bool                    `json:"home"`  // whether the server is made for it
	Hosts      []string                `json:"hosts"` // those of the configuration not among them
	Allocation enroll.AllocationPolicy `json:"allocationPolicy"`
	Limits     provision.Limits        `json:"limits"`
	SharedKeys provision.SharedKeys    `json:"sharedKeys"`
	ETag       string                  `json:"etag"`
}

// ScopeChange is what is written of a scope; what is nil stays as it is, or has the
// server's default in one that is made.
type ScopeChange struct {
	Hosts      []string                 `json:"hosts,omitzero"`
	Allocation *enroll.AllocationPolicy `json:"allocationPolicy,omitempty"`
	Limits     *provision.Limits        `json:"limits,omitempty"`
	SharedKeys *provision.SharedKeys    `json:"sharedKeys,omitempty"`
	// IfMatch is the entity tag that the scope must have; empty for any.
	IfMatch string `json:"-"`
}

// Scopes returns every scope of the server, ordered by ID. Like all that has to do
// with other scopes than the client's own it is for operators of the scope that the
// server is made for.
func (c *Client) Scopes(ctx context.Context) ([]Scope, error) {
	var all []Scope
	if err := c.call(ctx, http.MethodGet, "scopes", nil, &all); err != nil {
		return nil, fmt.Errorf("listing the scopes: %w", err)
	}
	return all, nil
}

// Scope returns one scope, or the client's own where id is empty.
func (c *Client) Scope(ctx context.Context, id string) (*Scope, error) {
	var s Scope
	if err := c.call(ctx, http.MethodGet, scopePath(id), nil, &s); err != nil {
		return nil, fmt.Errorf("reading the scope: %w", err)
	}
	return &s, nil
}

// CreateScope makes a scope, with a fresh ID where id is empty, and returns it with
// its owner policy. When the answer is lost the call is not repeated: a second one
// could make a second scope.
func (c *Client) CreateScope(ctx context.Context, id string, change ScopeChange) (*Scope, []PolicyKeys, error) {
	body, err := json.Marshal(struct {
		IDScope string `json:"idScope,omitempty"`
		ScopeChange
	}{id, change})
	if err != nil {
		return nil, nil, err
	}
	var made struct {
		Scope
		Policies []PolicyKeys `json:"policies"`
	}
	if err := c.once(ctx, http.MethodPost, "scopes", body, &made); err != nil {
		return nil, nil, fmt.Errorf("making a scope: %w", err)
	}
	return &made.Scope, made.Policies, nil
}

// ChangeScope changes a scope, or the client's own where id is empty, and returns
// what it is now.
func (c *Client) ChangeScope(ctx context.Context, id string, change ScopeChange) (*Scope, error) {
	body, err := json.Marshal(change)
	if err != nil {
		return nil, err
	}
	var s Scope
	if err := c.callIf(ctx, change.IfMatch, http.MethodPatch, scopePath(id), body, &s); err != nil {
		return nil, fmt.Errorf("changing the scope: %w", err)
	}
	return &s, nil
}

// DeleteScope removes a scope that is empty. After a lost answer the call is
// repeated and may then report 404.
func (c *Client) DeleteScope(ctx context.Context, id string) error {
	if id == "" {
		return errors.New("removing a scope: it has no ID")
	}
	if err := c.call(ctx, http.MethodDelete, scopePath(id), nil, nil); err != nil {
		return fmt.Errorf("removing the scope %s: %w", id, err)
	}
	return nil
}

// ScopeKeys returns the policies of a scope with their keys.
func (c *Client) ScopeKeys(ctx context.Context, id string) ([]PolicyKeys, error) {
	if id == "" {
		return nil, errors.New("reading the keys of a scope: it has no ID")
	}
	var all []PolicyKeys
	if err := c.call(ctx, http.MethodPost, scopePath(id)+"/listKeys", nil, &all); err != nil {
		return nil, fmt.Errorf("reading the keys of the scope %s: %w", id, err)
	}
	return all, nil
}

// SharedKeys returns groups of registration IDs whose individual enrollments have a
// symmetric key in common, each with the first ten of them, and whether there are
// more groups. It takes the right EnrollmentRead.
func (c *Client) SharedKeys(ctx context.Context) (groups [][]string, more bool, err error) {
	var list struct {
		Groups [][]string `json:"groups"`
		More   bool       `json:"more"`
	}
	if err := c.call(ctx, http.MethodGet, "sharedKeys", nil, &list); err != nil {
		return nil, false, fmt.Errorf("listing shared keys: %w", err)
	}
	return list.Groups, list.More, nil
}

func scopePath(id string) string {
	if id == "" {
		return "scope"
	}
	return "scopes/" + url.PathEscape(id)
}
