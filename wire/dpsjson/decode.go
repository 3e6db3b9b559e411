// Package dpsjson holds the JSON bodies of the DPS REST API: those of the device API, which the MQTT and AMQP wires
// carry too, and those of the service API. The Go structs have the members in the order in which the service answers
// them; unset members are left out of an answer.
//
// The decoders read what strangers send. They are lenient where clients differ and strict where two readers could
// disagree about one body:
//
//   - Member names are compared without regard to ASCII case. Unknown members are ignored.
//   - An explicit null means the same as leaving the member out.
//   - A known member given twice, in whatever spelling, is refused: which of the two counts is not to be guessed.
//   - Enumerations are read without regard to case and kept in their documented spelling.
//   - A body is at most [MaxBody] bytes of UTF-8 and one JSON value nested at most [MaxDepth] deep.
//
// Errors say which member broke which rule ("tpm.endorsementKey: not base64") and repeat nothing that was sent, so
// they can be shown to the sender. Members that are kept as JSON come out without insignificant white space; what is
// inside them, duplicates included, is left to their owner.
//
// The structs also serve clients: encoding/json reads answers into them.
package dpsjson

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Limits of a body.
const (
	MaxBody     = 96 << 10              // bytes of one registration or one enrollment
	MaxBulkItem = 10                    // enrollments in a bulk operation
	MaxBulkBody = MaxBulkItem * MaxBody // bytes of a bulk operation
	MaxDepth    = 32                    // objects and arrays inside each other
)

// A fault is a rule that a body broke and the member that broke it.
type fault struct{ member, rule string }

func (f fault) Error() string {
	if f.member == "" {
		return "body: " + f.rule
	}
	return f.member + ": " + f.rule
}

// within says that err happened inside member.
func within(member string, err error) error {
	f, ok := err.(fault)
	switch {
	case !ok:
		return fault{member, err.Error()}
	case f.member == "":
		return fault{member, f.rule}
	case f.member[0] == '[':
		return fault{member + f.member, f.rule}
	}
	return fault{member + "." + f.member, f.rule}
}

// decode reads b, a JSON object of at most limit bytes, into the struct that v points to.
func decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fault{rule: fmt.Sprintf("longer than %d bytes", limit)}
	}
	if !utf8.Valid(b) {
		return fault{rule: "not UTF-8"}
	}
	// Compacting checks the syntax, trailing bytes included. What follows relies on both.
	var compact bytes.Buffer
	if json.Compact(&compact, b) != nil {
		return notJSON(b)
	}
	b = compact.Bytes()
	if depth(b) > MaxDepth {
		return fault{rule: fmt.Sprintf("nested deeper than %d", MaxDepth)}
	}
	if b[0] != '{' {
		return fault{rule: "not an object"}
	}
	return fill(reflect.ValueOf(v).Elem(), b)
}

// notJSON says where b stops being one JSON value, which json.Compact does not.
func notJSON(b []byte) error {
	var raw json.RawMessage
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(b, &raw), &syntax) {
		return fault{rule: fmt.Sprintf("not one JSON value; wrong at byte %d", syntax.Offset)}
	}
	return fault{rule: "not one JSON value"}
}

// isBlank reports whether b is JSON white space or nothing.
func isBlank(b []byte) bool { return len(bytes.Trim(b, " \t\r\n")) == 0 }

// fill reads one compact JSON value into v. Leaf types say themselves how they are read: from any JSON value as a
// json.Unmarshaler, or from a string as an encoding.TextUnmarshaler. Bytes are base64 strings.
func fill(v reflect.Value, raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	switch u := v.Addr().Interface().(type) {
	case json.Unmarshaler:
		return u.UnmarshalJSON(raw)
	case encoding.TextUnmarshaler:
		s, err := text(raw)
		if err != nil {
			return err
		}
		return u.UnmarshalText([]byte(s))
	case *[]byte:
		return fillBase64(u, raw)
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return fill(v.Elem(), raw)
	case reflect.Struct:
		return fillStruct(v, raw)
	case reflect.Slice:
		return fillSlice(v, raw)
	case reflect.String:
		s, err := text(raw)
		if err != nil {
			return err
		}
		v.SetString(s)
	case reflect.Bool:
		if raw[0] != 't' && raw[0] != 'f' {
			return errors.New("not true or false")
		}
		v.SetBool(raw[0] == 't')
	case reflect.Int:
		n, err := strconv.Atoi(string(raw))
		if err != nil {
			return errors.New("not an integer")
		}
		v.SetInt(int64(n))
	default:
		panic("dpsjson: no rule for reading a " + v.Type().String())
	}
	return nil
}

