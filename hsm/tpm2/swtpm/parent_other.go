//go:build !linux

package swtpm

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
