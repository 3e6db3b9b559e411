package hubhttp

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/sas"
)

// keysJSON is an authentication with the keys of testKey.
func keysJSON(primary, secondary byte) string {
	return `{"type":"sas","symmetricKey":{"primaryKey":"` + testKey(primary).Base64() + `","secondaryKey":"` + testKey(secondary).Base64() + `"}}`
}

// member returns a member of a JSON object that is text.
func member(t *testing.T, body, name string) string {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	text, _ := all[name].(string)
	return text
}

func TestLifeOfAModuleOverREST(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1/modules/m1", `{}`).want(t, "of no device", 404, errs.CodeDeviceNotFound)
	s.as("GET", "/devices/d1/modules", ``).want(t, "of no device", 404, errs.CodeDeviceNotFound)
	s.as("PUT", "/devices/d1", `{}`).want(t, "create", 200, 0)
	if r := s.as("GET", "/devices/d1/modules/", ""); r.status != 200 || r.body != "[]" {
		t.Errorf("no modules: %d %s", r.status, r.body)
	}
	s.as("GET", "/devices/d1/modules/m1", "").want(t, "nothing yet", 404, errs.CodeModuleNotFound)
	s.as("PUT", "/devices/d1/modules/m1", `{}`, "If-Match", "*").want(t, "update of nothing", 404, errs.CodeModuleNotFound)

	created := s.as("PUT", "/devices/d1/modules/m1", `{"moduleId":"m1","deviceId":"d1","managedBy":"iotEdge","authentication":`+keysJSON(1, 2)+`}`)
	created.want(t, "create", 200, 0)
	want := `{"moduleId":"m1","managedBy":"iotEdge","deviceId":"d1","generationId":"` + member(t, created.body, "generationId") + `","etag":"` + etagOf(t, created) + `",` +
		`"connectionState":"Disconnected","connectionStateUpdatedTime":"0001-01-01T00:00:00Z","lastActivityTime":"0001-01-01T00:00:00Z","cloudToDeviceMessageCount":0,` +
		`"authentication":{"symmetricKey":{"primaryKey":"` + testKey(1).Base64() + `","secondaryKey":"` + testKey(2).Base64() + `"},` +
		`"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"type":"sas"}}`
	if created.body != want {
		t.Errorf("got  %s\nwant %s", created.body, want)
	}
	if r := s.as("GET", "/devices/d1/modules/m1/", ""); r.body != created.body || etagOf(t, r) != etagOf(t, created) {
		t.Errorf("read %s", r.body)
	}
	if r := s.as("GET", "/devices/d1/modules", ""); r.body != "["+created.body+"]" {
		t.Errorf("listed %s", r.body)
	}

	s.as("PUT", "/devices/d1/modules/m1", `{}`).want(t, "second create", 409, errs.CodeModuleAlreadyExists)
	s.as("PUT", "/devices/d1/modules/m1", `{}`, "If-Match", `"stale"`).want(t, "stale", 412, errs.CodePreconditionFailed)
	for _, match := range []string{"*", `"*"`} {
		s.as("PUT", "/devices/d1/modules/m1", created.body, "If-Match", match).want(t, match, 200, 0)
	}
	updated := s.as("PUT", "/devices/d1/modules/m1", `{"AUTHENTICATION":{"TYPE":"NONE"}}`, "If-Match", "*")
	updated.want(t, "update", 200, 0)
	if !strings.Contains(updated.body, `"managedBy":""`) || !strings.Contains(updated.body, `"type":"none"`) || member(t, updated.body, "generationId") != member(t, created.body, "generationId") {
		t.Errorf("updated to %s", updated.body)
	}

	twin := s.as("PATCH", "/twins/d1/modules/m1", `{"tags":{"a":1},"properties":{"desired":{"x":2}}}`)
	twin.want(t, "twin", 200, 0)
	if !strings.HasPrefix(twin.body, `{"deviceId":"d1","moduleId":"m1","etag":"`) || !strings.Contains(twin.body, `"tags":{"a":1}`) || !strings.Contains(twin.body, `"authenticationType":"none"`) {
		t.Errorf("twin %s", twin.body)
	}
	s.as("PUT", "/twins/d1/modules/m1", `{}`, "If-Match", `"`+etagOf(t, twin)+`"`).want(t, "replaced twin", 200, 0)
	if r := s.as("GET", "/twins/d1/modules/m1", ""); !strings.Contains(r.body, `"tags":{}`) {
		t.Errorf("replaced twin: %s", r.body)
	}
	if r := s.as("GET", "/twins/d1", ""); strings.Contains(r.body, "moduleId") || !strings.Contains(r.body, `"version":2`) {
		t.Errorf("the device's own twin: %s", r.body)
	}
	s.as("GET", "/twins/d1/modules/m2", "").want(t, "no twin", 404, errs.CodeModuleNotFound)
	s.as("POST", "/twins/d1/modules/m1/methods", `{"methodName":"reboot"}`).want(t, "a method of who is away", 404, errs.CodeDeviceNotOnline)
	s.as("POST", "/twins/d1/modules/m2/methods", `{"methodName":"reboot"}`).want(t, "a method of nobody", 404, errs.CodeModuleNotFound)
	if r := s.as("DELETE", "/devices/d1/modules/m1/commands", ""); r.status != 200 || r.body != `{"totalMessagesPurged":0,"deviceId":"d1","moduleId":"m1"}` {
		t.Errorf("purging: %d %s", r.status, r.body)
	}
	s.as("DELETE", "/devices/d1/modules/m2/commands", "").want(t, "purging nobody's", 404, errs.CodeModuleNotFound)

	s.as("DELETE", "/devices/d1/modules/m1", "", "If-Match", `"stale"`).want(t, "stale", 412, errs.CodePreconditionFailed)
	if r := s.as("DELETE", "/devices/d1/modules/m1", "", "If-Match", "*"); r.status != 204 || r.body != "" {
		t.Errorf("delete: %d %s", r.status, r.body)
	}
	s.as("DELETE", "/devices/d1/modules/m1", "").want(t, "delete again", 404, errs.CodeModuleNotFound)
}

