package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"testing"

	"github.com/berth-iot/berth/tpm"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A thief runs programs on a device. They make a storage key outside the TPM and
// offer it to the service as SRK, to read the HMAC key that is wrapped to it.
type thief struct {
	conn    transport.TPM
	ek, srk loaded // the genuine ones, which the thief can use
	private *ecdh.PrivateKey
}

func newThief(t *testing.T) thief {
	t.Helper()
	conn := startTPM(t).open(t)
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return thief{
		conn:    conn,
		ek:      createPrimary(t, conn, tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate),
		srk:     createPrimary(t, conn, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate),
		private: private,
	}
}

// area returns the public area of the thief's key.
func (th thief) area(attributes tpm2.TPMAObject, policy []byte) tpm2.TPMTPublic {
	area := tpm2.ECCSRKTemplate
	area.ObjectAttributes = attributes
	area.AuthPolicy.Buffer = policy
	point := th.private.PublicKey().Bytes()[1:]
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[:32]},
		Y: tpm2.TPM2BECCParameter{Buffer: point[32:]},
	})
	return area
}

// unwrap reads the HMAC key with nothing but the credential and the private part
// of the thief's key.
func (th thief) unwrap(t *testing.T, credential []byte, parts tpm.ActivationParts) []byte {
	t.Helper()
	x, y := parts.InSymSeed[2:34], parts.InSymSeed[36:68]
	ephemeral, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, x...), y...))
	if err != nil {
		t.Fatal(err)
	}
	z, err := th.private.ECDH(ephemeral)
	if err != nil {
		t.Fatal(err)
	}
	seed := tpm.KDFe(crypto.SHA256, z, "DUPLICATE", x, th.private.PublicKey().Bytes()[1:33])
	name := crypto.SHA256.New()
	name.Write(parts.Public)
	symKey := tpm.KDFa(crypto.SHA256, seed, "STORAGE", append([]byte{0, 0x0B}, name.Sum(nil)...), nil, 128)
	inner := decryptCFB(t, symKey, parts.Duplicate[34:])
	sensitive := decryptCFB(t, credential, inner)[34:] // after the inner integrity
	return sensitive[len(sensitive)-32:]
}

// decryptCFB is AES in CFB mode with an IV of zeros, backwards.
func decryptCFB(t *testing.T, key, encrypted []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, len(encrypted))
	feedback := make([]byte, aes.BlockSize)
	for i := 0; i < len(plain); i += aes.BlockSize {
		block.Encrypt(feedback, feedback)
		n := subtle.XORBytes(plain[i:], encrypted[i:], feedback)
		copy(feedback, encrypted[i:i+n])
	}
	return plain
}

