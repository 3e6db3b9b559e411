package tpm2

import "time"

// SetTimeouts shortens what Open sets, so that tests need not wait minutes.
func (t *TPM) SetTimeouts(command, cleanup time.Duration) {
	t.commandTimeout, t.cleanupTimeout = command, cleanup
}
