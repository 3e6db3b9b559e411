package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"
	"time"

	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/tpm/tpmtest"
)

// The ways by which devices prove who they are.
const (
	symmetricKey  = "symmetric key"
	byTPM         = "TPM"
	byCertificate = "certificate"
	byGroupKey    = "group key"
	byCA          = "CA"

	registered = "registered" // those that came before
)

// individualID is the registration ID of a device: neighbours in number are far
// apart in a table that is ordered by ID.
func individualID(way string, number int) string {
	digest := sha256.Sum256(fmt.Appendf(nil, "%s %d", way, number))
	return hex.EncodeToString(digest[:10])
}

// A fleet is the devices that are measured, with what they prove themselves by.
// All servers know them.
type fleet struct {
	options
	groupKey  device.SymmetricKey
	keys      []device.SymmetricKey // of the devices with a symmetric key of their own
	tpm       *tpmtest.TPM          // of every device with one: making keys takes long, and whose they are makes no difference
	root      *pki.Issuer
	byCA      []*pki.Leaf // issued by an intermediate below the root
	certified []*pki.Leaf // the same, each enrolled
}

func newFleet(o options) (_ *fleet, err error) {
	f := &fleet{options: o}
	f.groupKey, err = device.GenerateSymmetricKey(rand.Reader, keySize)
	return f, err
}

// prepare makes what devices register with, the key of the group aside.
func (f *fleet) prepare() (err error) {
	if f.tpm, err = tpmtest.New(); err != nil {
		return err
	}
	now := time.Now()
	if f.root, err = pki.NewRoot("Bench Root CA", now, rand.Reader); err != nil {
		return err
	}
	intermediate, err := f.root.NewIntermediate("Bench Intermediate CA", now, rand.Reader)
	if err != nil {
		return err
	}
	n := f.total()
	f.keys = make([]device.SymmetricKey, n)
	f.byCA, f.certified = make([]*pki.Leaf, n), make([]*pki.Leaf, n)
	return concurrently(context.Background(), runtime.GOMAXPROCS(0), n, func(_ context.Context, i int) (err error) {
		if f.keys[i], err = device.GenerateSymmetricKey(rand.Reader, keySize); err != nil {
			return err
		}
		if f.byCA[i], err = intermediate.IssueDevice(individualID(byCA, i), now, rand.Reader); err != nil {
			return err
		}
		f.certified[i], err = intermediate.IssueDevice(individualID(byCertificate, i), now, rand.Reader)
		return err
	})
}

// keySize is that of the keys the service makes, in bytes.
const keySize = 64

// pool is how many devices of each way have an enrollment of their own among so
// many: a third of them, if there are not more than take part.
func (f *fleet) pool(enrollments int) int { return min(f.total(), thirds(enrollments)) }

// thirds is how many enrollments there are of each mechanism, at least.
func thirds(enrollments int) int { return (enrollments - groups) / 3 }

// groups is how many of the enrollments are groups.
const groups = 2

func (f *fleet) derived(id string) device.SymmetricKey {
	return provisioning.DeriveDeviceKey(f.groupKey, id)
}
