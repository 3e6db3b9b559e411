package service_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	policyKey  = "AAECAwQFBgcICQoLDA0ODw=="
	connection = "HostName=" + memtls.Host + ";SharedAccessKeyName=owner;SharedAccessKey=" + policyKey
)

// A store is a provisioning service that keeps enrollment groups, by the
// documented rules for entity tags and pages.
type store struct {
	t       *testing.T
	groups  map[string]dpsjson.EnrollmentGroup
	version int
	page    int // items on a page
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, err := device.ParseSymmetricKey(policyKey)
	if err != nil {
		s.t.Error(err)
	}
	token, err := sas.Parse(r.Header.Get("Authorization"))
	if err != nil || !token.SignedBy(key.Bytes()) || token.Resource != memtls.Host || token.KeyName != "owner" || token.Expired(time.Now(), 0) {
		refuse(w, errs.CodeUnauthorizedAccess)
		return
	}
	if r.URL.Query().Get("api-version") != "2021-10-01" {
		refuse(w, errs.CodeInvalidProtocolVersion)
		return
	}
	id, ok := strings.CutPrefix(r.URL.Path, "/enrollmentGroups/")
	if !ok {
		s.t.Errorf("request for %s", r.URL)
	}
	if r.Method == http.MethodPost {
		s.post(w, r, id)
		return
	}
	g, exists := s.groups[id]
	ifMatch := r.Header.Get("If-Match")
	switch {
	case ifMatch == "" && r.Method == http.MethodPut && exists:
		refuse(w, errs.CodeEnrollmentConflict)
	case (ifMatch != "" || r.Method != http.MethodPut) && !exists:
		refuse(w, errs.CodeEnrollmentNotFound)
	case ifMatch != "" && !dpsjson.MatchETag(ifMatch, g.ETag):
		refuse(w, errs.CodePreconditionFailed)
	case r.Method == http.MethodDelete:
		delete(s.groups, id)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet:
		answer(w, g)
	default:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			s.t.Error(err)
		}
		if g, err = dpsjson.DecodeEnrollmentGroup(body); err != nil || g.EnrollmentGroupID != id || g.ETag != "" {
			s.t.Errorf("%s: %v", body, err)
		}
		s.version++
		g.ETag = dpsjson.EncodeETag(fmt.Sprint("v", s.version))
		s.groups[id] = g
		answer(w, g)
	}
}

func (s *store) post(w http.ResponseWriter, r *http.Request, path string) {
	if id, ok := strings.CutSuffix(path, "/attestationmechanism"); ok {
		answer(w, s.groups[id].Attestation)
		return
	}
	if path != "query" || r.Header.Get("x-ms-max-item-count") == "" {
		s.t.Errorf("POST %s", path)
	}
	ids := slices.Sorted(maps.Keys(s.groups))
	from := 0
	if token := r.Header.Get("x-ms-continuation"); token != "" {
		var err error
		if from, err = strconv.Atoi(strings.TrimSuffix(token, "==")); err != nil {
			s.t.Error(err)
		}
	}
	to := min(from+s.page, len(ids))
	if to < len(ids) {
		w.Header()["x-ms-continuation"] = []string{fmt.Sprint(to, "==")}
	}
	items := []dpsjson.EnrollmentGroup{}
	for _, id := range ids[from:to] {
		items = append(items, s.groups[id])
	}
	answer(w, items)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, code errs.Code) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code.Status())
	json.NewEncoder(w).Encode(dpsjson.Error{ErrorCode: int(code), TrackingID: "t-1", Message: "no"})
}

// bubble runs f with a client of a server h.
func bubble(t *testing.T, h http.Handler, f func(*testing.T, *service.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, err := service.New(connection, memtls.Serve(t, h))
		if err != nil {
			t.Fatal(err)
		}
		f(t, c)
	})
}

func status(err error) int {
	if refused, ok := errors.AsType[*client.Error](err); ok {
		return refused.Status
	}
	return 0
}

