package query

import (
	"encoding/json"
	"reflect"
	"testing"
)

var seeds = []string{
	"SELECT * FROM devices", "select top 3 deviceId as id, tags.a.b from devices.modules where a=1 or b in ['x',2] and not c<>null",
	"SELECT COUNT() AS n, AVG(tags.t), status FROM devices WHERE configurations.[[c-1]].status = 'Applied' GROUP BY status",
	"SELECT -1+2*(3-x[0].y)%4 AS z FROM devices WHERE startswith(lower(\"a\\u0041\"), 'b') AND array_contains([ [1], 0xFF], 1e5)",
}

// A text that is understood is printed as one that is understood as the same.
func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text)
		if err != nil {
			return
		}
		printed := q.String()
		if len(printed) > MaxText {
			return // spaces and escapes make it longer
		}
		again, err := Parse(printed)
		if err != nil {
			t.Fatalf("%q is printed as %q: %v", text, printed, err)
		}
		if again.String() != printed || !sameButNames(q, again) {
			t.Errorf("%q is printed as %q and read as %q", text, printed, again)
		}
	})
}

// sameButNames leaves out what clients call a member of the registry's.
func sameButNames(a, b *Query) bool {
	plain := func(q *Query) Query {
		c := *q
		c.columns = append([]column(nil), q.columns...)
		for i := range c.columns {
			c.columns[i].name = ""
			if call, ok := c.columns[i].value.(call); ok {
				c.columns[i].value = array(call.args)
			}
		}
		return c
	}
	x, y := plain(a), plain(b)
	return x.Top == y.Top && x.From == y.From && len(x.columns) == len(y.columns) && reflect.DeepEqual(x.groupBy, y.groupBy)
}

func FuzzParseRoute(f *testing.F) {
	for _, s := range []string{"$body.Weather.Temperature = 50 AND processingPath = 'hot'", "$dt-subject = 'x' OR $twin.tags.[[a b]] IN [1]", "as_number(severity) <= 2"} {
		f.Add(s, []byte(`{"$body":{"Weather":{"Temperature":50}},"severity":"2"}`))
	}
	f.Fuzz(func(t *testing.T, text string, message []byte) {
		c, err := ParseRoute(text)
		if err != nil {
			return
		}
		held := c.Holds(page(message)) // also of what is no JSON
		printed := c.String()
		if len(printed) > MaxText {
			return
		}
		again, err := ParseRoute(printed)
		if err != nil || again.String() != printed || again.Holds(page(message)) != held {
			t.Errorf("%q is printed as %q and read as %v (%v)", text, printed, again, err)
		}
	})
}

// Values are found where a decoder of objects finds them.
func FuzzFind(f *testing.F) {
	f.Add([]byte(`{"a":{"b":[1,{"c":"\u0041"}]},"d":null}`), "a.b[1].c")
	f.Add([]byte(` [ 1 , "x" , [ ] , { } , true ] `), "x[4]")
	f.Fuzz(func(t *testing.T, text []byte, at string) {
		c, err := ParseRoute(at)
		if err != nil {
			return
		}
		p, ok := c.root.(path)
		if !ok {
			return
		}
		found := Find(text, p.Path, false)
		var decoded any
		if json.Unmarshal(text, &decoded) != nil || twice(text) {
			return
		}
		for _, s := range p.Path {
			switch v := decoded.(type) {
			case map[string]any:
				if decoded, ok = v[s.Name]; !ok || s.Name == "" {
					decoded, ok = nil, false
				}
			case []any:
				if ok = s.Name == "" && s.Index < len(v); ok {
					decoded = v[s.Index]
				}
			default:
				ok = false
			}
			if !ok {
				if found.kind != Undefined {
					t.Errorf("%s at %s: found %s", text, p, found.AppendJSON(nil))
				}
				return
			}
		}
		if got := found.AppendJSON(nil); !sameJSON(got, decoded) {
			t.Errorf("%s at %s: found %s, not %v", text, p, got, decoded)
		}
	})
}

// twice reports whether JSON has a member twice: which of them counts is left
// open.
func twice(text []byte) bool {
	again := false
	var look func(s []byte)
	look = func(s []byte) {
		seen := map[string]bool{}
		members(s, func(name, value []byte) bool {
			again = again || seen[string(name)]
			seen[string(name)] = true
			look(value)
			return true
		})
		texts(s, func(value []byte) bool { look(value); return true })
	}
	look(text)
	return again
}

func sameJSON(text []byte, want any) bool {
	var got any
	return json.Unmarshal(text, &got) == nil && reflect.DeepEqual(got, want)
}
