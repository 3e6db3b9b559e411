package admin

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// hubs returns the linked hubs as the API lists them.
func (s *server) hubs() (all []hubJSON) {
	s.Helper()
	status, answer := s.send("GET", "/berth/v1/hubs", "", token(s.owner))
	if err := json.Unmarshal([]byte(answer), &all); err != nil || status != 200 {
		s.Fatalf("%d %s", status, answer)
	}
	return all
}

func (s *server) put(path, body, ifMatch string) (status int, h hubJSON) {
	s.Helper()
	status, answer := s.sendIf("PUT", path, body, ifMatch)
	_ = json.Unmarshal([]byte(answer), &h) // an error has none of the members
	return status, h
}

func TestLinkedHubs(t *testing.T) {
	s := start(t)
	s.want("GET", "/berth/v1/hubs", "", 200, `[]`)
	for _, c := range []struct {
		path, body string
		host       string
		weight     int
		allocation bool
	}{
		{"HUB1.example", `{}`, "hub1.example", 1, true},
		{"hub2.example:8443", `{"weight":1000,"allocation":false}`, "hub2.example:8443", 1000, false},
		{"hub1.example:443", ` {"weight":5} `, "hub1.example", 5, true},
	} {
		status, h := s.put("/berth/v1/hubs/"+c.path, c.body, "")
		if status != 200 || h.Host != c.host || h.Weight != c.weight || h.Allocation != c.allocation || h.Kind != "local" || h.ETag == "" {
			t.Errorf("%s: %d %+v", c.path, status, h)
		}
	}
	if all := s.hubs(); len(all) != 2 || all[0].Host != "hub1.example" || all[1].Host != "hub2.example:8443" {
		t.Errorf("%+v", all)
	}
	s.want("DELETE", "/berth/v1/hubs/hub1.EXAMPLE", "", 204, "")
	s.refuses("DELETE", "/berth/v1/hubs/hub1.example", "", token(s.owner), 404, errs.NotFound)
	s.refuses("GET", "/berth/v1/hubs/hub1.example", "", token(s.owner), 404, errs.NotFound)
	if all := s.hubs(); len(all) != 1 || all[0].Host != "hub2.example:8443" {
		t.Errorf("%+v", all)
	}

	for _, body := range []string{
		``, `[]`, `null {}`, `{} {}`, `{"weight":0}`, `{"weight":1001}`, `{"weight":-1}`, `{"weight":1.5}`, `{"weight":"1"}`,
		`{"allocation":1}`, `{"alocation":true}`, `{"host":"hub3.example"}`, `{"weight":1`,
		`{"latency":[{"network":"192.0.2.1/24","milliseconds":1}]}`, `{"latency":[{"network":"192.0.2.0","milliseconds":1}]}`,
		`{"latency":[{"network":"192.0.2.0/24","milliseconds":-1}]}`, `{"latency":[{}]}`, `{"latency":{}}`,
	} {
		s.refuses("PUT", "/berth/v1/hubs/hub1.example", body, token(s.owner), 400, errs.Invalid)
	}
	for _, query := range []string{"?check=maybe", "?check=", "?check=1&check=0", "?%zz"} {
		s.refuses("PUT", "/berth/v1/hubs/hub1.example"+query, `{}`, token(s.owner), 400, errs.Invalid)
	}
	s.refuses("PUT", "/berth/v1/hubs/hub1.example", `{"weight":`+strings.Repeat(" ", maxBody)+`1}`, token(s.owner), 413, errs.TooLarge)
	for _, bad := range []string{
		"hub_1", "-hub", "hub-", "hub..example", ".hub", "hub.", "hub%2Fexample", "hub%20", "user@hub", "hub:", "hub:0", "hub:65536", "hub:x", "hub:1:2",
		"%5B::1%5D", "h%C3%BCb.example", strings.Repeat("a", 64), strings.Repeat("abc.", 64) + "example",
	} {
		s.refuses("PUT", "/berth/v1/hubs/"+bad, `{}`, token(s.owner), 400, errs.Invalid)
		s.refuses("GET", "/berth/v1/hubs/"+bad, ``, token(s.owner), 400, errs.Invalid)
		s.refuses("DELETE", "/berth/v1/hubs/"+bad, ``, token(s.owner), 400, errs.Invalid)
		s.refuses("GET", "/berth/v1/hubs/"+bad+"/messages", ``, token(s.owner), 400, errs.Invalid)
	}
}

