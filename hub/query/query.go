// Package query is the query language of IoT Hub: queries over device and module
// twins, conditions over twins, as configurations have them, and conditions over
// messages, as routes have them. It reads texts, judges documents, makes rows
// and says which parts of a condition an index can answer. It keeps nothing.
//
// A condition knows three truths. What looks at a property that is not there is
// undefined, and so is what is made of that, unless the rest decides it; only
// what is exactly true passes. The grammar is the one of the IoT Hub developer
// guide, "IoT Hub query language" and "IoT Hub message routing query syntax".
package query

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/berth-iot/berth/errs"
)

// What a text is held to. They bound the work that one document makes.
const (
	MaxText  = 16 << 10 // bytes
	MaxDepth = 64       // levels of operators and calls within each other
	MaxReads = 256      // properties and functions that one text names
)

// A Collection is what a query goes over.
type Collection string

// The collections.
const (
	Devices Collection = "devices"
	Modules Collection = "devices.modules"
)

// A Query is a text that was understood. It does not change, and may be used at
// the same time.
type Query struct {
	From  Collection
	Top   int        // the most rows it wants, or zero for all of them
	Where *Condition // nil for all documents

	columns []column // none for the whole documents
	groupBy []path
}

// A column is a member of the rows that a query makes.
type column struct {
	name  string
	value expr
	named bool // by the client
	// aggregate is the function that makes one value of those of many
	// documents, or empty.
	aggregate aggregate
	group     int // which of the groupBy it is, where there are groups and it is no aggregate
}

// A Condition is a condition that was understood. It does not change, and may be
// used at the same time.
type Condition struct{ root expr }

// Whole reports whether the query's rows are the documents as they are.
func (q *Query) Whole() bool { return len(q.columns) == 0 }

// Parse reads a query. An error is of kind errs.Invalid and says where the text
// goes wrong and what was expected there.
func Parse(text string) (*Query, error) {
	p, err := newParser(text, twins)
	if err != nil {
		return nil, err
	}
	q, err := p.query()
	if err != nil {
		return nil, err
	}
	return q, q.check()
}

// ParseCondition reads a condition over twins, which is what follows WHERE in a
// query. Its errors are those of [Parse].
func ParseCondition(text string) (*Condition, error) { return parseCondition(text, twins) }

// ParseRoute reads a condition over messages: application properties go by their
// names, system properties by theirs with a dollar sign, as
// $connectionDeviceId, and $body and $twin are roots of paths. Its errors are
// those of [Parse].
func ParseRoute(text string) (*Condition, error) { return parseCondition(text, messages) }

func parseCondition(text string, over dialect) (*Condition, error) {
	p, err := newParser(text, over)
	if err != nil {
		return nil, err
	}
	root, err := p.expression()
	if err != nil {
		return nil, err
	}
	return &Condition{root}, p.end()
}

// String returns a text of the condition that is read as the same one.
func (c *Condition) String() string { return string(c.root.print(nil)) }

// Holds reports whether the condition is true of a document.
func (c *Condition) Holds(d Document) bool { return c.root.eval(d).IsTrue() }

// Reads calls visit with every property that the condition looks at, in the
// order of the text.
func (c *Condition) Reads(visit func(Path)) { walk(c.root, visit) }

// String returns a text of the query that is read as the same one.
func (q *Query) String() string {
	b := []byte("SELECT ")
	if q.Top > 0 {
		b = fmt.Appendf(b, "TOP %d ", q.Top)
	}
	if q.Whole() {
		b = append(b, '*')
	}
	for i, c := range q.columns {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = c.print(b)
	}
	b = append(append(b, " FROM "...), q.From...)
	if q.Where != nil {
		b = q.Where.root.print(append(b, " WHERE "...))
	}
	for i, by := range q.groupBy {
		if i == 0 {
			b = append(b, " GROUP BY "...)
		} else {
			b = append(b, ", "...)
		}
		b = by.print(b)
	}
	return string(b)
}

func (c column) print(b []byte) []byte {
	if c.aggregate != "" {
		b = append(append(b, strings.ToUpper(string(c.aggregate))...), '(')
		if c.value != nil {
			b = c.value.print(b)
		}
		b = append(b, ')')
	} else {
		b = c.value.print(b)
	}
	if c.named {
		b = printName(append(b, " AS "...), c.name, false)
	}
	return b
}

// check judges the parts of a query by each other.
func (q *Query) check() error {
	grouped := len(q.groupBy) > 0
	for _, c := range q.columns {
		grouped = grouped || c.aggregate != ""
	}
	if grouped && q.Whole() {
		return invalid("SELECT * has no GROUP BY: name the columns")
	}
	seen := make(map[string]bool)
	for i := range q.columns {
		c := &q.columns[i]
		if c.name == "" {
			c.name = "$" + strconv.Itoa(i+1)
		}
		if seen[c.name] {
			return invalid("two columns have the name %q: give one of them another with AS", c.name)
		}
		seen[c.name] = true
		if !grouped || c.aggregate != "" {
			continue
		}
		if c.group = q.groupOf(c.value); c.group < 0 {
			return invalid("%s is neither an aggregate nor in GROUP BY", c.value.print(nil))
		}
	}
	return nil
}

// groupOf returns which of the paths of GROUP BY the column is, or -1.
func (q *Query) groupOf(value expr) int {
	text := string(value.print(nil))
	for i, by := range q.groupBy {
		if string(by.print(nil)) == text {
			return i
		}
	}
	return -1
}

// Reads calls visit with every property that the query looks at.
func (q *Query) Reads(visit func(Path)) {
	for _, c := range q.columns {
		if c.value != nil {
			walk(c.value, visit)
		}
	}
	for _, by := range q.groupBy {
		visit(by.Path)
	}
	if q.Where != nil {
		q.Where.Reads(visit)
	}
}

func invalid(format string, args ...any) error {
	return errs.New(errs.Invalid, errs.CodeArgumentInvalid, "The query cannot be used: "+format, args...)
}
