package admin

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

type createdScope struct {
	scopeJSON
	Policies []policyKeysJSON `json:"policies"`
}

// create makes a scope.
func (s *server) create(body string) (made createdScope) {
	s.Helper()
	status, answer := s.send("POST", "/berth/v1/scopes", body, token(s.owner))
	if err := json.Unmarshal([]byte(answer), &made); err != nil || status != 200 {
		s.Fatalf("%d %s", status, answer)
	}
	return made
}

func (s *server) patch(path, body, ifMatch string) (status int, now scopeJSON) {
	s.Helper()
	status, answer := s.sendIf("PATCH", path, body, ifMatch)
	_ = json.Unmarshal([]byte(answer), &now) // an error has none of the members
	return status, now
}

func TestScopes(t *testing.T) {
	s := start(t)
	made := s.create(`{"hosts":["North.example"],"limits":{"perDevice":"5/10s"}}`)
	if _, err := device.ParseIDScope(string(made.IDScope)); err != nil || made.Home || made.Allocation != "hashed" || made.SharedKeys != "warn" ||
		made.Limits.PerDevice != "5/10s" || len(made.Hosts) != 1 || made.Hosts[0] != "north.example" {
		t.Errorf("%+v", made)
	}
	if len(made.Policies) != 1 || made.Policies[0].Name != "provisioningserviceowner" || len(made.Policies[0].Rights) != 6 {
		t.Fatalf("%+v", made.Policies)
	}
	s.hasKey(access.ScopeOwner(made.IDScope), "provisioningserviceowner", made.Policies[0].PrimaryKey, made.Policies[0].SecondaryKey)
	chosen := s.create(`{"idScope":"0NE0BADCAFE","hosts":["south.example"],"allocationPolicy":"static","sharedKeys":"refuse"}`)
	if chosen.IDScope != "0ne0badcafe" || chosen.Allocation != "static" || chosen.SharedKeys != "refuse" {
		t.Errorf("%+v", chosen)
	}
	var all []scopeJSON
	status, answer := s.send("GET", "/berth/v1/scopes", "", token(s.owner))
	if err := json.Unmarshal([]byte(answer), &all); err != nil || status != 200 || len(all) != 3 || strings.Contains(answer, "Key\"") {
		t.Errorf("%d %s", status, answer)
	}

	path := "/berth/v1/scopes/" + string(made.IDScope)
	status, now := s.patch(path, `{"allocationPolicy":"geoLatency"}`, made.ETag)
	if status != 200 || now.Allocation != "geoLatency" || now.Limits.PerDevice != "5/10s" || now.ETag == made.ETag {
		t.Errorf("%d %+v", status, now)
	}
	if status, _ := s.patch(path, `{"sharedKeys":"refuse"}`, made.ETag); status != 412 {
		t.Errorf("an old tag: %d", status)
	}
	if status, now := s.patch(path, `{"limits":{},"sharedKeys":"refuse","hosts":["north.example","polar.example"]}`, `"`+now.ETag+`"`); status != 200 || now.Limits.PerDevice != "" || len(now.Hosts) != 2 {
		t.Errorf("%d %+v", status, now)
	}
	if status, answer := s.send("GET", path, "", token(s.owner)); status != 200 || !strings.Contains(answer, "polar.example") {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := s.send("POST", path+"/listKeys", "", token(s.owner)); status != 200 || !strings.Contains(answer, made.Policies[0].PrimaryKey) {
		t.Errorf("%d %s", status, answer)
	}
	if status, own := s.patch("/berth/v1/scope", `{"limits":{"perAddress":"off"}}`, ""); status != 200 || !own.Home || own.Limits.PerAddress != "off" {
		t.Errorf("%d %+v", status, own)
	}
	if status, answer := s.send("GET", "/berth/v1/scope", "", token(s.owner)); status != 200 || !strings.Contains(answer, `"home":true`) {
		t.Errorf("%d %s", status, answer)
	}
	s.want("DELETE", path, "", 204, "")
	s.refuses("DELETE", path, "", token(s.owner), 404, errs.NotFound)
	s.refuses("GET", path, "", token(s.owner), 404, errs.NotFound)
	s.refuses("PATCH", path, `{}`, token(s.owner), 404, errs.NotFound)
	s.refuses("POST", path+"/listKeys", "", token(s.owner), 404, errs.NotFound)
}

func TestScopesThatAreRefused(t *testing.T) {
	s := start(t)
	made := s.create(`{"hosts":["north.example"]}`)
	for _, body := range []string{
		``, `{}`, `{"hosts":[]}`, `{"hosts":["a b"]}`, `{"hosts":["a:443"]}`, `{"hosts":["a","A"]}`, `{"hosts":"a"}`, `{"hosts":["a"],"idScope":"0ne"}`,
		`{"hosts":["a"],"allocationPolicy":"custom"}`, `{"hosts":["a"],"sharedKeys":"ignore"}`, `{"hosts":["a"],"limits":{"perAddress":"fast"}}`,
		`{"hosts":["a"],"limits":{"perDay":"1/1s"}}`, `{"hosts":["a"],"home":true}`,
	} {
		s.refuses("POST", "/berth/v1/scopes", body, token(s.owner), 400, errs.Invalid)
	}
	for _, body := range []string{
		`{"hosts":["north.example"]}`, `{"hosts":["new.example","NORTH.example"]}`, `{"hosts":["dps.example"]}`,
		`{"hosts":["new.example"],"idScope":"` + string(made.IDScope) + `"}`, `{"hosts":["new.example"],"idScope":"` + string(scope) + `"}`,
	} {
		s.refuses("POST", "/berth/v1/scopes", body, token(s.owner), 409, errs.Conflict)
	}
	path := "/berth/v1/scopes/" + string(made.IDScope)
	s.refuses("PATCH", path, `{"hosts":[]}`, token(s.owner), 400, errs.Invalid)
	s.refuses("PATCH", path, `{"hosts":["localhost"]}`, token(s.owner), 409, errs.Conflict)
	s.refuses("PATCH", path, `{"idScope":"0ne00000009"}`, token(s.owner), 400, errs.Invalid)
	s.refuses("PATCH", "/berth/v1/scopes/0ne", `{}`, token(s.owner), 400, errs.Invalid)
	s.refuses("GET", "/berth/v1/scopes/0ne", ``, token(s.owner), 400, errs.Invalid)
	s.refuses("DELETE", "/berth/v1/scopes/0ne", ``, token(s.owner), 400, errs.Invalid)
	s.refuses("POST", "/berth/v1/scopes/0ne/listKeys", ``, token(s.owner), 400, errs.Invalid)
	s.refuses("DELETE", "/berth/v1/scopes/"+string(scope), ``, token(s.owner), 409, errs.Conflict)

	// Operators of another scope have that, and no more of it than is theirs to say.
	tenant := sas.Sign(key(t, made.Policies[0].PrimaryKey).Bytes(), "north.example", time.Now().Add(time.Hour), made.Policies[0].Name)
	for _, a := range []struct{ method, path, body string }{
		{"GET", "/berth/v1/scopes", ""}, {"POST", "/berth/v1/scopes", `{"hosts":["new.example"]}`},
		{"GET", path, ""}, {"PATCH", path, `{}`}, {"DELETE", path, ""}, {"POST", path + "/listKeys", ""},
		{"PATCH", "/berth/v1/scope", `{"hosts":["north.example"]}`}, {"PATCH", "/berth/v1/scope", `{"limits":{}}`},
	} {
		if status, answer := s.sendTo("north.example", a.method, a.path, a.body, tenant); status != 403 {
			t.Errorf("%s %s: %d %s", a.method, a.path, status, answer)
		}
	}
	if status, answer := s.sendTo("north.example", "PATCH", "/berth/v1/scope", `{"sharedKeys":"refuse"}`, tenant); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
}
