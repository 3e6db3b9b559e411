package app

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What a server logs has constant messages, and keys that the manual explains.
func TestLogKeysAreInTheManual(t *testing.T) {
	written := map[string]bool{}
	_, manual, _ := strings.Cut(string(readDocument(t, "operate.md")), "### Logs\n")
	manual, _, _ = strings.Cut(manual, "\n## ")
	for _, m := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(manual, -1) {
		for _, key := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[1], -1) {
			written[key[1]] = true
		}
	}
	logged := map[string]bool{}
	for _, dir := range []string{"../../front", "../../internal/app", "../../provision", "../../hub", "../../store", "../../client/peers"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				for _, key := range logKeys(call) {
					name, err := strconv.Unquote(key)
					if err != nil {
						t.Errorf("%s: a message or key is not a constant", files.Position(call.Pos()))
						continue
					}
					logged[name] = true
					if !written[name] {
						t.Errorf("%s: the manual does not have the key %s", files.Position(call.Pos()), name)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range written {
		if !logged[name] {
			t.Errorf("the manual has the key %s, and nobody logs it", name)
		}
	}
}

// logKeys returns the keys of a call of log/slog as literals; empty where one or
// the message is no literal.
func logKeys(call *ast.CallExpr) (keys []string) {
	function, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	of, name := "", function.Sel.Name
	switch x := function.X.(type) {
	case *ast.Ident:
		of = x.Name
	case *ast.SelectorExpr:
		of = x.Sel.Name
	}
	args := call.Args
	switch {
	case of == "slog" && slices.Contains([]string{"String", "Int", "Int64", "Uint64", "Bool", "Time", "Duration", "Any"}, name):
		return []string{literal(args[0])}
	case !strings.EqualFold(of, "logger"):
		return nil
	case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name):
	case name == "Log" || name == "LogAttrs":
		args = args[2:]
	default:
		return nil
	}
	if literal(args[0]) == "" {
		keys = append(keys, "")
	}
	if name == "LogAttrs" {
		return keys // made by slog.String and others
	}
	for i := 1; i < len(args); i += 2 {
		keys = append(keys, literal(args[i]))
	}
	return keys
}

func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		return l.Value
	}
	return ""
}
