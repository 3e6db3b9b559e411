package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// route and sink return ones of a hub, each filled in every member.
func route(host, name string) hub.Route {
	r := filled[hub.Route]()
	r.Hub, r.Name = host, name
	return r
}

func sink(host, name string) hub.SinkConfig {
	s := filled[hub.SinkConfig]()
	s.Hub, s.Name = host, name
	return s
}

// putRouting writes the routes and sinks of a hub over what it has.
func putRouting(t *testing.T, s Store, host string, next hub.Routing) {
	t.Helper()
	noError(t, s.ChangeRouting(t.Context(), host, func(hub.Routing) (hub.Routing, error) { return next, nil }))
}

func sameRouting(t *testing.T, s Store, host string, want hub.Routing) {
	t.Helper()
	got, err := s.Routing(t.Context(), host)
	noError(t, err)
	same(t, got, want)
}

func changePosition(t *testing.T, s Store, of hub.Reader, next *hub.Position) (old *hub.Position) {
	t.Helper()
	noError(t, s.ChangePosition(t.Context(), of, func(was *hub.Position) (*hub.Position, error) {
		old = was
		return next, nil
	}))
	return old
}

var routingRules = []rule{
	{"routes and sinks are what was put last, in every member, one list a hub", func(t *testing.T, s Store) {
		sameRouting(t, s, "hub-1", hub.Routing{})
		one := hub.Routing{Routes: []hub.Route{route("hub-1", "a"), route("hub-1", "b")}, Sinks: []hub.SinkConfig{sink("hub-1", "a"), sink("hub-1", "z")}}
		two := hub.Routing{Routes: []hub.Route{{Hub: "hub-2", Name: "a"}}, Sinks: []hub.SinkConfig{{Hub: "hub-2", Name: "a", URL: "https://x/"}}}
		putRouting(t, s, "hub-1", one)
		putRouting(t, s, "hub-2", two)
		sameRouting(t, s, "hub-1", one)
		sameRouting(t, s, "hub-2", two)
		sameRouting(t, s, "", hub.Routing{Routes: slices.Concat(one.Routes, two.Routes), Sinks: slices.Concat(one.Sinks, two.Sinks)})

		one.Routes[1].Condition, one.Routes[1].ETag = "level > 3", "another"
		one.Sinks[1].URL, one.Sinks[1].Secret, one.Sinks[1].ETag = "https://moved.example/", hub.NewSecret([]byte("another")), "another"
		one.Routes, one.Sinks = one.Routes[1:], one.Sinks[1:]
		putRouting(t, s, "hub-1", one)
		sameRouting(t, s, "hub-1", one)
		sameRouting(t, s, "hub-2", two)
		putRouting(t, s, "hub-1", hub.Routing{})
		sameRouting(t, s, "hub-1", hub.Routing{})
	}},
	{"a refused change of routes changes nothing", func(t *testing.T, s Store) {
		is := hub.Routing{Routes: []hub.Route{route("hub-1", "a")}, Sinks: []hub.SinkConfig{sink("hub-1", "a")}}
		putRouting(t, s, "hub-1", is)
		refusal := errors.New("no")
		err := s.ChangeRouting(t.Context(), "hub-1", func(r hub.Routing) (hub.Routing, error) {
			r.Routes[0].Sink, r.Sinks[0].URL = "changed", "changed"
			return r, refusal
		})
		if !errors.Is(err, refusal) {
			t.Errorf("%v, want the refusal", err)
		}
		if err := s.ChangeRouting(t.Context(), "hub-1", func(r hub.Routing) (hub.Routing, error) {
			r.Routes = append(r.Routes, route("hub-2", "b"))
			return r, nil
		}); err == nil {
			t.Error("a route of another hub was put")
		}
		sameRouting(t, s, "hub-1", is)
	}},
	{"changes of routes happen one after the other", func(t *testing.T, s Store) {
		race(12, func(i int) error {
			return s.ChangeRouting(t.Context(), "hub-1", func(r hub.Routing) (hub.Routing, error) {
				r.Routes = append(slices.Clone(r.Routes), hub.Route{Hub: "hub-1", Name: fmt.Sprintf("%02d", i)})
				slices.SortFunc(r.Routes, func(a, b hub.Route) int { return strings.Compare(a.Name, b.Name) })
				return r, nil
			})
		})
		got, err := s.Routing(t.Context(), "hub-1")
		noError(t, err)
		same(t, len(got.Routes), 12)
	}},
	{"a position is what was put last, in every member, one a reader", func(t *testing.T, s Store) {
		reader := hub.Reader{Hub: "hub-1", Kind: hub.OfRoute, Name: "a"}
		full := filled[hub.Position]()
		full.Reader = reader
		if old := changePosition(t, s, reader, &full); old != nil {
			t.Errorf("%+v was there before", old)
		}
		next := hub.Position{Reader: reader, Sequence: 7}
		same(t, changePosition(t, s, reader, &next), &full)
		for _, other := range []hub.Reader{{Hub: "hub-1", Kind: hub.OfGroup, Name: "a"}, {Hub: "hub-2", Kind: hub.OfRoute, Name: "a"}} {
			if old := changePosition(t, s, other, &hub.Position{Reader: other, Sequence: 1}); old != nil {
				t.Errorf("%+v was there before", old)
			}
		}
		got, err := s.Positions(t.Context(), "hub-1")
		noError(t, err)
		same(t, got, []hub.Position{{Reader: hub.Reader{Hub: "hub-1", Kind: hub.OfGroup, Name: "a"}, Sequence: 1}, next})
		got, err = s.Positions(t.Context(), "")
		noError(t, err)
		same(t, len(got), 3)
		same(t, changePosition(t, s, reader, nil), &next)
		if old := changePosition(t, s, reader, nil); old != nil {
			t.Errorf("%+v is still there", old)
		}
	}},
	{"of those who race for a position, one wins at a time", func(t *testing.T, s Store) {
		reader := hub.Reader{Hub: "hub-1", Kind: hub.OfGroup, Name: "a"}
		race(16, func(int) error {
			return s.ChangePosition(t.Context(), reader, func(old *hub.Position) (*hub.Position, error) {
				next := hub.Position{}
				if old != nil {
					next = *old
				}
				next.Sequence++
				return &next, nil
			})
		})
		got, err := s.Positions(t.Context(), "hub-1")
		noError(t, err)
		same(t, got, []hub.Position{{Reader: reader, Sequence: 16}})
	}},
	{"a hub's routes go when another scope takes its name", func(t *testing.T, s Store) {
		ctx := t.Context()
		noError(t, s.PutLinkedHub(ctx, scopeA, provision.LinkedHub{Host: "Hub-1:8443"}))
		noError(t, s.PutLinkedHub(ctx, scopeA, provision.LinkedHub{Host: "hub-2"}))
		for _, host := range []string{"hub-1", "hub-2"} {
			putRouting(t, s, host, hub.Routing{Routes: []hub.Route{route(host, "a")}, Sinks: []hub.SinkConfig{sink(host, "a")}})
			changePosition(t, s, hub.Reader{Hub: host, Kind: hub.OfRoute, Name: "a"}, &hub.Position{Sequence: 1})
		}
		noError(t, s.DeleteLinkedHub(ctx, scopeA, "hub-1:8443"))
		all, err := s.Routing(ctx, "hub-1")
		noError(t, err)
		same(t, len(all.Routes), 1) // it may be linked again
		noError(t, s.PutLinkedHub(ctx, scopeB, provision.LinkedHub{Host: "hub-1"}))
		sameRouting(t, s, "hub-1", hub.Routing{})
		positions, err := s.Positions(ctx, "hub-1")
		noError(t, err)
		same(t, len(positions), 0)

		noError(t, s.DeleteLinkedHub(ctx, scopeA, "hub-2"))
		noError(t, s.DeleteScope(ctx, scopeA))
		sameRouting(t, s, "hub-2", hub.Routing{})
	}},
}
