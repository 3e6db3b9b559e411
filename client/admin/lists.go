package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/berth-iot/berth/client/internal/rest"
)

// A List says what list of endorsement keys a TPM group has.
type List struct {
	Count  int    `json:"count"`
	SHA256 string `json:"sha256"` // of the stored list, whatever the order of its lines, upper-case hexadecimal
	ETag   string `json:"etag"`   // of the group
}

// PutEndorsementKeys gives an enrollment group for TPMs its list of endorsement
// keys, in place of the one it may have: one key a line, or a table with a column
// endorsementKey (see ekcert.ParseList), at most 64 MiB.
func (c *Client) PutEndorsementKeys(ctx context.Context, group string, list []byte) (*List, error) {
	if group == "" {
		return nil, errors.New("uploading endorsement keys: the group is empty")
	}
	answer, err := c.rest.Do(ctx, rest.Request{
		Method: http.MethodPut, Path: "/berth/v1/enrollmentGroups/" + url.PathEscape(group) + "/endorsementKeys", Body: list,
		Header:    http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
		Authorize: c.authorize, Repeatable: true, MaxAnswer: maxAnswer,
	})
	var now List
	if err == nil {
		err = answer.JSON(&now)
	}
	if err != nil {
		return nil, fmt.Errorf("uploading the endorsement keys of %s: %w", group, err)
	}
	return &now, nil
}
