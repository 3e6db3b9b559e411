package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A Snapshot is what a stream held at one moment. Another process may go on
// writing and trimming it: whatever was answered before the snapshot is in it,
// as long as nothing has trimmed that. Its methods are for one goroutine.
type Snapshot struct {
	files []snapshotFile // the oldest first
}

type snapshotFile struct {
	*os.File
	summary
}

// OpenSnapshot looks at the stream in dir. It changes nothing.
func OpenSnapshot(dir string) (*Snapshot, error) {
	s, err := openSnapshot(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the stream %s: %w", dir, err)
	}
	return s, nil
}

func openSnapshot(dir string) (_ *Snapshot, err error) {
	firsts, err := list(dir)
	if err != nil {
		return nil, err
	}
	s := new(Snapshot)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	var there []uint64
	for _, first := range firsts {
		f, err := os.Open(filepath.Join(dir, fileName(first)))
		if errors.Is(err, fs.ErrNotExist) && len(there) == 0 {
			continue // trimmed just now
		}
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, snapshotFile{File: f, summary: summary{first: first}})
		there = append(there, first)
	}
	if len(there) == 0 {
		return nil, errors.New("there is no file of it")
	}
	newest := len(there) - 1
	t, err := readTail(s.files[newest].File, s.files[newest].Name())
	if err != nil {
		return nil, err
	}
	earlier, err := t.earlierFiles(there[:newest], func(i int) (fs.FileInfo, error) { return s.files[i].Stat() })
	if err != nil {
		return nil, err
	}
	for i, e := range append(earlier, t.summary) {
		s.files[i].summary = e
	}
	return s, nil
}

// Close ends the snapshot.
func (s *Snapshot) Close() error {
	var failures []error
	for _, f := range s.files {
		failures = append(failures, f.Close())
	}
	return errors.Join(failures...)
}

// Files returns the names of the files, the oldest first, and how many bytes of
// each are in the snapshot.
func (s *Snapshot) Files() (names []string, sizes []int64) {
	for _, f := range s.files {
		names, sizes = append(names, filepath.Base(f.Name())), append(sizes, f.size)
	}
	return names, sizes
}

// Size returns how many bytes are in the snapshot, and how many messages.
func (s *Snapshot) Size() (bytes int64, messages uint64) {
	for _, f := range s.files {
		bytes, messages = bytes+f.size, messages+f.count
	}
	return bytes, messages
}

// Newest returns when the newest of the messages was enqueued, or the zero time
// when there is none.
func (s *Snapshot) Newest() time.Time {
	for i := len(s.files) - 1; i >= 0; i-- {
		if f := s.files[i]; f.count > 0 {
			return time.Unix(0, f.newest).UTC()
		}
	}
	return time.Time{}
}

// Copy writes the i-th of Files.
func (s *Snapshot) Copy(ctx context.Context, i int, w io.Writer) error {
	f := s.files[i]
	section := io.NewSectionReader(f, 0, f.size)
	n, err := io.CopyBuffer(w, reader(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return section.Read(b)
	}), make([]byte, 256<<10))
	if err == nil && n != f.size {
		err = fmt.Errorf("%d bytes of %d were read", n, f.size)
	}
	if err != nil {
		return fmt.Errorf("copying %s: %w", f.Name(), err)
	}
	return nil
}

type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }

// Check reads every file once, and returns a *Damage where a bit of one is not
// as it was written.
func (s *Snapshot) Check(ctx context.Context) error {
	for i, f := range s.files[:len(s.files)-1] { // the last one has been read
		if err := f.check(ctx, s.files[i+1].first); err != nil {
			return err
		}
	}
	return nil
}

// check reads a file that ends before the message with the number next.
func (f snapshotFile) check(ctx context.Context, next uint64) error {
	h, at, err := readHeader(f, f.size)
	if err == nil && h.first != f.first {
		err = fmt.Errorf("it is the file %s", fileName(h.first))
	}
	if err != nil {
		return &Damage{f.Name(), 0, err}
	}
	w := &window{file: f, end: f.size, ahead: 256 << 10}
	first, count := f.first, uint64(0)
	for at < f.size {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, _, err := w.frame(h.mark, at, first)
		if err != nil {
			return &Damage{f.Name(), at, err}
		}
		at, first, count = at+k.size(), k.last()+1, count+uint64(k.count)
	}
	if first > next || count != f.count {
		return &Damage{f.Name(), at, fmt.Errorf("it has %d messages up to number %d, and had %d", count, first-1, f.count)}
	}
	return nil
}
