package tpmid

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/sas"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// policyA is PolicySecret(TPM_RH_ENDORSEMENT), the policy of the EK templates
// L-1 and L-2 (TCG EK Credential Profile).
var policyA, _ = hex.DecodeString("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")

// The attributes of the EK templates and of the SRK template.
const (
	ekAttributes = tpm.FixedTPM | tpm.FixedParent | tpm.SensitiveDataOrigin | tpm.AdminWithPolicy |
		tpm.Restricted | tpm.Decrypt
	srkAttributes = tpm.FixedTPM | tpm.FixedParent | tpm.SensitiveDataOrigin | tpm.UserWithAuth | tpm.NoDA |
		tpm.Restricted | tpm.Decrypt
)

// publicKey makes the public area of a P-256 storage key with a fresh point.
func publicKey(t testing.TB, attributes tpm.Attributes, policy []byte) *tpm.Public {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point := key.PublicKey().Bytes()[1:]
	return &tpm.Public{
		Type: tpm.AlgECC, NameAlg: tpm.AlgSHA256, Attributes: attributes, AuthPolicy: policy,
		Symmetric: tpm.Symmetric{Alg: tpm.AlgAES, Bits: 128, Mode: tpm.AlgCFB},
		Scheme:    tpm.AlgNull, Curve: tpm.CurveP256, KDF: tpm.AlgNull, X: point[:32], Y: point[32:],
	}
}

func newEK(t *testing.T) *tpm.Public  { return publicKey(t, ekAttributes, policyA) }
func newSRK(t *testing.T) *tpm.Public { return publicKey(t, srkAttributes, nil) }

// with returns the TPM2B_PUBLIC of a key with some attributes turned over.
func with(p *tpm.Public, flipped tpm.Attributes) []byte {
	changed := *p
	changed.Attributes ^= flipped
	return changed.Marshal()
}

const (
	ekRefusal    = "Endorsement key is invalid, or does not match the Enrollment."
	srkRefusal   = "Storage root key is invalid."
	srkForbidden = "Storage root key is invalid, or does not match the Enrollment."
)

