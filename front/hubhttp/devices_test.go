package hubhttp

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/sas"
)

// want checks the status and, of a refusal, that body and header name the same
// code in the form that clients take apart.
func (r reply) want(t *testing.T, what string, status int, code errs.Code) {
	t.Helper()
	if r.status != status {
		t.Errorf("%s: status %d, want %d: %s", what, r.status, status, r.body)
		return
	}
	if status < 400 {
		return
	}
	var e struct{ Message, ExceptionMessage string }
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Errorf("%s: %v: %s", what, err, r.body)
		return
	}
	prefix, _, _ := strings.Cut(e.Message, ";")
	_, name, _ := strings.Cut(prefix, ":")
	if name != code.Name() || r.header.Get("iothub-errorcode") != name {
		t.Errorf("%s: %q with header %q, want %s", what, e.Message, r.header.Get("iothub-errorcode"), code.Name())
	}
	if id := r.header.Get("x-ms-request-id"); id == "" || !regexp.MustCompile(`^Tracking ID:`+id+`-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d$`).MatchString(e.ExceptionMessage) {
		t.Errorf("%s: ExceptionMessage %q", what, e.ExceptionMessage)
	}
}

func etagOf(t *testing.T, r reply) string {
	t.Helper()
	var d struct{ ETag string }
	if err := json.Unmarshal([]byte(r.body), &d); err != nil || d.ETag == "" || r.header.Get("ETag") != `"`+d.ETag+`"` {
		t.Fatalf("entity tag %q in the body, %q in the header (%v)", d.ETag, r.header.Get("ETag"), err)
	}
	return d.ETag
}

func TestLifeOfAnIdentity(t *testing.T) {
	s := start(t)
	const body = `{"deviceId":"d1","authentication":{"type":"sas"}}`
	created := s.as("PUT", "/devices/d1", body)
	created.want(t, "create", 200, 0)
	etag := etagOf(t, created)
	s.as("PUT", "/devices/d1", body).want(t, "create again", 409, errs.CodeDeviceAlreadyExists)
	s.as("PUT", "/devices/d2", body[:len(body)-1]+`,"deviceId":"d2"}`, "If-Match", "*").want(t, "update of nothing", 404, errs.CodeDeviceNotFound)
	s.as("PUT", "/devices/d1", body, "If-Match", `"stale"`).want(t, "stale update", 412, errs.CodePreconditionFailed)
	s.as("PUT", "/devices/d1", body, "If-Match", "stale").want(t, "stale update, bare", 412, errs.CodePreconditionFailed)
	for _, ifMatch := range []string{`"*"`, `*`} {
		updated := s.as("PUT", "/devices/d1", body, "If-Match", ifMatch)
		updated.want(t, "update with "+ifMatch, 200, 0)
		etag = etagOf(t, updated)
	}
	updated := s.as("PUT", "/devices/d1", body, "If-Match", etag)
	updated.want(t, "update with a bare tag", 200, 0)
	etag = etagOf(t, updated)

	read := s.as("GET", "/devices/d1", "")
	if read.want(t, "read", 200, 0); read.body != updated.body {
		t.Errorf("read %s, wrote %s", read.body, updated.body)
	}
	s.as("DELETE", "/devices/d1", "", "If-Match", `"stale"`).want(t, "stale delete", 412, errs.CodePreconditionFailed)
	deleted := s.as("DELETE", "/devices/d1", "", "If-Match", `"`+etag+`"`)
	if deleted.want(t, "delete", 204, 0); deleted.body != "" {
		t.Errorf("delete answered %q", deleted.body)
	}
	gone := s.as("GET", "/devices/d1", "")
	gone.want(t, "read after delete", 404, errs.CodeDeviceNotFound)
	if !strings.Contains(gone.body, `"Message":"ErrorCode:DeviceNotFound;d1"`) {
		t.Errorf("%s", gone.body)
	}
	s.as("GET", "/twins/d1", "").want(t, "twin after delete", 404, errs.CodeDeviceNotFound)
	s.as("DELETE", "/devices/d1", "").want(t, "delete again", 404, errs.CodeDeviceNotFound)
}

