package client

import (
	"fmt"
	"strings"
	"time"

	"github.com/berth-iot/berth/errs"
)

// An Error is an answer by which a service refused a request. Find it with
// errors.As (or errors.AsType).
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is the number that the service documents, 404201 for an enrollment
	// that does not exist; zero when the answer carried none.
	Code errs.Code
	// Name is the name of the code, as in IoT Hub's iothub-errorcode header:
	// "DeviceNotFound". Empty when the answer carried neither.
	Name string
	// Message is the service's text, shortened and without control characters.
	Message string
	// Body is the whole answer, shortened and without control characters.
	Body string
	// TrackingID names the request in the service's logs, if it gave one.
	TrackingID string
	// RetryAfter is how long the service asked to be left alone; zero if it
	// did not.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	var b strings.Builder
	switch {
	case e.Code != 0:
		fmt.Fprintf(&b, "%d", int(e.Code))
	default:
		fmt.Fprintf(&b, "HTTP status %d", e.Status)
	}
	if e.Name != "" {
		b.WriteString(" " + e.Name)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.TrackingID != "" {
		b.WriteString(" (tracking ID " + e.TrackingID + ")")
	}
	return b.String()
}
