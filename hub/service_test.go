package hub_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
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

const host = "hub1.example"

var owner = access.Caller{Policy: "iothubowner", Rights: access.AllHub}

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func key(b byte) device.SymmetricKey {
	k, _ := device.NewSymmetricKey(bytes.Repeat([]byte{b}, 32))
	return k
}

func keys(primary, secondary byte) attest.SymmetricKeys {
	return attest.SymmetricKeys{Primary: key(primary), Secondary: key(secondary)}
}

func is(etag string) hub.Precondition { return func(current string) bool { return current == etag } }

func always(string) bool { return true }

func wantCode(t *testing.T, what string, err error, code errs.Code) {
	t.Helper()
	if err == nil || errs.Public(err).Code != code {
		t.Errorf("%s: %v, want %d", what, err, code)
	}
}

func TestLifeOfAnIdentity(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	sasSpec := hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}

	_, err := s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "d1"}, sasSpec, always)
	wantCode(t, "update of nothing", err, errs.CodeDeviceNotFound)
	d, err := s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "d1"}, sasSpec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := base64.StdEncoding.DecodeString(d.ETag); err != nil || !regexp.MustCompile(`^\d+$`).Match(n) {
		t.Errorf("entity tag %q is not the base64 of a decimal number", d.ETag)
	}
	if !regexp.MustCompile(`^\d{18}$`).MatchString(d.GenerationID) {
		t.Errorf("generation ID %q is not 18 digits", d.GenerationID)
	}
	if len(d.Auth.Keys.Primary.Bytes()) != 32 || len(d.Auth.Keys.Secondary.Bytes()) != 32 || d.Auth.Keys.Primary.Equal(d.Auth.Keys.Secondary) {
		t.Error("not two fresh keys of 32 bytes")
	}
	if !d.StatusUpdated.IsZero() {
		t.Errorf("a status that never changed was updated at %v", d.StatusUpdated)
	}

	_, err = s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "d1"}, sasSpec, nil)
	wantCode(t, "second create", err, errs.CodeDeviceAlreadyExists)
	_, err = s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "d1"}, sasSpec, is("stale"))
	wantCode(t, "stale update", err, errs.CodePreconditionFailed)
	if _, err = s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "D1"}, sasSpec, nil); err != nil {
		t.Errorf("IDs differ by case: %v", err)
	}

	off := hub.DeviceSpec{Disabled: true, StatusReason: "stolen", Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys(1, 2)}}
	updated, err := s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "d1"}, off, is(d.ETag))
	if err != nil {
		t.Fatal(err)
	}
	if updated.GenerationID != d.GenerationID || updated.ETag == d.ETag || updated.StatusUpdated.IsZero() ||
		!updated.Disabled || updated.StatusReason != "stolen" || !updated.Auth.Keys.Primary.Equal(key(1)) {
		t.Errorf("updated to %+v", updated)
	}
	again, err := s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "d1"}, off, always)
	if err != nil || !again.StatusUpdated.Equal(updated.StatusUpdated) {
		t.Errorf("an update without a new status moved its time: %v, %v", again, err)
	}
	if read, err := s.Identity(ctx, owner, hub.Place{Hub: host, ID: "d1"}); err != nil || read.ETag != again.ETag {
		t.Errorf("read %v, %v", read, err)
	}

	wantCode(t, "stale delete", s.Delete(ctx, owner, hub.Place{Hub: host, ID: "d1"}, is(d.ETag)), errs.CodePreconditionFailed)
	if err := s.Delete(ctx, owner, hub.Place{Hub: host, ID: "d1"}, is(again.ETag)); err != nil {
		t.Error(err)
	}
	wantCode(t, "second delete", s.Delete(ctx, owner, hub.Place{Hub: host, ID: "d1"}, nil), errs.CodeDeviceNotFound)
	_, err = s.Identity(ctx, owner, hub.Place{Hub: host, ID: "d1"})
	wantCode(t, "read after delete", err, errs.CodeDeviceNotFound)
	_, _, err = s.Twin(ctx, owner, hub.Place{Hub: host, ID: "d1"})
	wantCode(t, "twin after delete", err, errs.CodeDeviceNotFound)

	reborn, err := s.PutDevice(ctx, owner, hub.Place{Hub: host, ID: "d1"}, sasSpec, nil)
	if err != nil || reborn.GenerationID == d.GenerationID {
		t.Errorf("re-created with generation ID %v, %v", reborn, err)
	}
	if err := s.Delete(ctx, owner, hub.Place{Hub: host, ID: "d1"}, nil); err != nil {
		t.Errorf("unconditional delete: %v", err)
	}
}

