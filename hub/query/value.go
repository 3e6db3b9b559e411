package query

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// A Kind is a kind of JSON value, or Undefined: none at all.
type Kind uint8

// The kinds, in the order in which MIN and MAX have them.
const (
	Undefined Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// A Value is a JSON value, or none: the zero Value is undefined.
type Value struct {
	kind   Kind
	number float64 // of a Number, and 1 for true
	text   string  // of a String, and the JSON of an Array or an Object
}

// A Document is what conditions are about.
type Document interface {
	// Lookup returns the value at a path, undefined where there is none.
	Lookup(Path) Value
}

// TextValue returns a string.
func TextValue(s string) Value { return Value{kind: String, text: s} }

// NumberValue returns a number. What is not finite is undefined.
func NumberValue(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	return Value{kind: Number, number: f}
}

// BoolValue returns a truth value.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: Bool, number: 1}
	}
	return Value{kind: Bool}
}

// NullValue returns null.
func NullValue() Value { return Value{kind: Null} }

// Kind returns the kind of v.
func (v Value) Kind() Kind { return v.kind }

// Text returns the text of a string, and the JSON of an array or an object.
func (v Value) Text() string { return v.text }

// Float returns a number.
func (v Value) Float() float64 { return v.number }

// IsTrue reports whether v is true, which a 1 or a text is not.
func (v Value) IsTrue() bool { return v.kind == Bool && v.number == 1 }

// AppendJSON appends v as JSON, null where it is undefined.
func (v Value) AppendJSON(b []byte) []byte {
	switch v.kind {
	case Bool:
		return strconv.AppendBool(b, v.number == 1)
	case Number:
		return appendNumber(b, v.number)
	case String:
		return appendText(b, v.text)
	case Array, Object:
		return append(b, v.text...)
	default:
		return append(b, "null"...)
	}
}

// appendNumber writes whole numbers without an exponent as far as doubles have
// them all, as JSON libraries elsewhere do.
func appendNumber(b []byte, f float64) []byte {
	if math.Abs(f) < 1<<53 {
		return strconv.AppendFloat(b, f, 'f', -1, 64)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

func appendText(b []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // a string always encodes
	}
	return append(b, text...)
}

func (v Value) primitive() bool { return v.kind >= Null && v.kind <= String }

// equal compares as = does: values of two kinds differ, and objects and arrays
// are not compared. known is false where that leaves it undefined.
func equal(a, b Value) (same, known bool) {
	if !a.primitive() || !b.primitive() {
		return false, false
	}
	return a.kind == b.kind && a.number == b.number && a.text == b.text, true
}

// compare orders numbers, truth values and strings, these by their bytes. Two
// kinds have no order.
func compare(a, b Value) (order int, known bool) {
	switch {
	case a.kind != b.kind || !a.primitive():
		return 0, false
	case a.kind == String:
		return strings.Compare(a.text, b.text), true
	case a.number < b.number:
		return -1, true
	case a.number > b.number:
		return 1, true
	}
	return 0, true
}
