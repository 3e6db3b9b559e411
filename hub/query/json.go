package query

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// This file finds values in JSON without making objects of all of it. It trusts
// that the text is JSON: of other texts it makes something or nothing, but never
// reads beyond them.

// Find returns the value at a path below a JSON value. With fold, names that
// differ in case only are taken where there is none that is equal.
func Find(text json.RawMessage, at Path, fold bool) Value {
	rest := []byte(text)
	for _, s := range at {
		var ok bool
		if s.Name == "" {
			rest, ok = element(rest, s.Index)
		} else {
			rest, ok = member(rest, s.Name, fold)
		}
		if !ok {
			return Value{}
		}
	}
	return valueOf(rest)
}

// member returns the text of an object's member.
func member(text []byte, name string, fold bool) (found []byte, ok bool) {
	members(text, func(n, value []byte) bool {
		switch {
		case string(n) == name:
			found, ok = value, true
			return false
		case fold && !ok && strings.EqualFold(string(n), name):
			found, ok = value, true
		}
		return true
	})
	return found, ok
}

func element(text []byte, index int) (found []byte, ok bool) {
	i := 0
	texts(text, func(value []byte) bool {
		ok = i == index
		if ok {
			found = value
		}
		i++
		return !ok
	})
	return found, ok
}

// members calls use with the members of an object until it returns false.
func members(text []byte, use func(name, value []byte) bool) {
	text = trimmed(text)
	if !begins(text, '{') {
		return
	}
	for {
		text = trimmed(text[1:]) // behind the brace or a comma
		n := stringLength(text)
		if n == 0 {
			return
		}
		name := unquoted(text[:n])
		text = trimmed(text[n:])
		if !begins(text, ':') {
			return
		}
		text = trimmed(text[1:])
		n = valueLength(text)
		if n == 0 || !use(name, text[:n]) {
			return
		}
		if text = trimmed(text[n:]); !begins(text, ',') {
			return
		}
	}
}

// texts calls use with the elements of an array until it returns false.
func texts(text []byte, use func(value []byte) bool) {
	text = trimmed(text)
	if !begins(text, '[') {
		return
	}
	for {
		text = trimmed(text[1:])
		n := valueLength(text)
		if n == 0 || !use(text[:n]) {
			return
		}
		if text = trimmed(text[n:]); !begins(text, ',') {
			return
		}
	}
}

func elements(text string, use func(Value) bool) {
	texts([]byte(text), func(value []byte) bool { return use(valueOf(value)) })
}

func begins(s []byte, with byte) bool { return len(s) > 0 && s[0] == with }

func trimmed(s []byte) []byte {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t' || s[0] == '\r' || s[0] == '\n') {
		s = s[1:]
	}
	return s
}

// stringLength returns the length of the string that s begins with, quotes
// included, or zero.
func stringLength(s []byte) int {
	if !begins(s, '"') {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// valueLength returns the length of the value that s begins with, or zero.
func valueLength(s []byte) int {
	if len(s) == 0 {
		return 0
	}
	switch s[0] {
	case '"':
		return stringLength(s)
	case '{', '[':
		return nestedLength(s)
	}
	for i := range len(s) {
		switch s[i] {
		case ',', '}', ']', ' ', '\t', '\r', '\n':
			return i
		}
	}
	return len(s)
}

func nestedLength(s []byte) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			n := stringLength(s[i:])
			if n == 0 {
				return 0
			}
			i += n - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}

// unquoted is what a string says.
func unquoted(s []byte) []byte {
	if bytes.IndexByte(s, '\\') < 0 {
		return s[1 : len(s)-1]
	}
	var text string
	if json.Unmarshal(s, &text) != nil {
		return nil
	}
	return []byte(text)
}

func valueOf(text []byte) Value {
	text = bytes.Trim(text, " \t\r\n")
	if len(text) == 0 {
		return Value{}
	}
	switch text[0] {
	case '"':
		if stringLength(text) == len(text) {
			return TextValue(string(unquoted(text)))
		}
	case '{':
		return Value{kind: Object, text: string(text)}
	case '[':
		return Value{kind: Array, text: string(text)}
	case 't':
		return BoolValue(true)
	case 'f':
		return BoolValue(false)
	case 'n':
		return NullValue()
	default:
		if n, err := strconv.ParseFloat(string(text), 64); err == nil {
			return NumberValue(n)
		}
	}
	return Value{}
}

// Leaves calls visit with every value in a JSON object that is no object and no
// array, and with the names on the way to it with dots between them, below a
// prefix.
func Leaves(text json.RawMessage, prefix string, visit func(key string, v Value)) {
	members(text, func(name, value []byte) bool {
		key := prefix + "." + string(name)
		if begins(value, '{') {
			Leaves(value, key, visit)
		} else if v := valueOf(value); v.primitive() {
			visit(key, v)
		}
		return true
	})
}
