package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/provision"
)

const connection = "HostName=" + memtls.Host + ";SharedAccessKeyName=owner;SharedAccessKey=AAECAwQFBgcICQoLDA0ODw=="

// bubble runs f with a client of a server h.
func bubble(t *testing.T, h http.HandlerFunc, f func(*testing.T, *admin.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := admin.New(connection, memtls.Serve(t, h))
		if err != nil {
			t.Fatal(err)
		}
		f(t, c)
	})
}

func TestWhatIsAskedFor(t *testing.T) {
	var got []string
	h := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.HasPrefix(r.Header.Get("Authorization"), "SharedAccessSignature sr="+memtls.Host) {
			t.Errorf("%v, %q", err, r.Header.Get("Authorization"))
		}
		got = append(got, strings.Join(strings.Fields(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("If-Match")+" "+string(body)), " "))
		w.Header().Set("Content-Type", "application/json")
		switch r.Method + " " + r.URL.Path {
		case "GET /berth/v1/version":
			io.WriteString(w, `{"version":"1.2.3"}`)
		case "GET /berth/v1/decisions/pump/7":
			json.NewEncoder(w).Encode([]provision.Decision{{RegistrationID: "pump/7", Outcome: "refused", ErrorCode: 401002, Time: time.Unix(0, 0).UTC()}})
		case "GET /berth/v1/hubs":
			io.WriteString(w, `[{"host":"h.example:8443","weight":3,"allocation":true,"kind":"linked","policy":"service","health":{"host":"h.example:8443","failures":2,"waiting":1},"etag":"ab"}]`)
		case "GET /berth/v1/webhooks":
			io.WriteString(w, `[{"idScope":"0ne00000001","kind":"group","id":"pumps","failures":2,"lastError":"f.example answered 503","lastFailure":"2026-01-01T00:00:00Z"}]`)
		case "PUT /berth/v1/enrollmentGroups/reel/endorsementKeys":
			if media := r.Header.Get("Content-Type"); media != "text/plain; charset=utf-8" {
				t.Errorf("a list as %q", media)
			}
			io.WriteString(w, `{"count":2,"sha256":"AB","etag":"CD"}`)
		case "POST /berth/v1/hubs/h.example:8443/devices/a?b/messages":
			io.WriteString(w, `{"messageId":"m1"}`)
		case "DELETE /berth/v1/hubs/h.example:8443":
			w.WriteHeader(http.StatusNoContent)
		default:
			io.WriteString(w, `{}`)
		}
	}
	bubble(t, h, func(t *testing.T, c *admin.Client) {
		ctx := t.Context()
		if v, err := c.Version(ctx); err != nil || v != "1.2.3" {
			t.Errorf("%q, %v", v, err)
		}
		if d, err := c.Decisions(ctx, "pump/7"); err != nil || len(d) != 1 || d[0].ErrorCode != 401002 {
			t.Errorf("%+v, %v", d, err)
		}
		link := admin.Link{Host: "h.example:8443", Weight: 3, Allocation: true}
		if hubs, err := c.Hubs(ctx); err != nil || len(hubs) != 1 || hubs[0].Host != link.Host || hubs[0].Weight != 3 || hubs[0].Kind != "linked" || hubs[0].Health.Failures != 2 {
			t.Errorf("%+v, %v", hubs, err)
		}
		if found, err := c.Webhooks(ctx); err != nil || len(found) != 1 || found[0].ID != "pumps" || found[0].Failures != 2 {
			t.Errorf("%+v, %v", found, err)
		}
		if _, err := c.LinkHub(ctx, link); err != nil {
			t.Error(err)
		}
		link.Latency = []provision.Latency{{Network: netip.MustParsePrefix("192.0.2.0/24"), Milliseconds: 7}}
		link.ConnectionString, link.Untested, link.IfMatch = "HostName=…", true, "ab"
		if _, err := c.LinkHub(ctx, link); err != nil {
			t.Error(err)
		}
		link.Latency, link.ConnectionString = []provision.Latency{}, ""
		if _, err := c.LinkHub(ctx, link); err != nil {
			t.Error(err)
		}
		if err := c.UnlinkHub(ctx, link.Host); err != nil {
			t.Error(err)
		}
		if l, err := c.PutEndorsementKeys(ctx, "reel", []byte("one\ntwo")); err != nil || *l != (admin.List{Count: 2, SHA256: "AB", ETag: "CD"}) {
			t.Errorf("%+v, %v", l, err)
		}
		if id, err := c.Send(ctx, "h.example:8443", "a?b", admin.MessageToDevice{
			Body: []byte("on"), Properties: map[string]string{"zone": "b"}, Ack: "full", Expiry: time.Unix(0, 0).UTC(),
		}); err != nil || id != "m1" {
			t.Errorf("%q, %v", id, err)
		}
		if _, err := c.Send(ctx, "h.example:8443", "", admin.MessageToDevice{}); err == nil {
			t.Error("no device passed")
		}
		if _, err := c.PutEndorsementKeys(ctx, "", nil); err == nil {
			t.Error("no group passed")
		}
		for _, host := range []string{"", "a/b", "a?b", "u@a"} {
			if _, err := c.LinkHub(ctx, admin.Link{Host: host}); err == nil || c.UnlinkHub(ctx, host) == nil {
				t.Errorf("%q passed", host)
			}
		}
		if _, err := c.Decisions(ctx, ""); err == nil {
			t.Error("an empty ID passed")
		}
	})
	want := []string{"GET /berth/v1/version", "GET /berth/v1/decisions/pump%2F7", "GET /berth/v1/hubs", "GET /berth/v1/webhooks",
		`PUT /berth/v1/hubs/h.example:8443 {"weight":3,"allocation":true}`,
		`PUT /berth/v1/hubs/h.example:8443?check=false ab {"weight":3,"allocation":true,"latency":[{"network":"192.0.2.0/24","milliseconds":7}],"connectionString":"HostName=…"}`,
		`PUT /berth/v1/hubs/h.example:8443?check=false ab {"weight":3,"allocation":true,"latency":[]}`,
		"DELETE /berth/v1/hubs/h.example:8443",
		"PUT /berth/v1/enrollmentGroups/reel/endorsementKeys one two",
		`POST /berth/v1/hubs/h.example:8443/devices/a%3Fb/messages {"bodyBase64":"b24=","properties":{"zone":"b"},"ack":"full","expiry":"1970-01-01T00:00:00Z"}`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestRefusals(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"error":{"kind":"not found","code":404000,"message":"No hub h is linked","trackingId":"t-1"}}`)
	}, func(t *testing.T, c *admin.Client) {
		errs := []error{c.UnlinkHub(t.Context(), "h")}
		for _, err := range c.Messages(t.Context(), "h", admin.Selection{Follow: true}) {
			errs = append(errs, err)
		}
		for _, err := range errs {
			if refused, ok := errors.AsType[*client.Error](err); !ok || refused.Code != 404000 || refused.TrackingID != "t-1" {
				t.Error(err)
			}
		}
		if len(errs) != 2 {
			t.Errorf("%q", errs)
		}
	})
}

func line(sequence int, body string) string {
	return fmt.Sprintf(`{"sequence":%d,"hub":"h","deviceId":"d","enqueuedTime":"2024-05-01T00:00:00Z","systemProperties":{"message-id":"m"},"properties":{"k":"v"},%s}`+"\n", sequence, body)
}

// collect reads a stream as "sequence body" until it ends or has given limit
// messages.
func collect(ctx context.Context, c *admin.Client, s admin.Selection, limit int) (got []string, err error) {
	for m, err := range c.Messages(ctx, "h", s) {
		if err != nil {
			return got, err
		}
		if m.SystemProperties["message-id"] != "m" || m.Properties["k"] != "v" || m.DeviceID != "d" || m.EnqueuedTime.IsZero() {
			return got, fmt.Errorf("%+v", m)
		}
		if got = append(got, fmt.Sprintf("%d %s", m.Sequence, m.Body)); len(got) == limit {
			break
		}
	}
	return got, nil
}

func TestMessages(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("after") != "4" || q.Get("follow") != "false" {
			t.Errorf("query %s", r.URL.RawQuery)
		}
		io.WriteString(w, line(5, `"body":"text"`)+line(7, `"bodyBase64":"/w=="`)+line(9, `"body":""`))
	}, func(t *testing.T, c *admin.Client) {
		got, err := collect(t.Context(), c, admin.Selection{After: 4}, 0)
		if err != nil || !slices.Equal(got, []string{"5 text", "7 \xff", "9 "}) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestFollowingSurvivesARestart(t *testing.T) {
	n := 0
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		after := r.URL.Query().Get("after")
		switch n++; n {
		case 1:
			io.WriteString(w, line(1, `"body":"a"`)+`{"sequence":2,"bo`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			if after != "1" {
				t.Errorf("asked again after %s", after)
			}
			io.WriteString(w, line(2, `"body":"b"`)) // and drains
		default:
			if after != "2" {
				t.Errorf("asked again after %s", after)
			}
			io.WriteString(w, line(3, `"body":"c"`))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}, func(t *testing.T, c *admin.Client) {
		got, err := collect(t.Context(), c, admin.Selection{Follow: true}, 3)
		if err != nil || !slices.Equal(got, []string{"1 a", "2 b", "3 c"}) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestFollowingEndsWithTheContext(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, line(1, `"body":"a"`))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}, func(t *testing.T, c *admin.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		got, err := collect(ctx, c, admin.Selection{Follow: true}, 0)
		if !errors.Is(err, context.DeadlineExceeded) || len(got) != 1 {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestStreamsThatAreNotBelieved(t *testing.T) {
	for name, stream := range map[string]string{
		"not JSON":         "hello\n",
		"an array":         "[]\n",
		"out of order":     line(2, `"body":""`) + line(1, `"body":""`),
		"twice":            line(2, `"body":""`) + line(2, `"body":""`),
		"before the start": line(0, `"body":""`),
		"half base64":      line(1, `"bodyBase64":"A"`),
		"an endless line":  `{"body":"` + strings.Repeat("x", 5<<20),
	} {
		for _, follow := range []bool{false, true} {
			bubble(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, stream) }, func(t *testing.T, c *admin.Client) {
				if got, err := collect(t.Context(), c, admin.Selection{Follow: follow}, 0); err == nil || len(got) > 1 {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			})
		}
	}
}

func TestATruncatedStreamIsAnError(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, line(1, `"body":"a"`)+`{"sequence":2`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}, func(t *testing.T, c *admin.Client) {
		if got, err := collect(t.Context(), c, admin.Selection{}, 0); err == nil || len(got) != 1 {
			t.Errorf("%q, %v", got, err)
		}
	})
}
