package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
)

// A Policy is a shared access policy without its keys.
type Policy struct {
	Name   string   `json:"name"`
	Rights []string `json:"rights"` // "ServiceConfig", "EnrollmentRead"; of a hub "RegistryRead"
	ETag   string   `json:"etag"`
}

// PolicyKeys are a policy and its two keys. They do not print.
type PolicyKeys struct {
	Policy
	Primary, Secondary device.SymmetricKey
}

// UnmarshalJSON reads the keys from base64. No error repeats them.
func (k *PolicyKeys) UnmarshalJSON(b []byte) error {
	var v struct {
		Policy
		PrimaryKey, SecondaryKey string
	}
	err := json.Unmarshal(b, &v)
	k.Policy = v.Policy
	var err1, err2 error
	k.Primary, err1 = device.ParseSymmetricKey(v.PrimaryKey)
	k.Secondary, err2 = device.ParseSymmetricKey(v.SecondaryKey)
	return errors.Join(err, err1, err2)
}

// ConnectionString returns what programs are given to use the policy at host,
// with the key in a slot. It is a secret.
func (k *PolicyKeys) ConnectionString(host string, slot access.Slot) string {
	key := k.Primary
	if slot == access.Secondary {
		key = k.Secondary
	}
	return "HostName=" + host + ";SharedAccessKeyName=" + k.Name + ";SharedAccessKey=" + key.Base64()
}

// Policies returns the policies of a hub of these servers, or where hub is empty
// those of the scope, ordered by name.
func (c *Client) Policies(ctx context.Context, hub string) ([]Policy, error) {
	path, err := policiesPath(hub)
	if err != nil {
		return nil, err
	}
	var all []Policy
	if err := c.call(ctx, http.MethodGet, path, nil, &all); err != nil {
		return nil, fmt.Errorf("listing policies: %w", err)
	}
	return all, nil
}

// PutPolicy creates a policy (ifMatch empty), or gives one its rights whose
// entity tag is ifMatch, * for any. Keys that are zero stay as they are, or the
// server makes them.
func (c *Client) PutPolicy(ctx context.Context, hub string, p PolicyKeys, ifMatch string) (*Policy, error) {
	path, err := policyPath(hub, p.Name)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(struct {
		Rights       []string `json:"rights"`
		PrimaryKey   string   `json:"primaryKey,omitempty"`
		SecondaryKey string   `json:"secondaryKey,omitempty"`
	}{p.Rights, p.Primary.Base64(), p.Secondary.Base64()})
	if err != nil {
		return nil, err
	}
	var put Policy
	if err := c.callIf(ctx, ifMatch, http.MethodPut, path, body, &put); err != nil {
		return nil, fmt.Errorf("putting policy %s: %w", p.Name, err)
	}
	return &put, nil
}

// PolicyKeys returns a policy with its keys.
func (c *Client) PolicyKeys(ctx context.Context, hub, name string) (*PolicyKeys, error) {
	path, err := policyPath(hub, name)
	if err != nil {
		return nil, err
	}
	var keys PolicyKeys
	if err := c.call(ctx, http.MethodPost, path+"/listKeys", nil, &keys); err != nil {
		return nil, fmt.Errorf("reading the keys of policy %s: %w", name, err)
	}
	return &keys, nil
}

// RollKey puts a fresh key in a slot of a policy whose entity tag is ifMatch,
// empty for any, and returns both keys. The one before opens nothing any more.
// When the answer is lost the call may be repeated; the fresh key is then another
// one.
func (c *Client) RollKey(ctx context.Context, hub, name string, slot access.Slot, ifMatch string) (*PolicyKeys, error) {
	path, err := policyPath(hub, name)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]access.Slot{"key": slot})
	if err != nil {
		return nil, err
	}
	var keys PolicyKeys
	if err := c.callIf(ctx, ifMatch, http.MethodPost, path+"/rollKey", body, &keys); err != nil {
		return nil, fmt.Errorf("rolling the %s key of policy %s: %w", slot, name, err)
	}
	return &keys, nil
}

// DeletePolicy removes a policy whose entity tag is ifMatch, empty for any. After
// a lost answer the call is repeated and may then report 404.
func (c *Client) DeletePolicy(ctx context.Context, hub, name, ifMatch string) error {
	path, err := policyPath(hub, name)
	if err != nil {
		return err
	}
	if err := c.callIf(ctx, ifMatch, http.MethodDelete, path, nil, nil); err != nil {
		return fmt.Errorf("removing policy %s: %w", name, err)
	}
	return nil
}

func policiesPath(hub string) (string, error) {
	if hub == "" {
		return "policies", nil
	}
	path, err := hubPath(hub)
	return path + "/policies", err
}

func policyPath(hub, name string) (string, error) {
	if name == "" {
		return "", errors.New("the policy has no name")
	}
	path, err := policiesPath(hub)
	return path + "/" + url.PathEscape(name), err
}
