package record

import (
	"errors"

	"github.com/berth-iot/berth/errs"
)

// Unavailable is the error of a store that is closed or whose database does not
// do what it is asked for.
func Unavailable() *errs.Error {
	return errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The service is unavailable; try again later.")
}

// NoMessagesTogether is the error of who adds or removes messages with the
// context of a transaction: they have numbers, which others would wait for.
func NoMessagesTogether() error {
	return errors.New("messages are not written together with anything else")
}

// NoScope is the error for a provisioning tenant that does not exist.
func NoScope() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeGenericNotFound, "ID scope not found.")
}

// ScopeInUse is the error for a scope that cannot be removed because of what is
// in it.
func ScopeInUse(what string) *errs.Error {
	return errs.New(errs.Conflict, errs.CodeConflict, "The ID scope still has %s; remove them first.", what)
}

// NotLinked is the error for a hub that is not linked to the scope.
func NotLinked(host string) *errs.Error {
	return errs.New(errs.NotFound, errs.CodeHubNotFound, "%s is not linked.", host)
}

// HubTaken is the error for a hub of these servers that is one of another scope.
func HubTaken(name string) *errs.Error {
	return errs.New(errs.Conflict, errs.CodeConflict, "%s is a hub of another ID scope.", name)
}

// NoEnrollment is the error for an enrollment that does not exist.
func NoEnrollment() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeEnrollmentNotFound, "Enrollment not found.")
}

// NoRegistration is the error for a registration record that does not exist.
func NoRegistration() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeRegistrationNotFound, "Device registration not found.")
}

// NoDevice is the error for a device that a hub does not know.
func NoDevice() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeDeviceNotFound, "Device not found.")
}

// NoCloudMessage is the error for a message that is not in its device's queue.
func NoCloudMessage() *errs.Error {
	return errs.New(errs.NotFound, errs.CodeGenericNotFound, "Message not found.")
}
