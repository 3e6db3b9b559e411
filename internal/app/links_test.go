package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

func TestALinkShowsHowItsHubAnswers(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := &link{now: func() time.Time { return now }}
	answered := func(err error) func() error { return func() error { return err } }
	gone := errs.New(errs.NotFound, errs.CodeDeviceNotFound, "no such device")
	if err := l.call(answered(gone)); err != gone || l.health.Failures != 0 || !l.health.LastSuccess.Equal(now) {
		t.Errorf("%v, %+v", err, l.health)
	}
	for i, err := range []error{
		errs.New(errs.Denied, errs.CodeUnauthorizedAccess, "the key is rolled"),
		errs.New(errs.Busy, errs.CodeThrottling, "too many"),
		errs.New(errs.Forbidden, errs.CodeQuotaExceeded, "full"),
	} {
		now = now.Add(time.Minute)
		l.call(answered(err))
		if h := l.health; h.Failures != i+1 || h.LastError != err.Error() || !h.LastErrorTime.Equal(now) {
			t.Errorf("%+v", h)
		}
	}
	if err := l.call(answered(fmt.Errorf("giving up: %w", context.Canceled))); err == nil || l.health.Failures != 3 {
		t.Errorf("who gave up counts: %+v", l.health)
	}
	l.call(answered(nil))
	if h := l.health; h.Failures != 0 || h.LastError != "full" || !h.LastSuccess.Equal(now) {
		t.Errorf("%+v", h)
	}
}

// A hub that is down is not asked by all who wait for it.
func TestAHubThatIsDownIsAskedByOneAtATime(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l := &link{now: func() time.Time { return now }}
	asked, down := 0, errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "down").WithCause(errors.New("connection refused"))
	call := func() error {
		return l.call(func() error { asked++; return down })
	}
	for range 10 {
		if err := call(); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "connection refused") {
			t.Error(err)
		}
	}
	if asked != outage {
		t.Errorf("it was asked %d times", asked)
	}
	for range 3 {
		now = now.Add(outagePause)
		call()
		call()
	}
	if asked != outage+3 || l.health.Failures != outage+3 {
		t.Errorf("it was asked %d times, %d of which are shown", asked, l.health.Failures)
	}
	now = now.Add(outagePause)
	err := l.call(func() error {
		if err := call(); errs.KindOf(err) != errs.Unavailable {
			t.Error("two ask at a time")
		}
		return nil
	})
	if err != nil || asked != outage+3 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	if call(); asked != outage+4 {
		t.Error("it is not asked when it is back")
	}
}

func TestLinksAreOpenedAgainWhenTheyChange(t *testing.T) {
	l, err := openLinks(Config{})
	if err != nil {
		t.Fatal(err)
	}
	key := func(b byte) device.SymmetricKey {
		k, err := device.NewSymmetricKey([]byte(strings.Repeat(string(rune(b)), 32)))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	hub := func(host, policy string, b byte) provision.LinkedHub {
		return provision.LinkedHub{Host: host, Connection: &provision.Connection{Policy: policy, Key: key(b)}}
	}
	first, err := l.open(hub("a.example", "owner", 'a'))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []provision.LinkedHub{hub("a.example", "owner", 'a'), hub("A.Example", "owner", 'a')} {
		if again, err := l.open(h); err != nil || again != first {
			t.Errorf("%s was opened twice: %v", h.Host, err)
		}
	}
	for _, h := range []provision.LinkedHub{hub("b.example", "owner", 'a'), hub("a.example", "other", 'a'), hub("a.example", "owner", 'b')} {
		if other, err := l.open(h); err != nil || other == first {
			t.Errorf("%+v is the first: %v", h, err)
		}
	}
	if _, err := l.open(hub("no host", "owner", 'a')); err == nil || strings.Contains(err.Error(), key('a').Base64()) {
		t.Errorf("%v", err)
	}
}

func TestAuthoritiesOfHubsElsewhere(t *testing.T) {
	c := Config{Data: t.TempDir(), LinkedHubs: LinkedHubsConfig{CAFile: "hubs.pem"}}
	for content, want := range map[string]string{"": "no certificate", "junk": "no certificate"} {
		if err := os.WriteFile(filepath.Join(c.Data, "hubs.pem"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openLinks(c); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "linked_hubs.ca_file") {
			t.Errorf("%q: %v", content, err)
		}
	}
	c.LinkedHubs.CAFile = "elsewhere.pem"
	if _, err := openLinks(c); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
