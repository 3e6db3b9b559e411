package segment

import (
	"fmt"
	"testing"

	"github.com/berth-iot/berth/hub"
)

// BenchmarkRead reads a stream from its beginning to its end, a thousand messages
// at a time: all of them, and those of one hub among a hundred.
func BenchmarkRead(b *testing.B) {
	const messages = 100_000
	l := begin(b, b.TempDir()+"/stream", 0)
	for i := range messages / 100 {
		ms := make([]*hub.Message, 100)
		for j := range ms {
			ms[j] = message(fmt.Sprint("hub-", (i+j)%100), 200)
		}
		put(b, l, ms...)
	}
	for name, at := range map[string]string{"all": "", "one hub of 100": "hub-7"} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				for after := uint64(0); ; {
					ms := read(b, l, at, after, 1000)
					if len(ms) == 0 {
						break
					}
					after = ms[len(ms)-1].Sequence
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/messages, "ns/message")
		})
	}
}
