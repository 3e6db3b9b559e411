package tpm

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Vector is one paragraph of a file in testdata: lines "field: value", and after
// a line "field:" its value on indented lines. Lines that begin with # are comments.
type Vector map[string]string

// ReadVectors reads testdata/name.
func ReadVectors(t testing.TB, name string) []Vector {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []Vector
	for paragraph := range strings.SplitSeq(string(text), "\n\n") {
		v := make(Vector)
		var field string
		for line := range strings.Lines(paragraph) {
			line = strings.TrimSuffix(line, "\n")
			switch name, value, ok := strings.Cut(line, ":"); {
			case line == "" || strings.HasPrefix(line, "#"):
			case strings.HasPrefix(line, "    "):
				v[field] += line[4:]
			case ok:
				field = name
				v[field] = strings.TrimPrefix(value, " ")
			default:
				t.Fatalf("testdata/%s: neither a field nor a value: %q", name, line)
			}
		}
		if len(v) > 0 {
			vectors = append(vectors, v)
		}
	}
	return vectors
}

// Hex returns the bytes of a field, which must be there.
func (v Vector) Hex(t testing.TB, field string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v[field])
	if err != nil || len(b) == 0 {
		t.Fatalf("field %q is not hexadecimal: %q", field, v[field])
	}
	return b
}

// PublicAreas returns the TPM2B_PUBLICs of testdata/keys.txt by their names.
func PublicAreas(t testing.TB) map[string][]byte {
	t.Helper()
	areas := make(map[string][]byte)
	for _, v := range ReadVectors(t, "keys.txt") {
		areas[v["key"]] = v.Hex(t, "public")
	}
	return areas
}
