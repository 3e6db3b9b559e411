package record

import (
	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/sealed"
)

// Scope reads the columns id and allocation of a provisioning tenant.
func Scope(r *Row) (provision.Scope, error) {
	return provision.Scope{ID: device.IDScope(r.Text()), Allocation: enroll.AllocationPolicy(r.Text())}, nil
}

// LinkedHub reads the columns host, weight and allocation of a linked hub.
func LinkedHub(r *Row) (provision.LinkedHub, error) {
	return provision.LinkedHub{Host: r.Text(), Weight: int(r.Number()), Allocation: r.Flag()}, nil
}

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
