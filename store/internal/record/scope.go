package record

import (
	"errors"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// ScopeColumns are in the order in which Scope and ScopeValues go through them.
// The first is the key.
const ScopeColumns = "id, allocation, hosts, limits, shared_keys"

// ScopeValues returns the row of a provisioning tenant.
func ScopeValues(s provision.Scope) []any {
	if s.SharedKeys == "" {
		s.SharedKeys = provision.WarnOfSharedKeys
	}
	return []any{
		string(s.ID), string(s.Allocation), encoded(s.Hosts, s.Hosts == nil), encoded(s.Limits, s.Limits == provision.Limits{}),
		string(s.SharedKeys),
	}
}

// Scope reads the row of a provisioning tenant.
func Scope(r *Row) (s provision.Scope, err error) {
	s.ID, s.Allocation = device.IDScope(r.Text()), enroll.AllocationPolicy(r.Text())
	err = errors.Join(r.decode(&s.Hosts), r.decode(&s.Limits))
	s.SharedKeys = provision.SharedKeys(r.Text())
	if err != nil {
		return s, fmt.Errorf("reading the scope %s: %w", s.ID, err)
	}
	return s, nil
}

// IDScope reads the column of an ID scope.
func IDScope(r *Row) (device.IDScope, error) { return device.IDScope(r.Text()), nil }

// ScopeProperty are the tables of what goes with its scope, besides policies.
var ScopeProperty = []string{"ca_certificate", "trust_anchor", "trust_version", "endorsement_key_list", "symmetric_key_use", "hub"}

// ScopeContents are the tables of what must be gone before its scope can be
// removed, and what they are called.
var ScopeContents = []struct{ Table, Name string }{
	{"enrollment", "enrollments"}, {"registration", "registration records"}, {"linked_hub", "linked hubs"},
}

// LinkedHubColumns are in the order in which LinkedHub, after the scope, and
// LinkedHubValues go through them. The first two are the key.
const LinkedHubColumns = "scope, " + LinkedHubMembers

// LinkedHubMembers are what LinkedHub reads.
const LinkedHubMembers = "host, weight, allocation, latency, policy, keys"

// LinkedHubValues returns the row of a linked hub.
func (c Codec) LinkedHubValues(scope device.IDScope, h provision.LinkedHub) ([]any, error) {
	var (
		policy string
		keys   []byte
		err    error
	)
	if h.Connection != nil {
		policy = h.Connection.Policy
		keys, err = sealed.Keys(c.Sealer, attest.SymmetricKeys{Primary: h.Connection.Key}, linkPath(scope, h.Host)...)
	}
	return []any{string(scope), h.Host, int64(h.Weight), h.Allocation, encoded(h.Latency, h.Latency == nil), policy, keys}, err
}

// LinkedHub reads the members of a hub that is linked to scope.
func (c Codec) LinkedHub(scope device.IDScope) func(*Row) (provision.LinkedHub, error) {
	return func(r *Row) (provision.LinkedHub, error) {
		h, keys, err := linkedHub(r)
		if err != nil || h.Connection == nil {
			return h, err
		}
		opened, err := sealed.OpenKeys(c.Sealer, keys, linkPath(scope, h.Host)...)
		h.Connection.Key = opened.Primary
		return h, err
	}
}

// SealedLinkedHub reads the members of a linked hub and leaves the key of its
// connection where it is.
func SealedLinkedHub(r *Row) (provision.LinkedHub, error) {
	h, _, err := linkedHub(r)
	return h, err
}

func linkedHub(r *Row) (h provision.LinkedHub, keys []byte, err error) {
	h.Host, h.Weight, h.Allocation = r.Text(), int(r.Number()), r.Flag()
	if err = r.decode(&h.Latency); err != nil {
		err = fmt.Errorf("reading the linked hub %s: %w", h.Host, err)
	}
	policy, keys := r.Text(), r.Blob()
	if policy != "" || keys != nil {
		h.Connection = &provision.Connection{Policy: policy}
	}
	return h, keys, err
}

// linkPath names a link for what is sealed in it. Hosts are compared without
// case.
func linkPath(scope device.IDScope, host string) []string {
	return []string{"linked_hub", string(scope), strings.ToLower(host)}
}
