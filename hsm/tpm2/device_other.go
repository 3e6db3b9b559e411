//go:build !linux

package tpm2

import "errors"

func openDevice(string) (channel, error) {
	return nil, errors.New("TPM devices are supported on Linux only; a software TPM can be reached as unix: or mssim:")
}
