package provision

import (
	"bytes"
	"encoding/asn1"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/symkey"
	"github.com/berth-iot/berth/enroll"
)

// A registration takes one of two ways.
//
// The fast one is a single commit: the identity at a hub of these servers and the
// record (Records.Together).
//
// The slow one is for what no commit can hold: a hub elsewhere, or a webhook that
// is asked which hub it is to be. The record is written with status assigning and
// everything that is needed to go on (Pending), and the device is told to poll.
// Any server may then work on it under a lease: it moves Pending.Due and .Lease to
// the end of the time that it gives itself, and nobody else begins before that.
//
// What must stay true, on any number of servers and whoever is killed when:
//
//	When a record says assigned, the key or thumbprint in that registration is
//	the one that its hub was told last.
//
// It does because nobody tells a hub anything about a device unless he holds its
// record, by one of the two: in one commit with it, which reads it first and so
// locks it, or under a lease of it. So:
//
//   - A lease is taken from a record that is assigning and free, and never from
//     one that is assigned; and the record becomes assigned only while the lease is
//     still the one that was taken (of the same operation and until the same
//     instant).
//   - What a lease's holder tells a hub ends with a context that ends well before
//     the lease (attemptTime and leaseTime): servers whose clocks differ by less
//     than the difference agree on who may speak.
//   - A lease that is out is in the record until it is over: another registration
//     of the device, whatever would come of it, waits for its end, and the record
//     is not deleted.
//
// How far an attempt came is not known when it was cut off. The next one does all
// of it again, and Pending.Tried says where the device may have come meanwhile.
const (
	leaseTime   = 2 * time.Minute
	attemptTime = 80 * time.Second
)

// underWay reports whether the registration is still to be finished.
func (r *Registration) underWay() bool {
	return r != nil && r.Status == Assigning && r.Pending != nil
}

// leased reports whether somebody may be telling hubs about the device.
func (r *Registration) leased(now time.Time) bool {
	return r.underWay() && now.Before(r.Pending.Lease)
}

// same reports whether two readings of a record are of one state, as far as a
// decision about the device depends on it. Either may be nil.
func (r *Registration) same(o *Registration) bool {
	if r == nil || o == nil {
		return r == o
	}
	if r.OperationID != o.OperationID || r.Status != o.Status || r.underWay() != o.underWay() {
		return false
	}
	return !r.underWay() || r.Pending.Lease.Equal(o.Pending.Lease) && r.Pending.Due.Equal(o.Pending.Due)
}

// pending begins what is kept of a call until its registration is finished.
func (c claimant) pending(a *admission, now time.Time) *Pending {
	return &Pending{
		Due: now, Chain: c.chain(a), KeyName: c.keyName(a), Payload: c.Payload,
		APIVersion: c.APIVersion, TrackingID: c.TrackingID, Wire: c.Wire, Remote: c.Remote,
	}
}

// chain is what an X.509 enrollment of this kind looks at of the certificates
// that were shown.
func (c claimant) chain(a *admission) (der []byte) {
	if a.entry.Attestation.Type != attest.TypeX509 {
		return nil
	}
	for _, cert := range c.Credential.Chain {
		der = append(der, cert.Raw...)
		if a.entry.Kind == enroll.Individual {
			break
		}
	}
	return der
}

// keyName is the spelling of the registration ID from which the key of a device
// of a group is derived: its own, or lower case.
func (c claimant) keyName(a *admission) string {
	keys := a.entry.Attestation.SymmetricKey
	switch {
	case a.entry.Kind != enroll.Group || keys == nil:
		return ""
	case symkey.Derive(*keys, c.ID).Primary.Equal(a.keys.Primary):
		return c.ID
	}
	return string(c.key)
}

// isOf reports whether the registration is under way and of a device with the
// same credential as next, which is wanted this time: then it goes on.
func (r *Registration) isOf(next *Registration, shown *Pending) bool {
	return r.underWay() && r.Attestation == next.Attestation && strings.EqualFold(r.GroupID, next.GroupID) &&
		bytes.Equal(r.StorageRootKey, next.StorageRootKey) && bytes.Equal(r.EndorsementKey, next.EndorsementKey) &&
		r.Pending.KeyName == shown.KeyName && bytes.Equal(r.Pending.leaf(), shown.leaf())
}

// leaf returns the device's own certificate, DER, or nil.
func (p *Pending) leaf() []byte {
	var leaf asn1.RawValue
	if _, err := asn1.Unmarshal(p.Chain, &leaf); err != nil {
		return nil
	}
	return leaf.FullBytes
}
