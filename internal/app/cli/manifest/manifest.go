// Package manifest reads what an operator wants a service to be from files:
// YAML, or JSON, of any number of documents, one for each thing. A document is
// what the API shows of the thing, and beside that
//
//	kind    what it is: the caller knows the kinds
//	absent  true for a thing that is not to be there
//
// What does not belong into such a file stands in one beside it: wherever the
// API takes a member x, the document may have xFile, the name of a file with its
// text.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxManifest is the size in bytes of the largest manifest, maxBeside that of
	// a file which one names.
	maxManifest = 64 << 20
	maxBeside   = 1 << 20

	// maxDepth is how deep the members of a document may be in one another.
	maxDepth = 64

	// maxNodes bounds the members of one document, those of its aliases counted
	// each time: a few lines can mean billions.
	maxNodes = 1 << 18
)

// A Document is one thing that is to be, or not to be.
type Document struct {
	File   string
	Line   int // where it begins
	Kind   string
	Absent bool
	Body   json.RawMessage // the other members, a JSON object
}

// Place says where the document is, for people.
func (d Document) Place() string { return fmt.Sprintf("%s:%d", d.File, d.Line) }

// A Fault is what is wrong with a document.
type Fault struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

func (f Fault) Error() string { return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Reason) }

// Read reads the documents of files, and of all files below directories whose
// names end in .yaml, .yml or .json, in the order of their names. "-" is in. It
// reads on behind a fault; the documents are of no use where there is one.
func Read(in io.Reader, names ...string) (documents []Document, faults []Fault, err error) {
	for _, name := range names {
		files, err := filesOf(name)
		if err != nil {
			return nil, nil, err
		}
		for _, file := range files {
			text, err := read(in, file)
			if err != nil {
				return nil, nil, err
			}
			found, wrong := parse(file, text)
			documents, faults = append(documents, found...), append(faults, wrong...)
		}
	}
	if len(documents)+len(faults) == 0 {
		return nil, nil, fmt.Errorf("%s: there is no document", strings.Join(names, ", "))
	}
	return documents, faults, nil
}

func filesOf(name string) (files []string, err error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, err
	}
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))) {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

func read(in io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return readAll(in, "standard input", maxManifest)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, name, maxManifest)
}

func readAll(from io.Reader, name string, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(from, int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	case len(b) > limit:
		return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, nil
}

// parse reads the documents of one file.
func parse(file string, text []byte) (documents []Document, faults []Fault) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return documents, faults
		}
		if err != nil {
			// It names its line itself, and what follows cannot be read.
			return documents, append(faults, Fault{file, 0, err.Error()})
		}
		if len(node.Content) == 0 || node.Content[0].Kind == yaml.ScalarNode && node.Content[0].Tag == "!!null" {
			continue // nothing between two separators
		}
		d, fault := documentOf(file, node.Content[0])
		if fault != nil {
			faults = append(faults, *fault)
			continue
		}
		documents = append(documents, d)
	}
}

func documentOf(file string, node *yaml.Node) (Document, *Fault) {
	d := Document{File: file, Line: node.Line}
	if node.Kind != yaml.MappingNode {
		return d, &Fault{file, node.Line, "a document is a mapping with a kind"}
	}
	c := converter{file: file}
	value := c.value(node, 0)
	if c.fault != nil {
		return d, c.fault
	}
	members := value.(map[string]any)
	kind, ok := members["kind"].(string)
	if !ok || kind == "" {
		return d, &Fault{file, node.Line, "kind: is missing"}
	}
	absent, there := members["absent"]
	if d.Absent, ok = absent.(bool); there && !ok {
		return d, &Fault{file, node.Line, "absent: is not true or false"}
	}
	delete(members, "kind")
	delete(members, "absent")
	d.Kind = kind
	body, err := json.Marshal(members)
	if err != nil {
		return d, &Fault{file, node.Line, err.Error()}
	}
	d.Body = body
	return d, nil
}

// A converter turns YAML into the values that encoding/json knows.
type converter struct {
	file  string
	nodes int
	fault *Fault // the first
}

func (c *converter) fail(node *yaml.Node, format string, args ...any) any {
	if c.fault == nil {
		c.fault = &Fault{c.file, node.Line, fmt.Sprintf(format, args...)}
	}
	return nil
}

func (c *converter) value(node *yaml.Node, depth int) any {
	c.nodes++
	switch {
	case c.fault != nil:
		return nil
	case depth > maxDepth:
		return c.fail(node, "its members are more than %d deep in one another", maxDepth)
	case c.nodes > maxNodes:
		return c.fail(node, "a document has more than %d members", maxNodes)
	}
	switch node.Kind {
	case yaml.MappingNode:
		return c.mapping(node, depth)
	case yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for _, element := range node.Content {
			list = append(list, c.value(element, depth+1))
		}
		return list
	case yaml.AliasNode:
		return c.value(node.Alias, depth+1)
	}
	return c.scalar(node)
}

func (c *converter) mapping(node *yaml.Node, depth int) any {
	members := make(map[string]any, len(node.Content)/2)
	put := func(key *yaml.Node, name string, v any) {
		if _, twice := members[name]; twice {
			c.fail(key, "%s: is there twice", name)
		}
		members[name] = v
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			return c.fail(key, "a member's name is not a text")
		}
		if name, ok := strings.CutSuffix(key.Value, "File"); ok && name != "" && value.Kind == yaml.ScalarNode {
			put(key, name, c.beside(value, key.Value))
			continue
		}
		put(key, key.Value, c.value(value, depth+1))
	}
	return members
}

// beside reads the file that a member names, from where the manifest is.
func (c *converter) beside(node *yaml.Node, member string) any {
	path := node.Value
	if !filepath.IsAbs(path) && c.file != "-" {
		path = filepath.Join(filepath.Dir(c.file), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return c.fail(node, "%s: %v", member, err)
	}
	defer f.Close()
	text, err := readAll(f, path, maxBeside)
	switch {
	case err != nil:
		return c.fail(node, "%s: %v", member, err)
	case !utf8.Valid(text):
		return c.fail(node, "%s: %s is not text", member, path)
	}
	return strings.TrimSpace(string(text))
}

func (c *converter) scalar(node *yaml.Node) any {
	switch node.Tag {
	case "!!null":
		return nil
	case "!!bool", "!!int":
		var v any
		if err := node.Decode(&v); err != nil {
			return c.fail(node, "%v", err)
		}
		return v
	case "!!float":
		var v float64
		if err := node.Decode(&v); err != nil {
			return c.fail(node, "%v", err)
		}
		if json.Valid([]byte(node.Value)) {
			return json.Number(node.Value) // as it was written
		}
		if _, err := json.Marshal(v); err != nil {
			return c.fail(node, "%s has no form in JSON", node.Value)
		}
		return v
	case "!!str", "!!timestamp":
		return node.Value
	}
	return c.fail(node, "%s is not of a kind that JSON has", node.Tag)
}
