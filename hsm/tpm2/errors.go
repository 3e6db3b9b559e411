package tpm2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/errs"
)

// advice tells what a response code means for whoever runs the device. TPM 2.0
// Library Part 2, "TPM_RC (Response Codes)".
var advice = []struct {
	rc   gotpm.TPMRC
	kind errs.Kind
	say  string
}{
	{gotpm.TPMRCLockout, errs.Unavailable,
		"the TPM is in dictionary-attack lockout; wait for its recovery time (tpm2_getcap properties-variable) or reset it with tpm2_dictionarylockout --clear-lockout"},
	{gotpm.TPMRCBadAuth, errs.Forbidden,
		"the TPM asks for a hierarchy password; the owner and endorsement passwords must be empty (tpm2_changeauth -c owner -p OLD, and -c endorsement)"},
	{gotpm.TPMRCAuthFail, errs.Forbidden,
		"the key asks for a password that is not empty; it was not made by a provisioning service"},
	{gotpm.TPMRCPolicyFail, errs.Forbidden,
		"the key has a policy of its own; an endorsement key must have the TCG default policy"},
	{gotpm.TPMRCHierarchy, errs.Unavailable,
		"the hierarchy is disabled; enable it in the firmware's TPM settings"},
	{gotpm.TPMRCIntegrity, errs.Denied,
		"it was not made for this TPM, or the TPM was cleared since; register again"},
	{gotpm.TPMRCBinding, errs.Denied,
		"its public and private parts do not belong together; register again"},
	{gotpm.TPMRCObjectMemory, errs.Unavailable,
		"the TPM has no room for another object; use /dev/tpmrm0, or drop what others left with tpm2_flushcontext -t"},
	{gotpm.TPMRCSessionMemory, errs.Unavailable,
		"the TPM has no room for another session; use /dev/tpmrm0, or drop what others left with tpm2_flushcontext -l"},
	{gotpm.TPMRCSessionHandles, errs.Unavailable,
		"the TPM has no session left; drop what others left with tpm2_flushcontext -l and -s"},
	{gotpm.TPMRCNVSpace, errs.Unavailable,
		"the TPM has no room for another persistent key; list them with tpm2_getcap handles-persistent and remove one with tpm2_evictcontrol -c HANDLE"},
	{gotpm.TPMRCNVRate, errs.Busy,
		"the TPM slows writes down to spare its memory; try again in a minute"},
	{gotpm.TPMRCRetry, errs.Busy, "the TPM is busy; try again"},
	{gotpm.TPMRCTesting, errs.Busy, "the TPM is testing itself; try again"},
	{gotpm.TPMRCFailure, errs.Unavailable,
		"the TPM is in failure mode; cut the power of the device, and if it stays replace the TPM"},
	{gotpm.TPMRCInitialize, errs.Unavailable,
		"the TPM was not started; the firmware or the kernel must send TPM2_Startup (tpm2_startup -c)"},
	{gotpm.TPMRCCommandCode, errs.Unsupported, "the TPM does not implement the command"},
	{gotpm.TPMRC(0x1e), errs.Unsupported, "it is a TPM 1.2; a TPM 2.0 is needed"}, // TPM_BAD_TAG
}

// explain wraps the error of one command with what was being done and, where
// the response code is a known one, with what to do about it.
func explain(doing string, err error) error {
	for _, a := range advice {
		if errors.Is(err, a.rc) {
			return errs.New(a.kind, 0, "%s: %s", doing, a.say).WithCause(err)
		}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// fault says what a broken exchange means. The context's own error wins over
// the deadline that it brought forward.
func (l *link) fault(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && l.ctx.Err() != nil:
		return errs.New(errs.Unavailable, 0, "the TPM did not answer in time%s", sharing(l.t.where)).
			WithCause(errors.Join(context.Cause(l.ctx), err))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errs.New(errs.Unavailable, 0, "the TPM did not answer within %v%s", l.timeout, sharing(l.t.where)).WithCause(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return errs.New(errs.Unavailable, 0, "the TPM hung up").WithCause(err)
	}
	return errs.New(errs.Unavailable, 0, "talking to the TPM").WithCause(err)
}

// sharing names the usual reason for silence on a socket.
func sharing(where string) string {
	if len(where) > 0 && where[0] == '/' {
		return ""
	}
	return "; a software TPM serves one client at a time: is another program connected to it?"
}

// dialFault names the fix for a socket that cannot be reached.
func dialFault(network string, err error) error {
	say := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		say = "there is no such socket; start the software TPM first (swtpm socket --tpm2 --server type=unixio,path=...)"
	case errors.Is(err, fs.ErrPermission):
		say = "not allowed to use the socket; run as the user who started the software TPM"
	case errors.Is(err, syscall.ECONNREFUSED):
		say = "nothing listens there; start the software TPM first"
	case errors.Is(err, syscall.EINVAL) && network == "unix":
		say = "the socket's path is too long; 107 octets are the limit"
	default:
		return err
	}
	return errs.New(errs.Unavailable, 0, "%s", say).WithCause(err)
}

// deviceFault names the fix for a device that cannot be opened.
func deviceFault(err error) error {
	say := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		say = "there is no such device; switch the TPM on in the firmware settings and load its kernel driver (tpm_tis, tpm_crb)"
	case errors.Is(err, fs.ErrPermission):
		say = "not allowed to use the device; add the user to group tss (usermod -aG tss USER) and log in again"
	case errors.Is(err, syscall.EBUSY):
		say = "another program holds the device; use /dev/tpmrm0, which can be shared"
	default:
		return err
	}
	return errs.New(errs.Unavailable, 0, "%s", say).WithCause(err)
}
