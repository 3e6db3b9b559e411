package hubmqtt

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
)

// module makes a module of a device and returns its key.
func (w *world) module(id, module device.ID) device.SymmetricKey {
	w.Helper()
	m, err := w.service.PutModule(w.Context(), hub.Operator(owner), hub.Place{Hub: hubName, ID: id, Module: module},
		hub.ModuleSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}, nil)
	if err != nil {
		w.Fatal(err)
	}
	return m.Auth.Keys.Primary
}

func TestAModuleIsSomebodyOfItsOwn(t *testing.T) {
	w := begin(t)
	deviceKey := w.enroll("d1")
	key := w.module("d1", "m1")
	later := time.Now().Add(time.Hour)
	const resource = hubName + "/devices/d1/modules/m1"
	for name, refused := range map[string]struct {
		id       string
		password []byte
	}{
		"the device's key":     {"d1/m1", token(deviceKey, resource, later)},
		"a token for another":  {"d1/m1", token(key, hubName+"/devices/d1/modules/m2", later)},
		"no such module":       {"d1/m2", token(key, hubName+"/devices/d1/modules/m2", later)},
		"its key for a device": {"d1", token(key, hubName+"/devices/d1", later)},
	} {
		if _, code := w.connect(refused.id, refused.password); code != mqtt.NotAuthorized {
			t.Errorf("%s: %d", name, code)
		}
	}
	// A client identifier that is not both IDs.
	c := w.dial()
	username := hubName + "/d1/m1/?api-version=2021-04-12"
	c.send(&mqtt.Connect{Level: 4, ClientID: "d1", CleanSession: true, Username: &username, Password: token(key, resource, later)})
	if a, ok := c.hear().(*mqtt.Connack); !ok || a.Code != mqtt.IdentifierRejected {
		t.Errorf("%+v", a)
	}
	if refusals := w.service.Refusals(hubName, "d1"); len(refusals) != 5 || refusals[0].Findings[0].Check != "client identifier" || refusals[0].ModuleID != "m1" {
		t.Errorf("%+v", refusals)
	}

	// Its device and it are connected beside each other.
	of := w.live("d1", deviceKey)
	m, code := w.connect("d1/m1", token(key, resource, later))
	if code != mqtt.Accepted {
		t.Fatal(code)
	}
	subscriptions := []mqtt.Subscription{{Filter: hubtopic.TwinResponses}}
	want := &mqtt.Suback{ID: 1, Codes: []byte{0}}
	for _, filter := range hubtopic.ToModule("d1", "m1") {
		subscriptions, want.Codes = append(subscriptions, mqtt.Subscription{Filter: filter, QoS: 1}), append(want.Codes, 1)
	}
	for _, filter := range []string{"devices/d1/messages/devicebound/#", "devices/d1/modules/m2/#"} {
		subscriptions, want.Codes = append(subscriptions, mqtt.Subscription{Filter: filter}), append(want.Codes, mqtt.SubscriptionFailed)
	}
	m.send(&mqtt.Subscribe{ID: 1, Subscriptions: subscriptions})
	m.want(want)
	m.send(&mqtt.Publish{QoS: 1, ID: 1, Topic: "devices/d1/modules/m1/messages/events/k=v", Payload: []byte("hello")})
	m.want(&mqtt.Puback{ID: 1})
	kept, err := w.store.Read(t.Context(), hubName, 0, 10)
	if err != nil || len(kept) != 1 || kept[0].ModuleID != "m1" || kept[0].System["connection-module-id"] != "m1" ||
		!strings.Contains(kept[0].System["connection-auth-method"], `"scope":"module"`) {
		t.Errorf("%+v, %v", kept, err)
	}
	m.send(&mqtt.Publish{Topic: "$iothub/twin/PATCH/properties/reported/?$rid=1", Payload: []byte(`{"a":1}`)})
	m.message("$iothub/twin/res/204/?$rid=1&$version=2")
	of.send(&mqtt.Publish{Topic: "$iothub/twin/GET/?$rid=2"})
	if twin := of.message("$iothub/twin/res/200/?$rid=2"); twin != `{"desired":{"$version":1},"reported":{"$version":1}}` {
		t.Errorf("the device has %s", twin)
	}

	// It may not speak for its device, and ends when that is disabled.
	other, _ := w.connect("d1/m1", token(key, resource, later))
	m.hungUp("connected again")
	other.send(&mqtt.Publish{QoS: 1, ID: 1, Topic: "devices/d1/messages/events/", Payload: []byte("hello")})
	other.hungUp("another device or module")
	again, _ := w.connect("d1/m1", token(key, resource, later))
	_, err = w.service.PutDevice(t.Context(), owner, hub.Place{Hub: hubName, ID: "d1"},
		hub.DeviceSpec{Disabled: true, Auth: hub.Authentication{Type: hub.AuthSAS}}, func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	again.hungUp("disabled")
	of.hungUp("disabled")
	if _, code := w.connect("d1/m1", token(key, resource, later)); code != mqtt.NotAuthorized {
		t.Errorf("a module of a disabled device: %d", code)
	}
}

// The model that a device says it follows is in its twin and on its messages.
func TestADeviceNamesItsModel(t *testing.T) {
	w := begin(t)
	key := w.enroll("d1")
	for range 2 {
		c := w.dial()
		username := hubName + "/d1/?api-version=2021-04-12&model-id=dtmi%3Acom%3Aexample%3APump%3B1"
		c.send(&mqtt.Connect{Level: 4, ClientID: "d1", CleanSession: true, Username: &username, Password: token(key, hubName+"/devices/d1", time.Now().Add(time.Hour))})
		c.want(&mqtt.Connack{})
		c.send(&mqtt.Publish{QoS: 1, ID: 1, Topic: "devices/d1/messages/events/", Payload: []byte("hello")})
		c.want(&mqtt.Puback{ID: 1})
		twin, err := w.store.Twin(t.Context(), hub.Place{Hub: hubName, ID: "d1"})
		if err != nil || twin.ModelID != "dtmi:com:example:Pump;1" || twin.Version != 3 {
			t.Errorf("%+v, %v", twin, err)
		}
	}
	kept, err := w.store.Read(t.Context(), hubName, 0, 10)
	if err != nil || len(kept) != 2 || kept[0].System["dt-dataschema"] != "dtmi:com:example:Pump;1" {
		t.Errorf("%+v, %v", kept, err)
	}
}
