package segment

import (
	"os"
	"syscall"
)

// sync waits until what was written to a file is on the disk, with its new
// length and without the time of its last change.
func sync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
