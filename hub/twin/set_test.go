package twin

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSet(t *testing.T) {
	for _, c := range []struct{ old, path, value, want string }{
		{`{}`, "a", `1`, `{"a":1}`},
		{`{"a":1,"b":2}`, "a", `{"c":1}`, `{"a":{"c":1},"b":2}`},
		{`{"a":{"b":1,"c":2}}`, "a", `{"d":1}`, `{"a":{"d":1}}`}, // and is not merged
		{`{"a":{"b":1,"c":2}}`, "a.b", `[1]`, `{"a":{"b":[1],"c":2}}`},
		{`{"a":5}`, "a.b.c", `true`, `{"a":{"b":{"c":true}}}`},
		{`{"a":{"b":1}}`, "a.b", `null`, `{"a":{}}`},
		{`{"a":{"b":1}}`, "", `{"z":1}`, `{"z":1}`},
		{`{"a":1}`, "b", `{"c":null}`, `{"a":1,"b":{}}`},
	} {
		var path []string
		if c.path != "" {
			path = strings.Split(c.path, ".")
		}
		got, err := Desired.Set(json.RawMessage(c.old), path, json.RawMessage(c.value))
		if err != nil || string(got) != c.want {
			t.Errorf("%s at %q of %s: %s (%v), want %s", c.value, c.path, c.old, got, err, c.want)
		}
	}
	for _, c := range []struct{ old, path, value string }{
		{`{}`, "a", `{`}, {`{}`, "a", `1}`}, {`{}`, "a b", `1`}, {`[]`, "a", `1`}, {`{}`, "", `1`},
		{`{}`, "a", strings.Repeat(`{"a":`, 11) + "1" + strings.Repeat("}", 11)},
		{`{}`, "a", `"` + strings.Repeat("x", 5000) + `"`},
	} {
		var path []string
		if c.path != "" {
			path = strings.Split(c.path, ".")
		}
		if got, err := Desired.Set(json.RawMessage(c.old), path, json.RawMessage(c.value)); err == nil {
			t.Errorf("%.50s at %q: %.50s", c.value, c.path, got)
		}
	}
}