func TestModulesThatAreRefusedOverREST(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1", `{}`).want(t, "create", 200, 0)
	for _, c := range []struct {
		name, path, body string
		status           int
		code             errs.Code
	}{
		{"another module", "m1", `{"moduleId":"m2"}`, 400, errs.CodeArgumentInvalid},
		{"another device", "m1", `{"deviceId":"d2"}`, 400, errs.CodeArgumentInvalid},
		{"a space", "m%201", `{}`, 400, errs.CodeArgumentInvalid},
		{"a slash", "m%2F1", `{}`, 400, errs.CodeArgumentInvalid},
		{"too long", strings.Repeat("m", 129), `{}`, 400, errs.CodeArgumentInvalid},
		{"a long managedBy", "m1", `{"managedBy":"` + strings.Repeat("m", 129) + `"}`, 400, errs.CodeArgumentInvalid},
		{"no JSON", "m1", `x`, 400, errs.CodeFormatError},
		{"a system module", "$edgeAgent", `{}`, 401, errs.CodeSystemModule},
		{"a system module, encoded", "%24edgeHub", `{}`, 401, errs.CodeSystemModule},
	} {
		s.as("PUT", "/devices/d1/modules/"+c.path, c.body).want(t, c.name, c.status, c.code)
	}
	s.as("PUT", "/devices/d1/modules/m1", `{}`, "Content-Type", "text/plain").want(t, "no JSON declared", 415, errs.CodeUnsupportedMediaType)
	s.as("PATCH", "/devices/d1/modules/m1", `{}`).want(t, "another method", 405, errs.CodeMethodNotAllowed)
	s.as("GET", "/devices/d1/modules/m1/more", ``).want(t, "another path", 404, errs.CodeGenericNotFound)
}

