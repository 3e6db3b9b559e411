package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDocuments(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "keys/a.key", "c2VjcmV0\n")
	write(t, dir, "b.yaml", `# two things
kind: enrollmentGroup
enrollmentGroupId: plant
initialTwin: {tags: {since: 2024-01-01, version: "1.0", rate: 1.50, on: yes, big: 12345678901234567890, none: null, list: [1, -2, 0x10, true]}}
---
---
kind: policy
name: reader
absent: true
rights: &rights [EnrollmentRead]
again: *rights
`)
	write(t, dir, "a/first.json", `{"kind": "enrollment", "registrationId": "pump-7", "attestation": {"symmetricKey": {"primaryKeyFile": "../keys/a.key"}}}`)
	write(t, dir, "notes.txt", "kind: nothing")
	documents, faults, err := Read(strings.NewReader(""), dir)
	if err != nil || len(faults) > 0 {
		t.Fatal(err, faults)
	}
	var got []string
	for _, d := range documents {
		place, _ := filepath.Rel(dir, d.Place())
		got = append(got, fmt.Sprint(place, " ", d.Kind, " ", d.Absent, " ", string(d.Body)))
	}
	want := []string{
		`a/first.json:1 enrollment false {"attestation":{"symmetricKey":{"primaryKey":"c2VjcmV0"}},"registrationId":"pump-7"}`,
		`b.yaml:2 enrollmentGroup false {"enrollmentGroupId":"plant","initialTwin":{"tags":{"big":12345678901234567890,"list":[1,-2,16,true],"none":null,"on":"yes","rate":1.50,"since":"2024-01-01","version":"1.0"}}}`,
		`b.yaml:7 policy true {"again":["EnrollmentRead"],"name":"reader","rights":["EnrollmentRead"]}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("\ngot  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func TestStandardInput(t *testing.T) {
	documents, faults, err := Read(strings.NewReader("kind: hub\nhost: h\n"), "-")
	if err != nil || len(faults) > 0 || len(documents) != 1 || documents[0].Place() != "-:1" {
		t.Errorf("%v, %v, %v", documents, faults, err)
	}
}

func TestFaults(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "binary", "\xff\xfe")
	write(t, dir, "large", strings.Repeat("a", maxBeside+1))
	for _, c := range []struct{ name, text, want string }{
		{"no kind", "name: a", "1: kind: is missing"},
		{"kind is a number", "kind: 1", "1: kind: is missing"},
		{"a list", "- kind: a", "1: a document is a mapping with a kind"},
		{"a text", "kind", "1: a document is a mapping with a kind"},
		{"absent is a text", "kind: a\nabsent: maybe", "1: absent: is not true or false"},
		{"a member twice", "kind: a\nname: b\nname: c", "3: name: is there twice"},
		{"a member and its file", "kind: a\nkey: b\nkeyFile: binary", "3: keyFile: "},
		{"no such file", "kind: a\nx:\n  keyFile: none", "3: keyFile: open"},
		{"a file of bytes", "kind: a\nkeyFile: binary", "2: keyFile: "},
		{"a large file", "kind: a\nkeyFile: large", "2: keyFile: "},
		{"a number as name", "kind: a\n{b: 1}: 2", "2: a member's name is not a text"},
		{"infinity", "kind: a\nx: .inf", "2: .inf has no form in JSON"},
		{"bytes", "kind: a\nx: !!binary aGk=", "2: !!binary is not of a kind that JSON has"},
		{"deep", "kind: a\nx: " + strings.Repeat("[", 70) + strings.Repeat("]", 70), "2: its members are more than 64 deep in one another"},
		{"an alias of itself", "kind: a\nx: &x [*x]", "more than 64 deep"},
		{"billions", "kind: a\na: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n" +
			"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]", "a document has more than 262144 members"},
		{"broken", "kind: [", "did not find"},
		{"merge", "kind: a\nx: &x {y: 1}\nz:\n  <<: *x", "a member's name is not a text"},
	} {
		file := write(t, dir, "manifest.yaml", c.text)
		_, faults, err := Read(nil, file)
		if err != nil || len(faults) == 0 || !strings.Contains(faults[0].Error(), c.want) {
			t.Errorf("%s: %v, %v, want %s", c.name, faults, err, c.want)
		}
	}
	for name, text := range map[string]string{"nothing": "", "comments": "# nothing\n---\n"} {
		if _, _, err := Read(nil, write(t, dir, "manifest.yaml", text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, _, err := Read(nil, filepath.Join(dir, "none.yaml")); err == nil {
		t.Error("no such manifest: no error")
	}
}

// One fault does not hide another.
func TestAllFaults(t *testing.T) {
	file := write(t, t.TempDir(), "m.yaml", "kind: 1\n---\nkind: a\n---\n- b\n")
	documents, faults, err := Read(nil, file)
	if err != nil || len(documents) != 1 || len(faults) != 2 || faults[1].Line != 5 {
		t.Errorf("%v, %v, %v", documents, faults, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("kind: a\nx: &x [1, 2.5, null, true, 2024-01-01]\ny: *x\n---\nkind: b\nabsent: true\n")
	f.Add(`{"kind": "a", "x": {"y": [1e3, "\u0000"]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "File") {
			return // it may name a file of this machine
		}
		documents, _ := parse("m.yaml", []byte(text))
		for _, d := range documents {
			if d.Kind == "" || len(d.Body) == 0 || d.Body[0] != '{' {
				t.Errorf("%+v", d)
			}
		}
	})
}
