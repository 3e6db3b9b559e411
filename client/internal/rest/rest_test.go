package rest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/errs"
)

// talk makes one call to h in a bubble and returns after how many requests and
// how long it ended, and how.
func talk(t *testing.T, h http.HandlerFunc, r rest.Request) (requests int, took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		o := memtls.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.Add(1); h(w, r) }))
		c, e := rest.New(memtls.Host, nil, o)
		if e != nil {
			t.Fatal(e)
		}
		start := time.Now()
		_, err = c.Do(t.Context(), r)
		requests, took = int(n.Load()), time.Since(start)
	})
	return requests, took, err
}

func answering(status int, header http.Header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

var get = rest.Request{Method: "GET", Path: "/x", Repeatable: true, MaxAnswer: 1 << 10}

func TestWhatIsRepeated(t *testing.T) {
	post := rest.Request{Method: "POST", Path: "/x", Body: []byte("{}"), MaxAnswer: 1 << 10}
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for _, tt := range []struct {
		name     string
		server   http.HandlerFunc
		request  rest.Request
		requests int
	}{
		{"500 to a repeatable call", answering(500, nil, ""), get, 5},
		{"503 to a repeatable call", answering(503, nil, ""), get, 5},
		{"503 to any other call", answering(503, nil, ""), post, 1},
		{"408 to a repeatable call", answering(408, nil, ""), get, 5},
		{"408 to any other call", answering(408, nil, ""), post, 1},
		{"429 to any call", answering(429, nil, ""), post, 5},
		{"a lost answer to a repeatable call", hangUp, get, 5},
		{"a lost answer to any other call", hangUp, post, 1},
		{"404", answering(404, nil, ""), get, 1},
		{"401", answering(401, nil, ""), get, 1},
		{"a redirect", answering(307, http.Header{"Location": {"https://elsewhere.example/"}}, ""), get, 1},
		{"a huge answer", answering(200, nil, strings.Repeat("x", 1<<20)), get, 1},
		{"a truncated answer", answering(200, http.Header{"Content-Length": {"100"}}, "short"), get, 5},
		{"a huge header", answering(200, http.Header{"X": {strings.Repeat("x", 1<<20)}}, ""), get, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests, took, err := talk(t, tt.server, tt.request)
			if err == nil || requests < tt.requests || requests > 2*tt.requests { // net/http itself may repeat a GET once
				t.Errorf("%d requests, want %d; error %v", requests, tt.requests, err)
			}
			if tt.requests > 1 && took < time.Second {
				t.Errorf("%d requests in %s", requests, took)
			}
		})
	}
}

func TestRetryAfterIsObeyedWithinReason(t *testing.T) {
	for header, want := range map[string]struct{ least, most time.Duration }{
		"7":                             {7 * time.Second, 9 * time.Second},
		" 7 ":                           {7 * time.Second, 9 * time.Second},
		"0":                             {0, time.Second},
		"-5":                            {0, time.Second},
		"soon":                          {0, time.Second},
		"1e9":                           {0, time.Second},
		"4000000000":                    {5 * time.Minute, 6 * time.Minute},
		"99999999999999999999":          {0, time.Second},
		"Sun, 06 Nov 2094 08:49:37 GMT": {0, time.Second},
	} {
		t.Run(header, func(t *testing.T) {
			first := true
			_, took, err := talk(t, func(w http.ResponseWriter, _ *http.Request) {
				if first {
					first = false
					w.Header().Set("Retry-After", header)
					w.WriteHeader(429)
				}
			}, get)
			if err != nil || took < want.least || took > want.most {
				t.Errorf("waited %s, want %s to %s; error %v", took, want.least, want.most, err)
			}
		})
	}
}

func TestADeadlineIsNotSleptThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := memtls.Serve(t, answering(429, http.Header{"Retry-After": {"60"}}, ""))
		c, err := rest.New(memtls.Host, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		start := time.Now()
		_, err = c.Do(ctx, get)
		refused, ok := errors.AsType[*client.Error](err)
		if !ok || refused.RetryAfter != time.Minute || time.Since(start) > time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestASilentServerIsGivenUp(t *testing.T) {
	silent := func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // returning would answer 200
	}
	requests, took, err := talk(t, silent, get)
	if err == nil || requests != 5 || took < 5*time.Minute || !strings.Contains(err.Error(), "no answer within 1m0s") {
		t.Errorf("%d requests in %s: %v", requests, took, err)
	}
}

func TestCancelledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := memtls.Serve(t, answering(503, http.Header{"Retry-After": {"60"}}, ""))
		c, err := rest.New(memtls.Host, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		_, err = c.Do(ctx, get)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "Service Unavailable") {
			t.Error(err)
		}
	})
}

func TestAnUntrustedServerIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := memtls.Serve(t, answering(200, nil, ""))
		c, err := rest.New("another.example", nil, o)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := c.Do(t.Context(), get); err == nil || time.Since(start) > 0 {
			t.Errorf("a server with another name, after %s: %v", time.Since(start), err)
		}
	})
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   client.Error
	}{
		{"DPS", 404, nil, `{"errorCode":404201,"trackingId":"t-1","message":"Not found","timestampUtc":"2020-11-16T15:20:06Z"}`,
			client.Error{Status: 404, Code: 404201, Name: "EnrollmentNotFound", Message: "Not found", TrackingID: "t-1"}},
		{"a code nobody named", 400, nil, `{"errorCode":400299,"message":"hm"}`,
			client.Error{Status: 400, Code: 400299, Message: "hm"}},
		{"IoT Hub", 404, nil, `{"Message":"ErrorCode:DeviceNotFound;d1","ExceptionMessage":"Tracking ID:1bc-G:20-TimeStamp:02/05/2021 10:03:38"}`,
			client.Error{Status: 404, Code: errs.CodeDeviceNotFound, Name: "DeviceNotFound", Message: "d1", TrackingID: "1bc-G:20"}},
		{"IoT Hub with a document as text", 404, nil, `{"Message":"{\"errorCode\":404103,\"trackingId\":\"92d\",\"message\":\"Timed out\",\"info\":{\"timeout\":\"00:01:00\"}}","ExceptionMessage":""}`,
			client.Error{Status: 404, Code: 404103, Name: "DeviceNotOnline", Message: "Timed out", TrackingID: "92d"}},
		{"IoT Hub without a body", 401, http.Header{"Iothub-Errorcode": {"IotHubUnauthorizedAccess"}, "X-Ms-Request-Id": {"r"}}, "",
			client.Error{Status: 401, Code: errs.CodeUnauthorizedAccess, Name: "IotHubUnauthorizedAccess", Message: "Unauthorized", TrackingID: "r"}},
		{"Berth's own API", 404, nil, `{"error":{"kind":"not found","code":404000,"message":"No hub h is linked","trackingId":"t-2"}}`,
			client.Error{Status: 404, Code: 404000, Name: "GenericNotFound", Message: "No hub h is linked", TrackingID: "t-2"}},
		{"an error of another type", 400, nil, `{"error":"invalid_grant","message":"m"}`, client.Error{Status: 400, Message: "Bad Request"}},
		{"a name nobody knows", 400, nil, `{"Message":"ErrorCode:Nonesuch;what"}`,
			client.Error{Status: 400, Name: "Nonesuch", Message: "what"}},
		{"a proxy's page", 403, http.Header{"Content-Type": {"text/html"}}, "<html>no</html>",
			client.Error{Status: 403, Message: "Forbidden"}},
		{"members of other types", 400, nil, `{"errorCode":"x","trackingId":7,"message":["a"],"ExceptionMessage":{}}`,
			client.Error{Status: 400, Message: "Bad Request"}},
		{"an absurd code", 400, nil, `{"errorCode":40000000000000,"message":"m"}`, client.Error{Status: 400, Message: "m"}},
		{"terminal escapes", 400, nil, `{"message":"a\u001b[2Jb\u0000\nc"}`, client.Error{Status: 400, Message: "a [2Jb  c"}},
		{"turtles", 400, nil, `{"message":"{\"message\":\"{\\\"message\\\":\\\"deep\\\"}\"}"}`,
			client.Error{Status: 400, Message: `{"message":"deep"}`}},
		{"an empty document as text", 400, nil, `{"message":"{}"}`, client.Error{Status: 400, Message: "{}"}},
		{"a long story", 400, nil, `{"message":"` + strings.Repeat("ü", 2000) + `"}`,
			client.Error{Status: 400, Message: strings.Repeat("ü", 512) + "…"}},
		{"an endless body", 400, nil, `{"message":"` + strings.Repeat("x", 1<<20), client.Error{Status: 400, Message: "Bad Request"}},
		{"a refusal with a date", 409, http.Header{"Retry-After": {"3"}}, `{"errorCode":409201}`,
			client.Error{Status: 409, Code: 409201, Name: "EnrollmentConflict", Message: "Conflict", RetryAfter: 3 * time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := talk(t, answering(tt.status, tt.header, tt.body), get)
			got, ok := errors.AsType[*client.Error](err)
			if len(tt.body) < 64<<10 {
				tt.want.Body = rest.Printable(tt.body, 2048)
			}
			if !ok || *got != tt.want {
				t.Errorf("got  %#v\nwant %#v", got, tt.want)
			}
		})
	}
}

