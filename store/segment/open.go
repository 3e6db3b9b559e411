package segment

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	suffix    = ".log"
	temporary = ".new" // of a file that is being made
)

// fileName is that of the file whose first message has the sequence number.
func fileName(first uint64) string { return fmt.Sprintf("%020d%s", first, suffix) }

// parseName is the reverse of fileName.
func parseName(name string) (first uint64, ok bool) {
	digits, found := strings.CutSuffix(name, suffix)
	first, err := strconv.ParseUint(digits, 10, 63)
	return first, found && err == nil && first > 0 && name == fileName(first)
}

// list returns the sequence numbers that the files in dir are named by, in order.
func list(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, e := range entries {
		if first, ok := parseName(e.Name()); ok {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// A tail is what the newest file of a directory has in it.
type tail struct {
	header
	path    string
	frames  int64   // where the first one begins
	summary summary // size is where the last whole frame ends
	next    uint64  // the sequence number behind the last one
	length  int64   // of the file; what is behind size was torn by a crash
	marks   []mark
}

// readTail reads the newest file of a directory from its beginning to its end.
// What is torn at its end is not an error; a damage before it is.
func readTail(f *os.File, path string) (*tail, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t := &tail{path: path, length: info.Size()}
	if t.header, t.frames, err = readHeader(f, t.length); err != nil {
		return nil, &Damage{path, 0, err}
	}
	if filepath.Base(path) != fileName(t.first) {
		return nil, &Damage{path, 0, fmt.Errorf("it is the file %s", fileName(t.first))}
	}
	t.summary = emptySummary(t.first, t.frames)
	t.next = t.first
	w := &window{file: f, end: t.length, ahead: 256 << 10}
	for t.summary.size < t.length {
		n, err := t.frame(w)
		if n == 0 && err == nil {
			break // torn
		}
		if err != nil {
			return nil, err
		}
		t.summary.size += n
	}
	return t, nil
}

// frame reads the next frame and returns its length, which is zero where it was
// torn.
func (t *tail) frame(w *window) (int64, error) {
	at := t.summary.size
	f, b, cause := w.frame(t.mark, at, t.next)
	if w.fault != nil {
		return 0, fmt.Errorf("reading %s: %w", t.path, w.fault)
	}
	if cause != nil {
		later, err := w.laterWrite(t.mark, at)
		if err == nil && later {
			err = &Damage{t.path, at, cause}
		}
		return 0, err
	}
	r := records{rest: b}
	for i := range uint64(f.count) {
		raw, err := r.next()
		if err != nil {
			return 0, &Damage{t.path, at, err}
		}
		t.summary.add(1, raw.enqueued(), raw.enqueued())
		t.hubs[r.hub] = f.first + i
	}
	t.marks = marked(t.marks, mark{f.first, at})
	t.next = f.last() + 1
	return f.size(), nil
}

// earlierFiles checks that the files of dir before the newest one are those that
// its header tells of, without the oldest ones: they may be gone. stat is asked
// about the i-th of them.
func (t *tail) earlierFiles(firsts []uint64, stat func(i int) (fs.FileInfo, error)) ([]summary, error) {
	dir, there := filepath.Dir(t.path), make(map[uint64]bool, len(firsts))
	for _, first := range firsts {
		there[first] = true
	}
	var known []summary
	for _, e := range t.earlier {
		switch {
		case there[e.first]:
			known = append(known, e)
			delete(there, e.first)
		case len(known) > 0:
			return nil, fmt.Errorf("the file %s is missing", filepath.Join(dir, fileName(e.first)))
		}
	}
	for first := range there {
		return nil, fmt.Errorf("the file %s is none of this stream", filepath.Join(dir, fileName(first)))
	}
	for i, e := range known {
		path := filepath.Join(dir, fileName(e.first))
		info, err := stat(i)
		if err != nil {
			return nil, err
		}
		if info.Size() != e.size {
			return nil, &Damage{path, min(info.Size(), e.size), fmt.Errorf("it has %d bytes, and had %d when it was finished", info.Size(), e.size)}
		}
	}
	return known, nil
}

// prepareDir makes the directory for its owner alone, or refuses one that others
// can use, and removes what a crash left half made.
func prepareDir(dir string) error {
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		return syncDir(filepath.Dir(dir))
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("it has mode %04o, so others can use it; run: chmod 700 %s", perm, dir)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), temporary) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// create makes a file with the header, which appears whole or not at all, and
// returns it open, with where its first frame begins.
func create(path string, h header) (_ *os.File, frames int64, err error) {
	f, err := os.OpenFile(path+temporary, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
			os.Remove(path + temporary)
		}
	}()
	b := h.encode()
	if _, err := f.WriteAt(b, 0); err != nil {
		return nil, 0, err
	}
	if err := sync(f); err != nil {
		return nil, 0, err
	}
	if err := os.Rename(path+temporary, path); err != nil {
		return nil, 0, err
	}
	return f, int64(len(b)), syncDir(filepath.Dir(path))
}

// drawMark draws what the frames of a file begin with.
func drawMark() uint32 {
	var b [4]byte
	rand.Read(b[:]) // which never fails
	return binary.LittleEndian.Uint32(b[:])
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
