package admin

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

// sendIf sends a call with If-Match, unless that is empty.
func (s *server) sendIf(method, path, body, ifMatch string) (status int, answer string) {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	r.Host = host
	r.Header.Set("Authorization", token(s.owner))
	r.Header.Set("Content-Type", "application/json")
	if ifMatch != "" {
		r.Header.Set("If-Match", ifMatch)
	}
	a, err := s.Client().Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		s.Fatal(err)
	}
	var tagged struct{ ETag string }
	_ = json.Unmarshal(b, &tagged) // an error has none
	if tagged.ETag != "" && a.Header.Get("ETag") != `"`+tagged.ETag+`"` {
		s.Errorf("%s %s: header %s, body %s", method, path, a.Header.Get("ETag"), tagged.ETag)
	}
	return a.StatusCode, string(b)
}

// tagged is sendIf for what answers with a policy.
func (s *server) tagged(method, path, body, ifMatch string) (status int, p policyKeysJSON) {
	s.Helper()
	status, answer := s.sendIf(method, path, body, ifMatch)
	_ = json.Unmarshal([]byte(answer), &p) // an error has none of the members
	return status, p
}

// The life of a policy of a scope and of one of a hub: both the same.
func TestPolicies(t *testing.T) {
	s := linked(t)
	for path, c := range map[string]struct {
		owner  access.Owner
		rights string // of the new policy, and
		more   string // what it gets later
	}{
		"/berth/v1/policies":                        {access.ScopeOwner(scope), `["EnrollmentRead"]`, `["EnrollmentRead","EnrollmentWrite"]`},
		"/berth/v1/hubs/HUB1.example:8443/policies": {access.HubOwner("hub1.example"), `["RegistryRead"]`, `["RegistryRead","DeviceConnect"]`},
	} {
		one := path + "/line-1"
		s.refuses("GET", one, "", token(s.owner), 404, errs.NotFound)
		if status, _ := s.tagged("PUT", one, `{"rights":`+c.rights+`}`, "*"); status != 404 {
			t.Errorf("changing what is not there: %d", status)
		}
		status, made := s.tagged("PUT", one, `{"rights":`+c.rights+`}`, "")
		if status != 200 || made.Name != "line-1" || len(made.Rights) != 1 || made.PrimaryKey != "" {
			t.Fatalf("%d %+v", status, made)
		}
		s.refuses("PUT", one, `{"rights":`+c.rights+`}`, token(s.owner), 409, errs.Conflict)

		status, keys := s.tagged("POST", one+"/listKeys", "", "")
		if status != 200 || keys.ETag != made.ETag || keys.PrimaryKey == keys.SecondaryKey {
			t.Errorf("%d %+v", status, keys)
		}
		s.hasKey(c.owner, "line-1", keys.PrimaryKey, keys.SecondaryKey)

		status, changed := s.tagged("PUT", path+"/LINE-1", `{"rights":`+c.more+`}`, `"`+made.ETag+`"`)
		if status != 200 || changed.Name != "line-1" || len(changed.Rights) != 2 || changed.ETag == made.ETag {
			t.Errorf("%d %+v", status, changed)
		}
		for _, stale := range []string{made.ETag, `"` + made.ETag + `"`, `"x"`, `W/"` + changed.ETag + `"`} {
			if put, _ := s.tagged("PUT", one, `{"rights":`+c.rights+`}`, stale); put != 412 {
				t.Errorf("a change with the tag %s: %d", stale, put)
			}
			if roll, _ := s.tagged("POST", one+"/rollKey", `{"key":"primary"}`, stale); roll != 412 {
				t.Errorf("a roll with the tag %s: %d", stale, roll)
			}
			if remove, _ := s.tagged("DELETE", one, "", stale); remove != 412 {
				t.Errorf("a removal with the tag %s: %d", stale, remove)
			}
		}
		status, rolled := s.tagged("POST", one+"/rollKey", `{"key":"secondary"}`, changed.ETag)
		if status != 200 || rolled.PrimaryKey != keys.PrimaryKey || rolled.SecondaryKey == keys.SecondaryKey || rolled.ETag == changed.ETag {
			t.Errorf("%d %+v", status, rolled)
		}
		s.hasKey(c.owner, "line-1", rolled.PrimaryKey, rolled.SecondaryKey)

		const given = "AAECAwQFBgcICQoLDA0ODw=="
		if status, _ := s.tagged("PUT", one, `{"rights":`+c.rights+`,"primaryKey":"`+given+`"}`, "*"); status != 200 {
			t.Errorf("a key of the caller's: %d", status)
		}
		s.hasKey(c.owner, "line-1", given, rolled.SecondaryKey)

		if status, answer := s.send("GET", path, "", token(s.owner)); status != 200 || !strings.Contains(answer, `"line-1"`) ||
			strings.Contains(answer, given) || strings.Contains(answer, "Key") {
			t.Errorf("%d %s", status, answer)
		}
		for _, body := range []string{
			``, `{}`, `{"rights":[]}`, `{"rights":["All"]}`, `{"rights":"EnrollmentRead"}`, `{"rights":` + c.rights + `,"name":"x"}`,
			`{"rights":` + c.rights + `,"primaryKey":"short"}`, `{"rights":` + c.rights + `,"primaryKey":"c2hvcnQ="}`,
			`{"rights":` + c.rights + `,"primaryKey":"` + given + `","secondaryKey":"` + given + `"}`, `{"rights":` + c.rights + `}{}`,
		} {
			s.refuses("PUT", path+"/other", body, token(s.owner), 400, errs.Invalid)
		}
		s.refuses("PUT", path+"/a%3BHostName%3Devil", `{"rights":`+c.rights+`}`, token(s.owner), 400, errs.Invalid)
		for _, body := range []string{``, `{}`, `{"key":"both"}`, `{"key":1}`} {
			s.refuses("POST", one+"/rollKey", body, token(s.owner), 400, errs.Invalid)
		}
		s.want("DELETE", one, "", 204, "")
		s.refuses("DELETE", one, "", token(s.owner), 404, errs.NotFound)
		s.refuses("POST", one+"/listKeys", "", token(s.owner), 404, errs.NotFound)
		s.refuses("POST", one+"/rollKey", `{"key":"primary"}`, token(s.owner), 404, errs.NotFound)
	}
	s.refuses("PUT", "/berth/v1/policies/line-2", `{"rights":["RegistryRead"]}`, token(s.owner), 400, errs.Invalid)
	s.refuses("PUT", "/berth/v1/hubs/hub1.example:8443/policies/line-2", `{"rights":["ServiceConfig"]}`, token(s.owner), 400, errs.Invalid)
}

