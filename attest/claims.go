package attest

import (
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/sas"
)

// Skew is how far a device's clock may be behind ours: devices without a
// battery-backed clock ask a network for the time and are seldom exact.
const Skew = 5 * time.Minute

// A Claim is who the device says it is.
type Claim struct {
	Scope device.IDScope
	ID    string // as the device spelled it
}

// CheckClaims looks at what a token with a good signature says: whom it is
// for, which key it names and until when it holds. Symmetric key and TPM
// attestation ask the same.
func CheckClaims(v *Verdict, token sas.Token, claim Claim, now time.Time) {
	if want := sas.DeviceResource(string(claim.Scope), claim.ID); !sas.SameResource(token.Resource, want) {
		v.Refuse(Unauthorized(), "audience", "the token is for %q, not for %q", token.Resource, want)
		return
	}
	v.Saw("audience", "the token is for this registration")
	if token.KeyName != "" && token.KeyName != "registration" {
		v.Refuse(Unauthorized(), "key name", "skn is %q, not registration", token.KeyName)
		return
	}
	expiry := token.Expiry.UTC().Format(time.RFC3339)
	if token.Expired(now, Skew) {
		v.Refuse(Unauthorized(), "expiry", "the token expired at %s; it is %s here", expiry, now.UTC().Format(time.RFC3339))
		return
	}
	v.Saw("expiry", "the token holds until %s", expiry)
}
