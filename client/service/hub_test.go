package service_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/hubjson"
)

// hubBubble runs f with a client of a hub h.
func hubBubble(t *testing.T, h http.Handler, f func(*testing.T, *service.Hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := service.NewHub(connection, memtls.Serve(t, h))
		if err != nil {
			t.Fatal(err)
		}
		f(t, c)
	})
}

func TestWhatIsAskedOfAHub(t *testing.T) {
	var got []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if q := r.URL.RawQuery; q != "api-version=2021-04-12" {
			t.Errorf("query %s", q)
		}
		got = append(got, strings.Join([]string{r.Method, r.URL.EscapedPath(), r.Header.Get("If-Match"), string(body)}, " "))
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case strings.HasPrefix(r.URL.Path, "/statistics"):
			answer(w, map[string]int{"totalDeviceCount": 3, "enabledDeviceCount": 2, "disabledDeviceCount": 1})
		case strings.HasPrefix(r.URL.Path, "/twins"):
			answer(w, json.RawMessage(`{"deviceId":"d1","etag":"AAAAAAAAAAE=","tags":{"a":1},"properties":{"desired":{"r":1,"$version":4}}}`))
		default:
			answer(w, json.RawMessage(`{"deviceId":"a%#?+b","etag":"tag","authentication":{"type":"sas","symmetricKey":{"primaryKey":"`+policyKey+`"}}}`))
		}
	})
	hubBubble(t, h, func(t *testing.T, c *service.Hub) {
		ctx := t.Context()
		try := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		d, err := c.CreateDevice(ctx, hubjson.Device{DeviceID: "a%#?+b"})
		try(err)
		if d.ETag != "tag" || d.Authentication.SymmetricKey.PrimaryKey.Base64() != policyKey {
			t.Errorf("%+v", d)
		}
		_, err = c.Device(ctx, "a%#?+b")
		try(err)
		d.Authentication, d.Status = hubjson.Authentication{Type: hubjson.None}, hubjson.Disabled
		_, err = c.UpdateDevice(ctx, *d)
		try(err)
		try(c.DeleteDevice(ctx, "d1", ""))
		try(c.DeleteDevice(ctx, "d1", service.AnyETag))
		twin, err := c.Twin(ctx, "d1")
		try(err)
		if _, version, err := twin.Properties.Desired.Split(); err != nil || version != 4 {
			t.Errorf("%+v", twin)
		}
		_, err = c.PatchTwin(ctx, "d1", hubjson.TwinChange{Tags: json.RawMessage(`{"a":null}`)}, twin.ETag)
		try(err)
		_, err = c.ReplaceTwin(ctx, "d1", hubjson.TwinChange{Tags: json.RawMessage(`{}`), Desired: json.RawMessage(`{}`)}, "")
		try(err)
		n, err := c.Statistics(ctx)
		try(err)
		if n != (hubjson.Statistics{Total: 3, Enabled: 2, Disabled: 1}) {
			t.Errorf("%+v", n)
		}

		if _, err := c.UpdateDevice(ctx, hubjson.Device{DeviceID: "d1"}); err == nil {
			t.Error("updating without a tag passed")
		}
		if _, err := c.ReplaceTwin(ctx, "d1", hubjson.TwinChange{Tags: json.RawMessage(`{}`)}, ""); err == nil {
			t.Error("replacing half a twin passed")
		}
		for _, id := range []device.ID{"", ".", "..", "a/b", "ä", device.ID(strings.Repeat("a", 129))} {
			if _, err := c.Device(ctx, id); err == nil {
				t.Errorf("%q passed", id)
			}
			if err := c.DeleteDevice(ctx, id, ""); err == nil {
				t.Errorf("%q passed", id)
			}
		}
		if _, err := c.Device(ctx, "d2"); err == nil {
			t.Error("an answer about another device passed")
		}
	})
	want := []string{
		`PUT /devices/a%25%23%3F+b  {"deviceId":"a%#?+b","authentication":{},"capabilities":{"iotEdge":false}}`,
		`GET /devices/a%25%23%3F+b  `,
		`PUT /devices/a%25%23%3F+b "tag" {"deviceId":"a%#?+b","etag":"tag","status":"disabled","authentication":{"type":"none"},"capabilities":{"iotEdge":false}}`,
		`DELETE /devices/d1  `,
		`DELETE /devices/d1 "*" `,
		`GET /twins/d1  `,
		`PATCH /twins/d1 "AAAAAAAAAAE=" {"tags":{"a":null}}`,
		`PUT /twins/d1  {"tags":{},"properties":{"desired":{}}}`,
		`GET /statistics/devices  `,
		`GET /devices/d2  `,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// Both forms of error bodies say the same.
func TestRefusalsOfAHub(t *testing.T) {
	for _, body := range []string{
		`{"Message":"ErrorCode:DeviceNotFound;d1","ExceptionMessage":"Tracking ID:1bc30319-G:20-TimeStamp:02/05/2021 10:03:38"}`,
		`{"Message":"{\"errorCode\":404001,\"trackingId\":\"1bc30319-G:20\",\"message\":\"d1\"}","ExceptionMessage":""}`,
	} {
		hubBubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			io.WriteString(w, body)
		}), func(t *testing.T, c *service.Hub) {
			_, err := c.Device(t.Context(), "d1")
			refused, ok := errors.AsType[*client.Error](err)
			if !ok || refused.Status != 404 || refused.Code != errs.CodeDeviceNotFound || refused.Name != "DeviceNotFound" || refused.Message != "d1" ||
				refused.TrackingID != "1bc30319-G:20" || refused.Body != body {
				t.Errorf("%+v", refused)
			}
		})
	}
}

