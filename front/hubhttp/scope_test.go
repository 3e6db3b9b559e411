package hubhttp

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

// scopeOf reads the answer to a question of $edgeHub: who is in it, and the rest of
// the answer's members.
func scopeOf(t *testing.T, what string, r reply) (ids, link string) {
	t.Helper()
	r.want(t, what, 200, 0)
	var all map[string]json.RawMessage
	var found struct {
		Devices, Modules []struct{ DeviceID, ModuleID string }
		ContinuationLink *string
	}
	if err := json.Unmarshal([]byte(r.body), &all); err != nil || len(all) != 3 || json.Unmarshal([]byte(r.body), &found) != nil || found.Devices == nil || found.Modules == nil {
		t.Fatalf("%s: %v %s", what, err, r.body)
	}
	for _, d := range found.Devices {
		ids += " " + d.DeviceID
	}
	for _, m := range found.Modules {
		ids += " " + m.DeviceID + "/" + m.ModuleID
	}
	if found.ContinuationLink != nil {
		link = *found.ContinuationLink
	}
	return strings.TrimPrefix(ids, " "), link
}

func TestScopeSync(t *testing.T) {
	s := start(t)
	create := func(id, parent string, edge bool) string {
		t.Helper()
		body := `{"authentication":` + keysJSON(1, 2)
		if edge {
			body += `,"capabilities":{"iotEdge":true}`
		}
		if parent != "" {
			body += `,"parentScopes":["` + parent + `"]`
		}
		r := s.as("PUT", "/devices/"+id, body+"}")
		r.want(t, "creating "+id, 200, 0)
		return member(t, r.body, "deviceScope")
	}
	top := create("top", "", true)
	middle := create("middle", top, true)
	create("leaf-1", top, false)
	create("leaf-2", top, false)
	create("deep", middle, false)
	create("stranger", "", false)
	s.as("PUT", "/devices/leaf-1/modules/m1", `{"managedBy":"me","authentication":`+keysJSON(3, 4)+`}`).want(t, "create", 200, 0)
	s.as("PUT", "/devices/top/modules/$edgeHub", `{"authentication":`+keysJSON(5, 6)+`}`, "If-Match", "*").want(t, "update", 200, 0)
	module := sas.Sign(testKey(5).Bytes(), host+"/devices/top/modules/$edgeHub", time.Now().Add(time.Hour), "")
	ask := func(method, path, body string) reply {
		t.Helper()
		return s.send(method, path, body, "Authorization", module)
	}
	const under = "/devices/top/modules/%24edgeHub/"
	const everybody = "top leaf-1 leaf-2 middle top/$edgeAgent top/$edgeHub leaf-1/m1 middle/$edgeAgent middle/$edgeHub"

	list := under + "devicesAndModulesInDeviceScope?api-version=2018-08-30-preview"
	whole := ask("GET", list, "")
	if ids, link := scopeOf(t, "all", whole); ids != everybody || link != "" || !strings.Contains(whole.body, `"continuationLink":null`) {
		t.Errorf("%s", whole.body)
	}
	if !strings.Contains(whole.body, `"deviceId":"leaf-1"`) || !strings.Contains(whole.body, testKey(3).Base64()) || !strings.Contains(whole.body, testKey(1).Base64()) {
		t.Errorf("without keys: %s", whole.body)
	}
	if ids, _ := scopeOf(t, "by the device itself", s.send("GET", list, "", "Authorization", deviceToken(testKey(2), "top"))); ids != everybody {
		t.Error(ids)
	}
	ids, link := scopeOf(t, "a page", ask("GET", strings.ReplaceAll(list, "%24", "$")+"&deviceCount=2", ""))
	if ids != "top leaf-1 leaf-2 top/$edgeAgent top/$edgeHub leaf-1/m1" || link == "" {
		t.Errorf("%s, then %q", ids, link)
	}
	if ids, link = scopeOf(t, "the next", ask("GET", list+"&deviceCount=2&continuationToken="+url.QueryEscape(link), "")); ids != "middle middle/$edgeAgent middle/$edgeHub" || link != "" {
		t.Errorf("%s, then %q", ids, link)
	}

	one := under + "deviceAndModuleInDeviceScope?api-version=2018-08-30-preview&targetDeviceId="
	for target, want := range map[string]string{"leaf-1": "leaf-1", "leaf-1&targetModuleId=m1": "leaf-1 leaf-1/m1", "top&targetModuleId=%24edgeHub": "top top/$edgeHub", "deep": "deep"} {
		if ids, _ := scopeOf(t, target, ask("GET", one+target, "")); ids != want {
			t.Errorf("%s: %s", target, ids)
		}
	}
	target, behalf := under+"devicesAndModulesInTargetDeviceScope?api-version=2020-06-30-preview", under+"getDeviceAndModuleOnBehalfOf?api-version=2020-06-30-preview"
	if ids, _ := scopeOf(t, "of the child", ask("POST", target, `{"pageSize":100,"continuationLink":null,"authChain":"middle;top"}`)); ids != "middle deep middle/$edgeAgent middle/$edgeHub" {
		t.Error(ids)
	}
	if ids, link = scopeOf(t, "of itself", ask("POST", target, `{"PageSize":1,"AuthChain":"top"}`)); !strings.HasPrefix(ids, "top leaf-1 ") || link == "" {
		t.Errorf("%s, then %q", ids, link)
	}
	if ids, _ := scopeOf(t, "and on", ask("POST", target, `{"pageSize":10,"continuationLink":"`+link+`","authChain":"top;"}`)); !strings.HasPrefix(ids, "leaf-2 middle ") {
		t.Error(ids)
	}
	for body, want := range map[string]string{
		`{"targetDeviceId":"deep","authChain":"deep;middle;top"}`:                                          "deep",
		`{"targetDeviceId":"middle","targetModuleId":"$edgeHub","authChain":"middle/$edgeHub;middle;top"}`: "middle middle/$edgeHub",
		`{"targetDeviceId":"leaf-1","targetModuleId":"m1","authChain":"leaf-1/m1;leaf-1;top/$edgeHub"}`:    "leaf-1 leaf-1/m1",
	} {
		if ids, _ := scopeOf(t, body, ask("POST", behalf, body)); ids != want {
			t.Errorf("%s: %s", body, ids)
		}
	}

	token := func(of string) string {
		return "&continuationToken=" + base64.RawURLEncoding.EncodeToString([]byte(of))
	}
	for _, c := range []struct {
		name string
		reply
		status int
		code   errs.Code
	}{
		{"a stranger", ask("GET", one+"stranger", ""), 400, errs.CodeInvalidDeviceScope},
		{"nobody", ask("GET", one+"nobody", ""), 400, errs.CodeInvalidDeviceScope},
		{"nothing", ask("GET", one, ""), 400, errs.CodeInvalidDeviceScope},
		{"no such module", ask("GET", one+"leaf-1&targetModuleId=m2", ""), 404, errs.CodeModuleNotFound},
		{"a stranger, with a chain", ask("POST", behalf, `{"targetDeviceId":"stranger","authChain":"stranger;top"}`), 400, errs.CodeInvalidDeviceScope},
		{"a chain of another", ask("POST", behalf, `{"targetDeviceId":"deep","authChain":"deep;middle"}`), 400, errs.CodeInvalidDeviceScope},
		{"no chain", ask("POST", target, `{"pageSize":10}`), 400, errs.CodeInvalidDeviceScope},
		{"the scope of a leaf", ask("POST", target, `{"pageSize":10,"authChain":"leaf-1;top"}`), 400, errs.CodeInvalidDeviceScope},
		{"a negative page", ask("POST", target, `{"pageSize":-1,"authChain":"top"}`), 400, errs.CodeArgumentInvalid},
		{"no JSON", ask("POST", target, `x`), 400, errs.CodeFormatError},
		{"no number", ask("GET", list+"&deviceCount=many", ""), 400, errs.CodeArgumentInvalid},
		{"no token", ask("GET", list+"&continuationToken=***", ""), 400, errs.CodeArgumentInvalid},
		{"a token of nothing", ask("GET", list+token("a b"), ""), 400, errs.CodeArgumentInvalid},
		{"a policy", s.as("GET", list, ""), 401, errs.CodeUnauthorizedAccess},
		{"another device", s.send("GET", list, "", "Authorization", deviceToken(testKey(1), "middle")), 401, errs.CodeUnauthorizedAccess},
		{"a device without IoT Edge", s.send("GET", strings.Replace(list, "top", "stranger", 1), "", "Authorization", deviceToken(testKey(1), "stranger")), 401, errs.CodeUnauthorizedAccess},
		{"nobody at all", s.send("GET", list, ""), 401, errs.CodeUnauthorizedAccess},
		{"$edgeAgent's path", ask("GET", strings.Replace(list, "edgeHub", "edgeAgent", 1), ""), 404, errs.CodeGenericNotFound},
	} {
		c.want(t, c.name, c.status, c.code)
		var body struct{ Message, ErrorMessage string }
		if err := json.Unmarshal([]byte(c.body), &body); err != nil || c.status != 404 && body.ErrorMessage != body.Message {
			t.Errorf("%s: its reader finds no ErrorMessage: %s", c.name, c.body)
		}
	}
	if ids, _ := scopeOf(t, "a token that was made up", ask("GET", list+token("leaf-1"), "")); !strings.HasPrefix(ids, "leaf-2 middle ") {
		t.Error(ids)
	}
	if r := s.as("GET", "/devices/nobody", ""); strings.Contains(r.body, "ErrorMessage") {
		t.Errorf("another reader: %s", r.body)
	}
}

func FuzzScopeRequests(f *testing.F) {
	f.Add("middle/$edgeHub;middle;top", "bGVhZi0x")
	f.Add(";;;/", "***")
	f.Fuzz(func(t *testing.T, chain, link string) {
		if target, err := targetOf(chain, "top"); err == nil && (strings.ContainsAny(string(target), ";/") || !strings.Contains(chain, "top")) {
			t.Errorf("%q leads to %q", chain, target)
		}
		after, err := continuation(link)
		if err != nil {
			return
		}
		if link != "" && base64.RawURLEncoding.EncodeToString([]byte(after)) != strings.NewReplacer("\n", "", "\r", "").Replace(link) {
			t.Errorf("%q goes on after %q", link, after)
		}
	})
}
