package admin

import (
	"net/http"
	"slices"

	"github.com/berth-iot/berth/provision"
)

// webhooks says how the webhooks of the scope's enrollments do that failed.
func (f front) webhooks(w http.ResponseWriter, r call) error {
	found := slices.DeleteFunc(f.Webhooks(), func(h provision.WebhookHealth) bool { return h.Scope != r.scope.ID })
	if found == nil {
		found = []provision.WebhookHealth{}
	}
	return answer(w, found)
}
