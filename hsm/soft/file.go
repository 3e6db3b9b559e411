package soft

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Open reads the server key in the file at path. The file must belong to this
// process's user and have mode 0600 or stricter.
func Open(path string) (*Key, error) {
	// O_NONBLOCK: a FIFO in place of the file must not hang the server.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the server key: %w", err)
	}
	defer f.Close()
	if err := private(f); err != nil {
		return nil, fmt.Errorf("server key %s %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, fmt.Errorf("reading the server key: %w", err)
	}
	secret, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("server key %s %w", path, err)
	}
	return newKey(secret)
}

// private judges the opened file, so that nobody can swap it in between.
func private(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot be examined: %w", err)
	}
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	if uid, ok := owner(info); ok && uid != os.Geteuid() {
		return fmt.Errorf("belongs to user %d, not to user %d who runs this; run: chown %d %s", uid, os.Geteuid(), os.Geteuid(), f.Name())
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("has mode %04o, so others can use it; run: chmod 600 %s", perm, f.Name())
	}
	return nil
}

func owner(info fs.FileInfo) (uid int, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

// Create draws a server key from random and keeps it in a new file at path,
// mode 0600. The file and its name are on the disk when Create returns. It does
// not replace a file: that would make everything sealed under the key useless.
func Create(path string, random io.Reader) error {
	secret := make([]byte, keySize)
	if _, err := io.ReadFull(random, secret); err != nil {
		return fmt.Errorf("drawing a server key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("creating the server key: %w", err)
	}
	_, err = f.Write(encode(secret))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("writing the server key: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
