package hubhttp

import (
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// about reads what documents say about a device or a module beside what is written
// of it.
func (a api) about(r *rest.Request, at hub.Place) (hub.About, error) {
	of, err := a.aboutAll(r, at.Hub, at.ID, at.ID)
	if err != nil {
		return hub.About{}, err
	}
	return of(at), nil
}

// aboutAll is about for all devices of a hub whose IDs are between first and last,
// and their modules.
func (a api) aboutAll(r *rest.Request, host string, first, last device.ID) (of func(hub.Place) hub.About, err error) {
	waiting, err := a.Service.Waiting(r.Context(), host, first, last)
	if err != nil {
		return nil, err
	}
	known, err := a.Service.Presences(r.Context(), host, first, last)
	if err != nil {
		return nil, err
	}
	return func(at hub.Place) hub.About {
		now := hub.About{Presence: known[at]}
		now.Connected = now.Connected || a.Service.Connected(at)
		if at.Module == "" {
			now.Waiting = waiting[at.ID]
		}
		return now
	}, nil
}
