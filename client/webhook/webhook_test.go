package webhook

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/client/internal/dial"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/provision/custom"
)

const (
	secret = "c2VjcmV0LWtleQ=="
	inMem  = "https://" + memtls.Host + "/api/" + "allocate?code=" + secret
	good   = `{"iotHubHostName":"HUB-2.example","payload":{"a":1}}`
)

func question(url string) provision.Question {
	return provision.Question{
		Entry: &enroll.Entry{Scope: "0ne00000001", Kind: enroll.Group, ID: "Pumps", Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey},
			Allocation: enroll.Custom, Custom: &enroll.CustomAllocation{WebhookURL: url, APIVersion: "2021-10-01"}},
		ID: "pump-7", Payload: json.RawMessage(`{"region":"eu"}`), Linked: []string{"hub-1.example", "hub-2.example"},
	}
}

func client(t *testing.T, allowed ...string) *Client {
	t.Helper()
	w, err := New(Config{Allowed: allowed, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// inMemory returns a client whose https goes to h, in no time and over no wire.
func inMemory(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	at := memtls.Serve(t, h)
	w := client(t)
	w.secure = dial.HTTPClient(at.RootCAs, at.Transport.DialContext)
	return w
}

func TestAnswer(t *testing.T) {
	q := question(inMem)
	want, err := custom.Request(q)
	if err != nil {
		t.Fatal(err)
	}
	w := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != string(want) {
			t.Errorf("asked %s, %v", body, err)
		}
		if r.Method != http.MethodPost || r.URL.RequestURI() != "/api/allocate?code="+secret || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s %s of %s", r.Method, r.URL, r.Header.Get("Content-Type"))
		}
		w.Header().Set("Content-Type", "text/plain") // as functions in Python answer, if nobody tells them
		io.WriteString(w, good)
	})
	got, err := w.Choose(t.Context(), q)
	if err != nil || got.Hub != "hub-2.example" || string(got.Payload) != `{"a":1}` {
		t.Errorf("%+v, %v", got, err)
	}
	if found := w.Health(); len(found) != 0 {
		t.Errorf("%+v", found)
	}
}

