package linkedhub

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// The hub's own words and code become those of the error, in whichever form
// they come.
func TestRefusalsArePassedOn(t *testing.T) {
	for _, c := range []struct {
		code errs.Code
		kind errs.Kind
	}{
		{errs.CodeArgumentInvalid, errs.Invalid},
		{errs.CodeHubNotFound, errs.Denied},
		{errs.CodeUnauthorizedAccess, errs.Denied},
		{errs.CodeQuotaExceeded, errs.Forbidden},
		{errs.CodeHubSuspended, errs.Forbidden},
		{errs.CodeTooManyDevices, errs.TooLarge},
	} {
		for _, nested := range []bool{false, true} {
			bubble(t, func(t *testing.T, z *azure, h *Hub) {
				z.nested = nested
				z.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut {
						z.refuse(w, c.code, "no")
					}
					return r.Method == http.MethodPut
				}
				e := errs.Public(h.Assign(t.Context(), assignment("kl")))
				if e.Kind != c.kind || e.Code != c.code || !strings.HasPrefix(e.Message, `{"ExceptionMessage":"Tracking ID:t-1-`) || !strings.Contains(e.Message, `"Message":"`) {
					t.Errorf("%d: %v %d %s", c.code, e.Kind, e.Code, e.Message)
				}
			})
		}
	}
	for name, c := range map[string]struct {
		status  int
		body    string
		kind    errs.Kind
		code    errs.Code
		message string
	}{
		"a code nobody knows":     {403, `{"Message":"ErrorCode:Nonesuch;x"}`, errs.Forbidden, 403000, `{"Message":"ErrorCode:Nonesuch;x"}`},
		"no body":                 {401, ``, errs.Denied, 401000, "HTTP status 401"},
		"a redirect":              {302, `go away`, errs.Unavailable, 503001, "The linked IoT hub answers with HTTP status 302; try again later."},
		"not a hub":               {405, `<html>`, errs.Unavailable, 503001, "The linked IoT hub answers with HTTP status 405; try again later."},
		"a page instead of JSON":  {200, `<html>`, errs.Unavailable, 503001, "The linked IoT hub cannot be reached; try again later."},
		"another device":          {200, `{"deviceId":"d2"}`, errs.Unavailable, 503001, "The linked IoT hub cannot be reached; try again later."},
		"a code of another kind":  {403, `{"Message":"{\"errorCode\":404001}"}`, errs.Forbidden, 403000, `{"Message":"{\"errorCode\":404001}"}`},
		"control characters":      {400, "{\"Message\":\"a\x1b[31m\"}", errs.Invalid, 400000, `{"Message":"a [31m"}`},
		"a very long explanation": {400, strings.Repeat("x", 5000), errs.Invalid, 400000, strings.Repeat("x", 2048) + "…"},
	} {
		bubble(t, func(t *testing.T, z *azure, h *Hub) {
			z.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				if strings.HasPrefix(c.body, "{") {
					w.Header().Set("Content-Type", "application/json")
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
				return true
			}
			if e := errs.Public(h.Assign(t.Context(), assignment("kl"))); e.Kind != c.kind || e.Code != c.code || e.Message != c.message {
				t.Errorf("%s: %v %d %s", name, e.Kind, e.Code, e.Message)
			}
		})
	}
}

