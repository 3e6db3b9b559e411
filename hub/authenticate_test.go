package hub_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/sas"
)

// certificate makes a self-signed certificate that expired long ago: it is
// pinned, so that does not matter.
func certificate(t *testing.T, cn string) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn},
		NotBefore: t0.AddDate(-2, 0, 0), NotAfter: t0.AddDate(-1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func token(t *testing.T, k byte, resource string, expiry time.Time, policy string) *sas.Token {
	t.Helper()
	token, err := sas.Parse(sas.Sign(key(k).Bytes(), resource, expiry, policy))
	if err != nil {
		t.Fatal(err)
	}
	return &token
}

// The people of these tests: a device with keys 1 and 2, one with two pinned
// certificates, a policy with keys 3 and 4 that may speak for devices and one
// with keys 5 and 6 that may not.
var (
	sasDevice = &hub.Identity{Place: hub.Place{Hub: host, ID: "d1"}, GenerationID: "638", Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys(1, 2)}}
	testHost  = hub.Host{Name: host, Aliases: []string{"hub1.device.example", "gateway.example"}}
	policies  = []access.Policy{
		{Name: "device", Primary: key(3), Secondary: key(4), Rights: access.HubDeviceConnect},
		{Name: "service", Primary: key(5), Secondary: key(6), Rights: access.AllHub &^ access.HubDeviceConnect},
		{Name: "hollow", Rights: access.AllHub},
	}
)

func judge(d *hub.Identity, id device.ID, c attest.Credential) attest.Verdict {
	return hub.AuthenticateDevice(hub.Attempt{Host: testHost, At: hub.Place{Hub: host, ID: id}, Identity: d, Device: d, Policies: policies, Credential: c, Now: t0})
}

func wantAccepted(t *testing.T, what string, v attest.Verdict) {
	t.Helper()
	if !v.Accepted() {
		t.Errorf("%s: refused: %v %+v", what, v.Refusal, v.Findings)
	}
	for _, f := range v.Findings {
		if !f.OK {
			t.Errorf("%s: accepted with %+v", what, f)
		}
	}
	if len(v.Findings) < 2 {
		t.Errorf("%s: accepted for too few reasons: %+v", what, v.Findings)
	}
}

// wantRefused also makes sure that the last finding tells the operator why, and
// that the refusal tells the stranger no more than public.
func wantRefused(t *testing.T, what string, v attest.Verdict, code errs.Code, check, public string) {
	t.Helper()
	if v.Accepted() {
		t.Errorf("%s: accepted: %+v", what, v.Findings)
		return
	}
	if v.Refusal.Code != code || !strings.HasPrefix(v.Refusal.Message, public) {
		t.Errorf("%s: %d %q, want %d %q", what, v.Refusal.Code, v.Refusal.Message, code, public)
	}
	last := v.Findings[len(v.Findings)-1]
	if last.OK || last.Check != check || last.Detail == "" {
		t.Errorf("%s: the last finding is %+v, want %s", what, last, check)
	}
}