func TestAHubsWritesAreNotRepeatedBlindly(t *testing.T) {
	for name, write := range map[string]func(*testing.T, *service.Hub) error{
		"create": func(t *testing.T, c *service.Hub) error {
			_, err := c.CreateDevice(t.Context(), hubjson.Device{DeviceID: "d1"})
			return err
		},
		"patch": func(t *testing.T, c *service.Hub) error {
			_, err := c.PatchTwin(t.Context(), "d1", hubjson.TwinChange{}, "")
			return err
		},
	} {
		n := 0
		hubBubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { n++; w.WriteHeader(503) }), func(t *testing.T, c *service.Hub) {
			if err := write(t, c); err == nil || n != 1 {
				t.Errorf("%s: %d requests, %v", name, n, err)
			}
		})
	}
}

func TestAHubsConnectionStringIsNotRepeated(t *testing.T) {
	for _, s := range []string{"", "sesame", "HostName=h;SharedAccessKeyName=o;SharedAccessKey=sesame"} {
		if _, err := service.NewHub(s, client.HTTP{}); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: %v", s, err)
		}
	}
	c, err := service.NewHub(connection, client.HTTP{})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, *c); strings.Contains(text, policyKey) {
		t.Error(text)
	}
}

func TestAMethodIsCalledOnce(t *testing.T) {
	calls := 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if got := r.Method + " " + r.URL.Path + " " + string(body); got != `POST /twins/d1/methods {"methodName":"reboot","payload":{"now":true}}` {
			t.Error(got)
		}
		if calls++; calls > 1 {
			w.WriteHeader(http.StatusGatewayTimeout)
			return
		}
		answer(w, json.RawMessage(`{"status":201,"payload":[1]}`))
	})
	hubBubble(t, h, func(t *testing.T, c *service.Hub) {
		m := hubjson.Method{Name: "reboot", Payload: json.RawMessage(`{"now":true}`)}
		result, err := c.Invoke(t.Context(), "d1", m)
		if err != nil || result.Status != 201 || string(result.Payload) != "[1]" {
			t.Errorf("%+v %v", result, err)
		}
		if _, err := c.Invoke(t.Context(), "d1", m); err == nil || calls != 2 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}
