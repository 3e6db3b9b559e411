package segment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	stdsync "sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

var epoch = time.Date(2025, 6, 1, 12, 30, 0, 123456789, time.UTC)

func begin(t testing.TB, dir string, size int64) *Log {
	t.Helper()
	l, err := Open(dir, Options{SegmentSize: size})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func end(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, l *Log, ms ...*hub.Message) {
	t.Helper()
	if err := l.Append(t.Context(), ms); err != nil {
		t.Fatal(err)
	}
}

func message(at string, body int) *hub.Message {
	return &hub.Message{
		Hub: at, DeviceID: "pump-7", Enqueued: epoch,
		System: map[string]string{"connection-device-id": "pump-7", "message-source": "Telemetry", "x": "y"},
		Body:   []byte(strings.Repeat("b", body)),
	}
}

func read(t testing.TB, l *Log, at string, after uint64, limit int) []*hub.Message {
	t.Helper()
	ms, err := l.Read(t.Context(), at, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// anyMessage has every shape that a message can have.
func anyMessage(r *rand.Rand) *hub.Message {
	text := func() string { return strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(40)) }
	properties := func() map[string]string {
		switch r.IntN(3) {
		case 0:
			return nil
		case 1:
			return map[string]string{}
		}
		m := map[string]string{text(): text(), "ä\x00\xff": ""}
		for range r.IntN(6) {
			p := systemPairs[r.IntN(len(systemPairs))]
			m[p.name] = p.value
			m[systemNames[1+r.IntN(len(systemNames)-1)]] = text()
		}
		return m
	}
	m := &hub.Message{
		Hub: fmt.Sprint("hub-", r.IntN(3)), DeviceID: device.ID(text()), Enqueued: epoch.Add(time.Duration(r.Int64N(1e15))),
		System: properties(), Properties: properties(),
	}
	if r.IntN(2) == 0 {
		m.ModuleID = device.ID(text())
	}
	if m.System != nil && r.IntN(2) == 0 {
		m.System["connection-device-id"] = string(m.DeviceID)
	}
	if n := r.IntN(200); n > 0 {
		m.Body = make([]byte, n-1)
	}
	return m
}

// Whatever is asked for is what was appended, wherever files end, and also for
// who opens the log anew.
func TestReadingIsWhatWasAppended(t *testing.T) {
	dir, r := t.TempDir()+"/stream", rand.New(rand.NewPCG(1, 2))
	l := begin(t, dir, 4<<10)
	var all []*hub.Message
	for range 150 {
		var ms []*hub.Message
		for range 1 + r.IntN(12) {
			ms = append(ms, anyMessage(r))
		}
		put(t, l, ms...)
		all = append(all, ms...)
	}
	if n := len(files(t, dir)); n < 20 {
		t.Errorf("there are %d files; this test means many", n)
	}
	check := func() {
		t.Helper()
		if last := l.Last(); last != uint64(len(all)) {
			t.Fatalf("the last message is %d of %d", last, len(all))
		}
		for range 200 {
			at, after, limit := []string{"", "hub-0", "hub-1", "hub-2", "hub-9"}[r.IntN(5)], r.Uint64N(uint64(len(all)+10)), r.IntN(100)
			var want []*hub.Message
			for _, m := range all {
				if m.Sequence > after && (at == "" || at == m.Hub) && len(want) < limit {
					want = append(want, m)
				}
			}
			if got := read(t, l, at, after, limit); !reflect.DeepEqual(got, want) {
				t.Fatalf("%d messages of %q after %d: got %d, want %d", limit, at, after, len(got), len(want))
			}
		}
	}
	check()
	end(t, l)
	l = begin(t, dir, 4<<10)
	check()
	if !l.Has("hub-1") || l.Has("hub-9") {
		t.Error("it does not know its hubs")
	}
}

// A reader who goes on where it was reads little more than what is new.
func TestAReaderGoesOnWithoutReadingAgain(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 0)
	for range 40 {
		put(t, l, slices.Repeat([]*hub.Message{message("hub-1", 1000)}, 100)...)
	}
	end(t, l)
	l = begin(t, dir, 0)
	read(t, l, "", 0, 10000) // of a file that was there: where the frames are is learned
	s, _, _ := l.from("", 0)
	for after := uint64(0); after < 4000; after += 7 {
		_, at := s.seek(after+1, s.frames)
		if _, next := s.seek(after+200, s.frames); next-at > 2*markEvery+110<<10 {
			t.Fatalf("between %d and %d are %d bytes", after+1, after+200, next-at)
		}
	}
	put(t, l, message("hub-2", 1))
	if s, _, _ := l.from("hub-1", 4000); s != nil {
		t.Error("a hub without news is looked for")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Read(ctx, "hub-2", 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("looking for a message among many went on: %v", err)
	}
}

// story makes a stream of three files, the last of which has three writes, and
// returns the files.
func story(t *testing.T, dir string) []string {
	t.Helper()
	l := begin(t, dir, 1200)
	for range 2 {
		put(t, l, message("hub-1", 300), message("hub-1", 300))
		put(t, l, message("hub-2", 200))
	}
	put(t, l, message("hub-1", 300), message("hub-2", 300))
	put(t, l, message("hub-1", 20))
	put(t, l, message("hub-1", 30), message("hub-3", 40))
	end(t, l)
	paths := files(t, dir)
	if len(paths) != 3 {
		t.Fatal(paths)
	}
	return paths
}

const (
	storyMessages = 11
	storyLast     = 2 // of them are in the last write
)

// tailWrites returns where the writes of a file begin, and where it ends.
func tailWrites(t *testing.T, path string) (offsets []int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, at, err := readHeader(f, info.Size())
	w := &window{file: f, end: info.Size(), ahead: 1 << 10}
	for err == nil && at < info.Size() {
		var k frame
		k, _, err = w.frame(h.mark, at, h.first)
		offsets = append(offsets, at)
		at += k.size()
	}
	if err != nil {
		t.Fatal(err)
	}
	return append(offsets, info.Size())
}

func rewrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A crash may leave the last write short at any byte, or zeros in its place, or
// any of its pages.
func TestATornWriteIsCutOff(t *testing.T) {
	dir := t.TempDir() + "/stream"
	newest := story(t, dir)[2]
	whole, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	writes := tailWrites(t, newest)
	from := writes[len(writes)-2]
	for at := from; at < int64(len(whole)); at++ {
		flipped, zeroed := slices.Clone(whole), slices.Clone(whole)
		flipped[at] ^= 0x10
		clear(zeroed[at:])
		torn := map[string][]byte{"short": whole[:at], "zeros": zeroed, "flipped": flipped}
		if slices.Equal(zeroed, whole) {
			delete(torn, "zeros")
		}
		for name, b := range torn {
			rewrite(t, newest, b)
			l, err := Open(dir, Options{})
			if err != nil {
				t.Fatalf("%s at %d: %v", name, at, err)
			}
			if got := len(read(t, l, "", 0, 100)); got != storyMessages-storyLast || l.Last() != uint64(got) || l.Has("hub-3") {
				t.Fatalf("%s at %d: %d messages, the last is %d", name, at, got, l.Last())
			}
			next := message("hub-1", 1)
			put(t, l, next)
			if next.Sequence != storyMessages-storyLast+1 {
				t.Fatalf("%s at %d: the next message is %d", name, at, next.Sequence)
			}
			end(t, l)
			l = begin(t, dir, 0)
			if got := len(read(t, l, "", 0, 100)); got != storyMessages-storyLast+1 {
				t.Fatalf("%s at %d: %d messages after opening again", name, at, got)
			}
			end(t, l)
		}
	}
}

// Several frames of one write go to the disk in any order.
func TestAWriteIsTornInAnyOfItsFrames(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 0)
	put(t, l, message("hub-1", 10))
	var together []*request
	for range 5 {
		k, err := newBlock(nil, []*hub.Message{message("hub-1", 100), message("hub-1", 100)})
		if err != nil {
			t.Fatal(err)
		}
		together = append(together, &request{blocks: []*block{k}})
	}
	err := l.request(t.Context(), &request{do: func() error { return l.keep(together) }})
	if err != nil {
		t.Fatal(err)
	}
	end(t, l)
	path := files(t, dir)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	frames := tailWrites(t, path)
	for i, at := range frames[1 : len(frames)-1] {
		torn := slices.Clone(whole)
		torn[at+40] ^= 1
		rewrite(t, path, torn)
		l := begin(t, dir, 0)
		if got := len(read(t, l, "", 0, 100)); got != 1+2*i {
			t.Errorf("with frame %d torn there are %d messages", i, got)
		}
		end(t, l)
	}
}

// Any other change is found, and nothing is passed over.
func TestAChangedBitIsAnError(t *testing.T) {
	dir := t.TempDir() + "/stream"
	paths := story(t, dir)
	spoil := func(path string, at int, judge func(err error)) {
		t.Helper()
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		spoilt := slices.Clone(whole)
		spoilt[at] ^= 1 << (at % 8)
		rewrite(t, path, spoilt)
		judge(func() error {
			l, err := Open(dir, Options{})
			if err != nil {
				return err
			}
			defer l.Close()
			_, err = l.Read(t.Context(), "", 0, 100)
			return err
		}())
		s, err := OpenSnapshot(dir)
		if err == nil {
			err = errors.Join(s.Check(t.Context()), s.Close())
		}
		judge(err)
		rewrite(t, path, whole)
	}
	for i, path := range paths {
		writes := tailWrites(t, path)
		until := writes[len(writes)-1]
		if i == 2 {
			until = writes[len(writes)-2] // behind which it looks torn
		}
		for at := range until {
			spoil(path, int(at), func(err error) {
				t.Helper()
				damage, ok := errors.AsType[*Damage](err)
				if !ok || damage.Path != path || damage.Offset > at {
					t.Fatalf("%s, byte %d: %v", filepath.Base(path), at, err)
				}
				if frame, _ := slices.BinarySearch(writes, at+1); frame > 0 && damage.Offset != writes[frame-1] {
					t.Fatalf("byte %d is in the frame at %d, the error says %d", at, writes[frame-1], damage.Offset)
				}
			})
		}
	}
}

func TestFilesThatAreNotAsTheyWere(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(paths []string) error
		want  string // in the error; empty for none
	}{
		{"the oldest is gone", func(p []string) error { return os.Remove(p[0]) }, ""},
		{"all but the newest are gone", func(p []string) error { return errors.Join(os.Remove(p[0]), os.Remove(p[1])) }, ""},
		{"half a new one", func(p []string) error { return os.WriteFile(p[2]+temporary, []byte("x"), 0o600) }, ""},
		{"one between is gone", func(p []string) error { return os.Remove(p[1]) }, "00000000000000000004.log is missing"},
		{"an older one is short", func(p []string) error { return os.Truncate(p[0], 700) }, "00000000000000000001.log is damaged at byte 700"},
		{"an older one is long", func(p []string) error { return os.Truncate(p[0], 7000) }, "00000000000000000001.log is damaged"},
		{"a stranger", func(p []string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(p[0]), fileName(2)), nil, 0o600)
		}, "00000000000000000002.log is none of this stream"},
		{"a newest one of another name", func(p []string) error {
			return os.Rename(p[2], filepath.Join(filepath.Dir(p[0]), fileName(99)))
		}, "it is the file 00000000000000000007.log"},
		{"something else", func(p []string) error { return os.WriteFile(p[2], []byte("something else altogether"), 0o600) }, "it is no segment"},
		{"an empty one", func(p []string) error { return os.Truncate(p[2], 0) }, "it is no segment"},
		{"others can read", func(p []string) error { return os.Chmod(filepath.Dir(p[0]), 0o755) }, "run: chmod 700"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir() + "/stream"
			paths := story(t, dir)
			if err := c.spoil(paths); err != nil {
				t.Fatal(err)
			}
			l, err := Open(dir, Options{})
			if err == nil {
				defer l.Close()
				if got := read(t, l, "", 0, 100); len(got) == 0 || got[len(got)-1].Sequence != storyMessages || l.Last() != storyMessages {
					t.Errorf("%d messages up to %d", len(got), l.Last())
				}
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// What a device sends cannot pass for a later write: it does not know the mark.
func TestABodyIsNoFrame(t *testing.T) {
	dir, other := t.TempDir()+"/stream", t.TempDir()+"/other"
	l := begin(t, other, 0)
	put(t, l, message("hub-1", 10))
	end(t, l)
	theirs, err := os.ReadFile(files(t, other)[0])
	if err != nil {
		t.Fatal(err)
	}
	l = begin(t, dir, 0)
	put(t, l, message("hub-1", 10))
	put(t, l, &hub.Message{Hub: "hub-1", Enqueued: epoch, Body: slices.Repeat(theirs[len(theirs)-100:], 50)})
	end(t, l)
	path := files(t, dir)[0]
	writes := tailWrites(t, path)
	if err := os.Truncate(path, writes[2]-1); err != nil {
		t.Fatal(err)
	}
	l = begin(t, dir, 0)
	if got := len(read(t, l, "", 0, 9)); got != 1 {
		t.Errorf("%d messages", got)
	}
}

func TestAFailedSyncEndsAppending(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 0)
	put(t, l, message("hub-1", 10))
	if err := l.request(t.Context(), &request{do: func() error {
		l.sync = func(*os.File) error { l.sync = sync; return errors.New("the disk is gone") }
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second sync would say that all is well
		err := l.Append(t.Context(), []*hub.Message{message("hub-1", 10)})
		if errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "the disk is gone") {
			t.Errorf("%v", err)
		}
	}
	if _, err := l.Trim(t.Context(), hub.Retention{Bytes: 1}); err == nil {
		t.Error("began a file on a disk that is gone")
	}
	if got := len(read(t, l, "", 0, 9)); got != 1 || l.Last() != 1 {
		t.Errorf("%d messages can be read, up to %d", got, l.Last())
	}
	end(t, l)
	l = begin(t, dir, 0)
	put(t, l, message("hub-1", 10)) // behind the one of which nobody knew
	if got := read(t, l, "", 0, 9); got[0].Sequence != 1 || got[len(got)-1].Sequence != uint64(len(got)) {
		t.Errorf("%d messages, up to %d", len(got), l.Last())
	}
}

func TestAFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 0)
	put(t, l, message("hub-1", 10))
	full := true
	if err := l.request(t.Context(), &request{do: func() error {
		l.write = func(f *os.File, b []byte, at int64) error {
			if !full {
				return writeAt(f, b, at)
			}
			return errors.Join(writeAt(f, b[:len(b)/2], at), errors.New("no space left"))
		}
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), []*hub.Message{message("hub-1", 1000)}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("%v", err)
	}
	full = false
	next := message("hub-1", 10)
	put(t, l, next)
	if next.Sequence != 2 {
		t.Errorf("the message after it is %d", next.Sequence)
	}
	end(t, l)
	l = begin(t, dir, 0)
	if got := len(read(t, l, "", 0, 9)); got != 2 {
		t.Errorf("%d messages after opening again", got)
	}
}

func TestCloseFinishesWhatWasQueued(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 0)
	var appends stdsync.WaitGroup
	var kept [64]error
	for i := range kept {
		appends.Go(func() { kept[i] = l.Append(t.Context(), []*hub.Message{message("hub-1", i)}) })
	}
	end(t, l)
	appends.Wait()
	want := 0
	for _, err := range kept {
		if err == nil {
			want++
		} else if errs.KindOf(err) != errs.Unavailable {
			t.Error(err)
		}
	}
	if _, err := l.Read(t.Context(), "", 0, 1); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("reading a closed stream: %v", err)
	}
	if err := l.Wait(t.Context(), 1000); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("waiting for a closed stream: %v", err)
	}
	l = begin(t, dir, 0)
	if got := len(read(t, l, "", 0, 100)); got != want {
		t.Errorf("%d messages were kept, and %d are there", want, got)
	}
}

