// Package errs says what went wrong in words a program, a stranger and an
// operator can each use: a kind for the program, a message for the stranger
// and a cause for the log. It imports only the standard library.
package errs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Kind says what the caller can do about an error.
type Kind uint8

// The kinds. An error nobody sorted is Internal, and a stranger sees only
// "Internal error": forgetting is safe.
const (
	Internal     Kind = iota // our bug or a broken backend; nothing the caller can do
	Invalid                  // the request can never succeed as sent
	Denied                   // the credential does not prove what it claims
	Forbidden                // the caller is known, and may not do this now
	NotFound                 // no such thing
	NotAllowed               // the method is not known for that resource
	Conflict                 // it exists already, or someone else changed it first
	Precondition             // the entity tag is not the current one
	TooLarge                 // over a documented limit
	Unsupported              // the payload format is not spoken here
	Busy                     // over a rate limit; try again after RetryAfter
	Unavailable              // a backend is down or we are shutting down; try again later
	numKinds
)

// Kinds returns every kind, so that a wire's table can be tested for
// completeness.
func Kinds() []Kind {
	all := make([]Kind, numKinds)
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

var kindNames = [numKinds]string{
	"internal", "invalid", "denied", "forbidden", "not found", "not allowed", "conflict",
	"precondition", "too large", "unsupported", "busy", "unavailable",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// An Error is an error with a kind, a public message and a private cause.
type Error struct {
	Kind Kind
	// Code is the protocol's number where clients parse it; zero leaves the
	// choice to the wire's table.
	Code Code
	// Message may be shown to an unauthenticated stranger. It holds no secret
	// and nothing of another device.
	Message string
	// RetryAfter is how long to wait before trying again; zero if unknown.
	RetryAfter time.Duration

	cause error
}

// New returns an error whose message may be shown to a stranger.
func New(kind Kind, code Code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithCause returns a copy of e that keeps cause for the log. The stranger does
// not see it.
func (e *Error) WithCause(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// Error returns the whole story, cause included: it is for logs, not for the wire.
func (e *Error) Error() string {
	if e.cause != nil {
		return e.Message + ": " + e.cause.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of the first *Error in err's chain, or Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Public returns what a stranger may see of err: its first *Error, or a bare
// internal error.
func Public(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != Internal {
		return e
	}
	return &Error{Kind: Internal, Message: "Internal error"}
}

// A TrackingID names one request in answers, logs and decisions; it has the
// form of a UUID (RFC 9562, version 4).
type TrackingID string

// NewTrackingID draws a tracking ID from random.
func NewTrackingID(random io.Reader) (TrackingID, error) {
	u, err := NewUUID(random)
	return TrackingID(u), err
}

// NewUUID draws a version 4 UUID (RFC 9562 §5.4) from random, in its
// 36-character lower-case form.
func NewUUID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("drawing a UUID: %w", err)
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	text := make([]byte, 0, 36)
	for i, part := range [][]byte{b[0:4], b[4:6], b[6:8], b[8:10], b[10:16]} {
		if i > 0 {
			text = append(text, '-')
		}
		text = hex.AppendEncode(text, part)
	}
	return string(text), nil
}