// What clients read off an identity, byte for byte: one of them depends on the
// order of the members.
func TestIdentityDocument(t *testing.T) {
	s := start(t)
	primary, secondary := testKey(1).Base64(), testKey(2).Base64()
	got := s.as("PUT", "/devices/d1", `{"deviceId":"d1","status":"enabled","capabilities":{"iotEdge":true},
		"authentication":{"symmetricKey":{"primaryKey":"`+primary+`","secondaryKey":"`+secondary+`"},"type":"sas"}}`)
	generation := regexp.MustCompile(`"generationId":"(\d{18})"`).FindStringSubmatch(got.body)
	if generation == nil {
		t.Fatal(got.body)
	}
	want := `{"deviceId":"d1","generationId":"` + generation[1] + `","etag":"` + etagOf(t, got) + `","connectionState":"Disconnected",` +
		`"status":"enabled","statusReason":null,"connectionStateUpdatedTime":"0001-01-01T00:00:00Z",` +
		`"statusUpdatedTime":"0001-01-01T00:00:00Z","lastActivityTime":"0001-01-01T00:00:00Z","cloudToDeviceMessageCount":0,` +
		`"authentication":{"symmetricKey":{"primaryKey":"` + primary + `","secondaryKey":"` + secondary + `"},` +
		`"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"},"capabilities":{"iotEdge":true},` +
		`"deviceScope":"ms-azure-iot-edge://d1-` + generation[1] + `","parentScopes":[]}`
	if got.body != want {
		t.Errorf("got  %s\nwant %s", got.body, want)
	}
	if ct := got.header.Get("Content-Type"); ct != "application/json; charset=utf-8" {
		t.Errorf("Content-Type %q", ct)
	}

	// Clients send back what they read, read-only members and all.
	again := s.as("PUT", "/devices/d1", got.body, "If-Match", `"*"`)
	if again.want(t, "round trip", 200, 0); strings.Replace(again.body, etagOf(t, again), etagOf(t, got), 1) != got.body {
		t.Errorf("got  %s\nwant %s", again.body, got.body)
	}

	sha1 := strings.Repeat("0A", 20)
	self := s.as("PUT", "/devices/d2", `{"authentication":{"x509Thumbprint":{"primaryThumbprint":"`+sha1+`"},"symmetricKey":null,"type":"selfSigned"}}`)
	if self.want(t, "self-signed", 200, 0); !strings.Contains(self.body, `"symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":{"primaryThumbprint":"`+sha1+`","secondaryThumbprint":null},"type":"selfSigned"`) {
		t.Error(self.body)
	}
}

func TestLeniency(t *testing.T) {
	s := start(t)
	for _, c := range []struct{ name, path, body, want string }{
		{"an edge module's ID", "/devices/%24edgeHub", `{"deviceId":"$edgeHub"}`, `"deviceId":"$edgeHub"`},
		{"a percent sign", "/devices/a%2525", `{"deviceId":"a%25"}`, `"deviceId":"a%25"`},
		{"a trailing slash", "/devices/slash/", `{}`, `"deviceId":"slash"`},
		{"any case", "/Devices/case", `{"DEVICEID":"case","Status":"Disabled","STATUSREASON":"r","Authentication":{"TYPE":"SAS"}}`, `"status":"disabled","statusReason":"r"`},
		{"empty keys", "/devices/empty", `{"authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}}`, `"type":"sas"`},
		{"nulls", "/devices/nulls", `{"status":null,"statusReason":null,"authentication":null,"capabilities":null}`, `"status":"enabled"`},
		{"no type, thumbprint", "/devices/inferred", `{"authentication":{"x509Thumbprint":{"primaryThumbprint":"` + strings.Repeat("0", 64) + `"}}}`, `"type":"selfSigned"`},
		{"members nobody knows", "/devices/unknown", `{"cloudToDeviceMessageCount":7,"x":{"y":[1]},"etag":"zzz","generationId":"1"}`, `"cloudToDeviceMessageCount":0`},
	} {
		r := s.as("PUT", c.path, c.body)
		if r.want(t, c.name, 200, 0); !strings.Contains(r.body, c.want) {
			t.Errorf("%s: %s", c.name, r.body)
		}
	}
	generated := s.as("GET", "/devices/empty", "").body
	if keys := regexp.MustCompile(`"(primary|secondary)Key":"[A-Za-z0-9+/]{43}="`).FindAllString(generated, -1); len(keys) != 2 {
		t.Errorf("keys of 32 bytes: %s", generated)
	}
	for _, h := range []string{"HUB1.Example", "hub1.example:443", "hub1.device.example:8443"} {
		s.as("GET", "/devices/empty", "", "Host", h).want(t, h, 200, 0)
	}
	s.as("GET", "/devices/empty?x=1&api-version=2017-11-08-preview", "").want(t, "an old api-version", 200, 0)
}

