package query

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Path leads to a property of a document.
type Path []Step

// A Step goes to the member of an object that has the name or, where the name is
// empty, to an element of an array.
type Step struct {
	Name  string
	Index int
}

// String returns the path as a query has it.
func (p Path) String() string { return string(p.print(nil)) }

func (p Path) print(b []byte) []byte {
	for i, s := range p {
		if s.Name == "" {
			b = append(strconv.AppendInt(append(b, '['), int64(s.Index), 10), ']')
			continue
		}
		if i > 0 {
			b = append(b, '.')
		}
		b = printName(b, s.Name, i > 0)
	}
	return b
}

// Key returns the names of the path with dots between them, and false when there
// is an element of an array on the way: an index over documents knows none.
func (p Path) Key() (string, bool) {
	var key strings.Builder
	for i, s := range p {
		if s.Name == "" {
			return "", false
		}
		if i > 0 {
			key.WriteByte('.')
		}
		key.WriteString(s.Name)
	}
	return key.String(), true
}

// printName writes a name, in double brackets where it would be read as something
// else. inner says that it follows a dot, where every word is a name.
func printName(b []byte, name string, inner bool) []byte {
	if n := nameLength(name, !inner, inner); n != len(name) || !inner && reserved(name) {
		return append(append(append(b, "[["...), name...), "]]"...)
	}
	return append(b, name...)
}

// nameLength returns how many bytes of s are a name that needs no brackets. A
// name at the root may have hyphens when it is one of a system property; one
// behind a dot may begin with a digit.
func nameLength(s string, root, digits bool) int {
	system := root && strings.HasPrefix(s, "$")
	for i, r := range s {
		switch {
		case r == '_' || r == '$' || unicode.IsLetter(r):
		case unicode.IsDigit(r) && (i > 0 || digits):
		case r == '-' && system && startsLetter(s[i+1:]):
		default:
			return i
		}
	}
	return len(s)
}

func startsLetter(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return unicode.IsLetter(r)
}

var reservedWords = []string{
	"SELECT", "FROM", "WHERE", "GROUP", "ORDER", "BY", "AS", "AND", "OR", "NOT", "IN", "NIN",
	"TRUE", "FALSE", "NULL", "UNDEFINED",
}

func reserved(word string) bool {
	for _, r := range reservedWords {
		if strings.EqualFold(word, r) {
			return true
		}
	}
	return false
}

// twinNames are the names that the registry gives the members of a twin. Clients
// write them in any case; those of tags and properties are as they were written.
var twinNames = []string{
	"deviceId", "moduleId", "etag", "deviceEtag", "status", "statusReason", "statusUpdateTime", "connectionState",
	"connectionStateUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount", "authenticationType", "x509Thumbprint", "modelId", "version",
	"tags", "properties", "configurations", "capabilities", "deviceScope", "parentScopes",
}

// canonical spells what the registry names in a path over twins as the registry
// does.
func canonical(p Path) Path {
	p[0].Name = spelled(p[0].Name, twinNames)
	if len(p) < 2 {
		return p
	}
	switch p[0].Name {
	case "properties":
		p[1].Name = spelled(p[1].Name, []string{"desired", "reported"})
	case "capabilities":
		p[1].Name = spelled(p[1].Name, []string{"iotEdge"})
	case "x509Thumbprint":
		p[1].Name = spelled(p[1].Name, []string{"primaryThumbprint", "secondaryThumbprint"})
	}
	return p
}

func spelled(name string, known []string) string {
	for _, k := range known {
		if strings.EqualFold(name, k) {
			return k
		}
	}
	return name
}
