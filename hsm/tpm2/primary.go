package tpm2

import (
	"context"
	"errors"
	"fmt"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/errs"
)

// NV indices in which a vendor may say how its endorsement key was made. TCG EK
// Credential Profile for TPM Family 2.0, "Low Range".
const (
	nonceIndex    = gotpm.TPMHandle(0x01c00003)
	templateIndex = gotpm.TPMHandle(0x01c00004)
)

// A primary is a key that the TPM derives from a hierarchy's seed: the same
// seed and template give the same key for ever.
type primary struct {
	name      string
	handle    gotpm.TPMHandle
	hierarchy gotpm.TPMHandle
	template  func(*link) (gotpm.TPMTPublic, error)
}

var (
	endorsement = primary{"endorsement key", 0x81010001, gotpm.TPMRHEndorsement, endorsementTemplate}

	// storage has the SRK template of the TCG TPM v2.0 Provisioning Guidance.
	storage = primary{"storage root key", 0x81000001, gotpm.TPMRHOwner,
		func(*link) (gotpm.TPMTPublic, error) { return gotpm.RSASRKTemplate, nil }}
)

// An object is something loaded or persistent in the TPM.
type object struct {
	handle gotpm.TPMHandle
	name   gotpm.TPM2BName
	public gotpm.TPM2BPublic
}

// auth authorises the use of o in a command.
func (o object) auth(s gotpm.Session) gotpm.AuthHandle {
	return gotpm.AuthHandle{Handle: o.handle, Name: o.name, Auth: s}
}

// named names o in a command that needs no authorisation from it.
func (o object) named() gotpm.NamedHandle {
	return gotpm.NamedHandle{Handle: o.handle, Name: o.name}
}

// empty authorises with the empty password.
func empty() gotpm.Session { return gotpm.PasswordAuth(nil) }

// EndorsementKey returns the public area of the endorsement key as TPM2B_PUBLIC,
// 316 octets. The TPM's registration ID is made of it. Where 0x81010001 is
// empty the RSA-2048 key of the TCG template L-1 (or of the vendor's template
// and nonce, where NV holds them) is created and persisted, which takes a chip
// up to a minute; it is the key that the vendor's certificate is for.
func (t *TPM) EndorsementKey(ctx context.Context) ([]byte, error) {
	return t.primary(ctx, endorsement)
}

// StorageRootKey returns the public area of the storage root key as
// TPM2B_PUBLIC, 284 octets, creating and persisting it at 0x81000001 where it
// is missing. It changes when the TPM is cleared.
func (t *TPM) StorageRootKey(ctx context.Context) ([]byte, error) {
	return t.primary(ctx, storage)
}

func (t *TPM) primary(ctx context.Context, p primary) ([]byte, error) {
	var public []byte
	err := t.use(ctx, func(l *link) error {
		o, err := l.primary(p)
		public = gotpm.Marshal(o.public)
		return err
	})
	if err != nil {
		return nil, err
	}
	return public, nil
}

// primary finds p at its handle, or puts it there.
func (l *link) primary(p primary) (object, error) {
	o, err := l.persistent(p.handle)
	if errs.KindOf(err) == errs.NotFound {
		if err := l.create(p); err != nil {
			return object{}, err
		}
		o, err = l.persistent(p.handle)
	}
	if err != nil {
		return object{}, fmt.Errorf("reading the %s: %w", p.name, err)
	}
	if !isStorageKey(o.public) {
		return object{}, errs.New(errs.Conflict, 0,
			"%#x holds something other than an RSA %s; remove it with tpm2_evictcontrol -C o -c %#x and try again", uint32(p.handle), p.name, uint32(p.handle))
	}
	return o, nil
}

// create makes p and persists it. Another program may do so at the same time:
// it makes the same key.
func (l *link) create(p primary) (err error) {
	template, err := p.template(l)
	if err != nil {
		return fmt.Errorf("finding the template of the %s: %w", p.name, err)
	}
	made, err := gotpm.CreatePrimary{
		PrimaryHandle: gotpm.AuthHandle{Handle: p.hierarchy, Auth: empty()},
		InPublic:      gotpm.New2B(template),
	}.Execute(l)
	if err != nil {
		return explain("creating the "+p.name, err)
	}
	defer func() { err = errors.Join(err, l.flush(made.ObjectHandle)) }()
	err = l.evictControl(object{handle: made.ObjectHandle, name: made.Name}, p.handle)
	if err != nil && !errors.Is(err, gotpm.TPMRCNVDefined) {
		return explain("persisting the "+p.name, err)
	}
	return nil
}

