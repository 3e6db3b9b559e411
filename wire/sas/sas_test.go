package sas

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	key     = []byte("a key of the device, 32 bytes...")
	now     = time.Unix(1700000000, 0)
	expiry  = now.Add(time.Hour)
	se      = strconv.FormatInt(expiry.Unix(), 10)
	want    = DeviceResource("0ne00111111", "Pump-7.A")
	hub     = "contoso.azure-devices.net"
	nothing = []byte(nil)
)

// signature is the base64 text of what a client computes over the sr it is about to send.
func signature(key []byte, sr, se string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(sr + "\n" + se))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// lowerHex turns %2F into %2f, as the C SDK's encoder writes it.
func lowerHex(s string) string {
	return strings.NewReplacer("%2F", "%2f", "%2B", "%2b", "%3D", "%3d").Replace(s)
}

// bareSlash is what Python's quote leaves of an encoded text by default.
func bareSlash(s string) string { return strings.ReplaceAll(s, "%2F", "/") }

// clients builds a token for resource the way each client does.
var clients = []struct {
	name  string
	skn   string
	token func(resource string) string
}{
	{"Node, symmetric key", "registration", func(r string) string {
		return "SharedAccessSignature sr=" + r + "&sig=" + url.QueryEscape(signature(key, r, se)) + "&skn=registration&se=" + se
	}},
	{"Node, TPM", "registration", func(r string) string {
		sr := url.QueryEscape(r)
		return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signature(key, sr, se)) + "&se=" + se + "&skn=registration"
	}},
	{"C", "registration", func(r string) string {
		sr := lowerHex(url.QueryEscape(r))
		return "SharedAccessSignature sr=" + sr + "&sig=" + lowerHex(url.QueryEscape(signature(key, sr, se))) + "&se=" + se + "&skn=registration"
	}},
	{"C#", "registration", func(r string) string {
		sr := url.QueryEscape(r)
		return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signature(key, sr, se)) + "&se=" + se + "&skn=registration"
	}},
	{"Java", "", func(r string) string {
		return "SharedAccessSignature sr=" + r + "&sig=" + url.QueryEscape(signature(key, r, se)) + "&se=" + se + "&skn="
	}},
	{"Python", "", func(r string) string {
		sr := url.QueryEscape(r)
		return "SharedAccessSignature sr=" + sr + "&sig=" + bareSlash(url.QueryEscape(signature(key, sr, se))) + "&se=" + se
	}},
	{"embedded C", "registration", func(r string) string {
		scope, id, _ := strings.Cut(r, "/registrations/")
		sr := url.QueryEscape(scope) + "%2Fregistrations%2F" + url.QueryEscape(id)
		return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signature(key, sr, se)) + "&se=" + se + "&skn=registration"
	}},
	{"iot-identity-service", "registration", func(r string) string {
		sr := url.QueryEscape(strings.ToLower(r))
		return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(signature(key, sr, se)) + "&se=" + se + "&skn=registration"
	}},
	{"curl", "registration", func(r string) string {
		sr := lowerHex(url.QueryEscape(strings.ToLower(r)))
		return "SharedAccessSignature sig=" + url.QueryEscape(signature(key, sr, se)) + "&se=" + se + "&skn=registration&sr=" + sr
	}},
	{"a scheme in lower case, a bare plus", "", func(r string) string {
		return "sharedaccesssignature sr=" + r + "&sig=" + signature(key, r, se) + "&se=" + se
	}},
	{"Sign", "registration", func(r string) string { return Sign(key, r, expiry, "registration") }},
}

func TestEveryClientsTokenIsGood(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			tok, err := Parse(c.token(want))
			if err != nil {
				t.Fatal(err)
			}
			if !tok.SignedBy(key) {
				t.Error("not signed by the key that signed it")
			}
			if !SameResource(tok.Resource, want) {
				t.Errorf("is for %q, want %q", tok.Resource, want)
			}
			if tok.Expired(now, 0) || !tok.Expiry.Equal(expiry) {
				t.Errorf("expires at %v, want %v", tok.Expiry, expiry)
			}
			if tok.KeyName != c.skn {
				t.Errorf("key name %q, want %q", tok.KeyName, c.skn)
			}
		})
	}
}

