package app

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// What a registration makes of identities is told when it is committed, at the hubs
// where a route takes that, and once.
func TestRegistrationsAreEvents(t *testing.T) {
	n := newTenant(t)
	for _, host := range []string{"hub-1.example", "hub-2.example"} {
		if _, err := n.server.dispatcher.PutSink(t.Context(), hub.SinkConfig{Hub: host, Name: "lake", Kind: "jetstream", URL: "nats://127.0.0.1:1"}, nil); err != nil {
			t.Fatal(err)
		}
		route := hub.Route{Hub: host, Name: "life", Source: hub.DeviceLifecycleEvents, Sink: "lake", Enabled: true}
		if _, err := n.server.dispatcher.PutRoute(t.Context(), route, nil); err != nil {
			t.Fatal(err)
		}
	}
	told := func() (events []string) {
		t.Helper()
		ms, err := n.server.store.Read(t.Context(), "", 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			events = append(events, fmt.Sprint(m.Properties["opType"], " ", m.DeviceID, " ", m.Hub))
		}
		return events
	}
	to := func(id string, host int) {
		t.Helper()
		if _, err := n.register(id, fmt.Sprintf(`{"hub":"hub-%d"}`, host)); err != nil {
			t.Fatal(err)
		}
	}
	await := func(event string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !slices.Contains(told(), event); {
			if time.Now().After(deadline) {
				t.Fatalf("%q is not among %q", event, told())
			}
			<-time.After(time.Millisecond)
		}
	}
	choose := dpsjson.CustomAllocationDefinition{Expression: `linkedHubs.filter(h, h.startsWith(deviceRuntimeContext.payload.hub))[0]`}
	// The dispatcher hears of the routes in a moment.
	for i := 0; len(told()) == 0; i++ {
		id := fmt.Sprint("early-", i)
		if err := n.enroll(id, choose); err != nil {
			t.Fatal(err)
		}
		to(id, 1)
	}
	if err := n.enroll("pump-7", choose); err != nil {
		t.Fatal(err)
	}
	to("pump-7", 1)
	await("createDeviceIdentity pump-7 hub-1.example")
	to("pump-7", 1) // nothing becomes of that
	to("pump-7", 2)
	await("createDeviceIdentity pump-7 hub-2.example")
	var got []string
	for _, e := range told() {
		if slices.Contains([]string{"createDeviceIdentity pump-7 hub-1.example", "deleteDeviceIdentity pump-7 hub-1.example", "createDeviceIdentity pump-7 hub-2.example"}, e) {
			got = append(got, e)
		}
	}
	want := []string{"createDeviceIdentity pump-7 hub-1.example", "deleteDeviceIdentity pump-7 hub-1.example", "createDeviceIdentity pump-7 hub-2.example"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
