package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// trustAnchor returns one with everything in it that a store does not fill in.
func trustAnchor(thumbprint string) ekcert.TrustAnchor {
	a := filled[ekcert.TrustAnchor]()
	a.Thumbprint, a.Added, a.Removed = thumbprint, 0, 0
	return a
}

// trustChange returns a change with everything in it.
func trustChange(add []ekcert.TrustAnchor, remove ...string) ekcert.TrustChange {
	return ekcert.TrustChange{Version: filled[ekcert.TrustVersion](), Add: add, Remove: remove}
}

// changeTrust makes a change and returns what it was decided about.
func changeTrust(t *testing.T, s Store, scope device.IDScope, change ekcert.TrustChange) (before ekcert.Trust) {
	t.Helper()
	noError(t, s.ChangeTrust(t.Context(), scope, func(now ekcert.Trust) (ekcert.TrustChange, error) {
		before = now
		return change, nil
	}))
	return before
}

func sameTrust(t *testing.T, s Store, scope device.IDScope, version int64, anchors ...ekcert.TrustAnchor) {
	t.Helper()
	got, err := s.TrustAnchors(t.Context(), scope)
	noError(t, err)
	same(t, got, &ekcert.Trust{Version: version, Anchors: anchors})
}

// in returns an anchor as the store keeps it.
func in(version int64, a ekcert.TrustAnchor) ekcert.TrustAnchor { a.Added = version; return a }

// counted returns a version as the store keeps it.
func counted(number int64, v ekcert.TrustVersion, added, removed int) ekcert.TrustVersion {
	v.Version, v.Added, v.Removed = number, added, removed
	return v
}

var trustRules = []rule{
	{"a trust store is what the changes made of it, in every member, by thumbprint", func(t *testing.T, s Store) {
		a, b, c := trustAnchor("AA"), trustAnchor("BB"), trustAnchor("CC")
		b.Root, b.Test, b.Vendor, b.File = false, false, "", ""
		sameTrust(t, s, scopeA, 0)
		first := trustChange([]ekcert.TrustAnchor{b, a})
		same(t, changeTrust(t, s, scopeA, first), ekcert.Trust{})
		sameTrust(t, s, scopeA, 1, in(1, a), in(1, b))
		sameTrust(t, s, scopeB, 0)

		second := trustChange([]ekcert.TrustAnchor{c}, "AA")
		second.Version.Source = "another"
		same(t, changeTrust(t, s, scopeA, second), ekcert.Trust{Version: 1, Anchors: []ekcert.TrustAnchor{in(1, a), in(1, b)}})
		sameTrust(t, s, scopeA, 2, in(1, b), in(2, c))
		changeTrust(t, s, scopeA, trustChange(nil, "CC", "BB"))
		sameTrust(t, s, scopeA, 3)
		changeTrust(t, s, scopeA, trustChange([]ekcert.TrustAnchor{a})) // it comes back
		sameTrust(t, s, scopeA, 4, in(4, a))
		changeTrust(t, s, scopeB, first)
		sameTrust(t, s, scopeB, 1, in(1, a), in(1, b))

		versions, err := s.TrustVersions(t.Context(), scopeA)
		noError(t, err)
		same(t, versions, []ekcert.TrustVersion{
			counted(4, first.Version, 1, 0), counted(3, first.Version, 0, 2), counted(2, second.Version, 1, 1), counted(1, first.Version, 2, 0),
		})
	}},
	{"a change that changes nothing makes no version", func(t *testing.T, s Store) {
		a := trustAnchor("AA")
		changeTrust(t, s, scopeA, trustChange([]ekcert.TrustAnchor{a}))
		changeTrust(t, s, scopeA, trustChange(nil))
		refusal := errors.New("no")
		err := s.ChangeTrust(t.Context(), scopeA, func(ekcert.Trust) (ekcert.TrustChange, error) {
			return trustChange(nil, "AA"), refusal
		})
		if err != refusal {
			t.Errorf("decide's error came back as %v", err)
		}
		for _, wrong := range []ekcert.TrustChange{
			trustChange([]ekcert.TrustAnchor{a}), trustChange(nil, "BB"), trustChange([]ekcert.TrustAnchor{trustAnchor("CC"), {}}),
		} {
			err := s.ChangeTrust(t.Context(), scopeA, func(ekcert.Trust) (ekcert.TrustChange, error) { return wrong, nil })
			isKind(t, err, errs.Internal)
		}
		sameTrust(t, s, scopeA, 1, in(1, a))
		versions, err := s.TrustVersions(t.Context(), scopeA)
		noError(t, err)
		same(t, len(versions), 1)
	}},
	{"a trust store is of a scope there is", func(t *testing.T, s Store) {
		err := s.ChangeTrust(t.Context(), nowhere, func(ekcert.Trust) (ekcert.TrustChange, error) {
			return trustChange([]ekcert.TrustAnchor{trustAnchor("AA")}), nil
		})
		isKind(t, err, errs.NotFound)
		sameTrust(t, s, nowhere, 0)
	}},
	{"no change of many racing to change a trust store is lost", func(t *testing.T, s Store) {
		race(16, func(i int) error {
			err := s.ChangeTrust(t.Context(), scopeA, func(now ekcert.Trust) (ekcert.TrustChange, error) {
				change := trustChange([]ekcert.TrustAnchor{trustAnchor(fmt.Sprintf("%02d", i))})
				for _, a := range now.Anchors {
					change.Remove = append(change.Remove, a.Thumbprint)
				}
				return change, nil
			})
			if err != nil {
				t.Error(err)
			}
			return err
		})
		now, err := s.TrustAnchors(t.Context(), scopeA)
		noError(t, err)
		same(t, now.Version, int64(16))
		same(t, len(now.Anchors), 1)
		versions, err := s.TrustVersions(t.Context(), scopeA)
		noError(t, err)
		same(t, len(versions), 16)
	}},
	{"a trust store is never older than an acknowledged change, however many read it", func(t *testing.T, s Store) {
		done := make(chan struct{})
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if now, err := s.TrustAnchors(t.Context(), scopeA); err != nil || int64(len(now.Anchors)) != now.Version {
						t.Errorf("version %d has %d anchors: %v", now.Version, len(now.Anchors), err)
						return
					}
				}
			})
		}
		for i := range int64(20) {
			changeTrust(t, s, scopeA, trustChange([]ekcert.TrustAnchor{trustAnchor(fmt.Sprintf("%02d", i))}))
			now, err := s.TrustAnchors(t.Context(), scopeA)
			noError(t, err)
			same(t, now.Version, i+1)
		}
		close(done)
		readers.Wait()
	}},
	{"registrations are counted by group, which is named in any case", func(t *testing.T, s Store) {
		count := func(scope device.IDScope, group string, want int) {
			t.Helper()
			n, err := s.CountRegistrations(t.Context(), scope, group)
			noError(t, err)
			same(t, n, want)
		}
		count(scopeA, "line-1", 0)
		for i, group := range slices.Concat(slices.Repeat([]string{"Line-1"}, 5), []string{"line-2", ""}) {
			noError(t, putRegistration(t.Context(), s, registration(scopeA, device.RegistrationID(fmt.Sprint("pump-", i)), group)))
		}
		count(scopeA, "line-1", 5)
		count(scopeA, "LINE-1", 5)
		count(scopeA, "line-2", 1)
		count(scopeA, "", 0)
		count(scopeB, "line-1", 0)
	}},
}