func TestOnlyJSONIsReadAsJSON(t *testing.T) {
	for _, tt := range []struct {
		media, body string
		ok          bool
	}{
		{"application/json", `{"a":1}`, true},
		{"application/json; charset=utf-8", `{"a":1}`, true},
		{"Application/JSON", `{"a":1}`, true},
		{"text/html", `{"a":1}`, false},
		{"application/jsonp", `{"a":1}`, false},
		{";;;", `{"a":1}`, false},
		{"application/json", `{"a":1} {"a":2}`, false},
		{"application/json", `secret-looking rubbish`, false},
		{"application/json", ``, false},
	} {
		a := &rest.Answer{Header: http.Header{"Content-Type": {tt.media}}, Body: []byte(tt.body)}
		var v struct{ A int }
		err := a.JSON(&v)
		if (err == nil) != tt.ok || tt.ok && v.A != 1 {
			t.Errorf("%q %q: %v", tt.media, tt.body, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error repeats the body: %v", err)
		}
	}
}

func TestStreamsOutliveTheTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := memtls.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 3 {
				io.WriteString(w, "line\n")
				w.(http.Flusher).Flush()
				<-time.After(10 * time.Minute)
			}
		}))
		c, err := rest.New(memtls.Host, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		body, err := c.Stream(t.Context(), get)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if all, err := io.ReadAll(body); err != nil || string(all) != "line\nline\nline\n" {
			t.Errorf("%q, %v", all, err)
		}
	})
}

func TestStreamsGiveUpOnASilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := memtls.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // returning would answer 200
		}))
		o.Attempts = 2
		c, err := rest.New(memtls.Host, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := c.Stream(t.Context(), get); err == nil || body != nil || !strings.Contains(err.Error(), "no answer within") {
			t.Errorf("%v, %v", body, err)
		}
	})
}

func TestHosts(t *testing.T) {
	for _, good := range []string{"localhost", "hub.azure-devices.net", "a_b.example:8443", "127.0.0.1", "127.0.0.1:443", "[::1]:8443", "H"} {
		if err := rest.CheckHost(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ":443", "a:", "a:0", "a:65536", "a:x", "https://a", "a/b", "a?b", "a#b", "u@a", "u:p@a", "a b", "a..b", ".a",
		"a.", "ä.example", "a%2fb", "::1", "[::1", "a\r\nHost: b", strings.Repeat("a", 64), strings.Repeat("a.", 200) + "a"} {
		if rest.CheckHost(bad) == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestSettingsThatMakeNoSense(t *testing.T) {
	for _, o := range []client.HTTP{{Attempts: -1}, {Timeout: -1}} {
		if _, err := rest.New("h", nil, o); err == nil {
			t.Errorf("%+v passed", o)
		}
	}
}

func TestTokensAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		tokens := &rest.Tokens{Sign: func(_ context.Context, expiry time.Time) (string, error) {
			if made++; made == 3 {
				return "", errors.New("the TPM is busy")
			}
			return fmt.Sprint(made, " until ", expiry.UTC().Format(time.TimeOnly)), nil
		}}
		for _, step := range []struct {
			wait time.Duration
			want string
		}{
			{0, "1 until 01:00:00"},
			{44 * time.Minute, "1 until 01:00:00"},
			{2 * time.Minute, "2 until 01:46:00"},
			{50 * time.Minute, ""},
			{0, "4 until 02:36:00"},
		} {
			<-time.After(step.wait)
			if got, err := tokens.Token(t.Context()); got != step.want || (err != nil) != (step.want == "") {
				t.Errorf("%q, %v; want %q", got, err, step.want)
			}
		}
	})
}

