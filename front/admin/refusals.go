package admin

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/berth-iot/berth/hub"
)

// Refusals knows whom the hubs of these servers did not let in.
type Refusals interface {
	// Refusals returns those of a device of a hub, or the one with a tracking ID,
	// newest first.
	Refusals(hub, id string) []hub.Refusal
}

// refusals answers those of all hubs of the scope, newest first.
func (f front) refusals(w http.ResponseWriter, r call) error {
	linked, err := f.Links.Linked(r.Context(), r.scope.ID)
	if err != nil {
		return fmt.Errorf("listing the linked hubs: %w", err)
	}
	found := []hub.Refusal{}
	for _, h := range linked {
		if h.Connection == nil {
			found = append(found, f.Refusals.Refusals(hub.HostName(h.Host), r.PathValue("id"))...)
		}
	}
	slices.SortStableFunc(found, func(a, b hub.Refusal) int { return b.Time.Compare(a.Time) })
	return answer(w, found)
}
