package sqlite

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock takes the lock file at path, which the kernel gives back when this
// process ends, however it ends. It is not the database file itself: closing
// any descriptor of that one would undo the engine's own locks.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("another server has it open")
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// unlock gives the lock back. Closing alone would not do so at once: a child
// process that another goroutine is just starting holds a copy of the
// descriptor until it executes its program.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}
