package tpm2_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/tpm"
)

// chip starts a software TPM in dir and opens it.
func chip(t *testing.T, dir string) *tpm2.TPM {
	t.Helper()
	return open(t, start(t, dir).Address())
}

func start(t *testing.T, dir string) *swtpm.Instance {
	t.Helper()
	i, err := swtpm.Start(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Stop(); err != nil {
			t.Error(err)
		}
	})
	return i
}

func open(t *testing.T, where string) *tpm2.TPM {
	t.Helper()
	d, err := tpm2.Open(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// raw runs go-tpm's own commands on the connection of a TPM.
type raw struct {
	ctx context.Context
	*tpm2.TPM
}

func (r raw) Send(command []byte) ([]byte, error) { return r.TPM.Send(r.ctx, command) }

// nothingLoaded checks that no transient object and no session is in the TPM.
func nothingLoaded(t *testing.T, d *tpm2.TPM) {
	t.Helper()
	for what, first := range map[string]uint32{"transient object": 0x80000000, "loaded session": 0x02000000, "saved session": 0x03000000} {
		rsp, err := gotpm.GetCapability{Capability: gotpm.TPMCapHandles, Property: first, PropertyCount: 100}.Execute(raw{context.Background(), d})
		if err != nil {
			t.Fatal(err)
		}
		handles, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range handles.Handle {
			if uint32(h)&0xff000000 == first&0xff000000 {
				t.Errorf("%s %#x was left in the TPM", what, h)
			}
		}
	}
}

func keys(t *testing.T, d *tpm2.TPM) (ek, srk []byte) {
	t.Helper()
	ek, err := d.EndorsementKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	srk, err = d.StorageRootKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ek, srk
}

// wrap plays the provisioning service.
func wrap(t *testing.T, ek, srk, key []byte) []byte {
	t.Helper()
	e, err := tpm.ParsePublic(ek)
	if err != nil {
		t.Fatal(err)
	}
	s, err := tpm.ParsePublic(srk)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := tpm.Activation(rand.Reader, e, s, key, "hub.example.net/devices/pump-7")
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// signsWith checks that the TPM's MAC is a plain HMAC with key, for messages on
// both sides of the TPM's input buffer of 1024 octets.
func signsWith(t *testing.T, d *tpm2.TPM, key []byte) {
	t.Helper()
	for _, n := range []int{0, 1, 100, 1023, 1024, 1025, 2048, 5000} {
		msg := make([]byte, n)
		rand.Read(msg)
		got, err := d.MAC(t.Context(), msg)
		if err != nil {
			t.Fatalf("MAC of %d octets: %v", n, err)
		}
		plain := hmac.New(sha256.New, key)
		plain.Write(msg)
		if !hmac.Equal(got, plain.Sum(nil)) {
			t.Fatalf("MAC of %d octets is not HMAC-SHA256 with the key", n)
		}
	}
}

func TestPrimariesAreStable(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	d := open(t, i.Address())
	ek, srk := keys(t, d)
	if len(ek) != 316 || len(srk) != 284 {
		t.Fatalf("EK of %d octets and SRK of %d; TPM2B_PUBLIC of RSA-2048 are 316 and 284", len(ek), len(srk))
	}
	for name, check := range map[string]struct {
		b     []byte
		check func(*tpm.Public) error
	}{"EK": {ek, tpm.CheckEK}, "SRK": {srk, tpm.CheckSRK}} {
		p, err := tpm.ParsePublic(check.b)
		if err == nil {
			err = check.check(p)
		}
		if err != nil {
			t.Errorf("a server would refuse the %s: %v", name, err)
		}
	}
	nothingLoaded(t, d)
	again := func(d *tpm2.TPM, after string) {
		t.Helper()
		ek2, srk2 := keys(t, d)
		if !bytes.Equal(ek, ek2) || !bytes.Equal(srk, srk2) {
			t.Errorf("the keys changed after %s", after)
		}
		if tpm.RegistrationID(ek) != tpm.RegistrationID(ek2) {
			t.Errorf("the registration ID changed after %s", after)
		}
	}
	again(d, "nothing at all")

	// The keys are those of the seeds: without the persistent copies they
	// come back the same.
	for _, h := range []gotpm.TPMHandle{0x81010001, 0x81000001} {
		evict(t, d, h)
	}
	again(d, "eviction")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again(open(t, i.Address()), "opening again")
	if err := i.Stop(); err != nil {
		t.Fatal(err)
	}
	again(chip(t, dir), "a restart of the TPM")

	other, _ := keys(t, chip(t, t.TempDir()))
	if bytes.Equal(ek, other) {
		t.Error("two TPMs have one EK")
	}
}

func evict(t *testing.T, d *tpm2.TPM, h gotpm.TPMHandle) {
	t.Helper()
	r := raw{t.Context(), d}
	public, err := gotpm.ReadPublic{ObjectHandle: h}.Execute(r)
	if err != nil {
		t.Fatal(err)
	}
	_, err = gotpm.EvictControl{
		Auth:             gotpm.TPMRHOwner,
		ObjectHandle:     gotpm.NamedHandle{Handle: h, Name: public.Name},
		PersistentHandle: h,
	}.Execute(r)
	if err != nil {
		t.Fatal(err)
	}
}

func TestConnectionOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	d := open(t, i.Address())
	before, _ := keys(t, d)
	if err := i.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.EndorsementKey(t.Context()); errs.KindOf(err) != errs.Unavailable {
		t.Fatalf("with the TPM stopped: %v", err)
	}
	start(t, dir)
	after, _ := keys(t, d)
	if !bytes.Equal(before, after) {
		t.Error("the EK changed")
	}
}

func TestVendorTemplateAndNonce(t *testing.T) {
	d := chip(t, t.TempDir())
	plain, _ := keys(t, d)
	evict(t, d, 0x81010001)

	writeNV(t, d, 0x01c00003, []byte("a vendor's nonce"))
	nonced, err := d.EndorsementKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(plain, nonced) {
		t.Error("the nonce makes no difference")
	}
	evict(t, d, 0x81010001)

	template := gotpm.RSAEKTemplate
	template.ObjectAttributes.NoDA = true
	writeNV(t, d, 0x01c00004, gotpm.Marshal(template))
	own, err := d.EndorsementKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := tpm.ParsePublic(own)
	if err != nil {
		t.Fatal(err)
	}
	if uint32(p.Attributes)&(1<<10) == 0 {
		t.Error("the vendor's template was not used")
	}
	nothingLoaded(t, d)
}

// writeNV makes an index as TPM vendors do.
func writeNV(t *testing.T, d *tpm2.TPM, index gotpm.TPMHandle, data []byte) {
	t.Helper()
	r := raw{t.Context(), d}
	_, err := gotpm.NVDefineSpace{
		AuthHandle: gotpm.TPMRHPlatform,
		PublicInfo: gotpm.New2B(gotpm.TPMSNVPublic{
			NVIndex: index,
			NameAlg: gotpm.TPMAlgSHA256,
			Attributes: gotpm.TPMANV{PPWrite: true, PPRead: true, OwnerRead: true, AuthRead: true,
				NoDA: true, PlatformCreate: true},
			DataSize: uint16(len(data)),
		}),
	}.Execute(r)
	if err != nil {
		t.Fatal(err)
	}
	public, err := gotpm.NVReadPublic{NVIndex: index}.Execute(r)
	if err != nil {
		t.Fatal(err)
	}
	offset := 0
	for part := range slices.Chunk(data, 512) {
		_, err = gotpm.NVWrite{
			AuthHandle: gotpm.TPMRHPlatform,
			NVIndex:    gotpm.NamedHandle{Handle: index, Name: public.NVName},
			Data:       gotpm.TPM2BMaxNVBuffer{Buffer: part},
			Offset:     uint16(offset),
		}.Execute(r)
		if err != nil {
			t.Fatal(err)
		}
		offset += len(part)
	}
}

func TestActivateAndMAC(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	d := open(t, i.Address())
	if _, err := d.MAC(t.Context(), []byte("hello")); errs.KindOf(err) != errs.NotFound {
		t.Fatalf("MAC before any activation: %v", err)
	}
	ek, srk := keys(t, d)
	nonce := bytes.Repeat([]byte{7}, 32)
	if err := d.Activate(t.Context(), wrap(t, ek, srk, nonce)); err != nil {
		t.Fatal(err)
	}
	signsWith(t, d, nonce)
	nothingLoaded(t, d)

	// The hub key replaces the nonce key, and survives the power.
	hub := bytes.Repeat([]byte{9}, 64)
	if err := d.Activate(t.Context(), wrap(t, ek, srk, hub)); err != nil {
		t.Fatal(err)
	}
	signsWith(t, d, hub)
	nothingLoaded(t, d)
	if err := i.Stop(); err != nil {
		t.Fatal(err)
	}
	signsWith(t, chip(t, dir), hub)
}

func TestActivateRefuses(t *testing.T) {
	d := chip(t, t.TempDir())
	ek, srk := keys(t, d)
	key := bytes.Repeat([]byte{7}, 32)
	if err := d.Activate(t.Context(), wrap(t, ek, srk, key)); err != nil {
		t.Fatal(err)
	}
	ek2, srk2 := keys(t, chip(t, t.TempDir()))

	good := wrap(t, ek, srk, bytes.Repeat([]byte{8}, 32))
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	// The offsets are those of RSA-2048 keys, an AES-128 inner key and a
	// 32-octet HMAC key.
	for _, c := range []struct {
		name string
		blob []byte
		kind errs.Kind
	}{
		{"nothing", nil, errs.Invalid},
		{"cut short", good[:700], errs.Invalid},
		{"credential integrity altered", flip(10), errs.Denied},
		{"credential altered", flip(45), errs.Denied},
		{"credential seed altered", flip(100), errs.Denied},
		{"duplicate integrity altered", flip(320), errs.Denied},
		{"duplicate altered", flip(400), errs.Denied},
		{"duplicate seed altered", flip(500), errs.Denied},
		{"unique altered", flip(750), errs.Denied},
		{"a reserved attribute", flip(720), errs.Denied},
		{"a restricted key", flip(721), errs.Invalid},
		{"another hash", flip(729), errs.Invalid},
		{"unique cut", flip(731), errs.Invalid},
		{"for another EK", wrap(t, ek2, srk, key), errs.Denied},
		{"for another SRK", wrap(t, ek, srk2, key), errs.Denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := d.Activate(t.Context(), c.blob)
			if err == nil {
				t.Fatal("accepted")
			}
			if errs.KindOf(err) != c.kind {
				t.Errorf("kind %v, want %v: %v", errs.KindOf(err), c.kind, err)
			}
			nothingLoaded(t, d)
			signsWith(t, d, key)
		})
	}
}

// Whoever listens on the bus between the processor and the chip must not learn
// the key that the identity key is wrapped with.
func TestActivateHidesTheInnerKeyOnTheBus(t *testing.T) {
	var bus bytes.Buffer
	i := start(t, t.TempDir())
	d := open(t, fakeSocket(t, func(c net.Conn) {
		up, err := net.Dial("unix", strings.TrimPrefix(i.Address(), "unix:"))
		if err != nil {
			return
		}
		defer up.Close()
		b := make([]byte, 8192)
		for {
			for _, way := range []struct {
				io.Reader
				io.Writer
			}{{c, up}, {up, c}} {
				n, err := way.Read(b)
				if err != nil {
					return
				}
				bus.Write(b[:n])
				way.Write(b[:n])
			}
		}
	}))
	ek, srk := keys(t, d)
	e, _ := tpm.ParsePublic(ek)
	s, _ := tpm.ParsePublic(srk)
	key := bytes.Repeat([]byte{7}, 32)
	blob, err := tpm.Activation(constant(0x5a), e, s, key, "hub.example.net")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Activate(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	signsWith(t, d, key)
	d.Close()
	if bytes.Contains(bus.Bytes(), bytes.Repeat([]byte{0x5a}, 16)) {
		t.Error("the inner key was on the bus in clear")
	}
}

// constant is a source of randomness that is none.
type constant byte

func (c constant) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c)
	}
	return len(p), nil
}