func TestIdentitiesThatAreRefused(t *testing.T) {
	s := start(t)
	for _, c := range []struct {
		name, path, body string
		code             errs.Code
	}{
		{"another ID", "/devices/d1", `{"deviceId":"d2"}`, errs.CodeArgumentInvalid},
		{"the same ID in another case", "/devices/d1", `{"deviceId":"D1"}`, errs.CodeArgumentInvalid},
		{"an empty ID", "/devices/d1", `{"deviceId":""}`, errs.CodeArgumentInvalid},
		{"an ID with a slash", "/devices/a%2Fb", `{}`, errs.CodeArgumentInvalid},
		{"an ID with a space", "/devices/a%20b", `{}`, errs.CodeArgumentInvalid},
		{"an ID that is too long", "/devices/" + strings.Repeat("d", 129), `{}`, errs.CodeArgumentInvalid},
		{"a status nobody knows", "/devices/d1", `{"status":"stolen"}`, errs.CodeArgumentInvalid},
		{"a key that is not base64", "/devices/d1", `{"authentication":{"symmetricKey":{"primaryKey":"***"}}}`, errs.CodeArgumentInvalid},
		{"a key that is too short", "/devices/d1", `{"authentication":{"symmetricKey":{"secondaryKey":"AAAA"}}}`, errs.CodeArgumentInvalid},
		{"sas with a thumbprint", "/devices/d1", `{"authentication":{"type":"sas","x509Thumbprint":{"primaryThumbprint":"` + strings.Repeat("0", 40) + `"}}}`, errs.CodeArgumentInvalid},
		{"a certificate authority with a key", "/devices/d1", `{"authentication":{"type":"certificateAuthority","symmetricKey":{"primaryKey":"AAAAAAAAAAAAAAAAAAAAAA=="}}}`, errs.CodeArgumentInvalid},
		{"a type nobody knows", "/devices/d1", `{"authentication":{"type":"password"}}`, errs.CodeArgumentInvalid},
		{"two parents", "/devices/d1", `{"parentScopes":["a","b"]}`, errs.CodeInvalidDeviceScope},
		{"a parent that is not there", "/devices/d1", `{"deviceScope":"ms-azure-iot-edge://e-1"}`, errs.CodeInvalidDeviceScope},
		{"self-signed without thumbprints", "/devices/d1", `{"authentication":{"type":"selfSigned"}}`, errs.CodeArgumentInvalid},
		{"no JSON", "/devices/d1", `deviceId`, errs.CodeFormatError},
		{"nothing", "/devices/d1", ``, errs.CodeFormatError},
		{"an array", "/devices/d1", `[]`, errs.CodeFormatError},
		{"a number for a name", "/devices/d1", `{"status":1}`, errs.CodeFormatError},
	} {
		r := s.as("PUT", c.path, c.body)
		if r.want(t, c.name, 400, c.code); strings.Contains(r.body, "***") {
			t.Errorf("%s: the key is in the answer", c.name)
		}
	}
	s.as("PUT", "/devices/d1", `{}`, "Content-Type", "text/plain").want(t, "no JSON declared", 415, errs.CodeUnsupportedMediaType)
	s.as("PUT", "/devices/d1", `"`+strings.Repeat("x", maxDevice)).want(t, "too long", 413, errs.CodeTooLarge)
	s.as("GET", "/devices/d1?x=1", "").want(t, "no api-version", 400, errs.CodeInvalidProtocolVersion)
	s.as("PATCH", "/devices/d1", `{}`).want(t, "another method", 405, errs.CodeMethodNotAllowed)
	s.as("GET", "/statistics/modules", "").want(t, "another path", 404, errs.CodeGenericNotFound)
}

