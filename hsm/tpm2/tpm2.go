// Package tpm2 is a device's TPM 2.0: its endorsement key, its storage root
// key, and the identity key that a provisioning service wraps for it and that
// signs for the device ever after without leaving the chip.
//
// Keys live where every Azure device SDK looks for them, so a device can move
// between those SDKs and this package:
//
//	0x81010001  endorsement key (EK), RSA-2048
//	0x81000001  storage root key (SRK), RSA-2048
//	0x81000100  identity key, HMAC-SHA256
//
// The owner and endorsement hierarchies must have empty passwords, as those
// SDKs also require.
package tpm2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/errs"
)

const (
	// dialTimeout bounds reaching the TPM and its first answer. A software TPM
	// answers in milliseconds, and the kernel has started a chip long before.
	dialTimeout = 5 * time.Second

	// commandTimeout bounds one command. Making an RSA primary key takes some
	// chips a minute.
	commandTimeout = 2 * time.Minute

	// cleanupTimeout is what a command in flight gets when its context ends,
	// and what flushing gets afterwards: a chip cannot be interrupted, and an
	// object whose handle was never read could not be flushed.
	cleanupTimeout = 5 * time.Second
)

// A TPM is a connection to a TPM 2.0. It is safe for concurrent use: each
// method has the TPM for itself until it returns, and leaves no transient
// object and no session behind. A connection that broke is dialled again by the
// next call.
type TPM struct {
	where string

	commandTimeout time.Duration
	cleanupTimeout time.Duration

	turn chan struct{} // holds a token while a method uses the fields below
	conn channel       // nil after a fault, and once closed
	shut bool

	inputBuffer int // TPM_PT_INPUT_BUFFER, octets
}

// Open connects to a TPM and makes sure that it answers. where is one of
//
//	/dev/tpmrm0        a character device; the one with the resource manager is
//	                   to be preferred to /dev/tpm0
//	unix:/path/sock    a raw command stream, as from swtpm --server type=unixio
//	mssim:host:port    the simulator's TCP protocol; the platform port is port+1.
//	                   The TPM is powered on
//
// On the last two TPM2_Startup is sent where it was not yet. Sockets are given
// five seconds to answer. A software TPM serves one client at a time, so the
// connection is held until Close and other clients wait.
func Open(ctx context.Context, where string) (*TPM, error) {
	t := &TPM{
		where:          where,
		commandTimeout: commandTimeout,
		cleanupTimeout: cleanupTimeout,
		turn:           make(chan struct{}, 1),
	}
	if err := t.dial(ctx); err != nil {
		return nil, fmt.Errorf("opening TPM %s: %w", where, err)
	}
	return t, nil
}

// Close gives the connection up, after the method that is using it. The keys
// stay in the TPM. Closing twice is harmless.
func (t *TPM) Close() error {
	t.turn <- struct{}{}
	defer func() { <-t.turn }()
	t.shut = true
	if t.conn == nil {
		return nil
	}
	err := t.conn.Close()
	t.conn = nil
	return err
}

// Send carries one marshalled TPM command and returns the marshalled response,
// whatever its response code. It is for commands that this package has no
// method for; what those leave loaded is the caller's to flush. If the size in
// the command's header is not its length the error is of kind errs.Invalid.
func (t *TPM) Send(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) < headerSize || uint64(binary.BigEndian.Uint32(command[2:])) != uint64(len(command)) {
		return nil, errs.New(errs.Invalid, 0, "not a TPM command: its header does not say that it has %d octets", len(command))
	}
	var response []byte
	err := t.use(ctx, func(l *link) (err error) {
		response, err = l.Send(command)
		return err
	})
	return response, err
}

// use runs f when nobody else uses the TPM.
func (t *TPM) use(ctx context.Context, f func(*link) error) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the TPM: %w", context.Cause(ctx))
	}
	if t.shut {
		return errors.New("the TPM connection is closed")
	}
	if t.conn == nil {
		if err := t.dial(ctx); err != nil {
			return fmt.Errorf("reopening TPM %s: %w", t.where, err)
		}
	}
	return f(&link{t: t, ctx: ctx, timeout: t.commandTimeout, grace: t.cleanupTimeout})
}