// A link that two operators change at a time is changed by one of them.
func TestLinksAreGuardedByTheEntityTag(t *testing.T) {
	s := start(t)
	const path = "/berth/v1/hubs/hub1.example"
	if status, _ := s.put(path, `{}`, "*"); status != 412 {
		t.Errorf("changing what is not there: %d", status)
	}
	_, first := s.put(path, `{}`, "")
	status, second := s.put(path, `{"weight":2}`, `"`+first.ETag+`"`)
	if status != 200 || second.ETag == first.ETag {
		t.Errorf("%d %+v", status, second)
	}
	if status, _ := s.put(path, `{"weight":3}`, first.ETag); status != 412 {
		t.Errorf("an old tag: %d", status)
	}
	if status, _ := s.sendIf("DELETE", path, "", first.ETag); status != 412 {
		t.Errorf("an old tag: %d", status)
	}
	if all := s.hubs(); all[0].Weight != 2 {
		t.Errorf("%+v", all)
	}
	if status, _ := s.sendIf("DELETE", path, "", second.ETag); status != 204 {
		t.Errorf("the current tag: %d", status)
	}
}

func TestHubsElsewhere(t *testing.T) {
	s := start(t)
	const key = "AAECAwQFBgcICQoLDA0ODw=="
	connection := func(host, policy string) string {
		return `"connectionString":"HostName=` + host + `;SharedAccessKeyName=` + policy + `;SharedAccessKey=` + key + `"`
	}
	const path = "/berth/v1/hubs/far.example"
	status, h := s.put(path, `{"latency":[{"network":"192.0.2.0/24","milliseconds":7}],`+connection("Far.example:443", "service")+`}`, "")
	if status != 200 || h.Kind != "linked" || h.Policy != "service" || len(h.Latency) != 1 || h.Health == nil || h.Health.Failures != 3 {
		t.Fatalf("%d %+v", status, h)
	}
	stored := func() provision.LinkedHub {
		t.Helper()
		linked, err := s.store.Linked(t.Context(), scope)
		if err != nil || len(linked) != 1 || linked[0].Connection == nil || linked[0].Connection.Key.Base64() != key {
			t.Fatalf("%+v, %v", linked, err)
		}
		return linked[0]
	}
	stored()
	// What is left out stays: nobody can read the key to write it back.
	if status, changed := s.put(path, `{"weight":9}`, h.ETag); status != 200 || changed.Kind != "linked" || len(changed.Latency) != 1 || stored().Weight != 9 {
		t.Errorf("%d %+v", status, changed)
	}
	if status, changed := s.put(path, `{"latency":[]}`, ""); status != 200 || len(changed.Latency) != 0 || len(stored().Latency) != 0 {
		t.Errorf("%d %+v", status, changed)
	}
	for _, answer := range []string{"/berth/v1/hubs", path} {
		if _, body := s.send("GET", answer, "", token(s.owner)); strings.Contains(body, key) || strings.Contains(body, "onnection") {
			t.Errorf("the key is shown: %s", body)
		}
	}

	for name, body := range map[string]string{
		"another hub's":      `{` + connection("other.example", "service") + `}`,
		"on another port":    `{` + connection("far.example:8443", "service") + `}`,
		"lacks a right":      `{` + connection("far.example", "reader") + `}`,
		"of no form":         `{"connectionString":"far.example"}`,
		"without a key":      `{"connectionString":"HostName=far.example;SharedAccessKeyName=service"}`,
		"with a token":       `{"connectionString":"HostName=far.example;SharedAccessSignature=SharedAccessSignature sr=far.example&sig=YQ%3D%3D&se=9999999999&skn=service"}`,
		"of a device":        `{"connectionString":"HostName=far.example;DeviceId=d;SharedAccessKey=` + key + `"}`,
		"with a broken host": `{` + connection("far/../example", "service") + `}`,
	} {
		status, answer := s.send("PUT", path, body, token(s.owner))
		if status != 400 || !strings.Contains(answer, `"message":"connectionString: `) || strings.Contains(answer, key) {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	if status, _ := s.put(path+"?check=false", `{`+connection("far.example", "reader")+`}`, ""); status != 200 || stored().Connection.Policy != "reader" {
		t.Errorf("unchecked: %d", status)
	}
	// Its devices are here: it does not become one elsewhere under way.
	s.put("/berth/v1/hubs/near.example", `{}`, "")
	s.refuses("PUT", "/berth/v1/hubs/near.example", `{`+connection("near.example", "service")+`}`, token(s.owner), 409, errs.Conflict)
}
