package hub_test

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// Whatever a device was refused for, the operator can read it, with what helps, and
// with no key.
func TestRefusalsAreRemembered(t *testing.T) {
	s, m := open(t)
	m.keep(t, policies[0])
	for id, spec := range map[string]hub.DeviceSpec{
		"d1": {Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys(1, 2)}},
		"d2": {Disabled: true, Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys(1, 2)}},
		"d3": {Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: strings.Repeat("0", 64)}},
	} {
		if _, err := s.PutDevice(t.Context(), owner, home(device.ID(id), ""), spec, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		id         string
		credential attest.Credential
		found, fix string
	}{
		{"nobody", attest.Credential{Token: token(t, 1, host+"/devices/nobody", t0.Add(time.Hour), "")}, `✗ device: there is no device "nobody" at ` + host, "berth hub device create nobody --hub " + host},
		{"a;reboot;$(b)'#", attest.Credential{Token: token(t, 1, host+"/devices/a", t0.Add(time.Hour), "")}, "✗ device: ", `berth hub device create 'a;reboot;$(b)'\''#' --hub ` + host},
		{"d1", attest.Credential{Token: token(t, 9, host+"/devices/d1", t0.Add(time.Hour), "")}, "✗ signature: ", "berth hub device show d1 --hub " + host + " --keys"},
		{"d1", attest.Credential{Token: token(t, 1, host+"/devices/d9", t0.Add(time.Hour), "")}, "✗ audience: ", "a token for " + host + "/devices/d1"},
		{"d1", attest.Credential{Token: token(t, 1, host+"/devices/d1", t0.Add(-time.Hour), "")}, "✗ expiry: ", "compare its clock"},
		{"d2", attest.Credential{Token: token(t, 1, host+"/devices/d2", t0.Add(time.Hour), "")}, "✗ status: ", "berth hub device update d2 --enable --hub " + host},
		{"d3", attest.Credential{Chain: []*x509.Certificate{certificate(t, "d3")}}, "✗ thumbprint: ", "register the thumbprint"},
		{"d1", attest.Credential{}, "✗ credential: ", ""},
	} {
		by := hub.Approach{Wire: "mqtt", Remote: "192.0.2.7:1", TrackingID: errs.TrackingID(fmt.Sprint("t-", i))}
		if _, err := s.Authenticate(t.Context(), testHost, device.ID(c.id), "", c.credential, by); err == nil {
			t.Fatalf("%s was let in", c.id)
		}
		all := s.Refusals(host, fmt.Sprint("T-", i))
		if len(all) != 1 {
			t.Fatalf("%d refusals with one tracking ID", len(all))
		}
		got := all[0]
		last := got.Findings[len(got.Findings)-1]
		story := fmt.Sprintf("✗ %s: %s", last.Check, last.Detail)
		if last.OK || !strings.HasPrefix(story, c.found) || !strings.Contains(got.Fix, c.fix) || got.Wire != "mqtt" || string(got.DeviceID) != c.id || got.ErrorCode == 0 || got.Outcome == "" {
			t.Errorf("%s: %+v", c.id, got)
		}
		if newest := s.Refusals(host, c.id); newest[0].TrackingID != got.TrackingID {
			t.Errorf("the newest about %s is %+v", c.id, newest[0])
		}
	}
	if got := s.Refusals("hub2.example", "d1"); len(got) != 0 {
		t.Errorf("another hub's: %+v", got)
	}
	s.Refuse(hub.Approach{Wire: "mqtt"}, home("d1", ""), "client identifier", "it is another one")
	if got := s.Refusals(host, "d1"); got[0].Findings[0].Check != "client identifier" {
		t.Errorf("%+v", got[0])
	}
	// They are bounded.
	for range 3000 {
		s.Refuse(hub.Approach{Wire: "mqtt"}, home("d4", ""), "will", "it is for another topic")
	}
	if got := s.Refusals(host, "d4"); len(got) != 1000 {
		t.Errorf("%d are kept", len(got))
	}
	if got := s.Refusals(host, "d1"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
