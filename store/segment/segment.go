// Package segment keeps a stream of messages in files that are only written at
// their end, so that keeping a message costs little more than copying it.
//
// A directory holds the files, each named by the sequence number of the first
// message that can be in it, as 20 decimal digits and ".log". Only the newest
// one is written. When it is large, or its messages are to go before younger
// ones, a new one is begun; the oldest ones are removed whole.
//
// One goroutine writes: it puts whatever is waiting into one write, and answers
// when that is on the disk. Reads run beside it and see what was answered.
package segment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	stdsync "sync"
	"sync/atomic"

	"github.com/berth-iot/berth/store/internal/news"
	"github.com/berth-iot/berth/store/internal/record"
)

// maxSegment bounds the length of a file, in which offsets have 32 bits.
const maxSegment = 1 << 30

// Options say how to keep a stream. The zero value is for one that begins.
type Options struct {
	// SegmentSize is how many bytes a file has before the next one is begun, 64
	// MiB where it is zero.
	SegmentSize int64
	// After is the sequence number behind which a stream begins that has none
	// yet. It says nothing of one that has.
	After uint64
}

// A Log is an open stream. Its methods may be called at the same time. An error
// of kind errs.Unavailable means that it is closed or the disk does not take
// what it is given. After an error of which nobody can tell what is on the disk
// now, it takes no more messages until it is opened again.
type Log struct {
	dir         string
	segmentSize int64
	roll        atomic.Int64 // how many bytes a file has before the next one is begun

	queue   chan *request // closed by Close
	written chan struct{} // closed when the writer has returned
	closing stdsync.RWMutex
	closed  chan struct{} // closed by Close
	news    news.News

	// Owned by the writer.
	file  *os.File // the newest one
	next  uint64   // the next message's sequence number
	out   []byte   // what is written at once
	fault error    // why nothing can be written
	write func(f *os.File, b []byte, offset int64) error
	sync  func(f *os.File) error

	trimming stdsync.Mutex // held by who removes files

	mu       stdsync.Mutex     // guards the rest
	segments []*segment        // the oldest first; the last one is written
	hubs     map[string]uint64 // the sequence number of each hub's newest message
}

// A segment is one file. Its summary is guarded by the log's mutex.
type segment struct {
	path string
	summary

	mu     stdsync.Mutex // guards the rest
	mark   uint32        // how its frames begin; zero until it is read
	frames int64         // where the first one begins
	marks  []mark        // some of its frames, in order
}

// A mark says where a frame is.
type mark struct {
	first  uint64 // sequence number of its first message
	offset int64
}

// markEvery is how far apart marks are in a file, at least.
const markEvery = 64 << 10

// marked appends m to marks if it is far enough behind the last one.
func marked(marks []mark, m mark) []mark {
	if n := len(marks); n > 0 && m.offset < marks[n-1].offset+markEvery {
		return marks
	}
	return append(marks, m)
}

// Open opens the stream in dir, or begins one there, in an existing parent
// directory. One process at a time can have it open, for which the caller
// answers. What a crash tore off at the end is cut off: nobody was told that it
// was kept. Anything else that is not as it was written is an error; it names
// the file.
func Open(dir string, o Options) (*Log, error) {
	l, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("opening the stream %s: %w", dir, err)
	}
	return l, nil
}

func open(dir string, o Options) (*Log, error) {
	if o.SegmentSize == 0 {
		o.SegmentSize = 64 << 20
	}
	if err := prepareDir(dir); err != nil {
		return nil, err
	}
	l := &Log{
		dir:         dir,
		segmentSize: min(o.SegmentSize, maxSegment),
		queue:       make(chan *request, maxQueue),
		written:     make(chan struct{}),
		closed:      make(chan struct{}),
		write:       writeAt,
		sync:        sync,
	}
	l.roll.Store(l.segmentSize)
	firsts, err := list(dir)
	if err != nil {
		return nil, err
	}
	if len(firsts) == 0 {
		err = l.begin(o.After + 1)
	} else {
		err = l.resume(firsts)
	}
	if err != nil {
		return nil, err
	}
	l.news.Publish(l.next - 1)
	go l.run()
	return l, nil
}

// begin makes the first file of a stream.
func (l *Log) begin(first uint64) error {
	l.next, l.hubs = first, map[string]uint64{}
	return l.add()
}

