package ekcert_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

func listOf(t *testing.T, eks ...[]byte) *ekcert.List {
	t.Helper()
	var lines []string
	for _, ek := range eks {
		lines = append(lines, base64.StdEncoding.EncodeToString(ek))
	}
	l, err := ekcert.ParseList(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What a group of listed keys admits; package provision tells the rest with TPMs.
func TestGroupAdmits(t *testing.T) {
	good, other, weak := newRSA().Marshal(), newECC(t).Marshal(), rsaEK(weakModulus()).Marshal()
	group := ekcert.Group{List: listOf(t, good, weak)}
	for _, c := range []struct {
		name  string
		group ekcert.Group
		ek    []byte
		id    string
		known bool
		code  errs.Code
	}{
		{"listed", group, good, tpm.RegistrationID(good), true, 0},
		{"listed, in capitals", group, good, strings.ToUpper(tpm.RegistrationID(good)), true, 0},
		{"listed, under another's name", group, good, tpm.RegistrationID(weak), true, errs.CodeUnauthorizedAccess},
		{"listed, under no name", group, good, "", true, errs.CodeUnauthorizedAccess},
		{"listed, of the weak generator", group, weak, tpm.RegistrationID(weak), false, errs.CodeUnauthorizedAccess},
		{"not listed", group, other, tpm.RegistrationID(other), false, errs.CodeUnauthorizedAccess},
		{"no key", group, nil, tpm.RegistrationID(nil), false, errs.CodeBadRequest},
		{"more than a key", group, append(good[:len(good):len(good)], 0), tpm.RegistrationID(good), false, errs.CodeBadRequest},
		{"an empty list", ekcert.Group{List: &ekcert.List{}}, good, tpm.RegistrationID(good), false, errs.CodeUnauthorizedAccess},
		{"a group that knows nothing", ekcert.Group{}, good, tpm.RegistrationID(good), false, errs.CodeUnauthorizedAccess},
		{"a policy without roots", ekcert.Group{Policy: &ekcert.Policy{}}, good, tpm.RegistrationID(good), false, errs.CodeUnauthorizedAccess},
	} {
		known, v := c.group.Admit(ekcert.ReadEvidence(c.ek, nil, nil), c.id, time.Now())
		var code errs.Code
		if v.Refusal != nil {
			code = v.Refusal.Code
		}
		if known != c.known || code != c.code {
			t.Errorf("%s: known is %v, code %d: %+v", c.name, known, code, v.Findings)
		}
	}
}

// A stored list is the one that the group names, or none.
func TestParseStored(t *testing.T) {
	one, two := newRSA().Marshal(), newRSA().Marshal()
	stored, other := listOf(t, one).Stored(), listOf(t, two).Stored()
	if l, err := ekcert.ParseStored(*stored, stored.Keys); err != nil || l.Len() != 1 || !l.Contains(one) {
		t.Errorf("%v, %v", l, err)
	}
	for name, c := range map[string]struct {
		of   attest.EKList
		keys []byte
	}{
		"another list":   {*stored, other.Keys},
		"another number": {attest.EKList{Digest: stored.Digest, Count: 2}, stored.Keys},
		"no list":        {*stored, nil},
		"half a list":    {*stored, stored.Keys[:20]},
		"nothing named":  {attest.EKList{}, stored.Keys},
	} {
		if _, err := ekcert.ParseStored(c.of, c.keys); err == nil {
			t.Errorf("%s is taken for it", name)
		}
	}
}

func FuzzAdmit(f *testing.F) {
	ek := newRSA().Marshal()
	f.Add(ek, []byte(nil), []byte(nil), "pump-7")
	f.Add(ek[:40], []byte{0x30, 0x03, 0x02, 0x01, 0x00}, []byte{0x30, 0x00}, "")
	group := ekcert.Group{List: &ekcert.List{}, Policy: &ekcert.Policy{}}
	f.Fuzz(func(t *testing.T, ek, certificate, chain []byte, id string) {
		known, v := group.Admit(ekcert.ReadEvidence(ek, certificate, chain), id, time.Unix(1_800_000_000, 0))
		if known || v.Accepted() {
			t.Errorf("a group without a root and a key admits %x", ek)
		}
	})
}
