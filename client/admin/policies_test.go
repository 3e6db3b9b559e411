package admin_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/device"
)

func TestPolicies(t *testing.T) {
	keys := [2]string{base64.StdEncoding.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString([]byte("a key that has 32 bytes, really!"))}
	var got []string
	h := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, strings.Join(strings.Fields(r.Method+" "+r.URL.EscapedPath()+" "+r.Header.Get("If-Match")+" "+string(body)), " "))
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method == "DELETE":
			w.WriteHeader(http.StatusNoContent)
		case r.Method == "POST":
			fmt.Fprintf(w, `{"name":"line","rights":["RegistryRead"],"etag":"ab","primaryKey":%q,"secondaryKey":%q}`, keys[0], keys[1])
		case r.Method == "GET":
			io.WriteString(w, `[{"name":"line","rights":["EnrollmentRead"],"etag":"ab"}]`)
		default:
			io.WriteString(w, `{"name":"line","rights":["EnrollmentRead"],"etag":"cd"}`)
		}
	}
	bubble(t, h, func(t *testing.T, c *admin.Client) {
		ctx := t.Context()
		if all, err := c.Policies(ctx, ""); err != nil || len(all) != 1 || all[0].Name != "line" || all[0].ETag != "ab" {
			t.Errorf("%+v, %v", all, err)
		}
		if p, err := c.PutPolicy(ctx, "h.example:8443", admin.PolicyKeys{Policy: admin.Policy{Name: "line", Rights: []string{"RegistryRead"}}}, ""); err != nil || p.ETag != "cd" {
			t.Errorf("%+v, %v", p, err)
		}
		key, err := device.ParseSymmetricKey(keys[1])
		if err != nil {
			t.Fatal(err)
		}
		given := admin.PolicyKeys{Policy: admin.Policy{Name: "line", Rights: []string{"EnrollmentRead"}}, Primary: key}
		if _, err := c.PutPolicy(ctx, "", given, "*"); err != nil {
			t.Error(err)
		}
		k, err := c.PolicyKeys(ctx, "", "line")
		if err != nil || k.Primary.Base64() != keys[0] || k.Secondary.Base64() != keys[1] {
			t.Errorf("%+v, %v", k, err)
		}
		if _, err := c.RollKey(ctx, "h", "line", access.Secondary, "ab"); err != nil {
			t.Error(err)
		}
		if err := c.DeletePolicy(ctx, "", "line", ""); err != nil {
			t.Error(err)
		}
		if s := k.ConnectionString("dps.example", access.Secondary); s != "HostName=dps.example;SharedAccessKeyName=line;SharedAccessKey="+keys[1] {
			t.Error("it is no connection string")
		}
		if shown, err := json.Marshal(k); err == nil || strings.Contains(fmt.Sprintf("%v %+v", k, k)+string(shown), keys[1]) {
			t.Errorf("the keys print (%v)", err)
		}
		if _, err := c.Policies(ctx, "a/b"); err == nil {
			t.Error("a path passed for a hub")
		}
		if _, err := c.PolicyKeys(ctx, "", ""); err == nil {
			t.Error("no name passed")
		}
		if c.Policy() != "owner" || !strings.HasPrefix(connection, "HostName="+c.Host()+";") {
			t.Errorf("%q %q", c.Host(), c.Policy())
		}
	})
	want := []string{
		"GET /berth/v1/policies",
		`PUT /berth/v1/hubs/h.example:8443/policies/line {"rights":["RegistryRead"]}`,
		`PUT /berth/v1/policies/line * {"rights":["EnrollmentRead"],"primaryKey":"` + keys[1] + `"}`,
		"POST /berth/v1/policies/line/listKeys",
		`POST /berth/v1/hubs/h/policies/line/rollKey ab {"key":"secondary"}`,
		"DELETE /berth/v1/policies/line",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	const secret = "c2VjcmV0" // too short
	bubble(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"name":"line","rights":[],"etag":"ab","primaryKey":"`+secret+`"}`)
	}, func(t *testing.T, c *admin.Client) {
		if k, err := c.PolicyKeys(t.Context(), "", "line"); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%v, %v", k, err)
		}
	})
}