// persistent reads what is at a persistent handle. If there is nothing the
// error is of kind errs.NotFound.
func (l *link) persistent(handle gotpm.TPMHandle) (object, error) {
	rsp, err := gotpm.ReadPublic{ObjectHandle: handle}.Execute(l)
	if errors.Is(err, gotpm.TPMRCHandle) {
		return object{}, errs.New(errs.NotFound, 0, "there is no key at %#x", uint32(handle)).WithCause(err)
	}
	if err != nil {
		return object{}, explain("reading a public area", err)
	}
	return object{handle: handle, name: rsp.Name, public: rsp.OutPublic}, nil
}

// evictControl makes a transient object persistent at a handle, or removes the
// persistent object o when that is the handle it has.
func (l *link) evictControl(o object, at gotpm.TPMHandle) error {
	_, err := gotpm.EvictControl{
		Auth:             gotpm.AuthHandle{Handle: gotpm.TPMRHOwner, Auth: empty()},
		ObjectHandle:     o.named(),
		PersistentHandle: at,
	}.Execute(l)
	return err
}

// isStorageKey says whether a public area is that of an RSA storage key of this
// very TPM, which both the EK and the SRK are.
func isStorageKey(public gotpm.TPM2BPublic) bool {
	p, err := public.Contents()
	if err != nil {
		return false
	}
	a := p.ObjectAttributes
	return p.Type == gotpm.TPMAlgRSA && a.FixedTPM && a.FixedParent && a.Restricted && a.Decrypt && !a.SignEncrypt
}

// endorsementTemplate is the template L-1 unless the vendor left another in NV.
// A vendor's nonce replaces the start of the template's unique field.
func endorsementTemplate(l *link) (gotpm.TPMTPublic, error) {
	template := gotpm.RSAEKTemplate
	if b, err := l.readNV(templateIndex); err == nil {
		own, err := gotpm.Unmarshal[gotpm.TPMTPublic](b)
		if err != nil {
			return template, fmt.Errorf("the template in NV index %#x: %w", uint32(templateIndex), err)
		}
		template = *own
	} else if errs.KindOf(err) != errs.NotFound {
		return template, err
	}
	nonce, err := l.readNV(nonceIndex)
	if errs.KindOf(err) == errs.NotFound {
		return template, nil
	}
	if err != nil {
		return template, err
	}
	unique := make([]byte, 256)
	if template.Type != gotpm.TPMAlgRSA || len(nonce) > len(unique) {
		return template, fmt.Errorf("the nonce in NV index %#x does not fit an RSA-2048 template", uint32(nonceIndex))
	}
	copy(unique, nonce)
	template.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: unique})
	return template, nil
}

// readNV reads a whole NV index, with the index's own empty password. If it is
// not defined, or nothing was ever written to it, the error is of kind
// errs.NotFound.
func (l *link) readNV(index gotpm.TPMHandle) ([]byte, error) {
	rsp, err := gotpm.NVReadPublic{NVIndex: index}.Execute(l)
	if errors.Is(err, gotpm.TPMRCHandle) {
		return nil, errs.New(errs.NotFound, 0, "there is no NV index %#x", uint32(index)).WithCause(err)
	}
	doing := fmt.Sprintf("reading NV index %#x", uint32(index))
	if err != nil {
		return nil, explain(doing, err)
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	// 512 octets at a time is less than the smallest TPM_PT_NV_BUFFER_MAX.
	var data []byte
	for len(data) < int(public.DataSize) {
		part, err := gotpm.NVRead{
			AuthHandle: gotpm.AuthHandle{Handle: index, Name: rsp.NVName, Auth: empty()},
			NVIndex:    gotpm.NamedHandle{Handle: index, Name: rsp.NVName},
			Size:       min(512, public.DataSize-uint16(len(data))),
			Offset:     uint16(len(data)),
		}.Execute(l)
		if errors.Is(err, gotpm.TPMRCNVUninitialized) {
			return nil, errs.New(errs.NotFound, 0, "NV index %#x is empty", uint32(index)).WithCause(err)
		}
		if err != nil {
			return nil, explain(doing, err)
		}
		if len(part.Data.Buffer) == 0 {
			return nil, fmt.Errorf("%s: the TPM gave nothing at offset %d", doing, len(data))
		}
		data = append(data, part.Data.Buffer...)
	}
	return data, nil
}