// TestMisbehaviour is what webhooks do besides answering.
func TestMisbehaviour(t *testing.T) {
	status := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
	}
	busy := func(after string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}
	answers := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
	}
	// inTurn behaves in one way and then in another, and goes on in the last.
	inTurn := func(ways ...http.HandlerFunc) http.HandlerFunc {
		var n atomic.Int32
		return func(w http.ResponseWriter, r *http.Request) { ways[min(int(n.Add(1)), len(ways))-1](w, r) }
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	const failedWith = "Custom allocation failed with status code: "
	for _, c := range []struct {
		name     string
		webhook  http.HandlerFunc
		kind     errs.Kind // of the error
		message  string    // to the device; empty where there is an answer in the end
		cause    string    // for the operator
		attempts int
		atLeast  time.Duration // that it takes
		below    time.Duration
	}{
		{"an error of the caller's", status(404), errs.Invalid, failedWith + "404", "example.com answered 404 Not Found", 1, 0, time.Second},
		{"an error of its key's", status(401), errs.Invalid, failedWith + "401", "answered 401", 1, 0, time.Second},
		{"a status of its own", status(599), errs.Unavailable, failedWith + "599", "answered 599", 3, 0, 2 * time.Second},
		{"down", status(503), errs.Unavailable, failedWith + "503", "answered 503 Service Unavailable", 3, 0, 2 * time.Second},
		{"up again", inTurn(status(500), hangUp, answers(good)), 0, "", "", 3, 0, 2 * time.Second},
		{"up and wrong", inTurn(status(500), status(400)), errs.Invalid, failedWith + "400", "answered 400", 2, 0, time.Second},
		{"busy", busy("2"), errs.Unavailable, failedWith + "429", "answered 429", 3, 4 * time.Second, 5 * time.Second},
		{"busy for an hour", busy("3600"), errs.Unavailable, failedWith + "429", "answered 429", 1, 0, time.Second},
		{"busy until a date", busy("Wed, 21 Oct 2026 07:28:00 GMT"), errs.Unavailable, failedWith + "429", "answered 429", 3, 0, 2 * time.Second},
		{"busy for a negative time", busy("-5"), errs.Unavailable, failedWith + "429", "answered 429", 3, 0, 2 * time.Second},
		{"busy for longer than there is time", busy("99999999999999999999"), errs.Unavailable, failedWith + "429", "answered 429", 3, 0, 2 * time.Second},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/?code="+secret, http.StatusTemporaryRedirect)
		}, errs.Invalid, failedWith + "307", "answered 307", 1, 0, time.Second},
		{"silence", hang, errs.Unavailable, "Custom allocation failed.", "asking example.com: no answer within 5s", 3, 15 * time.Second, 17 * time.Second},
		{"a slow answer", func(w http.ResponseWriter, r *http.Request) {
			for range 100 {
				io.WriteString(w, " ")
				http.NewResponseController(w).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
					return
				}
			}
		}, errs.Unavailable, "Custom allocation failed.", "no answer within 5s", 3, 15 * time.Second, 17 * time.Second},
		{"hanging up", hangUp, errs.Unavailable, "Custom allocation failed.", "asking example.com: EOF", 3, 0, 2 * time.Second},
		{"hanging up in the middle", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, good)
		}, errs.Unavailable, "Custom allocation failed.", "asking example.com: unexpected EOF", 3, 0, 2 * time.Second},
		{"an endless answer", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<20)); err != nil {
					return
				}
			}
		}, errs.Invalid, "Custom allocation failed.", "longer than 65536 bytes", 1, 0, time.Second},
		{"an endless header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Large", strings.Repeat("x", 1<<20))
		}, errs.Unavailable, "Custom allocation failed.", "exceeded", 3, 0, 2 * time.Second},
		{"nothing", status(204), errs.Invalid, "Custom allocation failed.", "not one JSON value", 1, 0, time.Second},
		{"a page", answers("<html>sign in</html>"), errs.Invalid, "Custom allocation failed.", "not one JSON value", 1, 0, time.Second},
		{"a list", answers(`[]`), errs.Invalid, "Custom allocation failed.", "not an object", 1, 0, time.Second},
		{"a number for a host", answers(`{"iotHubHostName":7}`), errs.Invalid, "Custom allocation failed.", "iotHubHostName: not a string", 1, 0, time.Second},
		{"a stranger's hub", answers(`{"iotHubHostName":"evil.example"}`), errs.Invalid, "Custom allocation failed: it named no linked hub.", "none of the 2 linked hubs", 1, 0, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				w := inMemory(t, func(w http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					io.Copy(io.Discard, r.Body)
					c.webhook(w, r)
				})
				begin := time.Now()
				got, err := w.Choose(t.Context(), question(inMem))
				took := time.Since(begin)
				if int(asked.Load()) != c.attempts || took < c.atLeast || took >= c.below {
					t.Errorf("asked %d times in %v; %d times in %v to %v were meant", asked.Load(), took, c.attempts, c.atLeast, c.below)
				}
				if c.message == "" {
					if err != nil || got.Hub != "hub-2.example" {
						t.Fatalf("%+v, %v", got, err)
					}
					return
				}
				public := errs.Public(err)
				if err == nil || public.Kind != c.kind || public.Message != c.message || public.Code != errs.CodeCustomAllocation && public.Code != errs.CodeHubNotSpecified {
					t.Errorf("the device sees %v %d %q", public.Kind, public.Code, public.Message)
				}
				if err != nil && (!strings.Contains(err.Error(), c.cause) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "/api")) {
					t.Errorf("%v\nwant %s, and no secret", err, c.cause)
				}
				found := w.Health()
				if len(found) != 1 || found[0].ID != "Pumps" || found[0].Failures != 1 || !strings.Contains(found[0].LastError, c.cause) || strings.Contains(found[0].LastError, secret) {
					t.Errorf("%+v", found)
				}
			})
		})
	}
}

// The error about a malformed answer repeats it, and the answer may be what was
// asked.
func TestEchoDoesNotTellSecrets(t *testing.T) {
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s %s,%s\r\n\r\n", r.Proto, r.URL.RequestURI(), r.URL.Query().Get("code"))
	}))
	t.Cleanup(served.Close)
	_, err := client(t).Choose(t.Context(), question(served.URL+"/api?code="+secret))
	if errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), `malformed HTTP status code "…,…"`) {
		t.Error(err)
	}
}

// A longer Retry-After is for whoever asks for the device again, within bounds.
func TestRetryAfterIsHandedUp(t *testing.T) {
	for after, want := range map[string]time.Duration{"30": 30 * time.Second, " 300 ": 5 * time.Minute, "86400": 5 * time.Minute} {
		w := inMemory(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		_, err := w.Choose(t.Context(), question(inMem))
		if got := errs.Public(err).RetryAfter; got != want {
			t.Errorf("%s: %v, %v", after, got, err)
		}
	}
}

func TestEndOfTheCallEndsTheAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inMemory(t, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := w.Choose(ctx, question(inMem))
		if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if found := w.Health(); len(found) != 0 {
			t.Errorf("the webhook is to blame: %+v", found)
		}
	})
}

func TestStrangersCertificateIsNotTrusted(t *testing.T) {
	at := memtls.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	w := client(t)
	w.secure = dial.HTTPClient(x509.NewCertPool(), at.Transport.DialContext)
	_, err := w.Choose(t.Context(), question(inMem))
	if errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), secret) {
		t.Error(err)
	}
}

