package hubjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const primary = "AAECAwQFBgcICQoLDA0ODw=="

func TestAnIdentityIsSentBackWhole(t *testing.T) {
	const sent = `{"deviceId":"d1","generationId":"638412345678901234","etag":"MTIzNDU2Nzg5","connectionState":"Disconnected",
		"status":"disabled","statusReason":"stolen","connectionStateUpdatedTime":"0001-01-01T00:00:00","cloudToDeviceMessageCount":3,
		"authentication":{"symmetricKey":{"primaryKey":"` + primary + `","secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"},
		"capabilities":{"iotEdge":true},"deviceScope":"ms-azure-iot-edge://d1-6","parentScopes":["a"],"policyName":{"x":[1]}}`
	var d Device
	if err := json.Unmarshal([]byte(sent), &d); err != nil {
		t.Fatal(err)
	}
	if d.DeviceID != "d1" || d.Status != Disabled || d.StatusReason != "stolen" || !d.Capabilities.IoTEdge ||
		d.Authentication.SymmetricKey.PrimaryKey.Base64() != primary || !d.Authentication.SymmetricKey.SecondaryKey.IsZero() || len(d.Other) != 3 {
		t.Fatalf("%+v", d)
	}
	out, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var was, is map[string]any
	if err := json.Unmarshal([]byte(strings.Replace(sent, `"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null}`, `"x509Thumbprint":{}`, 1)), &was); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &is); err != nil || !reflect.DeepEqual(is, was) {
		t.Errorf("%s: %v", out, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", d, d, d.Authentication.SymmetricKey); strings.Contains(text, primary) {
		t.Errorf("the key shows in %s", text)
	}
}

func TestMembersInAnyCaseAreNotTwice(t *testing.T) {
	var d Device
	if err := json.Unmarshal([]byte(`{"DEVICEID":"d1","Status":"enabled"}`), &d); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(d)
	if want := `{"deviceId":"d1","status":"enabled","authentication":{},"capabilities":{"iotEdge":false}}`; err != nil || string(out) != want {
		t.Errorf("%s, %v", out, err)
	}
}

func TestSplit(t *testing.T) {
	for text, c := range map[string]struct {
		properties string // empty when it is refused
		version    int64
	}{
		``:                     {"{}", 0},
		`{}`:                   {"{}", 0},
		`{"a":1,"$version":7}`: {`{"a":1}`, 7},
		`{"$metadata":{"$lastUpdated":"x","a":{}},"a":{"b":[1.50]},"$version":1}`: {`{"a":{"b":[1.50]}}`, 1},
		`{"$version":"x"}`: {}, `[]`: {}, `"x"`: {}, `null`: {"{}", 0},
	} {
		properties, version, err := Properties(text).Split()
		if string(properties) != c.properties || version != c.version || (err == nil) != (c.properties != "") {
			t.Errorf("%s: %s, %d, %v", text, properties, version, err)
		}
	}
}

func TestATwinChangeSaysOnlyWhatIsSaid(t *testing.T) {
	for want, c := range map[string]TwinChange{
		`{}`:                                 {},
		`{"tags":{"a":null}}`:                {Tags: json.RawMessage(`{"a":null}`)},
		`{"properties":{"desired":{"a":1}}}`: {Desired: json.RawMessage(`{"a":1}`)},
		`{"tags":null,"properties":{"desired":{}}}`: {Tags: json.RawMessage(`null`), Desired: json.RawMessage(`{}`)},
	} {
		if got, err := json.Marshal(c); err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

func FuzzDevice(f *testing.F) {
	f.Add([]byte(`{"deviceId":"d1","authentication":{"symmetricKey":{"primaryKey":"` + primary + `"},"type":"sas"},"x":null}`))
	f.Add([]byte(`{"x":1,"STATUS":"enabled","parentScopes":["a"]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Device
		if json.Unmarshal(b, &d) != nil {
			return
		}
		out, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again Device
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if back, err := json.Marshal(again); err != nil || !bytes.Equal(back, out) {
			t.Fatalf("%s became %s (%v)", out, back, err)
		}
	})
}
