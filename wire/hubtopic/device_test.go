package hubtopic

import (
	"maps"
	"reflect"
	"strings"
	"testing"
)

// What a device writes is what a hub reads.
func TestHubsReadWhatDevicesWrite(t *testing.T) {
	u := Username{Host: "hub.example", DeviceID: "pump-7", Parameters: map[string]string{"api-version": "2021-04-12", "DeviceClientType": "a/b (c; d)"}}
	for _, u.ModuleID = range []string{"", "m1"} {
		if got, err := ParseUsername(u.String()); err != nil || !reflect.DeepEqual(got, u) {
			t.Errorf("%s: %+v %v", u, got, err)
		}
	}
	version := int64(7)
	for topic, want := range map[string]Request{
		GetTwin("1f"):                           {Operation: TwinGet, RequestID: "1f"},
		PatchReported("1f", nil):                {Operation: TwinPatch, RequestID: "1f"},
		PatchReported("1f", &version):           {Operation: TwinPatch, RequestID: "1f", Version: &version},
		AnswerMethod(404, "1f"):                 {Operation: MethodAnswer, RequestID: "1f", Status: 404},
		Events("d1", nil):                       {Operation: Telemetry, DeviceID: "d1", Properties: map[string]string{}},
		Events("d1", map[string]string{"": ""}): {Operation: Telemetry, DeviceID: "d1", Properties: map[string]string{"": ""}},
	} {
		if got, err := ParseRequest(topic); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v", topic, got, err)
		}
	}
}

func TestPropertiesSurviveTheirBag(t *testing.T) {
	system := map[string]string{"message-id": "a&b=c/d+e#f", "content-type": "application/json"}
	application := map[string]string{"ä ö%20": "$.mid", "plain": "", "+": "#?&=/ "}
	bag, err := Join(system, application)
	if err != nil {
		t.Fatal(err)
	}
	topic := Events("d1", bag)
	if strings.ContainsAny(topic, "+# ") {
		t.Errorf("no topic for MQTT: %s", topic)
	}
	r, err := ParseRequest(topic)
	if err != nil {
		t.Fatal(err)
	}
	if s, a := Split(r.Properties); !maps.Equal(s, system) || !maps.Equal(a, application) {
		t.Errorf("%s: %v %v", topic, s, a)
	}
	for _, name := range []string{"", "$.mid"} {
		if _, err := Join(nil, map[string]string{name: "x"}); err == nil {
			t.Errorf("a property of the application is called %q", name)
		}
	}
}

// What a hub writes is what a device reads.
func TestDevicesReadWhatHubsWrite(t *testing.T) {
	version := int64(9)
	for topic, want := range map[string]Delivery{
		TwinResponse(200, "a", nil):      {Occasion: TwinAnswered, Status: 200, RequestID: "a"},
		TwinResponse(204, "a", &version): {Occasion: TwinAnswered, Status: 204, RequestID: "a", Version: &version},
		Desired(9):                       {Occasion: DesiredChanged, Version: &version},
		MethodCall("re start?", "b"):     {Occasion: MethodCalled, Method: "re start?", RequestID: "b"},
		CloudMessage("d1", map[string]string{"message-id": "a/b&c"}, map[string]string{"at": "sea & land", "iothub-ack": "full"}): {
			Occasion: MessageSent, DeviceID: "d1",
			Properties: map[string]string{"$.mid": "a/b&c", "$.to": Destination("d1"), "at": "sea & land", "iothub-ack": "full"},
		},
		"devices/d1/messages/devicebound/":            {Occasion: MessageSent, DeviceID: "d1", Properties: map[string]string{}},
		"devices/d1/modules/m1/messages/devicebound/": {Occasion: MessageSent, DeviceID: "d1", ModuleID: "m1", Properties: map[string]string{}},
	} {
		if got, err := ParseDelivery(topic); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v", topic, got, err)
		}
	}
	for _, topic := range []string{
		"", "devices/d1/messages/devicebound/%24.to=%zz", "devices/d1/messages/devicebound", "devices//messages/devicebound/", "devices/d1/d2/messages/devicebound/",
		"devices/d1/modules//messages/devicebound/", "devices/d1/modules/m1/m2/messages/devicebound/", "devices/d1/messages/events/", "$iothub/twin/res/", "$iothub/twin/res/x/?$rid=1", "$iothub/twin/res/200/",
		"$iothub/twin/PATCH/properties/desired/", "$iothub/twin/PATCH/properties/desired/?$version=x", "$iothub/twin/PATCH/properties/desired/x?$version=1",
		"$iothub/methods/POST/?$rid=1", "$iothub/methods/POST/%zz/?$rid=1", "$iothub/methods/POST/reboot/",
	} {
		if d, err := ParseDelivery(topic); err == nil {
			t.Errorf("%q: %+v", topic, d)
		}
	}
}

func FuzzParseDelivery(f *testing.F) {
	for _, topic := range []string{TwinResponse(200, "a", nil), Desired(1), MethodCall("m", "b"), CloudMessage("d1", nil, map[string]string{"a": "b"}), "$iothub/"} {
		f.Add(topic)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		d, err := ParseDelivery(topic)
		switch {
		case err != nil:
		case d.Occasion == MessageSent && d.DeviceID != "" && d.Properties != nil:
		case d.Occasion == DesiredChanged && d.Version != nil:
		case (d.Occasion == TwinAnswered || d.Occasion == MethodCalled) && d.RequestID != "":
		default:
			t.Errorf("%q: %+v", topic, d)
		}
	})
}
