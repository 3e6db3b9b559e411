package segment

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/berth-iot/berth/hub"
)

func decodeAll(b []byte) (ms []*hub.Message, err error) {
	r := records{rest: b}
	for len(r.rest) > 0 {
		raw, err := r.next()
		if err != nil {
			return nil, err
		}
		m, err := raw.message(r.hub)
		if err != nil {
			return nil, err
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// What is decoded is encoded and decoded again to the same messages.
func FuzzRecords(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		k, err := newBlock(nil, []*hub.Message{anyMessage(r), anyMessage(r)})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(k.bytes[frameHeader:])
	}
	f.Add([]byte("\x0b\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ms, err := decodeAll(b)
		if err != nil {
			return
		}
		k, err := newBlock(nil, ms)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeAll(k.bytes[frameHeader:])
		if err != nil || !reflect.DeepEqual(again, ms) {
			t.Errorf("%+v came back as %+v, %v", ms, again, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, h := range []header{
		{first: 1},
		{mark: 7, first: 9, earlier: []summary{{1, 200, 3, -5, 5}, {4, 300, 5, 0, 1 << 40}}, hubs: map[string]uint64{"hub-1": 8, "": 3}},
	} {
		f.Add(h.encode()[fixedPart:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			return
		}
		whole := h.encode()
		again, at, err := readHeader(bytes.NewReader(whole), int64(len(whole)))
		if err != nil || at != int64(len(whole)) || !reflect.DeepEqual(again, h) {
			t.Errorf("%+v came back as %+v, %v", h, again, err)
		}
	})
}

// Whatever stands behind a good header is cut off or refused, and what opens can
// be written.
func FuzzTail(f *testing.F) {
	dir := f.TempDir() + "/stream"
	l := begin(f, dir, 0)
	put(f, l, message("hub-1", 10))
	put(f, l, message("hub-2", 5), message("hub-1", 3))
	end(f, l)
	name := files(f, dir)[0]
	whole, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	h, at, err := readHeader(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		f.Fatal(err)
	}
	h.mark = 0x31323334 // so that the fuzzer can know it
	head := h.encode()
	if len(head) != int(at) {
		f.Fatal("the mark changed the length")
	}
	f.Add(whole[at:])
	f.Add(append([]byte("4321"), whole[at+4:]...))
	f.Fuzz(func(t *testing.T, tail []byte) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		rewrite(t, filepath.Join(dir, filepath.Base(name)), append(bytes.Clone(head), tail...))
		l, err := Open(dir, Options{})
		if err != nil {
			return
		}
		defer l.Close()
		before := l.Last()
		put(t, l, message("hub-1", 1))
		if _, err := l.Read(t.Context(), "", before, 1); err != nil {
			t.Error(err)
		}
	})
}
