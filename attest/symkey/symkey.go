// Package symkey decides whether a SAS token proves that a device holds the
// symmetric key of its enrollment, or one derived from its group's keys.
package symkey

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/sas"
)

// DeriveDeviceKey returns the key of one device of an enrollment group:
// HMAC-SHA256 of the registration ID, as the device spells it, under the group
// key (DPS, "symmetric key attestation"). From no key it derives no key: what
// an HMAC makes of an empty one, everybody can make.
func DeriveDeviceKey(group device.SymmetricKey, registrationID string) device.SymmetricKey {
	if group.IsZero() {
		return device.SymmetricKey{}
	}
	mac := hmac.New(sha256.New, group.Bytes())
	mac.Write([]byte(registrationID))
	key, _ := device.NewSymmetricKey(mac.Sum(nil)) // 32 bytes are always a key
	return key
}

// Verify judges a token against a device's own two keys.
func Verify(keys attest.SymmetricKeys, token *sas.Token, claim attest.Claim, now time.Time) attest.Verdict {
	var v attest.Verdict
	if token == nil {
		v.Refuse(attest.Unauthorized(), "token", "no SAS token was presented")
		return v
	}
	slot := signer(keys, *token)
	if slot == "" {
		v.Refuse(attest.Unauthorized(), "signature", "made with neither the primary nor the secondary key")
		return v
	}
	v.Saw("signature", "made with the %s key", slot)
	attest.CheckClaims(&v, *token, claim, now)
	return v
}

// VerifyDerived judges a token against the keys derived from a group's two
// keys, and returns the derived keys when it is accepted or only its claims
// are at fault. A device that hashed the lower-case form of its ID is accepted
// as well: the documentation tells people to use lower case.
func VerifyDerived(group attest.SymmetricKeys, token *sas.Token, claim attest.Claim, now time.Time) (attest.SymmetricKeys, attest.Verdict) {
	var v attest.Verdict
	if token == nil {
		v.Refuse(attest.Unauthorized(), "token", "no SAS token was presented")
		return attest.SymmetricKeys{}, v
	}
	spellings := []string{claim.ID}
	if lower := strings.ToLower(claim.ID); lower != claim.ID {
		spellings = append(spellings, lower)
	}
	for _, id := range spellings {
		derived := Derive(group, id)
		slot := signer(derived, *token)
		if slot == "" {
			continue
		}
		v.Saw("signature", "made with the key derived from the group's %s key for %q", slot, id)
		attest.CheckClaims(&v, *token, claim, now)
		return derived, v
	}
	if signer(group, *token) != "" {
		v.Refuse(attest.Unauthorized(), "signature", "made with the group key itself; a device signs with the key derived from it")
	} else {
		v.Refuse(attest.Unauthorized(), "signature", "made with no key derived from the group's keys for %q", claim.ID)
	}
	return attest.SymmetricKeys{}, v
}

// Derive returns the two keys of one device of an enrollment group; see
// DeriveDeviceKey.
func Derive(group attest.SymmetricKeys, id string) attest.SymmetricKeys {
	return attest.SymmetricKeys{
		Primary:   DeriveDeviceKey(group.Primary, id),
		Secondary: DeriveDeviceKey(group.Secondary, id),
	}
}

// signer names the key that made the token, or returns "".
func signer(keys attest.SymmetricKeys, token sas.Token) string {
	switch {
	case token.SignedBy(keys.Primary.Bytes()):
		return "primary"
	case token.SignedBy(keys.Secondary.Bytes()):
		return "secondary"
	}
	return ""
}