func TestCancelledCallLeavesNothingLoaded(t *testing.T) {
	d := chip(t, t.TempDir())
	ek, srk := keys(t, d)
	blob := wrap(t, ek, srk, bytes.Repeat([]byte{7}, 32))
	// An activation takes about fifteen commands; the context ends before,
	// within and after each.
	for n := range 20 {
		ctx := &countdown{Context: t.Context(), left: n}
		err := d.Activate(ctx, blob)
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("ended after %d commands: %v", n, err)
		}
		nothingLoaded(t, d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.MAC(ctx, make([]byte, 5000)); !errors.Is(err, context.Canceled) {
		t.Errorf("MAC with an ended context: %v", err)
	}
	nothingLoaded(t, d)
}

// A countdown is a context that ends when it has been asked often enough.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestConcurrentUse(t *testing.T) {
	d := chip(t, t.TempDir())
	ek, srk := keys(t, d)
	key := bytes.Repeat([]byte{7}, 32)
	if err := d.Activate(t.Context(), wrap(t, ek, srk, key)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 5 {
				msg := make([]byte, 3000)
				got, err := d.MAC(t.Context(), msg)
				plain := hmac.New(sha256.New, key)
				plain.Write(msg)
				if err != nil || !hmac.Equal(got, plain.Sum(nil)) {
					t.Errorf("MAC = %x, %v", got, err)
				}
			}
		}()
	}
	for range 4 {
		<-done
	}
	nothingLoaded(t, d)
}