func fillStruct(v reflect.Value, raw []byte) error {
	if raw[0] != '{' {
		return errors.New("not an object")
	}
	s := schemaOf(v.Type())
	var seen uint64
	for rest := raw[1:]; rest[0] != '}'; {
		var name, value []byte
		name, rest = cut(rest)
		value, rest = cut(rest[1:]) // past the colon
		if rest[0] == ',' {
			rest = rest[1:]
		}
		i, ok := s.lookup(name)
		if !ok {
			continue
		}
		if seen&(1<<i) != 0 {
			return fault{s.names[i], "given twice"}
		}
		seen |= 1 << i
		if err := fill(v.Field(i), value); err != nil {
			return within(s.names[i], err)
		}
	}
	return nil
}

func fillSlice(v reflect.Value, raw []byte) error {
	if raw[0] != '[' {
		return errors.New("not an array")
	}
	var values [][]byte
	for rest := raw[1:]; rest[0] != ']'; {
		var value []byte
		value, rest = cut(rest)
		if rest[0] == ',' {
			rest = rest[1:]
		}
		values = append(values, value)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(values), len(values)))
	for i, value := range values {
		member := fmt.Sprintf("[%d]", i)
		if string(value) == "null" {
			return fault{member, "null"}
		}
		if err := fill(v.Index(i), value); err != nil {
			return within(member, err)
		}
	}
	return nil
}

func fillBase64(dst *[]byte, raw []byte) error {
	s, err := text(raw)
	if err != nil {
		return err
	}
	*dst, err = base64.StdEncoding.DecodeString(s)
	if err != nil {
		return errors.New("not base64")
	}
	return nil
}

// text returns the value of a JSON string.
func text(raw []byte) (string, error) {
	if raw[0] != '"' {
		return "", errors.New("not a string")
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", errors.New("not a string")
	}
	return s, nil
}

// cut returns the value, or the member name, that compact JSON begins with, and what follows it.
func cut(b []byte) (value, rest []byte) {
	open := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += stringLen(b[i:]) - 1
			if open == 0 {
				return b[:i+1], b[i+1:]
			}
		case '{', '[':
			open++
		case '}', ']':
			if open == 0 {
				return b[:i], b[i:] // after a number or a literal
			}
			if open--; open == 0 {
				return b[:i+1], b[i+1:]
			}
		case ',':
			if open == 0 {
				return b[:i], b[i:]
			}
		}
	}
	return b, nil
}

// stringLen returns the length of the JSON string that b begins with, quotes included.
func stringLen(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// depth returns how deep the objects and arrays of b, valid JSON, are inside each other.
func depth(b []byte) int {
	open, deepest := 0, 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += stringLen(b[i:]) - 1
		case '{', '[':
			open++
			deepest = max(deepest, open)
		case '}', ']':
			open--
		}
	}
	return deepest
}

// A schema is the member names of a struct, from its json tags. A field with an "also" tag has a second name.
type schema struct {
	names  []string // by field
	fields map[string]int
}

// schemas has the schema of every struct type met so far.
var schemas sync.Map // reflect.Type to *schema

func schemaOf(t reflect.Type) *schema {
	if s, ok := schemas.Load(t); ok {
		return s.(*schema)
	}
	s := &schema{fields: map[string]int{}}
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name, _, _ := strings.Cut(tag.Get("json"), ",")
		s.names = append(s.names, name)
		s.fields[strings.ToLower(name)] = i
		if also := tag.Get("also"); also != "" {
			s.fields[strings.ToLower(also)] = i
		}
	}
	schemas.Store(t, s)
	return s
}

// lookup finds the field for a member name as sent, a JSON string.
func (s *schema) lookup(raw []byte) (field int, ok bool) {
	name, err := text(raw)
	if err != nil {
		return 0, false
	}
	var lower [64]byte
	if len(name) > len(lower) {
		return 0, false
	}
	for i, c := range []byte(name) {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	field, ok = s.fields[string(lower[:len(name)])]
	return field, ok
}

// Encode returns the JSON of one of this package's bodies. Unlike json.Marshal it leaves <, > and & as they are, so
// that JSON which is only passed through stays the same.
func Encode(body any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, fmt.Errorf("encoding %T: %w", body, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
