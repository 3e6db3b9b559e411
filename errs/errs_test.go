package errs

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// An error nobody sorted must not tell a stranger anything.
func TestUnsortedErrorsAreInternal(t *testing.T) {
	for _, err := range []error{
		errors.New("password is hunter2"),
		fmt.Errorf("reading: %w", errors.New("password is hunter2")),
		New(Internal, 0, "password is hunter2"),
		fmt.Errorf("deep: %w", New(Internal, CodeInternal, "x").WithCause(errors.New("password is hunter2"))),
	} {
		if KindOf(err) != Internal {
			t.Errorf("%v: %v", err, KindOf(err))
		}
		if p := Public(err); p.Message != "Internal error" || strings.Contains(p.Error(), "hunter2") {
			t.Errorf("%v: a stranger sees %v", err, p)
		}
	}
}

func TestTheCauseIsForTheLogAlone(t *testing.T) {
	cause := errors.New("the disk is on fire")
	plain := New(NotFound, CodeDeviceNotFound, "no %s", "device")
	err := fmt.Errorf("wrapped: %w", plain.WithCause(cause))
	if KindOf(err) != NotFound || Public(err).Message != "no device" || Public(err).Code != CodeDeviceNotFound {
		t.Errorf("public: %v", Public(err))
	}
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("the log does not get the cause: %v", err)
	}
	if errors.Unwrap(plain) != nil {
		t.Error("WithCause changed the error it copies")
	}
}

func TestEveryKindAndCodeHasAName(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if name := k.String(); name == "" || strings.HasPrefix(name, "kind ") || seen[name] {
			t.Errorf("kind %d is called %q", k, name)
		} else {
			seen[name] = true
		}
	}
	for code, name := range codeNames {
		if s := code.Status(); s < 400 || s > 599 || name == "" {
			t.Errorf("%d: status %d, name %q", code, s, name)
		}
	}
	if Code(999999).Name() != "999999" {
		t.Errorf("an unknown code is called %q", Code(999999).Name())
	}
}

func TestTrackingIDsAreVersion4UUIDs(t *testing.T) {
	id, err := NewTrackingID(bytes.NewReader(bytes.Repeat([]byte{0xff}, 16)))
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(string(id)) {
		t.Errorf("%q, %v", id, err)
	}
	if _, err := NewTrackingID(bytes.NewReader(nil)); err == nil {
		t.Error("an ID was drawn from nothing")
	}
}
