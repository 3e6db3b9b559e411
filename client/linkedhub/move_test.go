package linkedhub

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/berth-iot/berth/client/internal/memtls"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// twoHubs runs f with an old hub that has a device with a life behind it, and
// a new one.
func twoHubs(t *testing.T, f func(t *testing.T, oldHub, newHub *azure, from, to *Hub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		oldHub, newHub := newAzure(t), newAzure(t)
		newHub.counter = 1000 // generation IDs are unlike
		from, to := oldHub.open(t), newHub.open(t)
		assign(t, from, assignment("kl"))
		e := oldHub.devices["d1"]
		e.desired, e.version, e.changes = map[string]any{"rate": 7, "net": map[string]any{"up": true}}, 9, 9
		oldHub.got()
		f(t, oldHub, newHub, from, to)
	})
}

func movement(migrate bool) provision.Assignment {
	a := assignment("mn")
	a.From, a.MigrateTwin = provision.Place{Hub: "old.example", DeviceID: "d1"}, migrate
	return a
}

const (
	migrated = `sas key mn [{"site":"a"},{"net":{"up":true},"rate":7}]`
	reset    = `sas key mn [{"site":"a"},{"rate":1}]`
)

func TestMove(t *testing.T) {
	for migrate, twin := range map[bool]string{true: migrated, false: reset} {
		twoHubs(t, func(t *testing.T, oldHub, newHub *azure, from, to *Hub) {
			etag := oldHub.etag("d1")
			for range 2 { // the second time the caller had not heard of the first
				if err := provision.Move(t.Context(), movement(migrate), from, to); err != nil {
					t.Fatal(err)
				}
				want(t, "old hub", oldHub.has("d1"), "nothing")
				want(t, "new hub", newHub.has("d1"), "enabled "+twin)
			}
			want(t, "calls to the old hub", oldHub.got(), "GET /devices/d1\nGET /twins/d1\nDELETE /devices/d1 \""+etag+"\"\nGET /devices/d1")
			want(t, "calls to the new hub", newHub.got(), "GET /devices/d1\nPUT /devices/d1\nPUT /twins/d1 \"*\"\nGET /devices/d1\nGET /twins/d1")
		})
	}
}

// The caller is cut off at every request, before or after the hub did what it
// was asked, and comes back. The device is at one of the hubs all the time, and
// in the end at the new one with all it had.
func TestAMoveThatIsCutOff(t *testing.T) {
	for _, migrate := range []bool{true, false} {
		for _, disabled := range []bool{true, false} {
			for _, leftover := range []bool{true, false} {
				for cut := 1; cut <= 6; cut++ {
					for _, late := range []bool{true, false} {
						twoHubs(t, func(t *testing.T, oldHub, newHub *azure, from, to *Hub) {
							status := "enabled "
							if disabled {
								status = "disabled stolen "
								oldHub.devices["d1"].members["status"], oldHub.devices["d1"].members["statusReason"] = "disabled", "stolen "
							}
							if leftover {
								newHub.put("d1", map[string]any{"status": "enabled"})
								newHub.devices["d1"].tags["old"] = true
							}
							ctx, cancel := context.WithCancel(t.Context())
							n := 0
							scissors := func(_ int, _ http.ResponseWriter, r *http.Request) bool {
								if n++; n == cut {
									cancel()
									<-r.Context().Done()
									// Returning would answer 200, which the caller may
									// still hear while it hangs up.
									panic(http.ErrAbortHandler)
								}
								return false
							}
							for _, z := range []*azure{oldHub, newHub} {
								if late {
									z.after = scissors
								} else {
									z.before = scissors
								}
							}
							err := provision.Move(ctx, movement(migrate), from, to)
							if !errors.Is(err, context.Canceled) {
								t.Fatalf("cut off at request %d of %d, migrate %v, disabled %v, leftover %v, late %v: %v", cut, n, migrate, disabled, leftover, late, err)
							}
							atOld, atNew := oldHub.has("d1"), newHub.has("d1")
							if atOld == "nothing" && atNew == "nothing" {
								t.Fatalf("cut off at request %d: the device is nowhere", cut)
							}
							if atOld == "nothing" != (cut == 6 && late) {
								t.Errorf("cut off at request %d, late %v: at the old hub is %s", cut, late, atOld)
							}
							for range 2 {
								if err := provision.Move(t.Context(), movement(migrate), from, to); err != nil {
									t.Fatal(err)
								}
							}
							twin := reset
							if migrate {
								twin = migrated
							}
							want(t, "old hub", oldHub.has("d1"), "nothing")
							want(t, "new hub", newHub.has("d1"), status+twin)
						})
					}
				}
			}
		}
	}
}

