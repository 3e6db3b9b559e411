package twin

import (
	"encoding/json"
	"testing"
)

func TestDifference(t *testing.T) {
	for _, c := range []struct{ old, next, want string }{
		{`{}`, `{}`, `{}`},
		{`{"a":1}`, `{"a":1}`, `{}`},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, `{}`},
		{`{}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{`{"a":1}`, `{}`, `{"a":null}`},
		{`{"a":1,"b":{"c":1,"d":[1,2]}}`, `{"a":"x","b":{"d":[1,3]}}`, `{"a":"x","b":{"d":[1,3],"c":null}}`},
		{`{"a":{"b":1}}`, `{"a":5}`, `{"a":5}`},
		{`{"a":5}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{`{"a":{"b":1}}`, `{"a":{}}`, `{"a":{"b":null}}`},
		{`{"a":[{"b":1}]}`, `{"a":[{"b":1}]}`, `{}`},
		{`{"a":1}`, `{"a":1.0}`, `{"a":1.0}`},
	} {
		got, err := Desired.Difference(json.RawMessage(c.old), json.RawMessage(c.next))
		if err != nil || string(got) != c.want {
			t.Errorf("from %s to %s: %s (%v), want %s", c.old, c.next, got, err, c.want)
		}
	}
	for _, broken := range []string{`[]`, `{"a":`} {
		if got, err := Desired.Difference(json.RawMessage(broken), json.RawMessage(`{}`)); err == nil {
			t.Errorf("%q: %s", broken, got)
		}
	}
}

// Merging the difference into the one makes the other.
func FuzzDifference(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":{"c":1,"d":[1,2]}}`), []byte(`{"a":"x","b":{"d":[1,3]},"e":{}}`))
	f.Fuzz(func(t *testing.T, old, next []byte) {
		was, err := Desired.Replace(old)
		if err != nil {
			return
		}
		is, err := Desired.Replace(next)
		if err != nil {
			return
		}
		patch, err := Desired.Difference(was, is)
		if err != nil {
			t.Fatal(err)
		}
		made, err := Desired.Merge(was, patch)
		if err != nil {
			t.Fatal(err)
		}
		if rest, err := Desired.Difference(made, is); err != nil || string(rest) != "{}" {
			t.Errorf("%s and %s make %s, not %s", was, patch, made, is)
		}
	})
}
