package tpm2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// maxResponse bounds a response. TPMs announce 4096 (TPM_PT_MAX_RESPONSE_SIZE).
const maxResponse = 16 << 10

// headerSize is the size of a command or response header: tag, size and code.
// TPM 2.0 Library Part 1, "Command/Response Structure".
const headerSize = 10

// A channel carries one command at a time to a TPM, and its response back.
// After an error it may be out of step and is only good for closing.
type channel interface {
	exchange(command []byte) ([]byte, error)
	SetDeadline(time.Time) error
	io.Closer
}

// dial opens the channel that where names, and says whether the TPM behind it
// is the client's to start.
func dial(ctx context.Context, where string) (c channel, start bool, err error) {
	if strings.HasPrefix(where, "/") {
		c, err := openDevice(where)
		return c, false, err
	}
	switch scheme, rest, _ := strings.Cut(where, ":"); scheme {
	case "unix":
		conn, err := dialSocket(ctx, "unix", rest)
		if err != nil {
			return nil, false, err
		}
		return stream{conn}, true, nil
	case "mssim":
		c, err := dialSimulator(ctx, rest)
		return c, true, err
	}
	return nil, false, errors.New("not a TPM address: write a device as /dev/tpmrm0, " +
		"a software TPM's socket as unix:/path/to/socket, a simulator as mssim:host:port")
}

func dialSocket(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, dialFault(network, err)
	}
	return conn, nil
}

// A stream is a raw TPM byte stream: commands and responses one after the
// other, each framed by the size in its own header.
type stream struct{ net.Conn }

func (s stream) exchange(command []byte) ([]byte, error) {
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(s, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("not a TPM: a response of %d octets", size)
	}
	response := append(header, make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(s, response[headerSize:]); err != nil {
		return nil, err
	}
	return response, nil
}

// Requests of the TPM simulator's TCP protocol (TpmTcpProtocol.h of the TCG
// reference implementation).
const (
	simPowerOn     = 1
	simSendCommand = 8
	simNVOn        = 11
	simSessionEnd  = 20
)

// A simulator speaks the TCP protocol of the TCG reference implementation: TPM
// commands on one port, the platform's signals on the next.
type simulator struct {
	command  net.Conn
	platform net.Conn
}

// dialSimulator connects to both ports and powers the TPM on, which leaves one
// that is on as it is.
func dialSimulator(ctx context.Context, address string) (channel, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("mssim needs host:port, as in mssim:127.0.0.1:2321: %w", err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 || port == 65535 {
		return nil, fmt.Errorf("mssim needs a port between 1 and 65534, for the platform port is the next one; got %q", service)
	}
	command, err := dialSocket(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("command port: %w", err)
	}
	platform, err := dialSocket(ctx, "tcp", net.JoinHostPort(host, strconv.FormatUint(port+1, 10)))
	if err != nil {
		command.Close()
		return nil, fmt.Errorf("platform port: %w", err)
	}
	s := &simulator{command, platform}
	deadline, _ := ctx.Deadline() // Open always sets one
	s.SetDeadline(deadline)
	for _, signal := range []uint32{simPowerOn, simNVOn} {
		if err := s.signal(signal); err != nil {
			s.Close()
			return nil, fmt.Errorf("powering the TPM on: %w", err)
		}
	}
	return s, nil
}

// signal tells the platform something and awaits its word, which is 0 for done.
func (s *simulator) signal(code uint32) error {
	word := binary.BigEndian.AppendUint32(nil, code)
	if _, err := s.platform.Write(word); err != nil {
		return err
	}
	if _, err := io.ReadFull(s.platform, word); err != nil {
		return err
	}
	if rc := binary.BigEndian.Uint32(word); rc != 0 {
		return fmt.Errorf("the simulator answered signal %d with %d", code, rc)
	}
	return nil
}

// exchange frames a command as u32 8, u8 locality, u32 size, octets; the
// response is u32 size, octets, u32 0.
func (s *simulator) exchange(command []byte) ([]byte, error) {
	request := binary.BigEndian.AppendUint32(nil, simSendCommand)
	request = append(request, 0)
	request = binary.BigEndian.AppendUint32(request, uint32(len(command)))
	if _, err := s.command.Write(append(request, command...)); err != nil {
		return nil, err
	}
	word := make([]byte, 4)
	if _, err := io.ReadFull(s.command, word); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(word)
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("a response of %d octets: not a TPM simulator, or one that is powered off", size)
	}
	response := make([]byte, size)
	if _, err := io.ReadFull(s.command, response); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(s.command, word); err != nil {
		return nil, err
	}
	if rc := binary.BigEndian.Uint32(word); rc != 0 {
		return nil, fmt.Errorf("the simulator failed the command with %d", rc)
	}
	return response, nil
}

func (s *simulator) SetDeadline(t time.Time) error {
	return errors.Join(s.command.SetDeadline(t), s.platform.SetDeadline(t))
}

// Close ends the session on both ports, which frees the simulator for its next
// client at once.
func (s *simulator) Close() error {
	end := binary.BigEndian.AppendUint32(nil, simSessionEnd)
	s.SetDeadline(time.Now().Add(time.Second))
	s.command.Write(end) // a courtesy: closing says the same
	s.platform.Write(end)
	return errors.Join(s.command.Close(), s.platform.Close())
}