func TestEveryClientsTokenIsBadForSomeoneElse(t *testing.T) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			tok, err := Parse(c.token(want))
			if err != nil {
				t.Fatal(err)
			}
			for name, other := range map[string][]byte{
				"another key": []byte("a key of another device, 32 byte"),
				"no key":      nothing,
				"key and NUL": append([]byte("\x00"), key...),
				"half a key":  key[:16],
			} {
				if tok.SignedBy(other) {
					t.Errorf("signed by %s", name)
				}
			}
			for _, other := range []string{
				"",
				"0ne00111111",
				DeviceResource("0ne00111111", "pump-7"),
				DeviceResource("0ne00111111", "pump-7.a/x"),
				DeviceResource("0ne00111112", "pump-7.a"),
				HubDeviceResource(hub, "pump-7.a"),
			} {
				if SameResource(tok.Resource, other) {
					t.Errorf("is for %q", other)
				}
			}
			if !tok.Expired(expiry, 0) || !tok.Expired(expiry.Add(5*time.Minute), 5*time.Minute) {
				t.Error("has not expired at its expiry")
			}
			if tok.Expired(expiry.Add(5*time.Minute-1), 5*time.Minute) {
				t.Error("has expired within the skew")
			}
		})
	}
}

func TestTamperedTokensAreNotSigned(t *testing.T) {
	good := Sign(key, want, expiry, "registration")
	for name, edit := range map[string][2]string{
		"another registration": {"Pump-7.A", "Pump-8.A"},
		"another case of sr":   {"Pump", "pump"},
		"another encoding":     {"%2F", "%2f"},
		"sr decoded":           {"%2F", "/"},
		"a later expiry":       {"se=17", "se=18"},
		"a leading zero":       {"se=17", "se=017"},
		"a longer expiry":      {"&skn", "0&skn"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.ReplaceAll(good, edit[0], edit[1])
			if bad == good {
				t.Fatal("the edit changed nothing")
			}
			tok, err := Parse(bad)
			if err != nil {
				t.Fatal(err)
			}
			if tok.SignedBy(key) {
				t.Errorf("%s is signed", bad)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	sig := url.QueryEscape(signature(key, "h", "1"))
	for _, tt := range []struct{ name, token, err string }{
		{"nothing", "", "not a SharedAccessSignature"},
		{"the scheme alone", "SharedAccessSignature", "not a SharedAccessSignature"},
		{"no fields", "SharedAccessSignature ", "a field has no value"},
		{"another scheme", "Bearer sr=h&sig=" + sig + "&se=1", "not a SharedAccessSignature"},
		{"no space after the scheme", "SharedAccessSignature,sr=h&sig=" + sig + "&se=1", "not a SharedAccessSignature"},
		{"a scheme folded by Unicode", "\u017FharedAccessSignature sr=h&sig=" + sig + "&se=1", "not a SharedAccessSignature"},
		{"two spaces after the scheme", "SharedAccessSignature  sr=h&sig=" + sig + "&se=1", "sr is missing"},
		{"no sr", "SharedAccessSignature sig=" + sig + "&se=1", "sr is missing"},
		{"no sig", "SharedAccessSignature sr=h&se=1", "sig is missing"},
		{"no se", "SharedAccessSignature sr=h&sig=" + sig, "se is missing"},
		{"empty sr", "SharedAccessSignature sr=&sig=" + sig + "&se=1", "sr is empty"},
		{"empty sig", "SharedAccessSignature sr=h&sig=&se=1", "sig is empty"},
		{"empty se", "SharedAccessSignature sr=h&sig=" + sig + "&se=", "se is empty"},
		{"upper-case names", "SharedAccessSignature SR=h&SIG=" + sig + "&SE=1", "sr is missing"},
		{"two sr", "SharedAccessSignature sr=h&sr=h&sig=" + sig + "&se=1", "sr is given twice"},
		{"two sr, the first empty", "SharedAccessSignature sr=&sr=h&sig=" + sig + "&se=1", "sr is empty"},
		{"two sig", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&sig=" + sig, "sig is given twice"},
		{"two se", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&se=2", "se is given twice"},
		{"two skn", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&skn=&skn=", "skn is given twice"},
		{"a field without a value", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&skn", "a field has no value"},
		{"a trailing ampersand", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&", "a field has no value"},
		{"commas for ampersands", "SharedAccessSignature sr=h,sig=" + sig + ",se=1", "sig is missing"},
		{"se negative", "SharedAccessSignature sr=h&sig=" + sig + "&se=-1", "se is not a decimal number"},
		{"se signed", "SharedAccessSignature sr=h&sig=" + sig + "&se=+1", "se is not a decimal number"},
		{"se a fraction", "SharedAccessSignature sr=h&sig=" + sig + "&se=1.5", "se is not a decimal number"},
		{"se hexadecimal", "SharedAccessSignature sr=h&sig=" + sig + "&se=0x1", "se is not a decimal number"},
		{"se encoded", "SharedAccessSignature sr=h&sig=" + sig + "&se=%31", "se is not a decimal number"},
		{"se with a space", "SharedAccessSignature sr=h&sig=" + sig + "&se=1 ", "se is not a decimal number"},
		{"se in Arabic digits", "SharedAccessSignature sr=h&sig=" + sig + "&se=\u0661", "se is not a decimal number"},
		{"se a date", "SharedAccessSignature sr=h&sig=" + sig + "&se=2023-11-14", "se is not a decimal number"},
		{"sr with half an escape", "SharedAccessSignature sr=h%2&sig=" + sig + "&se=1", "sr has a bad percent-encoding"},
		{"sr with a false escape", "SharedAccessSignature sr=h%zz&sig=" + sig + "&se=1", "sr has a bad percent-encoding"},
		{"sr with a line feed", "SharedAccessSignature sr=h\n1&sig=" + sig + "&se=1", "sr is not printable ASCII"},
		{"sr with an encoded line feed", "SharedAccessSignature sr=h%0A1&sig=" + sig + "&se=1", "sr is not printable ASCII"},
		{"sr with an encoded NUL", "SharedAccessSignature sr=h%00&sig=" + sig + "&se=1", "sr is not printable ASCII"},
		{"sr in Unicode", "SharedAccessSignature sr=\u212A&sig=" + sig + "&se=1", "sr is not printable ASCII"},
		{"sig with a bad escape", "SharedAccessSignature sr=h&sig=%g0&se=1", "sig has a bad percent-encoding"},
		{"sig not base64", "SharedAccessSignature sr=h&sig=!!!!&se=1", "sig is not base64"},
		{"sig in the URL alphabet", "SharedAccessSignature sr=h&sig=" + strings.Repeat("-", 43) + "%3D&se=1", "sig is not base64"},
		{"sig without padding", "SharedAccessSignature sr=h&sig=" + strings.Repeat("A", 43) + "&se=1", "sig is not base64"},
		{"sig with loose bits", "SharedAccessSignature sr=h&sig=" + strings.Repeat("A", 42) + "B=&se=1", "sig is not base64"},
		{"sig over two lines", "SharedAccessSignature sr=h&sig=" + strings.Repeat("A", 40) + "%0AAAA=&se=1", "sig is not printable ASCII"},
		{"sig encoded twice", "SharedAccessSignature sr=h&sig=" + url.QueryEscape(url.QueryEscape(signature(key, "h", "1"))) + "&se=1", "sig is not base64"},
		{"sig too short", "SharedAccessSignature sr=h&sig=AAAA&se=1", "sig is not an HMAC-SHA256"},
		{"sig too long", "SharedAccessSignature sr=h&sig=" + strings.Repeat("A", 64) + "&se=1", "sig is not an HMAC-SHA256"},
		{"skn with a bad escape", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&skn=%", "skn has a bad percent-encoding"},
		{"skn with a terminal escape", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&skn=%1B[2J", "skn is not printable ASCII"},
		{"too long", "SharedAccessSignature sr=h&sig=" + sig + "&se=1&x=" + strings.Repeat("x", MaxLen), "token is too long"},
		{"far too long", strings.Repeat("&", 1<<20), "token is too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tok, err := Parse(tt.token)
			if err == nil {
				t.Fatalf("was accepted: %q", tt.token)
			}
			if got := err.Error(); got != "sas: "+tt.err {
				t.Errorf("refused with %q, want %q", got, "sas: "+tt.err)
			}
			if tok.SignedBy(key) || !tok.Expired(now, time.Hour) {
				t.Error("the token that came with the error is good for something")
			}
		})
	}
}

func TestExpiryMayBeEnormous(t *testing.T) {
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for se, want := range map[string]time.Time{
		"0":                      time.Unix(0, 0),
		"00000000000000000001":   time.Unix(1, 0),
		"1700000000":             time.Unix(1700000000, 0),
		"253402300799":           last,
		"253402300800":           last,
		"1700000000000":          last, // milliseconds
		"9223372036854775808":    last,
		"18446744073709551617":   last,
		strings.Repeat("9", 999): last,
	} {
		tok, err := Parse("SharedAccessSignature sr=h&sig=" + url.QueryEscape(signature(key, "h", se)) + "&se=" + se)
		if err != nil {
			t.Fatal(err)
		}
		if !tok.Expiry.Equal(want) || !tok.SignedBy(key) {
			t.Errorf("se=%s expires at %v, want %v", se, tok.Expiry, want)
		}
		if _, err := tok.Expiry.MarshalText(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	tok, err := Parse("SharedAccessSignature x=1&" + strings.TrimPrefix(Sign(key, "h", expiry, ""), scheme) + "&x=&=")
	if err != nil || !tok.SignedBy(key) {
		t.Errorf("signed %v, %v", tok.SignedBy(key), err)
	}
}

func TestSignWritesWhatOtherSignersWrite(t *testing.T) {
	got := Sign([]byte("key"), "h.example/devices/a b+c!*'()~", time.Unix(1700000000, 999), "the owner")
	want := "SharedAccessSignature sr=h.example%2Fdevices%2Fa%20b%2Bc!*'()~&sig=" +
		url.QueryEscape(signature([]byte("key"), "h.example%2Fdevices%2Fa%20b%2Bc!*'()~", "1700000000")) + "&se=1700000000&skn=the%20owner"
	if got != want {
		t.Errorf("signed\n%s, want\n%s", got, want)
	}
	if got := Sign(key, "h", expiry, ""); strings.Contains(got, "skn") {
		t.Errorf("%s names a key", got)
	}
}

func TestVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	facts, signed := map[string]string{}, 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "#":
		case f[0] != "signature":
			facts[f[0]] = f[1]
		default:
			signed++
			checkVector(t, facts, f[1], f[2])
		}
	}
	if signed != 3 {
		t.Errorf("read %d signatures, want 3", signed)
	}
}

func checkVector(t *testing.T, facts map[string]string, sr, sig string) {
	deviceKey, err := base64.StdEncoding.DecodeString(facts["device-key"])
	if err != nil {
		t.Fatal(err)
	}
	groupKey, err := base64.StdEncoding.DecodeString(facts["group-key"])
	if err != nil {
		t.Fatal(err)
	}
	token := "SharedAccessSignature sr=" + sr + "&sig=" + escape(sig) + "&se=" + facts["expiry"]
	tok, err := Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	resource := DeviceResource(facts["scope"], facts["registration-id"])
	if !tok.SignedBy(deviceKey) || tok.SignedBy(groupKey) || tok.Resource != resource {
		t.Errorf("sr %s: signed by the device key %v, by the group key %v, for %s", sr, tok.SignedBy(deviceKey), tok.SignedBy(groupKey), tok.Resource)
	}
	if escape(resource) == sr {
		if got := Sign(deviceKey, resource, tok.Expiry, ""); got != token {
			t.Errorf("signed\n%s, want\n%s", got, token)
		}
	}
}

func TestNoVerbShowsTheSignature(t *testing.T) {
	good := Sign(key, want, expiry, "registration")
	tok, err := Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	sig := signature(key, escape(want), se)
	raw, _ := base64.StdEncoding.DecodeString(sig)
	nested := struct{ inner *struct{ tok Token } }{&struct{ tok Token }{tok}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		for _, v := range []any{tok, &tok, []Token{tok}, nested, *nested.inner} {
			out := fmt.Sprintf(verb, v)
			for _, secret := range []string{sig, escape(sig), string(raw), fmt.Sprintf("%x", raw), fmt.Sprintf("%X", raw), fmt.Sprint(raw)[1:20]} {
				if strings.Contains(out, secret) {
					t.Errorf("%s shows the signature: %s", verb, out)
				}
			}
		}
	}
}

func TestResources(t *testing.T) {
	for got, want := range map[string]string{
		DeviceResource("0ne1", "pump-7"): "0ne1/registrations/pump-7",
		HubDeviceResource(hub, "pump-7"): "contoso.azure-devices.net/devices/pump-7",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestHostResource(t *testing.T) {
	for _, tt := range []struct {
		presented, host string
		want            bool
	}{
		{"dps.example", "dps.example", true},
		{"DPS.Example", "dps.example", true},
		{"dps.example", "DPS.example", true},
		{"dps.example:443", "dps.example", true},
		{"dps.example", "dps.example:8443", true},
		{"https://dps.example", "dps.example", true},
		{"HTTPS://dps.example:8443/", "dps.example", true},
		{"dps.example/", "dps.example", true},
		{"[::1]:443", "[::1]", true},
		{"", "dps.example", false},
		{"", "", false},
		{"/", "", false},
		{"https://", "", false},
		{":443", "", false},
		{"dps.example", "", false},
		{"dps.example.org", "dps.example", false},
		{"a.dps.example", "dps.example", false},
		{"dps", "dps.example", false},
		{"dps.example.", "dps.example", false},
		{"dps.example//", "dps.example", false},
		{"dps.example/enrollments", "dps.example", false},
		{"http://dps.example", "dps.example", false},
		{"https://https://dps.example", "dps.example", false},
		{"user@dps.example", "dps.example", false},
		{"dps.example:443:443", "dps.example", false},
		{"dps.example:https", "dps.example", false},
		{"::1", "::2", false},
		{"\u212Aube.example", "kube.example", false},
	} {
		if got := HostResource(tt.presented, tt.host); got != tt.want {
			t.Errorf("%q for host %q: %v, want %v", tt.presented, tt.host, got, tt.want)
		}
	}
}

func TestCovers(t *testing.T) {
	device := HubDeviceResource(hub, "pump-7")
	module := HubDeviceResource(hub, "pump-7") + "/modules/vibes"
	for _, tt := range []struct {
		presented, resource string
		want                bool
	}{
		{hub, device, true},
		{hub, hub, true},
		{"https://" + hub + ":443/", device, true},
		{hub + ":8883/devices/pump-7", device, true},
		{device, device, true},
		{device, hub + ":8443/devices/pump-7", true},
		{device + "/", device, true},
		{strings.ToUpper(device), device, true},
		{device, module, true},
		{device, device + "/messages/events", true},
		{device + "/messages/events", device + "/messages/events", true},
		{hub + "/devices", device, true},
		{"", device, false},
		{"", "", false},
		{"/", device, false},
		{"https://", device, false},
		{"/devices/pump-7", device, false},
		{":443/devices/pump-7", "/devices/pump-7", false},
		{device, hub, false},
		{device, HubDeviceResource(hub, "pump-71"), false},
		{device, HubDeviceResource(hub, "pump-"), false},
		{device, HubDeviceResource(hub, "pump-8"), false},
		{device, HubDeviceResource(hub, "pump-8") + "/modules/vibes", false},
		{module, device, false},
		{module, HubDeviceResource(hub, "pump-7") + "/modules/vibes2", false},
		{hub + "/devices/pump-7/..", device, false},
		{hub + "//devices/pump-7", device, false},
		{hub + "/devices//pump-7", device, false},
		{device + "//", device, false},
		{device + "?x", device, false},
		{"other.azure-devices.net/devices/pump-7", device, false},
		{hub + ".evil.example/devices/pump-7", device, false},
		{"x" + hub + "/devices/pump-7", device, false},
		{"http://" + device, device, false},
		{hub + "/d", device, false},
		{hub + "/devices/\u017Fump", hub + "/devices/sump", false},
	} {
		if got := Covers(tt.presented, tt.resource); got != tt.want {
			t.Errorf("%q covers %q: %v, want %v", tt.presented, tt.resource, got, tt.want)
		}
	}
}

// FuzzParse checks that no text does harm, and that a token is bound to every byte of the sr and se it was read from.
func FuzzParse(f *testing.F) {
	for _, c := range clients {
		f.Add(c.token(want))
	}
	f.Add("SharedAccessSignature sr=%&sig=%2&se=99999999999999999999&skn")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := Parse(s)
		if err != nil {
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 60 {
				t.Errorf("error repeats the token: %q", err)
			}
			return
		}
		sr, se, _ := strings.Cut(tok.signed, "\n")
		again, err := Parse("SharedAccessSignature sr=" + sr + "&sig=" + escape(signature(nil, sr, se)) + "&se=" + se)
		if err != nil {
			t.Fatalf("%q does not parse when signed again: %v", s, err)
		}
		if again.Resource != tok.Resource || !again.Expiry.Equal(tok.Expiry) {
			t.Errorf("read %+v, then %+v", tok, again)
		}
		if again.SignedBy(nil) || again.SignedBy(key) {
			t.Error("signed by a key that did not sign it")
		}
	})
}

func BenchmarkParseAndVerify(b *testing.B) {
	token := Sign(key, want, expiry, "registration")
	b.ReportAllocs()
	for b.Loop() {
		tok, err := Parse(token)
		if err != nil || !tok.SignedBy(key) || !SameResource(tok.Resource, want) || tok.Expired(now, 0) {
			b.Fatal("refused")
		}
	}
}

func TestSignWithAKeyThatStaysPut(t *testing.T) {
	inside := func(msg []byte) ([]byte, error) {
		h := hmac.New(sha256.New, key)
		h.Write(msg)
		return h.Sum(nil), nil
	}
	got, err := SignWith(inside, "hub.example/devices/a:b", expiry, "registration")
	if want := Sign(key, "hub.example/devices/a:b", expiry, "registration"); err != nil || got != want {
		t.Errorf("SignWith = %q, %v; Sign makes %q", got, err, want)
	}
	locked := errors.New("the TPM is in lockout")
	if _, err := SignWith(func([]byte) ([]byte, error) { return nil, locked }, "r", expiry, ""); !errors.Is(err, locked) {
		t.Errorf("a failing key: %v", err)
	}
	if _, err := SignWith(func([]byte) ([]byte, error) { return make([]byte, 20), nil }, "r", expiry, ""); err == nil {
		t.Error("a 20-byte MAC became a token")
	}
}
