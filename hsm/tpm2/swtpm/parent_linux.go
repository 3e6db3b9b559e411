package swtpm

import "syscall"

// dieWithParent has the kernel end the child when this program is killed and
// can no longer do so itself.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
