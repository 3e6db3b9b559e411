package tpm_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-iot/berth/tpm"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A loaded is a primary key in a TPM together with our reading of its public area.
type loaded struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	wire   []byte // TPM2B_PUBLIC
	public *tpm.Public
}

// ekSession gives a policy session the proof that an EK with PolicyA asks for.
func ekSession(conn transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: handle,
		NonceTPM:      nonce,
	}.Execute(conn)
	return err
}

func createPrimary(t *testing.T, conn transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) loaded {
	t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(conn)
	if err != nil {
		t.Fatalf("creating primary key: %v", err)
	}
	t.Cleanup(func() { tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(conn) })
	wire := tpm2.Marshal(rsp.OutPublic)
	public, err := tpm.ParsePublic(wire)
	if err != nil {
		t.Fatalf("a key that a TPM made: %v", err)
	}
	if !bytes.Equal(public.Marshal(), wire) {
		t.Errorf("marshalled again:\n%x, the TPM sent\n%x", public.Marshal(), wire)
	}
	if !bytes.Equal(public.Name(), rsp.Name.Buffer) {
		t.Errorf("name %x, the TPM says %x", public.Name(), rsp.Name.Buffer)
	}
	return loaded{rsp.ObjectHandle, rsp.Name, wire, public}
}

// auth is how ek is to be used: with a policy session, or its empty password if
// its template allows that.
func (ek loaded) auth() tpm2.Session {
	if ek.public.Attributes&tpm.UserWithAuth != 0 {
		return tpm2.PasswordAuth(nil)
	}
	return tpm2.Policy(tpm2.TPMAlgSHA256, 16, ekSession)
}

func activate(conn transport.TPM, ek, srk loaded, idObject, secret []byte) ([]byte, error) {
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: srk.handle, Name: srk.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: ek.auth()},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: idObject},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
	}.Execute(conn)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

func aes128CFB() tpm2.TPMTSymDef {
	return tpm2.TPMTSymDef{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

// importKey imports and loads an HMAC key, and returns its handle.
func importKey(t *testing.T, conn transport.TPM, srk loaded, p tpm.ImportParts) tpm2.AuthHandle {
	t.Helper()
	parent := tpm2.AuthHandle{Handle: srk.handle, Name: srk.name, Auth: tpm2.PasswordAuth(nil)}
	public := tpm2.BytesAs2B[tpm2.TPMTPublic](p.Public)
	imported, err := tpm2.Import{
		ParentHandle:  parent,
		EncryptionKey: tpm2.TPM2BData{Buffer: p.EncryptionKey},
		ObjectPublic:  public,
		Duplicate:     tpm2.TPM2BPrivate{Buffer: p.Duplicate},
		InSymSeed:     tpm2.TPM2BEncryptedSecret{Buffer: p.InSymSeed},
		Symmetric:     aes128CFB(),
	}.Execute(conn)
	if err != nil {
		t.Fatalf("TPM2_Import: %v", err)
	}
	rsp, err := tpm2.Load{ParentHandle: parent, InPrivate: imported.OutPrivate, InPublic: public}.Execute(conn)
	if err != nil {
		t.Fatalf("TPM2_Load: %v", err)
	}
	t.Cleanup(func() { tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(conn) })
	return tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)}
}

func checkHMAC(t *testing.T, conn transport.TPM, key tpm2.AuthHandle, plain []byte) {
	t.Helper()
	message := []byte("scope/registrations/pump-7\n1893456000")
	rsp, err := tpm2.Hmac{Handle: key, Buffer: tpm2.TPM2BMaxBuffer{Buffer: message}, HashAlg: tpm2.TPMAlgNull}.Execute(conn)
	if err != nil {
		t.Fatalf("TPM2_HMAC: %v", err)
	}
	mac := hmac.New(sha256.New, plain)
	mac.Write(message)
	if !bytes.Equal(rsp.OutHMAC.Buffer, mac.Sum(nil)) {
		t.Errorf("the TPM computes %x with the imported key, we %x with the plain one", rsp.OutHMAC.Buffer, mac.Sum(nil))
	}
}

