package berth_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"testing"
)

// Pages that say which tests show what they claim, as `path/to/file_test.go:TestName`.
var claiming = []string{"SECURITY.md", "docs/hardness.md"}

var claim = regexp.MustCompile("`([a-z0-9_/]+_test\\.go):((?:Test|Fuzz)[A-Za-z0-9_]+)`")

func TestClaimsNameTestsThatThereAre(t *testing.T) {
	there := map[string]map[string]bool{}
	for _, page := range claiming {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		claims := claim.FindAllStringSubmatch(string(text), -1)
		if len(claims) == 0 {
			t.Errorf("%s names no test", page)
		}
		for _, c := range claims {
			file, test := c[1], c[2]
			if there[file] == nil {
				there[file] = functions(t, file)
			}
			if !there[file][test] {
				t.Errorf("%s: there is no %s in %s", page, test, file)
			}
		}
	}
}

func functions(t *testing.T, file string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return names
	}
	for _, d := range f.Decls {
		if function, ok := d.(*ast.FuncDecl); ok {
			names[function.Name.Name] = true
		}
	}
	return names
}
