package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"testing"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/device"
)

// A module lives at its hub beside its device: with a key, a twin and methods of
// its own, and without a say in what is the device's.
func TestAModuleLivesBesideItsDevice(t *testing.T) {
	d := newDatabase(t, "sqlite")
	server := startProcess(t, d.data)
	f := newFleet(t, d.data)
	f.connect(server)
	connect := func(module device.ID, key device.SymmetricKey, desired chan hub.Desired) (*hub.Connection, error) {
		return hub.Connect(t.Context(), hub.ConnectionConfig{
			Host: hubHost, DeviceID: "gateway", ModuleID: module, Credential: client.SymmetricKey(key), RootCAs: f.world.roots,
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, server.mqtts)
			},
			OnDesired: func(_ context.Context, d hub.Desired) { desired <- d },
			OnMethod: func(_ context.Context, name string, _ json.RawMessage) (int, json.RawMessage, error) {
				return 200, json.RawMessage(`"` + string(module) + " does " + name + `"`), nil
			},
		})
	}
	keys, lives, desired := map[device.ID]device.SymmetricKey{}, map[device.ID]*hub.Connection{}, map[device.ID]chan hub.Desired{}
	for _, module := range []device.ID{"", "vision", "sound"} {
		body := map[string]any{"deviceId": "gateway"}
		path := "/devices/gateway"
		if module != "" {
			path, body["moduleId"] = path+"/modules/"+string(module), module
		}
		var identity struct {
			Authentication struct{ SymmetricKey struct{ PrimaryKey string } }
		}
		if status := f.operate("PUT", hubHost, path, body, &identity); status/100 != 2 {
			t.Fatalf("PUT %s: status %d", path, status)
		}
		if status := f.operate("GET", hubHost, path, nil, &identity); status != http.StatusOK {
			t.Fatalf("GET %s: status %d", path, status)
		}
		key, err := device.ParseSymmetricKey(identity.Authentication.SymmetricKey.PrimaryKey)
		if err != nil {
			t.Fatal(err)
		}
		keys[module], desired[module] = key, make(chan hub.Desired, 10)
		c, err := connect(module, key, desired[module])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		lives[module] = c
		if d := <-desired[module]; !d.Full || d.Version != 1 {
			t.Errorf("%q begins with %+v", module, d)
		}
	}

	// Each sends, reports and answers in its own name, all at the same time.
	for module, c := range lives {
		if err := c.Send(t.Context(), hub.Message{Body: []byte(module)}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Report(t.Context(), map[string]any{"me": module}); err != nil {
			t.Fatal(err)
		}
		below := "/twins/gateway"
		if module != "" {
			below += "/modules/" + string(module)
		}
		var twin struct {
			ModuleID   device.ID
			Properties struct{ Reported struct{ Me device.ID } }
		}
		change := map[string]any{"properties": map[string]any{"desired": map[string]any{"for": module}}}
		if status := f.operate("PATCH", hubHost, below, change, &twin, "If-Match", "*"); status != http.StatusOK || twin.ModuleID != module || twin.Properties.Reported.Me != module {
			t.Errorf("the twin of %q: status %d, %+v", module, status, twin)
		}
		if d := <-desired[module]; d.Version != 2 || string(d.Properties) != `{"for":"`+string(module)+`"}` {
			t.Errorf("%q is told %+v %s", module, d, d.Properties)
		}
		var result struct {
			Status  int
			Payload string
		}
		call := map[string]any{"methodName": "look", "responseTimeoutInSeconds": 20}
		if status := f.operate("POST", hubHost, below+"/methods", call, &result); status != 200 || result.Payload != string(module)+" does look" {
			t.Errorf("a method of %q: status %d, %+v", module, status, result)
		}
	}

	// A key opens no other door.
	for module, key := range map[device.ID]device.SymmetricKey{"": keys["vision"], "vision": keys["sound"], "sound": keys[""]} {
		_, err := connect(module, key, desired[module])
		if refused, ok := errors.AsType[*hub.RefusedError](err); !ok || refused.ModuleID != module {
			t.Errorf("%q with the key of another: %v", module, err)
		}
	}

	// It ends with its device.
	if status := f.operate("DELETE", hubHost, "/devices/gateway", nil, nil, "If-Match", "*"); status != http.StatusNoContent {
		t.Fatalf("deleting the device: status %d", status)
	}
	for module, c := range lives {
		<-c.Done()
		if _, ok := errors.AsType[*hub.RefusedError](c.Err()); !ok {
			t.Errorf("%q ended with %v", module, c.Err())
		}
	}
}
