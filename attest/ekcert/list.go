package ekcert

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/berth-iot/berth/tpm"
)

// MaxListEntries is the number of keys in the largest List.
const MaxListEntries = 1_000_000

// A List is a set of endorsement keys: those of a reel or a delivery. It keeps 32
// bytes a key, never changes and may be used by many goroutines. That a key is on
// a list proves nothing about the device that shows it: public keys are public.
type List struct {
	entries []entry // ascending, no two the same
}

// An entry stands for a key: the SHA-256 digest of its TPM2B_PUBLIC or, when only
// the Name is known, nameEntry of that.
type entry [sha256.Size]byte

func nameEntry(name []byte) entry { return sha256.Sum256(append([]byte("EK name\x00"), name...)) }

func (e entry) compare(o entry) int { return bytes.Compare(e[:], o[:]) }

// Len returns the number of keys.
func (l *List) Len() int { return len(l.entries) }

// Contains reports whether the key with the given TPM2B_PUBLIC (TPM 2.0 Library
// Part 2 §12.2.5) is on the list.
func (l *List) Contains(ek []byte) bool {
	if l.has(sha256.Sum256(ek)) {
		return true
	}
	p, err := tpm.ParsePublic(ek)
	return err == nil && l.has(nameEntry(p.Name()))
}

func (l *List) has(e entry) bool {
	_, found := slices.BinarySearchFunc(l.entries, e, entry.compare)
	return found
}

// listMagic begins a marshalled List; its last digit is the version of the form.
const listMagic = "EKLIST 1"

// Marshal returns l in the one form it has in bytes: the magic number, the
// number of keys (32 bits, big-endian), and 32 bytes a key in ascending order.
func (l *List) Marshal() []byte {
	b := make([]byte, 0, len(listMagic)+4+len(l.entries)*len(entry{}))
	b = append(b, listMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.entries)))
	for _, e := range l.entries {
		b = append(b, e[:]...)
	}
	return b
}

// Digest returns the SHA-256 digest of what Marshal returns: two lists of the
// same lines, in whatever order, have the same.
func (l *List) Digest() [sha256.Size]byte { return sha256.Sum256(l.Marshal()) }

// UnmarshalList undoes Marshal and accepts nothing else.
func UnmarshalList(b []byte) (*List, error) {
	rest, found := bytes.CutPrefix(b, []byte(listMagic))
	if !found || len(rest) < 4 {
		return nil, errors.New("EK list: not a stored list")
	}
	n, rest := int(binary.BigEndian.Uint32(rest)), rest[4:]
	if n == 0 || n > MaxListEntries || len(rest) != n*len(entry{}) {
		return nil, fmt.Errorf("EK list: %d keys in %d bytes", n, len(rest))
	}
	entries := make([]entry, n)
	for i := range entries {
		copy(entries[i][:], rest[i*len(entry{}):])
		if i > 0 && entries[i-1].compare(entries[i]) >= 0 {
			return nil, fmt.Errorf("EK list: key %d is not in order", i+1)
		}
	}
	return &List{entries}, nil
}

// A ListError says what is wrong with the lines of a list.
type ListError struct {
	Faults []Fault // in the order of their lines, not more than 20
	Total  int     // how many there are
}

// A Fault is one line that cannot be used.
type Fault struct {
	Line    int // the first is 1
	Problem string
}

// Error names every fault it keeps.
func (e *ListError) Error() string {
	var b strings.Builder
	b.WriteString("EK list: ")
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "line %d: %s", f.Line, f.Problem)
	}
	if more := e.Total - len(e.Faults); more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return b.String()
}

func (e *ListError) add(line int, format string, args ...any) {
	const maxFaults = 20
	if e.Total++; len(e.Faults) < maxFaults {
		e.Faults = append(e.Faults, Fault{line, fmt.Sprintf(format, args...)})
	}
}

