package symkey

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	scope = device.IDScope("0ne00111111")
	id    = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func key(t *testing.T, fill byte) device.SymmetricKey {
	t.Helper()
	k, err := device.NewSymmetricKey(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func token(t *testing.T, k device.SymmetricKey, resource string, expiry time.Time, keyName string) *sas.Token {
	t.Helper()
	tok, err := sas.Parse(sas.Sign(k.Bytes(), resource, expiry, keyName))
	if err != nil {
		t.Fatal(err)
	}
	return &tok
}

// The published example of the derivation: anyone can repeat it with openssl.
func TestDerivedKeyIsTheDocumentedOne(t *testing.T) {
	group, err := device.ParseSymmetricKey("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
	if err != nil {
		t.Fatal(err)
	}
	if got := DeriveDeviceKey(group, id).Base64(); got != "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=" {
		t.Errorf("derived key is %s", got)
	}
}

func TestVerify(t *testing.T) {
	resource := sas.DeviceResource(string(scope), id)
	primary, secondary, foreign := key(t, 1), key(t, 2), key(t, 3)
	keys := attest.SymmetricKeys{Primary: primary, Secondary: secondary}
	soon := now.Add(time.Hour)

	for _, c := range []struct {
		name  string
		token *sas.Token
		check string // the finding that must have failed; empty when accepted
	}{
		{"primary key", token(t, primary, resource, soon, "registration"), ""},
		{"secondary key", token(t, secondary, resource, soon, "registration"), ""},
		{"no skn", token(t, primary, resource, soon, ""), ""},
		{"whole resource in another case", token(t, primary, strings.ToUpper(resource), soon, ""), ""},
		{"expired within the skew", token(t, primary, resource, now.Add(-attest.Skew+time.Second), ""), ""},
		{"no token", nil, "token"},
		{"foreign key", token(t, foreign, resource, soon, "registration"), "signature"},
		{"another ID", token(t, primary, sas.DeviceResource(string(scope), "other"), soon, ""), "audience"},
		{"a longer ID", token(t, primary, resource+"-2", soon, ""), "audience"},
		{"another scope", token(t, primary, sas.DeviceResource("0ne00222222", id), soon, ""), "audience"},
		{"a path below", token(t, primary, resource+"/x", soon, ""), "audience"},
		{"the hub's resource", token(t, primary, "hub.example/devices/"+id, soon, ""), "audience"},
		{"a policy's token", token(t, primary, resource, soon, "provisioningserviceowner"), "key name"},
		{"expired", token(t, primary, resource, now.Add(-attest.Skew), ""), "expiry"},
		{"expired long ago", token(t, primary, resource, time.Unix(1, 0), ""), "expiry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := Verify(keys, c.token, attest.Claim{Scope: scope, ID: id}, now)
			expect(t, v, c.check)
		})
	}
}

func TestVerifyDerived(t *testing.T) {
	const spelled = "SN-1"
	resource := sas.DeviceResource(string(scope), spelled)
	group := attest.SymmetricKeys{Primary: key(t, 1), Secondary: key(t, 2)}
	soon := now.Add(time.Hour)

	for _, c := range []struct {
		name  string
		key   device.SymmetricKey
		check string
	}{
		{"from the primary key", DeriveDeviceKey(group.Primary, spelled), ""},
		{"from the secondary key", DeriveDeviceKey(group.Secondary, spelled), ""},
		{"from the lower-case ID", DeriveDeviceKey(group.Primary, "sn-1"), ""},
		{"the group key itself", group.Primary, "signature"},
		{"for another ID", DeriveDeviceKey(group.Primary, "SN-2"), "signature"},
		{"from a foreign group", DeriveDeviceKey(key(t, 9), spelled), "signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, v := VerifyDerived(group, token(t, c.key, resource, soon, ""), attest.Claim{Scope: scope, ID: spelled}, now)
			expect(t, v, c.check)
			if v.Accepted() && !keys.Primary.Equal(c.key) && !keys.Secondary.Equal(c.key) {
				t.Error("the keys for the hub do not hold the one that signed")
			}
		})
	}

	t.Run("a good signature for someone else", func(t *testing.T) {
		tok := token(t, DeriveDeviceKey(group.Primary, spelled), sas.DeviceResource(string(scope), "SN-2"), soon, "")
		_, v := VerifyDerived(group, tok, attest.Claim{Scope: scope, ID: spelled}, now)
		expect(t, v, "audience")
	})
}

// An empty slot must not be a key that everybody knows.
func TestAnEmptySlotSignsNothing(t *testing.T) {
	resource := sas.DeviceResource(string(scope), id)
	for _, empty := range []attest.SymmetricKeys{{}, {Primary: key(t, 1)}} {
		forged := token(t, device.SymmetricKey{}, resource, now.Add(time.Hour), "")
		expect(t, Verify(empty, forged, attest.Claim{Scope: scope, ID: id}, now), "signature")
		derivedFromNothing := token(t, DeriveDeviceKey(device.SymmetricKey{}, id), resource, now.Add(time.Hour), "")
		_, v := VerifyDerived(empty, derivedFromNothing, attest.Claim{Scope: scope, ID: id}, now)
		expect(t, v, "signature")
	}
}

func expect(t *testing.T, v attest.Verdict, check string) {
	t.Helper()
	last := v.Findings[len(v.Findings)-1]
	switch {
	case check == "" && !v.Accepted():
		t.Errorf("refused: %s: %s", last.Check, last.Detail)
	case check != "" && v.Accepted():
		t.Error("accepted")
	case check != "" && last.Check != check:
		t.Errorf("refused for its %s (%s), want for its %s", last.Check, last.Detail, check)
	case check != "" && v.Refusal.Message != "Unauthorized":
		t.Errorf("the stranger is told %q", v.Refusal.Message)
	}
}
