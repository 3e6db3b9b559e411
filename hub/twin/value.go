package twin

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// A value is nil, a bool, a json.Number, a string, a []any or an *object.

// An object is a JSON object whose members have an order.
type object struct {
	names   []string
	members map[string]any
}

func newObject() *object { return &object{members: make(map[string]any)} }

func (o *object) set(name string, v any) {
	if _, known := o.members[name]; !known {
		o.names = append(o.names, name)
	}
	o.members[name] = v
}

// keep removes the members for which it is not told to keep them.
func (o *object) keep(wanted func(name string, v any) bool) {
	kept := o.names[:0]
	for _, name := range o.names {
		if wanted(name, o.members[name]) {
			kept = append(kept, name)
		} else {
			delete(o.members, name)
		}
	}
	o.names = kept
}

// removeNulls takes out what a merge would: members that are null, of objects
// within objects. An array is one value, whatever is in it.
func (o *object) removeNulls() {
	o.keep(func(_ string, v any) bool {
		if inner, ok := v.(*object); ok {
			inner.removeNulls()
		}
		return v != nil
	})
}

// merge applies patch and takes its values over.
func (o *object) merge(patch *object) {
	for _, name := range patch.names {
		v := patch.members[name]
		change, nested := v.(*object)
		if !nested {
			o.set(name, v)
			continue
		}
		was, ok := o.members[name].(*object)
		if !ok {
			was = newObject()
			o.set(name, was)
		}
		was.merge(change)
	}
	o.keep(func(_ string, v any) bool { return v != nil })
}

// parse reads a section. Members that the hub makes are left out: clients send
// back whole documents.
func (s Section) parse(text json.RawMessage) (*object, error) {
	if isNull(text) {
		return newObject(), nil
	}
	if !json.Valid(text) {
		return nil, invalid(s.name, "is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if t, _ := d.Token(); t != json.Delim('{') {
		return nil, invalid(s.name, "is not a JSON object")
	}
	return parseObject(d, s.name, 0)
}

// parseObject reads the rest of an object that is depth levels below its
// section.
func parseObject(d *json.Decoder, at string, depth int) (*object, error) {
	o := newObject()
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if depth == 0 && (name == "$metadata" || name == "$version") {
			var ignored json.RawMessage
			if err := d.Decode(&ignored); err != nil {
				return nil, err
			}
			continue
		}
		if err := checkName(at, name); err != nil {
			return nil, err
		}
		v, err := parseValue(d, below(at, name), depth)
		if err != nil {
			return nil, err
		}
		o.set(name, v)
	}
	_, err := d.Token() // the closing brace
	return o, err
}

// parseValue reads a value inside of something that is depth levels below its
// section.
func parseValue(d *json.Decoder, at string, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case string:
		return t, checkString(at, t)
	case json.Number:
		return t, checkNumber(at, t)
	case json.Delim:
		if depth == MaxDepth {
			return nil, invalid(at, "is more than %d levels deep", MaxDepth)
		}
		if t == '[' {
			return parseArray(d, at, depth+1)
		}
		return parseObject(d, at, depth+1)
	default: // a bool or nil
		return t, nil
	}
}

func parseArray(d *json.Decoder, at string, depth int) ([]any, error) {
	array := []any{}
	for d.More() {
		v, err := parseValue(d, at+"["+strconv.Itoa(len(array))+"]", depth)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
	}
	_, err := d.Token() // the closing bracket
	return array, err
}

func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case *object:
		b = append(b, '{')
		for i, name := range v.names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, name), ':')
			b = appendValue(b, v.members[name])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, e)
		}
		return append(b, ']')
	case string:
		return appendString(b, v)
	case json.Number:
		return append(b, v...)
	case bool:
		return strconv.AppendBool(b, v)
	default:
		return append(b, "null"...)
	}
}

func appendString(b []byte, s string) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string into memory
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}
