package rest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/limit"
)

// an exchange is one request through an edge and what it left behind.
type exchange struct {
	answer *httptest.ResponseRecorder
	log    map[string]any
}

// send has an edge with the given routes answer r. Its clock advances by a
// second with every look.
func send(t *testing.T, r *http.Request, routes ...Route) (x exchange) {
	t.Helper()
	var out bytes.Buffer
	now := time.Unix(1700000000, 0)
	e := Edge{
		Routes: routes,
		Refuse: func(w http.ResponseWriter, r *Request, err error) {
			public := errs.Public(err)
			body, _ := json.Marshal(map[string]any{"kind": public.Kind.String(), "message": public.Message})
			WriteJSON(w, 400+int(public.Kind), body)
		},
		Logger: slog.New(slog.NewJSONHandler(&out, nil)),
		Random: rand.Reader,
		Now:    func() time.Time { now = now.Add(time.Second); return now },
	}
	x.answer = httptest.NewRecorder()
	defer func() {
		if err := json.Unmarshal(out.Bytes(), &x.log); err != nil {
			t.Fatalf("the log is not one JSON line: %v\n%s", err, out.String())
		}
	}()
	e.Handler().ServeHTTP(x.answer, r)
	return x
}

func say(text string) func(http.ResponseWriter, *Request) error {
	return func(w http.ResponseWriter, r *Request) error {
		_, err := io.WriteString(w, text+" "+r.PathValue("id"))
		return err
	}
}

func TestRoutes(t *testing.T) {
	routes := []Route{
		{"POST", "/things/query", say("query")},
		{"PUT", "/things/{id}", say("put")},
		{"GET", "/things/{id}", say("get")},
		{"GET", "/{scope}/things/{id}", say("scoped")},
		{"", "/fixed", nil},
	}
	for _, c := range []struct{ method, path, want, route string }{
		{"GET", "/things/a", "get a", "/things/{id}"},
		{"GET", "/THINGS/A/", "get A", "/things/{id}"},
		{"PUT", "/things/a%3Ab", "put a:b", "/things/{id}"},
		{"PUT", "/things/query", "put query", "/things/{id}"},
		{"POST", "/things/Query", "query ", "/things/query"},
		{"GET", "/things/things/a%2Fb", "scoped a/b", "/{scope}/things/{id}"},
	} {
		x := send(t, httptest.NewRequest(c.method, c.path, nil), routes...)
		if got := x.answer.Body.String(); got != c.want || x.answer.Code != 200 || x.log["route"] != c.route {
			t.Errorf("%s %s: %d %q by %v, want %q", c.method, c.path, x.answer.Code, got, x.log["route"], c.want)
		}
	}
	for _, c := range []struct {
		method, path string
		kind         errs.Kind
		allow        string
	}{
		{"GET", "/", errs.NotFound, ""},
		{"GET", "/things", errs.NotFound, ""},
		{"GET", "/things/a/b", errs.NotFound, ""},
		{"GET", "/things//", errs.Invalid, ""},
		{"DELETE", "/things/a", errs.NotAllowed, "GET, PUT"},
		{"HEAD", "/things/query", errs.NotAllowed, "GET, POST, PUT"},
		{"GET", "/fixed/", errs.NotAllowed, ""},
		{"get", "/things/a", errs.NotAllowed, "GET, PUT"},
	} {
		x := send(t, httptest.NewRequest(c.method, c.path, nil), routes...)
		if x.answer.Code != 400+int(c.kind) || x.answer.Header().Get("Allow") != c.allow || x.log["route"] != "none" {
			t.Errorf("%s %s: %d, Allow %q, route %v", c.method, c.path, x.answer.Code, x.answer.Header().Get("Allow"), x.log["route"])
		}
	}
}

// One line says what happened, and holds neither the path nor the query.
func TestLogLine(t *testing.T) {
	x := send(t, httptest.NewRequest("GET", "/things/hidden?sig=hidden", nil), Route{"GET", "/things/{id}",
		func(http.ResponseWriter, *Request) error {
			return errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "Unauthorized").WithCause(errors.New("the key is another"))
		}})
	for key, want := range map[string]any{
		"level": "INFO", "msg": "http request", "method": "GET", "route": "/things/{id}", "status": 402.0,
		"duration": 1e9, "remote": "192.0.2.1:1234", "error": "Unauthorized: the key is another",
		"tracking_id": x.answer.Result().Header[HeaderRequestID][0],
	} {
		if x.log[key] != want {
			t.Errorf("%s is %v, want %v", key, x.log[key], want)
		}
	}
	for key, value := range x.log {
		if s, ok := value.(string); ok && strings.Contains(s, "hidden") {
			t.Errorf("%s is %q", key, s)
		}
	}
	if strings.Contains(x.answer.Body.String(), "another") {
		t.Errorf("a stranger reads the cause: %s", x.answer.Body)
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	x := send(t, httptest.NewRequest("GET", "/a", nil), Route{"GET", "/{id}",
		func(http.ResponseWriter, *Request) error { panic("key 1234") }})
	if x.answer.Code != 400 || strings.Contains(x.answer.Body.String(), "1234") {
		t.Errorf("answer %d %s", x.answer.Code, x.answer.Body)
	}
	stack, _ := x.log["stack"].(string)
	if x.log["level"] != "ERROR" || x.log["error"] != "panic: key 1234" || !strings.Contains(stack, "TestPanicIsAnInternalError") {
		t.Errorf("log %v", x.log)
	}
}

