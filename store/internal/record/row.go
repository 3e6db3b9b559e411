// Package record turns what a store keeps into the columns of a row and back.
// The engines have it in common, so that a member is not forgotten in one of
// them; each has its own SQL. It takes and gives the values that SQL drivers
// know: nil, int64, bool, string and []byte.
package record

import (
	"database/sql/driver"
	"encoding/json"
	"math"
	"time"
)

// A Row hands out its columns from left to right. What it returns is the
// caller's own.
type Row struct{ rest []driver.Value }

// NewRow returns a row of values, which are used until the row has been read.
// They must not be shared: byte slices are handed out as they are.
func NewRow(values []driver.Value) *Row { return &Row{values} }

func (r *Row) next() driver.Value {
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

// Text returns a text, empty where the column is NULL.
func (r *Row) Text() string { s, _ := r.next().(string); return s }

// Number returns an integer, zero where the column is NULL.
func (r *Row) Number() int64 { n, _ := r.next().(int64); return n }

// Flag returns a boolean, which is an integer in a database without them.
func (r *Row) Flag() bool {
	switch v := r.next().(type) {
	case bool:
		return v
	case int64:
		return v != 0
	}
	return false
}

// Blob returns bytes, nil where the column is NULL and only there.
func (r *Row) Blob() []byte {
	b, ok := r.next().([]byte)
	if ok && b == nil {
		return []byte{} // as some drivers return an empty one
	}
	return b
}

// JSON returns the text of a JSON value, nil where the column is NULL.
func (r *Row) JSON() json.RawMessage {
	if s, ok := r.next().(string); ok {
		return json.RawMessage(s)
	}
	return nil
}

// decode reads JSON into v, which stays as it is where the column is NULL.
func (r *Row) decode(v any) error {
	if s, ok := r.next().(string); ok {
		return json.Unmarshal([]byte(s), v)
	}
	return nil
}

// Time returns an instant, the zero time where the column is NULL.
func (r *Row) Time() time.Time {
	if n, ok := r.next().(int64); ok {
		return time.Unix(0, n).UTC()
	}
	return time.Time{}
}

func jsonText(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	return string(raw)
}

// encoded returns v as JSON text, or NULL. It is for types that always encode.
func encoded(v any, null bool) any {
	if null {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func nanoseconds(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return Nanoseconds(t)
}

// Nanoseconds returns t as a column has it: nanoseconds since 1970. It keeps to
// the years that those reach, 1678 to 2261.
func Nanoseconds(t time.Time) int64 {
	switch y := t.UTC().Year(); {
	case y < 1678:
		return math.MinInt64
	case y > 2261:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// Limit is the argument of LIMIT, to which a negative number means no limit or
// an error.
func Limit(limit int) int64 { return int64(max(limit, 0)) }

// Above is the argument of a comparison with a message's sequence number.
func Above(sequence uint64) int64 { return int64(min(sequence, math.MaxInt64)) }
