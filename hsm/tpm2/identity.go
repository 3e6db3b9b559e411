package tpm2

import (
	"context"
	"errors"
	"fmt"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/tpm"
)

// identityHandle is where the identity key is persisted.
const identityHandle = gotpm.TPMHandle(0x81000100)

// innerKeySize is the size of the AES-128 key that the credential protects.
const innerKeySize = 16

// Activate takes in the identity key that a provisioning service wrapped for
// this TPM (the authenticationKey of its answer, decoded from base64) and
// persists it in place of the one before. The key is never seen outside the
// TPM, and the inner wrapping key crosses the bus only encrypted.
//
// If blob is malformed the error is of kind errs.Invalid, and if the TPM refuses
// it, because it was made for another TPM, altered, or made before the TPM was
// cleared, of kind errs.Denied. In both cases the key before stays in its
// place. Only a fault between removing it and persisting the new one leaves
// none: then register again.
func (t *TPM) Activate(ctx context.Context, blob []byte) error {
	parts, err := tpm.ParseActivation(blob)
	if err != nil {
		return errs.New(errs.Invalid, 0, "the activation blob is malformed").WithCause(err)
	}
	public, err := identityPublic(parts.Public)
	if err != nil {
		return err
	}
	return t.use(ctx, func(l *link) error { return l.activate(parts, public) })
}

// identityPublic checks that b is the TPMT_PUBLIC of a key that MAC can use, so
// that a key that can is never given up for one that cannot.
func identityPublic(b []byte) (gotpm.TPM2BPublic, error) {
	p, err := gotpm.Unmarshal[gotpm.TPMTPublic](b)
	if err != nil {
		return gotpm.TPM2BPublic{}, errs.New(errs.Invalid, 0, "the activation blob's public area is malformed").WithCause(err)
	}
	public := gotpm.New2B(*p)
	if !isHMACKey(public) {
		return gotpm.TPM2BPublic{}, errs.New(errs.Invalid, 0, "the activation blob's key is not an HMAC-SHA256 signing key")
	}
	return public, nil
}

// isHMACKey says whether a public area is that of an HMAC-SHA256 key whose use
// takes its password.
func isHMACKey(public gotpm.TPM2BPublic) bool {
	p, err := public.Contents()
	if err != nil || p.Type != gotpm.TPMAlgKeyedHash {
		return false
	}
	parameters, err := p.Parameters.KeyedHashDetail()
	if err != nil || parameters.Scheme.Scheme != gotpm.TPMAlgHMAC {
		return false
	}
	scheme, err := parameters.Scheme.Details.HMAC()
	a := p.ObjectAttributes
	return err == nil && scheme.HashAlg == gotpm.TPMAlgSHA256 && a.SignEncrypt && a.UserWithAuth && !a.Decrypt && !a.Restricted
}

func (l *link) activate(parts tpm.ActivationParts, public gotpm.TPM2BPublic) (err error) {
	ek, err := l.primary(endorsement)
	if err != nil {
		return err
	}
	srk, err := l.primary(storage)
	if err != nil {
		return err
	}
	ekPublic, err := ek.public.Contents()
	if err != nil {
		return fmt.Errorf("reading the endorsement key: %w", err)
	}
	// The session's key is salted with the EK, so whoever listens on the bus
	// cannot derive it. It hides the inner key on its way out of
	// ActivateCredential and into Import.
	session, _, err := gotpm.HMACSession(l, gotpm.TPMAlgSHA256, 16,
		gotpm.Salted(ek.handle, *ekPublic), gotpm.AESEncryption(128, gotpm.EncryptInOut))
	if err != nil {
		return explain("starting an encrypted session", err)
	}
	defer func() { err = errors.Join(err, l.flush(session.Handle())) }()

	inner, err := l.activateCredential(ek, srk, session, parts)
	if err != nil {
		return err
	}
	imported, err := gotpm.Import{
		ParentHandle:  srk.auth(session),
		EncryptionKey: gotpm.TPM2BData{Buffer: inner},
		ObjectPublic:  public,
		Duplicate:     gotpm.TPM2BPrivate{Buffer: parts.Duplicate},
		InSymSeed:     gotpm.TPM2BEncryptedSecret{Buffer: parts.InSymSeed},
		Symmetric: gotpm.TPMTSymDef{
			Algorithm: gotpm.TPMAlgAES,
			KeyBits:   gotpm.NewTPMUSymKeyBits(gotpm.TPMAlgAES, gotpm.TPMKeyBits(8*innerKeySize)),
			Mode:      gotpm.NewTPMUSymMode(gotpm.TPMAlgAES, gotpm.TPMAlgCFB),
		},
	}.Execute(l)
	if err != nil {
		return l.refused("importing the identity key", err)
	}
	loaded, err := gotpm.Load{
		ParentHandle: srk.auth(session),
		InPrivate:    imported.OutPrivate,
		InPublic:     public,
	}.Execute(l)
	if err != nil {
		return l.refused("loading the identity key", err)
	}
	defer func() { err = errors.Join(err, l.flush(loaded.ObjectHandle)) }()

	return l.replaceIdentity(object{handle: loaded.ObjectHandle, name: loaded.Name})
}

