package hubhttp

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
)

func query(text string) string {
	body, _ := json.Marshal(map[string]string{"query": text})
	return string(body)
}

func TestQueries(t *testing.T) {
	s := start(t)
	for i := range 5 {
		id := fmt.Sprintf("d%d", i)
		s.as("PUT", "/devices/"+id, `{}`).want(t, "create", 200, 0)
		s.as("PATCH", "/twins/"+id, fmt.Sprintf(`{"tags":{"site":"s%d"},"properties":{"desired":{"n":%d}}}`, i%2, i)).want(t, "patch", 200, 0)
	}
	s.as("PUT", "/devices/d1/modules/m1", `{"deviceId":"d1","moduleId":"m1"}`).want(t, "create a module", 200, 0)

	// A twin is found as it is read.
	one := s.as("POST", "/devices/query", query("SELECT * FROM devices WHERE tags.site = 's1' AND properties.desired.n > 1"))
	one.want(t, "one", 200, 0)
	if want := "[" + s.as("GET", "/twins/d3", "").body + "]"; one.body != want || one.header.Get("x-ms-item-type") != "Twin" || one.header["X-Ms-Continuation"] != nil {
		t.Errorf("%s %v\nwant %s", one.body, one.header, want)
	}
	module := s.as("POST", "/devices/query", query("select * from devices.modules where moduleId = 'm1'"))
	if want := "[" + s.as("GET", "/twins/d1/modules/m1", "").body + "]"; module.body != want {
		t.Errorf("%s\nwant %s", module.body, want)
	}

	for text, want := range map[string]string{
		"SELECT deviceId, tags.site AS site FROM devices WHERE deviceId IN ['d1', 'd2']": `[{"deviceId":"d1","site":"s1"},{"deviceId":"d2","site":"s0"}]`,
		"SELECT tags.site, COUNT() AS n FROM devices GROUP BY tags.site":                 `[{"site":"s0","n":3},{"site":"s1","n":2}]`,
		"SELECT COUNT() FROM devices":                                                    `[{"count":5}]`,
		"SELECT deviceId FROM devices WHERE deviceId = 'nobody'":                         `[]`,
	} {
		r := s.as("POST", "/devices/query", query(text))
		if r.want(t, text, 200, 0); r.body != want || r.header.Get("x-ms-item-type") != "Raw" {
			t.Errorf("%s: %s, want %s", text, r.body, want)
		}
	}
}

func TestQueryPages(t *testing.T) {
	s := start(t)
	for i := range 5 {
		s.as("PUT", fmt.Sprintf("/devices/d%d", i), `{}`).want(t, "create", 200, 0)
	}
	body, headers := strings.Replace(query("SELECT deviceId FROM devices"), "query", "QUERY", 1), []string{"x-ms-max-item-count", "2"}
	var all string
	for pages := 1; ; pages++ {
		r := s.as("POST", "/devices/query", body, headers...)
		r.want(t, "page", 200, 0)
		all += r.body
		next := r.header.Get("x-ms-continuation")
		if next == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		headers = []string{"x-ms-max-item-count", "2", "x-ms-continuation", next}
	}
	if all != `[{"deviceId":"d0"},{"deviceId":"d1"}][{"deviceId":"d2"},{"deviceId":"d3"}][{"deviceId":"d4"}]` {
		t.Error(all)
	}
}

func TestRefusedQueries(t *testing.T) {
	s := start(t)
	all := query("SELECT * FROM devices")
	for _, c := range []struct {
		name, body string
		code       errs.Code
		headers    []string
	}{
		{"no JSON", `SELECT * FROM devices`, errs.CodeFormatError, nil},
		{"no query", `{}`, errs.CodeFormatError, nil},
		{"null", `{"query":null}`, errs.CodeFormatError, nil},
		{"an empty query", query(""), errs.CodeArgumentInvalid, nil},
		{"a fault", query("SELECT * FORM devices"), errs.CodeArgumentInvalid, nil},
		{"jobs", query("SELECT * FROM devices.jobs"), errs.CodeArgumentInvalid, nil},
		{"a page of none", all, errs.CodeBadRequest, []string{"x-ms-max-item-count", "0"}},
		{"a continuation of none", all, errs.CodeArgumentInvalid, []string{"x-ms-continuation", "AAAA"}},
	} {
		s.as("POST", "/devices/query", c.body, c.headers...).want(t, c.name, 400, c.code)
	}
	s.send("POST", "/devices/query", all).want(t, "a stranger", 401, errs.CodeUnauthorizedAccess)
	s.send("POST", "/devices/query", all, "Authorization", token(s.reader)).want(t, "a reader of the registry", 401, errs.CodeUnauthorizedAccess)
	s.send("POST", "/devices/query", all, "Authorization", token(s.policy("service", access.ServiceConnect))).want(t, "a service", 200, 0)
	s.as("POST", "/devices/query", all, "Content-Type", "text/plain").want(t, "text", 415, errs.CodeUnsupportedMediaType)
}
