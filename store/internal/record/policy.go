package record

import (
	"slices"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// PolicyKeys seals the two keys of a policy.
func (c Codec) PolicyKeys(owner access.Owner, p access.Policy) ([]byte, error) {
	return sealed.Keys(c.Sealer, attest.SymmetricKeys{Primary: p.Primary, Secondary: p.Secondary}, "policy", string(owner), p.Name)
}

// Policy reads the columns name, rights and keys of a policy of owner.
func (c Codec) Policy(owner access.Owner) func(*Row) (access.Policy, error) {
	return func(r *Row) (access.Policy, error) {
		p := access.Policy{Name: r.Text(), Rights: access.Right(r.Number())}
		keys, err := sealed.OpenKeys(c.Sealer, r.Blob(), "policy", string(owner), p.Name)
		p.Primary, p.Secondary = keys.Primary, keys.Secondary
		return p, err
	}
}

// A PolicyChange is what becomes of the policies of an owner.
type PolicyChange struct {
	Remove []string // names
	Put    []PolicyRow
}

// A PolicyRow is a policy to be written.
type PolicyRow struct {
	Name   string
	Rights access.Right
	Keys   []byte // sealed
}

// PolicyChange asks decide what becomes of old.
func (c Codec) PolicyChange(owner access.Owner, old []access.Policy, decide func([]access.Policy) ([]access.Policy, error)) (PolicyChange, error) {
	before := slices.Clone(old) // decide may change what it is given
	next, err := decide(old)
	if err != nil {
		return PolicyChange{}, err
	}
	named := func(name string) func(access.Policy) bool {
		return func(p access.Policy) bool { return strings.EqualFold(p.Name, name) }
	}
	var change PolicyChange
	for _, p := range before {
		if !slices.ContainsFunc(next, named(p.Name)) {
			change.Remove = append(change.Remove, p.Name)
		}
	}
	for _, p := range next {
		if i := slices.IndexFunc(before, named(p.Name)); i >= 0 && samePolicy(before[i], p) {
			continue
		}
		keys, err := c.PolicyKeys(owner, p)
		if err != nil {
			return PolicyChange{}, err
		}
		change.Put = append(change.Put, PolicyRow{p.Name, p.Rights, keys})
	}
	return change, nil
}

func samePolicy(a, b access.Policy) bool {
	return a.Name == b.Name && a.Rights == b.Rights && a.Primary.Equal(b.Primary) && a.Secondary.Equal(b.Secondary)
}
