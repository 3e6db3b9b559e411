package query

import (
	"math"
	"strings"
)

// A dialect says what a text is about.
type dialect uint8

const (
	twins dialect = iota
	messages
)

type parser struct {
	text   string
	tokens []token
	over   dialect
	from   Collection
	reads  int
	depth  int
}

func newParser(text string, over dialect) (*parser, error) {
	tokens, err := tokenize(text)
	return &parser{text: text, tokens: tokens, over: over}, err
}

func (p *parser) peek() token { return p.tokens[0] }

// second is the token behind the next one.
func (p *parser) second() token { return p.tokens[min(1, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.tokens[0]
	if t.kind != endToken {
		p.tokens = p.tokens[1:]
	}
	return t
}

// word takes the next token when it is that word.
func (p *parser) word(w string) bool {
	if !p.peek().is(w) {
		return false
	}
	p.next()
	return true
}

func (p *parser) sign(s string) bool {
	if !p.peek().sign(s) {
		return false
	}
	p.next()
	return true
}

func (p *parser) expected(what string) error {
	return p.faultAt(p.peek(), "expected "+what+", found "+p.peek().String())
}

func (p *parser) faultAt(t token, what string) error { return faultAt(p.text, t.at, what) }

// end refuses what follows a text that could end here.
func (p *parser) end() error {
	switch t := p.peek(); {
	case t.kind == endToken:
		return nil
	case t.is("ORDER"):
		return p.faultAt(t, "ORDER BY is not in this language")
	case t.sign("="), t.sign("!="), t.sign("<>"), t.sign("<"), t.sign(">"), t.sign("<="), t.sign(">="), t.is("IN"), t.is("NIN"):
		return p.faultAt(t, "a comparison is not compared; put AND between two")
	}
	return p.expected("the end or AND or OR")
}

func (p *parser) query() (*Query, error) {
	if !p.word("SELECT") {
		return nil, p.expected("SELECT")
	}
	q := new(Query)
	var err error
	if q.Top, err = p.top(); err != nil {
		return nil, err
	}
	// Paths leave out the name of the collection, which stands behind them.
	if p.from, err = p.collection(); err != nil {
		return nil, err
	}
	if !p.sign("*") {
		if q.columns, err = p.columns(); err != nil {
			return nil, err
		}
	}
	if !p.word("FROM") {
		return nil, p.expected("FROM")
	}
	q.From = p.from
	p.skipCollection()
	if p.word("WHERE") {
		root, err := p.expression()
		if err != nil {
			return nil, err
		}
		q.Where = &Condition{root}
	}
	if p.word("GROUP") {
		if q.groupBy, err = p.groupBy(); err != nil {
			return nil, err
		}
	}
	return q, p.end()
}

func (p *parser) top() (int, error) {
	if !p.peek().is("TOP") || p.second().kind != numberToken {
		return 0, nil
	}
	p.next()
	t := p.next()
	if t.number != math.Trunc(t.number) || t.number < 1 || t.number > 1<<31-1 {
		return 0, p.faultAt(t, "TOP takes a whole number from 1 on")
	}
	return int(t.number), nil
}

// collection looks ahead for what the query goes over.
func (p *parser) collection() (Collection, error) {
	for i, t := range p.tokens {
		if !t.is("FROM") || i > 0 && p.tokens[i-1].sign(".") {
			continue
		}
		rest := p.tokens[i+1:]
		if len(rest) == 0 || !rest[0].is("devices") {
			p.tokens = p.tokens[i+1:]
			return "", p.expected("devices or devices.modules")
		}
		if len(rest) < 3 || !rest[1].sign(".") {
			return Devices, nil
		}
		switch {
		case rest[2].is("modules"):
			return Modules, nil
		case rest[2].is("jobs"):
			return "", p.faultAt(rest[0], "devices.jobs is not offered; devices and devices.modules are")
		}
		return "", p.faultAt(rest[2], "expected modules, found "+rest[2].String())
	}
	p.tokens = p.tokens[len(p.tokens)-1:]
	return "", p.expected("FROM")
}

func (p *parser) skipCollection() {
	p.next()
	if p.from == Modules {
		p.next()
		p.next()
	}
}

func (p *parser) columns() ([]column, error) {
	var all []column
	for {
		c, err := p.column()
		if err != nil {
			return nil, err
		}
		all = append(all, c)
		if !p.sign(",") {
			return all, nil
		}
	}
}

func (p *parser) column() (column, error) {
	c, err := p.columnValue()
	if err != nil || !p.word("AS") {
		return c, err
	}
	t := p.peek()
	if t.kind != nameToken && (t.kind != wordToken || reserved(t.text)) {
		return c, p.expected("a name")
	}
	p.next()
	c.name, c.named = t.text, true
	return c, nil
}

func (p *parser) columnValue() (column, error) {
	if t := p.peek(); t.kind == wordToken && p.second().sign("(") {
		if a := aggregate(strings.ToLower(t.text)); a.known() {
			return p.aggregate(a)
		}
	}
	name := ""
	first := p.peek()
	value, err := p.expression()
	if v, ok := value.(path); ok {
		if name = v.Path[len(v.Path)-1].Name; len(v.Path) == 1 {
			name = first.text // in the client's spelling
		}
	}
	return column{name: name, value: value}, err
}

func (p *parser) aggregate(a aggregate) (column, error) {
	p.next()
	p.next()
	c := column{name: string(a), aggregate: a}
	if a != countAll {
		var err error
		if c.value, err = p.expression(); err != nil {
			return c, err
		}
	}
	if !p.sign(")") {
		return c, p.expected(")")
	}
	return c, nil
}

func (p *parser) groupBy() ([]path, error) {
	if !p.word("BY") {
		return nil, p.expected("BY")
	}
	var all []path
	for {
		t := p.peek()
		e, err := p.primary()
		if err != nil {
			return nil, err
		}
		by, ok := e.(path)
		if !ok {
			return nil, p.faultAt(t, "GROUP BY takes properties")
		}
		all = append(all, by)
		if !p.sign(",") {
			return all, nil
		}
	}
}

// expression reads a whole expression. Its level counts, and with it every pair
// of parentheses and every call.
func (p *parser) expression() (expr, error) {
	if p.depth++; p.depth > MaxDepth {
		return nil, p.tooDeep()
	}
	defer func() { p.depth-- }()
	return p.chain("OR", func() (expr, error) { return p.chain("AND", p.not) })
}

func (p *parser) tooDeep() error {
	return p.faultAt(p.peek(), "this is too deep inside of other parts")
}

// chain reads what stands on both sides of AND or OR, however often.
func (p *parser) chain(word string, part func() (expr, error)) (expr, error) {
	first, err := part()
	if err != nil || !p.peek().is(word) {
		return first, err
	}
	all := []expr{first}
	for p.word(word) {
		e, err := part()
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	if word == "OR" {
		return or(all), nil
	}
	return and(all), nil
}

func (p *parser) not() (expr, error) {
	if !p.word("NOT") {
		return p.comparison()
	}
	if p.depth++; p.depth > MaxDepth {
		return nil, p.tooDeep()
	}
	defer func() { p.depth-- }()
	e, err := p.not()
	return not{e}, err
}

var comparisons = []operator{"=", "!=", "<>", "<=", ">=", "<", ">"}

func (p *parser) comparison() (expr, error) {
	left, err := p.sum()
	if err != nil {
		return nil, err
	}
	if negated := p.peek().is("NIN"); negated || p.peek().is("IN") {
		p.next()
		return p.in(left, negated)
	}
	for _, op := range comparisons {
		if !p.sign(string(op)) {
			continue
		}
		right, err := p.sum()
		if op == "<>" {
			op = "!="
		}
		return infix{op, left, right}, err
	}
	return left, nil
}

func (p *parser) in(left expr, negated bool) (expr, error) {
	if !p.peek().sign("[") {
		return nil, p.expected("[ and the values to choose from")
	}
	list, err := p.array()
	return in{left, list, negated}, err
}

func (p *parser) sum() (expr, error)     { return p.arithmetic(p.product, "+", "-") }
func (p *parser) product() (expr, error) { return p.arithmetic(p.negation, "*", "/", "%") }

// arithmetic reads operators of one rank from left to right.
func (p *parser) arithmetic(part func() (expr, error), ops ...operator) (expr, error) {
	left, err := part()
	for err == nil {
		op := operator("")
		for _, o := range ops {
			if p.peek().sign(string(o)) {
				op = o
			}
		}
		if op == "" {
			break
		}
		p.next()
		var right expr
		right, err = part()
		left = infix{op, left, right}
	}
	return left, err
}

// negation makes the negative of a number a number.
func (p *parser) negation() (expr, error) {
	if !p.sign("-") {
		return p.primary()
	}
	if p.depth++; p.depth > MaxDepth {
		return nil, p.tooDeep()
	}
	defer func() { p.depth-- }()
	e, err := p.negation()
	if l, ok := e.(literal); ok && l.kind == Number {
		return literal{NumberValue(-l.number)}, err
	}
	return negative{e}, err
}

func (p *parser) primary() (expr, error) {
	switch t := p.peek(); {
	case t.kind == stringToken:
		p.next()
		return literal{TextValue(t.text)}, nil
	case t.kind == numberToken:
		p.next()
		return literal{NumberValue(t.number)}, nil
	case t.sign("["):
		return p.array()
	case t.sign("("):
		p.next()
		e, err := p.expression()
		if err == nil && !p.sign(")") {
			err = p.expected(")")
		}
		return e, err
	case t.kind == wordToken && p.second().sign("(") && !reserved(t.text):
		return p.call()
	case t.kind == nameToken, t.kind == wordToken && !reserved(t.text):
		return p.path()
	}
	return p.constant()
}

func (p *parser) constant() (expr, error) {
	switch {
	case p.word("true"):
		return literal{BoolValue(true)}, nil
	case p.word("false"):
		return literal{BoolValue(false)}, nil
	case p.word("null"):
		return literal{NullValue()}, nil
	case p.word("undefined"):
		return literal{}, nil
	}
	return nil, p.expected("a property, a value or a function")
}

func (p *parser) array() (array, error) {
	p.next()
	all := array{}
	if p.sign("]") {
		return all, nil
	}
	for {
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		if p.sign("]") {
			return all, nil
		}
		if !p.sign(",") {
			return nil, p.expected(", or ]")
		}
	}
}

// read counts a property or a function, each of which costs time on every
// document.
func (p *parser) read() error {
	if p.reads++; p.reads > MaxReads {
		return p.faultAt(p.peek(), "it names too many properties and functions")
	}
	return nil
}

func (p *parser) call() (expr, error) {
	t := p.next()
	if err := p.read(); err != nil {
		return nil, err
	}
	f, ok := functions[functionName(t.text)]
	if !ok {
		if aggregate(strings.ToLower(t.text)).known() {
			return nil, p.faultAt(t, "an aggregate is a column by itself")
		}
		return nil, p.faultAt(t, "there is no function "+shortened(t.text))
	}
	args, err := p.arguments()
	if err != nil {
		return nil, err
	}
	if len(args) < f.least || len(args) > f.most {
		return nil, p.faultAt(t, f.name+" takes "+f.arity())
	}
	if _, ok := args[0].(path); f.ofPath && !ok {
		return nil, p.faultAt(t, f.name+" takes a property")
	}
	return call{f, args}, nil
}

func (p *parser) arguments() ([]expr, error) {
	p.next()
	if p.sign(")") {
		return nil, nil
	}
	var args []expr
	for {
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		args = append(args, e)
		if p.sign(")") {
			return args, nil
		}
		if !p.sign(",") {
			return nil, p.expected(", or )")
		}
	}
}

// path reads a property.
func (p *parser) path() (expr, error) {
	first := p.peek()
	if err := p.read(); err != nil {
		return nil, err
	}
	read := Path{{Name: p.next().text}}
	for {
		switch {
		case p.sign("."):
			t := p.peek()
			if t.kind != wordToken && t.kind != nameToken {
				return nil, p.expected("a name")
			}
			p.next()
			read = append(read, Step{Name: t.text})
			continue
		case p.peek().sign("["):
			step, err := p.element()
			if err != nil {
				return nil, err
			}
			read = append(read, step)
			continue
		}
		break
	}
	return p.rooted(first, read)
}

// element reads the number of an element in brackets.
func (p *parser) element() (Step, error) {
	p.next()
	t := p.peek()
	if t.kind != numberToken || t.number != math.Trunc(t.number) || t.number > 1<<31-1 {
		return Step{}, p.expected("the number of an element")
	}
	p.next()
	if !p.sign("]") {
		return Step{}, p.expected("]")
	}
	return Step{Index: int(t.number)}, nil
}

// rooted puts a path below what the text is about.
func (p *parser) rooted(first token, read Path) (expr, error) {
	if p.over == messages {
		return path{read}, nil
	}
	if strings.HasPrefix(read[0].Name, "$") {
		return nil, p.faultAt(first, "properties of messages are known to routes only")
	}
	if p.from != "" && strings.EqualFold(read[0].Name, "devices") && len(read) > 1 && read[1].Name != "" {
		read = read[1:]
		if p.from == Modules && strings.EqualFold(read[0].Name, "modules") && len(read) > 1 && read[1].Name != "" {
			read = read[1:]
		}
	}
	return path{canonical(read)}, nil
}