func TestVerifyKeys(t *testing.T) {
	ek, srk := newEK(t), newSRK(t)
	enrolled := attest.TPM{EndorsementKey: ek.Marshal()}
	withSRK := attest.TPM{EndorsementKey: ek.Marshal(), StorageRootKey: srk.Marshal()}
	software := publicKey(t, srkAttributes&^(tpm.FixedTPM|tpm.FixedParent|tpm.SensitiveDataOrigin), nil)
	withPolicy := publicKey(t, srkAttributes, policyA)
	badEK := attest.TPM{EndorsementKey: with(ek, tpm.Restricted)}

	for _, c := range []struct {
		name      string
		enrolled  attest.TPM
		ek, srk   []byte // presented
		want      string // the refusal, empty when accepted
		check     string // the finding that refused
		detailHas string
	}{
		{"both keys of the TPM", enrolled, ek.Marshal(), srk.Marshal(), "", "", ""},
		{"both keys as enrolled", withSRK, ek.Marshal(), srk.Marshal(), "", "", ""},
		{"an SRK that counts towards lockout", enrolled, ek.Marshal(), with(srk, tpm.NoDA), "", "", ""},
		{"another SRK after the TPM was cleared", enrolled, ek.Marshal(), newSRK(t).Marshal(), "", "", ""},

		{"another TPM", enrolled, newEK(t).Marshal(), srk.Marshal(), ekRefusal, "endorsement key", tpm.RegistrationID(ek.Marshal())},
		{"no EK", enrolled, nil, srk.Marshal(), ekRefusal, "endorsement key", "none"},
		{"EK cut short", enrolled, ek.Marshal()[:40], srk.Marshal(), ekRefusal, "endorsement key", "is not the enrolled one"},
		{"EK with a byte behind", enrolled, append(ek.Marshal(), 0), srk.Marshal(), ekRefusal, "endorsement key", "is not the enrolled one"},
		{"an enrolled key that is no EK", badEK, badEK.EndorsementKey, srk.Marshal(), ekRefusal, "endorsement key", "restricted"},
		{"an enrolled key that is no key", attest.TPM{EndorsementKey: []byte("EK")}, []byte("EK"), srk.Marshal(), ekRefusal, "endorsement key", ""},
		{"an enrollment without EK", attest.TPM{}, nil, srk.Marshal(), ekRefusal, "endorsement key", ""},
		{"the SRK shown as EK", attest.TPM{EndorsementKey: srk.Marshal()}, srk.Marshal(), srk.Marshal(), ekRefusal, "endorsement key", ""},

		{"a key made in software", enrolled, ek.Marshal(), software.Marshal(), srkRefusal, "storage root key", "fixedTPM is clear"},
		{"the EK shown as SRK", enrolled, ek.Marshal(), ek.Marshal(), srkRefusal, "storage root key", "userWithAuth is clear"},
		{"an SRK with a policy", enrolled, ek.Marshal(), withPolicy.Marshal(), srkRefusal, "storage root key", "authPolicy is not empty"},
		{"no SRK", enrolled, ek.Marshal(), nil, srkRefusal, "storage root key", ""},
		{"SRK cut short", enrolled, ek.Marshal(), srk.Marshal()[:60], srkRefusal, "storage root key", ""},
		{"SRK with a byte behind", enrolled, ek.Marshal(), append(srk.Marshal(), 0), srkRefusal, "storage root key", ""},
		{"SRK off its curve", enrolled, ek.Marshal(), bytes.Replace(srk.Marshal(), srk.Y, srk.X, 1), srkRefusal, "storage root key", "not on"},
		{"another SRK than the enrolled one", withSRK, ek.Marshal(), newSRK(t).Marshal(), srkForbidden, "storage root key", "changes when the TPM is cleared"},
		{"the enrolled SRK with other attributes", withSRK, ek.Marshal(), with(srk, tpm.NoDA), srkForbidden, "storage root key", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, v := VerifyKeys(c.enrolled, attest.TPM{EndorsementKey: c.ek, StorageRootKey: c.srk})
			if c.want == "" {
				if !v.Accepted() {
					t.Fatalf("refused: %v; %+v", v.Refusal, v.Findings)
				}
				if !bytes.Equal(keys.EndorsementKey.Marshal(), c.ek) || !bytes.Equal(keys.StorageRootKey.Marshal(), c.srk) {
					t.Error("other keys were returned than were presented")
				}
				return
			}
			wantRefusal(t, v, 400000, c.want, c.check, c.detailHas)
			if keys != (Keys{}) {
				t.Error("keys came with a refusal: something could be sealed to them")
			}
		})
	}
}

// Every attribute matters on its own: the one that is wrong is named, and
// nothing is ever sealed to the key.
func TestEveryAttributeOfTheSRKIsHeldToTheTemplate(t *testing.T) {
	ek, srk := newEK(t), newSRK(t)
	refused := map[tpm.Attributes]string{
		tpm.FixedTPM: "fixedTPM is clear", tpm.STClear: "stClear is set", tpm.FixedParent: "fixedParent is clear",
		tpm.SensitiveDataOrigin: "sensitiveDataOrigin is clear", tpm.UserWithAuth: "userWithAuth is clear",
		tpm.AdminWithPolicy: "adminWithPolicy is set", tpm.FirmwareLimited: "firmwareLimited is set",
		tpm.SVNLimited: "svnLimited is set", tpm.EncryptedDuplication: "encryptedDuplication is set",
		tpm.Restricted: "restricted is clear", tpm.Decrypt: "decrypt is clear", tpm.SignEncrypt: "sign is set",
		tpm.X509Sign: "x509sign is set",
	}
	for bit := range 32 {
		attribute := tpm.Attributes(1) << bit
		if attribute == tpm.NoDA {
			continue // with or without it the key stays where it is
		}
		_, v := VerifyKeys(attest.TPM{EndorsementKey: ek.Marshal()},
			attest.TPM{EndorsementKey: ek.Marshal(), StorageRootKey: with(srk, attribute)})
		wantRefusal(t, v, 400000, srkRefusal, "storage root key", refused[attribute])
	}
}

