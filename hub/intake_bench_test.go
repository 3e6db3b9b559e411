package hub_test

import (
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// BenchmarkReceive takes in messages of several devices, of which each sends on
// while a window of its messages is not kept yet.
func BenchmarkReceive(b *testing.B) {
	for _, c := range []struct{ devices, window int }{{1, 1}, {1, 20}, {64, 1}, {64, 20}, {1000, 20}} {
		b.Run(fmt.Sprintf("devices=%d/window=%d", c.devices, c.window), func(b *testing.B) { benchmarkReceive(b, c.devices, c.window) })
	}
}

func benchmarkReceive(b *testing.B, devices, window int) {
	s := openStore(b)
	service := hub.New(hub.Config{Registry: s, Stream: s, Queues: s, Presences: s, Policies: s, Random: rand.Reader, Now: time.Now})
	var next atomic.Int64
	var wg sync.WaitGroup
	body := make([]byte, 200)
	b.ResetTimer()
	before := cpu()
	for d := range devices {
		wg.Go(func() {
			from := hub.Sender{Place: hub.Place{Hub: "hub-1.example.com", ID: device.ID(fmt.Sprint("device-", d))}, GenerationID: "638000000000000000",
				Method: `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`}
			free := make(chan struct{}, window)
			for next.Add(1) <= int64(b.N) {
				free <- struct{}{}
				err := service.Receive(b.Context(), from, hub.Message{Body: body, Properties: map[string]string{"line": "7"}}, func(err error) {
					if err != nil {
						b.Error(err)
					}
					<-free
				})
				if err != nil {
					b.Error(err)
				}
			}
			for range window {
				free <- struct{}{}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/message")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