func TestEdgeDevicesOverREST(t *testing.T) {
	s := start(t)
	edge := s.as("PUT", "/devices/edge-1", `{"capabilities":{"iotEdge":true}}`)
	edge.want(t, "create", 200, 0)
	scope := member(t, edge.body, "deviceScope")
	if scope != "ms-azure-iot-edge://edge-1-"+member(t, edge.body, "generationId") || !strings.Contains(edge.body, `"parentScopes":[]`) {
		t.Errorf("an edge device is %s", edge.body)
	}
	for _, path := range []string{"$edgeAgent", "%24edgeAgent", "%24edgeHub/"} {
		s.as("GET", "/devices/edge-1/modules/"+path, "").want(t, path, 200, 0)
		s.as("PATCH", "/twins/edge-1/modules/"+path, `{"properties":{"desired":{"schemaVersion":"1.1"}}}`).want(t, path, 200, 0)
		s.as("DELETE", "/devices/edge-1/modules/"+path, "").want(t, path, 401, errs.CodeSystemModule)
	}
	if all := s.as("GET", "/devices/edge-1/modules", "").body; strings.Count(all, `"managedBy":"iotEdge"`) != 2 {
		t.Errorf("its modules are %s", all)
	}
	s.as("PUT", "/devices/edge-1", `{"capabilities":{"iotEdge":false}}`, "If-Match", "*").want(t, "taking the capability", 400, errs.CodeArgumentInvalid)
	for _, body := range []string{edge.body, `{}`, `{"deviceScope":"x"}`} {
		if r := s.as("PUT", "/devices/edge-1", body, "If-Match", "*"); member(t, r.body, "deviceScope") != scope {
			t.Errorf("%s made it %d %s", body, r.status, r.body)
		}
	}

	for _, c := range []struct{ name, sent, scopes string }{
		{"as deviceScope", `{"deviceScope":"` + scope + `"}`, scope},
		{"as parentScopes", `{"parentScopes":["` + scope + `"]}`, scope},
		{"as both", `{"deviceScope":"` + scope + `","parentScopes":["` + scope + `"]}`, scope},
		{"with no other", `{"deviceScope":"` + scope + `","parentScopes":[]}`, scope},
		{"as null", `{"deviceScope":null,"parentScopes":null}`, ""},
	} {
		s.as("PUT", "/devices/leaf", `{}`).want(t, "create", 200, 0)
		r := s.as("PUT", "/devices/leaf", c.sent, "If-Match", "*")
		r.want(t, c.name, 200, 0)
		want := `"deviceScope":"` + scope + `","parentScopes":["` + scope + `"]`
		if c.scopes == "" {
			want = `"parentScopes":[]`
		}
		if !strings.Contains(r.body, want) || !strings.Contains(s.as("GET", "/twins/leaf", "").body, want) {
			t.Errorf("a child said %s: %s", c.name, r.body)
		}
		// A client sends back what it read, with the parent taken out of one of the members.
		for _, taken := range []string{
			strings.Replace(r.body, `"deviceScope":"`+scope+`"`, `"deviceScope":""`, 1),
			strings.Replace(r.body, `"parentScopes":["`+scope+`"]`, `"parentScopes":[]`, 1),
		} {
			s.as("PUT", "/devices/leaf", r.body, "If-Match", "*").want(t, "all of it", 200, 0)
			if r := s.as("PUT", "/devices/leaf", taken, "If-Match", "*"); r.status != 200 || !strings.Contains(r.body, `"parentScopes":[]`) {
				t.Errorf("%s: without the parent: %d %s", c.name, r.status, r.body)
			}
		}
		s.as("DELETE", "/devices/leaf", "").want(t, "delete", 204, 0)
	}
}

