package query

import (
	"slices"
	"strings"
)

// An aggregate makes one value of those of many documents.
type aggregate string

const (
	countAll aggregate = "count"
	average  aggregate = "avg"
	sum      aggregate = "sum"
	minimum  aggregate = "min"
	maximum  aggregate = "max"
)

func (a aggregate) known() bool {
	return slices.Contains([]aggregate{countAll, average, sum, minimum, maximum}, a)
}

// AppendRow appends the row that the query makes of a document, as JSON. What is
// undefined is left out. It is for queries that neither are Whole nor
// Aggregates.
func (q *Query) AppendRow(b []byte, d Document) []byte {
	r := row{text: append(b, '{')}
	for _, c := range q.columns {
		r.add(c.name, c.value.eval(d))
	}
	return append(r.text, '}')
}

type row struct {
	text []byte
	some bool
}

func (r *row) add(name string, v Value) {
	if v.kind == Undefined {
		return
	}
	if r.some {
		r.text = append(r.text, ',')
	}
	r.text, r.some = v.AppendJSON(append(appendText(r.text, name), ':')), true
}

// Aggregates reports whether the query's rows are made of many documents.
func (q *Query) Aggregates() bool {
	for _, c := range q.columns {
		if c.aggregate != "" {
			return true
		}
	}
	return len(q.groupBy) > 0
}

// CountsAll reports whether the query asks for nothing but how many documents
// there are, which does not take a look at them.
func (q *Query) CountsAll() bool {
	for _, c := range q.columns {
		if c.aggregate != countAll {
			return false
		}
	}
	return !q.Whole() && q.Where == nil && len(q.groupBy) == 0
}

// What the groups of one query are held to.
const (
	MaxGroups     = 10_000
	maxGroupBytes = 8 << 20
)

// Groups makes the rows of a query that aggregates. It is used by one goroutine at
// a time.
type Groups struct {
	query *Query
	by    map[string]*group
	size  int
}

type group struct {
	key    []Value
	totals []total
}

// A total is what is known of one column of one group.
type total struct {
	documents, numbers int
	sum                float64
	best               Value
}

// Groups returns the query's groups before the first document.
func (q *Query) Groups() *Groups {
	g := &Groups{query: q, by: make(map[string]*group)}
	if len(q.groupBy) == 0 {
		g.by[""] = &group{totals: make([]total, len(q.columns))} // also when there are no documents
	}
	return g
}

// Count counts n documents without a look at them, for a query that CountsAll.
func (g *Groups) Count(n int) {
	for i := range g.by[""].totals {
		g.by[""].totals[i].documents += n
	}
}

// Add takes a document in. The error, of kind errs.Invalid, says that there are
// too many groups.
func (g *Groups) Add(d Document) error {
	in, err := g.of(d)
	if err != nil {
		return err
	}
	for i, c := range g.query.columns {
		t := &in.totals[i]
		t.documents++
		if c.aggregate != "" && c.aggregate != countAll {
			t.take(c.aggregate, c.value.eval(d))
		}
	}
	return nil
}

func (g *Groups) of(d Document) (*group, error) {
	key := make([]Value, len(g.query.groupBy))
	var name []byte
	for i, by := range g.query.groupBy {
		key[i] = by.eval(d)
		// The kind keeps the undefined from null.
		name = append(key[i].AppendJSON(append(name, byte(key[i].kind))), 0)
	}
	if known, ok := g.by[string(name)]; ok {
		return known, nil
	}
	if g.size += len(name); len(g.by) >= MaxGroups || g.size > maxGroupBytes {
		return nil, invalid("GROUP BY makes too many groups; %d are allowed, if they are short. Narrow them with WHERE", MaxGroups)
	}
	made := &group{key: key, totals: make([]total, len(g.query.columns))}
	g.by[string(name)] = made
	return made, nil
}

// take leaves out what the aggregate is not made for.
func (t *total) take(a aggregate, v Value) {
	switch a {
	case average, sum:
		if v.kind == Number {
			t.numbers++
			t.sum += v.number
		}
	case minimum:
		if v.primitive() && (t.best.kind == Undefined || before(v, t.best)) {
			t.best = v
		}
	case maximum:
		if v.primitive() && (t.best.kind == Undefined || before(t.best, v)) {
			t.best = v
		}
	}
}

// before orders values of all kinds.
func before(a, b Value) bool {
	if order, known := compare(a, b); known {
		return order < 0
	}
	return a.kind < b.kind
}

func (t total) value(a aggregate) Value {
	switch {
	case a == countAll:
		return NumberValue(float64(t.documents))
	case a == sum:
		return NumberValue(t.sum)
	case a == average && t.numbers > 0:
		return NumberValue(t.sum / float64(t.numbers))
	}
	return t.best
}

// Rows returns the rows, each a JSON object, in the order of their groups.
func (g *Groups) Rows() [][]byte {
	all := make([]*group, 0, len(g.by))
	for _, in := range g.by {
		all = append(all, in)
	}
	slices.SortFunc(all, func(a, b *group) int { return slices.CompareFunc(a.key, b.key, order) })
	var rows [][]byte
	for _, in := range all {
		r := row{text: []byte{'{'}}
		for i, c := range g.query.columns {
			if c.aggregate != "" {
				r.add(c.name, in.totals[i].value(c.aggregate))
			} else {
				r.add(c.name, in.key[c.group])
			}
		}
		rows = append(rows, append(r.text, '}'))
	}
	return rows
}

func order(a, b Value) int {
	switch {
	case before(a, b):
		return -1
	case before(b, a):
		return 1
	}
	return strings.Compare(a.text, b.text) // of arrays and objects
}
