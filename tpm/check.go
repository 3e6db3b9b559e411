package tpm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
)

// A rule says what one attribute must be, and what goes wrong otherwise.
type rule struct {
	attribute Attributes
	set       bool
	otherwise string
}

// inTPM is what makes a key one that was made in a TPM and stays there, and that
// decrypts only what a TPM then keeps to itself.
var inTPM = []rule{
	{FixedTPM, true, "the key can live outside a TPM"},
	{FixedParent, true, "the key can be moved to another parent"},
	{SensitiveDataOrigin, true, "the private part was made outside the TPM"},
	{EncryptedDuplication, false, "the key is made to be duplicated"},
	{Restricted, true, "the key decrypts for its user what was meant for the TPM"},
	{Decrypt, true, "the key opens nothing that is wrapped to it"},
	{SignEncrypt, false, "the key also signs"},
	{X509Sign, false, "the key also signs certificates"},
	{STClear, false, "the key does not last over a restart"},
	{FirmwareLimited, false, "the key does not last over a firmware update"},
	{SVNLimited, false, "the key does not last over a firmware update"},
}

// ekRules and srkRules are what the templates ask for beyond that.
var (
	ekRules = []rule{
		{AdminWithPolicy, true, "the TCG templates leave it to the policy who administers the key"},
		{NoDA, false, "the TCG templates protect the key against guessing"},
	}
	srkRules = []rule{
		{UserWithAuth, true, "nobody can load a key under it"},
		{AdminWithPolicy, false, "nobody can activate a credential for it"},
	}
)

func (r rule) check(a Attributes) error {
	if (a&r.attribute != 0) == r.set {
		return nil
	}
	state := "set"
	if r.set {
		state = "clear"
	}
	return fmt.Errorf("%v is %s: %s", r.attribute, state, r.otherwise)
}

func checkRules(a Attributes, rules ...[]rule) error {
	for _, list := range rules {
		for _, r := range list {
			if err := r.check(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckSRK reports why p cannot be trusted as storage root key, or nil. A key that
// passes has the attributes of the SRK template (TCG TPM 2.0 Provisioning
// Guidance), with or without noDA. It is a pure function of the public area: the
// caller still has to learn that the key is in the right TPM, which a credential
// bound to its Name proves (MakeCredential), and which means something only for a
// key that passes.
//
// Whoever can use a TPM can put a storage key into it whose private part they
// know, have a credential activated for that key, and read in clear what was
// wrapped to it. TPM2_Import lets them do so only with fixedTPM clear. A public
// area loaded without its private part may carry any attributes, but the TPM lets
// nobody act for it; that authPolicy must be empty keeps a policy out of that
// argument.
func CheckSRK(p *Public) error {
	err := p.check()
	if err == nil {
		err = checkRules(p.Attributes, inTPM, srkRules)
	}
	if err == nil && len(p.AuthPolicy) != 0 {
		err = errors.New("authPolicy is not empty: that of the SRK template is")
	}
	if err != nil {
		return fmt.Errorf("storage root key: %w", err)
	}
	return nil
}

// CheckEK reports why p cannot be an endorsement key, or nil. A key that passes
// follows one of the templates of the TCG EK Credential Profile 2.x: L-1 and L-2
// (policy PolicyA) or H-1 to H-7 except the SM2 one (policy PolicyB). Whose key it
// is, the caller has to know from an enrollment or an EK certificate.
func CheckEK(p *Public) error {
	err := p.check()
	if err == nil {
		err = checkRules(p.Attributes, inTPM, ekRules)
	}
	if err == nil {
		err = checkEKTemplate(p)
	}
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	return nil
}

// checkEKTemplate compares what depends on the kind of key.
func checkEKTemplate(p *Public) error {
	nameAlg, bits := AlgSHA384, uint16(256) // H-3, H-6, H-7
	switch {
	case p.Type == AlgRSA && p.Bits == 2048, p.Type == AlgECC && p.Curve == CurveP256: // L-1, L-2, H-1, H-2
		nameAlg, bits = AlgSHA256, 128
	case p.Type == AlgECC && p.Curve == CurveP521: // H-4
		nameAlg = AlgSHA512
	}
	if p.NameAlg != nameAlg {
		return fmt.Errorf("nameAlg is %v: the TCG template for this kind of key has %v", p.NameAlg, nameAlg)
	}
	if p.Symmetric.Bits != bits {
		return fmt.Errorf("symmetric key size is %d bits: the TCG template for this kind of key has %d", p.Symmetric.Bits, bits)
	}
	if p.Attributes&UserWithAuth != 0 {
		if !bytes.Equal(p.AuthPolicy, policyB[nameAlg]) {
			return errors.New("authPolicy is not PolicyB: the TCG templates with userWithAuth have no other")
		}
		return nil
	}
	if nameAlg != AlgSHA256 {
		return errors.New("userWithAuth is clear: the TCG template for this kind of key sets it")
	}
	if !bytes.Equal(p.AuthPolicy, policyA) {
		return errors.New("authPolicy is not PolicyA: the TCG templates without userWithAuth have no other")
	}
	return nil
}

// The policies of the TCG EK Credential Profile. PolicyA asks for the
// authorization of the endorsement hierarchy: PolicySecret(TPM_RH_ENDORSEMENT).
// PolicyB is satisfied by PolicyA or by a policy that the owner of an NV index
// writes there: PolicyOR(PolicyA, PolicyAuthorizeNV(I-1, I-2 or I-3)).
var (
	policyA = unhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
	policyB = map[Alg][]byte{
		AlgSHA256: unhex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"),
		AlgSHA384: unhex("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419ca" +
			"cb47ba09699646150f9fc000f3f80e12"),
		AlgSHA512: unhex("b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4" +
			"29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"),
	}
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}