func TestVerifyToken(t *testing.T) {
	const scope, id = device.IDScope("0ne00111111"), "pump-7"
	key := func(b byte) device.SymmetricKey {
		k, err := device.NewSymmetricKey(bytes.Repeat([]byte{b}, 32))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	nonces := []device.SymmetricKey{key(1), key(2)}
	ours := sas.DeviceResource(string(scope), id)
	in := func(d time.Duration) time.Time { return now.Add(d) }

	for _, c := range []struct {
		name   string
		nonces []device.SymmetricKey
		token  string
		check  string // the finding that refused, empty when accepted
	}{
		{"the newest nonce", nonces, sas.Sign(key(1).Bytes(), ours, in(time.Hour), KeyName), ""},
		{"the nonce before", nonces, sas.Sign(key(2).Bytes(), ours, in(time.Hour), KeyName), ""},
		{"no key name", nonces, sas.Sign(key(1).Bytes(), ours, in(time.Hour), ""), ""},
		{"in capitals", nonces, sas.Sign(key(1).Bytes(), strings.ToUpper(ours), in(time.Hour), KeyName), ""},
		{"a clock five minutes slow", nonces, sas.Sign(key(1).Bytes(), ours, in(-5*time.Minute+time.Second), KeyName), ""},

		{"nothing presented", nonces, "", "token"},
		{"no challenge open", nil, sas.Sign(key(1).Bytes(), ours, in(time.Hour), KeyName), "challenge"},
		{"another key", nonces, sas.Sign(key(3).Bytes(), ours, in(time.Hour), KeyName), "challenge"},
		{"no key at all", []device.SymmetricKey{{}}, sas.Sign(nil, ours, in(time.Hour), KeyName), "challenge"},
		{"for another ID", nonces, sas.Sign(key(1).Bytes(), sas.DeviceResource(string(scope), "pump-8"), in(time.Hour), KeyName), "audience"},
		{"for an ID that begins alike", nonces, sas.Sign(key(1).Bytes(), ours+"0", in(time.Hour), KeyName), "audience"},
		{"for another scope", nonces, sas.Sign(key(1).Bytes(), sas.DeviceResource("0ne00222222", id), in(time.Hour), KeyName), "audience"},
		{"for a hub", nonces, sas.Sign(key(1).Bytes(), sas.HubDeviceResource("hub.example", id), in(time.Hour), KeyName), "audience"},
		{"another key name", nonces, sas.Sign(key(1).Bytes(), ours, in(time.Hour), "owner"), "key name"},
		{"expired", nonces, sas.Sign(key(1).Bytes(), ours, in(-5*time.Minute), KeyName), "expiry"},
		{"expired long ago", nonces, sas.Sign(key(2).Bytes(), ours, in(-24*time.Hour), KeyName), "expiry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var token *sas.Token
			if c.token != "" {
				parsed, err := sas.Parse(c.token)
				if err != nil {
					t.Fatal(err)
				}
				token = &parsed
			}
			v := VerifyToken(c.nonces, token, attest.Claim{Scope: scope, ID: id}, now)
			if c.check == "" {
				if !v.Accepted() {
					t.Fatalf("refused: %+v", v.Findings)
				}
				return
			}
			wantRefusal(t, v, 401002, "Unauthorized", c.check, "")
		})
	}
}