// A device manages its own modules, as the security daemon of IoT Edge does it, with
// what it says and how.
func TestADeviceManagesItsModules(t *testing.T) {
	s := start(t)
	const version = "?api-version=2017-11-08-preview"
	s.as("PUT", "/devices/Edge1", `{"capabilities":{"iotEdge":true},"authentication":`+keysJSON(1, 2)+`}`).want(t, "create", 200, 0)
	s.as("PUT", "/devices/other", `{"authentication":`+keysJSON(3, 4)+`}`).want(t, "create", 200, 0)
	s.as("PUT", "/devices/other/modules/m1", `{}`).want(t, "create", 200, 0)
	own := sas.Sign(testKey(1).Bytes(), strings.ToLower(host+"/devices/Edge1"), time.Now().Add(30*time.Second), "")
	call := func(method, path, body string, headers ...string) reply {
		t.Helper()
		return s.send(method, path+version, body, append(headers, "Authorization", own)...)
	}
	created := call("PUT", "/devices/Edge1/modules/m1", `{"moduleId":"m1","managedBy":"iotEdge","deviceId":"Edge1","authentication":{"type":"None"}}`)
	created.want(t, "create", 200, 0)
	generation := member(t, created.body, "generationId")
	updated := call("PUT", "/devices/Edge1/modules/m1", `{"moduleId":"m1","managedBy":"iotEdge","deviceId":"Edge1","generationId":"`+generation+`","authentication":`+keysJSON(5, 6)+`}`, "If-Match", "*")
	if updated.want(t, "update", 200, 0); member(t, updated.body, "generationId") != generation || !strings.Contains(updated.body, testKey(5).Base64()) {
		t.Errorf("updated to %s", updated.body)
	}
	call("PUT", "/devices/Edge1/modules/%24edgeAgent", `{"moduleId":"$edgeAgent","deviceId":"Edge1","authentication":`+keysJSON(5, 6)+`}`, "If-Match", "*").want(t, "a system module", 200, 0)
	if r := call("GET", "/devices/Edge1/modules", ""); r.status != 200 || strings.Count(r.body, `"moduleId"`) != 3 {
		t.Errorf("listed %d %s", r.status, r.body)
	}
	call("GET", "/devices/Edge1/modules/m1", "").want(t, "read", 200, 0)
	call("DELETE", "/devices/Edge1/modules/m1", "", "If-Match", "*").want(t, "delete", 204, 0)

	for name, r := range map[string]reply{
		"another device's module":  call("GET", "/devices/other/modules/m1", ""),
		"another device's modules": call("GET", "/devices/other/modules", ""),
		"writing there":            call("PUT", "/devices/other/modules/m2", `{}`),
		"deleting there":           call("DELETE", "/devices/other/modules/m1", ""),
		"its own identity":         call("GET", "/devices/Edge1", ""),
		"writing it":               call("PUT", "/devices/Edge1", `{}`, "If-Match", "*"),
		"all devices":              call("GET", "/devices", ""),
		"its twin":                 call("GET", "/twins/Edge1", ""),
		"a module's twin":          call("GET", "/twins/Edge1/modules/$edgeAgent", ""),
		"a module's method":        call("POST", "/twins/Edge1/modules/$edgeAgent/methods", `{"methodName":"ping"}`),
		"with a module's token": s.send("GET", "/devices/Edge1/modules", "", "Authorization",
			sas.Sign(testKey(5).Bytes(), host+"/devices/Edge1/modules/$edgeAgent", time.Now().Add(time.Minute), "")),
		"with another key":      s.send("GET", "/devices/Edge1/modules", "", "Authorization", deviceToken(testKey(9), "Edge1")),
		"with nothing":          s.send("GET", "/devices/Edge1/modules", ""),
		"with a key for a name": s.send("GET", "/devices/Edge1/modules", "", "Authorization", sas.Sign(testKey(1).Bytes(), host, time.Now().Add(time.Minute), "iothubowner")),
	} {
		if r.want(t, name, 401, errs.CodeUnauthorizedAccess); strings.Contains(r.body, testKey(1).Base64()) {
			t.Errorf("%s: the answer has a key: %s", name, r.body)
		}
	}
	s.as("PUT", "/devices/Edge1", `{"status":"disabled","authentication":`+keysJSON(1, 2)+`}`, "If-Match", "*").want(t, "disable", 200, 0)
	call("GET", "/devices/Edge1/modules", "").want(t, "a disabled device", 403, errs.CodeDeviceDisabled)
}