func TestHalfAnAnswerIsAborted(t *testing.T) {
	aborted := func() (p any) {
		defer func() { p = recover() }()
		send(t, httptest.NewRequest("GET", "/a", nil), Route{"GET", "/{id}",
			func(w http.ResponseWriter, _ *Request) error {
				io.WriteString(w, "[1,2,")
				return errors.New("the store went away")
			}})
		return nil
	}()
	if aborted != http.ErrAbortHandler {
		t.Errorf("recovered %v", aborted)
	}
}

func TestClientThatHungUpIsNoAlarm(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := send(t, httptest.NewRequestWithContext(ctx, "GET", "/a", nil), Route{"GET", "/{id}",
		func(_ http.ResponseWriter, r *Request) error { return r.Context().Err() }})
	if x.log["level"] != "INFO" {
		t.Errorf("log %v", x.log)
	}
}

func TestNoRandomnessNoService(t *testing.T) {
	e := Edge{
		Routes: []Route{{"GET", "/{id}", say("served")}},
		Refuse: func(w http.ResponseWriter, _ *Request, _ error) { w.WriteHeader(500) },
		Logger: slog.New(slog.DiscardHandler),
		Random: strings.NewReader(""),
		Now:    time.Now,
	}
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/a", nil))
	if w.Code != 500 || w.Body.Len() != 0 {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
}

// One address that calls too often is told when to come again; another one is
// served meanwhile.
func TestAddressesAreLimited(t *testing.T) {
	served := 0
	var seen []int
	e := Edge{
		Routes: []Route{{Method: "GET", Pattern: "/x", Serve: func(w http.ResponseWriter, _ *Request) error {
			served++
			WriteJSON(w, http.StatusOK, []byte("{}"))
			return nil
		}}},
		Refuse: func(w http.ResponseWriter, _ *Request, err error) {
			if errs.KindOf(err) != errs.Busy {
				t.Errorf("refused with %v", err)
			}
			WriteJSON(w, http.StatusTooManyRequests, []byte("{}"))
		},
		Addresses: limit.Always(limit.New(limit.Rate{Events: 2, Period: 10 * time.Second})),
		Observe: func(method, route string, status int, _ time.Duration) {
			seen = append(seen, status)
			if method != "GET" || status == http.StatusOK && route != "/x" {
				t.Errorf("observed %s %s %d", method, route, status)
			}
		},
		Logger: slog.New(slog.DiscardHandler), Random: rand.Reader, Now: func() time.Time { return time.Unix(1700000000, 0) },
	}
	call := func(remote string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/x", nil)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		e.Handler().ServeHTTP(w, r)
		return w
	}
	for i, want := range []int{200, 200, 429, 429} {
		w := call("192.0.2.1:" + strconv.Itoa(5000+i))
		if w.Code != want {
			t.Errorf("call %d: %d, want %d", i+1, w.Code, want)
		}
		if after := w.Header().Get("Retry-After"); want == 429 && after != "5" {
			t.Errorf("call %d: Retry-After is %q", i+1, after)
		}
	}
	if w := call("192.0.2.2:5000"); w.Code != http.StatusOK {
		t.Errorf("another address: %d", w.Code)
	}
	if served != 3 || len(seen) != 5 {
		t.Errorf("served %d, observed %v", served, seen)
	}
}

// Every 503 says when to come again, whatever knew nothing about it, and
// nothing else does that did not mean to.
func TestUnavailableSaysWhenToComeAgain(t *testing.T) {
	for _, c := range []struct {
		err  *errs.Error
		want string
	}{
		{errs.New(errs.Unavailable, 0, "away"), "5"},
		{&errs.Error{Kind: errs.Unavailable, RetryAfter: 20 * time.Second}, "20"},
		{errs.New(errs.Denied, 0, "no"), ""},
	} {
		x := send(t, httptest.NewRequest("GET", "/x", nil), Route{"GET", "/x", func(http.ResponseWriter, *Request) error { return c.err }})
		if got := x.answer.Header().Get("Retry-After"); got != c.want {
			t.Errorf("%v: Retry-After is %q, want %q", c.err, got, c.want)
		}
	}
}
