package linkedhub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

func initialTwin(tags, desired string) *enroll.InitialTwin {
	return &enroll.InitialTwin{Tags: json.RawMessage(tags), Desired: json.RawMessage(desired)}
}

func assign(t *testing.T, h *Hub, a provision.Assignment) {
	t.Helper()
	if err := h.Assign(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
	}
}

func TestFirstAssignment(t *testing.T) {
	bubble(t, func(t *testing.T, z *azure, h *Hub) {
		assign(t, h, assignment("kl"))
		want(t, "identity", z.has("d1"), `enabled sas key kl [{"site":"a"},{"rate":1}]`)
		want(t, "calls", z.got(), "GET /devices/d1\nPUT /devices/d1\nPATCH /twins/d1 \"*\"")

		// Asking again, having lost the answer, costs reading and no more.
		assign(t, h, assignment("kl"))
		want(t, "calls", z.got(), "GET /devices/d1\nGET /twins/d1")

		a := assignment("kl")
		a.DeviceID, a.Twin, a.IoTEdge = "ed.ge#%$", nil, true
		a.Thumbprint = strings.Repeat("AB", 32)
		assign(t, h, a)
		want(t, "identity", z.has("ed.ge#%$"), `enabled selfSigned ABAB [{},{}]`)
		want(t, "calls", z.got(), "GET /devices/ed.ge%23%25$\nPUT /devices/ed.ge%23%25$")
		if edge := z.devices["ed.ge#%$"].members["capabilities"].(map[string]any)["iotEdge"]; edge != true {
			t.Errorf("iotEdge is %v", edge)
		}
	})
}

// The hub's operator said some things about the device, and the hub others: a
// write replaces all of it, so all of it is sent back.
func TestWhatTheAssignmentDoesNotSpeakOfStays(t *testing.T) {
	bubble(t, func(t *testing.T, z *azure, h *Hub) {
		z.put("d1", map[string]any{
			"status": "disabled", "statusReason": "stolen ", "deviceScope": "ms-azure-iot-edge://g-1", "parentScopes": []any{"ms-azure-iot-edge://g-1"},
			"authentication": map[string]any{"type": "sas", "symmetricKey": map[string]any{"primaryKey": key('x').Base64(), "secondaryKey": key('y').Base64()}},
			"capabilities":   map[string]any{"iotEdge": false}, "policyName": map[string]any{"new": []any{"member"}},
		})
		before, generation := z.etag("d1"), z.devices["d1"].members["generationId"]
		a := assignment("kl")
		a.Twin = nil
		assign(t, h, a)
		want(t, "identity", z.has("d1"), `disabled stolen sas key kl [{},{}]`)
		want(t, "calls", z.got(), "GET /devices/d1\nPUT /devices/d1 \""+before+"\"")
		members := z.devices["d1"].members
		text, err := json.Marshal([]any{members["deviceScope"], members["parentScopes"], members["policyName"]})
		if want := `["ms-azure-iot-edge://g-1",["ms-azure-iot-edge://g-1"],{"new":["member"]}]`; err != nil || string(text) != want || members["generationId"] != generation {
			t.Errorf("%s, want %s", text, want)
		}

		// Another credential of another kind leaves nothing of the one before.
		a.Thumbprint = strings.Repeat("CD", 32)
		assign(t, h, a)
		want(t, "identity", z.has("d1"), `disabled stolen selfSigned CDCD [{},{}]`)
	})
}

func TestRaces(t *testing.T) {
	existing := map[string]any{"status": "enabled", "statusReason": "", "authentication": map[string]any{"type": "none"}}
	for _, c := range []struct {
		name    string
		existed bool
		race    func(z *azure) // happens just before the first write arrives
		calls   string
	}{
		{"created meanwhile", false, func(z *azure) { z.put("d1", map[string]any{"status": "disabled", "statusReason": "by hand "}) },
			"GET PUT GET PUT"},
		{"changed meanwhile", true, func(z *azure) { z.put("d1", map[string]any{"status": "disabled", "statusReason": "by hand "}) },
			"GET PUT GET PUT"},
		{"deleted meanwhile", true, func(z *azure) { delete(z.devices, "d1") },
			"GET PUT GET PUT"},
	} {
		for _, nested := range []bool{false, true} {
			bubble(t, func(t *testing.T, z *azure, h *Hub) {
				if z.nested = nested; c.existed {
					z.put("d1", existing)
				}
				raced := false
				z.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPut && !raced {
						raced = true
						z.mu.Lock()
						defer z.mu.Unlock()
						c.race(z)
					}
					return false
				}
				a := assignment("kl")
				a.Twin = nil
				assign(t, h, a)
				wanted := `disabled by hand sas key kl [{},{}]`
				if c.name == "deleted meanwhile" {
					wanted = `enabled sas key kl [{},{}]`
				}
				want(t, c.name, z.has("d1"), wanted)
				var methods []string
				for line := range strings.SplitSeq(z.got(), "\n") {
					methods = append(methods, strings.Fields(line)[0])
				}
				want(t, c.name, strings.Join(methods, " "), c.calls)
			})
		}
	}
	t.Run("somebody is always faster", func(t *testing.T) {
		bubble(t, func(t *testing.T, z *azure, h *Hub) {
			z.put("d1", existing)
			z.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut {
					z.mu.Lock()
					defer z.mu.Unlock()
					z.put("d1", map[string]any{"status": "enabled"})
				}
				return false
			}
			if err := h.Assign(t.Context(), assignment("kl")); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("%v", err)
			}
		})
	})
}