// Every operation of operators takes one right, or one of two, of the policy whose
// token it is called with, and there is none that takes no right.
func TestRightsOfOperations(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1", `{}`).want(t, "create", 200, 0)
	s.as("PUT", "/devices/d1/modules/m1", `{}`).want(t, "create", 200, 0)
	known := map[string]bool{}
	for _, op := range operations {
		known[op.method+" "+op.path] = true
		for _, right := range []access.Right{access.RegistryRead, access.RegistryWrite, access.ServiceConnect, access.HubDeviceConnect} {
			p := s.policy(strings.ReplaceAll(right.String(), " ", ""), right)
			r := s.send(op.method, op.path, op.body, "Authorization", token(p), "If-Match", `"other"`)
			if allowed := right&op.rights != 0; allowed == (r.status == 401) {
				t.Errorf("%s %s with %s: %d %s", op.method, op.path, right, r.status, r.body)
			}
		}
		everythingElse := s.policy("else", access.AllHub&^op.rights)
		s.send(op.method, op.path, op.body, "Authorization", token(everythingElse)).want(t, fmt.Sprintf("%s %s without %s", op.method, op.path, op.rights), 401, errs.CodeUnauthorizedAccess)
		s.send(op.method, op.path, op.body).want(t, op.method+" "+op.path+" as nobody", 401, errs.CodeUnauthorizedAccess)
	}
	for _, route := range (api{}).routes() {
		path := strings.NewReplacer("{id}", "d1", "{module}", "m1", "{configuration}", "c1", "{lock}", "l1").Replace(route.Pattern)
		if known[route.Method+" "+path] {
			continue
		}
		if !strings.Contains(path, "/messages/events") && !strings.Contains(path, "/messages/devicebound") && !strings.HasPrefix(route.Pattern, edgeHubPath) {
			t.Errorf("%s %s: nobody says who may", route.Method, path)
			continue
		}
		// What devices do takes their credentials, or DeviceConnect.
		operator := s.policy("operator", access.AllHub&^access.HubDeviceConnect)
		s.send(route.Method, path, `{}`, "Authorization", token(operator)).want(t, route.Method+" "+path+" as an operator", 401, errs.CodeUnauthorizedAccess)
		s.send(route.Method, path, `{}`).want(t, route.Method+" "+path+" as nobody", 401, errs.CodeUnauthorizedAccess)
	}
}

// operations are those of operators, each with the rights of which it takes one.
var operations = []struct {
	method, path, body string
	rights             access.Right
}{
	{"GET", "/devices/d1", "", access.RegistryRead},
	{"GET", "/devices", "", access.RegistryRead},
	{"GET", "/statistics/devices", "", access.RegistryRead},
	{"GET", "/statistics/service", "", access.RegistryRead},
	{"POST", "/devices", "[]", access.RegistryWrite},
	{"POST", "/devices/keys/regenerate", `{"policyKey":"both"}`, access.RegistryWrite},
	{"PUT", "/devices/d1", "{}", access.RegistryWrite},
	{"DELETE", "/devices/d1", "", access.RegistryWrite},
	{"GET", "/devices/d1/modules", "", access.RegistryRead},
	{"GET", "/devices/d1/modules/m1", "", access.RegistryRead},
	{"PUT", "/devices/d1/modules/m1", "{}", access.RegistryWrite},
	{"DELETE", "/devices/d1/modules/m1", "", access.RegistryWrite},
	{"GET", "/twins/d1", "", access.ServiceConnect},
	{"PATCH", "/twins/d1", "{}", access.ServiceConnect},
	{"PUT", "/twins/d1", "{}", access.ServiceConnect},
	{"GET", "/twins/d1/modules/m1", "", access.ServiceConnect},
	{"PATCH", "/twins/d1/modules/m1", "{}", access.ServiceConnect},
	{"PUT", "/twins/d1/modules/m1", "{}", access.ServiceConnect},
	{"POST", "/devices/query", `{"query":"SELECT * FROM devices"}`, access.ServiceConnect},
	{"POST", "/twins/d1/methods", `{"methodName":"m"}`, access.ServiceConnect},
	{"POST", "/twins/d1/modules/m1/methods", `{"methodName":"m"}`, access.ServiceConnect},
	{"GET", "/configurations", "", access.RegistryRead | access.ServiceConnect},
	{"GET", "/configurations/c1", "", access.RegistryRead | access.ServiceConnect},
	{"PUT", "/configurations/c1", `{"id":"c1","content":{"deviceContent":{"properties.desired.x":1}},"targetCondition":"tags.a=1","priority":1}`, access.RegistryWrite | access.ServiceConnect},
	{"DELETE", "/configurations/c1", "", access.RegistryWrite | access.ServiceConnect},
	{"POST", "/configurations/testQueries", `{"targetCondition":"tags.a=1","customMetricQueries":{}}`, access.RegistryRead | access.ServiceConnect},
	{"POST", "/devices/d1/applyConfigurationContent", `{"deviceContent":{"properties.desired.x":1}}`, access.RegistryWrite | access.ServiceConnect},
	{"DELETE", "/devices/d1/commands", "", access.ServiceConnect},
	{"DELETE", "/devices/d1/modules/m1/commands", "", access.ServiceConnect},
	{"GET", "/messages/serviceBound/feedback", "", access.ServiceConnect},
	{"DELETE", "/messages/serviceBound/feedback/l1", "", access.ServiceConnect},
	{"POST", "/messages/serviceBound/feedback/l1/abandon", "", access.ServiceConnect},
}

