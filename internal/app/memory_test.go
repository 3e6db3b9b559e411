package app

import (
	"math"
	"runtime/debug"
	"testing"
)

// What operators say about garbage and memory is not overruled.
func TestTuneMemory(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
	c := Config{MaxConnections: 1000}
	for _, v := range []struct {
		name, gogc, limit string
		wantPercent       int
		wantLimit         int64
	}{
		{"nothing is said", "", "", 400, 256<<20 + 1000*64<<10},
		{"how often", "100", "", 100, 256<<20 + 1000*64<<10},
		{"how much", "", "1GiB", 400, math.MaxInt64},
		{"both", "100", "1GiB", 100, math.MaxInt64},
	} {
		t.Run(v.name, func(t *testing.T) {
			debug.SetGCPercent(100)
			debug.SetMemoryLimit(math.MaxInt64)
			t.Setenv("GOGC", v.gogc)
			t.Setenv("GOMEMLIMIT", v.limit)
			TuneMemory(c)
			if percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1); percent != v.wantPercent || limit != v.wantLimit {
				t.Errorf("collects at %d %% below %d bytes, want %d %% and %d", percent, limit, v.wantPercent, v.wantLimit)
			}
		})
	}
}