// A token is good for one challenge: one scope, one registration ID, one TPM
// and a window of time.
func TestNonceOfAnotherChallengeIsRefused(t *testing.T) {
	const scope, id = device.IDScope("0ne00111111"), device.RegistrationID("pump-7")
	keys, window := Keys{newEK(t), newSRK(t)}, Windows(now, 5*time.Minute)[0]
	// Any one-way function of the name serves for this test.
	nonce := func(scope device.IDScope, id device.RegistrationID, keys Keys, window int64) device.SymmetricKey {
		info := NonceInfo(scope, id, keys, window)
		k, err := device.NewSymmetricKey([]byte(attest.Thumbprint(info)))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	signed := nonce(scope, id, keys, window)
	token, err := sas.Parse(sas.Sign(signed.Bytes(), sas.DeviceResource(string(scope), string(id)), now.Add(time.Hour), KeyName))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		of   device.SymmetricKey
		ok   bool
	}{
		{"its own", nonce(scope, id, keys, window), true},
		{"of the window after", nonce(scope, id, keys, window+1), false},
		{"of the window before", nonce(scope, id, keys, window-1), false},
		{"of another SRK", nonce(scope, id, Keys{keys.EndorsementKey, newSRK(t)}, window), false},
		{"of another EK", nonce(scope, id, Keys{newEK(t), keys.StorageRootKey}, window), false},
		{"of the keys the other way round", nonce(scope, id, Keys{keys.StorageRootKey, keys.EndorsementKey}, window), false},
		{"of another ID", nonce(scope, "pump-8", keys, window), false},
		{"of another scope", nonce("0ne00222222", id, keys, window), false},
	} {
		v := VerifyToken([]device.SymmetricKey{c.of}, &token, attest.Claim{Scope: scope, ID: string(id)}, now)
		if v.Accepted() != c.ok {
			t.Errorf("the nonce %s: accepted is %v: %+v", c.name, v.Accepted(), v.Findings)
		}
	}
}

func TestWindows(t *testing.T) {
	length := 5 * time.Minute
	begin := time.Unix(0, Windows(now, length)[0]*int64(length))
	for _, c := range []struct {
		after time.Duration // since the challenge's window began
		ok    bool
	}{
		{0, true}, {length - 1, true}, {length, true}, {2*length - 1, true}, // one to two lengths
		{2 * length, false}, {time.Hour, false}, {-1, false},
	} {
		windows := Windows(begin.Add(c.after), length)
		made := Windows(begin, length)[0]
		if ok := windows[0] == made || windows[1] == made; ok != c.ok {
			t.Errorf("%v after the window of a challenge began: good is %v", c.after, ok)
		}
	}
}

// FuzzNonceInfo: the members can be read back from the name, so no two
// challenges share one. Moving a byte over the boundary of two members makes
// another name.
func FuzzNonceInfo(f *testing.F) {
	f.Add("0ne00111111", "pump-7", int64(5), "0ne00111111p", "ump-7", int64(5))
	f.Add("", "", int64(0), "\x00\x00", "", int64(0))
	f.Add("a", "\x00\x01b", int64(1<<40), "a\x00\x01b", "", int64(1<<40))
	f.Add("s", "i", int64(0), "s", "i", int64(1))
	ek := publicKey(f, ekAttributes, policyA)
	srk := publicKey(f, srkAttributes, nil)
	f.Fuzz(func(t *testing.T, scopeA, idA string, windowA int64, scopeB, idB string, windowB int64) {
		if max(len(scopeA), len(idA), len(scopeB), len(idB)) > 1<<10 {
			return // IDs have at most 128 characters
		}
		keys, swapped := Keys{ek, srk}, Keys{srk, ek}
		a := NonceInfo(device.IDScope(scopeA), device.RegistrationID(idA), keys, windowA)
		same := scopeA == scopeB && idA == idB && windowA == windowB
		if b := NonceInfo(device.IDScope(scopeB), device.RegistrationID(idB), keys, windowB); bytes.Equal(a, b) != same {
			t.Errorf("%q %q %d and %q %q %d: the names are equal: %v", scopeA, idA, windowA, scopeB, idB, windowB, !same)
		}
		if b := NonceInfo(device.IDScope(scopeB), device.RegistrationID(idB), swapped, windowB); bytes.Equal(a, b) {
			t.Errorf("the keys do not count in the name of %q %q", scopeB, idB)
		}
	})
}

func wantRefusal(t *testing.T, v attest.Verdict, code int, message, check, detailHas string) {
	t.Helper()
	if v.Accepted() {
		t.Fatalf("accepted: %+v", v.Findings)
	}
	if int(v.Refusal.Code) != code || v.Refusal.Message != message {
		t.Errorf("refused with %d %q, want %d %q", v.Refusal.Code, v.Refusal.Message, code, message)
	}
	last := v.Findings[len(v.Findings)-1]
	if last.OK || last.Check != check || !strings.Contains(last.Detail, detailHas) {
		t.Errorf("the last finding is %+v, want %s with %q", last, check, detailHas)
	}
}