func TestTwinOfAFreshDevice(t *testing.T) {
	s, _ := open(t)
	if _, err := s.PutDevice(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}, nil); err != nil {
		t.Fatal(err)
	}
	d, twin, err := s.Twin(t.Context(), owner, hub.Place{Hub: host, ID: "d1"})
	if err != nil {
		t.Fatal(err)
	}
	if d.ID != "d1" || twin.Version != 2 || twin.DesiredVersion != 1 || twin.ReportedVersion != 1 ||
		string(twin.Tags) != "{}" || string(twin.Desired) != "{}" || string(twin.Reported) != "{}" || twin.DesiredUpdated.Before(t0) {
		t.Errorf("%+v", twin)
	}
}

// Every operation asks for its right before it looks at anything.
func TestRights(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	for name, op := range map[string]struct {
		need access.Right
		do   func(access.Caller) error
	}{
		"read": {access.RegistryRead, func(c access.Caller) error { _, err := s.Identity(ctx, c, hub.Place{Hub: host, ID: "d1"}); return err }},
		"put": {access.RegistryWrite, func(c access.Caller) error {
			_, err := s.PutDevice(ctx, c, hub.Place{Hub: host, ID: "d1"}, hub.DeviceSpec{}, nil)
			return err
		}},
		"delete": {access.RegistryWrite, func(c access.Caller) error { return s.Delete(ctx, c, hub.Place{Hub: host, ID: "d1"}, nil) }},
		"twin":   {access.ServiceConnect, func(c access.Caller) error { _, _, err := s.Twin(ctx, c, hub.Place{Hub: host, ID: "d1"}); return err }},
	} {
		if err := op.do(access.Caller{Policy: "other", Rights: access.AllProvisioning | access.AllHub&^op.need}); errs.KindOf(err) != errs.Denied {
			t.Errorf("%s without %s: %v", name, op.need, err)
		}
		if err := op.do(access.Caller{Policy: "one", Rights: op.need}); errs.KindOf(err) == errs.Denied {
			t.Errorf("%s with %s: %v", name, op.need, err)
		}
	}
}

