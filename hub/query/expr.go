package query

import (
	"fmt"
	"math"
	"strconv"
	"unicode"
)

// An expr is a part of a text that has a value for every document.
type expr interface {
	eval(Document) Value
	// print appends a text that is read as the same expression.
	print([]byte) []byte
	rank() int
}

// The ranks of operators. One of a lower rank takes in those of higher ones.
const (
	rankOr = iota
	rankAnd
	rankNot
	rankComparison
	rankSum
	rankProduct
	rankNegation
	rankPrimary
)

type operator string

type (
	literal  struct{ Value }
	path     struct{ Path }
	array    []expr
	negative struct{ of expr }
	not      struct{ of expr }
	and      []expr
	or       []expr
	infix    struct {
		op          operator
		left, right expr
	}
	in struct {
		value   expr
		list    array
		negated bool
	}
	call struct {
		function
		args []expr
	}
)

func (literal) rank() int  { return rankPrimary }
func (path) rank() int     { return rankPrimary }
func (array) rank() int    { return rankPrimary }
func (call) rank() int     { return rankPrimary }
func (negative) rank() int { return rankNegation }
func (not) rank() int      { return rankNot }
func (and) rank() int      { return rankAnd }
func (or) rank() int       { return rankOr }
func (in) rank() int       { return rankComparison }

func (e infix) rank() int {
	switch e.op {
	case "+", "-":
		return rankSum
	case "*", "/", "%":
		return rankProduct
	}
	return rankComparison
}

// walk calls visit with every path in e.
func walk(e expr, visit func(Path)) {
	switch e := e.(type) {
	case path:
		visit(e.Path)
	case negative:
		walk(e.of, visit)
	case not:
		walk(e.of, visit)
	case infix:
		walk(e.left, visit)
		walk(e.right, visit)
	case in:
		walk(e.value, visit)
		walkAll(e.list, visit)
	case call:
		walkAll(e.args, visit)
	case array:
		walkAll(e, visit)
	case and:
		walkAll(e, visit)
	case or:
		walkAll(e, visit)
	}
}

func walkAll(all []expr, visit func(Path)) {
	for _, e := range all {
		walk(e, visit)
	}
}

func (e literal) eval(Document) Value { return e.Value }
func (e path) eval(d Document) Value  { return d.Lookup(e.Path) }

func (e array) eval(d Document) Value {
	text := []byte{'['}
	for _, part := range e {
		v := part.eval(d)
		if v.kind == Undefined {
			continue
		}
		if len(text) > 1 {
			text = append(text, ',')
		}
		if text = v.AppendJSON(text); len(text) > maxResult {
			return Value{}
		}
	}
	return Value{kind: Array, text: string(append(text, ']'))}
}

func (e negative) eval(d Document) Value {
	if v := e.of.eval(d); v.kind == Number {
		return NumberValue(-v.number)
	}
	return Value{}
}

func (e not) eval(d Document) Value {
	if v := e.of.eval(d); v.kind == Bool {
		return BoolValue(v.number == 0)
	}
	return Value{}
}

// eval is false when one part is, and else true only when all are.
func (e and) eval(d Document) Value {
	result := BoolValue(true)
	for _, part := range e {
		switch v := part.eval(d); {
		case v.kind != Bool:
			result = Value{}
		case v.number == 0:
			return v
		}
	}
	return result
}

// eval is true when one part is, and else false only when all are.
func (e or) eval(d Document) Value {
	result := BoolValue(false)
	for _, part := range e {
		switch v := part.eval(d); {
		case v.kind != Bool:
			result = Value{}
		case v.number == 1:
			return v
		}
	}
	return result
}

func (e in) eval(d Document) Value {
	v := e.value.eval(d)
	if !v.primitive() {
		return Value{}
	}
	for _, choice := range e.list {
		if same, _ := equal(v, choice.eval(d)); same {
			return BoolValue(!e.negated)
		}
	}
	return BoolValue(e.negated)
}

func (e infix) eval(d Document) Value {
	left, right := e.left.eval(d), e.right.eval(d)
	switch e.op {
	case "=", "!=":
		same, known := equal(left, right)
		if !known {
			return Value{}
		}
		return BoolValue(same == (e.op == "="))
	case "<", "<=", ">", ">=":
		order, known := compare(left, right)
		if !known {
			return Value{}
		}
		return BoolValue(ordered(e.op, order))
	}
	if left.kind != Number || right.kind != Number {
		return Value{}
	}
	return NumberValue(calculate(e.op, left.number, right.number))
}

func ordered(op operator, order int) bool {
	switch op {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

func calculate(op operator, a, b float64) float64 {
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "/":
		return a / b
	}
	return math.Mod(a, b)
}

func (e call) eval(d Document) Value {
	var room [3]Value
	args := room[:0]
	for _, a := range e.args {
		args = append(args, a.eval(d))
	}
	return e.apply(args)
}

func (e literal) print(b []byte) []byte {
	switch e.kind {
	case Undefined:
		return append(b, "undefined"...)
	case Number:
		return strconv.AppendFloat(b, e.number, 'g', -1, 64)
	case String:
		return printString(b, e.text)
	}
	return e.AppendJSON(b)
}

func printString(b []byte, s string) []byte {
	b = append(b, '\'')
	for _, r := range s {
		switch {
		case r == '\'' || r == '\\':
			b = append(b, '\\', byte(r))
		case unicode.IsControl(r):
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '\'')
}

func (e array) print(b []byte) []byte {
	b = append(b, '[')
	if len(e) > 0 {
		// Two brackets together would begin a name.
		if first := e[0].print(nil); first[0] == '[' {
			b = append(b, ' ')
		}
	}
	return append(printAll(b, e), ']')
}

func printAll(b []byte, all []expr) []byte {
	for i, e := range all {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = e.print(b)
	}
	return b
}

// printWithin prints e as a part of something that takes in ranks from least on.
func printWithin(b []byte, e expr, least int) []byte {
	if e.rank() >= least {
		return e.print(b)
	}
	return append(e.print(append(b, '(')), ')')
}

func (e negative) print(b []byte) []byte {
	return printWithin(append(b, '-'), e.of, rankNegation)
}

func (e not) print(b []byte) []byte {
	return printWithin(append(b, "NOT "...), e.of, rankNot)
}

func (e and) print(b []byte) []byte { return printChain(b, e, " AND ", rankNot) }
func (e or) print(b []byte) []byte  { return printChain(b, e, " OR ", rankAnd) }

func printChain(b []byte, all []expr, between string, least int) []byte {
	for i, e := range all {
		if i > 0 {
			b = append(b, between...)
		}
		b = printWithin(b, e, least)
	}
	return b
}

func (e infix) print(b []byte) []byte {
	left := e.rank()
	if left == rankComparison {
		left++ // comparisons are not compared
	}
	b = printWithin(b, e.left, left)
	b = append(append(append(b, ' '), e.op...), ' ')
	return printWithin(b, e.right, e.rank()+1)
}

func (e in) print(b []byte) []byte {
	b = printWithin(b, e.value, rankSum)
	if e.negated {
		b = append(b, " NIN "...)
	} else {
		b = append(b, " IN "...)
	}
	return e.list.print(b)
}

func (e call) print(b []byte) []byte {
	return append(printAll(append(append(b, e.name...), '('), e.args), ')')
}