func TestCallersThatAreRefused(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1", `{}`).want(t, "create", 200, 0)
	later := time.Now().Add(time.Hour)
	policyToken := func(resource string, expiry time.Time) string {
		return sas.Sign(s.owner.Primary.Bytes(), resource, expiry, s.owner.Name)
	}
	for _, path := range []string{"/devices/d1", "/twins/d1"} {
		for name, authorization := range map[string]string{
			"nobody":           "",
			"another scheme":   "Bearer e30.e30.",
			"no token":         "SharedAccessSignature",
			"expired":          policyToken(host, time.Now().Add(-time.Hour)),
			"another hub":      policyToken("hub2.example", later),
			"another device":   policyToken(host+path+"1", later),
			"another key":      sas.Sign(testKey(9).Bytes(), host, later, s.owner.Name),
			"a device's token": sas.Sign(testKey(1).Bytes(), host+"/devices/d1", later, ""),
		} {
			r := s.send("GET", path, "", "Authorization", authorization)
			r.want(t, path+" "+name, 401, errs.CodeUnauthorizedAccess)
		}
		s.send("GET", path, "", "Authorization", policyToken("https://HUB1.example:443"+path, later)).want(t, "just enough", 200, 0)
		s.as("GET", path, "", "Host", "hub2.example").want(t, "unknown host", 401, errs.CodeHubNotFound)
	}
	for method, path := range map[string]string{"PUT": "/devices/d2", "DELETE": "/devices/d1", "GET": "/twins/d1"} {
		s.send(method, path, `{}`, "Authorization", token(s.reader)).want(t, method+" with RegistryRead", 401, errs.CodeUnauthorizedAccess)
	}
	s.send("GET", "/devices/d1", "", "Authorization", token(s.reader)).want(t, "GET with RegistryRead", 200, 0)
	twinReader := s.policy("service", access.ServiceConnect)
	s.send("GET", "/devices/d1", "", "Authorization", token(twinReader)).want(t, "keys with ServiceConnect", 401, errs.CodeUnauthorizedAccess)
}

func TestListAndStatistics(t *testing.T) {
	s := start(t)
	count := func(want string) {
		t.Helper()
		r := s.as("GET", "/statistics/devices", "")
		if r.want(t, "statistics", 200, 0); r.body != want {
			t.Errorf("%s, want %s", r.body, want)
		}
	}
	count(`{"totalDeviceCount":0,"enabledDeviceCount":0,"disabledDeviceCount":0}`)
	if r := s.as("GET", "/devices", ""); r.status != 200 || r.body != "[]" {
		t.Errorf("%d %s", r.status, r.body)
	}
	var all []string
	for i, body := range []string{`{}`, `{"status":"disabled"}`, `{}`} {
		all = append(all, s.as("PUT", fmt.Sprint("/devices/d", i), body).body)
	}
	count(`{"totalDeviceCount":3,"enabledDeviceCount":2,"disabledDeviceCount":1}`)
	for top, want := range map[string]int{"": 3, "top=2&": 2, "top=3&": 3, "top=1000&": 3, "top=5000&": 3} {
		r := s.as("GET", "/devices/?"+top+"api-version=2021-04-12", "")
		if r.want(t, top, 200, 0); r.body != "["+strings.Join(all[:want], ",")+"]" {
			t.Errorf("%s: %s", top, r.body)
		}
	}
	for _, top := range []string{"0", "-1", "x", "1.5", "99999999999"} {
		s.as("GET", "/devices?top="+top+"&api-version=2021-04-12", "").want(t, top, 400, errs.CodeArgumentInvalid)
	}
	service := s.policy("service", access.ServiceConnect|access.RegistryWrite)
	for _, path := range []string{"/devices", "/statistics/devices"} {
		s.send("GET", path, "", "Authorization", token(service)).want(t, path+" without RegistryRead", 401, errs.CodeUnauthorizedAccess)
		s.send("GET", path, "").want(t, path+" without a token", 401, errs.CodeUnauthorizedAccess)
		s.send("GET", path, "", "Authorization", token(s.reader)).want(t, path+" with RegistryRead", 200, 0)
		s.as("GET", path, "", "Host", "hub2.example").want(t, path+" of an unknown hub", 401, errs.CodeHubNotFound)
		s.as("GET", path+"?x=1", "").want(t, path+" without an api-version", 400, errs.CodeInvalidProtocolVersion)
	}
}