// rawToken is a token whose resource is signed and sent as it is, without
// percent-encoding.
func rawToken(k device.SymmetricKey, resource string, expiry time.Time, policy string) string {
	mac := hmac.New(sha256.New, k.Bytes())
	fmt.Fprintf(mac, "%s\n%d", resource, expiry.Unix())
	signature := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return fmt.Sprintf("SharedAccessSignature sig=%s&se=%d&skn=%s&sr=%s", signature, expiry.Unix(), policy, resource)
}

// Clients write for what a token is in many ways.
func TestAudiences(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/D-1", `{"authentication":`+keysJSON(1, 2)+`}`).want(t, "create", 200, 0)
	s.as("PUT", "/devices/D-1/modules/$m", `{}`).want(t, "a system module", 401, errs.CodeSystemModule)
	s.as("PUT", "/devices/D-1/modules/M:1", `{"authentication":`+keysJSON(3, 4)+`}`).want(t, "create", 200, 0)
	later := time.Now().Add(time.Hour)
	module := hub.Place{Hub: host, ID: "D-1", Module: "M:1"}
	for _, c := range []struct {
		resource                 string
		service, device, modules bool // for whom it is good
	}{
		{host, true, true, true},
		{"HUB1.Example", true, true, true},
		{host + ":443", true, true, true},
		{"https://" + host, true, true, true},
		{"https://" + host + "/", true, true, true},
		{"HTTPS://hub1.example:8883", true, true, true},
		{"hub1.device.example", true, true, true},
		{host + "/devices", true, true, true},
		{host + "/devices/D-1", true, true, true},
		{strings.ToLower(host + "/devices/D-1"), true, true, true},
		{"hub1.device.example:443/devices/d-1/", true, true, true},
		{host + "/devices/D-1/modules", true, false, true},
		{host + "/devices/D-1/modules/M:1", true, false, true},
		{"https://hub1.device.example/devices/d-1/modules/m:1", true, false, true},

		{"hub2.example", false, false, false},
		{host + ".evil.example", false, false, false},
		{"evil.example/" + host, false, false, false},
		{host + "/device", false, false, false},
		{host + "/devices/D-", false, false, false},
		{host + "/devices/D-11", false, false, false},
		{host + "/devices/D-1/modules/M:", false, false, false},
		{host + "/devices/D-1/modules/M:11", false, false, false},
		{host + "/devices/D-1/modules/M:1/x", false, false, false},
		{host + "/twins/D-1", false, false, false},
		{host + "//devices/D-1", false, false, false},
		{host + "/devices/D-1?api-version=1", false, false, false},
	} {
		for form, token := range map[string]string{
			"encoded": sas.Sign(s.owner.Primary.Bytes(), c.resource, later, s.owner.Name),
			"raw":     rawToken(s.owner.Primary, c.resource, later, s.owner.Name),
		} {
			got := s.send("GET", "/devices/D-1/modules/M:1", "", "Authorization", token)
			if (got.status == 200) != c.service {
				t.Errorf("an operator's for %q, %s: %d", c.resource, form, got.status)
			}
		}
		got := s.send("GET", "/devices/D-1/modules", "", "Authorization", sas.Sign(testKey(1).Bytes(), c.resource, later, ""))
		if (got.status == 200) != c.device {
			t.Errorf("a device's for %q: %d", c.resource, got.status)
		}
		signed, err := sas.Parse(sas.Sign(testKey(3).Bytes(), c.resource, later, ""))
		if err != nil {
			t.Fatal(err)
		}
		h, _ := hosts{}.Hub(host)
		_, err = s.service.Authenticate(t.Context(), h, module.ID, module.Module, attest.Credential{Token: &signed}, hub.Approach{})
		if (err == nil) != c.modules {
			t.Errorf("a module's for %q: %v", c.resource, err)
		}
	}
}

