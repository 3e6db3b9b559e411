package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// A segment file begins with what was in the log when it was made, so that the
// newest file tells of all the others:
//
//	magic   16 bytes
//	length  4 bytes, little-endian, of the rest
//	sum     4 bytes, little-endian, CRC-32C of the rest
//	mark    4 bytes, drawn at random: how the frames of this file begin
//	first   of the messages that can be in it
//	earlier count *(first size count oldest newest), the oldest file first
//	hubs    count *(string newest), the sequence number of each hub's newest message
//
// mark aside, the rest are varints of encoding/binary, signed ones for the times
// in nanoseconds.
const (
	magic      = "berth stream 1\r\n"
	fixedPart  = len(magic) + 8
	maxHeader  = 64 << 20
	minEarlier = 5 // bytes
	minHub     = 2
)

// A header is the beginning of a segment file.
type header struct {
	mark    uint32
	first   uint64
	earlier []summary
	hubs    map[string]uint64
}

// A summary is what a file has in it.
type summary struct {
	first          uint64 // sequence number of the first message that can be in it
	size           int64  // bytes
	count          uint64 // messages
	oldest, newest int64  // nanoseconds; newest is below oldest where there are none
}

// emptySummary is that of a file whose frames are to begin at the offset.
func emptySummary(first uint64, frames int64) summary {
	return summary{first: first, size: frames, oldest: math.MaxInt64, newest: math.MinInt64}
}

// add counts n more messages.
func (s *summary) add(n int, oldest, newest int64) {
	s.count += uint64(n)
	s.oldest, s.newest = min(s.oldest, oldest), max(s.newest, newest)
}

func (h header) encode() []byte {
	b := append([]byte(magic), make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, h.mark)
	b = binary.AppendUvarint(b, h.first)
	b = binary.AppendUvarint(b, uint64(len(h.earlier)))
	for _, e := range h.earlier {
		b = binary.AppendUvarint(b, e.first)
		b = binary.AppendUvarint(b, uint64(e.size))
		b = binary.AppendUvarint(b, e.count)
		b = binary.AppendVarint(b, e.oldest)
		b = binary.AppendVarint(b, e.newest)
	}
	b = binary.AppendUvarint(b, uint64(len(h.hubs)))
	for name, newest := range h.hubs {
		b = binary.AppendUvarint(appendString(b, name), newest)
	}
	rest := b[fixedPart:]
	binary.LittleEndian.PutUint32(b[len(magic):], uint32(len(rest)))
	binary.LittleEndian.PutUint32(b[len(magic)+4:], crc32.Checksum(rest, castagnoli))
	return b
}

// readHeader reads the header of a file of size bytes, and returns where the
// first frame begins.
func readHeader(file io.ReaderAt, size int64) (h header, frames int64, err error) {
	fixed := make([]byte, fixedPart)
	if _, err := file.ReadAt(fixed, 0); err != nil && err != io.EOF {
		return h, 0, err
	}
	if string(fixed[:len(magic)]) != magic {
		return h, 0, errors.New("it is no segment of a stream")
	}
	n := int64(binary.LittleEndian.Uint32(fixed[len(magic):]))
	if n > maxHeader || n > size-int64(fixedPart) {
		return h, 0, errors.New("it ends within its header")
	}
	rest := make([]byte, n)
	if _, err := file.ReadAt(rest, int64(fixedPart)); err != nil {
		return h, 0, err
	}
	if crc32.Checksum(rest, castagnoli) != binary.LittleEndian.Uint32(fixed[len(magic)+4:]) {
		return h, 0, errors.New("the checksum of its header is not that of its content")
	}
	h, err = parseHeader(rest)
	return h, int64(fixedPart) + n, err
}

var errHeader = errors.New("its header is not well formed")

func parseHeader(b []byte) (h header, err error) {
	if len(b) < 4 {
		return h, errHeader
	}
	h.mark = binary.LittleEndian.Uint32(b)
	p := parser{rest: b[4:]}
	h.first = p.number()
	before := uint64(0)
	for n := p.count(minEarlier); n > 0 && !p.bad; n-- {
		e := summary{p.number(), int64(p.number()), p.number(), p.signed(), p.signed()}
		if e.first <= before {
			p.bad = true
		}
		h.earlier, before = append(h.earlier, e), e.first
	}
	hubs := p.count(minHub)
	h.hubs = make(map[string]uint64, min(hubs, 1<<10))
	for ; hubs > 0 && !p.bad; hubs-- {
		name := p.string()
		h.hubs[name] = p.number()
	}
	if p.bad || len(p.rest) > 0 || h.first <= before {
		return h, errHeader
	}
	return h, nil
}

// A parser reads varints from the front of rest, until one is bad.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) number() uint64 {
	n, rest, ok := uvarint(p.rest)
	if !ok || n > math.MaxInt64 {
		p.bad = true
		return 0
	}
	p.rest = rest
	return n
}

func (p *parser) signed() int64 {
	n, k := binary.Varint(p.rest)
	if k <= 0 {
		p.bad = true
		return 0
	}
	p.rest = p.rest[k:]
	return n
}

// count reads how many of something follow that has least bytes each.
func (p *parser) count(least int) uint64 {
	n := p.number()
	if n > uint64(len(p.rest)/least) {
		p.bad = true
		return 0
	}
	return n
}

func (p *parser) string() string {
	n := p.count(1)
	s := string(p.rest[:n])
	p.rest = p.rest[n:]
	return s
}

// A Damage is what is wrong with a file of a stream. Nothing behind it in that
// file was read.
type Damage struct {
	Path   string
	Offset int64
	Cause  error
}

func (d *Damage) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %v", d.Path, d.Offset, d.Cause)
}

func (d *Damage) Unwrap() error { return d.Cause }
