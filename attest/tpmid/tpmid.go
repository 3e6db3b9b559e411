// Package tpmid decides whether a device holds the TPM of its enrollment. The
// proof is a challenge: a nonce key is sealed so that only the TPM with the
// enrolled endorsement key and the presented storage root key can use it, and
// the device answers with a token signed by that key.
package tpmid

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/sas"
)

// KeyName is the key name a device puts into the token it signs with a nonce
// key.
const KeyName = "registration"

// Keys are the two public keys of one TPM that a challenge is made for.
type Keys struct{ EndorsementKey, StorageRootKey *tpm.Public }

// VerifyKeys judges the keys a device presents: the endorsement key must be
// the enrolled one, and the storage root key must be one that cannot leave a
// TPM, and the enrolled one where the enrollment names it. Nothing secret may
// be sealed to keys this refuses: a key made in software can be loaded under
// the real storage root key and posed as it, and whoever made it would read
// what is sealed to it in clear.
//
// Acceptance proves nothing about the device yet: public keys are public.
func VerifyKeys(enrolled, presented attest.TPM) (Keys, attest.Verdict) {
	var v attest.Verdict
	if !bytes.Equal(enrolled.EndorsementKey, presented.EndorsementKey) {
		v.Refuse(errs.New(errs.Invalid, errs.CodeBadRequest, "Endorsement key is invalid, or does not match the Enrollment."),
			"endorsement key", "the presented endorsement key (%s) is not the enrolled one (%s)",
			describe(presented.EndorsementKey), describe(enrolled.EndorsementKey))
		return Keys{}, v
	}
	v.Saw("endorsement key", "the presented endorsement key is the enrolled one")
	keys, templates := VerifyTemplates(presented)
	v.Findings, v.Refusal = append(v.Findings, templates.Findings...), templates.Refusal
	if !v.Accepted() {
		return Keys{}, v
	}
	if len(enrolled.StorageRootKey) > 0 && !bytes.Equal(enrolled.StorageRootKey, presented.StorageRootKey) {
		v.Refuse(errs.New(errs.Invalid, errs.CodeBadRequest, "Storage root key is invalid, or does not match the Enrollment."),
			"storage root key", "the presented storage root key is not the enrolled one; it changes when the TPM is cleared")
		return Keys{}, v
	}
	return keys, v
}

// VerifyTemplates judges by their public areas alone whether keys are such as
// cannot leave a TPM. Whose they are it does not say: that is for an enrollment,
// or for what a group knows of the endorsement key.
func VerifyTemplates(presented attest.TPM) (Keys, attest.Verdict) {
	var v attest.Verdict
	ek, err := tpm.ParsePublic(presented.EndorsementKey)
	if err == nil {
		err = tpm.CheckEK(ek)
	}
	if err != nil {
		v.Refuse(errs.New(errs.Invalid, errs.CodeBadRequest, "Endorsement key is invalid, or does not match the Enrollment."), "endorsement key", "%v", err)
		return Keys{}, v
	}
	srk, err := tpm.ParsePublic(presented.StorageRootKey)
	if err == nil {
		err = tpm.CheckSRK(srk)
	}
	if err != nil {
		v.Refuse(errs.New(errs.Invalid, errs.CodeBadRequest, "Storage root key is invalid."), "storage root key", "%v", err)
		return Keys{}, v
	}
	v.Saw("storage root key", "its attributes say that it cannot leave a TPM")
	return Keys{ek, srk}, v
}

// VerifyToken judges a token against the nonce keys of the challenges that are
// still good, newest first.
func VerifyToken(nonceKeys []device.SymmetricKey, token *sas.Token, claim attest.Claim, now time.Time) attest.Verdict {
	var v attest.Verdict
	if token == nil {
		v.Refuse(attest.Unauthorized(), "token", "no SAS token was presented")
		return v
	}
	for _, key := range nonceKeys {
		if token.SignedBy(key.Bytes()) {
			v.Saw("challenge", "the token was signed with the key that only this TPM could open")
			attest.CheckClaims(&v, *token, claim, now)
			return v
		}
	}
	v.Refuse(attest.Unauthorized(), "challenge", "the token was signed with no nonce key that is still good for this TPM")
	return v
}

// Windows returns the numbers of the time windows whose challenges are still
// good at now, newest first: the current one and the one before. A challenge
// therefore lives between one and two lengths.
func Windows(now time.Time, length time.Duration) [2]int64 {
	n := now.UnixNano() / int64(length)
	return [2]int64{n, n - 1}
}

// NonceInfo names the one challenge that a nonce key is derived for. Every
// member is length-prefixed, so that no two challenges share a name.
func NonceInfo(scope device.IDScope, id device.RegistrationID, keys Keys, window int64) []byte {
	info := []byte("berth tpm challenge 1\x00")
	for _, member := range [][]byte{[]byte(scope), []byte(id), keys.EndorsementKey.Name(), keys.StorageRootKey.Name()} {
		info = binary.BigEndian.AppendUint16(info, uint16(len(member)))
		info = append(info, member...)
	}
	return binary.BigEndian.AppendUint64(info, uint64(window))
}

// describe names an endorsement key by the registration ID that SDKs derive
// from it: the form an operator meets.
func describe(ek []byte) string {
	if len(ek) == 0 {
		return "none"
	}
	return tpm.RegistrationID(ek)
}
