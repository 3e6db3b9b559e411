package rest

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/sas"
)

func TestSegments(t *testing.T) {
	for path, want := range map[string][]string{
		"/":                       nil,
		"/enrollments/a":          {"enrollments", "a"},
		"/enrollments/a/":         {"enrollments", "a"},
		"/%65nrollments/a%3Ab":    {"enrollments", "a:b"},
		"/enrollments/a%2Fb":      {"enrollments", "a/b"},
		"/enrollments/a%252Fb":    {"enrollments", "a%2Fb"},
		"/enrollments/../secrets": {"enrollments", "..", "secrets"},
		"/enrollments/a+b":        {"enrollments", "a+b"},
	} {
		got, err := Segments(httptest.NewRequest("GET", path, nil))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{
		"///", "//a", "/a//b", "/a//", "/" + strings.Repeat("a", maxPath), strings.Repeat("/a", maxSegments+1),
	} {
		if got, err := Segments(httptest.NewRequest("GET", path, nil)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%.20s: %q, %v; want an invalid path", path, got, err)
		}
	}
	asterisk := httptest.NewRequest("OPTIONS", "/", nil)
	asterisk.URL.Path = "*"
	if _, err := Segments(asterisk); errs.KindOf(err) != errs.Invalid {
		t.Errorf("*: %v", err)
	}
}

func TestHost(t *testing.T) {
	for sent, want := range map[string]string{
		"dps.example":     "dps.example",
		"DPS.Example:443": "dps.example",
		"[::1]:443":       "::1",
		"[::1]":           "::1",
		"192.0.2.1:8443":  "192.0.2.1",
		"":                "",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = sent
		if got := Host(r); got != want {
			t.Errorf("%q: %q, want %q", sent, got, want)
		}
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestReadBody(t *testing.T) {
	read := func(r *http.Request) ([]byte, *httptest.ResponseRecorder, error) {
		w := httptest.NewRecorder()
		b, err := ReadBody(w, r, 8)
		return b, w, err
	}
	if b, _, err := read(httptest.NewRequest("GET", "/", strings.NewReader("12345678"))); err != nil || string(b) != "12345678" {
		t.Errorf("at the limit: %q, %v", b, err)
	}
	if b, _, err := read(httptest.NewRequest("GET", "/", nil)); err != nil || len(b) != 0 {
		t.Errorf("no body: %q, %v", b, err)
	}
	declared := httptest.NewRequest("PUT", "/", strings.NewReader("123456789"))
	chunked := httptest.NewRequest("PUT", "/", strings.NewReader("123456789"))
	chunked.ContentLength = -1
	for name, r := range map[string]*http.Request{"declared": declared, "chunked": chunked} {
		_, w, err := read(r)
		if errs.KindOf(err) != errs.TooLarge || w.Header().Get("Connection") != "close" {
			t.Errorf("%s over the limit: %v, Connection %q", name, err, w.Header().Get("Connection"))
		}
	}
	if _, _, err := read(httptest.NewRequest("PUT", "/", brokenBody{})); errs.KindOf(err) != errs.Invalid {
		t.Errorf("broken body: %v", err)
	}
}

func TestRequireJSON(t *testing.T) {
	for declared, ok := range map[string]bool{
		"":                                  true,
		"application/json":                  true,
		"Application/JSON; charset=UTF-8":   true,
		"application/json; charset=utf-8":   true,
		"application/json; charset=latin-1": false,
		"application/xml":                   false,
		"text/plain":                        false,
		"application/json; charset":         false,
		";":                                 false,
	} {
		r := httptest.NewRequest("PUT", "/", nil)
		r.Header.Set("Content-Type", declared)
		err := RequireJSON(r)
		if ok && err != nil || !ok && errs.KindOf(err) != errs.Unsupported {
			t.Errorf("%q: %v, want accepted %v", declared, err, ok)
		}
	}
}

func TestToken(t *testing.T) {
	good := sas.Sign(bytes.Repeat([]byte{1}, 32), "host", time.Unix(1700000000, 0), "policy")
	for name, c := range map[string]struct {
		values []string
		token  bool
		err    bool
	}{
		"absent":       {nil, false, false},
		"empty":        {[]string{""}, false, false},
		"good":         {[]string{good}, true, false},
		"other scheme": {[]string{"Bearer abc"}, false, true},
		"no fields":    {[]string{"SharedAccessSignature "}, false, true},
		"two":          {[]string{good, good}, false, true},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = c.values
		token, err := Token(r)
		if (token != nil) != c.token || (err != nil) != c.err || c.err && errs.KindOf(err) != errs.Denied {
			t.Errorf("%s: %v, %v", name, token, err)
		}
	}
}

func TestAPIVersion(t *testing.T) {
	for _, good := range []string{"2019-03-31", "2021-11-01-preview"} {
		got, err := APIVersion(httptest.NewRequest("GET", "/?a=b&api-version="+good, nil))
		if err != nil || got != good {
			t.Errorf("%s: %q, %v", good, got, err)
		}
	}
	for _, bad := range []string{
		"", "?api-version=", "?api-version=1.0", "?api-version=2021-13-01", "?api-version=2021-10-01-beta",
		"?api-version=2021-10-01-preview-preview", "?api-version=2021-10-1", "?api-version=%zz",
		"?api-version=2021-10-01&api-version=2019-03-31", "?api-version=%202021-10-01",
	} {
		_, err := APIVersion(httptest.NewRequest("GET", "/"+bad, nil))
		if e := errs.Public(err); e.Kind != errs.Invalid || e.Code != errs.CodeInvalidProtocolVersion {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPageSize(t *testing.T) {
	for sent, want := range map[string]int{"": 100, "1": 1, "50": 50, "1000000": 1000} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set(HeaderMaxItemCount, sent)
		if got, err := PageSize(r, 100, 1000); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", sent, got, err, want)
		}
	}
	for _, sent := range []string{"0", "-1", "ten", "1.5", "99999999999999999999"} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set(HeaderMaxItemCount, sent)
		if _, err := PageSize(r, 100, 1000); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: %v", sent, err)
		}
	}
}

func TestSetRetryAfter(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "1", time.Millisecond: "1", 3 * time.Second: "3", 3*time.Second + 1: "4",
	} {
		h := http.Header{}
		if SetRetryAfter(h, d); h.Get("Retry-After") != want {
			t.Errorf("%v: %q, want %q", d, h.Get("Retry-After"), want)
		}
	}
}

// keyOf derives keys by repeating the info, which is enough to tell them apart.
type keyOf struct{}

func (keyOf) Derive(info []byte, size int) ([]byte, error) {
	return bytes.Repeat(info, size/len(info)+1)[:size], nil
}

type noKey struct{}

func (noKey) Derive([]byte, int) ([]byte, error) { return nil, errors.New("the token is unplugged") }

func TestContinuations(t *testing.T) {
	c := Continuations{keyOf{}}
	token, err := c.Token("enrollments", "device-7")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Position("enrollments", token); err != nil || got != "device-7" {
		t.Errorf("round trip: %q, %v", got, err)
	}
	if got, err := c.Position("enrollments", ""); err != nil || got != "" {
		t.Errorf("no token: %q, %v", got, err)
	}
	if _, err := c.Position("groups", token); errs.KindOf(err) != errs.Invalid {
		t.Errorf("another listing's: %v", err)
	}
	for i := range token {
		forged := []byte(token)
		forged[i] ^= 1
		if _, err := c.Position("enrollments", string(forged)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("character %d changed: %v", i, err)
		}
		if i > 0 {
			if _, err := c.Position("enrollments", token[:i]); errs.KindOf(err) != errs.Invalid {
				t.Errorf("cut to %d characters: %v", i, err)
			}
		}
	}
	if _, err := (Continuations{noKey{}}).Token("enrollments", "x"); errs.KindOf(err) != errs.Internal {
		t.Errorf("no key: %v", err)
	}
	if _, err := (Continuations{noKey{}}).Position("enrollments", token); errs.KindOf(err) != errs.Internal {
		t.Errorf("no key: %v", err)
	}
}
