package webhook

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/client/sink/sinktest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var key, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))

// A receiver is a program that takes webhooks, and checks them.
type receiver struct {
	t       *testing.T
	address string
	config  hub.SinkConfig

	mu     sync.Mutex // guards what follows
	server *httptest.Server
	kept   []*hub.Message
}

func startReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t, address: "127.0.0.1:0"}
	r.Start(t)
	t.Cleanup(r.Kill)
	r.address = r.server.Listener.Addr().String()
	r.config = hub.SinkConfig{
		Hub: sinktest.Host, Name: "ops", Kind: Kind, URL: "https://" + r.address + "/hook?code=c2VjcmV0", Secret: hub.NewSecret([]byte(secret)), BatchSize: 100,
		Authorities: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})),
	}
	return r
}

// Config implements sinktest.Far.
func (r *receiver) Config() hub.SinkConfig { return r.config }

// Start implements sinktest.Far.
func (r *receiver) Start(t *testing.T) {
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		t.Error(err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(r.take)}}
	r.server.StartTLS()
}

// Kill implements sinktest.Far.
func (r *receiver) Kill() {
	r.mu.Lock()
	server := r.server
	r.server = nil
	r.mu.Unlock()
	if server != nil {
		server.Listener.Close()
		server.CloseClientConnections()
		server.Close()
	}
}

// Kept implements sinktest.Far.
func (r *receiver) Kept(*testing.T) []*hub.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept
}

func (r *receiver) take(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // it was killed
	}
	h := request.Header
	if request.Method != http.MethodPost || request.URL.Path != "/hook" || request.URL.RawQuery != "code=c2VjcmV0" || h.Get("Content-Type") != "application/json; charset=utf-8" {
		r.t.Errorf("%s %s %s", request.Method, request.URL, h)
	}
	id, timestamp := h.Get("webhook-id"), h.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || age < -time.Minute || age > time.Minute || strings.Contains(id, ".") || len(id) < 20 {
		r.t.Errorf("id %q, timestamp %q", id, timestamp)
	}
	if h.Get("webhook-signature") != sign(key, id, timestamp, body) {
		r.t.Errorf("the signature is %q", h.Get("webhook-signature"))
	}
	var sent envelope
	if err := json.Unmarshal(body, &sent); err != nil || sent.Type != "hub.messages" {
		r.t.Errorf("%v: %.200s", err, body)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range sent.Messages {
		one := &hub.Message{
			Sequence: m.Sequence, Hub: sent.Hub, DeviceID: m.DeviceID, ModuleID: m.ModuleID, Enqueued: m.EnqueuedTime,
			System: m.SystemProperties, Properties: m.Properties, Body: m.BodyBase64,
		}
		if m.Body != nil {
			one.Body = []byte(*m.Body)
		}
		r.kept = append(r.kept, one)
	}
	w.WriteHeader(http.StatusAccepted)
}

func TestContract(t *testing.T) {
	sinktest.Run(t, New(time.Now), func(t *testing.T) sinktest.Far { return startReceiver(t) })
}

// The example of the specification of Standard Webhooks.
func TestSignature(t *testing.T) {
	got := sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A batch that is sent again has the same name, and another batch another one.
func TestNames(t *testing.T) {
	m := func(at string, sequence uint64) *hub.Message { return &hub.Message{Hub: at, Sequence: sequence} }
	seen := map[string]bool{}
	for _, batch := range [][]*hub.Message{{m("a", 1)}, {m("a", 1), m("a", 2)}, {m("a", 12)}, {m("b", 1)}} {
		once, again := name(batch), name(batch)
		if once != again || seen[once] {
			t.Errorf("%s, and %s when it is sent again", once, again)
		}
		seen[once] = true
	}
}

func TestRefusals(t *testing.T) {
	hit := 0
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hit++ }))
	t.Cleanup(elsewhere.Close)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
		after  time.Duration
	}{
		"a fault": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "answered 500 Internal Server Error", 0},
		"gone":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) }, "answered 410 Gone", 0},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "answered 307", 0},
		"busy": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "7"); w.WriteHeader(429) }, "answered 429", 7 * time.Second},
		"busy for so": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "99999")
			w.WriteHeader(503)
		}, "answered 503", maxRetryAfter},
		"hanging up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", 0},
		"a long one": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			io.WriteString(w, strings.Repeat("x", 10<<20))
		}, "answered 500", 0},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(c.answer)
			server.Config.ErrorLog = nil
			server.Start()
			t.Cleanup(server.Close)
			sink, err := New(time.Now).Open(hub.SinkConfig{Hub: sinktest.Host, Name: "ops", Kind: Kind, URL: server.URL + "/x?code=c2VjcmV0", Secret: hub.NewSecret([]byte(secret))})
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			err = sink.Deliver(t.Context(), []*hub.Message{{Hub: sinktest.Host, Sequence: 1, DeviceID: "d"}})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), "/x") {
				t.Errorf("%v", err)
			}
			if e, ok := errors.AsType[*errs.Error](err); !ok || e.RetryAfter != c.after {
				t.Errorf("%v, want to wait %s", err, c.after)
			}
		})
	}
	if hit != 0 {
		t.Error("a redirect was followed")
	}
}

func TestConfigurationsAreRefused(t *testing.T) {
	good := hub.SinkConfig{Hub: sinktest.Host, Name: "ops", Kind: Kind, URL: "https://ops.example.com/hook", Secret: hub.NewSecret([]byte(secret))}
	if err := New(time.Now).Check(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*hub.SinkConfig){
		"another scheme": func(c *hub.SinkConfig) { c.URL = "ftp://ops.example.com" },
		"no secret":      func(c *hub.SinkConfig) { c.Secret = hub.Secret{} },
		"a short secret": func(c *hub.SinkConfig) { c.Secret = hub.NewSecret([]byte("c2hvcnQ=")) },
		"no base64":      func(c *hub.SinkConfig) { c.Secret = hub.NewSecret([]byte("whsec_?")) },
		"a setting":      func(c *hub.SinkConfig) { c.Settings = map[string]string{"a": "b"} },
		"authorities":    func(c *hub.SinkConfig) { c.Authorities = "x" },
	} {
		c := good
		spoil(&c)
		if err := New(time.Now).Check(c); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"http://192.0.2.1/", "https://169.254.169.254/latest/"} {
		c := good
		c.URL = url
		sink, err := New(time.Now).Open(c)
		if err != nil {
			t.Fatal(err)
		}
		err = sink.Deliver(t.Context(), []*hub.Message{{Hub: sinktest.Host, Sequence: 1, DeviceID: "d"}})
		if err == nil || !strings.Contains(err.Error(), "are not there") {
			t.Errorf("%s: %v", url, err)
		}
		sink.Close()
	}
}