func TestTheLifeOfAGroup(t *testing.T) {
	key, err := device.ParseSymmetricKey("Z3JvdXAga2V5LCAzMiBieXRlcywgbm90IHNlY3JldC4=")
	if err != nil {
		t.Fatal(err)
	}
	group := dpsjson.EnrollmentGroup{EnrollmentGroupID: "pumps", ETag: "left over", Attestation: &dpsjson.AttestationMechanism{
		Type: dpsjson.AttestationSymmetricKey, SymmetricKey: &dpsjson.SymmetricKeys{PrimaryKey: dpsjson.Key{SymmetricKey: key}},
	}}
	bubble(t, &store{t: t, groups: map[string]dpsjson.EnrollmentGroup{}, page: 2}, func(t *testing.T, c *service.Client) {
		ctx := t.Context()
		if _, err := c.Group(ctx, "pumps"); status(err) != 404 {
			t.Errorf("reading what is not there: %v", err)
		}
		created, err := c.CreateGroup(ctx, group)
		if err != nil || created.ETag == "" {
			t.Fatalf("%+v, %v", created, err)
		}
		if _, err := c.CreateGroup(ctx, group); status(err) != 409 {
			t.Errorf("creating it twice: %v", err)
		}
		read, err := c.Group(ctx, "pumps")
		if err != nil || read.ETag != created.ETag {
			t.Fatalf("%+v, %v", read, err)
		}
		read.ProvisioningStatus = dpsjson.ProvisioningDisabled
		updated, err := c.UpdateGroup(ctx, *read)
		if err != nil || updated.ProvisioningStatus != dpsjson.ProvisioningDisabled || updated.ETag == read.ETag {
			t.Fatalf("%+v, %v", updated, err)
		}
		if _, err := c.UpdateGroup(ctx, *read); status(err) != 412 {
			t.Errorf("updating what was changed meanwhile: %v", err)
		}
		read.ETag = service.AnyETag
		if _, err := c.UpdateGroup(ctx, *read); err != nil {
			t.Error(err)
		}
		read.ETag = ""
		if _, err := c.UpdateGroup(ctx, *read); err == nil {
			t.Error("updating without a tag passed")
		}
		if m, err := c.GroupAttestation(ctx, "pumps"); err != nil || !m.SymmetricKey.PrimaryKey.Equal(key) {
			t.Errorf("%+v, %v", m, err)
		}
		if err := c.DeleteGroup(ctx, "pumps", created.ETag); status(err) != 412 {
			t.Errorf("deleting with an old tag: %v", err)
		}
		if err := c.DeleteGroup(ctx, "pumps", ""); err != nil {
			t.Error(err)
		}
	})
}

func TestListingsFollowThePages(t *testing.T) {
	for n := range 6 {
		s := &store{t: t, groups: map[string]dpsjson.EnrollmentGroup{}, page: 2}
		for i := range n {
			id := fmt.Sprint("g", i)
			s.groups[id] = dpsjson.EnrollmentGroup{EnrollmentGroupID: id}
		}
		bubble(t, s, func(t *testing.T, c *service.Client) {
			var got []string
			for g, err := range c.Groups(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, g.EnrollmentGroupID)
			}
			if want := slices.Sorted(maps.Keys(s.groups)); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			for range c.Groups(t.Context()) {
				break // a reader may stop early
			}
		})
	}
}

func TestListingsThatDoNotEnd(t *testing.T) {
	for name, next := range map[string]func(n int) string{
		"the same continuation": func(int) string { return "again" },
		"only empty pages":      func(n int) string { return fmt.Sprint(n) },
	} {
		n := 0
		bubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n++
			w.Header().Set("x-ms-continuation", next(n))
			answer(w, []string{})
		}), func(t *testing.T, c *service.Client) {
			var last error
			for _, err := range c.Enrollments(t.Context()) {
				last = err
			}
			if last == nil || n > 200 {
				t.Errorf("%s: %d pages, %v", name, n, last)
			}
		})
	}
}

