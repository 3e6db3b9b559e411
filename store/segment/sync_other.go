//go:build !linux

package segment

import "os"

// sync waits until what was written to a file is on the disk.
func sync(f *os.File) error { return f.Sync() }
