package provision

import (
	"context"
	"encoding/json"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
)

// A Chooser decides where the devices of an enrollment with allocation policy
// custom live, as its CustomAllocation says.
type Chooser interface {
	// Choose answers q with one of its linked hubs, in the spelling they have
	// there. It may take seconds, asks as often as is worth it within ctx, and may
	// be called again for the same device.
	//
	// Errors are of kind errs.Invalid when the answer is no, or not one: the
	// registration fails. They are of kind errs.Unavailable when there was none,
	// with how long to wait if that is known: it is worth asking again later, and
	// when nobody does any more the registration fails. Either has the code and
	// the message that the device is then told; the cause is for the operator, and
	// holds no secret of the enrollment.
	Choose(ctx context.Context, q Question) (*Choice, error)
}

// A Question asks where a device is to live.
type Question struct {
	Entry   *enroll.Entry // the enrollment that governs the device
	ID      string        // the registration ID, as the device spelled it
	Current Place         // where it lives now; its zero value means nowhere
	// What the device showed and said. At most one of Certificate and TPM is set.
	Certificate []byte          // its leaf, DER
	TPM         *attest.TPM     // its public keys
	Payload     json.RawMessage // any JSON value, or nil
	Linked      []string        // the hosts that may be chosen
}

// WebhookHealth is how the webhook of an enrollment does that failed at least once
// since this server started.
type WebhookHealth struct {
	Scope       device.IDScope `json:"idScope"`
	Kind        enroll.Kind    `json:"kind"`
	ID          string         `json:"id"`       // of the enrollment
	Failures    int            `json:"failures"` // since the last answer
	LastError   string         `json:"lastError"`
	LastFailure time.Time      `json:"lastFailure"`
	LastAnswer  time.Time      `json:"lastAnswer,omitzero"` // after a failure
}
