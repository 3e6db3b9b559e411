package hubhttp

import (
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/hub"
)

// A presence is what documents say about a device or a module beside what is
// written of it.
type presence struct {
	hub.Presence
	waiting int // messages in its queue
}

func (a api) presence(r *rest.Request, at hub.Place) (presence, error) {
	of, err := a.presences(r, at.Hub, at.ID, at.ID)
	if err != nil {
		return presence{}, err
	}
	return of(at), nil
}

// presences reads about all devices of a hub whose IDs are between first and last,
// and their modules.
func (a api) presences(r *rest.Request, host string, first, last device.ID) (of func(hub.Place) presence, err error) {
	waiting, err := a.Service.Waiting(r.Context(), host, first, last)
	if err != nil {
		return nil, err
	}
	known, err := a.Service.Presences(r.Context(), host, first, last)
	if err != nil {
		return nil, err
	}
	return func(at hub.Place) presence {
		p := presence{Presence: known[at]}
		p.Connected = p.Connected || a.Service.Connected(at)
		if at.Module == "" {
			p.waiting = waiting[at.ID]
		}
		return p
	}, nil
}

func (p presence) connectionState() string {
	if p.Connected {
		return "Connected"
	}
	return "Disconnected"
}
