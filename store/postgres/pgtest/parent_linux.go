package pgtest

import "syscall"

// dieWithParent has the kernel end the child when this program is killed and
// can no longer do so itself.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGQUIT }
