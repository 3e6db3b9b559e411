package enroll

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// generatedKeySize is the size in bytes of the symmetric keys made here.
const generatedKeySize = 64

// Change returns what the enrollment becomes when next is put in the place of
// old (nil when there is none yet). match judges old's entity tag as the
// caller's If-Match asks; without one, next must be new. What next leaves open
// (symmetric keys, certificates given only as "unchanged") is taken from old or
// made. It stores nothing and reads no clock.
//
// Errors: errs.Conflict (it exists), errs.NotFound (nothing to update),
// errs.Precondition (the tag is not the current one), errs.Invalid.
func Change(old, next *Entry, match func(etag string) bool, now time.Time, random io.Reader) (*Entry, error) {
	if err := guard(old, match); err != nil {
		return nil, err
	}
	changed := *next
	if err := completeCertificates(old, &changed); err != nil {
		return nil, err
	}
	if err := completeTPMGroup(old, &changed); err != nil {
		return nil, err
	}
	if err := Validate(&changed); err != nil {
		return nil, err
	}
	if err := completeKeys(old, &changed, random); err != nil {
		return nil, err
	}
	etag, err := errs.NewUUID(random)
	if err != nil {
		return nil, err
	}
	changed.ETag, changed.Created, changed.Updated = etag, now, now
	if old != nil {
		changed.Created = old.Created
	}
	return &changed, nil
}

// Remove says whether old may be removed. Without a match it may.
func Remove(old *Entry, match func(etag string) bool) error {
	if old == nil {
		return NotFound()
	}
	if match != nil && !match(old.ETag) {
		return stale()
	}
	return nil
}

func guard(old *Entry, match func(etag string) bool) error {
	switch {
	case old == nil && match != nil:
		return NotFound()
	case old != nil && match == nil:
		return errs.New(errs.Conflict, errs.CodeEnrollmentConflict, "Enrollment already exists.")
	case old != nil && !match(old.ETag):
		return stale()
	}
	return nil
}

// NotFound is the error for an enrollment that does not exist.
func NotFound() error {
	return errs.New(errs.NotFound, errs.CodeEnrollmentNotFound, "Enrollment not found.")
}

func stale() error {
	return errs.New(errs.Precondition, errs.CodePrecondition, "The etag is not the current one; read the enrollment again.")
}

// completeKeys keeps old's symmetric keys where next has none, and makes those
// that are still missing. Clients read an enrollment, which hides its keys, and
// write it back.
func completeKeys(old, next *Entry, random io.Reader) error {
	if next.Attestation.Type != attest.TypeSymmetricKey {
		return nil
	}
	var keys attest.SymmetricKeys
	if next.Attestation.SymmetricKey != nil {
		keys = *next.Attestation.SymmetricKey
	}
	if old != nil && old.Attestation.SymmetricKey != nil {
		if keys.Primary.IsZero() {
			keys.Primary = old.Attestation.SymmetricKey.Primary
		}
		if keys.Secondary.IsZero() {
			keys.Secondary = old.Attestation.SymmetricKey.Secondary
		}
	}
	for _, key := range []*device.SymmetricKey{&keys.Primary, &keys.Secondary} {
		if !key.IsZero() {
			continue
		}
		made, err := device.GenerateSymmetricKey(random, generatedKeySize)
		if err != nil {
			return err
		}
		*key = made
	}
	next.Attestation.SymmetricKey = &keys
	return nil
}

// completeCertificates puts the stored certificates into the slots that say
// "unchanged".
func completeCertificates(old, next *Entry) error {
	a := next.Attestation.X509
	if a == nil {
		return nil
	}
	kept := *a
	var stored attest.X509
	if old != nil && old.Attestation.X509 != nil && old.Attestation.X509.Use == a.Use {
		stored = *old.Attestation.X509
	}
	for _, slot := range []struct {
		name   string
		now    *[]byte
		before []byte
	}{{"primary", &kept.Primary, stored.Primary}, {"secondary", &kept.Secondary, stored.Secondary}} {
		if *slot.now == nil || len(*slot.now) > 0 {
			continue
		}
		if len(slot.before) == 0 {
			return invalid("attestation.x509."+string(a.Use)+"."+slot.name, "has no certificate, and none is stored to keep")
		}
		*slot.now = slot.before
	}
	next.Attestation.X509 = &kept
	return nil
}

// completeTPMGroup puts the stored certificates of a TPM group where next names
// them by their digests, and keeps the stored list where next has no keys for one.
func completeTPMGroup(old, next *Entry) error {
	if next.Attestation.TPMGroup == nil {
		return nil
	}
	kept := *next.Attestation.TPMGroup
	var stored attest.TPMGroup
	if old != nil && old.Attestation.TPMGroup != nil {
		stored = *old.Attestation.TPMGroup
	}
	for _, slot := range []struct {
		name   string
		now    *[][]byte
		before [][]byte
	}{
		{"roots", &kept.Roots, stored.Roots},
		{"intermediates", &kept.Intermediates, stored.Intermediates},
		{"testRoots", &kept.TestRoots, stored.TestRoots},
	} {
		certificates := slices.Clone(*slot.now)
		for i, c := range certificates {
			if len(c) != sha256.Size {
				continue
			}
			j := slices.IndexFunc(slot.before, func(der []byte) bool { return sha256.Sum256(der) == [sha256.Size]byte(c) })
			if j < 0 {
				return invalid(fmt.Sprintf("attestation.tpm.endorsementCertificates.%s[%d]", slot.name, i),
					"has no certificate, and none with its sha256Thumbprint is stored to keep")
			}
			certificates[i] = slot.before[j]
		}
		*slot.now = certificates
	}
	if kept.List != nil && kept.List.Keys == nil {
		kept.List = &attest.EKList{}
		if stored.List != nil {
			*kept.List = *stored.List
		}
	}
	next.Attestation.TPMGroup = &kept
	return nil
}
