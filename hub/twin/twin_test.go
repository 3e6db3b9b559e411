package twin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-iot/berth/errs"
)

func TestMerge(t *testing.T) {
	for _, c := range []struct{ name, old, patch, want string }{
		{"into nothing", `{}`, `{"a":1}`, `{"a":1}`},
		{"nothing", `{"a":1}`, `{}`, `{"a":1}`},
		{"a value", `{"a":1,"b":2}`, `{"a":"x"}`, `{"a":"x","b":2}`},
		{"a new member comes last", `{"b":1}`, `{"a":2}`, `{"b":1,"a":2}`},
		{"null removes", `{"a":1,"b":2}`, `{"a":null}`, `{"b":2}`},
		{"null removes what is not there", `{"a":1}`, `{"x":null}`, `{"a":1}`},
		{"into an object", `{"net":{"ssid":"x","up":true}}`, `{"net":{"up":null,"mac":1.5}}`, `{"net":{"ssid":"x","mac":1.5}}`},
		{"null removes an object", `{"net":{"ssid":"x"}}`, `{"net":null}`, `{}`},
		{"the last member of an object", `{"net":{"ssid":"x"}}`, `{"net":{"ssid":null}}`, `{"net":{}}`},
		{"an object over a value", `{"a":1}`, `{"a":{"b":{"c":null,"d":2}}}`, `{"a":{"b":{"d":2}}}`},
		{"a value over an object", `{"a":{"b":1}}`, `{"a":false}`, `{"a":false}`},
		{"an array is one value", `{"a":[1,2,3]}`, `{"a":[{"b":null},null]}`, `{"a":[{"b":null},null]}`},
		{"an object over an array", `{"a":[1]}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{"null for everything", `{"a":1}`, ` null `, `{}`},
		{"what the hub makes", `{"a":1}`, `{"$metadata":{"a":{"$lastUpdated":"x"}},"$version":7,"a":2}`, `{"a":2}`},
		{"twice the same name", `{}`, `{"a":1,"a":2}`, `{"a":2}`},
		{"a number as it was written", `{}`, `{"a":1.50e-3,"b":-0}`, `{"a":1.50e-3,"b":-0}`},
		{"characters of HTML", `{}`, `{"a<b":"\u003c&>"}`, `{"a<b":"<&>"}`},
		{"spaces", ` { "a" : 1 } `, "{\n\"b\":\t2}", `{"a":1,"b":2}`},
	} {
		got, err := Desired.Merge(json.RawMessage(c.old), json.RawMessage(c.patch))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
}

func TestReplace(t *testing.T) {
	for with, want := range map[string]string{
		``:                                    `{}`,
		`null`:                                `{}`,
		`{}`:                                  `{}`,
		`{"b":1,"a":null,"c":{"d":null}}`:     `{"b":1,"c":{}}`,
		`{"$version":3,"a":{"b":[]}}`:         `{"a":{"b":[]}}`,
		`{"$metadata":{"$x":[[{}]]},"a":"é"}`: `{"a":"é"}`,
	} {
		got, err := Tags.Replace(json.RawMessage(with))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", with, got, err, want)
		}
	}
}

// nested returns an object n levels deep, not counting itself.
func nested(n int, open, close string) string {
	return `{"a":` + strings.Repeat(open, n) + "1" + strings.Repeat(close, n) + "}"
}

func TestLimits(t *testing.T) {
	// Seven members of 4096 bytes with names of one.
	var strings7 []string
	for i := range 7 {
		strings7 = append(strings7, fmt.Sprintf(`"%d":"%s"`, i, strings.Repeat("x", MaxString)))
	}
	// full returns desired properties of 32 KB and more bytes.
	full := func(more int) string {
		rest := 32<<10 - 7*(MaxString+1) - len("z") + more
		return `{` + strings.Join(strings7, ",") + `,"z":"` + strings.Repeat("x", rest) + `"}`
	}
	for _, c := range []struct {
		name, text string
		place      string // empty when it is within the limits
	}{
		{"longest name", `{"` + strings.Repeat("é", MaxName/2) + `":1}`, ""},
		{"longest string", `{"a":"` + strings.Repeat("é", MaxString/2) + `"}`, ""},
		{"greatest integer", `{"a":4503599627370495}`, ""},
		{"least integer", `{"a":-4503599627370496}`, ""},
		{"a great double", `{"a":4503599627370496.0,"b":1e300}`, ""},
		{"deepest objects", nested(MaxDepth, `{"b":`, `}`), ""},
		{"deepest arrays", nested(MaxDepth, `[`, `]`), ""},
		{"fullest", full(0), ""},
		{"control characters in a string", `{"a":"` + strings.Repeat(`\u0000`, 100) + `"}`, ""},
		{"a name with a slash", `{"a/b:c-d_é":1}`, ""},

		{"an array", `[]`, "properties.desired"},
		{"a string", `"{}"`, "properties.desired"},
		{"no JSON", `{"a":}`, "properties.desired"},
		{"JSON and more", `{} {}`, "properties.desired"},
		{"name too long", `{"` + strings.Repeat("é", MaxName/2) + `x":1}`, "properties.desired"},
		{"a dot in a name", `{"net":{"a.b":1}}`, "properties.desired.net"},
		{"a dollar in a name", `{"a":{"$version":1}}`, "properties.desired.a"},
		{"a dollar at the top", `{"$metadatas":1}`, "properties.desired"},
		{"a space in a name", `{"a b":1}`, "properties.desired"},
		{"a control character in a name", `{"a\u0007":1}`, "properties.desired"},
		{"another control character in a name", `{"a\u0085":1}`, "properties.desired"},
		{"a bad name in an array", `{"a":[1,{"b c":1}]}`, "properties.desired.a[1]"},
		{"a bad name that is to be removed", `{"a.b":null}`, "properties.desired"},
		{"string too long", `{"a":{"b":"` + strings.Repeat("x", MaxString+1) + `"}}`, "properties.desired.a.b"},
		{"string too long in bytes", `{"a":"` + strings.Repeat("é", MaxString/2) + `x"}`, "properties.desired.a"},
		{"integer too great", `{"a":4503599627370496}`, "properties.desired.a"},
		{"integer too small", `{"a":[-4503599627370497]}`, "properties.desired.a[0]"},
		{"integer beyond 64 bits", `{"a":99999999999999999999999999}`, "properties.desired.a"},
		{"no double", `{"a":1e999}`, "properties.desired.a"},
		{"objects too deep", nested(MaxDepth+1, `{"b":`, `}`), "properties.desired.a.b.b.b.b.b.b.b.b.b.b"},
		{"arrays too deep", nested(MaxDepth+1, `[`, `]`), "properties.desired.a[0][0]"},
		{"far too deep", nested(9000, `[`, `]`), "properties.desired.a[0]"},
		{"too large", full(1), "properties.desired"},
		{"too many numbers", `{"a":[` + strings.Repeat("1,", 4096) + `1]}`, "properties.desired"},
		{"too many booleans", `{"a":[` + strings.Repeat("true,", 8192) + `true]}`, "properties.desired"},
		{"too much of nothing", `{"a":[` + strings.Repeat("[],", 100_000) + `null]}`, "properties.desired"},
	} {
		for how, f := range map[string]func() (json.RawMessage, error){
			"replace": func() (json.RawMessage, error) { return Desired.Replace(json.RawMessage(c.text)) },
			"merge":   func() (json.RawMessage, error) { return Desired.Merge(nil, json.RawMessage(c.text)) },
		} {
			got, err := f()
			if c.place == "" {
				if err != nil {
					t.Errorf("%s, %s: %v", c.name, how, err)
				}
				continue
			}
			e := errs.Public(err)
			if err == nil || e.Code != errs.CodeArgumentInvalid || !strings.HasPrefix(e.Message, c.place) || len(e.Message) > 600 || got != nil {
				t.Errorf("%s, %s: %.80s, %v; want it refused at %s", c.name, how, got, err, c.place)
			}
		}
	}
}

func TestEverySectionHasItsSize(t *testing.T) {
	text := func(bytes int) json.RawMessage {
		var members []string
		for i := 0; bytes > 0; i++ {
			n := min(bytes, 1000) - 2
			members = append(members, fmt.Sprintf(`"%c%c":"%s"`, 'a'+i/26, 'a'+i%26, strings.Repeat("x", n)))
			bytes -= n + 2
		}
		return json.RawMessage("{" + strings.Join(members, ",") + "}")
	}
	for _, c := range []struct {
		section Section
		size    int
	}{{Tags, 8 << 10}, {Desired, 32 << 10}, {Reported, 32 << 10}} {
		if _, err := c.section.Replace(text(c.size)); err != nil {
			t.Error(err)
		}
		if _, err := c.section.Replace(text(c.size + 3)); err == nil || !strings.HasPrefix(err.Error(), c.section.name+": has ") {
			t.Errorf("%s of %d bytes: %v", c.section.name, c.size+3, err)
		}
	}
}

// A section grows patch by patch, and only so far.
func TestLimitsHoldForTheResultOfAMerge(t *testing.T) {
	var tags json.RawMessage
	for i := range 3 {
		patch := json.RawMessage(fmt.Sprintf(`{"t%d":"%s"}`, i, strings.Repeat("x", 3000)))
		next, err := Tags.Merge(tags, patch)
		if i == 2 {
			if err == nil {
				t.Error("9000 bytes of tags passed")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		tags = next
	}
	if next, err := Tags.Merge(tags, json.RawMessage(`{"t0":null,"t2":"y"}`)); err != nil || !strings.HasSuffix(string(next), `,"t2":"y"}`) {
		t.Errorf("making room: %.40s, %v", next, err)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1,"c":[1,null,{"d":true}]}}`), []byte(`{"a":{"b":null},"x":"\u0000<é>"}`))
	f.Add([]byte(`{"$version":1}`), []byte(`{"a":1e5,"b":-0.5,"a":{"b":{}}}`))
	f.Add([]byte(`null`), []byte(`{"a.b":1}`))
	f.Add([]byte(`{"a":1}`), []byte(`{"":{"":null}}`))
	f.Fuzz(func(t *testing.T, old, patch []byte) {
		if len(old) > 1<<16 || len(patch) > 1<<16 {
			return
		}
		was, err := Tags.Replace(old)
		if err != nil {
			isInvalid(t, err)
			return
		}
		if again, err := Tags.Replace(was); err != nil || !bytes.Equal(again, was) {
			t.Fatalf("%s became %s when replaced by itself (%v)", was, again, err)
		}
		now, err := Tags.Merge(was, patch)
		if err != nil {
			isInvalid(t, err)
			return
		}
		if again, err := Tags.Replace(now); err != nil || !bytes.Equal(again, now) {
			t.Fatalf("%s is no section: %s, %v", now, again, err)
		}
		if again, err := Tags.Merge(now, patch); err != nil || !bytes.Equal(again, now) {
			t.Fatalf("merging %s twice: %s and then %s (%v)", patch, now, again, err)
		}
		if unchanged, err := Tags.Merge(was, json.RawMessage("{}")); err != nil || !bytes.Equal(unchanged, was) {
			t.Fatalf("an empty patch made %s of %s (%v)", unchanged, was, err)
		}
		if want := mergePatch(decode(t, was), decode(t, patch)); !reflect.DeepEqual(decode(t, now), want) {
			t.Fatalf("%s and %s became %s, want %v", was, patch, now, want)
		}
	})
}

// mergePatch is the algorithm of RFC 7396 §2, and leaves out what the hub
// makes.
func mergePatch(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return map[string]any{} // only null gets here
	}
	delete(p, "$metadata")
	delete(p, "$version")
	return merged(target, p)
}

func merged(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	o, ok := target.(map[string]any)
	if !ok {
		o = map[string]any{}
	}
	for name, v := range p {
		if v == nil {
			delete(o, name)
		} else {
			o[name] = merged(o[name], v)
		}
	}
	return o
}

func decode(t *testing.T, text []byte) (v any) {
	t.Helper()
	if len(text) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func isInvalid(t *testing.T, err error) {
	t.Helper()
	if errs.KindOf(err) != errs.Invalid {
		t.Fatalf("not the sender's fault: %v", err)
	}
}
