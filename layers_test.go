package berth_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/berth-iot/berth"

// layers is policy: a package imports only packages of earlier lines, packages
// that stand before it on its own line where that line says "then", and its own
// parents and children. Do not move one down to make a build pass.
var layers = []string{
	"errs device",
	"tpm tpm/tpmtest wire/...",
	"access limit attest/... then enroll enroll/...",
	"hsm pki ledger",
	"provision provision/custom hub hub/... factory edge/... then provision/expression",
	"hsm/...",
	"client/... then client/deviceclient",
	"store/segment then store/...",
	"front/...",
	"internal/app/...",
	"cmd/... bench/... interop/...",
}

// pure are the lines, from the first, whose packages neither open a connection
// nor touch a file or a database: what they need of the world is handed in.
const pure = 5

// worldly are the imports that pure packages do without.
var worldly = []string{"net", "net/http", "os", "database/sql"}

func TestLayers(t *testing.T) {
	place := placement(t)
	seen := 0
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && file != "."):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		seen++
		from := filepath.ToSlash(filepath.Dir(file))
		checkImports(t, place, from, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Fatal("no Go files were found")
	}
}

func checkImports(t *testing.T, place func(string) (int, int), from, file string) {
	t.Helper()
	row, column := place(from)
	if row < 0 {
		t.Errorf("%s: package %s has no place in the layers", file, from)
		return
	}
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range f.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if row < pure && slices.Contains(worldly, imported) {
			t.Errorf("%s: %s is pure and imports %s", file, from, imported)
		}
		to, ours := strings.CutPrefix(imported, module+"/")
		if !ours || related(from, to) {
			continue
		}
		toRow, toColumn := place(to)
		if toRow > row || toRow == row && toColumn >= column {
			t.Errorf("%s: %s must not import %s, which is not below it", file, from, to)
		}
	}
}

// related packages are a parent and its child, or share an internal parent
// that only they can see.
func related(a, b string) bool {
	if strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") {
		return true
	}
	i := strings.Index(b, "/internal/")
	return i > 0 && strings.HasPrefix(a, b[:i]+"/")
}

// placement returns the row and the column ("then" begins a new one) of a
// package, -1 when it has none. The longest pattern wins.
func placement(t *testing.T) func(string) (row, column int) {
	t.Helper()
	type spot struct{ row, column int }
	spots := map[string]spot{}
	for row, line := range layers {
		column := 0
		for _, word := range strings.Fields(line) {
			if word == "then" {
				column++
				continue
			}
			spots[word] = spot{row, column}
		}
	}
	return func(pkg string) (int, int) {
		if s, ok := spots[pkg]; ok {
			return s.row, s.column
		}
		for dir := pkg; dir != "."; dir = path.Dir(dir) {
			if s, ok := spots[dir+"/..."]; ok {
				return s.row, s.column
			}
		}
		return -1, -1
	}
}
