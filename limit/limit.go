// Package limit bounds how often each of many callers may do something, in
// bounded memory. It is what keeps a stranger's calls cheap and a broken
// device's loop from its neighbours.
package limit

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxKeys bounds the callers that are told apart. Those who come when as many
// are being counted share one count, so that a flood of new names slows itself
// and not the known ones.
const maxKeys = 1 << 16

// sweepInterval is how long late-comers share a count at least.
const sweepInterval = time.Second

// overflow is the key of the count that late-comers share. No caller has it.
const overflow = "\x00"

// A Rate is how often something may be done: Events in every Period, and as
// many at once. A Rate without events allows everything.
type Rate struct {
	Events int
	Period time.Duration
}

// ParseRate reads a rate as "2000/1s", at most once a nanosecond; "off" is the
// one that allows everything.
func ParseRate(s string) (Rate, error) {
	if s == "off" {
		return Rate{}, nil
	}
	events, period, ok := strings.Cut(s, "/")
	n, err := strconv.Atoi(events)
	d, err2 := time.ParseDuration(period)
	if !ok || err != nil || err2 != nil || n < 1 || int64(d) < int64(n) {
		return Rate{}, fmt.Errorf("%q is not a rate such as 2000/1s, or off", s)
	}
	return Rate{n, d}, nil
}

// A Limiter counts by key with the generic cell rate algorithm (ITU-T I.371):
// of each key it keeps one time, that at which its next event would be due if
// they came evenly. It is safe for concurrent use.
type Limiter struct {
	every time.Duration // between events that come evenly
	burst time.Duration // how far ahead of that a key may be

	mu    sync.Mutex // guards the rest
	due   map[string]time.Time
	swept time.Time // when the quiet ones were last forgotten
}

// New returns a limiter.
func New(r Rate) *Limiter {
	l := &Limiter{due: make(map[string]time.Time)}
	if r.Events > 0 {
		l.every = r.Period / time.Duration(r.Events)
		l.burst = r.Period - l.every
	}
	return l
}

// Take counts one event of key at now. It returns zero when that is within the
// rate, and otherwise how long to wait, without having counted it. A nil
// limiter allows everything.
func (l *Limiter) Take(key string, now time.Time) (wait time.Duration) {
	if l == nil || l.every == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key = l.slot(key, now)
	due := l.due[key]
	if due.Before(now) {
		due = now
	}
	if ahead := due.Sub(now); ahead > l.burst {
		return ahead - l.burst
	}
	l.due[key] = due.Add(l.every)
	return 0
}

// A By is the limiters of several tenants: it returns the one of a tenant by a
// name, an ID scope or a host name, as the caller gave it, or nil for no bound. A
// nil By bounds nothing.
type By func(tenant string) *Limiter

// Always is the By of a limiter that all tenants share.
func Always(l *Limiter) By { return func(string) *Limiter { return l } }

// Take counts one event of key in the limiter of a tenant; see Limiter.Take.
func (b By) Take(tenant, key string, now time.Time) (wait time.Duration) {
	if b == nil {
		return 0
	}
	return b(tenant).Take(key, now)
}

// slot returns where key is counted. When there is no room left it forgets
// those who have been quiet, but seldom: looking at everybody for every
// late-comer would be the very work that a flood is after.
func (l *Limiter) slot(key string, now time.Time) string {
	if _, known := l.due[key]; known || len(l.due) < maxKeys {
		return key
	}
	if now.Sub(l.swept) < sweepInterval {
		return overflow
	}
	l.swept = now
	for k, due := range l.due {
		if due.Before(now) {
			delete(l.due, k)
		}
	}
	if len(l.due) < maxKeys {
		return key
	}
	return overflow
}

// Address returns the key of a peer's address: the address itself, or for IPv6
// the /64 network, of which one subscriber has all (RFC 6177).
func Address(remote string) string {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := a.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	network, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ip.String()
	}
	return network.String()
}