func TestTwinDocument(t *testing.T) {
	s := start(t)
	err := s.service.Provision(t.Context(), hub.Provisioning{
		Hub: host, DeviceID: "d1", Thumbprint: strings.Repeat("AB", 32),
		Twin: &hub.InitialTwin{Tags: json.RawMessage(`{"site":"a"}`), Desired: json.RawMessage(`{"rate": 10, "net": {"ssid": "x", "list": [{"a":1}]}}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := s.as("GET", "/twins/d1", "")
	got.want(t, "twin", 200, 0)
	if etagOf(t, got) != "AAAAAAAAAAE=" {
		t.Errorf("entity tag %s", etagOf(t, got))
	}
	at := regexp.MustCompile(`"\$lastUpdated":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z)"`).FindStringSubmatch(got.body)
	deviceETag := regexp.MustCompile(`"deviceEtag":"([^"]+)"`).FindStringSubmatch(got.body)
	if at == nil || deviceETag == nil {
		t.Fatal(got.body)
	}
	node := `"$lastUpdated":"` + at[1] + `","$lastUpdatedVersion":1`
	want := `{"deviceId":"d1","etag":"AAAAAAAAAAE=","deviceEtag":"` + deviceETag[1] + `","status":"enabled","statusReason":null,` +
		`"statusUpdateTime":"0001-01-01T00:00:00Z","connectionState":"Disconnected","lastActivityTime":"0001-01-01T00:00:00Z",` +
		`"cloudToDeviceMessageCount":0,"authenticationType":"selfSigned","x509Thumbprint":{"primaryThumbprint":"` + strings.Repeat("AB", 32) +
		`","secondaryThumbprint":"` + strings.Repeat("AB", 32) + `"},"modelId":"","version":2,"tags":{"site":"a"},` +
		`"properties":{"desired":{"rate":10,"net":{"ssid":"x","list":[{"a":1}]},` +
		`"$metadata":{` + node + `,"rate":{` + node + `},"net":{` + node + `,"ssid":{` + node + `},"list":{` + node + `}}},"$version":1},` +
		`"reported":{"$metadata":{"$lastUpdated":"` + at[1] + `"},"$version":1}},"capabilities":{"iotEdge":false},"parentScopes":[]}`
	if got.body != want {
		t.Errorf("got  %s\nwant %s", got.body, want)
	}
}

func TestEveryKindHasACode(t *testing.T) {
	for _, k := range errs.Kinds() {
		if code, ok := codes[k]; !ok || code.Status() < 400 || strings.Trim(code.Name(), "0123456789") == "" {
			t.Errorf("%s: %d %s", k, code, code.Name())
		}
	}
	if len(codes) != len(errs.Kinds()) {
		t.Errorf("%d codes for %d kinds", len(codes), len(errs.Kinds()))
	}
}

func FuzzDecodeDevice(f *testing.F) {
	f.Add([]byte(`{"deviceId":"d1","status":"enabled","authentication":{"symmetricKey":{"primaryKey":"AAAAAAAAAAAAAAAAAAAAAA=="},"type":"sas"}}`))
	f.Add([]byte(`{"authentication":{"x509Thumbprint":{"primaryThumbprint":"00"},"type":"selfSigned"}}`))
	f.Add([]byte(`{"authentication":null,"capabilities":{"iotEdge":true}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		spec, err := decodeDevice(body, "d1")
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("not the sender's fault: %v", err)
			}
			return
		}
		edge := spec.IoTEdge != nil && *spec.IoTEdge
		again, err := json.Marshal(encodeDevice(&hub.Identity{Place: hub.Place{ID: "d1"}, Disabled: spec.Disabled, StatusReason: spec.StatusReason, IoTEdge: edge, Auth: spec.Auth}, hub.About{}))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeDevice(again, "d1"); err != nil || back.Disabled != spec.Disabled || back.StatusReason != spec.StatusReason ||
			back.Auth.Type != spec.Auth.Type || !back.Auth.Keys.Primary.Equal(spec.Auth.Keys.Primary) {
			t.Errorf("%s became %s (%v)", body, again, err)
		}
	})
}