// hasKey wants the keys of a policy in the store.
func (s *server) hasKey(owner access.Owner, name, primary, secondary string) {
	s.Helper()
	policies, err := s.store.Policies(s.Context(), owner)
	if err != nil {
		s.Fatal(err)
	}
	p, err := access.Find(policies, name)
	if err != nil || p.Primary.Base64() != primary || p.Secondary.Base64() != secondary {
		s.Errorf("the store has other keys of %s (%v)", name, err)
	}
}

// A policy is in force from the call that made it to the one that removed it.
func TestPoliciesAreInForceAtOnce(t *testing.T) {
	s := start(t)
	const one = "/berth/v1/policies/second"
	if status, _ := s.tagged("PUT", one, `{"rights":["ServiceConfig","DeviceConnect"]}`, ""); status != 200 {
		t.Fatal(status)
	}
	_, keys := s.tagged("POST", one+"/listKeys", "", "")
	sign := func(text string) string {
		return sas.Sign(key(t, text).Bytes(), host, time.Now().Add(time.Hour), "second")
	}
	if status, answer := s.send("GET", "/berth/v1/hubs", "", sign(keys.SecondaryKey)); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	// It rolls its own key, and the answer has the new one.
	status, answer := s.send("POST", one+"/rollKey", `{"key":"primary"}`, sign(keys.PrimaryKey))
	var rolled policyKeysJSON
	if err := json.Unmarshal([]byte(answer), &rolled); err != nil || status != 200 {
		t.Fatalf("%d %s", status, answer)
	}
	s.refuses("GET", "/berth/v1/hubs", "", sign(keys.PrimaryKey), 401, errs.Denied)
	// The first owner goes, and the last cannot.
	if status, answer := s.send("DELETE", "/berth/v1/policies/"+s.owner.Name, "", sign(rolled.PrimaryKey)); status != 204 {
		t.Errorf("%d %s", status, answer)
	}
	s.refuses("GET", "/berth/v1/hubs", "", token(s.owner), 401, errs.Denied)
	s.refuses("DELETE", one, "", sign(rolled.PrimaryKey), 409, errs.Conflict)
	s.owner = access.Policy{Name: "second", Primary: key(t, rolled.PrimaryKey)}
	if status, _ := s.tagged("PUT", one, `{"rights":["DeviceConnect"]}`, "*"); status != 409 {
		t.Errorf("the last policy with ServiceConfig was weakened: %d", status)
	}
}

