package provision_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/berth-iot/berth/enroll"
)

// What a registration at a hub of these servers costs: of a device that is new,
// and of one that comes again.
func BenchmarkRegister(b *testing.B) {
	for _, c := range []struct {
		name  string
		fleet int64 // devices, after which they come again
	}{{"new", 1 << 62}, {"again", 100}} {
		s := newService(b)
		s.enroll(byKey(enroll.Group, "pumps", key(9), key(8)))
		var n atomic.Int64
		register := func() {
			id := fmt.Sprintf("pump-%d", n.Add(1)%c.fleet)
			s.register(id, s.token(derived(key(9), id), id))
		}
		b.Run(c.name+"/one by one", func(b *testing.B) {
			for b.Loop() {
				register()
			}
		})
		b.Run(c.name+"/64 at a time", func(b *testing.B) {
			b.SetParallelism(64 / 2)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					register()
				}
			})
		})
	}
}
