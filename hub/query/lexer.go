package query

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	endToken tokenKind = iota
	wordToken
	nameToken // in double brackets
	stringToken
	numberToken
	signToken
)

// A token is a part of a text. text is a word or a name as it is, what a string
// holds, or a sign.
type token struct {
	kind   tokenKind
	text   string
	number float64
	at     int // bytes before it
}

func (t token) is(word string) bool { return t.kind == wordToken && strings.EqualFold(t.text, word) }
func (t token) sign(s string) bool  { return t.kind == signToken && t.text == s }

// String names the token in an error.
func (t token) String() string {
	switch t.kind {
	case endToken:
		return "the end"
	case stringToken:
		return "a string"
	case numberToken:
		return "a number"
	case nameToken:
		return "[[" + shortened(t.text) + "]]"
	default:
		return shortened(t.text)
	}
}

func shortened(s string) string {
	if runes := []rune(s); len(runes) > 40 {
		return string(runes[:40]) + "…"
	}
	return s
}

// tokenize splits a text into its tokens; the last one is its end.
func tokenize(text string) ([]token, error) {
	switch {
	case len(text) > MaxText:
		return nil, invalid("it has %d bytes; %d are allowed", len(text), MaxText)
	case !utf8.ValidString(text):
		return nil, invalid("it is not UTF-8")
	}
	l := lexer{text: text}
	for {
		t, err := l.next()
		if err != nil {
			return nil, err
		}
		l.tokens = append(l.tokens, t)
		if t.kind == endToken {
			return l.tokens, nil
		}
	}
}

type lexer struct {
	text   string
	at     int
	tokens []token
}

// afterDot reports whether the token before this one is a dot: behind it comes a
// name, whatever it looks like.
func (l *lexer) afterDot() bool {
	return len(l.tokens) > 0 && l.tokens[len(l.tokens)-1].sign(".")
}

// signs are longest first, so that the first one that fits is the one.
var signs = []string{"!=", "<>", "<=", ">=", "<", ">", "=", "+", "-", "*", "/", "%", "(", ")", "[", "]", ",", "."}

func (l *lexer) next() (token, error) {
	for l.at < len(l.text) && strings.IndexByte(" \t\r\n", l.text[l.at]) >= 0 {
		l.at++
	}
	rest := l.text[l.at:]
	if rest == "" {
		return token{kind: endToken, at: l.at}, nil
	}
	inner := l.afterDot()
	switch c := rest[0]; {
	case c == '\'' || c == '"':
		return l.str()
	case strings.HasPrefix(rest, "[["):
		return l.bracketed()
	case c >= '0' && c <= '9' && !inner:
		return l.number()
	}
	if n := nameLength(rest, !inner, inner); n > 0 {
		return l.take(wordToken, n), nil
	}
	for _, s := range signs {
		if strings.HasPrefix(rest, s) {
			return l.take(signToken, len(s)), nil
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return token{}, l.fault("there is no %q in this language", r)
}

func (l *lexer) take(kind tokenKind, n int) token {
	t := token{kind: kind, text: l.text[l.at : l.at+n], at: l.at}
	l.at += n
	return t
}

// bracketed reads a name in double brackets. It may end with brackets itself.
func (l *lexer) bracketed() (token, error) {
	rest := l.text[l.at+2:]
	n := strings.Index(rest, "]]")
	if n < 0 {
		return token{}, l.fault("[[ has no ]]")
	}
	for strings.HasPrefix(rest[n+2:], "]") {
		n++
	}
	if n == 0 {
		return token{}, l.fault("there is no name between [[ and ]]")
	}
	t := token{kind: nameToken, text: rest[:n], at: l.at}
	l.at += n + 4
	return t, nil
}

func (l *lexer) number() (token, error) {
	rest := l.text[l.at:]
	t := token{kind: numberToken, at: l.at}
	n, err := 0, error(nil)
	if strings.HasPrefix(rest, "0x") || strings.HasPrefix(rest, "0X") {
		var whole uint64
		n = 2 + digits(rest[2:], "0123456789abcdefABCDEF")
		whole, err = strconv.ParseUint(rest[2:n], 16, 64)
		t.number = float64(whole)
	} else {
		n = decimal(rest)
		t.number, err = strconv.ParseFloat(rest[:n], 64)
	}
	if err != nil || nameLength(rest[n:], false, true) > 0 {
		return token{}, l.fault("this is no number")
	}
	l.at += n
	return t, nil
}

// decimal returns the length of the decimal number that s begins with.
func decimal(s string) int {
	const decimals = "0123456789"
	n := digits(s, decimals)
	if strings.HasPrefix(s[n:], ".") {
		if more := digits(s[n+1:], decimals); more > 0 {
			n += 1 + more
		}
	}
	if exponent := s[n:]; strings.HasPrefix(exponent, "e") || strings.HasPrefix(exponent, "E") {
		exponent = exponent[1:]
		signed := strings.HasPrefix(exponent, "+") || strings.HasPrefix(exponent, "-")
		if signed {
			exponent = exponent[1:]
		}
		if more := digits(exponent, decimals); more > 0 {
			n = len(s) - len(exponent) + more
		}
	}
	return n
}

func digits(s, of string) int { return len(s) - len(strings.TrimLeft(s, of)) }

// str reads a string, which ends with the quote that it began with.
func (l *lexer) str() (token, error) {
	quote, start := l.text[l.at], l.at
	var b strings.Builder
	for i := l.at + 1; i < len(l.text); {
		switch c := l.text[i]; c {
		case quote:
			l.at = i + 1
			return token{kind: stringToken, text: b.String(), at: start}, nil
		case '\\':
			r, n := unescape(l.text[i:])
			if n == 0 {
				l.at = i
				return token{}, l.fault(`this is no escape; \', \", \\ and \uXXXX are`)
			}
			b.WriteRune(r)
			i += n
		default:
			b.WriteByte(c)
			i++
		}
	}
	return token{}, l.fault("the string has no end")
}

// unescape reads the escape that s begins with and returns its length, zero when
// it is none. Characters beyond the first 65,536 are two escapes, as in JSON.
func unescape(s string) (rune, int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '\'', '"', '\\':
		return rune(s[1]), 2
	}
	high, ok := codeUnit(s)
	if !ok || high >= 0xdc00 && high < 0xe000 {
		return 0, 0
	}
	if high < 0xd800 || high >= 0xe000 {
		return high, 6
	}
	low, ok := codeUnit(s[6:])
	if !ok || low < 0xdc00 || low >= 0xe000 {
		return 0, 0
	}
	return 0x10000 + (high-0xd800)<<10 + (low - 0xdc00), 12
}

func codeUnit(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(n), err == nil
}

func (l *lexer) fault(format string, args ...any) error {
	return faultAt(l.text, l.at, fmt.Sprintf(format, args...))
}

// faultAt is an error at a place in a text, which people count in characters from
// one.
func faultAt(text string, at int, what string) error {
	return invalid("at character %d: %s", utf8.RuneCountInString(text[:at])+1, what)
}