func FuzzDecodeModule(f *testing.F) {
	f.Add([]byte(`{"moduleId":"m1","deviceId":"d1","managedBy":"iotEdge","authentication":{"symmetricKey":{"primaryKey":"AAAAAAAAAAAAAAAAAAAAAA=="},"type":"sas"}}`))
	f.Add([]byte(`{"authentication":{"type":"None"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		of := target{hub: hub.Host{Name: host}, id: "d1", module: "m1"}
		spec, err := decodeModule(body, of)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("not the sender's fault: %v", err)
			}
			return
		}
		again, err := json.Marshal(encodeModule(&hub.Identity{Place: of.place(), ManagedBy: spec.ManagedBy, Auth: spec.Auth}, hub.About{}))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeModule(again, of); err != nil || back.ManagedBy != spec.ManagedBy || back.Auth.Type != spec.Auth.Type || !back.Auth.Keys.Primary.Equal(spec.Auth.Keys.Primary) {
			t.Errorf("%s became %s (%v)", body, again, err)
		}
	})
}

// A device that has no key manages its modules by the certificate of its connection.
func TestADeviceManagesItsModulesWithACertificate(t *testing.T) {
	s := start(t)
	own, stranger := selfSigned(t), selfSigned(t)
	pinned := `{"authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"` + attest.Thumbprint(own.Certificate[0]) + `"}}}`
	s.as("PUT", "/devices/d2", pinned).want(t, "create", 200, 0)
	s.as("PUT", "/devices/d3", `{}`).want(t, "create", 200, 0)
	roots := s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	present := func(cert tls.Certificate) {
		s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com", Certificates: []tls.Certificate{cert}}}}
		t.Cleanup(s.client.CloseIdleConnections)
	}
	module := `{"moduleId":"m1","deviceId":"d2","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"` + attest.ThumbprintSHA1(stranger.Certificate[0]) + `"}}}`
	present(own)
	s.send("PUT", "/devices/d2/modules/m1", module).want(t, "create", 200, 0)
	s.send("PUT", "/devices/d2/modules/m1", module, "If-Match", "*").want(t, "update", 200, 0)
	s.send("GET", "/devices/d2/modules", "").want(t, "list", 200, 0)
	s.send("GET", "/devices/d3/modules", "").want(t, "another device's", 401, errs.CodeDeviceUnauthorized)
	s.send("GET", "/devices/d2", "").want(t, "its identity", 401, errs.CodeUnauthorizedAccess)
	s.send("GET", "/devices/d2/modules", "", "Authorization", token(s.reader)).want(t, "an operator with some certificate", 200, 0)
	s.send("DELETE", "/devices/d2/modules/m1", "", "Authorization", token(s.reader)).want(t, "an operator who may not, with the device's certificate", 401, errs.CodeUnauthorizedAccess)
	present(stranger) // which is the module's
	s.send("GET", "/devices/d2/modules", "").want(t, "the module's", 401, errs.CodeDeviceUnauthorized)
	s.send("DELETE", "/devices/d2/modules/m1", "", "If-Match", "*").want(t, "the module's", 401, errs.CodeDeviceUnauthorized)
	present(own)
	s.send("DELETE", "/devices/d2/modules/m1", "", "If-Match", "*").want(t, "delete", 204, 0)
}
