package admin

import (
	"context"
	"net/http"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
)

// Sharers knows which enrollments have a symmetric key in common.
type Sharers interface {
	// SharedKeys returns up to limit groups of IDs of individual enrollments with
	// one key, each with the first ten of them. It checks the caller's right.
	SharedKeys(ctx context.Context, caller access.Caller, scope device.IDScope, limit int) ([][]string, error)
}

// maxSharedKeys is how many groups are listed.
const maxSharedKeys = 1000

// sharedKeysJSON lists groups of enrollments. Each has one key.
type sharedKeysJSON struct {
	Groups [][]string `json:"groups"`
	More   bool       `json:"more"` // whether there are more groups than these
}

func (f front) sharedKeys(w http.ResponseWriter, r call) error {
	groups, err := f.Sharers.SharedKeys(r.Context(), r.caller, r.scope.ID, maxSharedKeys+1)
	if err != nil {
		return err
	}
	list := sharedKeysJSON{Groups: groups}
	if len(groups) > maxSharedKeys {
		list = sharedKeysJSON{groups[:maxSharedKeys], true}
	}
	if list.Groups == nil {
		list.Groups = [][]string{}
	}
	return answer(w, list)
}