// dial connects, starts the TPM where that is the client's to do, and reads
// what the methods need to know of it.
func (t *TPM) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, start, err := dial(ctx, t.where)
	if err != nil {
		return err
	}
	t.conn = conn
	if err := t.greet(&link{t: t, ctx: ctx, timeout: dialTimeout}, start); err != nil {
		conn.Close()
		t.conn = nil
		return err
	}
	return nil
}

// greet has the first words with a TPM.
func (t *TPM) greet(l *link, start bool) error {
	if start {
		_, err := gotpm.Startup{StartupType: gotpm.TPMSUClear}.Execute(l)
		if err != nil && !errors.Is(err, gotpm.TPMRCInitialize) { // which says that it is started
			return explain("starting the TPM", err)
		}
	}
	rsp, err := gotpm.GetCapability{
		Capability:    gotpm.TPMCapTPMProperties,
		Property:      uint32(gotpm.TPMPTInputBuffer),
		PropertyCount: 1,
	}.Execute(l)
	if err != nil {
		return explain("asking the TPM for its properties", err)
	}
	props, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return fmt.Errorf("asking the TPM for its properties: %w", err)
	}
	// A TPM that does not say has the size that every profile guarantees.
	t.inputBuffer = 1024
	for _, p := range props.TPMProperty {
		if p.Property == gotpm.TPMPTInputBuffer && p.Value >= 64 && p.Value <= maxResponse {
			t.inputBuffer = int(p.Value)
		}
	}
	return nil
}

// A link is the TPM as one method call sees it. It carries the call's context
// to go-tpm, whose transports know none, and lives no longer than the call.
type link struct {
	t       *TPM
	ctx     context.Context
	timeout time.Duration // of one command
	grace   time.Duration // for a command in flight when ctx ends
}

// Send implements go-tpm's transport.TPM. It sends nothing once the context has
// ended. A command in flight at that moment gets its grace, so that what it makes
// can be flushed. After a fault the stream may be out of step and
// the connection is given up.
func (l *link) Send(command []byte) ([]byte, error) {
	if l.ctx.Err() != nil {
		return nil, context.Cause(l.ctx)
	}
	conn := l.t.conn
	if conn == nil {
		return nil, errors.New("the connection to the TPM is gone")
	}
	// A kernel without poll support for TPM devices knows no deadlines there;
	// its driver has time limits of its own.
	deadline := time.Now().Add(l.timeout)
	conn.SetDeadline(deadline)
	hurried := make(chan struct{})
	calm := context.AfterFunc(l.ctx, func() {
		defer close(hurried)
		if sooner := time.Now().Add(l.grace); sooner.Before(deadline) {
			conn.SetDeadline(sooner)
		}
	})
	response, err := l.insist(conn, command)
	if !calm() {
		<-hurried // or it would shorten the next command's deadline
	}
	if err != nil {
		conn.Close()
		l.t.conn = nil
		return nil, l.fault(err)
	}
	return response, nil
}

// insist sends a command again while the TPM answers that it cannot start it
// yet, for some seconds. The kernel's driver does the same.
func (l *link) insist(conn channel, command []byte) (response []byte, err error) {
	for pause := 10 * time.Millisecond; pause < 2*time.Second; pause *= 2 {
		response, err = conn.exchange(command)
		if err != nil || !busy(response) {
			return response, err
		}
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return response, nil
		}
	}
	return response, nil
}

// busy says whether a response asks to send the same command again.
func busy(response []byte) bool {
	if len(response) != headerSize {
		return false
	}
	rc := gotpm.TPMRC(binary.BigEndian.Uint32(response[6:]))
	return rc == gotpm.TPMRCRetry || rc == gotpm.TPMRCTesting || rc == gotpm.TPMRCYielded
}

// flush drops a transient object or session, even when the call's context has
// ended. It does nothing when the connection is lost, since then there is
// nothing to send it on.
func (l *link) flush(handle gotpm.TPMHandle) error {
	if l.t.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), l.t.cleanupTimeout)
	defer cancel()
	_, err := gotpm.FlushContext{FlushHandle: handle}.Execute(&link{t: l.t, ctx: ctx, timeout: l.t.cleanupTimeout})
	if err != nil {
		return explain("flushing what the TPM has loaded", err)
	}
	return nil
}
