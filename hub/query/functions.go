package query

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxResult bounds what functions and arrays make, in bytes: a short text could
// otherwise make much of a long property.
const maxResult = 64 << 10

// A function has a value for every value of its arguments. Of what it is not made
// for, it makes nothing: undefined.
type function struct {
	name        string
	least, most int // arguments
	ofPath      bool
	apply       func([]Value) Value
}

func (f function) arity() string {
	switch {
	case f.most > 3:
		return strconv.Itoa(f.least) + " arguments or more"
	case f.least != f.most:
		return strconv.Itoa(f.least) + " or " + strconv.Itoa(f.most) + " arguments"
	case f.least == 1:
		return "one argument"
	}
	return strconv.Itoa(f.least) + " arguments"
}

// functionName is the name under which a function is known. Two are written in
// two ways, and none cares about case.
func functionName(written string) string {
	switch name := strings.ToUpper(written); name {
	case "STARTSWITH":
		return "STARTS_WITH"
	case "ENDSWITH":
		return "ENDS_WITH"
	default:
		return name
	}
}

var functions = functionTable()

func functionTable() map[string]function {
	table := make(map[string]function)
	add := func(name string, least, most int, apply func([]Value) Value) {
		table[name] = function{name: name, least: least, most: most, apply: apply}
	}
	table["IS_DEFINED"] = function{name: "IS_DEFINED", least: 1, most: 1, ofPath: true, apply: func(args []Value) Value {
		return BoolValue(args[0].kind != Undefined)
	}}
	for name, kinds := range map[string][]Kind{
		"IS_NULL": {Null}, "IS_BOOL": {Bool}, "IS_NUMBER": {Number}, "IS_STRING": {String}, "IS_ARRAY": {Array}, "IS_OBJECT": {Object},
		"IS_PRIMITIVE": {Null, Bool, Number, String},
	} {
		add(name, 1, 1, func(args []Value) Value {
			for _, k := range kinds {
				if args[0].kind == k {
					return BoolValue(true)
				}
			}
			return BoolValue(false)
		})
	}
	for name, of := range map[string]func(float64) float64{
		"ABS": math.Abs, "EXP": math.Exp, "SQUARE": func(x float64) float64 { return x * x }, "CEILING": math.Ceil,
		"FLOOR": math.Floor, "SQRT": math.Sqrt, "SIGN": sign,
	} {
		add(name, 1, 1, func(args []Value) Value {
			if args[0].kind != Number {
				return Value{}
			}
			return NumberValue(of(args[0].number))
		})
	}
	add("POWER", 2, 2, func(args []Value) Value {
		if args[0].kind != Number || args[1].kind != Number {
			return Value{}
		}
		return NumberValue(math.Pow(args[0].number, args[1].number))
	})
	for name, of := range map[string]func(s, part string) bool{
		"STARTS_WITH": strings.HasPrefix, "ENDS_WITH": strings.HasSuffix, "CONTAINS": strings.Contains,
	} {
		add(name, 2, 2, func(args []Value) Value {
			if !areStrings(args) {
				return Value{}
			}
			return BoolValue(of(args[0].text, args[1].text))
		})
	}
	for name, of := range map[string]func(string) string{"LOWER": strings.ToLower, "UPPER": strings.ToUpper} {
		add(name, 1, 1, func(args []Value) Value {
			if !areStrings(args) || len(args[0].text) > maxResult {
				return Value{}
			}
			return TextValue(of(args[0].text))
		})
	}
	add("LENGTH", 1, 1, func(args []Value) Value {
		if !areStrings(args) {
			return Value{}
		}
		return NumberValue(float64(utf8.RuneCountInString(args[0].text)))
	})
	add("INDEX_OF", 2, 2, indexOf)
	add("SUBSTRING", 2, 3, substring)
	add("CONCAT", 2, MaxReads, concat)
	add("AS_NUMBER", 1, 1, asNumber)
	add("ARRAY_CONTAINS", 2, 2, arrayContains)
	return table
}

func areStrings(args []Value) bool {
	for _, a := range args {
		if a.kind != String {
			return false
		}
	}
	return true
}

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

// indexOf counts characters from zero; what is not there is at -1.
func indexOf(args []Value) Value {
	if !areStrings(args) {
		return Value{}
	}
	i := strings.Index(args[0].text, args[1].text)
	if i < 0 {
		return NumberValue(-1)
	}
	return NumberValue(float64(utf8.RuneCountInString(args[0].text[:i])))
}

// substring takes characters from a position on, all or as many as are wanted.
func substring(args []Value) Value {
	if args[0].kind != String {
		return Value{}
	}
	for _, a := range args[1:] {
		if a.kind != Number || a.number < 0 || a.number != math.Trunc(a.number) {
			return Value{}
		}
	}
	rest := args[0].text
	rest = rest[characters(rest, args[1].number):]
	if len(args) == 3 {
		rest = rest[:characters(rest, args[2].number)]
	}
	return TextValue(rest)
}

// characters returns how many bytes the first n characters of s have.
func characters(s string, n float64) int {
	for i := range s {
		if n < 1 {
			return i
		}
		n--
	}
	return len(s)
}

func concat(args []Value) Value {
	if !areStrings(args) {
		return Value{}
	}
	n := 0
	for _, a := range args {
		n += len(a.text)
	}
	if n > maxResult {
		return Value{}
	}
	var b strings.Builder
	for _, a := range args {
		b.WriteString(a.text)
	}
	return TextValue(b.String())
}

// asNumber reads what JSON has for a number.
func asNumber(args []Value) Value {
	v := args[0]
	if v.kind == Number {
		return v
	}
	digits := strings.TrimPrefix(v.text, "-")
	if v.kind != String || digits == "" || decimal(digits) != len(digits) {
		return Value{}
	}
	n, err := strconv.ParseFloat(v.text, 64)
	if err != nil {
		return Value{}
	}
	return NumberValue(n)
}

func arrayContains(args []Value) Value {
	if args[0].kind != Array || !args[1].primitive() {
		return Value{}
	}
	found := false
	elements(args[0].text, func(v Value) bool {
		found, _ = equal(v, args[1])
		return !found
	})
	return BoolValue(found)
}
