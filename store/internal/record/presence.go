package record

import (
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// PresenceColumns are what Presence reads, besides a number that is not zero where
// the identity is connected.
const PresenceColumns = "p.id, p.module, p.updated, p.last_activity"

// Presence reads PresenceColumns and then whether the identity is connected.
func Presence(host string, r *Row) (hub.Place, hub.Presence) {
	at := hub.Place{Hub: host, ID: device.ID(r.Text()), Module: device.ID(r.Text())}
	p := hub.Presence{Updated: timeUnlessZero(r.Number()), LastActivity: timeUnlessZero(r.Number())}
	p.Connected = r.Flag()
	return at, p
}

func timeUnlessZero(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// ZeroOr returns t as Nanoseconds, and zero for the zero time.
func ZeroOr(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return Nanoseconds(t)
}