func randomBytes(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// ekH is the template H-n with the given shape (TCG EK Credential Profile).
func ekH(nameAlg tpm2.TPMAlgID, policy string, symBits, rsaBits tpm2.TPMKeyBits, curve tpm2.TPMECCCurve) tpm2.TPMTPublic {
	t := tpm2.RSAEKTemplate
	t.NameAlg = nameAlg
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy.Buffer, _ = hex.DecodeString(policy)
	symmetric := tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, symBits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
	if rsaBits != 0 {
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: symmetric, KeyBits: rsaBits})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
		return t
	}
	t.Type = tpm2.TPMAlgECC
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: symmetric, CurveID: curve})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// The policies of the templates H-1 to H-7, by digest.
const (
	policyB256 = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
	policyB384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
	policyB512 = "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a429c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"
)

// ekTemplates are those of the profile, less RSA-4096, which software TPMs of our
// day do not make.
var ekTemplates = []struct {
	name     string
	template tpm2.TPMTPublic
}{
	{"L-1 RSA-2048", tpm2.RSAEKTemplate},
	{"L-2 P-256", tpm2.ECCEKTemplate},
	{"H-1 RSA-2048", ekH(tpm2.TPMAlgSHA256, policyB256, 128, 2048, 0)},
	{"H-2 P-256", ekH(tpm2.TPMAlgSHA256, policyB256, 128, 0, tpm2.TPMECCNistP256)},
	{"H-3 P-384", ekH(tpm2.TPMAlgSHA384, policyB384, 256, 0, tpm2.TPMECCNistP384)},
	{"H-4 P-521", ekH(tpm2.TPMAlgSHA512, policyB512, 256, 0, tpm2.TPMECCNistP521)},
	{"H-6 RSA-3072", ekH(tpm2.TPMAlgSHA384, policyB384, 256, 3072, 0)},
}

// p384SRK is a storage root key whose name algorithm is not that of the HMAC key.
func p384SRK() tpm2.TPMTPublic {
	t := ekH(tpm2.TPMAlgSHA384, "", 256, 0, tpm2.TPMECCNistP384)
	t.ObjectAttributes = tpm2.ECCSRKTemplate.ObjectAttributes
	return t
}

// A device does with our blob what device SDKs do, in a TPM.
func TestActivationInTPM(t *testing.T) {
	conn := startTPM(t).open(t)
	for _, srkCase := range []struct {
		name     string
		template tpm2.TPMTPublic
	}{
		{"RSA-2048", tpm2.RSASRKTemplate},
		{"P-256", tpm2.ECCSRKTemplate},
		{"P-384", p384SRK()},
	} {
		t.Run("SRK "+srkCase.name, func(t *testing.T) {
			srk := createPrimary(t, conn, tpm2.TPMRHOwner, srkCase.template)
			for _, ekCase := range ekTemplates {
				t.Run("EK "+ekCase.name, func(t *testing.T) {
					ek := createPrimary(t, conn, tpm2.TPMRHEndorsement, ekCase.template)
					for _, size := range []int{16, 32, 64} {
						checkActivation(t, conn, ek, srk, randomBytes(t, size))
					}
				})
			}
		})
	}
}

func checkActivation(t *testing.T, conn transport.TPM, ek, srk loaded, key []byte) {
	t.Helper()
	blob, err := tpm.Activation(rand.Reader, ek.public, srk.public, key, "hub.example.net/devices/pump-7")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := tpm.ParseActivation(blob)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := activate(conn, ek, srk, parts.IDObject, parts.EncryptedSecret)
	if err != nil {
		t.Fatalf("TPM2_ActivateCredential: %v", err)
	}
	handle := importKey(t, conn, srk, tpm.ImportParts{
		EncryptionKey: credential,
		Public:        parts.Public,
		Duplicate:     parts.Duplicate,
		InSymSeed:     parts.InSymSeed,
	})
	defer tpm2.FlushContext{FlushHandle: handle.Handle}.Execute(conn)
	checkHMAC(t, conn, handle, key)
	checkStaysPut(t, conn, handle)
}