func TestTokensOfDevices(t *testing.T) {
	later := t0.Add(time.Hour)
	for _, resource := range []string{
		host + "/devices/d1", "HUB1.EXAMPLE/DEVICES/D1", host + ":8883/devices/d1", "https://hub1.example/devices/d1",
		host + "/devices/d1/", "hub1.device.example/devices/d1", "gateway.example/devices/d1", host, host + "/devices",
		host + "/devices/d1/api-version=2016-11-14",
	} {
		for k := byte(1); k <= 2; k++ {
			wantAccepted(t, resource, judge(sasDevice, "d1", attest.Credential{Token: token(t, k, resource, later, "")}))
		}
	}
	wantAccepted(t, "a clock a little behind", judge(sasDevice, "d1", attest.Credential{Token: token(t, 1, host, t0.Add(-4*time.Minute), "")}))
	raw, err := sas.Parse(strings.Replace(sas.Sign(key(1).Bytes(), host, later, ""), "&se=", "&skn=&se=", 1))
	if err != nil {
		t.Fatal(err)
	}
	wantAccepted(t, "an empty key name", judge(sasDevice, "d1", attest.Credential{Token: &raw}))

	const notOurs = "Unauthorized: the token was not made with a key of this device"
	for _, c := range []struct {
		name      string
		device    *hub.Identity
		id        device.ID
		token     *sas.Token
		check     string
		public    string
		wantFirst bool
	}{
		{"another key", sasDevice, "d1", token(t, 9, host, later, ""), "signature", notOurs, true},
		{"a policy's key without its name", sasDevice, "d1", token(t, 3, host, later, ""), "signature", notOurs, true},
		{"another key, expired", sasDevice, "d1", token(t, 9, host, t0.Add(-time.Hour), ""), "signature", notOurs, true},
		{"no such device", nil, "d1", token(t, 1, host, later, ""), "device", notOurs, true},
		{"a device with certificates", &hub.Identity{Auth: hub.Authentication{Type: hub.AuthSelfSigned}}, "d1", token(t, 1, host, later, ""), "authentication type", notOurs, true},
		{"a device without keys", &hub.Identity{Auth: hub.Authentication{Type: hub.AuthSAS}}, "d1", token(t, 1, host, later, ""), "signature", notOurs, true},
		{"expired", sasDevice, "d1", token(t, 1, host, t0.Add(-5*time.Minute), ""), "expiry", "Unauthorized: the token expired at 2026-03-01T11:55:00Z", false},
		{"another device", sasDevice, "d1", token(t, 1, host+"/devices/d2", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a device whose name goes on", sasDevice, "d1", token(t, 1, host+"/devices/d11", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a device whose name stops short", sasDevice, "d1", token(t, 1, host+"/devices/d", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"another hub", sasDevice, "d1", token(t, 1, "hub2.example/devices/d1", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a hub whose name goes on", sasDevice, "d1", token(t, 1, host+".evil.example/devices/d1", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a user at another host", sasDevice, "d1", token(t, 1, "hub1.example@evil.example", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"its messages alone", sasDevice, "d1", token(t, 1, host+"/devices/d1/messages/events", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"another device, with an api-version", sasDevice, "d1", token(t, 1, host+"/devices/d2/api-version=2016-11-14", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a device whose name is an api-version", sasDevice, "d1", token(t, 1, host+"/devices/api-version=2016-11-14", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a module whose name is an api-version", sasDevice, "d1", token(t, 1, host+"/devices/d1/modules/api-version=2016-11-14", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a module of the device", sasDevice, "d1", token(t, 1, host+"/devices/d1/modules/m", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"twins", sasDevice, "d1", token(t, 1, host+"/twins/d1", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a provisioning token", sasDevice, "d1", token(t, 1, "0ne00000001/registrations/d1", later, ""), "audience", "Unauthorized: the token is for another resource", false},
		{"a provisioning token as clients make it", sasDevice, "d1", token(t, 1, "0ne00000001/registrations/d1", later, "registration"), "policy token", "Unauthorized", true},
		{"the zero token", sasDevice, "d1", &sas.Token{}, "signature", notOurs, true},
	} {
		v := judge(c.device, c.id, attest.Credential{Token: c.token})
		wantRefused(t, c.name, v, errs.CodeUnauthorizedAccess, c.check, c.public)
		if c.wantFirst && len(v.Findings) != 1 {
			t.Errorf("%s: more was looked at after the proof failed: %+v", c.name, v.Findings)
		}
	}
}

// A token may be for a part of what a device has, and is good for that alone.
func TestTokensForAPart(t *testing.T) {
	const sending, receiving = "/messages/events", "/messages/devicebound"
	for _, resource := range []string{host + "/devices/d1", host + "/devices/d1/messages", host + "/devices/d1" + sending, host + "/devices/d1/api-version=2016-11-14"} {
		of := func(under string) attest.Verdict {
			return hub.AuthenticateDevice(hub.Attempt{Host: testHost, At: sasDevice.Place, Under: under, Identity: sasDevice, Device: sasDevice,
				Credential: attest.Credential{Token: token(t, 1, resource, t0.Add(time.Hour), "")}, Now: t0})
		}
		wantAccepted(t, resource, of(sending))
		if strings.HasSuffix(resource, sending) {
			wantRefused(t, resource, of(receiving), errs.CodeUnauthorizedAccess, "audience", "Unauthorized: the token is for another resource")
			wantRefused(t, resource, of(sending+"s"), errs.CodeUnauthorizedAccess, "audience", "Unauthorized: the token is for another resource")
		}
	}
}

func TestTokensOfPolicies(t *testing.T) {
	later := t0.Add(time.Hour)
	selfSigned := &hub.Identity{Place: hub.Place{Hub: host, ID: "d1"}, Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: strings.Repeat("0", 64)}}
	for _, d := range []*hub.Identity{sasDevice, selfSigned} {
		for _, resource := range []string{host, host + "/devices", host + "/devices/d1"} {
			wantAccepted(t, resource, judge(d, "d1", attest.Credential{Token: token(t, 4, resource, later, "Device")}))
		}
	}
	for _, c := range []struct {
		name   string
		token  *sas.Token
		check  string
		public string
	}{
		{"a right it lacks", token(t, 5, host, later, "service"), "rights", `Unauthorized: policy "service" lacks DeviceConnect`},
		{"another policy's key", token(t, 5, host, later, "device"), "policy token", "Unauthorized"},
		{"the device's key", token(t, 1, host, later, "device"), "policy token", "Unauthorized"},
		{"a policy without keys", token(t, 1, host, later, "hollow"), "policy token", "Unauthorized"},
		{"no such policy", token(t, 3, host, later, "iothubowner"), "policy token", "Unauthorized"},
		{"expired", token(t, 3, host, t0.Add(-time.Hour), "device"), "policy token", "Unauthorized"},
		{"limited to another device", token(t, 3, host+"/devices/d2", later, "device"), "policy token", "Unauthorized"},
		{"another hub", token(t, 3, "hub2.example", later, "device"), "policy token", "Unauthorized"},
	} {
		wantRefused(t, c.name, judge(sasDevice, "d1", attest.Credential{Token: c.token}), errs.CodeUnauthorizedAccess, c.check, c.public)
	}
	wantRefused(t, "no such device", judge(nil, "d1", attest.Credential{Token: token(t, 3, host, later, "device")}),
		errs.CodeDeviceNotFound, "device", "d1")
}

func TestCertificates(t *testing.T) {
	own, spare, stranger := certificate(t, "d1"), certificate(t, "d1"), certificate(t, "d1")
	pinned := func(primary, secondary string) *hub.Identity {
		return &hub.Identity{Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: primary, SecondaryThumbprint: secondary}}
	}
	d := pinned(attest.Thumbprint(own.Raw), strings.ToLower(attest.ThumbprintSHA1(spare.Raw)))
	show := func(chain ...*x509.Certificate) attest.Credential { return attest.Credential{Chain: chain} }

	wantAccepted(t, "primary, SHA-256", judge(d, "d1", show(own)))
	wantAccepted(t, "secondary, SHA-1, lower case", judge(d, "d1", show(spare)))
	wantAccepted(t, "with a chain", judge(d, "d1", show(own, stranger)))
	both := show(own)
	both.Token = token(t, 9, host, t0.Add(time.Hour), "")
	wantAccepted(t, "with a token besides", judge(d, "d1", both))

	refused := "Unauthorized: the client certificate with SHA-1 thumbprint " + attest.ThumbprintSHA1(stranger.Raw) +
		" and SHA-256 thumbprint " + attest.Thumbprint(stranger.Raw) + " is not registered for this device"
	for _, c := range []struct {
		name   string
		device *hub.Identity
		chain  []*x509.Certificate
		check  string
	}{
		{"a stranger with the same name", d, []*x509.Certificate{stranger}, "thumbprint"},
		{"the right one, but not as the leaf", d, []*x509.Certificate{stranger, own}, "thumbprint"},
		{"a device with one thumbprint", pinned(attest.Thumbprint(own.Raw), ""), []*x509.Certificate{stranger}, "thumbprint"},
		{"a device with none", pinned("", ""), []*x509.Certificate{stranger}, "thumbprint"},
		{"a thumbprint cut short", pinned(attest.Thumbprint(stranger.Raw)[:40], attest.ThumbprintSHA1(stranger.Raw)[:39]), []*x509.Certificate{stranger}, "thumbprint"},
		{"a device with keys", sasDevice, []*x509.Certificate{stranger}, "authentication type"},
		{"no such device", nil, []*x509.Certificate{stranger}, "device"},
	} {
		v := judge(c.device, "d1", attest.Credential{Chain: c.chain})
		wantRefused(t, c.name, v, errs.CodeDeviceUnauthorized, c.check, refused)
		if v.Refusal != nil && v.Refusal.Message != refused {
			t.Errorf("%s: a stranger can tell it from the others: %q", c.name, v.Refusal.Message)
		}
	}
	wantRefused(t, "nothing", judge(d, "d1", attest.Credential{}), errs.CodeUnauthorizedAccess, "credential",
		"Unauthorized: neither a SAS token nor a client certificate was presented")

	// A device with keys is judged by its token, whatever certificate TLS saw.
	withToken := show(stranger)
	withToken.Token = token(t, 1, host, t0.Add(time.Hour), "")
	wantAccepted(t, "a key device with some certificate", judge(sasDevice, "d1", withToken))
}

// A disabled device is told so, and only after it proved itself.
func TestDisabledDevices(t *testing.T) {
	off := *sasDevice
	off.Disabled, off.StatusReason = true, "stolen"
	later := t0.Add(time.Hour)
	for name, good := range map[string]*sas.Token{
		"its own token":    token(t, 1, host, later, ""),
		"a policy's token": token(t, 3, host, later, "device"),
	} {
		v := judge(&off, "d1", attest.Credential{Token: good})
		wantRefused(t, name, v, errs.CodeDeviceDisabled, "status", "The device is disabled")
		if v.Refusal != nil && strings.Contains(v.Refusal.Message, "stolen") {
			t.Errorf("%s: the operator's reason is shown: %q", name, v.Refusal.Message)
		}
	}
	wantRefused(t, "another key", judge(&off, "d1", attest.Credential{Token: token(t, 9, host, later, "")}),
		errs.CodeUnauthorizedAccess, "signature", "Unauthorized: ")
}

func TestAuthenticate(t *testing.T) {
	s, m := open(t)
	provision(t, s, first)
	cert := certificate(t, "d2")
	provision(t, s, hub.Provisioning{Hub: host, DeviceID: "d2", Thumbprint: attest.Thumbprint(cert.Raw)})
	for _, p := range policies {
		m.keep(t, p)
	}
	later := t0.Add(time.Hour)
	for _, c := range []struct {
		id         device.ID
		credential attest.Credential
		method     string
	}{
		{"d1", attest.Credential{Token: token(t, 1, host, later, "")}, `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`},
		{"d1", attest.Credential{Token: token(t, 3, host, later, "device")}, `{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`},
		{"d2", attest.Credential{Chain: []*x509.Certificate{cert}}, `{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}`},
	} {
		from, err := s.Authenticate(t.Context(), testHost, c.id, "", c.credential, hub.Approach{})
		if err != nil || from.ID != c.id || from.Hub != host || from.GenerationID == "" || from.Method != c.method {
			t.Errorf("%+v, %v", from, err)
		}
	}
	_, err := s.Authenticate(t.Context(), testHost, "d1", "", attest.Credential{Chain: []*x509.Certificate{cert}}, hub.Approach{})
	if errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), "the device's type is sas") ||
		strings.Contains(errs.Public(err).Message, "type") {
		t.Errorf("the log reads %q, the stranger %q", err, errs.Public(err).Message)
	}
	if _, err := s.Authenticate(t.Context(), testHost, "d3", "", attest.Credential{Token: token(t, 1, host, later, "")}, hub.Approach{}); errs.KindOf(err) != errs.Denied {
		t.Errorf("an unknown device: %v", err)
	}
}
