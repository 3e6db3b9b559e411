// Package device names the things every other package talks about: the IDs a
// device goes by and the symmetric key it may hold. It does no I/O and imports
// only the standard library.
package device

import (
	"errors"
	"fmt"
	"strings"
)

// An IDScope names one provisioning tenant: "0ne" and eight hexadecimal
// digits, in lower case. Devices are given it at the factory.
type IDScope string

// ParseIDScope returns the canonical (lower-case) form of s.
func ParseIDScope(s string) (IDScope, error) {
	l := strings.ToLower(s)
	digits, ok := strings.CutPrefix(l, "0ne")
	if !ok || len(digits) != 8 || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", errors.New("an ID scope is 0ne and eight hexadecimal digits")
	}
	return IDScope(l), nil
}

// A RegistrationID is the name a device gives itself when it asks for a home,
// in its canonical lower-case form: the service compares it without case.
type RegistrationID string

// ParseRegistrationID returns the canonical form of s: 1 to 128 letters,
// digits and - . _ : with a letter, digit or dash at the end. IDs are checked
// here and nowhere else; code that holds a RegistrationID trusts it. Enrollment
// group IDs follow the same rule.
func ParseRegistrationID(s string) (RegistrationID, error) {
	switch {
	case s == "":
		return "", errors.New("is empty")
	case len(s) > 128:
		return "", fmt.Errorf("has %d characters, 128 are allowed", len(s))
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && !strings.ContainsRune("-._:", rune(c)) {
			return "", fmt.Errorf("has %q at position %d; letters, digits and - . _ : are allowed", c, i+1)
		}
	}
	if c := s[len(s)-1]; !alphanumeric(c) && c != '-' {
		return "", errors.New("must end in a letter, a digit or a dash")
	}
	return RegistrationID(strings.ToLower(s)), nil
}

// An ID is what a device is called at its hub: 1 to 128 characters,
// case-sensitive.
type ID string

// ParseID checks s against the IoT Hub rule for device IDs: letters, digits
// and - : . + % _ # * ? ! ( ) , = @ ; $ '
func ParseID(s string) (ID, error) {
	switch {
	case s == "":
		return "", errors.New("is empty")
	case len(s) > 128:
		return "", fmt.Errorf("has %d characters, 128 are allowed", len(s))
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && !strings.ContainsRune("-:.+%_#*?!(),=@;$'", rune(c)) {
			return "", fmt.Errorf("has %q at position %d, which is not allowed in a device ID", c, i+1)
		}
	}
	return ID(s), nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