func TestIdentitiesThatAreRefused(t *testing.T) {
	sha1, sha256 := strings.Repeat("ab", 20), strings.Repeat("CD", 32)
	for name, spec := range map[string]hub.DeviceSpec{
		"no type":                    {},
		"unknown type":               {Auth: hub.Authentication{Type: "NONE"}},
		"CA with a key":              {Auth: hub.Authentication{Type: hub.AuthCertificateAuthority, Keys: keys(1, 2)}},
		"CA with a thumbprint":       {Auth: hub.Authentication{Type: hub.AuthCertificateAuthority, PrimaryThumbprint: sha1}},
		"none with a key":            {Auth: hub.Authentication{Type: hub.AuthNone, Keys: attest.SymmetricKeys{Secondary: key(1)}}},
		"none with a thumbprint":     {Auth: hub.Authentication{Type: hub.AuthNone, SecondaryThumbprint: sha1}},
		"sas with a thumbprint":      {Auth: hub.Authentication{Type: hub.AuthSAS, PrimaryThumbprint: sha1}},
		"sas with the second only":   {Auth: hub.Authentication{Type: hub.AuthSAS, SecondaryThumbprint: sha256}},
		"self-signed with a key":     {Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: sha1, Keys: keys(1, 2)}},
		"self-signed without":        {Auth: hub.Authentication{Type: hub.AuthSelfSigned}},
		"self-signed, second only":   {Auth: hub.Authentication{Type: hub.AuthSelfSigned, SecondaryThumbprint: sha1}},
		"thumbprint too short":       {Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: sha1[1:]}},
		"thumbprint with separators": {Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: strings.Repeat("a:", 20)}},
		"bad second thumbprint":      {Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: sha1, SecondaryThumbprint: "x"}},
		"long reason":                {StatusReason: strings.Repeat("ä", 129), Auth: hub.Authentication{Type: hub.AuthSAS}},
	} {
		s, m := open(t)
		_, err := s.PutDevice(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, spec, nil)
		wantCode(t, name, err, errs.CodeArgumentInvalid)
		if m.holds(t, "d1") {
			t.Errorf("%s: written all the same", name)
		}
	}
	for name, spec := range map[string]hub.DeviceSpec{
		"one key":           {Auth: hub.Authentication{Type: hub.AuthSAS, Keys: attest.SymmetricKeys{Primary: key(1)}}},
		"one thumbprint":    {Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: sha1}},
		"mixed thumbprints": {Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: sha1, SecondaryThumbprint: sha256}},
		"longest reason":    {StatusReason: strings.Repeat("ä", 128), Auth: hub.Authentication{Type: hub.AuthSAS}},
	} {
		s, _ := open(t)
		d, err := s.PutDevice(t.Context(), owner, hub.Place{Hub: host, ID: "d1"}, spec, nil)
		if err != nil || spec.Auth.Type == hub.AuthSAS && d.Auth.Keys.Secondary.IsZero() {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestHostName(t *testing.T) {
	for host, want := range map[string]string{
		"Hub1.Example": "hub1.example", "hub1.example:8443": "hub1.example", "hub1.example:": "hub1.example",
		"[::1]:443": "[::1]", "[::1]": "[::1]", "": "",
	} {
		if got := hub.HostName(host); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}

func TestNamesOfAHub(t *testing.T) {
	if h := hub.NewHost("hub1.example.com"); !slices.Equal(h.Aliases, []string{"hub1.device.example.com", "hub1.service.example.com"}) {
		t.Errorf("%+v", h)
	}
	for _, name := range []string{"localhost", "", ".", "hub1.", ".example"} {
		if h := hub.NewHost(name); h.Name != name || h.Aliases != nil {
			t.Errorf("%q: %+v", name, h)
		}
	}
	for alias, want := range map[string]string{
		"hub1.device.example.com": "hub1.example.com", "hub1.service.example.com": "hub1.example.com",
		"hub1.example.com": "hub1.example.com", "hub1.devices.example.com": "hub1.devices.example.com", "device.example.com": "device.example.com",
		"hub1.device": "hub1.device", "hub1.device.": "hub1.device.", ".device.example": ".device.example", "hub1.x.device.example": "hub1.x.device.example", "": "",
	} {
		if got := hub.ClassicName(alias); got != want {
			t.Errorf("%q: %q, want %q", alias, got, want)
		}
	}
}

func TestWhoCalls(t *testing.T) {
	s, m := open(t)
	m.keep(t, access.Policy{Name: "service", Primary: key(1), Secondary: key(2), Rights: access.ServiceConnect})
	h := hub.Host{Name: host, Aliases: []string{"hub1.service.example"}}
	token := func(k byte, resource, policy string) sas.Token {
		token, err := sas.Parse(sas.Sign(key(k).Bytes(), resource, t0.Add(time.Hour), policy))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for _, resource := range []string{host, "HUB1.example:443", "https://hub1.example/", "hub1.service.example", host + "/twins/d1"} {
		caller, err := s.AuthenticateCaller(t.Context(), h, "/twins/d1", token(2, resource, "service"))
		if err != nil || caller.Policy != "service" || caller.Rights != access.ServiceConnect {
			t.Errorf("%s: %v, %v", resource, caller, err)
		}
	}
	for name, bad := range map[string]sas.Token{
		"another hub":    token(1, "hub2.example", "service"),
		"another path":   token(1, host+"/twins/d", "service"),
		"another key":    token(3, host, "service"),
		"no policy":      token(1, host, ""),
		"unknown policy": token(1, host, "iothubowner"),
	} {
		if caller, err := s.AuthenticateCaller(t.Context(), h, "/twins/d1", bad); errs.KindOf(err) != errs.Denied {
			t.Errorf("%s: %v, %v", name, caller, err)
		}
	}
}

func TestIngest(t *testing.T) {
	s, m := open(t)
	from := hub.Sender{Place: hub.Place{Hub: host, ID: "d1"}, GenerationID: "638", Method: `{"scope":"device"}`}
	err := s.Ingest(t.Context(), from, []hub.Message{
		{Body: []byte("a"), Properties: map[string]string{"k": "v"},
			System: map[string]string{"message-id": "1", "connection-device-id": "d2", "message-source": "twinChangeEvents"}},
		{Hub: "hub2.example", DeviceID: "d3", Sequence: 99, Body: []byte("b")},
	})
	if err != nil {
		t.Fatal(err)
	}
	kept := m.messages(t)
	if len(kept) != 2 {
		t.Fatalf("%d messages kept", len(kept))
	}
	for i, got := range kept {
		if got.Hub != host || got.DeviceID != "d1" || got.Sequence != uint64(i+1) || !got.Enqueued.Equal(t0.Add(time.Second)) ||
			got.System["connection-device-id"] != "d1" || got.System["connection-auth-generation-id"] != "638" ||
			got.System["connection-auth-method"] != from.Method || got.System["message-source"] != "Telemetry" ||
			got.System["enqueuedtime"] != "2026-03-01T12:00:01.0000000Z" {
			t.Errorf("a message claims more than its device may: %+v", got)
		}
	}
	if first := kept[0]; string(first.Body) != "a" || first.Properties["k"] != "v" || first.System["message-id"] != "1" {
		t.Errorf("%+v", first)
	}
}

func TestIngestLimits(t *testing.T) {
	half := hub.Message{Body: make([]byte, hub.MaxMessageSize/2)}
	for name, c := range map[string]struct {
		messages []hub.Message
		code     errs.Code // zero when accepted
	}{
		"nothing":              {nil, errs.CodeArgumentInvalid},
		"largest":              {[]hub.Message{{Body: make([]byte, hub.MaxMessageSize)}}, 0},
		"too large":            {[]hub.Message{{Body: make([]byte, hub.MaxMessageSize+1)}}, errs.CodeMessageTooLarge},
		"too large by a name":  {[]hub.Message{{Body: make([]byte, hub.MaxMessageSize), Properties: map[string]string{"k": ""}}}, errs.CodeMessageTooLarge},
		"too large by a value": {[]hub.Message{{System: map[string]string{"": strings.Repeat("v", hub.MaxMessageSize+1)}}}, errs.CodeMessageTooLarge},
		"largest together":     {[]hub.Message{half, half}, 0},
		"too large together":   {[]hub.Message{half, half, {Body: []byte{1}}}, errs.CodeMessageTooLarge},
		"most":                 {make([]hub.Message, hub.MaxBatch), 0},
		"too many":             {make([]hub.Message, hub.MaxBatch+1), errs.CodeMessageTooLarge},
	} {
		s, m := open(t)
		err := s.Ingest(t.Context(), hub.Sender{Place: hub.Place{Hub: host, ID: "d1"}}, c.messages)
		if c.code == 0 && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.code != 0 {
			wantCode(t, name, err, c.code)
			if kept := m.messages(t); len(kept) != 0 {
				t.Errorf("%s: kept %d all the same", name, len(kept))
			}
		}
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	d := hub.Identity{Auth: hub.Authentication{Keys: keys('k', 'l')}}
	if out := fmt.Sprintf("%v %+v %#v", d, d, d); strings.Contains(out, "kkkk") || strings.Contains(out, key('k').Base64()) {
		t.Error(out)
	}
}