// fakeSocket serves each connection with serve.
func fakeSocket(t *testing.T, serve func(net.Conn)) (where string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return "unix:" + path
}

// proxy passes commands on to a real TPM while hung is not closed, and then
// swallows them.
func proxy(t *testing.T, to string, hung <-chan struct{}) (where string) {
	return fakeSocket(t, func(c net.Conn) {
		up, err := net.Dial("unix", strings.TrimPrefix(to, "unix:"))
		if err != nil {
			return
		}
		defer up.Close()
		go io.Copy(c, up)
		b := make([]byte, 8192)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			select {
			case <-hung:
			default:
				up.Write(b[:n])
			}
		}
	})
}

func TestHungTPM(t *testing.T) {
	hung := make(chan struct{})
	d := open(t, proxy(t, start(t, t.TempDir()).Address(), hung))
	d.SetTimeouts(50*time.Millisecond, 50*time.Millisecond)
	close(hung)
	_, err := d.MAC(t.Context(), []byte("hello"))
	if !errors.Is(err, os.ErrDeadlineExceeded) || errs.KindOf(err) != errs.Unavailable {
		t.Fatalf("a hung TPM gives %v", err)
	}
}

func TestHungTPMAndEndingContext(t *testing.T) {
	hung := make(chan struct{})
	d := open(t, proxy(t, start(t, t.TempDir()).Address(), hung))
	d.SetTimeouts(time.Hour, 20*time.Millisecond)
	close(hung)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.MAC(ctx, []byte("hello")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a hung TPM gives %v", err)
	}
}

