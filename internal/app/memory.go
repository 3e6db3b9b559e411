package app

import (
	"os"
	"runtime/debug"
)

const (
	// collectAt is by how many percent the heap grows before garbage is
	// collected. Most of what a request leaves behind is garbage, and what stays
	// is little: collecting a quarter as often as usual saves a twentieth of the
	// CPU time, for some tens of megabytes.
	collectAt = 400

	// What the limit below which that holds is made of: what a busy server keeps
	// beside its connections, and twice what one connection does.
	roomForService    = 256 << 20
	roomForConnection = 64 << 10
)

// TuneMemory trades memory for CPU time, as long as there is no more of it in
// use than a server of c should need. GOGC and GOMEMLIMIT in the environment
// have the last word.
func TuneMemory(c Config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(roomForService + int64(c.MaxConnections)*roomForConnection)
	}
}