// Everything at once, for the race detector; what is read is in order and whole.
func TestAppendingReadingAndTrimmingAtOnce(t *testing.T) {
	l := begin(t, t.TempDir()+"/stream", 16<<10)
	ctx, stop := context.WithCancel(t.Context())
	var readers, writers stdsync.WaitGroup
	for i := range 3 {
		at := []string{"", "hub-0", "hub-1"}[i]
		readers.Go(func() {
			for after := uint64(0); l.Wait(ctx, after) == nil; {
				ms, err := l.Read(t.Context(), at, after, 50)
				if err != nil {
					t.Error(err)
					return
				}
				for _, m := range ms {
					if m.Sequence <= after || at != "" && m.Hub != at || len(m.Body) != 100 {
						t.Errorf("message %d of %q comes behind %d", m.Sequence, m.Hub, after)
					}
					after = m.Sequence
				}
				if len(ms) == 0 {
					after = max(after, l.Last())
				}
			}
		})
	}
	readers.Go(func() {
		for after := uint64(0); l.Wait(ctx, after) == nil; after = l.Last() + 50 {
			if _, err := l.Trim(t.Context(), hub.Retention{Bytes: 64 << 10}); err != nil {
				t.Error(err)
			}
			if bytes, _ := l.Size(); bytes > 200<<10 {
				t.Errorf("%d bytes are left", bytes)
			}
		}
	})
	readers.Go(func() {
		for after := uint64(0); l.Wait(ctx, after) == nil; after = l.Last() + 50 {
			s, err := OpenSnapshot(l.dir)
			if err == nil {
				err = errors.Join(s.Check(t.Context()), s.Close())
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	for w := range 4 {
		writers.Go(func() {
			for i := range 200 {
				put(t, l, message(fmt.Sprint("hub-", (w+i)%2), 100), message("hub-2", 100))
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
	if l.Last() != 4*200*2 {
		t.Errorf("the last message is %d", l.Last())
	}
}

func TestTrimmingByAge(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 0)
	days := func(n float64) time.Time { return epoch.Add(time.Duration(n * 24 * float64(time.Hour))) }
	keep := func(now float64) hub.Retention { return hub.Retention{Before: days(now - 7)} }
	longest := 0.0
	for hour := range 24 * 30 {
		now := float64(hour) / 24
		m := message("hub-1", 10)
		m.Enqueued = days(now)
		put(t, l, m)
		if _, err := l.Trim(t.Context(), keep(now)); err != nil {
			t.Fatal(err)
		}
		oldest := read(t, l, "", 0, 1)[0]
		age := now - oldest.Enqueued.Sub(epoch).Hours()/24
		longest = max(longest, age)
		if left := l.Last() - oldest.Sequence; now > 7 && left < 7*24-1 {
			t.Fatalf("day %.1f: %d messages are left", now, left)
		}
		if hour%100 == 99 { // what it knows of the files stays with them
			end(t, l)
			l = begin(t, dir, 0)
		}
	}
	if longest > 8.1 {
		t.Errorf("a message was kept for %.1f days of 7", longest)
	}
	// A hub that fell silent.
	if _, err := l.Trim(t.Context(), keep(40)); err != nil {
		t.Fatal(err)
	}
	if got := len(read(t, l, "", 0, 9)); got != 0 || l.Has("hub-1") || len(files(t, dir)) != 1 {
		t.Errorf("%d messages are left in %d files", got, len(files(t, dir)))
	}
	for range 2 {
		end(t, l)
		l = begin(t, dir, 0)
		next := message("hub-1", 1)
		put(t, l, next)
		if next.Sequence != l.Last() || next.Sequence <= 24*30 {
			t.Errorf("the next message is %d", next.Sequence)
		}
	}
}

// A clock that ran ahead keeps messages for longer; one that was behind removes
// nothing before its time.
func TestTrimmingWithWrongClocks(t *testing.T) {
	l := begin(t, t.TempDir()+"/stream", 500)
	for _, at := range []time.Time{epoch, epoch.AddDate(80, 0, 0), epoch.Add(1), {}, epoch.Add(2)} {
		m := message("hub-1", 400)
		m.Enqueued = at
		put(t, l, m)
	}
	n, err := l.Trim(t.Context(), hub.Retention{Before: epoch.Add(1)})
	if left := read(t, l, "", 0, 9); err != nil || n != 1 || len(left) != 4 {
		t.Errorf("%d messages went, %d are left, %v", n, len(left), err)
	}
	n, err = l.Trim(t.Context(), hub.Retention{Before: epoch.AddDate(1, 0, 0), Bytes: 2000})
	if left := read(t, l, "", 0, 9); err != nil || n == 0 || len(left) > 2 {
		t.Errorf("%d messages went, %d are left, %v", n, len(left), err)
	}
}

func TestTrimmingBySize(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 0)
	const bound = 100 << 10
	if _, err := l.Trim(t.Context(), hub.Retention{Bytes: bound}); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		put(t, l, message("hub-1", 1000))
		if l.Last()%20 == 0 {
			if _, err := l.Trim(t.Context(), hub.Retention{Bytes: bound}); err != nil {
				t.Fatal(err)
			}
			bytes, _ := l.Size()
			if bytes > bound || l.Last() > 150 && bytes < bound/2 {
				t.Fatalf("%d bytes are left after %d messages", bytes, l.Last())
			}
		}
	}
	if left := read(t, l, "", 0, 1000); left[len(left)-1].Sequence != 500 || left[0].Sequence != uint64(501-len(left)) {
		t.Errorf("%d messages are left, from %d on", len(left), left[0].Sequence)
	}
}

// Messages that come from elsewhere keep their numbers, with the gaps.
func TestImport(t *testing.T) {
	dir := t.TempDir() + "/stream"
	l := begin(t, dir, 2000)
	numbers := []uint64{3, 4, 9, 10, 11, 50, 1000, 1001}
	var ms []*hub.Message
	for _, n := range numbers {
		m := message("hub-1", 300)
		m.Sequence = n
		ms = append(ms, m)
	}
	for i := 0; i < len(ms); i += 3 {
		if err := l.Import(t.Context(), ms[i:min(i+3, len(ms))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Import(t.Context(), ms[:1]); err == nil {
		t.Error("a message came twice")
	}
	for _, last := range []uint64{5, 2000, 2000} {
		if err := l.Skip(t.Context(), last); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if got := read(t, l, "", 0, 100); !reflect.DeepEqual(got, ms) {
			t.Errorf("%d messages", len(got))
		}
		if got := read(t, l, "", 11, 1); got[0].Sequence != 50 || l.Last() != 2000 {
			t.Errorf("behind 11 comes %d; the last is %d", got[0].Sequence, l.Last())
		}
		end(t, l)
		l = begin(t, dir, 2000)
	}
	put(t, l, message("hub-1", 1))
	if l.Last() != 2001 {
		t.Errorf("the next message is %d", l.Last())
	}
}

// One byte each for what comes with every message.
func TestRecordsAreShort(t *testing.T) {
	m := &hub.Message{Hub: "hub-1.example.com", DeviceID: "pump-7", Enqueued: epoch, Body: make([]byte, 100), System: map[string]string{
		"connection-device-id": "pump-7", "message-source": "Telemetry", "content-type": "application/json", "content-encoding": "utf-8",
		"connection-auth-method": `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`,
	}}
	b, _ := appendRecord(nil, nil, m, 0, m.Hub)
	if want := minRecord + len(m.DeviceID) + 1 + len(m.System) + len(m.Body); len(b) != want {
		t.Errorf("%d bytes, want %d", len(b), want)
	}
	for name := range maps.Keys(nameBytes) {
		if nameBytes[name] >= firstPair {
			t.Errorf("%s is a pair", name)
		}
	}
}
