package segment

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	stdsync "sync"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

// readAhead is how much of a file is read at once, at least.
const readAhead = 64 << 10

var windows = stdsync.Pool{New: func() any { return &window{ahead: readAhead} }}

// Read returns up to limit messages with sequence numbers above after, in order,
// of one hub, or of all when hub is empty. It reads what it returns and what lies
// between, and little more. A file that is damaged there is an error.
func (l *Log) Read(ctx context.Context, at string, after uint64, limit int) ([]*hub.Message, error) {
	select {
	case <-l.closed:
		return nil, record.Unavailable()
	default:
	}
	r := &reading{hub: at, after: after, limit: limit, window: windows.Get().(*window)}
	defer func() {
		if r.window.file = nil; cap(r.window.bytes) <= maxPooled {
			windows.Put(r.window)
		}
	}()
	for len(r.found) < limit {
		s, end, next := l.from(at, r.after)
		if s == nil {
			break
		}
		err := r.file(ctx, s, end)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && l.trimmed(s)) {
			return nil, err
		}
		if len(r.found) < limit {
			r.after = max(r.after, next-1) // nothing more is in this file
		}
	}
	return r.found, nil
}

// A reading is what was found so far, and up to where that is all.
type reading struct {
	hub    string
	after  uint64
	limit  int
	found  []*hub.Message
	window *window
}

// file reads on in a file that ends at end.
func (r *reading) file(ctx context.Context, s *segment, end int64) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := r.window
	w.file, w.end, w.start, w.bytes, w.fault = f, end, 0, w.bytes[:0], nil
	begin, frames, err := s.begins(f)
	if err != nil {
		return err
	}
	first, at := s.seek(r.after+1, frames)
	for at < end && len(r.found) < r.limit {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, next, err := r.frame(s, begin, at, first)
		if err != nil {
			return err
		}
		at, first = at+n, next
	}
	return nil
}

// frame reads a frame and returns its length, and the number behind its last
// message.
func (r *reading) frame(s *segment, begin uint32, at int64, first uint64) (int64, uint64, error) {
	b, err := r.window.at(at, frameHeader)
	if err != nil {
		return 0, 0, err
	}
	f, err := parseFrame(b, begin, at, r.window.end, first)
	if err != nil {
		return 0, 0, &Damage{s.path, at, err}
	}
	s.learn(mark{f.first, at})
	if f.last() <= r.after {
		return f.size(), f.last() + 1, nil
	}
	if f, b, err = r.window.frame(begin, at, first); err != nil {
		return 0, 0, &Damage{s.path, at, err}
	}
	if err := r.records(f, b); err != nil {
		return 0, 0, &Damage{s.path, at, err}
	}
	return f.size(), f.last() + 1, nil
}

func (r *reading) records(f frame, b []byte) error {
	rest := records{rest: b}
	for i := range uint64(f.count) {
		raw, err := rest.next()
		if err != nil {
			return err
		}
		number := f.first + i
		if number <= r.after || r.hub != "" && rest.hub != r.hub {
			continue
		}
		m, err := raw.message(rest.hub)
		if err != nil {
			return err
		}
		m.Sequence, r.after = number, number
		if r.found = append(r.found, m); len(r.found) == r.limit {
			return nil
		}
	}
	if len(rest.rest) > 0 {
		return errRecord
	}
	return nil
}

// begins returns how the frames of the file begin, and where the first one is.
func (s *segment) begins(f *os.File) (begin uint32, frames int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frames == 0 {
		info, err := f.Stat()
		if err != nil {
			return 0, 0, err
		}
		h, frames, err := readHeader(f, info.Size())
		if err != nil {
			return 0, 0, &Damage{s.path, 0, err}
		}
		s.mark, s.frames = h.mark, frames
	}
	return s.mark, s.frames, nil
}

// seek returns the last frame known not to be behind the message with the
// number, or the first of the file: the number of its first message, or of one
// before, and where it begins.
func (s *segment) seek(number uint64, frames int64) (first uint64, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := slices.BinarySearchFunc(s.marks, number, func(m mark, number uint64) int {
		switch {
		case m.first < number:
			return -1
		case m.first > number:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 {
		return s.first, frames
	}
	return s.marks[i].first, s.marks[i].offset
}

// learn remembers where a frame is.
func (s *segment) learn(m mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks = marked(s.marks, m)
}
