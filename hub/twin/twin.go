// Package twin knows what the sections of a device twin may hold and how they
// change: the merge of a patch, the replacement of a whole section, and the
// limits that Azure IoT Hub documents for both. It works on JSON text and keeps
// nothing.
package twin

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/berth-iot/berth/errs"
)

// A Section is one of the three JSON objects of a twin. Its text has neither
// $metadata nor $version, which the hub makes.
type Section struct {
	name string
	size int // the most it may have, counted as in [Section.Replace]
}

// The sections, named as in the twin's document.
var (
	Tags     = Section{"tags", 8 << 10}
	Desired  = Section{"properties.desired", 32 << 10}
	Reported = Section{"properties.reported", 32 << 10}
)

// What every section is held to.
const (
	MaxDepth  = 10   // objects and arrays within each other, below the section
	MaxName   = 1024 // bytes of a member's name in UTF-8
	MaxString = 4096 // bytes of a string in UTF-8

	MinInteger = -1 << 52
	MaxInteger = 1<<52 - 1

	// textFactor bounds a section's text, as a multiple of its size. Empty
	// arrays and nulls in arrays have no size, and long numbers have little.
	textFactor = 8
)

// Merge returns what the section becomes when patch is merged into it, as JSON
// merge patches are (RFC 7396): objects member by member, null removes, any
// other value takes the place of what was there, arrays included. A patch that
// is null empties the section. Members that stay keep their order.
//
// The result is compact and checked as by [Section.Replace].
func (s Section) Merge(old, patch json.RawMessage) (json.RawMessage, error) {
	was, err := s.parse(old)
	if err != nil {
		return nil, err
	}
	if isNull(patch) {
		return json.RawMessage("{}"), nil
	}
	change, err := s.parse(patch)
	if err != nil {
		return nil, err
	}
	was.merge(change)
	return s.encode(was)
}

// Replace returns what the section becomes when with takes its place: the same
// without the members that are null and those that the hub makes. Nil and null
// stand for an empty section. The result is compact; replacing by it changes
// nothing.
//
// An error is of kind errs.Invalid and names the place and the rule: with is
// not an object; a name is over [MaxName], has a control character, a dot, a
// dollar sign or a space; a string is over [MaxString]; an integer is beyond
// [MinInteger] or [MaxInteger]; a number has no double; more than [MaxDepth]
// levels; or the section is too large. Its size counts names and strings by
// their bytes without control characters, numbers as 8 and booleans as 4; its
// text may be 8 times as long.
func (s Section) Replace(with json.RawMessage) (json.RawMessage, error) {
	if isNull(with) {
		return json.RawMessage("{}"), nil
	}
	o, err := s.parse(with)
	if err != nil {
		return nil, err
	}
	o.removeNulls()
	return s.encode(o)
}

func isNull(text json.RawMessage) bool {
	return len(text) == 0 || strings.Trim(string(text), " \t\r\n") == "null"
}

// encode checks the whole: the parts were checked while parsing.
func (s Section) encode(o *object) (json.RawMessage, error) {
	if n := size(o); n > s.size {
		return nil, invalid(s.name, "has %d bytes; %d are allowed", n, s.size)
	}
	text := appendValue(nil, o)
	if len(text) > textFactor*s.size {
		return nil, invalid(s.name, "has %d bytes of JSON; %d are allowed", len(text), textFactor*s.size)
	}
	return text, nil
}

// size counts as Azure IoT Hub documents.
func size(v any) int {
	n := 0
	switch v := v.(type) {
	case *object:
		for _, name := range v.names {
			n += printed(name) + size(v.members[name])
		}
	case []any:
		for _, e := range v {
			n += size(e)
		}
	case string:
		n = printed(v)
	case json.Number:
		n = 8
	case bool:
		n = 4
	}
	return n
}

// printed is the length of s in UTF-8 without control characters.
func printed(s string) int {
	n := len(s)
	for _, r := range s {
		if unicode.IsControl(r) {
			n -= len(string(r))
		}
	}
	return n
}

func checkName(in, name string) error {
	if len(name) > MaxName {
		return invalid(in, "a name has %d bytes; %d are allowed", len(name), MaxName)
	}
	for _, r := range name {
		if r == '.' || r == '$' || r == ' ' || unicode.IsControl(r) {
			return invalid(in, "the name %s has %q; control characters, '.', '$' and ' ' are not allowed", quoted(name), r)
		}
	}
	return nil
}

func checkString(at, s string) error {
	if len(s) > MaxString {
		return invalid(at, "a string has %d bytes; %d are allowed", len(s), MaxString)
	}
	return nil
}

// checkNumber takes a number without fraction and exponent for an integer.
func checkNumber(at string, n json.Number) error {
	if !strings.ContainsAny(string(n), ".eE") {
		if i, err := n.Int64(); err != nil || i < MinInteger || i > MaxInteger {
			return invalid(at, "the integer %s is not between %d and %d", shortened(string(n)), MinInteger, MaxInteger)
		}
		return nil
	}
	if _, err := n.Float64(); err != nil {
		return invalid(at, "the number %s is too large", shortened(string(n)))
	}
	return nil
}

// below is the path of a member. A path is for people: names stand in it as
// they are, but for very long ones.
func below(at, name string) string { return at + "." + shortened(name) }

// quoted is a name that may have anything in it.
func quoted(name string) string { return strconv.Quote(shortened(name)) }

func shortened(s string) string {
	if runes := []rune(s); len(runes) > 40 {
		return string(runes[:40]) + "…"
	}
	return s
}

func invalid(at, format string, args ...any) *errs.Error {
	return errs.New(errs.Invalid, errs.CodeArgumentInvalid, "%s: %s", at, fmt.Sprintf(format, args...))
}
