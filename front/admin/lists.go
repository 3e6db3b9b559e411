package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// Lists gives TPM groups their lists of endorsement keys.
type Lists interface {
	// PutEndorsementKeys puts list in place of the one that the group may have,
	// if match (nil for any) accepts the group's entity tag, and returns the
	// group. It checks the caller's right and is durable when it returns.
	PutEndorsementKeys(ctx context.Context, caller access.Caller, scope device.IDScope, group string, list *ekcert.List, match provision.Precondition) (*enroll.Entry, error)
}

const (
	// maxList is the longest list that is read, in bytes: 150,000 keys as
	// TPM2B_PUBLIC in base64, or a million digests.
	maxList = 64 << 20
	// listTimeout is how long its sender may take.
	listTimeout = 5 * time.Minute
)

// listJSON says what list a group has now.
type listJSON struct {
	Count  int    `json:"count"`
	SHA256 string `json:"sha256"`
	ETag   string `json:"etag"` // of the group, as in its body
}

// putList reads a list as it comes, line by line: the text is never held as a
// whole. Who may write enrollments may write this part of one.
func (f front) putList(w http.ResponseWriter, r call) error {
	if r.ContentLength > maxList {
		return listTooLarge(w)
	}
	connection := http.NewResponseController(w)
	connection.SetReadDeadline(f.Now().Add(listTimeout)) // where it cannot be set the server's own holds
	connection.SetWriteDeadline(f.Now().Add(2 * listTimeout))
	list, err := ekcert.ParseList(http.MaxBytesReader(w, r.Body, maxList))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return listTooLarge(w)
	}
	if err != nil {
		return invalid("%s", err)
	}
	group, err := f.Lists.PutEndorsementKeys(r.Context(), r.caller, r.scope.ID, r.PathValue("id"), list, precondition(r))
	if err != nil {
		return err
	}
	now := group.Attestation.TPMGroup.List
	return answer(w, listJSON{now.Count, now.Digest, dpsjson.EncodeETag(group.ETag)})
}

func listTooLarge(w http.ResponseWriter) error {
	w.Header().Set("Connection", "close") // rather than read the rest of it
	return errs.New(errs.TooLarge, 0, "The list is longer than %d bytes; the SHA-256 digests of the keys are shorter than the keys", maxList)
}
