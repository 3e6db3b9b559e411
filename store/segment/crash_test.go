package segment

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	stdsync "sync"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

const (
	crashes  = 20
	crashDir = "BERTH_TEST_CRASH_DIR" // tells the test binary that it is to be killed
	// crashSegment is so small that killing meets files that are being made and
	// removed.
	crashSegment = 8 << 10
	crashKept    = 256 << 10
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(context.Background(), dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeUntilKilled appends messages in threes, trims, and prints the number of
// the last of three when they were acknowledged.
func writeUntilKilled(ctx context.Context, dir string) error {
	l, err := Open(dir, Options{SegmentSize: crashSegment})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for range 4 {
		go func() {
			for {
				var ms []*hub.Message
				id := device.ID(fmt.Sprint(rand.Uint64()))
				for i := range 3 {
					ms = append(ms, &hub.Message{Hub: fmt.Sprint("hub-", i), DeviceID: id, Enqueued: epoch, Body: make([]byte, rand.IntN(500))})
				}
				if err := l.Append(ctx, ms); err != nil {
					failed <- err
				}
				fmt.Println(ms[2].Sequence)
			}
		}()
	}
	go func() {
		for {
			if _, err := l.Trim(ctx, hub.Retention{Bytes: crashKept}); err != nil {
				failed <- err
			}
			if err := l.Wait(ctx, l.Last()+20); err != nil {
				failed <- err
			}
		}
	}()
	return <-failed
}

func TestKillingLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir() + "/stream"
	acknowledged, kept := uint64(0), 0
	for range crashes {
		acknowledged = max(acknowledged, writeAndKill(t, dir, 50+rand.IntN(400)))
		l := begin(t, dir, crashSegment)
		if l.Last() < acknowledged {
			t.Fatalf("message %d was acknowledged, and %d is the last one", acknowledged, l.Last())
		}
		ms := read(t, l, "", 0, 1e6)
		kept += len(ms)
		if len(ms)%3 != 0 || ms[len(ms)-1].Sequence != l.Last() {
			t.Fatalf("%d messages up to %d, and the last is %d", len(ms), ms[len(ms)-1].Sequence, l.Last())
		}
		for i, m := range ms {
			if m.Sequence != ms[0].Sequence+uint64(i) || m.Hub != fmt.Sprint("hub-", i%3) || m.DeviceID != ms[i-i%3].DeviceID {
				t.Fatalf("message %d: %+v", i, m)
			}
		}
		end(t, l)
	}
	t.Logf("%d messages were acknowledged over %d kills, and %d read", acknowledged, crashes, kept)
}

// writeAndKill starts this test's program anew and kills it after it has
// acknowledged some writes, while it is in the middle of others. It returns the
// highest number that was acknowledged.
func writeAndKill(t *testing.T, dir string, after int) (acknowledged uint64) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDir+"="+dir)
	var complaints strings.Builder
	child.Stderr = &complaints
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var kill stdsync.Once
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		if n >= after {
			kill.Do(func() { child.Process.Kill() })
		}
		line, err := lines.ReadString('\n')
		if err == io.EOF { // half a line acknowledges nothing
			break
		}
		var number uint64
		if _, err := fmt.Sscanln(line, &number); err != nil {
			t.Fatalf("the writer said %q: %v", line, err)
		}
		acknowledged = max(acknowledged, number)
	}
	kill.Do(func() { t.Errorf("the child ended by itself: %s", &complaints) })
	child.Wait()
	return acknowledged
}