// A hub that repeats what it was sent does not make us repeat it.
func TestNoErrorHasAKeyInIt(t *testing.T) {
	a := assignment("kl")
	secrets := []string{a.Keys.Primary.Base64(), a.Keys.Secondary.Base64(), policyKey}
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	for name, body := range map[string]func(r *http.Request) string{
		"as it came": func(r *http.Request) string { b, _ := io.ReadAll(r.Body); return string(b) },
		"in a message": func(r *http.Request) string {
			b, _ := io.ReadAll(r.Body)
			return `{"Message":"ErrorCode:ArgumentInvalid;` + `bad: ` + strings.Trim(quote(string(b)), `"`) + `"}`
		},
		"escaped": func(r *http.Request) string {
			b, _ := io.ReadAll(r.Body)
			return `{"Message":` + quote(strings.ReplaceAll(strings.ReplaceAll(string(b), "a", `\u0061`), "=", `\u003D`)) + `}`
		},
		"as the name of an error": func(*http.Request) string { return `{"Message":"ErrorCode:` + a.Keys.Primary.Base64() + `;x"}` },
		"cut off": func(r *http.Request) string {
			return strings.Repeat("x", 2048-20) + a.Keys.Primary.Base64()
		},
		"the token": func(r *http.Request) string { return `{"Message":` + quote(r.Header.Get("Authorization")) + `}` },
	} {
		for _, status := range []int{400, 401, 403, 500, 302} {
			synctest.Test(t, func(t *testing.T) {
				z := newAzure(t)
				h := z.open(t, func(o *Options) { o.Budget = 2 * time.Second })
				var token string
				z.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
					if r.Method != http.MethodPut {
						return false
					}
					token = r.Header.Get("Authorization")
					w.WriteHeader(status)
					io.WriteString(w, body(r))
					return true
				}
				err := h.Assign(t.Context(), a)
				if err == nil {
					t.Fatal("no error")
				}
				_, signature, _ := strings.Cut(token, "sig=")
				signature, _, _ = strings.Cut(signature, "&")
				text := fmt.Sprintf("%v %+v %#v %s", err, err, err, errs.Public(err).Message)
				for cause := err; cause != nil; cause = errors.Unwrap(cause) {
					text += fmt.Sprintf(" %+v", cause)
				}
				for _, secret := range append(secrets, signature) {
					if strings.Contains(text, secret[:16]) || strings.Contains(text, strings.ReplaceAll(secret[:16], "a", `\u0061`)) {
						t.Errorf("%s, %d: %s", name, status, text)
					}
				}
			})
		}
	}
	h, err := Open(connectionTo("h.example"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", h, *h.settled.Load(), h); strings.Contains(text, policyKey) {
		t.Error(text)
	}
	for _, s := range []string{"", "sesame", "HostName=h;SharedAccessKeyName=o;SharedAccessKey=sesame", "HostName=h;DeviceId=sesame;SharedAccessKey=" + policyKey} {
		if _, err := Open(s, Options{}); err == nil || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), policyKey) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for lacks, want := range map[string]string{
		"":                             "",
		"RegistryRead":                 `policy "owner" lacks RegistryRead`,
		"RegistryWrite":                `policy "owner" lacks RegistryWrite`,
		"ServiceConnect":               `policy "owner" lacks ServiceConnect`,
		"RegistryWrite ServiceConnect": `policy "owner" lacks ServiceConnect and RegistryWrite`,
		"RegistryRead RegistryWrite ServiceConnect": `the hub does not accept the key of policy "owner": {"ExceptionMessage":"Tracking ID:`,
	} {
		bubble(t, func(t *testing.T, z *azure, h *Hub) {
			z.put("d1", map[string]any{"status": "enabled"})
			z.lacks = lacks
			err := h.Check(t.Context())
			if want == "" {
				if err != nil {
					t.Errorf("a good link: %v", err)
				}
			} else if e := errs.Public(err); e.Kind != errs.Invalid || !strings.HasPrefix(e.Message, want) {
				t.Errorf("without %s: %v", lacks, err)
			}
			if len(z.devices) != 1 {
				t.Error("the check left something behind")
			}
		})
	}
	for name, c := range map[string]struct {
		code errs.Code
		kind errs.Kind
	}{
		"no such hub":     {errs.CodeHubNotFound, errs.Denied},
		"a suspended hub": {errs.CodeHubSuspended, errs.Forbidden},
		"a hub in need":   {errs.CodeServerError, errs.Unavailable},
	} {
		bubble(t, func(t *testing.T, z *azure, h *Hub) {
			z.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool { z.refuse(w, c.code, "x"); return true }
			if err := h.Check(t.Context()); errs.KindOf(err) != c.kind || errs.Public(err).Code != c.code {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// A hub at Azure has up to three names, and it is not known which of them a
// connection string has, nor that the name for devices serves operators.
func TestNamesOfAHubAtAzure(t *testing.T) {
	const classic, forDevices, forServices = "h.azure-devices.net", "h.device.azure-devices.net", "h.service.azure-devices.net"
	for _, c := range []struct {
		name, given string
		serves      map[string]string // what a name does: "ok", "404" or "401"; others cannot be reached
		host, used  string            // the name for devices, and that for the API
	}{
		{"classic", classic, map[string]string{classic: "ok"}, classic, classic},
		{"device name that serves all", forDevices, map[string]string{classic: "ok", forDevices: "ok"}, forDevices, forDevices},
		{"device name for devices only", forDevices, map[string]string{classic: "ok", forDevices: "404"}, forDevices, classic},
		{"device name that refuses", forDevices, map[string]string{classic: "ok", forDevices: "401"}, forDevices, classic},
		{"device name out of reach", forDevices, map[string]string{classic: "ok"}, forDevices, classic},
		{"service name", forServices, map[string]string{classic: "ok", forServices: "ok"}, classic, forServices},
		{"service name out of reach", forServices, map[string]string{classic: "ok"}, classic, classic},
		{"in China", "h.device.azure-devices.cn", map[string]string{"h.azure-devices.cn": "ok"}, "h.device.azure-devices.cn", "h.azure-devices.cn"},
	} {
		synctest.Test(t, func(t *testing.T) {
			z := newAzure(t)
			var mu sync.Mutex
			used := map[string]int{}
			z.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if used[r.Host]++; c.serves[r.Host] == "404" {
					w.WriteHeader(404)
					return true
				} else if c.serves[r.Host] == "401" {
					z.refuse(w, errs.CodeUnauthorizedAccess, "x")
					return true
				}
				return false
			}
			o := Options{HTTP: memtls.Serve(t, z)}
			dial := o.HTTP.Transport.DialContext
			o.HTTP.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				host, _, _ := net.SplitHostPort(address)
				if _, known := c.serves[host]; !known {
					return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("no such host " + host)}
				}
				return dial(ctx, network, address)
			}
			o.HTTP.Transport.TLSClientConfig = &tls.Config{ServerName: memtls.Host}
			h, err := Open(connectionTo(c.given), o)
			if err != nil {
				t.Fatal(err)
			}
			if h.Host() != c.host {
				t.Errorf("%s: devices are sent to %s, want %s", c.name, h.Host(), c.host)
			}
			assign(t, h, assignment("kl"))
			assign(t, h, assignment("mn"))
			want(t, c.name, z.has("d1"), `enabled sas key mn [{"site":"a"},{"rate":1}]`)
			if c.used != c.given && used[c.given] > 1 {
				t.Errorf("%s: %s was asked %d times", c.name, c.given, used[c.given])
			}
			if used[c.used] < 6 {
				t.Errorf("%s: %v", c.name, used)
			}
		})
	}
	for given, want := range map[string]string{
		"h.service.example": "h.service.example", "service.azure-devices.net": "service.azure-devices.net",
		"H.Service.Azure-Devices.Net": "H.Azure-Devices.Net", "hub.example:8443": "hub.example:8443", "h.x.azure-devices.us": "h.x.azure-devices.us",
		"127.0.0.1:8443": "127.0.0.1:8443",
	} {
		if device, _ := hostNames(given); device != want {
			t.Errorf("%s: devices are sent to %s, want %s", given, device, want)
		}
	}
}

// A name that cannot be used now may be later: only one that worked is settled
// for.
func TestNoNameIsSettledForInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newAzure(t)
		o := Options{HTTP: memtls.Serve(t, z), Budget: 5 * time.Second}
		o.HTTP.Transport.TLSClientConfig = &tls.Config{ServerName: memtls.Host}
		h, err := Open(connectionTo("h.device.azure-devices.net"), o)
		if err != nil {
			t.Fatal(err)
		}
		z.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			z.refuse(w, errs.CodeServiceUnavailable, "x")
			return true
		}
		if err := h.Assign(t.Context(), assignment("kl")); errs.KindOf(err) != errs.Unavailable || h.settled.Load() != nil {
			t.Errorf("%v", err)
		}
		z.before = nil
		assign(t, h, assignment("kl"))
		if h.settled.Load() != h.names[0].calls {
			t.Error("the name that works is not settled for")
		}
	})
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newAzure(t)
		h := z.open(t, func(o *Options) { o.OperationsPerMinute = 60 })
		ctx := t.Context()
		start := time.Now()
		for range 6 { // what a pause of six seconds saved up
			if err := h.Delete(ctx, "d1", ""); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the first were held up for %s", took)
		}
		for range 54 {
			if err := h.Delete(ctx, "d1", ""); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 54*time.Second {
			t.Errorf("60 operations in %s", took)
		}

		// Many at once get their turns one after the other, and those for whom
		// there is no time are told so at once.
		start = time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		done, busy := 0, 0
		for range 100 {
			wg.Go(func() {
				err := h.Delete(ctx, "d1", "")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					done++
				case errs.KindOf(err) == errs.Busy && time.Since(start) == 0 && errs.Public(err).RetryAfter > 50*time.Second:
					busy++
				default:
					t.Errorf("after %s: %v", time.Since(start), err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); done != 59 || busy != 41 || took != 59*time.Second {
			t.Errorf("%d done and %d told to come back, in %s", done, busy, took)
		}
	})
	for host, want := range map[string]bool{
		"h.azure-devices.net": true, "H.device.Azure-Devices.CN": true, "hub.example": false, "azure-devices.net.example": false, "127.0.0.1:443": false,
	} {
		h, err := Open(connectionTo(host), Options{})
		if err != nil || (h.pace != nil) != want {
			t.Errorf("%s is paced: %v, %v", host, h.pace != nil, err)
		}
	}
	if h, err := Open(connectionTo("h.azure-devices.net"), Options{OperationsPerMinute: -1}); err != nil || h.pace != nil {
		t.Errorf("%v", err)
	}
	if _, err := Open(connectionTo("h"), Options{Budget: -1}); err == nil {
		t.Error("a negative budget passed")
	}
}

func TestWaitingForATurnEndsWithTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newAzure(t)
		h := z.open(t, func(o *Options) { o.OperationsPerMinute = 2 })
		if err := h.Delete(t.Context(), "d1", ""); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		start := time.Now()
		if err := h.Delete(ctx, "d1", ""); !errors.Is(err, context.Canceled) || time.Since(start) != 10*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func FuzzRepeats(f *testing.F) {
	k := assignment("kl").Keys.Primary
	text := k.Base64()
	f.Add([]byte(`{"Message":"`+text+`"}`), 3, 2)
	f.Add([]byte(text), 0, 1)
	f.Add([]byte(`\u00`), 1, 0)
	f.Fuzz(func(t *testing.T, around []byte, at, levels int) {
		// The key, as a JSON string within JSON strings, anywhere in a text.
		hidden := text
		for range max(0, min(levels, 4)) {
			b, err := json.Marshal(hidden)
			if err != nil {
				t.Fatal(err)
			}
			hidden = string(bytes.ReplaceAll(b, []byte("/"), []byte(`\/`)))
		}
		at = max(0, min(at, len(around)))
		repeats(string(around), []device.SymmetricKey{k})
		if clean := strings.TrimRight(string(around[:at]), `\u0123456789abcdefABCDEF`); !repeats(clean+hidden+string(around[at:]), []device.SymmetricKey{k}) {
			t.Errorf("not seen: %q", clean+hidden+string(around[at:]))
		}
	})
}

func TestParseConnectionString(t *testing.T) {
	const key = "AAECAwQFBgcICQoLDA0ODw=="
	for from, want := range map[string]string{
		"hub.example:8443":                  "hub.example:8443",
		"contoso.azure-devices.net":         "contoso.azure-devices.net",
		"contoso.service.azure-devices.net": "contoso.azure-devices.net",
	} {
		host, c, err := ParseConnectionString("HostName=" + from + ";SharedAccessKeyName=service;SharedAccessKey=" + key + "\n")
		if err != nil || host != want || c.Policy != "service" || c.Key.Base64() != key {
			t.Errorf("%s: %q, %+v, %v", from, host, c, err)
		}
	}
	for _, bad := range []string{
		"", "HostName=hub.example;SharedAccessKeyName=service", "HostName=a/b;SharedAccessKeyName=service;SharedAccessKey=" + key,
		"HostName=hub.example;SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0",
		"HostName=hub.example;DeviceId=d;SharedAccessKey=" + key,
		"HostName=hub.example;SharedAccessSignature=SharedAccessSignature sr=hub.example&sig=c2VjcmV0&se=1&skn=service",
	} {
		if host, _, err := ParseConnectionString(bad); err == nil || strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), key) {
			t.Errorf("%q: %q, %v", bad, host, err)
		}
	}
}
