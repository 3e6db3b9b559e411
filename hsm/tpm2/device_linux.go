package tpm2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// A device is a TPM character device of the Linux kernel: a command is one
// write, its response one read.
type device struct {
	*os.File
	blocking bool // before Linux 4.20 TPM devices have no poll, and so no deadlines
}

func openDevice(path string) (channel, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, deviceFault(err)
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil, fmt.Errorf("it is a socket: write unix:%s", path)
	}
	if info.Mode()&fs.ModeCharDevice == 0 {
		return nil, errors.New("it is not a TPM device: the kernel makes /dev/tpmrm0 when it finds a TPM")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, deviceFault(err)
	}
	return newDevice(f), nil
}

func newDevice(f *os.File) device {
	return device{f, errors.Is(f.SetDeadline(time.Time{}), os.ErrNoDeadline)}
}

func (d device) exchange(command []byte) ([]byte, error) {
	response := make([]byte, maxResponse)
	n, err := d.transmit(command, response)
	if err != nil {
		return nil, err
	}
	if n < headerSize || binary.BigEndian.Uint32(response[2:]) != uint32(n) {
		return nil, fmt.Errorf("not a TPM: a response of %d octets that does not say so", n)
	}
	return response[:n], nil
}

// transmit writes the command, waits until poll says that there is a response,
// and reads it. While the TPM is at work a read would not answer EAGAIN: it
// gives 0, which os.File takes for the end of the file, or holds the thread
// past any deadline. The write is done where readiness is already watched, or a
// quick response could go unseen.
func (d device) transmit(command, response []byte) (n int, err error) {
	if d.blocking {
		if _, err := d.Write(command); err != nil {
			return 0, err
		}
		return d.Read(response)
	}
	raw, err := d.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	written := false
	err = raw.Read(func(fd uintptr) (done bool) {
		if !written {
			written = true
			_, failed = retry(func() (int, error) { return syscall.Write(int(fd), command) })
			return failed != nil
		}
		n, failed = retry(func() (int, error) { return syscall.Read(int(fd), response) })
		if failed == syscall.EAGAIN {
			failed = nil
			return false
		}
		return n > 0 || failed != nil
	})
	return n, errors.Join(err, failed)
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != syscall.EINTR {
			return n, err
		}
	}
}