// The initial twin is for a twin that nobody wrote, also when the caller was
// cut off between identity and twin.
func TestInitialTwin(t *testing.T) {
	for name, c := range map[string]struct {
		found func(z *azure, e *entry)
		want  string
	}{
		"cut off before the twin":        {func(*azure, *entry) {}, `[{"site":"a"},{"rate":1}]`},
		"tags written":                   {func(_ *azure, e *entry) { e.tags["floor"], e.changes = 2, 2 }, `[{"floor":2},{}]`},
		"desired written":                {func(_ *azure, e *entry) { e.desired["rate"], e.changes, e.version = 5, 2, 2 }, `[{},{"rate":5}]`},
		"desired written and taken back": {func(_ *azure, e *entry) { e.changes, e.version = 3, 3 }, `[{},{}]`},
		"written since it was read": {func(z *azure, e *entry) {
			z.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					z.mu.Lock()
					defer z.mu.Unlock()
					e.tags["floor"], e.changes = 2, 2
				}
				return false
			}
		}, `[{"floor":2},{}]`},
	} {
		bubble(t, func(t *testing.T, z *azure, h *Hub) {
			bare := assignment("kl")
			bare.Twin = nil
			assign(t, h, bare)
			c.found(z, z.devices["d1"])
			assign(t, h, assignment("kl"))
			want(t, name, z.has("d1"), "enabled sas key kl "+c.want)
		})
	}
}

func TestATwinThatTakesItsTime(t *testing.T) {
	bubble(t, func(t *testing.T, z *azure, h *Hub) {
		z.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/twins/") {
				z.refuse(w, errs.CodeDeviceNotFound, "d1")
				return true
			}
			return false
		}
		if err := h.Assign(t.Context(), assignment("kl")); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%v", err)
		}
		z.before = nil
		assign(t, h, assignment("kl"))
		want(t, "identity", z.has("d1"), `enabled sas key kl [{"site":"a"},{"rate":1}]`)
	})
}

// A hub has its bad moments: whatever happens to one request, before or after
// it had its effect, the assignment comes out the same.
func TestTroubleOnTheWay(t *testing.T) {
	answer := func(status int, header ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	hangUp := func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
	slow := func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // returning would answer 200
	}
	for name, trouble := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"429 with Retry-After": answer(429, "Retry-After", "7"),
		"429":                  answer(429),
		"500":                  answer(500),
		"503 with HTML":        answer(503, "Content-Type", "text/html"),
		"408":                  answer(408),
		"a hang-up":            hangUp,
		"no answer":            slow,
	} {
		for n := 1; n <= 3; n++ { // GET, PUT, PATCH
			for _, late := range []bool{false, true} {
				bubble(t, func(t *testing.T, z *azure, h *Hub) {
					hook := func(got int, w http.ResponseWriter, r *http.Request) bool { return got == n && trouble(w, r) }
					if late {
						z.after = hook
					} else {
						z.before = hook
					}
					start := time.Now()
					if err := h.Assign(t.Context(), assignment("kl")); err != nil {
						t.Errorf("%s to request %d, late %v: %v", name, n, late, err)
						return
					}
					want(t, name, z.has("d1"), `enabled sas key kl [{"site":"a"},{"rate":1}]`)
					took := time.Since(start)
					if name == "429 with Retry-After" && (took < 7*time.Second || took > 10*time.Second) || took > 40*time.Second {
						t.Errorf("%s: took %s", name, took)
					}
				})
			}
		}
	}
}

