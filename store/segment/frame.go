package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

// A frame is what one call of Append keeps, all of it or none. All numbers are
// little-endian:
//
//	mark    4 bytes, the file's own
//	length  4 bytes, of the records
//	sum     4 bytes, CRC-32C of the records and, behind them, the other members
//	write   4 bytes, the offset in the file of the write that the frame is of
//	count   4 bytes, of the records
//	first   8 bytes, the sequence number of the first record
//	records
//
// Frames written at once and not yet synced may be torn by a crash, in any of
// their pages. What is whole behind a torn frame tells whether it was: a frame
// of a later write was begun when the earlier ones were on the disk. The mark is
// drawn for each file, so that no device can put a frame into the body of a
// message.
const (
	frameHeader = 28
	maxFrame    = 64 << 20 // bytes of records
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A frame is the header of one.
type frame struct {
	length, sum, write, count uint32
	first                     uint64
}

// last is the sequence number of its last record.
func (f frame) last() uint64 { return f.first + uint64(f.count) - 1 }

func (f frame) size() int64 { return frameHeader + int64(f.length) }

// seal writes the header of the frame in b, whose records have the sum records.
func seal(b []byte, mark uint32, f frame, records uint32) {
	binary.LittleEndian.PutUint32(b, mark)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-frameHeader))
	binary.LittleEndian.PutUint32(b[12:], f.write)
	binary.LittleEndian.PutUint32(b[16:], f.count)
	binary.LittleEndian.PutUint64(b[20:], f.first)
	binary.LittleEndian.PutUint32(b[8:], sum(records, b))
}

// sum continues the sum of the records with the rest of the frame.
func sum(records uint32, b []byte) uint32 {
	records = crc32.Update(records, castagnoli, b[:8])
	return crc32.Update(records, castagnoli, b[12:frameHeader])
}

// parseFrame reads the header of the frame at the offset in a file with the
// mark that ends at end, when its first message can be first or a later one.
func parseFrame(b []byte, mark uint32, offset, end int64, first uint64) (frame, error) {
	if len(b) < frameHeader {
		return frame{}, errors.New("it ends within the header of a frame")
	}
	f := frame{
		length: binary.LittleEndian.Uint32(b[4:]), sum: binary.LittleEndian.Uint32(b[8:]), write: binary.LittleEndian.Uint32(b[12:]),
		count: binary.LittleEndian.Uint32(b[16:]), first: binary.LittleEndian.Uint64(b[20:]),
	}
	switch {
	case binary.LittleEndian.Uint32(b) != mark:
		return frame{}, errors.New("no frame begins here")
	case f.length > maxFrame || f.size() > end-offset:
		return frame{}, fmt.Errorf("it ends within a frame of %d bytes", f.size())
	case f.count == 0 || int64(f.count)*minRecord > int64(f.length):
		return frame{}, fmt.Errorf("a frame of %d bytes has %d records", f.size(), f.count)
	case int64(f.write) > offset:
		return frame{}, errors.New("a frame was written before itself")
	case f.first < first || f.first > math.MaxInt64:
		return frame{}, fmt.Errorf("message %d follows %d", f.first, first-1)
	}
	return f, nil
}

// whole reports whether b is the frame f, to the last bit.
func (f frame) whole(b []byte) bool {
	return sum(crc32.Checksum(b[frameHeader:], castagnoli), b) == f.sum
}

var errSum = errors.New("the checksum of a frame is not that of its content")

// A block is a frame on its way into the log. Its header is not written yet.
type block struct {
	bytes          []byte // with room for the header
	sum            uint32 // of the records
	first          uint64 // zero where the writer numbers it
	count          int
	oldest, newest int64    // nanoseconds
	hubs           []string // of the messages; one may be there twice
}

// newBlock encodes messages into b.
func newBlock(b []byte, ms []*hub.Message) (*block, error) {
	k := &block{bytes: append(b[:0], make([]byte, frameHeader)...), count: len(ms), oldest: math.MaxInt64, newest: math.MinInt64}
	var scratch [512]byte
	head, before := scratch[:], ""
	for _, m := range ms {
		enqueued := record.Nanoseconds(m.Enqueued)
		k.oldest, k.newest = min(k.oldest, enqueued), max(k.newest, enqueued)
		k.bytes, head = appendRecord(k.bytes, head, m, enqueued, before)
		if len(k.bytes) > maxFrame {
			return nil, fmt.Errorf("%d messages have more than %d bytes together", len(ms), maxFrame)
		}
		if m.Hub != before {
			k.hubs, before = append(k.hubs, m.Hub), m.Hub
		}
	}
	k.sum = crc32.Checksum(k.bytes[frameHeader:], castagnoli)
	return k, nil
}

// A window is the part of a file that was read last. It ends where what is
// durable does.
type window struct {
	file  io.ReaderAt
	end   int64
	start int64 // of bytes in the file
	bytes []byte
	ahead int   // how much is read at once, at least
	fault error // of reading, which says nothing of what there is to be read
}

// at returns n bytes from the offset on, or as many as there are. They are the
// caller's until the next call.
func (w *window) at(offset int64, n int) ([]byte, error) {
	n = int(min(int64(n), w.end-offset))
	if skip := offset - w.start; skip >= 0 && skip+int64(n) <= int64(len(w.bytes)) {
		return w.bytes[skip : skip+int64(n)], nil
	}
	size := int(min(int64(max(n, w.ahead)), w.end-offset))
	if cap(w.bytes) < size {
		w.bytes = make([]byte, max(size, w.ahead))
	}
	w.bytes, w.start = w.bytes[:size], offset
	if k, err := w.file.ReadAt(w.bytes, offset); err != nil && k < size {
		w.bytes, w.fault = w.bytes[:0], err
		return nil, err
	}
	return w.bytes[:n], nil
}

// frame returns the frame at the offset, and its records. It is an error for it
// to have changed by a bit.
func (w *window) frame(mark uint32, offset int64, first uint64) (f frame, records []byte, err error) {
	b, err := w.at(offset, frameHeader)
	if err != nil {
		return f, nil, err
	}
	if f, err = parseFrame(b, mark, offset, w.end, first); err != nil {
		return f, nil, err
	}
	if b, err = w.at(offset, int(f.size())); err != nil {
		return f, nil, err
	}
	if !f.whole(b) {
		return f, nil, errSum
	}
	return f, b[frameHeader:], nil
}

// laterWrite reports whether behind the offset there is a whole frame of a
// write that began behind it.
func (w *window) laterWrite(mark uint32, offset int64) (bool, error) {
	var sign [4]byte
	binary.LittleEndian.PutUint32(sign[:], mark)
	for at := offset + 1; at+frameHeader <= w.end; {
		b, err := w.at(at, w.ahead)
		if err != nil {
			return false, err
		}
		i := bytes.Index(b, sign[:])
		if i < 0 {
			at += int64(max(len(b)-len(sign)+1, 1))
			continue
		}
		at += int64(i)
		if b, err = w.at(at, frameHeader); err != nil {
			return false, err
		}
		f, err := parseFrame(b, mark, at, w.end, 0)
		if err == nil && int64(f.write) > offset {
			if b, err = w.at(at, int(f.size())); err != nil {
				return false, err
			}
			if f.whole(b) {
				return true, nil
			}
		}
		at++
	}
	return false, nil
}
