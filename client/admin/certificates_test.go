package admin_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/client/admin"
)

func TestCACertificates(t *testing.T) {
	var got []string
	h := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, strings.Join(strings.Fields(r.Method+" "+r.URL.EscapedPath()+" "+r.Header.Get("If-Match")+" "+string(body)), " "))
		w.Header().Set("Content-Type", "application/json")
		const one = `{"name":"plant","etag":"CD","properties":{"isVerified":true,"expiry":"Thu, 16 May 2019 19:52:31 GMT","enrollmentGroups":["pumps"]}}`
		if strings.HasSuffix(r.URL.Path, "/certificates") {
			io.WriteString(w, "["+one+"]")
			return
		}
		io.WriteString(w, one)
	}
	bubble(t, h, func(t *testing.T, c *admin.Client) {
		ctx, verified := t.Context(), true
		all, err := c.CACertificates(ctx)
		if err != nil || len(all) != 1 || !slices.Equal(all[0].Properties.EnrollmentGroups, []string{"pumps"}) {
			t.Errorf("%+v, %v", all, err)
		}
		for _, name := range []string{"plant", ""} {
			read, err1 := c.CACertificate(ctx, name)
			_, err2 := c.PutCACertificate(ctx, name, []byte("DER"), &verified, "")
			_, err3 := c.PutCACertificate(ctx, name, []byte("DER"), nil, "*")
			_, err4 := c.GenerateVerificationCode(ctx, name, "CD")
			_, err5 := c.VerifyCACertificate(ctx, name, []byte("DER"), "CD")
			_, err6 := c.DeleteCACertificate(ctx, name, "")
			for i, err := range []error{err1, err2, err3, err4, err5, err6} {
				if (err == nil) != (name != "") {
					t.Errorf("%q, call %d: %v", name, i+1, err)
				}
			}
			if name != "" && (read.Name != "plant" || !read.Properties.IsVerified) {
				t.Errorf("%+v", read)
			}
		}
	})
	want := []string{
		"GET /berth/v1/certificates", "GET /berth/v1/certificates/plant",
		`PUT /berth/v1/certificates/plant {"certificate":"REVS","isVerified":true}`,
		`PUT /berth/v1/certificates/plant * {"certificate":"REVS"}`,
		"POST /berth/v1/certificates/plant/verificationCode CD",
		`POST /berth/v1/certificates/plant/verify CD {"certificate":"REVS"}`,
		"DELETE /berth/v1/certificates/plant",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
