package query

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func (r Range) String() string {
	if r.Prefix {
		return string(r.Low.AppendJSON(nil)) + "*"
	}
	if r.Low == r.High {
		return string(r.Low.AppendJSON(nil))
	}
	return string(r.Low.AppendJSON(nil)) + ".." + string(r.High.AppendJSON(nil))
}

func (t Term) String() string {
	var all []string
	for _, r := range t.Ranges {
		all = append(all, r.String())
	}
	in := " in "
	if t.Element {
		in = " has "
	}
	return t.Path.String() + in + strings.Join(all, "|")
}

func TestTerms(t *testing.T) {
	for text, want := range map[string]string{
		"tags.a = 'x'":            "tags.a in \"x\"",
		"'x' = tags.a AND tags.b": `tags.a in "x"; tags.b in true`,
		"5 < tags.a":              "tags.a in 5..null",
		"5 >= tags.a":             "tags.a in null..5",
		"tags.a > 5 AND tags.a <= 10 AND tags.b = -1":             "tags.a in 5..10; tags.b in -1",
		"tags.a > 5 AND tags.a > 7 AND tags.a < 9 AND tags.a < 8": "tags.a in 7..8",
		"tags.a = 5 AND tags.a > 1":                               "tags.a in 5",
		"tags.a > 5 AND tags.a < 'x'":                             "tags.a in 5..null; tags.a in null..\"x\"",
		"tags.a IN ['x', 2, true]":                                `tags.a in "x"|2|true`,
		"tags.a IN []":                                            "tags.a in ",
		"tags.a IN ['x', tags.b]":                                 "",
		"tags.a IN ['x', null]":                                   "",
		"tags.a IN ['x', undefined]":                              `tags.a in "x"`,
		"tags.a NIN ['x']":                                        "",
		"starts_with(tags.a, 'x')":                                `tags.a in "x"*`,
		"starts_with('x', tags.a)":                                "",
		"starts_with(tags.a, 5)":                                  "",
		"ends_with(tags.a, 'x')":                                  "",
		"array_contains(parentScopes, 'x')":                       `parentScopes has "x"`,
		"array_contains(parentScopes, 'x') AND array_contains(parentScopes, 'y')": `parentScopes has "x"; parentScopes has "y"`,
		"tags.a = 1 OR tags.a = 2 OR tags.a > 8":                                  "tags.a in 1|2|8..null",
		"tags.a = 1 OR tags.b = 2":                                                "",
		"tags.a = 1 OR array_contains(tags.a, 1)":                                 "",
		"(tags.a = 1 OR tags.a = 2) AND tags.b = 3":                               "tags.a in 1|2; tags.b in 3",
		"tags.a = 1 AND (tags.b = 2 AND tags.c = 3)":                              "tags.a in 1; tags.b in 2; tags.c in 3",
		"NOT tags.a = 1":      "",
		"tags.a != 1":         "",
		"tags.a = null":       "",
		"tags.a = undefined":  "",
		"tags.a = tags.b":     "",
		"tags.a + 1 = 2":      "",
		"lower(tags.a) = 'x'": "",
		"is_defined(tags.a)":  "",
		"tags.a[1] = 5":       "tags.a[1] in 5",
		"true":                "",
	} {
		var got []string
		for _, term := range mustCondition(t, text).Terms() {
			got = append(got, term.String())
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
	if terms := (*Condition)(nil).Terms(); terms != nil {
		t.Errorf("no condition: %v", terms)
	}
}

func TestEncodeKeepsTheOrder(t *testing.T) {
	ordered := []Value{
		BoolValue(false), BoolValue(true),
		NumberValue(-math.MaxFloat64), NumberValue(-1e10), NumberValue(-1.5), NumberValue(-1), NumberValue(-math.SmallestNonzeroFloat64),
		NumberValue(0), NumberValue(math.SmallestNonzeroFloat64), NumberValue(1), NumberValue(1.5), NumberValue(300), NumberValue(math.MaxFloat64),
		TextValue(""), TextValue("\x00"), TextValue("A"), TextValue("a"), TextValue("aa"), TextValue("b"), TextValue("é"), TextValue("\U0010ffff"),
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if (i < j) != (bytes.Compare(Encode(a), Encode(b)) < 0) {
				t.Errorf("%s and %s have another order", a.AppendJSON(nil), b.AppendJSON(nil))
			}
		}
	}
	if !bytes.Equal(Encode(NumberValue(math.Copysign(0, -1))), Encode(NumberValue(0))) {
		t.Error("zero depends on its sign")
	}
	for _, v := range []Value{{}, NullValue(), {kind: Array, text: "[]"}, {kind: Object, text: "{}"}} {
		if Encode(v) != nil {
			t.Errorf("%s has an encoding", v.AppendJSON(nil))
		}
	}
}

// Every document that satisfies a condition is within every one of its terms.
func FuzzTerms(f *testing.F) {
	for _, text := range []string{
		"a = 'x'", "a > 5 AND a < 10", "a IN ['x', 2] OR a = true", "starts_with(a, 'xy') AND b", "a >= 'm' AND b <= 0",
		"a > '" + strings.Repeat("y", 70) + "'", "starts_with(a, '" + strings.Repeat("y", 64) + "z')", "array_contains(c, 'x')",
	} {
		f.Add("a > ''", []byte("{\"a\":\"\xff0\"}"))
		for _, document := range []string{`{"a":"x","b":true}`, `{"a":7,"b":-1}`, `{"a":"xyz","c":["x"]}`, `{"a":"` + strings.Repeat("y", 64) + `zz"}`} {
			f.Add(text, []byte(document))
		}
	}
	f.Fuzz(func(t *testing.T, text string, document []byte) {
		c, err := ParseCondition(text)
		if err != nil || !json.Valid(document) || !c.Holds(page(document)) {
			return
		}
		for _, term := range c.Terms() {
			v := page(document).Lookup(term.Path)
			within := false
			candidates := []Value{v}
			if term.Element {
				candidates = nil
				elements(v.text, func(e Value) bool { candidates = append(candidates, e); return true })
			}
			for _, r := range term.Ranges {
				low, high := r.Bounds()
				for _, candidate := range candidates {
					at := Encode(candidate)
					within = within || bytes.Compare(low, at) <= 0 && bytes.Compare(at, high) <= 0
				}
			}
			if !within {
				t.Errorf("%s holds of %s, which is not at %v", c, document, term)
			}
		}
	})
}