// activateCredential has the EK decrypt the inner wrapping key, which the TPM
// gives out only while it holds the SRK that the credential names. TPM 2.0
// Library Part 1, "Credential Protection".
func (l *link) activateCredential(ek, srk object, session gotpm.Session, parts tpm.ActivationParts) (inner []byte, err error) {
	policy, _, err := gotpm.PolicySession(l, gotpm.TPMAlgSHA256, 16)
	if err != nil {
		return nil, explain("starting a policy session", err)
	}
	defer func() { err = errors.Join(err, l.flush(policy.Handle())) }()
	_, err = gotpm.PolicySecret{
		AuthHandle:    gotpm.AuthHandle{Handle: gotpm.TPMRHEndorsement, Auth: empty()},
		PolicySession: policy.Handle(),
		NonceTPM:      policy.NonceTPM(),
	}.Execute(l)
	if err != nil {
		return nil, explain("authorising the endorsement key", err)
	}
	rsp, err := gotpm.ActivateCredential{
		ActivateHandle: srk.auth(session),
		KeyHandle:      ek.auth(policy),
		CredentialBlob: gotpm.TPM2BIDObject{Buffer: parts.IDObject},
		Secret:         gotpm.TPM2BEncryptedSecret{Buffer: parts.EncryptedSecret},
	}.Execute(l)
	if err != nil {
		return nil, l.refused("activating the credential", err)
	}
	if n := len(rsp.CertInfo.Buffer); n != innerKeySize {
		return nil, errs.New(errs.Invalid, 0, "the credential holds a key of %d octets instead of %d", n, innerKeySize)
	}
	return rsp.CertInfo.Buffer, nil
}

// replaceIdentity persists o as the identity key. A TPM cannot do so in one
// step, so this is the last thing done, when all that can be refused has been.
func (l *link) replaceIdentity(o object) error {
	before, err := l.persistent(identityHandle)
	switch {
	case errs.KindOf(err) == errs.NotFound:
	case err != nil:
		return fmt.Errorf("reading the identity key before: %w", err)
	default:
		if err := l.evictControl(before, identityHandle); err != nil {
			return explain("removing the identity key before", err)
		}
	}
	if err := l.evictControl(o, identityHandle); err != nil {
		return explain("persisting the identity key", err)
	}
	return nil
}

// refused is explain for the commands that judge an activation blob: what they
// find wrong with it is the blob's fault. Some TPMs answer TPM_RC_FAILURE to a
// seed that they cannot decrypt; one that is really in failure mode answers so
// to everything.
func (l *link) refused(doing string, err error) error {
	explained := explain(doing, err)
	rc, answered := errors.AsType[gotpm.TPMRC](err)
	switch {
	case !answered || rc.IsWarning():
		return explained
	case rc == gotpm.TPMRCFailure:
		if _, dead := l.persistent(endorsement.handle); dead != nil {
			return explained
		}
	case errs.KindOf(explained) != errs.Internal: // there is advice for this code
		return explained
	}
	return errs.New(errs.Denied, 0, "%s: the TPM refuses the activation blob; register again", doing).WithCause(err)
}

// MAC returns the HMAC-SHA256 of msg, 32 octets, under the identity key. If none
// was activated yet the error is of kind errs.NotFound. A message longer than
// the TPM's input buffer goes in as a sequence.
func (t *TPM) MAC(ctx context.Context, msg []byte) ([]byte, error) {
	var mac []byte
	err := t.use(ctx, func(l *link) error {
		key, err := l.persistent(identityHandle)
		if errs.KindOf(err) == errs.NotFound {
			return errs.New(errs.NotFound, 0, "the TPM holds no identity key; register the device first").WithCause(err)
		}
		if err != nil {
			return fmt.Errorf("reading the identity key: %w", err)
		}
		if !isHMACKey(key.public) {
			return errs.New(errs.Conflict, 0, "%#x holds something other than an HMAC-SHA256 key; register the device again", uint32(identityHandle))
		}
		if len(msg) <= l.t.inputBuffer {
			mac, err = l.mac(key, msg)
		} else {
			mac, err = l.macSequence(key, msg)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return mac, nil
}

func (l *link) mac(key object, msg []byte) ([]byte, error) {
	rsp, err := gotpm.Hmac{
		Handle:  key.auth(empty()),
		Buffer:  gotpm.TPM2BMaxBuffer{Buffer: msg},
		HashAlg: gotpm.TPMAlgSHA256,
	}.Execute(l)
	if err != nil {
		return nil, explain("computing an HMAC", err)
	}
	return rsp.OutHMAC.Buffer, nil
}

// macSequence feeds msg to the TPM piece by piece. Completing a sequence
// flushes it, failing does not.
func (l *link) macSequence(key object, msg []byte) (mac []byte, err error) {
	started, err := gotpm.HmacStart{Handle: key.auth(empty()), HashAlg: gotpm.TPMAlgSHA256}.Execute(l)
	if err != nil {
		return nil, explain("starting an HMAC sequence", err)
	}
	sequence := gotpm.AuthHandle{Handle: started.SequenceHandle, Auth: empty()}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.flush(started.SequenceHandle))
		}
	}()
	for len(msg) > l.t.inputBuffer {
		_, err = gotpm.SequenceUpdate{
			SequenceHandle: sequence,
			Buffer:         gotpm.TPM2BMaxBuffer{Buffer: msg[:l.t.inputBuffer]},
		}.Execute(l)
		if err != nil {
			return nil, explain("updating an HMAC sequence", err)
		}
		msg = msg[l.t.inputBuffer:]
	}
	rsp, err := gotpm.SequenceComplete{
		SequenceHandle: sequence,
		Buffer:         gotpm.TPM2BMaxBuffer{Buffer: msg},
		Hierarchy:      gotpm.TPMRHNull,
	}.Execute(l)
	if err != nil {
		return nil, explain("completing an HMAC sequence", err)
	}
	return rsp.Result.Buffer, nil
}