const key = "AAECAwQFBgcICQoLDA0ODw=="

func TestConnectionStrings(t *testing.T) {
	for _, s := range []string{
		"HostName=h.example;SharedAccessKeyName=owner;SharedAccessKey=" + key,
		"SharedAccessKey=" + key + ";HostName=h.example;SharedAccessKeyName=owner;",
		" hostname=h.example;sharedaccesskeyname=owner;sharedaccesskey=" + key + "\n",
	} {
		c, err := rest.ParseConnectionString(s)
		if err != nil || c.Host != "h.example" || c.KeyName != "owner" {
			t.Fatalf("%v, %v", c, err)
		}
		token, err := c.Authorize()(t.Context())
		if err != nil || !strings.Contains(token, "sr=h.example&") || !strings.HasSuffix(token, "&skn=owner") {
			t.Errorf("%q, %v", token, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(verb, c); strings.Contains(text, key) || strings.Contains(text, "\x01\x02") {
				t.Errorf("%s shows %s", verb, text)
			}
		}
	}
	ready := "SharedAccessSignature sr=h.example&sig=" + strings.Repeat("A", 43) + "%3D&se=1700000000&skn=owner"
	c, err := rest.ParseConnectionString("HostName=h.example:8443;SharedAccessSignature=" + ready)
	if err != nil {
		t.Fatal(err)
	}
	if token, err := c.Authorize()(t.Context()); err != nil || token != ready {
		t.Errorf("%q, %v", token, err)
	}
}

func TestConnectionStringsThatAreRefused(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":            "",
		"no host":            "SharedAccessKeyName=o;SharedAccessKey=" + key,
		"no key":             "HostName=h;SharedAccessKeyName=o",
		"no name":            "HostName=h;SharedAccessKey=" + key,
		"an empty name":      "HostName=h;SharedAccessKeyName=;SharedAccessKey=" + key,
		"a host with a path": "HostName=h/sesame;SharedAccessKeyName=o;SharedAccessKey=" + key,
		"a key twice":        "HostName=h;SharedAccessKeyName=o;SharedAccessKey=" + key + ";SharedAccessKey=" + key,
		"not base64":         "HostName=h;SharedAccessKeyName=o;SharedAccessKey=open sesame",
		"a short key":        "HostName=h;SharedAccessKeyName=o;SharedAccessKey=c2VzYW1l",
		"not a token":        "HostName=h;SharedAccessSignature=sesame",
		"key and token":      "HostName=h;SharedAccessKeyName=o;SharedAccessKey=" + key + ";SharedAccessSignature=SharedAccessSignature sr=h&sig=" + strings.Repeat("A", 43) + "%3D&se=1",
		"a device's":         "HostName=h;DeviceId=sesame;SharedAccessKey=" + key,
		"something else":     "HostName=h;sesame=x;SharedAccessKeyName=o;SharedAccessKey=" + key,
		"no value":           "HostName=h;sesame",
	} {
		_, err := rest.ParseConnectionString(s)
		if err == nil || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWarningsArePassedOn(t *testing.T) {
	header := http.Header{"Warning": {`299 - "The key is also that of pump-8"`, "something else\u009b2J"}}
	synctest.Test(t, func(t *testing.T) {
		o := memtls.Serve(t, answering(200, header, ""))
		var got []string
		o.Warn = func(text string) { got = append(got, text) }
		c, err := rest.New(memtls.Host, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Do(t.Context(), get); err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || got[0] != "The key is also that of pump-8" || !strings.HasPrefix(got[1], "something else") || strings.Contains(got[1], "\u009b") {
			t.Errorf("%q", got)
		}
	})
}