// Who disables a device while it moves has disabled it.
func TestADeviceThatIsDisabledWhileItMoves(t *testing.T) {
	twoHubs(t, func(t *testing.T, oldHub, newHub *azure, from, to *Hub) {
		disabled := false
		oldHub.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodDelete && !disabled {
				oldHub.mu.Lock()
				defer oldHub.mu.Unlock()
				members := oldHub.devices["d1"].members
				members["status"], members["statusReason"], disabled = "disabled", "stolen ", true
				oldHub.put("d1", members)
			}
			return false
		}
		if err := provision.Move(t.Context(), movement(true), from, to); err != nil {
			t.Fatal(err)
		}
		want(t, "old hub", oldHub.has("d1"), "nothing")
		want(t, "new hub", newHub.has("d1"), "disabled stolen "+migrated)
	})
}

// A hub that was linked again under another of its names is the same hub:
// moving there does not delete the device.
func TestAMoveToTheSameHubUnderAnotherName(t *testing.T) {
	for _, migrate := range []bool{true, false} {
		bubble(t, func(t *testing.T, z *azure, from *Hub) {
			to, err := Open(connectionTo(memtls.Host+":8443"), Options{HTTP: memtls.Serve(t, z)})
			if err != nil {
				t.Fatal(err)
			}
			assign(t, from, assignment("kl"))
			z.devices["d1"].desired["rate"], z.devices["d1"].version = 7, 5
			for range 2 {
				if err := provision.Move(t.Context(), movement(migrate), from, to); err != nil {
					t.Fatal(err)
				}
				want(t, "the hub", z.has("d1"), `enabled sas key mn [{"site":"a"},{"rate":7}]`)
			}
			if calls := z.got(); strings.Contains(calls, "DELETE") {
				t.Error(calls)
			}
		})
	}
}

// Nothing is deleted before the new hub has said that it has the device.
func TestAMoveThatTheNewHubRefuses(t *testing.T) {
	for path, code := range map[string]errs.Code{"/devices/": errs.CodeQuotaExceeded, "/twins/": errs.CodeArgumentInvalid} {
		twoHubs(t, func(t *testing.T, oldHub, newHub *azure, from, to *Hub) {
			newHub.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, path) {
					newHub.refuse(w, code, "no")
					return true
				}
				return false
			}
			if err := provision.Move(t.Context(), movement(true), from, to); errs.Public(err).Code != code {
				t.Errorf("%v", err)
			}
			want(t, "old hub", oldHub.has("d1"), `enabled sas key kl [{"site":"a"},{"net":{"up":true},"rate":7}]`)
		})
	}
	twoHubs(t, func(t *testing.T, oldHub, newHub *azure, from, to *Hub) {
		oldHub.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			oldHub.refuse(w, errs.CodeUnauthorizedAccess, "no")
			return true
		}
		if err := provision.Move(t.Context(), movement(true), from, to); errs.Public(err).Code != errs.CodeUnauthorizedAccess {
			t.Errorf("%v", err)
		}
		want(t, "new hub", newHub.has("d1"), "nothing")
	})
}