// The key is imported under the genuine SRK, which a TPM permits to anyone but
// only with fixedTPM clear.
func TestSoftwareKeyAsSRK(t *testing.T) {
	th := newThief(t)
	attributes := tpm2.ECCSRKTemplate.ObjectAttributes
	attributes.FixedTPM, attributes.FixedParent = false, false
	area := tpm2.New2B(th.area(attributes, nil))

	sensitive := tpm2.Marshal(tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgECC,
		SeedValue:     tpm2.TPM2BDigest{Buffer: randomBytes(t, 32)},
		Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &tpm2.TPM2BECCParameter{Buffer: th.private.Bytes()}),
	})
	parent := tpm2.AuthHandle{Handle: th.srk.handle, Name: th.srk.name, Auth: tpm2.PasswordAuth(nil)}
	imported, err := tpm2.Import{
		ParentHandle: parent,
		ObjectPublic: area,
		Duplicate:    tpm2.TPM2BPrivate{Buffer: tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: sensitive})},
		Symmetric:    tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
	}.Execute(th.conn)
	if err != nil {
		t.Fatalf("importing the thief's key: %v", err)
	}
	rsp, err := tpm2.Load{ParentHandle: parent, InPrivate: imported.OutPrivate, InPublic: area}.Execute(th.conn)
	if err != nil {
		t.Fatalf("loading the thief's key: %v", err)
	}
	public, err := tpm.ParsePublic(tpm2.Marshal(area))
	if err != nil {
		t.Fatal(err)
	}
	fake := loaded{handle: rsp.ObjectHandle, name: rsp.Name, public: public}

	// Without the check the theft succeeds...
	secret := randomBytes(t, 32)
	blob, err := tpm.UncheckedActivation(rand.Reader, th.ek.public, fake.public, secret, "x")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := tpm.ParseActivation(blob)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := activate(th.conn, th.ek, fake, parts.IDObject, parts.EncryptedSecret)
	if err != nil {
		t.Fatalf("TPM2_ActivateCredential: %v", err)
	}
	if got := th.unwrap(t, credential, parts); !bytes.Equal(got, secret) {
		t.Fatalf("the thief reads %x, the key is %x", got, secret)
	}

	// ... and with it nothing is ever wrapped to that key.
	const want = "storage root key: fixedTPM is clear: the key can live outside a TPM"
	wantError(t, tpm.CheckSRK(fake.public), want)
	_, err = tpm.Activation(rand.Reader, th.ek.public, fake.public, secret, "x")
	wantError(t, err, "making activation blob: "+want)
	_, err = tpm.ImportBlob(rand.Reader, fake.public, secret)
	wantError(t, err, "wrapping HMAC key: "+want)
}

// The public area is loaded alone, with whatever attributes the thief likes. That
// CheckSRK can believe attributes at all rests on this: a TPM lets nobody act for
// a key whose private part it does not hold.
func TestPublicAreaAsSRK(t *testing.T) {
	th := newThief(t)
	activateOnly := func(conn transport.TPM, handle tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyCommandCode{PolicySession: handle, Code: tpm2.TPMCCActivateCredential}.Execute(conn)
		return err
	}
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := (tpm2.PolicyCommandCode{Code: tpm2.TPMCCActivateCredential}).Update(calculator); err != nil {
		t.Fatal(err)
	}
	password := tpm2.PasswordAuth(nil)
	session := tpm2.Policy(tpm2.TPMAlgSHA256, 16, activateOnly)
	for _, c := range []struct {
		name    string
		policy  []byte
		auth    tpm2.Session
		verdict string // of CheckSRK
	}{
		{"the template", nil, password, ""},
		{"the template, with a session", nil, session, ""},
		{"with a policy the thief can satisfy", calculator.Hash().Digest, session,
			"storage root key: authPolicy is not empty: that of the SRK template is"},
	} {
		area := tpm2.New2B(th.area(tpm2.ECCSRKTemplate.ObjectAttributes, c.policy))
		rsp, err := tpm2.LoadExternal{InPublic: area, Hierarchy: tpm2.TPMRHOwner}.Execute(th.conn)
		if err != nil {
			t.Fatalf("%s: loading the thief's public area: %v", c.name, err)
		}
		public, err := tpm.ParsePublic(tpm2.Marshal(area))
		if err != nil {
			t.Fatal(err)
		}
		idObject, secret, err := tpm.MakeCredential(rand.Reader, th.ek.public, public.Name(), randomBytes(t, 16))
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpm2.ActivateCredential{
			ActivateHandle: tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: c.auth},
			KeyHandle:      tpm2.AuthHandle{Handle: th.ek.handle, Name: th.ek.name, Auth: th.ek.auth()},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: idObject},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
		}.Execute(th.conn)
		if !errors.Is(err, tpm2.TPMRCAuthUnavailable) {
			t.Errorf("%s: TPM2_ActivateCredential: %v, want TPM_RC_AUTH_UNAVAILABLE", c.name, err)
		}
		if err := tpm.CheckSRK(public); c.verdict == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else {
			wantError(t, err, c.verdict)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}).Execute(th.conn); err != nil {
			t.Fatal(err)
		}
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
