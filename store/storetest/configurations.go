package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

func configuration(host, id string) *hub.Configuration {
	c := filled[*hub.Configuration]()
	c.Hub, c.ID = host, id
	// JSON is kept as what it says: it came in a document.
	settings := hub.Settings{"properties.desired.a": json.RawMessage(`{"b":1}`), "properties.desired.c": json.RawMessage(`"<é>"`)}
	c.Content = hub.ConfigurationContent{Device: settings, Module: settings, Modules: map[device.ID]hub.Settings{"$edgeAgent": settings, "m1": {}}}
	return c
}

func putConfiguration(ctx context.Context, s Store, c *hub.Configuration) error {
	return s.ChangeConfiguration(ctx, c.Hub, c.ID, func(*hub.Configuration, int) (*hub.Configuration, error) { return c, nil })
}

var configurationRules = []rule{
	{"a configuration is what was put, in every member, and found by its hub and ID", func(t *testing.T, s Store) {
		want := []*hub.Configuration{configuration("hub-1", "a"), configuration("hub-1", "b")}
		for range 2 { // made, and replaced
			for i := range want {
				c := want[len(want)-1-i]
				noError(t, putConfiguration(t.Context(), s, c))
			}
		}
		other := &hub.Configuration{Hub: "hub-2", ID: "a", Created: epoch, Updated: epoch}
		noError(t, putConfiguration(t.Context(), s, other))
		got, err := s.Configurations(t.Context(), "hub-1")
		noError(t, err)
		same(t, got, want)
		got, err = s.Configurations(t.Context(), "hub-2")
		noError(t, err)
		same(t, got, []*hub.Configuration{other})
		hubs, err := s.ConfiguredHubs(t.Context())
		noError(t, err)
		same(t, hubs, []string{"hub-1", "hub-2"})
	}},
	{"a change of a configuration sees what it replaces and how many others there are, and may remove it", func(t *testing.T, s Store) {
		c := configuration("hub-1", "a")
		noError(t, putConfiguration(t.Context(), s, c))
		noError(t, putConfiguration(t.Context(), s, configuration("hub-1", "b")))
		noError(t, putConfiguration(t.Context(), s, configuration("hub-2", "c")))
		fault := errors.New("a change of mind")
		err := s.ChangeConfiguration(t.Context(), "hub-1", "a", func(old *hub.Configuration, others int) (*hub.Configuration, error) {
			same(t, old, c)
			same(t, others, 1)
			return nil, fault
		})
		if !errors.Is(err, fault) {
			t.Errorf("error %v", err)
		}
		noError(t, s.ChangeConfiguration(t.Context(), "hub-1", "a", func(*hub.Configuration, int) (*hub.Configuration, error) { return nil, nil }))
		noError(t, s.ChangeConfiguration(t.Context(), "hub-1", "a", func(old *hub.Configuration, _ int) (*hub.Configuration, error) {
			same(t, old, (*hub.Configuration)(nil))
			return nil, nil
		}))
		if err := s.ChangeConfiguration(t.Context(), "hub-1", "a", func(*hub.Configuration, int) (*hub.Configuration, error) { return configuration("hub-1", "z"), nil }); err == nil {
			t.Error("a configuration was renamed")
		}
	}},
}