// ParseList reads a list of endorsement keys as plants exchange it: one key a
// line, or a table of comma-, semicolon- or tab-separated values whose first line
// names the columns, among them endorsementKey; other columns are ignored, and a
// quoted value ends on its line. Empty lines and lines that begin with # do not
// count.
//
// A key is the base64 of its TPM2B_PUBLIC, which must be the public area of an
// endorsement key; the SHA-256 digest of that, in 64 hexadecimal digits or as the
// registration ID that tpm.RegistrationID derives; or the Name of the key in
// hexadecimal, 000b and on.
//
// If any line cannot be used there is no list. A *ListError then says which and
// why; a key that is there twice is such a fault, because no two TPMs share one.
// The same key in two forms goes unnoticed only where one of them is the Name.
func ParseList(r io.Reader) (*List, error) {
	p := listParser{lines: bufio.NewReaderSize(r, maxLine)}
	if err := p.readAll(); err != nil {
		return nil, fmt.Errorf("EK list: %w", err)
	}
	return p.list()
}

// maxLine is the size in bytes of the longest line: a key and what else a plant
// writes beside it.
const maxLine = 16 << 10

type listParser struct {
	lines   *bufio.Reader
	line    int // number of the line being read
	begun   bool
	column  int  // of the key
	comma   byte // between values, 0 if a line is a key
	seen    []sighting
	faults  ListError
	scratch []byte
}

// A sighting is an entry and where it was.
type sighting struct {
	entry entry
	line  int
}

func (p *listParser) readAll() error {
	for {
		line, err := p.lines.ReadSlice('\n')
		if err != nil && err != io.EOF {
			if err == bufio.ErrBufferFull {
				return fmt.Errorf("line %d: longer than %d bytes", p.line+1, maxLine)
			}
			return fmt.Errorf("after line %d: %w", p.line, err)
		}
		p.line++
		if failed := p.read(bytes.TrimSpace(line)); failed != nil || err == io.EOF {
			return failed
		}
	}
}

// read takes one line. What it cannot use is a fault; an error ends everything.
func (p *listParser) read(line []byte) error {
	if p.line == 1 {
		line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")) // as spreadsheets write it
	}
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	if !p.begun {
		p.begun = true
		if isHeader, err := p.readHeader(line); isHeader || err != nil {
			return err
		}
	}
	field, ok := p.field(line, p.column)
	if !ok {
		p.faults.add(p.line, "no value in the column of the key")
		return nil
	}
	e, err := p.parseKey(field)
	if err != nil {
		p.faults.add(p.line, "%v", err)
		return nil
	}
	if len(p.seen) == MaxListEntries {
		return fmt.Errorf("line %d: more than %d keys", p.line, MaxListEntries)
	}
	p.seen = append(p.seen, sighting{e, p.line})
	return nil
}

// readHeader finds the column of the key in the first line, unless that is
// itself a key.
func (p *listParser) readHeader(line []byte) (isHeader bool, err error) {
	if i := bytes.IndexAny(line, ",;\t"); i >= 0 {
		p.comma = line[i]
	}
	for column := 0; ; column++ {
		name, ok := p.field(line, column)
		if !ok {
			break
		}
		if strings.EqualFold(string(name), "endorsementKey") {
			p.column = column
			return true, nil
		}
	}
	if p.comma != 0 {
		return true, fmt.Errorf("line %d: no column is named endorsementKey", p.line)
	}
	return false, nil
}

// field returns the value in a column of a line, without quotes.
func (p *listParser) field(line []byte, column int) (value []byte, ok bool) {
	for ; ; column-- {
		rest, end := line, -1
		if p.comma != 0 {
			end = fieldEnd(line, p.comma)
		}
		if end >= 0 {
			line, rest = line[:end], line[end+1:]
		}
		if column == 0 {
			value = bytes.TrimSpace(line)
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = bytes.TrimSpace(value[1 : n-1])
			}
			return value, true
		}
		if end < 0 {
			return nil, false
		}
		line = rest
	}
}

