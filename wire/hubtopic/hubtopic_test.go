package hubtopic

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func show(m map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, k+"="+m[k])
	}
	return strings.Join(all, " ")
}

func TestUsernames(t *testing.T) {
	for s, want := range map[string]string{
		"hub.example/d1/?api-version=2021-04-12": "hub.example d1 : api-version=2021-04-12",
		"hub.example/d1/?api-version=2021-04-12&DeviceClientType=azure%2fnode%20(x%3by)&model-id=dtmi%3Aa%3B1": "hub.example d1 : DeviceClientType=azure/node (x;y) api-version=2021-04-12 model-id=dtmi:a;1",
		"hub.example:8883/d1/m1/?api-version=2020-09-30":                                                       "hub.example:8883 d1 m1: api-version=2020-09-30",
		"hub.example/d1/api-version=2016-11-14":                                                                "hub.example d1 : api-version=2016-11-14",
		"hub.example/d1?api-version=2016-11-14":                                                                "hub.example d1 : api-version=2016-11-14",
		"hub.example/d1/$edgeAgent/?api-version=2020-09-30":                                                    "hub.example d1 $edgeAgent: api-version=2020-09-30",
		"hub.example/what?#1/?api-version=2021-04-12":                                                          "hub.example what?#1 : api-version=2021-04-12",
		"hub.example/d1":  "hub.example d1 : ",
		"hub.example/d1/": "hub.example d1 : ",
	} {
		u, err := ParseUsername(s)
		if got := fmt.Sprintf("%s %s %s: %s", u.Host, u.DeviceID, u.ModuleID, show(u.Parameters)); err != nil || got != want {
			t.Errorf("%s\ngot  %s (%v)\nwant %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "hub.example", "hub.example/", "/d1/?api-version=1", "hub.example//m1/?api-version=1", "hub.example/d1/m1/x/?api-version=1", "hub.example/d1//?api-version=1&x=%zz", "hub.example/d1/?%zz=1"} {
		if u, err := ParseUsername(s); err == nil {
			t.Errorf("%q: %+v", s, u)
		}
	}
}

func TestRequests(t *testing.T) {
	for topic, want := range map[string]string{
		"devices/d1/messages/events/":                               "1 d1  []",
		"devices/d1/messages/events":                                "1 d1  []",
		"devices/d1/messages/events/?":                              "1 d1  []",
		"devices/d1/messages/events/a=1&b=":                         "1 d1  [a=1 b=]",
		"devices/d1/messages/events/?%24.mid=7&a+b=%2B/":            "1 d1  [$.mid=7 a+b=+]",
		"devices/d1/messages/events/$.ct=application%2Fjson&a=x=y":  "1 d1  [$.ct=application/json a=x=y]",
		"devices/d1/modules/m1/messages/events/a=1&a=2/":            "1 d1 m1 [a=2]",
		"devices/mod#1$/messages/events/":                           "1 mod#1$  []",
		"$iothub/twin/GET/?$rid=0a-b":                               "2   [] 0a-b",
		"$iothub/twin/PATCH/properties/reported/?$rid=7":            "3   [] 7",
		"$iothub/twin/PATCH/properties/reported/?$rid=7&$version=3": "3   [] 7 v3",
		"$iothub/methods/res/200/?$rid=1f":                          "4   [] 1f s200",
		"$iothub/methods/res/-1/?$rid=1f":                           "4   [] 1f s-1",
	} {
		r, err := ParseRequest(topic)
		got := fmt.Sprintf("%d %s %s [%s]", r.Operation, r.DeviceID, r.ModuleID, show(r.Properties))
		if r.RequestID != "" {
			got += " " + r.RequestID
		}
		if r.Version != nil {
			got += fmt.Sprint(" v", *r.Version)
		}
		if r.Status != 0 {
			got += fmt.Sprint(" s", r.Status)
		}
		if err != nil || got != want {
			t.Errorf("%s\ngot  %s (%v)\nwant %s", topic, got, err, want)
		}
	}
	for _, topic := range []string{
		"", "x", "devices/d1", "devices//messages/events/", "devices/d1/messages/eventsx", "devices/a/b/messages/events/", "devices/d1/modules//messages/events/",
		"devices/d1/modules/a/b/messages/events/", "devices/d1/messages/devicebound/", "devices/d1/messages/events/a=%zz", "devices/d1/messages/events/%=1",
		"$iothub/twin/GET/", "$iothub/twin/GET/?$rid=", "$iothub/twin/GET/?$rid=a/b", "$iothub/twin/PATCH/properties/desired/?$rid=1",
		"$iothub/twin/PATCH/properties/reported/?$rid=1&$version=x", "$iothub/methods/res/ok/?$rid=1", "$iothub/methods/res/200/", "$iothub/twin/res/200/?$rid=1",
	} {
		if r, err := ParseRequest(topic); err == nil {
			t.Errorf("%q: %+v", topic, r)
		}
	}
}

func TestSplit(t *testing.T) {
	system, application := Split(map[string]string{"$.mid": "1", "$.ct": "text/plain", "$.cdid": "another", "$.new": "x", "a": "1", "$b": "2"})
	if show(system) != "content-type=text/plain message-id=1" || show(application) != "$b=2 a=1" {
		t.Errorf("%v, %v", system, application)
	}
}

func TestTopicsToDevices(t *testing.T) {
	v := int64(12)
	for got, want := range map[string]string{
		TwinResponse(200, "a-1", nil): "$iothub/twin/res/200/?$rid=a-1",
		TwinResponse(204, "a-1", &v):  "$iothub/twin/res/204/?$rid=a-1&$version=12",
		Desired(3):                    "$iothub/twin/PATCH/properties/desired/?$version=3",
		MethodCall("reboot", "1f"):    "$iothub/methods/POST/reboot/?$rid=1f",
		MethodCall("a b", "1f"):       "$iothub/methods/POST/a%20b/?$rid=1f",
		CloudToDevice("d1"):           "devices/d1/messages/devicebound/#",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("hub.example/d1/m1/?api-version=2021-04-12&DeviceClientType=x")
	f.Add("devices/d1/modules/m1/messages/events/?%24.mid=7&a=b/")
	f.Add("$iothub/twin/PATCH/properties/reported/?$rid=7&$version=3")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := ParseUsername(s); err == nil && (u.Host == "" || u.DeviceID == "" || strings.Contains(u.DeviceID+u.ModuleID, "/")) {
			t.Errorf("%q names %+v", s, u)
		}
		r, err := ParseRequest(s)
		if err != nil {
			return
		}
		if r.Operation == Telemetry && (r.DeviceID == "" || strings.Contains(r.DeviceID+r.ModuleID, "/")) {
			t.Errorf("%q is from %q/%q", s, r.DeviceID, r.ModuleID)
		}
		if r.Operation != Telemetry && r.RequestID == "" {
			t.Errorf("%q has no request ID", s)
		}
	})
}
