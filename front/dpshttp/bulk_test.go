package dpshttp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/berth-iot/berth/access"
)

// Each item of a bulk operation has its own end, and the others go on.
func TestBulkOperations(t *testing.T) {
	for _, kind := range []struct{ path, member, id string }{
		{"/enrollments", "enrollments", "registrationId"},
		{"/enrollmentGroups/", "enrollmentGroups", "enrollmentGroupId"},
	} {
		t.Run(kind.member, func(t *testing.T) {
			s := newServer(t)
			item := func(id, more string) string {
				return fmt.Sprintf(`{"%s":"%s","attestation":{"type":"symmetricKey"}%s}`, kind.id, id, more)
			}
			run := func(mode string, items ...string) (failed map[string]float64) {
				t.Helper()
				body := fmt.Sprintf(`{"mode":"%s","%s":[%s]}`, mode, kind.member, strings.Join(items, ","))
				a := s.want(200, s.service("POST", kind.path, body))
				failed = map[string]float64{}
				for _, e := range a.json["errors"].([]any) {
					e := e.(map[string]any)
					if e["errorStatus"] == "" {
						t.Errorf("an error without a text: %v", e)
					}
					failed[e[kind.id].(string)] = e["errorCode"].(float64)
				}
				if a.json["isSuccessful"] != (len(failed) == 0) {
					t.Errorf("isSuccessful is %v with %d errors", a.json["isSuccessful"], len(failed))
				}
				return failed
			}
			etag := func(id string) string {
				return s.want(200, s.service("GET", strings.TrimSuffix(kind.path, "/")+"/"+id, "")).etag()
			}
			expect := func(got, want map[string]float64) {
				t.Helper()
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("errors %v, want %v", got, want)
				}
			}
			none := map[string]float64{}

			expect(run("create", item("a", ""), item("b", ""), item("c", "")), none)
			expect(run("create", item("b", ""), item("d", ""), item("no good!", "")), map[string]float64{"b": 409201, "no good!": 400000})
			expect(run("Update", item("a", "")), map[string]float64{"a": 409201}) // as the original: no etag, no update
			stale := etag("a")
			expect(run("update", item("a", `,"etag":"`+stale+`"`), item("x", `,"etag":"`+stale+`"`)), map[string]float64{"x": 404201})
			expect(run("updateIfMatchEtag", item("a", `,"etag":"`+stale+`"`), item("b", `,"etag":"`+etag("b")+`"`), item("c", "")),
				map[string]float64{"a": 412000, "c": 400000})
			expect(run("delete", item("a", ""), item("a", ""), item("b", "")), map[string]float64{"a": 404201})
			s.want(404, s.service("GET", strings.TrimSuffix(kind.path, "/")+"/b", ""))
			s.want(200, s.service("GET", strings.TrimSuffix(kind.path, "/")+"/d", ""))

			reader := s.policyToken("reader", access.EnrollmentRead)
			s.want(401, request("POST", kind.path+"?api-version=2021-10-01", reader, `{"mode":"delete","`+kind.member+`":[`+item("d", "")+`]}`))
		})
	}
}