// checkStaysPut tries to get the imported key out of the TPM again.
func checkStaysPut(t *testing.T, conn transport.TPM, key tpm2.AuthHandle) {
	t.Helper()
	key.Auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(conn transport.TPM, handle tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyCommandCode{PolicySession: handle, Code: tpm2.TPMCCDuplicate}.Execute(conn)
		return err
	})
	_, err := tpm2.Duplicate{
		ObjectHandle:    key,
		NewParentHandle: tpm2.TPMRHNull,
		Symmetric:       tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
	}.Execute(conn)
	if err == nil {
		t.Error("the TPM gave the imported key away")
	}
}

// A device with another EK, or another SRK, learns nothing.
func TestActivationInWrongTPM(t *testing.T) {
	conn := startTPM(t).open(t)
	ek := createPrimary(t, conn, tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate)
	srk := createPrimary(t, conn, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	other := startTPM(t).open(t)
	otherEK := createPrimary(t, other, tpm2.TPMRHEndorsement, tpm2.RSAEKTemplate)
	otherSRK := createPrimary(t, other, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)

	blob, err := tpm.Activation(rand.Reader, ek.public, srk.public, randomBytes(t, 32), "x")
	if err != nil {
		t.Fatal(err)
	}
	parts, err := tpm.ParseActivation(blob)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := activate(other, otherEK, otherSRK, parts.IDObject, parts.EncryptedSecret); err == nil {
		t.Error("activated with another TPM's EK")
	}
	secondSRK := createPrimary(t, conn, tpm2.TPMRHOwner, tpm2.RSASRKTemplate)
	if _, err := activate(conn, ek, secondSRK, parts.IDObject, parts.EncryptedSecret); err == nil {
		t.Error("activated for another SRK")
	}
	if _, err := activate(conn, ek, srk, parts.IDObject, parts.EncryptedSecret); err != nil {
		t.Errorf("not activated by the right TPM: %v", err)
	}
}

// tpm2-tools open our credentials with keys they made.
func TestCredentialForTools(t *testing.T) {
	soft, dir := startTPM(t), t.TempDir()
	soft.tool(t, dir, "tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
	soft.tool(t, dir, "tpm2_flushcontext", "-t") // the tools leave objects in the TPM's few slots
	soft.tool(t, dir, "tpm2_createprimary", "-C", "o", "-c", "srk.ctx", "-g", "sha256", "-G", "ecc",
		"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
	soft.tool(t, dir, "tpm2_readpublic", "-c", "srk.ctx", "-o", "srk.pub", "-n", "srk.name")
	soft.tool(t, dir, "tpm2_flushcontext", "-t")
	ek, srk := readPublic(t, dir, "ek.pub"), readPublic(t, dir, "srk.pub")
	if err := tpm.CheckEK(ek); err != nil {
		t.Error(err)
	}
	if err := tpm.CheckSRK(srk); err != nil {
		t.Error(err)
	}
	if name := readFile(t, dir, "srk.name"); !bytes.Equal(name, srk.Name()) {
		t.Errorf("name of the SRK %x, tpm2-tools say %x", srk.Name(), name)
	}

	credential := randomBytes(t, 32)
	idObject, secret, err := tpm.MakeCredential(rand.Reader, ek, srk.Name(), credential)
	if err != nil {
		t.Fatal(err)
	}
	// The file format of tpm2-tools: magic, version, and both structures with sizes.
	file := []byte{0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1}
	file = append(binary.BigEndian.AppendUint16(file, uint16(len(idObject))), idObject...)
	file = append(binary.BigEndian.AppendUint16(file, uint16(len(secret))), secret...)
	if err := os.WriteFile(filepath.Join(dir, "credential"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	soft.tool(t, dir, "tpm2_startauthsession", "--policy-session", "-S", "session")
	soft.tool(t, dir, "tpm2_policysecret", "-S", "session", "-c", "e")
	soft.tool(t, dir, "tpm2_activatecredential", "-c", "srk.ctx", "-C", "ek.ctx",
		"-i", "credential", "-o", "opened", "-P", "session:session")
	if opened := readFile(t, dir, "opened"); !bytes.Equal(opened, credential) {
		t.Errorf("tpm2_activatecredential opened %x, we made %x", opened, credential)
	}
}

func readFile(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readPublic(t *testing.T, dir, name string) *tpm.Public {
	t.Helper()
	p, err := tpm.ParsePublic(readFile(t, dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}
