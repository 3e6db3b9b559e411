package query

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
)

// A Term says where documents that satisfy a condition can be found: the value
// at Path, or with Element one in the array there, is in one of the Ranges.
// Others may be there, too.
type Term struct {
	Path    Path
	Element bool
	Ranges  []Range
}

// about reports whether both terms are about the same values.
func (t Term) about(other Term) bool {
	return t.Element == other.Element && slices.Equal(t.Path, other.Path)
}

// A Range is the values from Low to High, both included, of the kind that one of
// them has; the other may be undefined, where there is no end. With Prefix it is
// the strings that begin with Low.
type Range struct {
	Low, High Value
	Prefix    bool
}

// Terms returns what an index can answer of a condition: each term alone holds all
// documents that satisfy the condition. There may be none.
func (c *Condition) Terms() []Term {
	if c == nil {
		return nil
	}
	return conjunction(c.root)
}

// conjunction returns the terms of what all must be true, those about one path
// made one where that is possible.
func conjunction(e expr) []Term {
	all, ok := e.(and)
	if !ok {
		all = and{e}
	}
	var terms []Term
	for _, part := range all {
		if nested, ok := part.(and); ok {
			for _, t := range conjunction(nested) {
				terms = join(terms, t)
			}
		} else if t, ok := termOf(part); ok {
			terms = join(terms, t)
		}
	}
	return terms
}

// join adds a term. Two ranges in which one value must be are their common part.
func join(terms []Term, t Term) []Term {
	for i, known := range terms {
		if t.Element || len(known.Ranges) != 1 || len(t.Ranges) != 1 || !known.about(t) {
			continue
		}
		if r, ok := common(known.Ranges[0], t.Ranges[0]); ok {
			terms[i].Ranges = []Range{r}
			return terms
		}
	}
	return append(terms, t)
}

func common(a, b Range) (Range, bool) {
	if a.Prefix || b.Prefix || a.kind() != b.kind() {
		return Range{}, false
	}
	if order, known := compare(b.Low, a.Low); known && order > 0 || a.Low.kind == Undefined {
		a.Low = b.Low
	}
	if order, known := compare(b.High, a.High); known && order < 0 || a.High.kind == Undefined {
		a.High = b.High
	}
	return a, true
}

func (r Range) kind() Kind { return max(r.Low.kind, r.High.kind) }

func termOf(e expr) (Term, bool) {
	switch e := e.(type) {
	case path: // a condition that is a property wants it to be true
		return exactly(e, BoolValue(true))
	case infix:
		return comparisonTerm(e)
	case in:
		return choiceTerm(e)
	case call:
		return callTerm(e)
	case or:
		return disjunction(e)
	}
	return Term{}, false
}

func exactly(at expr, v Value) (Term, bool) {
	p, ok := at.(path)
	if !ok || v.kind < Bool || v.kind > String {
		return Term{}, false
	}
	return Term{Path: p.Path, Ranges: []Range{{Low: v, High: v}}}, true
}

func comparisonTerm(e infix) (Term, bool) {
	op, at, with := e.op, e.left, e.right
	if _, ok := at.(literal); ok {
		op, at, with = mirrored(op), with, at
	}
	l, ok := with.(literal)
	if !ok {
		return Term{}, false
	}
	t, ok := exactly(at, l.Value)
	if !ok {
		return Term{}, false
	}
	switch op {
	case "=":
	case "<", "<=":
		t.Ranges[0].Low = Value{}
	case ">", ">=":
		t.Ranges[0].High = Value{}
	default:
		return Term{}, false
	}
	return t, true
}

// mirrored is the operator when the sides change.
func mirrored(op operator) operator {
	switch op {
	case "<":
		return ">"
	case "<=":
		return ">="
	case ">":
		return "<"
	case ">=":
		return "<="
	}
	return op
}

func choiceTerm(e in) (Term, bool) {
	at, ok := e.value.(path)
	if !ok || e.negated {
		return Term{}, false
	}
	t := Term{Path: at.Path}
	for _, choice := range e.list {
		l, ok := choice.(literal)
		if !ok || l.kind == Null {
			return Term{}, false
		}
		if l.kind == Undefined {
			continue // equal to nothing
		}
		t.Ranges = append(t.Ranges, Range{Low: l.Value, High: l.Value})
	}
	return t, true
}

func callTerm(e call) (Term, bool) {
	if e.name != "STARTS_WITH" && e.name != "ARRAY_CONTAINS" {
		return Term{}, false
	}
	l, ok := e.args[1].(literal)
	if !ok {
		return Term{}, false
	}
	t, ok := exactly(e.args[0], l.Value)
	if t.Element = e.name == "ARRAY_CONTAINS"; t.Element || !ok {
		return t, ok
	}
	t.Ranges[0] = Range{Low: l.Value, Prefix: true}
	return t, l.kind == String
}

// disjunction is a term when all its parts are terms about one path.
func disjunction(e or) (Term, bool) {
	all, ok := termOf(e[0])
	for _, part := range e[1:] {
		t, found := termOf(part)
		if ok = ok && found && all.about(t); !ok {
			return Term{}, false
		}
		all.Ranges = append(all.Ranges, t.Ranges...)
	}
	return all, ok
}

// maxEncoded is how many bytes of a string an index has. Strings that differ
// behind them are beside each other.
const maxEncoded = 64

// What encoded values begin with.
const (
	encodedFalse byte = iota + 1
	encodedTrue
	encodedNumber
	encodedString
)

// Encode returns bytes for a truth value, a number or a string, nil for others.
// They have the order of the values, but for strings that are equal in their
// first 64 bytes: these have the same.
func Encode(v Value) []byte {
	switch v.kind {
	case Bool:
		if v.number == 1 {
			return []byte{encodedTrue}
		}
		return []byte{encodedFalse}
	case Number:
		n := v.number
		if n == 0 {
			n = 0 // without its sign
		}
		// The sign bit of an IEEE 754 number set, it is above the negative ones;
		// and of these, the greater have the lesser bits.
		bits := math.Float64bits(n)
		if bits>>63 == 0 {
			bits |= 1 << 63
		} else {
			bits = ^bits
		}
		return binary.BigEndian.AppendUint64([]byte{encodedNumber}, bits)
	case String:
		return append([]byte{encodedString}, v.text[:min(len(v.text), maxEncoded)]...)
	}
	return nil
}

// Bounds returns the least and the greatest that [Encode] makes of the values of
// the range.
func (r Range) Bounds() (low, high []byte) {
	low, high = Encode(r.Low), Encode(r.High)
	if r.Prefix {
		return low, above(Encode(r.Low))
	}
	switch r.kind() {
	case Bool:
		low, high = orBytes(low, encodedFalse), orBytes(high, encodedTrue)
	case Number:
		low, high = orBytes(low, encodedNumber), orBytes(high, encodedNumber, 0xff, 0xff)
	case String:
		low, high = orBytes(low, encodedString), orBytes(high, above([]byte{encodedString})...)
	}
	return low, high
}

// above is behind every string whose encoded bytes begin with these, also one that is
// no UTF-8.
func above(encoded []byte) []byte {
	return append(encoded, bytes.Repeat([]byte{0xff}, 1+maxEncoded+1-len(encoded))...)
}

func orBytes(b []byte, otherwise ...byte) []byte {
	if b == nil {
		return otherwise
	}
	return b
}
