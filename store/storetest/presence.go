package storetest

import (
	"testing"
	"time"

	"github.com/berth-iot/berth/hub"
)

var presenceRules = []rule{
	{"who is connected to a server that runs is, and every moment is kept", func(t *testing.T, s Store) {
		module := hub.Place{Hub: pump7.Hub, ID: pump7.ID, Module: "m1"}
		putDevice(t, s, pump7)
		known := func(now time.Time, want map[hub.Place]hub.Presence) {
			t.Helper()
			got, err := s.Presences(t.Context(), pump7.Hub, pump7.ID, pump7.ID, now)
			noError(t, err)
			same(t, got, want)
		}
		notice := func(server string, n ...hub.Notice) {
			t.Helper()
			noError(t, s.Notice(t.Context(), server, n))
		}
		known(epoch, map[hub.Place]hub.Presence{})
		at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }
		noError(t, s.LeaseServer(t.Context(), "s1", at(0), at(30)))
		notice("s1", hub.Notice{Place: pump7, Change: hub.NowConnected, Changed: at(1), Activity: at(2)}, hub.Notice{Place: module, Activity: at(3)},
			hub.Notice{Place: hub.Place{Hub: "hub-1", ID: "nobody"}, Activity: at(3)})
		known(at(4), map[hub.Place]hub.Presence{pump7: {Connected: true, Updated: at(1), LastActivity: at(2)}, module: {LastActivity: at(3)}})
		known(at(30), map[hub.Place]hub.Presence{pump7: {Updated: at(1), LastActivity: at(2)}, module: {LastActivity: at(3)}})

		// Activity is not older than it was, and says nothing about the connection.
		notice("s1", hub.Notice{Place: pump7, Activity: at(1)})
		known(at(4), map[hub.Place]hub.Presence{pump7: {Connected: true, Updated: at(1), LastActivity: at(2)}, module: {LastActivity: at(3)}})

		// The device goes over to another server, and the first one hears of it late.
		noError(t, s.LeaseServer(t.Context(), "s2", at(4), at(60)))
		notice("s2", hub.Notice{Place: pump7, Change: hub.NowConnected, Changed: at(5), Activity: at(5)})
		notice("s1", hub.Notice{Place: pump7, Change: hub.NowDisconnected, Changed: at(6), Activity: at(4)})
		known(at(7), map[hub.Place]hub.Presence{pump7: {Connected: true, Updated: at(5), LastActivity: at(5)}, module: {LastActivity: at(3)}})
		notice("s2", hub.Notice{Place: pump7, Change: hub.NowDisconnected, Changed: at(8), Activity: at(5)})
		known(at(9), map[hub.Place]hub.Presence{pump7: {Updated: at(8), LastActivity: at(5)}, module: {LastActivity: at(3)}})

		// It goes with its device.
		noError(t, s.Change(t.Context(), pump7, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return nil, nil, nil }))
		putDevice(t, s, pump7)
		known(at(9), map[hub.Place]hub.Presence{})
	}},
	{"connected devices are counted by hub while their server runs, and modules are not", func(t *testing.T, s Store) {
		pump8, other := hub.Place{Hub: "hub-1", ID: "pump-8"}, hub.Place{Hub: "hub-2", ID: "pump-7"}
		var notices []hub.Notice
		for _, at := range []hub.Place{pump7, pump8, other} {
			putDevice(t, s, at)
			module := at
			module.Module = "m1"
			for _, of := range []hub.Place{at, module} {
				notices = append(notices, hub.Notice{Place: of, Change: hub.NowConnected, Changed: epoch, Activity: epoch})
			}
		}
		count := func(now time.Time, want int) {
			t.Helper()
			n, err := s.CountConnected(t.Context(), "hub-1", now)
			noError(t, err)
			same(t, n, want)
		}
		noError(t, s.Notice(t.Context(), "s1", notices))
		count(epoch, 0)
		noError(t, s.LeaseServer(t.Context(), "s1", epoch, epoch.Add(time.Minute)))
		count(epoch, 2)
		count(epoch.Add(time.Minute), 0)
		noError(t, s.EndServer(t.Context(), "s1"))
		count(epoch, 0)
	}},
}
