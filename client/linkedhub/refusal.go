package linkedhub

import (
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

func hasStatus(err error, status int) bool {
	refused, ok := errors.AsType[*client.Error](err)
	return ok && refused.Status == status
}

// isNotFound reports whether a hub said that it does not have the device. A 404
// that does not say so may come from anything in between.
func isNotFound(err error) bool {
	refused, ok := errors.AsType[*client.Error](err)
	return ok && refused.Code == errs.CodeDeviceNotFound
}

// sorted makes of err what the provisioning service tells: a refusal with the
// hub's code and the text of its answer, or that the hub is not available. An
// error that has a kind already keeps it.
func sorted(err error) error {
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return err
	}
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The linked IoT hub cannot be reached; try again later.").WithCause(err)
	}
	kind := kindOf(refused)
	if kind == errs.Internal {
		return errs.New(errs.Unavailable, errs.CodeServiceUnavailable,
			"The linked IoT hub answers with HTTP status %d; try again later.", refused.Status).WithCause(err)
	}
	code := refused.Code
	if code.Status() != refused.Status {
		code = errs.Code(refused.Status * 1000)
	}
	passed := errs.New(kind, code, "%s", text(refused)).WithCause(err)
	passed.RetryAfter = refused.RetryAfter
	return passed
}

// kindOf returns what a refusal is; Internal for one that no hub gives.
func kindOf(refused *client.Error) errs.Kind {
	switch refused.Status {
	case http.StatusBadRequest:
		return errs.Invalid
	case http.StatusUnauthorized:
		return errs.Denied
	case http.StatusForbidden:
		return errs.Forbidden
	case http.StatusNotFound:
		if refused.Code == errs.CodeDeviceNotFound {
			return errs.NotFound
		}
	case http.StatusConflict:
		return errs.Conflict
	case http.StatusPreconditionFailed:
		return errs.Precondition
	case http.StatusRequestEntityTooLarge:
		return errs.TooLarge
	case http.StatusTooManyRequests:
		return errs.Busy
	}
	if refused.Status >= 500 {
		return errs.Unavailable
	}
	return errs.Internal
}

// text is what the hub said, as it said it.
func text(refused *client.Error) string {
	if refused.Body != "" {
		return refused.Body
	}
	return "HTTP status " + strconv.Itoa(refused.Status)
}

// withhold takes the words out of a refusal that repeats a key or a token.
func withhold(err error, secrets []device.SymmetricKey) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || !repeats(refused.Body, secrets) {
		return err
	}
	const why = "the answer is withheld: it repeats a secret"
	return &client.Error{Status: refused.Status, Code: refused.Code, Message: why, Body: why, RetryAfter: refused.RetryAfter}
}

// escaped are the forms in which JSON may hide a character, also when it is
// quoted in JSON in turn.
var escaped = regexp.MustCompile(`\\+u00([0-9A-Fa-f]{2})`)

// repeats reports whether text has a token in it, or the beginning of a key.
func repeats(text string, secrets []device.SymmetricKey) bool {
	text = escaped.ReplaceAllStringFunc(text, func(e string) string {
		c, _ := strconv.ParseUint(e[len(e)-2:], 16, 8) // two digits, by the expression
		return string(rune(c))
	})
	text = strings.ReplaceAll(text, `\`, "")
	if strings.Contains(text, "sig=") || strings.Contains(text, "SharedAccessKey=") {
		return true
	}
	for _, k := range secrets {
		if !k.IsZero() && strings.Contains(text, k.Base64()[:16]) {
			return true
		}
	}
	return false
}