func TestTheBudget(t *testing.T) {
	for name, c := range map[string]struct {
		answer      func(z *azure, w http.ResponseWriter)
		kind        errs.Kind
		code        errs.Code
		least, most time.Duration
	}{
		"always 503": {func(z *azure, w http.ResponseWriter) { z.refuse(w, errs.CodeServiceUnavailable, "x") }, errs.Unavailable, 503001, 25 * time.Second, time.Minute},
		"always 429": {func(z *azure, w http.ResponseWriter) { z.refuse(w, errs.CodeThrottling, "x") }, errs.Busy, 429001, 25 * time.Second, time.Minute},
		"429 for longer than the budget": {func(z *azure, w http.ResponseWriter) {
			w.Header().Set("Retry-After", "90")
			z.refuse(w, errs.CodeThrottling, "x")
		}, errs.Busy, 429001, 0, time.Second},
		"always 401": {func(z *azure, w http.ResponseWriter) { z.refuse(w, errs.CodeUnauthorizedAccess, "x") }, errs.Denied, 401002, 0, time.Second},
	} {
		bubble(t, func(t *testing.T, z *azure, h *Hub) {
			z.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool { c.answer(z, w); return true }
			start := time.Now()
			err := h.Assign(t.Context(), assignment("kl"))
			e := errs.Public(err)
			if took := time.Since(start); e.Kind != c.kind || e.Code != c.code || took < c.least || took > c.most {
				t.Errorf("%s: after %s: %v %d: %v", name, took, e.Kind, e.Code, err)
			}
			if e.Kind == errs.Busy && c.least == 0 && e.RetryAfter != 90*time.Second {
				t.Errorf("%s: retry after %s", name, e.RetryAfter)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		z := newAzure(t)
		h := z.open(t, func(o *Options) { o.Budget = 5 * time.Second })
		z.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // returning would answer 200
		}
		start := time.Now()
		if err := h.Assign(t.Context(), assignment("kl")); errs.KindOf(err) != errs.Unavailable || time.Since(start) != 5*time.Second {
			t.Errorf("a silent hub, after %s: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if err := h.Assign(ctx, assignment("kl")); !errors.Is(err, context.DeadlineExceeded) || errs.KindOf(err) != errs.Internal || time.Since(start) != time.Second {
			t.Errorf("the caller's own time, after %s: %v", time.Since(start), err)
		}
	})
}

func TestExportAndDelete(t *testing.T) {
	bubble(t, func(t *testing.T, z *azure, h *Hub) {
		ctx := t.Context()
		if d, err := h.Export(ctx, "d1"); errs.KindOf(err) != errs.NotFound {
			t.Errorf("%+v, %v", d, err)
		}
		assign(t, h, assignment("kl"))
		z.devices["d1"].members["status"], z.devices["d1"].members["statusReason"] = "Disabled", "stolen"
		d, err := h.Export(ctx, "d1")
		if err != nil {
			t.Fatal(err)
		}
		members := z.devices["d1"].members
		if string(d.Twin.Tags) != `{"site":"a"}` || string(d.Twin.Desired) != `{"rate":1}` || !d.Disabled || d.StatusReason != "stolen" ||
			d.GenerationID != members["generationId"] || d.ETag != members["etag"] {
			t.Errorf("%+v", d)
		}
		if err := h.Delete(ctx, "d1", "c3RhbGU="); errs.KindOf(err) != errs.Precondition {
			t.Errorf("%v", err)
		}
		for range 2 {
			if err := h.Delete(ctx, "d1", d.ETag); err != nil {
				t.Error(err)
			}
		}
		want(t, "identity", z.has("d1"), "nothing")
		assign(t, h, assignment("kl"))
		if err := h.Delete(ctx, "d1", ""); err != nil || z.has("d1") != "nothing" {
			t.Error(err)
		}
	})
}

// A 404 of something in between does not mean that a device is gone.
func TestOnlyTheHubSaysThatADeviceIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, z *azure, h *Hub) {
		assign(t, h, assignment("kl"))
		z.got()
		z.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(404)
			w.Write([]byte("<html>no such page"))
			return true
		}
		if err := h.Delete(t.Context(), "d1", ""); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("deleted: %v", err)
		}
		if _, err := h.Export(t.Context(), "d1"); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("exported: %v", err)
		}
		if err := h.Assign(t.Context(), assignment("mn")); errs.KindOf(err) != errs.Unavailable || strings.Contains(errs.Public(err).Message, "html") {
			t.Errorf("assigned: %v", err)
		}
		want(t, "calls", z.got(), "DELETE /devices/d1 \"*\"\nGET /devices/d1\nGET /devices/d1")
	})
}

func TestAssignmentsWithoutACredential(t *testing.T) {
	bubble(t, func(t *testing.T, z *azure, h *Hub) {
		one := assignment("kl")
		one.Keys.Secondary = provision.Assignment{}.Keys.Secondary
		for _, a := range []provision.Assignment{{Hub: memtls.Host, DeviceID: "d1"}, one} {
			if err := h.Assign(t.Context(), a); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%v", err)
			}
		}
		want(t, "calls", z.got(), "")
	})
}
