package hubhttp

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
)

// members are the parts of a twin's document that an operator writes, without
// metadata, and the versions.
func members(t *testing.T, r reply) (tags, desired string, version, desiredVersion int64) {
	t.Helper()
	var d struct {
		Tags       json.RawMessage
		Version    int64
		Properties struct{ Desired map[string]json.RawMessage }
	}
	if err := json.Unmarshal([]byte(r.body), &d); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	if err := json.Unmarshal(d.Properties.Desired["$version"], &desiredVersion); err != nil {
		t.Fatal(err)
	}
	delete(d.Properties.Desired, "$version")
	delete(d.Properties.Desired, "$metadata")
	text, err := json.Marshal(d.Properties.Desired)
	if err != nil {
		t.Fatal(err)
	}
	return string(d.Tags), string(text), d.Version, desiredVersion
}

func TestLifeOfATwin(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1", `{}`).want(t, "create", 200, 0)
	fresh := s.as("GET", "/twins/d1", "")
	first := etagOf(t, fresh)

	for _, c := range []struct {
		name, method, body, ifMatch, tags, desired string
		version, desiredVersion                    int64
	}{
		{"patch", "PATCH", `{"tags":{"site":"a"},"properties":{"desired":{"rate":1,"net":{"up":true}}}}`, `"` + first + `"`, `{"site":"a"}`, `{"net":{"up":true},"rate":1}`, 3, 2},
		{"the same patch", "PATCH", `{"tags":{"site":"a"},"properties":{"desired":{"rate":1}}}`, `*`, `{"site":"a"}`, `{"net":{"up":true},"rate":1}`, 3, 2},
		{"patch without a tag", "PATCH", `{"PROPERTIES":{"Desired":{"net":null}}}`, ``, `{"site":"a"}`, `{"rate":1}`, 4, 3},
		{"replace", "PUT", `{"tags":{"floor":2},"properties":{"desired":{"unit":"s"}}}`, `"*"`, `{"floor":2}`, `{"unit":"s"}`, 5, 4},
		{"what is not theirs to write", "PATCH", `{"deviceId":"d2","version":99,"etag":"x","status":"disabled","properties":{"reported":{"x":1}}}`, ``, `{"floor":2}`, `{"unit":"s"}`, 5, 4},
		{"no properties", "PATCH", `{"properties":null}`, ``, `{"floor":2}`, `{"unit":"s"}`, 5, 4},
		{"replace by nothing", "PUT", `{}`, ``, `{}`, `{}`, 6, 5},
	} {
		headers := []string{}
		if c.ifMatch != "" {
			headers = []string{"If-Match", c.ifMatch}
		}
		r := s.as(c.method, "/twins/d1", c.body, headers...)
		r.want(t, c.name, 200, 0)
		tags, desired, version, desiredVersion := members(t, r)
		if tags != c.tags || desired != c.desired || version != c.version || desiredVersion != c.desiredVersion || strings.Contains(r.body, `"x":1`) {
			t.Errorf("%s: %s", c.name, r.body)
		}
		etagOf(t, r)
		if read := s.as("GET", "/twins/d1", ""); read.body != r.body {
			t.Errorf("%s: read %s after %s", c.name, read.body, r.body)
		}
		// A client that sends back the whole document changes nothing.
		if again := s.as("PUT", "/twins/d1", r.body); again.body != r.body {
			t.Errorf("%s: written back it is %s", c.name, again.body)
		}
	}

	stale := []string{"If-Match", `"` + first + `"`}
	s.as("PATCH", "/twins/d1", `{"tags":{"a":1}}`, stale...).want(t, "stale patch", 412, errs.CodePreconditionFailed)
	s.as("PUT", "/twins/d1", `{}`, stale...).want(t, "stale replace", 412, errs.CodePreconditionFailed)
	s.as("PATCH", "/twins/d2", `{}`).want(t, "another device", 404, errs.CodeDeviceNotFound)
	s.as("PUT", "/twins/d2", `{}`).want(t, "another device", 404, errs.CodeDeviceNotFound)
}

func TestTwinsThatAreRefused(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1", `{}`).want(t, "create", 200, 0)
	before := s.as("GET", "/twins/d1", "").body
	for _, c := range []struct {
		name, body, place string
		code              errs.Code
	}{
		{"no JSON", `tags`, "", errs.CodeFormatError},
		{"an array", `[]`, "", errs.CodeFormatError},
		{"properties that are a string", `{"properties":"desired"}`, "", errs.CodeFormatError},
		{"tags that are a string", `{"tags":"x"}`, "tags: ", errs.CodeArgumentInvalid},
		{"a name with a dot", `{"tags":{"a":{"b.c":1}}}`, "tags.a: ", errs.CodeArgumentInvalid},
		{"an integer that is too great", `{"properties":{"desired":{"n":{"m":4503599627370496}}}}`, "properties.desired.n.m: ", errs.CodeArgumentInvalid},
		{"too many tags", `{"tags":{"a":[` + strings.Repeat("0,", 1024) + `0]}}`, "tags: ", errs.CodeArgumentInvalid},
	} {
		for _, method := range []string{"PATCH", "PUT"} {
			r := s.as(method, "/twins/d1", c.body)
			if r.want(t, c.name, 400, c.code); !strings.Contains(r.body, ";"+c.place) {
				t.Errorf("%s: %s", c.name, r.body)
			}
		}
	}
	s.as("PATCH", "/twins/d1", `"`+strings.Repeat("x", maxTwin)).want(t, "too long", 413, errs.CodeTooLarge)
	s.as("PATCH", "/twins/d1", `{}`, "Content-Type", "text/plain").want(t, "no JSON declared", 415, errs.CodeUnsupportedMediaType)
	writer := s.policy("registryReadWrite", access.RegistryRead|access.RegistryWrite)
	for _, method := range []string{"PATCH", "PUT"} {
		s.send(method, "/twins/d1", `{"tags":{"a":1}}`, "Authorization", token(writer)).want(t, method+" without ServiceConnect", 401, errs.CodeUnauthorizedAccess)
	}
	if after := s.as("GET", "/twins/d1", "").body; after != before {
		t.Errorf("a refused change was written: %s", after)
	}
}