// Without TLS a webhook is on this machine, and that is looked at when its name
// has become an address.
func TestPlainHTTPStaysOnTheMachine(t *testing.T) {
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, good) }))
	t.Cleanup(served.Close)
	w := client(t)
	if got, err := w.Choose(t.Context(), question(served.URL+"/?code="+secret)); err != nil || got.Hub != "hub-2.example" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, url := range []string{"http://192.0.2.1/", "http://10.0.0.1/", "http://0.0.0.0/", "http://[::]/", "http://[2001:db8::1]/", "http://169.254.169.254/latest/meta-data/"} {
		if _, err := w.Choose(t.Context(), question(url)); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "not on the loopback interface") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestMetadataServicesAreNotAsked(t *testing.T) {
	w := client(t)
	for _, url := range []string{"https://169.254.169.254/", "https://[fe80::1]/", "https://[::ffff:169.254.169.254]/", "https://[64:ff9b::a9fe:a9fe]/", "https://168.63.129.16/", "https://0.0.0.0/", "https://224.0.0.1/"} {
		begin := time.Now()
		_, err := w.Choose(t.Context(), question(url))
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "webhooks are not there") || time.Since(begin) > 4*time.Second {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestAllowed(t *testing.T) {
	w := client(t, "https://a.example/api/", "https://b.example:8443", "http://127.0.0.1:7071/x")
	for url, want := range map[string]bool{
		"https://a.example/api/allocate?code=x": true, "https://A.example/api": true, "https://a.example/api/": true, "https://a.example/api?code=x": true,
		"https://a.example/apiary": false, "https://a.example/": false, "https://a.example:8443/api/": false, "http://a.example/api/": false,
		"https://a.example.evil.example/api/": false, "https://a.example@evil.example/api/": false, "https://evil.example/?https://a.example/api/": false,
		"https://a.example/api/../admin": false, "https://a.example/api/%2e%2e/admin": false, "https://a.example/api/..%2fadmin": false, "https://a.example/api/./x": false, `https://a.example/api/..\admin`: false,
		"https://b.example:8443/anything": true, "https://b.example:8443": true, "https://b.example/": false,
		"http://127.0.0.1:7071/x/y": true, "http://127.0.0.1:7071/y": false, "http://127.0.0.1:70711/x": false,
	} {
		if err := w.Check(url); (err == nil) != want {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := client(t).Check("https://anywhere.example/"); err != nil {
		t.Errorf("without a list: %v", err)
	}
	if _, err := w.Choose(t.Context(), question("https://evil.example/?code="+secret)); errs.KindOf(err) != errs.Invalid || strings.Contains(err.Error(), "evil") || !strings.Contains(err.Error(), "provisioning.webhooks") {
		t.Error(err)
	}
	for _, bad := range []string{"", "a.example", "ftp://a.example/", "https://", "https://u:p@a.example/", "https://a.example/?code=x", "https://a.example/#x", "https://a b/"} {
		if _, err := New(Config{Allowed: []string{bad}, Now: time.Now}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// The latest failures are kept, and those that are over go first.
func TestHealth(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h := health{now: func() time.Time { at = at.Add(time.Second); return at }}
	entry := func(n int) *enroll.Entry {
		return &enroll.Entry{Scope: device.IDScope("0ne00000001"), Kind: enroll.Group, ID: fmt.Sprintf("Group-%d", n)}
	}
	down := errs.New(errs.Unavailable, errs.CodeCustomAllocation, "Custom allocation failed.").WithCause(errors.New("it is down"))
	for n := range maxHealth {
		h.record(entry(n), down)
	}
	h.record(entry(3), nil)  // answers again
	h.record(entry(9), down) // fails again
	h.record(entry(1000), nil)
	h.record(entry(1001), down)
	h.record(entry(1002), down)
	w := &Client{health: health{now: h.now, all: h.all}}
	found := w.Health()
	if len(found) != maxHealth || found[0].ID != "Group-1002" || found[1].ID != "Group-1001" || found[2].ID != "Group-9" || found[2].Failures != 2 || found[2].LastError != "it is down" {
		t.Errorf("%d, %+v", len(found), found[:3])
	}
	for _, one := range found {
		if one.ID == "Group-3" || one.ID == "Group-0" || one.ID == "Group-1000" {
			t.Errorf("%s is still there", one.ID)
		}
	}
	h.record(entry(9), nil)
	if again := (&Client{health: health{all: h.all}}).Health()[2]; again.Failures != 0 || again.LastAnswer.IsZero() || again.LastError != "it is down" {
		t.Errorf("%+v", again)
	}
}