// Who may administer and no more gets no further by way of policies.
func TestNobodyGivesARightThatTheyLack(t *testing.T) {
	s := linked(t)
	s.policy("writer", access.EnrollmentWrite)
	before, err := s.store.Policies(t.Context(), access.ScopeOwner(scope))
	if err != nil {
		t.Fatal(err)
	}
	own := s.policy("admin", access.ServiceConfig)
	for _, a := range []struct{ method, path, body string }{
		{"PUT", "/new", `{"rights":["EnrollmentRead"]}`},
		{"PUT", "/new", `{"rights":["ServiceConfig","EnrollmentWrite"]}`},
		{"POST", "/writer/listKeys", ""}, {"POST", "/provisioningserviceowner/listKeys", ""},
		{"POST", "/writer/rollKey", `{"key":"primary"}`}, {"POST", "/provisioningserviceowner/rollKey", `{"key":"secondary"}`},
	} {
		s.refuses(a.method, "/berth/v1/policies"+a.path, a.body, token(own), 403, errs.Forbidden)
	}
	if status, _ := s.tagged("PUT", "/berth/v1/policies/admin", `{"rights":["ServiceConfig"]}`, "*"); status != 200 {
		t.Errorf("its own rights: %d", status)
	}
	for path, body := range map[string]string{"/admin/listKeys": "", "/admin/rollKey": `{"key":"secondary"}`} {
		if status, answer := s.send("POST", "/berth/v1/policies"+path, body, token(own)); status != 200 {
			t.Errorf("its own keys: %d %s", status, answer)
		}
	}
	if status, answer := s.send("PUT", "/berth/v1/hubs/hub2.example/policies/all", `{"rights":["RegistryWrite"]}`, token(own)); status != 200 {
		t.Errorf("a right of the scope's hub: %d %s", status, answer)
	}
	s.want("DELETE", "/berth/v1/policies/admin", "", 204, "")
	after, err := s.store.Policies(t.Context(), access.ScopeOwner(scope))
	if err != nil || len(after) != len(before) {
		t.Fatalf("%v, %v", after, err)
	}
	for i := range before {
		if before[i].Rights != after[i].Rights || !before[i].Primary.Equal(after[i].Primary) || !before[i].Secondary.Equal(after[i].Secondary) {
			t.Errorf("%s has changed", before[i].Name)
		}
	}
}

func key(t *testing.T, text string) device.SymmetricKey {
	t.Helper()
	k, err := device.ParseSymmetricKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The policies of a hub are those of a hub of these servers that is linked.
func TestPoliciesOfOtherHubs(t *testing.T) {
	s := linked(t)
	elsewhere := provision.LinkedHub{Host: "far.example", Weight: 1, Connection: &provision.Connection{Policy: "service", Key: s.owner.Primary}}
	if err := s.store.PutLinkedHub(t.Context(), scope, elsewhere); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		status int
		kind   errs.Kind
	}{
		"far.example":     {409, errs.Conflict},
		"hub3.example":    {404, errs.NotFound},
		"hub1.example":    {404, errs.NotFound}, // it has a port
		"hub_1":           {400, errs.Invalid},
		"localhost%3A%20": {400, errs.Invalid},
	} {
		base := "/berth/v1/hubs/" + path + "/policies"
		for _, c := range []struct{ method, path, body string }{
			{"GET", base, ""}, {"GET", base + "/a", ""}, {"PUT", base + "/a", `{"rights":["RegistryRead"]}`}, {"DELETE", base + "/a", ""},
			{"POST", base + "/a/listKeys", ""}, {"POST", base + "/a/rollKey", `{"key":"primary"}`},
		} {
			s.refuses(c.method, c.path, c.body, token(s.owner), want.status, want.kind)
		}
	}
	s.refuses("GET", "/berth/v1/hubs/far.example/messages", "", token(s.owner), 409, errs.Conflict)
}
