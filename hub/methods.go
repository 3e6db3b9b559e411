package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
)

// The documented limits of direct methods.
const (
	MaxMethodPayload     = 128 << 10 // bytes, each way
	MinResponseTimeout   = 5 * time.Second
	MaxResponseTimeout   = 300 * time.Second
	MaxConnectTimeout    = 300 * time.Second
	usualResponseTimeout = 30 * time.Second
	maxMethodName        = 100
	methodNameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~:*$@!()',;="
)

// A Method is a call of a direct method.
type Method struct {
	Name    string
	Payload json.RawMessage // any JSON value; nil for none
	// Connect is how long to wait for a device that is not connected, Response for
	// its answer after that; a zero Response means 30 seconds.
	Connect, Response time.Duration
}

// A MethodResult is what a device answered: a status of its own, and any JSON
// value.
type MethodResult struct {
	Status  int
	Payload json.RawMessage // null for none
}

func (m *Method) check() error {
	switch {
	case m.Name == "":
		return invalid("methodName is missing")
	case len(m.Name) > maxMethodName:
		return invalid("methodName has %d characters; %d are allowed", len(m.Name), maxMethodName)
	case len(m.Payload) > MaxMethodPayload:
		return errs.New(errs.TooLarge, errs.CodeMessageTooLarge, "payload has %d bytes; %d are allowed", len(m.Payload), MaxMethodPayload)
	case m.Payload != nil && !json.Valid(m.Payload):
		return invalid("payload is not JSON")
	case m.Connect < 0 || m.Connect > MaxConnectTimeout:
		return invalid("connectTimeoutInSeconds is not between 0 and %d", MaxConnectTimeout/time.Second)
	}
	if m.Response == 0 {
		m.Response = usualResponseTimeout
	}
	if m.Response < MinResponseTimeout || m.Response > MaxResponseTimeout {
		return invalid("responseTimeoutInSeconds is not between %d and %d", MinResponseTimeout/time.Second, MaxResponseTimeout/time.Second)
	}
	for _, c := range m.Name {
		if !contains(methodNameCharacters, c) {
			return invalid("methodName has %q, which a topic cannot carry to every device", c)
		}
	}
	return nil
}

func contains(set string, c rune) bool {
	for _, s := range set {
		if s == c {
			return true
		}
	}
	return false
}

// Invoke calls a direct method of a device or a module and returns its answer. It takes
// ServiceConnect.
//
// Errors: errs.NotFound with the code of a device that is not online, or of one
// that does not exist; errs.Unavailable with that of one that does not answer, or
// not with JSON.
func (s *Service) Invoke(ctx context.Context, caller access.Caller, at Place, m Method) (MethodResult, error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return MethodResult{}, err
	}
	if err := m.check(); err != nil {
		return MethodResult{}, err
	}
	if _, err := s.identityAt(ctx, at); err != nil {
		return MethodResult{}, err
	}
	status, payload, err := s.callOnceConnected(ctx, at, m)
	switch {
	case errors.Is(err, ErrUnreachable):
		return MethodResult{}, errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The device may be connected to a server that cannot be reached.").WithCause(err)
	case errors.Is(err, context.DeadlineExceeded):
		return MethodResult{}, errs.New(errs.Unavailable, errs.CodeGatewayTimeout, "Timed out waiting for the response from device.")
	case err != nil:
		return MethodResult{}, notOnline(err)
	}
	if len(payload) == 0 {
		payload = json.RawMessage("null")
	}
	if !json.Valid(payload) {
		return MethodResult{}, errs.New(errs.Unavailable, errs.CodeBadGateway, "The device's answer is not JSON").WithCause(fmt.Errorf("%d bytes", len(payload)))
	}
	return MethodResult{status, payload}, nil
}

// callOnceConnected is call for who is ready to wait for a device that is not
// connected, or that is and does not take calls yet: it asks for them after it
// connected.
func (s *Service) callOnceConnected(ctx context.Context, at Place, m Method) (int, json.RawMessage, error) {
	connecting, cancel := context.WithTimeout(ctx, m.Connect)
	defer cancel()
	for {
		arrived, forget := s.live.await(at) // from before the look, so that nothing is missed
		status, answer, err := s.call(ctx, at, m)
		if !errors.Is(err, ErrNotConnected) && !errors.Is(err, ErrNoMethods) && !errors.Is(err, ErrUnreachable) {
			forget()
			return status, answer, err
		}
		select {
		case <-connecting.Done():
			forget()
			return 0, nil, err
		case <-arrived:
		}
	}
}

func notOnline(cause error) error {
	return errs.New(errs.NotFound, errs.CodeDeviceNotOnline, "Timed out waiting for device to connect.").WithCause(cause)
}
