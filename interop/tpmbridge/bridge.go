package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"
	"sync/atomic"

	"github.com/berth-iot/berth/hsm/tpm2"
)

// Requests on the command port, of TpmTcpProtocol.h of the TCG reference
// implementation.
const (
	sendCommand = 8
	handshake   = 15
	sessionEnd  = 20
	stop        = 21
)

// powerOn is the platform port's signal after which TPM2_Startup must succeed.
const powerOn = 1

// The handshake's answer: protocol version 1, a platform port and a TPM that
// clients use without a resource manager.
const (
	protocolVersion   = 1
	platformAvailable = 1
	rawMode           = 4
)

// maxCommand bounds a command; TPMs announce 4096 (TPM_PT_MAX_COMMAND_SIZE).
const maxCommand = 8192

// A bridge passes on framed TPM commands.
type bridge struct {
	tpm    *tpm2.TPM
	legacy bool // requests carry the resource manager's two extra octets

	// poweredOn is set by the signal and cleared by the TPM2_Startup after it.
	poweredOn atomic.Bool
}

// commands serves one client of the command port: u32 8, u8 locality, for the
// resource manager u8 debug level and u8 "command sent", u32 size, octets. The
// answer is u32 size, octets, u32 0.
func (b *bridge) commands(ctx context.Context, c net.Conn) error {
	for {
		request, err := word(c)
		if err != nil {
			return err
		}
		switch request {
		case sendCommand:
			err = b.command(ctx, c)
		case handshake:
			err = shake(c)
		case sessionEnd, stop:
			return nil
		default:
			err = fmt.Errorf("unknown request %d on the command port", request)
		}
		if err != nil {
			return err
		}
	}
}

func (b *bridge) command(ctx context.Context, c net.Conn) error {
	prefix := make([]byte, 1)
	if b.legacy {
		prefix = make([]byte, 3)
	}
	if _, err := io.ReadFull(c, prefix); err != nil {
		return err
	}
	size, err := word(c)
	if err != nil {
		return err
	}
	if size > maxCommand {
		return fmt.Errorf("a command of %d octets", size)
	}
	command := make([]byte, size)
	if _, err := io.ReadFull(c, command); err != nil {
		return err
	}
	response, err := b.tpm.Send(ctx, command)
	if err != nil {
		return err
	}
	response = b.restarted(command, response)
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(response)))
	frame = append(frame, response...)
	_, err = c.Write(binary.BigEndian.AppendUint32(frame, 0))
	return err
}

var (
	startup = []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44} // TPM2_Startup, less its type
	success = []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}
	started = []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0} // TPM_RC_INITIALIZE
)

// restarted makes the first TPM2_Startup after a power-on succeed, as it would
// on the simulator. Here the software TPM stays on and says that it is started,
// which one client (Java's emulator provider) takes for a fault.
func (b *bridge) restarted(command, response []byte) []byte {
	if bytes.HasPrefix(command, startup) && b.poweredOn.Swap(false) && bytes.Equal(response, started) {
		return success
	}
	return response
}

// shake answers the handshake, u32 client version, with u32 version, u32 flags,
// u32 0.
func shake(c net.Conn) error {
	if _, err := word(c); err != nil {
		return err
	}
	answer := binary.BigEndian.AppendUint32(nil, protocolVersion)
	answer = binary.BigEndian.AppendUint32(answer, platformAvailable|rawMode)
	_, err := c.Write(binary.BigEndian.AppendUint32(answer, 0))
	return err
}

// platform serves one client of the platform port. Every signal is answered
// with u32 0. None reaches the software TPM, which is always on.
func (b *bridge) platform(_ context.Context, c net.Conn) error {
	for {
		signal, err := word(c)
		if err != nil {
			return err
		}
		switch signal {
		case powerOn:
			b.poweredOn.Store(true)
		case sessionEnd, stop:
			return nil
		}
		if _, err := c.Write(make([]byte, 4)); err != nil {
			return err
		}
	}
}

func word(r io.Reader) (uint32, error) {
	var b [4]byte
	_, err := io.ReadFull(r, b[:])
	return binary.BigEndian.Uint32(b[:]), err
}

// A port is a listener and what its clients are served with.
type port struct {
	net.Listener
	serve func(context.Context, net.Conn) error
}

// accept serves the clients of every port until ctx ends, and returns when the
// last has gone. A client that fails is logged; the others go on.
func accept(ctx context.Context, ports []port, logger *log.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	failed := make(chan error, len(ports))
	for _, p := range ports {
		defer context.AfterFunc(ctx, func() { p.Close() })()
		running.Go(func() {
			for {
				c, err := p.Accept()
				if err != nil {
					failed <- err
					return
				}
				running.Go(func() { attend(ctx, p, c, logger) })
			}
		})
	}
	err := <-failed
	if ctx.Err() != nil {
		err = nil // we were told to stop
	}
	cancel() // one port without the other is no use
	running.Wait()
	return err
}

// attend serves one client until it leaves or ctx ends.
func attend(ctx context.Context, p port, c net.Conn, logger *log.Logger) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	err := p.serve(ctx, c)
	if err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		logger.Printf("client %s: %v", c.RemoteAddr(), err)
	}
}