func TestWhatIsAskedFor(t *testing.T) {
	var got []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.EscapedPath()+" "+r.Header.Get("If-Match"))
		if r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/query") {
			answer(w, []dpsjson.RegistrationState{{RegistrationID: "a"}})
			return
		}
		answer(w, map[string]string{"registrationId": "a"})
	})
	bubble(t, h, func(t *testing.T, c *service.Client) {
		ctx := t.Context()
		try := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		e, err := c.CreateEnrollment(ctx, dpsjson.IndividualEnrollment{RegistrationID: "A:1"})
		try(err)
		e.ETag = "tag"
		_, err = c.UpdateEnrollment(ctx, *e)
		try(err)
		_, err = c.Enrollment(ctx, "a")
		try(err)
		try(c.DeleteEnrollment(ctx, "a", "tag"))
		_, err = c.EnrollmentAttestation(ctx, "a")
		try(err)
		s, err := c.RegistrationState(ctx, "a")
		try(err)
		if s.RegistrationID != "a" {
			t.Errorf("%+v", s)
		}
		try(c.DeleteRegistrationState(ctx, "a", ""))
		for s, err := range c.RegistrationStates(ctx, "g") {
			if try(err); s.RegistrationID != "a" {
				t.Errorf("%+v", s)
			}
		}
	})
	want := []string{"PUT /enrollments/A:1 ", "PUT /enrollments/a tag", "GET /enrollments/a ", "DELETE /enrollments/a tag",
		"POST /enrollments/a/attestationmechanism ", "GET /registrations/a ", "DELETE /registrations/a ", "POST /registrations/g/query "}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestIDsThatWouldLeadElsewhere(t *testing.T) {
	bubble(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("request for %s", r.URL) }), func(t *testing.T, c *service.Client) {
		for _, id := range []string{"", "a/b", "..", "a?b", "a#b", "ä", strings.Repeat("a", 129)} {
			if _, err := c.Enrollment(t.Context(), id); err == nil {
				t.Errorf("%q passed", id)
			}
			if _, err := c.CreateGroup(t.Context(), dpsjson.EnrollmentGroup{EnrollmentGroupID: id}); err == nil {
				t.Errorf("%q passed", id)
			}
			for _, err := range c.RegistrationStates(t.Context(), id) {
				if err == nil {
					t.Errorf("%q passed", id)
				}
			}
		}
	})
}

func TestAnswersThatAreNotBelieved(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"a page of HTML": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") },
		"an array":       func(w http.ResponseWriter, _ *http.Request) { answer(w, []int{1}) },
		"a huge answer": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, dpsjson.IndividualEnrollment{DeviceID: strings.Repeat("x", 2<<20)})
		},
		"an unknown attestation": func(w http.ResponseWriter, _ *http.Request) {
			answer(w, map[string]any{"attestation": map[string]string{"type": "handshake"}})
		},
		"nothing": func(w http.ResponseWriter, _ *http.Request) {},
	} {
		bubble(t, h, func(t *testing.T, c *service.Client) {
			if e, err := c.Enrollment(t.Context(), "a"); err == nil {
				t.Errorf("%s: %+v", name, e)
			}
		})
	}
}

// TestACreationIsNotRepeatedBlindly: a lost answer may have been a success.
func TestACreationIsNotRepeatedBlindly(t *testing.T) {
	for _, status := range []int{500, 503, 0} {
		n := 0
		bubble(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if n++; status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(status)
		}), func(t *testing.T, c *service.Client) {
			if _, err := c.CreateGroup(t.Context(), dpsjson.EnrollmentGroup{EnrollmentGroupID: "g"}); err == nil || n != 1 {
				t.Errorf("%d: %d requests, %v", status, n, err)
			}
		})
	}
}

func TestConnectionStringsAreNotRepeated(t *testing.T) {
	for _, s := range []string{"", "sesame", "HostName=h;SharedAccessKeyName=o;SharedAccessKey=sesame", "HostName=h;DeviceId=sesame;SharedAccessKey=" + policyKey} {
		if _, err := service.New(s, client.HTTP{}); err == nil || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), policyKey) {
			t.Errorf("%q: %v", s, err)
		}
	}
	c, err := service.New(connection, client.HTTP{})
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if text := fmt.Sprintf(verb, *c); strings.Contains(text, policyKey) {
			t.Errorf("%s shows %s", verb, text)
		}
	}
}
