package service_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

func TestWhatIsAskedAboutModulesAndConfigurations(t *testing.T) {
	var got []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, strings.Join([]string{r.Method, r.URL.EscapedPath(), r.Header.Get("If-Match"), r.Header.Get("x-ms-continuation"), string(body)}, " "))
		switch {
		case r.Method == http.MethodDelete, strings.HasSuffix(r.URL.Path, "/applyConfigurationContent"):
			w.WriteHeader(http.StatusNoContent)
		case r.URL.Path == "/devices/query" && r.Header.Get("x-ms-continuation") == "":
			w.Header().Set("x-ms-continuation", "more")
			answer(w, json.RawMessage(`[{"n":1},{"n":2}]`))
		case r.URL.Path == "/devices/query":
			answer(w, json.RawMessage(`[{"n":3}]`))
		case strings.HasSuffix(r.URL.Path, "/methods"):
			answer(w, json.RawMessage(`{"status":200,"payload":null}`))
		case strings.HasPrefix(r.URL.Path, "/twins"):
			answer(w, json.RawMessage(`{"deviceId":"d1","moduleId":"$edgeHub","etag":"AAAAAAAAAAE="}`))
		case r.URL.Path == "/configurations":
			answer(w, json.RawMessage(`[{"id":"c1"}]`))
		case strings.HasPrefix(r.URL.Path, "/configurations"):
			answer(w, json.RawMessage(`{"id":"c1","etag":"tag","systemMetrics":{"results":{"targetedCount":3}}}`))
		case strings.HasSuffix(r.URL.Path, "/modules"):
			answer(w, json.RawMessage(`[{"deviceId":"d1","moduleId":"m1"}]`))
		default:
			answer(w, json.RawMessage(`{"deviceId":"d1","moduleId":"$edgeHub","etag":"tag"}`))
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
		m, err := c.CreateModule(ctx, hubjson.Module{DeviceID: "d1", ModuleID: "$edgeHub"})
		try(err)
		_, err = c.UpdateModule(ctx, *m)
		try(err)
		_, err = c.Module(ctx, "d1", "$edgeHub")
		try(err)
		all, err := c.Modules(ctx, "d1")
		try(err)
		if len(all) != 1 || all[0].ModuleID != "m1" {
			t.Errorf("%+v", all)
		}
		_, err = c.ModuleTwin(ctx, "d1", "m1")
		try(err)
		_, err = c.PatchModuleTwin(ctx, "d1", "m1", hubjson.TwinChange{Tags: json.RawMessage(`{}`)}, "")
		try(err)
		_, err = c.ReplaceModuleTwin(ctx, "d1", "m1", hubjson.TwinChange{Tags: json.RawMessage(`{}`), Desired: json.RawMessage(`{}`)}, "")
		try(err)
		_, err = c.InvokeModule(ctx, "d1", "m1", hubjson.Method{Name: "ping", ConnectTimeout: 5})
		try(err)
		try(c.DeleteModule(ctx, "d1", "m1", service.AnyETag))
		var rows []string
		for row, err := range c.Query(ctx, "SELECT n FROM devices") {
			try(err)
			rows = append(rows, string(row))
		}
		if !slices.Equal(rows, []string{`{"n":1}`, `{"n":2}`, `{"n":3}`}) {
			t.Error(rows)
		}
		for range c.Query(ctx, "SELECT n FROM devices") {
			break
		}
		configuration, err := c.CreateConfiguration(ctx, hubjson.Configuration{ID: "c1", TargetCondition: "*"})
		try(err)
		if configuration.SystemMetrics.Results["targetedCount"] != 3 {
			t.Errorf("%+v", configuration)
		}
		configuration.SystemMetrics = nil
		_, err = c.UpdateConfiguration(ctx, *configuration)
		try(err)
		_, err = c.Configuration(ctx, "c1")
		try(err)
		_, err = c.Configurations(ctx)
		try(err)
		try(c.ApplyContent(ctx, "d1", hubjson.Content{DeviceContent: map[string]json.RawMessage{"properties.desired.a": json.RawMessage("1")}}))
		try(c.DeleteConfiguration(ctx, "c1", ""))

		if _, err := c.UpdateModule(ctx, hubjson.Module{DeviceID: "d1", ModuleID: "m1"}); err == nil {
			t.Error("updating without a tag passed")
		}
		if _, err := c.UpdateConfiguration(ctx, hubjson.Configuration{ID: "c1"}); err == nil {
			t.Error("updating without a tag passed")
		}
		for _, module := range []device.ID{"", ".", "..", "a/b"} {
			if _, err := c.Module(ctx, "d1", module); err == nil {
				t.Errorf("%q passed", module)
			}
			if err := c.DeleteModule(ctx, "d1", module, ""); err == nil {
				t.Errorf("%q passed", module)
			}
		}
		if _, err := c.Configuration(ctx, ".."); err == nil {
			t.Error("two dots passed")
		}
		if _, err := c.Module(ctx, "d1", "m2"); err == nil {
			t.Error("an answer about another module passed")
		}
	})
	want := []string{
		`PUT /devices/d1/modules/$edgeHub   {"moduleId":"$edgeHub","deviceId":"d1","authentication":{}}`,
		`PUT /devices/d1/modules/$edgeHub "tag"  {"moduleId":"$edgeHub","deviceId":"d1","etag":"tag","authentication":{}}`,
		`GET /devices/d1/modules/$edgeHub   `,
		`GET /devices/d1/modules   `,
		`GET /twins/d1/modules/m1   `,
		`PATCH /twins/d1/modules/m1   {"tags":{}}`,
		`PUT /twins/d1/modules/m1   {"tags":{},"properties":{"desired":{}}}`,
		`POST /twins/d1/modules/m1/methods   {"methodName":"ping","connectTimeoutInSeconds":5}`,
		`DELETE /devices/d1/modules/m1 "*"  `,
		`POST /devices/query   {"query":"SELECT n FROM devices"}`,
		`POST /devices/query  more {"query":"SELECT n FROM devices"}`,
		`POST /devices/query   {"query":"SELECT n FROM devices"}`,
		`PUT /configurations/c1   {"id":"c1","content":{},"targetCondition":"*","priority":0}`,
		`PUT /configurations/c1 "tag"  {"id":"c1","content":{},"targetCondition":"","priority":0,"etag":"tag"}`,
		`GET /configurations/c1   `,
		`GET /configurations   `,
		`POST /devices/d1/applyConfigurationContent   {"deviceContent":{"properties.desired.a":1}}`,
		`DELETE /configurations/c1   `,
		`GET /devices/d1/modules/m2   `,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}
