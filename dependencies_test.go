package berth_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDependenciesHaveReasons holds the list of direct dependencies, each with the
// reason for it, to go.mod.
func TestDependenciesHaveReasons(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	reasons := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\S+)` \\|.+\\|(.+)\\|$").FindAllStringSubmatch(read("docs/decisions/0001-dependencies.md"), -1) {
		reasons[row[1]] = strings.TrimSpace(row[2])
	}
	for _, line := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(read("go.mod"), -1) {
		if reasons[line[1]] == "" {
			t.Errorf("there is no reason for %s", line[1])
		}
		delete(reasons, line[1])
	}
	for module := range reasons {
		t.Errorf("%s is no direct dependency", module)
	}
}
