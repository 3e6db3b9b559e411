package tpm2

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	startup = []byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0}
	success = []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}
)

// driver returns a device whose driver is the test: packets stand for the
// kernel's whole writes and reads. It answers one command.
func driver(t *testing.T, response []byte) device {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	dev, kernel := os.NewFile(uintptr(fds[0]), "device"), os.NewFile(uintptr(fds[1]), "driver")
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		got := make([]byte, 100)
		n, _ := kernel.Read(got)
		if !bytes.Equal(got[:n], startup) {
			t.Errorf("the driver read %x", got[:n])
		}
		if response != nil {
			kernel.Write(response)
		}
	}()
	t.Cleanup(func() {
		<-answered
		dev.Close()
		kernel.Close()
	})
	return newDevice(dev)
}

func TestDeviceExchange(t *testing.T) {
	got, err := driver(t, success).exchange(startup)
	if err != nil || !bytes.Equal(got, success) {
		t.Fatalf("exchange = %x, %v; want %x", got, err, success)
	}
}

func TestDeviceDeadline(t *testing.T) {
	d := driver(t, nil)
	d.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := d.exchange(startup); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("exchange with a silent driver: %v", err)
	}
}

func TestDeviceRefusesMisframedResponses(t *testing.T) {
	for _, response := range [][]byte{{0x80}, success[:9], append(success[:10:10], 0)} {
		if got, err := driver(t, response).exchange(startup); err == nil {
			t.Errorf("accepted %x as %x", response, got)
		}
	}
}

func TestOpenDeviceNamesTheFix(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	for path, fix := range map[string]string{
		filepath.Join(dir, "tpmrm0"): "load its kernel driver",
		file:                         "the kernel makes /dev/tpmrm0",
		socket:                       "write unix:" + socket,
	} {
		if _, err := openDevice(path); err == nil || !strings.Contains(err.Error(), fix) {
			t.Errorf("openDevice(%s) = %v; want the fix %q", path, err, fix)
		}
	}
	for cause, fix := range map[error]string{
		syscall.EACCES: "add the user to group tss",
		syscall.EBUSY:  "use /dev/tpmrm0",
	} {
		err := deviceFault(&os.PathError{Op: "open", Path: "/dev/tpm0", Err: cause})
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), fix) {
			t.Errorf("deviceFault(%v) = %v; want the fix %q", cause, err, fix)
		}
	}
}