// resume reads what is there.
func (l *Log) resume(firsts []uint64) (err error) {
	newest := len(firsts) - 1
	path := filepath.Join(l.dir, fileName(firsts[newest]))
	if l.file, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.file.Close()
		}
	}()
	t, err := readTail(l.file, path)
	if err != nil {
		return err
	}
	earlier, err := t.earlierFiles(firsts[:newest], func(i int) (fs.FileInfo, error) { return os.Stat(filepath.Join(l.dir, fileName(firsts[i]))) })
	if err != nil {
		return err
	}
	if t.length > t.summary.size {
		if err := l.file.Truncate(t.summary.size); err != nil {
			return err
		}
	}
	// Before the crash, what is whole may have been on its way to the disk.
	if err := l.sync(l.file); err != nil {
		return err
	}
	l.next, l.hubs = t.next, t.hubs
	for _, e := range earlier {
		l.segments = append(l.segments, &segment{path: filepath.Join(l.dir, fileName(e.first)), summary: e})
	}
	l.segments = append(l.segments, &segment{path: path, summary: t.summary, mark: t.mark, frames: t.frames, marks: t.marks})
	l.forget()
	return nil
}

// add begins a new file. Only the writer calls it, or who opens the log.
func (l *Log) add() error {
	h := header{mark: drawMark(), first: l.next}
	l.mu.Lock()
	for _, s := range l.segments {
		h.earlier = append(h.earlier, s.summary)
	}
	h.hubs = maps.Clone(l.hubs)
	l.mu.Unlock()
	path := filepath.Join(l.dir, fileName(h.first))
	f, frames, err := create(path, h)
	if err != nil {
		// Once it has its name, the one before it must not be written any more.
		if _, there := os.Lstat(path); !errors.Is(there, fs.ErrNotExist) {
			l.fault = fmt.Errorf("%w: %w", errFaulty, err)
		}
		return err
	}
	if l.file != nil {
		l.file.Close() // all of it is on the disk
	}
	l.file = f
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, &segment{path: path, mark: h.mark, frames: frames, summary: emptySummary(h.first, frames)})
	return nil
}

// forget removes the hubs of which no message is left. The caller holds mu, or
// is alone.
func (l *Log) forget() {
	for name, newest := range l.hubs {
		if newest < l.segments[0].first {
			delete(l.hubs, name)
		}
	}
}

// Last returns the newest sequence number. It stays when the message is trimmed.
func (l *Log) Last() uint64 { return l.news.Last() }

// Has reports whether there are messages of a hub.
func (l *Log) Has(hub string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, has := l.hubs[hub]
	return has
}

// Size returns how many bytes the files have, and how many files there are.
func (l *Log) Size() (bytes int64, files int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		bytes += s.size
	}
	return bytes, len(l.segments)
}

// Wait returns when there is a message with a sequence number above after.
func (l *Log) Wait(ctx context.Context, after uint64) error {
	for {
		last, changed := l.news.Watch()
		if last > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closed:
			return record.Unavailable()
		}
	}
}

// Close writes what was queued and closes the stream. Whoever comes later gets
// an error of kind errs.Unavailable.
func (l *Log) Close() error {
	l.closing.Lock()
	select {
	case <-l.closed:
		l.closing.Unlock()
		return nil
	default:
	}
	close(l.closed)
	close(l.queue)
	l.closing.Unlock()
	<-l.written
	return l.file.Close()
}

// from returns the file in which the message behind after is to be looked for,
// where that ends now, and the sequence number behind its last message; nil when
// there is nothing behind after, or nothing of the hub.
func (l *Log) from(hub string, after uint64) (s *segment, end int64, next uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := l.news.Last(); after >= last || hub != "" && l.hubs[hub] <= after {
		return nil, 0, 0
	}
	i, found := slices.BinarySearchFunc(l.segments, after+1, func(s *segment, first uint64) int {
		if s.first < first {
			return -1
		} else if s.first > first {
			return 1
		}
		return 0
	})
	if !found && i > 0 {
		i--
	}
	s, next = l.segments[i], math.MaxUint64
	if i+1 < len(l.segments) {
		next = l.segments[i+1].first
	}
	return s, s.size, next
}

// trimmed reports whether a file has been removed, or is the one that is being
// removed.
func (l *Log) trimmed(s *segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.segments, s)
	return i < 0 || i == 0 && len(l.segments) > 1
}

var errFaulty = errors.New("the stream takes no more messages until it is opened again")