func TestWaitingForTheTurnEndsWithTheContext(t *testing.T) {
	hung := make(chan struct{})
	d := open(t, proxy(t, start(t, t.TempDir()).Address(), hung))
	d.SetTimeouts(time.Hour, 20*time.Millisecond)
	close(hung)
	first, release := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.MAC(first, nil)
	}()
	second, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.MAC(second, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting gives %v", err)
	}
	release()
	<-done
}

func TestOpenRefuses(t *testing.T) {
	answer := func(b ...byte) string {
		return fakeSocket(t, func(c net.Conn) {
			c.Read(make([]byte, 100))
			c.Write(b)
		})
	}
	silent := fakeSocket(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	for _, c := range []struct{ name, where, want string }{
		{"empty", "", "not a TPM address"},
		{"unknown scheme", "tbs:", "not a TPM address"},
		{"missing device", "/dev/no-such-tpm", "load its kernel driver"},
		{"missing socket", "unix:" + filepath.Join(t.TempDir(), "s"), "start the software TPM first"},
		{"over-long socket", "unix:/" + strings.Repeat("x", 200), "too long"},
		{"simulator without a port", "mssim:localhost", "mssim needs host:port"},
		{"simulator on the last port", "mssim:localhost:65535", "between 1 and 65534"},
		{"hangs up", answer(), "hung up"},
		{"hangs up within a header", answer(0x80, 1, 0), "hung up"},
		{"hangs up within a response", answer(0x80, 1, 0, 0, 0, 20, 0, 0, 0, 0), "hung up"},
		{"a tiny response", answer(0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0), "not a TPM"},
		{"a huge response", answer(0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0), "not a TPM"},
		{"a web server", answer([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")...), "not a TPM"},
		{"a TPM 1.2", answer(0, 0xc4, 0, 0, 0, 10, 0, 0, 0, 0x1e), "a TPM 2.0 is needed"},
		{"a TPM in failure mode", answer(0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1), "replace the TPM"},
		{"silence", silent, "one client at a time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			d, err := tpm2.Open(ctx, c.where)
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

func TestPasswordsAreExplained(t *testing.T) {
	d := chip(t, t.TempDir())
	_, err := gotpm.HierarchyChangeAuth{
		AuthHandle: gotpm.TPMRHOwner,
		NewAuth:    gotpm.TPM2BAuth{Buffer: []byte("secret")},
	}.Execute(raw{t.Context(), d})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.StorageRootKey(t.Context())
	if errs.KindOf(err) != errs.Forbidden || !strings.Contains(err.Error(), "tpm2_changeauth -c owner") {
		t.Errorf("with an owner password: %v", err)
	}
	_, err = d.EndorsementKey(t.Context()) // created, but not persisted
	if errs.KindOf(err) != errs.Forbidden {
		t.Errorf("with an owner password: %v", err)
	}
	nothingLoaded(t, d)
}

func TestLockoutIsExplained(t *testing.T) {
	d := chip(t, t.TempDir())
	r := raw{t.Context(), d}
	// A key that counts wrong guesses at its password, tried until the TPM
	// locks, sits where the identity key should be.
	made, err := gotpm.CreatePrimary{
		PrimaryHandle: gotpm.TPMRHOwner,
		InSensitive: gotpm.TPM2BSensitiveCreate{Sensitive: &gotpm.TPMSSensitiveCreate{
			UserAuth: gotpm.TPM2BAuth{Buffer: []byte("secret")},
		}},
		InPublic: gotpm.New2B(gotpm.TPMTPublic{
			Type:    gotpm.TPMAlgKeyedHash,
			NameAlg: gotpm.TPMAlgSHA256,
			ObjectAttributes: gotpm.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
				UserWithAuth: true, SignEncrypt: true},
			Parameters: gotpm.NewTPMUPublicParms(gotpm.TPMAlgKeyedHash, &gotpm.TPMSKeyedHashParms{
				Scheme: gotpm.TPMTKeyedHashScheme{
					Scheme:  gotpm.TPMAlgHMAC,
					Details: gotpm.NewTPMUSchemeKeyedHash(gotpm.TPMAlgHMAC, &gotpm.TPMSSchemeHMAC{HashAlg: gotpm.TPMAlgSHA256}),
				},
			}),
		}),
	}.Execute(r)
	if err != nil {
		t.Fatal(err)
	}
	_, err = gotpm.EvictControl{
		Auth:             gotpm.TPMRHOwner,
		ObjectHandle:     gotpm.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
		PersistentHandle: 0x81000100,
	}.Execute(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (gotpm.FlushContext{FlushHandle: made.ObjectHandle}).Execute(r); err != nil {
		t.Fatal(err)
	}
	if _, err := d.MAC(t.Context(), nil); errs.KindOf(err) != errs.Forbidden {
		t.Errorf("with a password on the key: %v", err)
	}
	for range 10 {
		if _, err = d.MAC(t.Context(), nil); errs.KindOf(err) == errs.Unavailable {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "tpm2_dictionarylockout") {
		t.Errorf("in lockout: %v", err)
	}
	nothingLoaded(t, d)
}

func TestForeignKeysAreExplained(t *testing.T) {
	d := chip(t, t.TempDir())
	r := raw{t.Context(), d}
	made, err := gotpm.CreatePrimary{
		PrimaryHandle: gotpm.TPMRHOwner,
		InPublic:      gotpm.New2B(gotpm.ECCSRKTemplate),
	}.Execute(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []gotpm.TPMHandle{0x81000001, 0x81010001, 0x81000100} {
		_, err = gotpm.EvictControl{
			Auth:             gotpm.TPMRHOwner,
			ObjectHandle:     gotpm.NamedHandle{Handle: made.ObjectHandle, Name: made.Name},
			PersistentHandle: h,
		}.Execute(r)
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (gotpm.FlushContext{FlushHandle: made.ObjectHandle}).Execute(r); err != nil {
		t.Fatal(err)
	}
	_, ekErr := d.EndorsementKey(t.Context())
	_, srkErr := d.StorageRootKey(t.Context())
	_, macErr := d.MAC(t.Context(), nil)
	for name, err := range map[string]error{"EK": ekErr, "SRK": srkErr, "MAC": macErr} {
		if errs.KindOf(err) != errs.Conflict {
			t.Errorf("%s: %v", name, err)
		}
	}
	nothingLoaded(t, d)
}

func TestSendRefusesWhatWouldHangTheTPM(t *testing.T) {
	d := chip(t, t.TempDir())
	for _, command := range [][]byte{
		nil,
		{0x80, 1, 0, 0, 0, 12, 0, 0, 1},
		{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0},
		{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0, 0},
		{0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0x44, 0, 0},
	} {
		if _, err := d.Send(t.Context(), command); errs.KindOf(err) != errs.Invalid {
			t.Errorf("Send(%x): %v", command, err)
		}
	}
	keys(t, d)
}

func TestClosed(t *testing.T) {
	d := chip(t, t.TempDir())
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.EndorsementKey(t.Context()); err == nil {
		t.Fatal("a closed TPM answered")
	}
}
