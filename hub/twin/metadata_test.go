package twin

import (
	"encoding/json"
	"testing"
	"time"
)

func at(second int, version int64) Stamp {
	return Stamp{time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC), version}
}

func TestMetadata(t *testing.T) {
	const t1, t2 = `"$lastUpdated":"2026-01-02T03:04:01Z","$lastUpdatedVersion":1`, `"$lastUpdated":"2026-01-02T03:04:02Z","$lastUpdatedVersion":2`
	const t0 = `"$lastUpdated":"2026-01-02T03:04:00Z","$lastUpdatedVersion":5`
	for _, c := range []struct{ name, metadata, before, after, want string }{
		{"nothing changed", ``, `{"a":1}`, `{"a":1}`, `{` + t1 + `,"a":{` + t1 + `}}`},
		{"nothing changed of what is known", `{` + t0 + `,"a":{` + t0 + `}}`, `{"a":1}`, `{"a":1}`, `{` + t0 + `,"a":{` + t0 + `}}`},
		{"one of two", ``, `{"a":1,"b":1}`, `{"a":1,"b":2}`, `{` + t2 + `,"a":{` + t1 + `},"b":{` + t2 + `}}`},
		{"one is new", ``, `{"a":1}`, `{"a":1,"b":{"c":[1]}}`, `{` + t2 + `,"a":{` + t1 + `},"b":{` + t2 + `,"c":{` + t2 + `}}}`},
		{"one is gone", ``, `{"a":1,"b":1}`, `{"a":1}`, `{` + t2 + `,"a":{` + t1 + `}}`},
		{"what is below changes what is above", ``, `{"a":{"b":{"c":1},"d":1}}`, `{"a":{"b":{"c":2},"d":1}}`,
			`{` + t2 + `,"a":{` + t2 + `,"b":{` + t2 + `,"c":{` + t2 + `}},"d":{` + t1 + `}}}`},
		{"an object takes the place of a value", ``, `{"a":1}`, `{"a":{"b":1}}`, `{` + t2 + `,"a":{` + t2 + `,"b":{` + t2 + `}}}`},
		{"a value takes the place of an object", ``, `{"a":{"b":1}}`, `{"a":1}`, `{` + t2 + `,"a":{` + t2 + `}}`},
		{"an array is one value", ``, `{"a":[1,{"b":1}],"c":1}`, `{"a":[1,{"b":2}],"c":1}`, `{` + t2 + `,"a":{` + t2 + `},"c":{` + t1 + `}}`},
		{"emptied", ``, `{"a":1}`, `{}`, `{` + t2 + `}`},
		{"of some it is known", `{` + t0 + `,"a":{` + t0 + `}}`, `{"a":1,"b":1}`, `{"a":1,"b":1,"c":1}`, `{` + t2 + `,"a":{` + t0 + `},"b":{` + t1 + `},"c":{` + t2 + `}}`},
	} {
		var metadata json.RawMessage
		if c.metadata != "" {
			metadata = json.RawMessage(c.metadata)
		}
		got, err := Desired.Metadata(metadata, at(1, 1), json.RawMessage(c.before), json.RawMessage(c.after), at(2, 2))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s (%v), want %s", c.name, got, err, c.want)
		}
	}
	got, err := Reported.WrittenAtOnce(json.RawMessage(`{"a":{"b":[1]}}`), at(1, 0))
	const want = `{"$lastUpdated":"2026-01-02T03:04:01Z","a":{"$lastUpdated":"2026-01-02T03:04:01Z","b":{"$lastUpdated":"2026-01-02T03:04:01Z"}}}`
	if err != nil || string(got) != want {
		t.Errorf("%s (%v), want %s", got, err, want)
	}
	for _, broken := range []string{`[]`, `{"a":[]}`, `{"a":`, `{`, `1`} {
		if got, err := Desired.Metadata(json.RawMessage(broken), at(1, 1), json.RawMessage(`{}`), json.RawMessage(`{}`), at(2, 2)); err == nil {
			t.Errorf("%q: %s", broken, got)
		}
	}
}

// Metadata has a node for every member of every object, whatever was written, and
// none besides; writing the same again changes none.
func FuzzMetadata(f *testing.F) {
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
		metadata, err := Desired.Metadata(nil, at(1, 1), was, is, at(2, 2))
		if err != nil {
			t.Fatal(err)
		}
		mirrors(t, decode(t, metadata), decode(t, is))
		again, err := Desired.Metadata(metadata, at(1, 1), is, is, at(3, 3))
		if err != nil || string(again) != string(metadata) {
			t.Fatalf("%s became %s (%v)", metadata, again, err)
		}
	})
}

func mirrors(t *testing.T, node, value any) {
	t.Helper()
	metadata := node.(map[string]any)
	members, _ := value.(map[string]any)
	if len(metadata) != len(members)+2 {
		t.Fatalf("%v for %v", metadata, value)
	}
	for name, v := range members {
		below, ok := metadata[name]
		if !ok {
			t.Fatalf("nothing about %q", name)
		}
		mirrors(t, below, v)
	}
}

func TestDocument(t *testing.T) {
	at := Stamp{Updated: time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC), Version: 7}
	for _, tt := range []struct {
		of                         Section
		properties, metadata, want string
	}{
		{Desired, `{}`, ``, `{"$metadata":{"$lastUpdated":"2026-01-02T03:04:05.6Z","$lastUpdatedVersion":7},"$version":7}`},
		{Reported, `{}`, ``, `{"$metadata":{"$lastUpdated":"2026-01-02T03:04:05.6Z"},"$version":7}`},
		{Reported, ` { "a" : {} } `, ``, `{ "a" : {},"$metadata":{"$lastUpdated":"2026-01-02T03:04:05.6Z","a":{"$lastUpdated":"2026-01-02T03:04:05.6Z"}},"$version":7}`},
		{Desired, `{"a":[1]}`, `{"known":1}`, `{"a":[1],"$metadata":{"known":1},"$version":7}`},
	} {
		var metadata json.RawMessage
		if tt.metadata != "" {
			metadata = json.RawMessage(tt.metadata)
		}
		properties := json.RawMessage(tt.properties)
		if got := tt.of.Document(properties, metadata, at); string(got) != tt.want {
			t.Errorf("%s of %v: %s, not %s", tt.properties, tt.of, got, tt.want)
		}
		if string(properties) != tt.properties {
			t.Errorf("the properties became %s", properties)
		}
	}
}