// fieldEnd returns the index of the next comma outside quotes, or -1. A doubled
// quote within quotes ends and begins them, which comes to the same.
func fieldEnd(line []byte, comma byte) int {
	if len(line) > 0 && line[0] != '"' {
		return bytes.IndexByte(line, comma)
	}
	quoted := false
	for i, c := range line {
		switch {
		case c == '"':
			quoted = !quoted
		case c == comma && !quoted:
			return i
		}
	}
	return -1
}

// parseKey reads one key; its length says in which form.
func (p *listParser) parseKey(s []byte) (e entry, err error) {
	switch len(s) {
	case 0:
		return e, errors.New("no key")
	case hex.EncodedLen(len(e)):
		if _, err := hex.Decode(e[:], s); err != nil {
			return e, errors.New("64 characters, but not the SHA-256 digest of a key in hexadecimal")
		}
		return e, nil
	case base32.StdEncoding.WithPadding(base32.NoPadding).EncodedLen(len(e)):
		return parseID(s)
	}
	if name, ok := parseName(s); ok {
		return nameEntry(name), nil
	}
	if p.scratch, err = base64.StdEncoding.Strict().AppendDecode(p.scratch[:0], s); err != nil {
		return e, errors.New("neither base64 nor the digest, the registration ID or the Name of a key")
	}
	ek, err := tpm.ParsePublic(p.scratch)
	if err == nil {
		err = tpm.CheckEK(ek)
	}
	return sha256.Sum256(p.scratch), err
}

// parseID reads a registration ID that was derived from a key.
func parseID(s []byte) (e entry, err error) {
	encoding := base32.StdEncoding.WithPadding(base32.NoPadding)
	digest, err := encoding.DecodeString(strings.ToUpper(string(s)))
	copy(e[:], digest)
	// Four bits of the last character are spare, and only one value of them is ours.
	if err != nil || encoding.EncodeToString(e[:]) != strings.ToUpper(string(s)) {
		return e, errors.New("52 characters, but not the registration ID of a key in base32")
	}
	return e, nil
}

// parseName reads the Name of a key (TPM 2.0 Library Part 1, "Names"): the name
// algorithm, SHA-256, SHA-384 or SHA-512, and a digest.
func parseName(s []byte) (name []byte, ok bool) {
	var alg string
	switch len(s) {
	case hex.EncodedLen(2 + 32):
		alg = "000b"
	case hex.EncodedLen(2 + 48):
		alg = "000c"
	case hex.EncodedLen(2 + 64):
		alg = "000d"
	default:
		return nil, false
	}
	name, err := hex.AppendDecode(nil, s)
	return name, err == nil && strings.EqualFold(string(s[:4]), alg)
}

// list puts the keys in order and finds those that are there twice.
func (p *listParser) list() (*List, error) {
	slices.SortFunc(p.seen, func(a, b sighting) int {
		if order := a.entry.compare(b.entry); order != 0 {
			return order
		}
		return cmp.Compare(a.line, b.line)
	})
	entries := make([]entry, 0, len(p.seen))
	var again []Fault
	first := 0 // the earliest of those with the same entry
	for i, s := range p.seen {
		if i > 0 && s.entry == p.seen[first].entry {
			again = append(again, Fault{s.line, fmt.Sprintf("the same key as in line %d", p.seen[first].line)})
			continue
		}
		first = i
		entries = append(entries, s.entry)
	}
	byLine := func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) }
	slices.SortFunc(again, byLine)
	for _, f := range again {
		p.faults.add(f.Line, "%s", f.Problem)
	}
	if p.faults.Total > 0 {
		slices.SortFunc(p.faults.Faults, byLine)
		return nil, &p.faults
	}
	if len(entries) == 0 {
		return nil, errors.New("EK list: no key in it")
	}
	return &List{entries}, nil
}
