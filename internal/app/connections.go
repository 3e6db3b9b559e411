package app

import (
	"net"
	"sync"
	"time"

	"github.com/berth-iot/berth/limit"
)

// A fairListener keeps one address from taking all connections, and from having
// the server do nothing but handshakes: it hangs up on whoever has too many
// open or makes too many a second, before a byte of theirs is read. For IPv6 an
// address is a /64 network.
type fairListener struct {
	net.Listener
	most    int            // open connections of one address
	rate    *limit.Limiter // of new ones
	now     func() time.Time
	refused func(reason string)

	mu    sync.Mutex // guards the rest
	open  map[string]int
	total int // of open
}

// Why a connection is refused.
const (
	refusedOpen = "open" // the address has as many as it may
	refusedRate = "rate" // it makes them too fast
)

// newFairListener bounds the connections that l accepts: most at a time of one
// address, and twice as many new ones as calls. Who connects anew for each call
// is so told 429 when he calls too often, and only who does not listen is cut
// off. refused is told of every connection that is not let in.
func newFairListener(l net.Listener, most int, calls limit.Rate, now func() time.Time, refused func(reason string)) *fairListener {
	return &fairListener{
		Listener: l, most: most, rate: limit.New(limit.Rate{Events: 2 * calls.Events, Period: calls.Period}),
		now: now, refused: refused, open: map[string]int{},
	}
}

// Accept returns the next connection of an address that may have one more.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := limit.Address(c.RemoteAddr().String())
		reason := l.enter(address)
		if reason == "" {
			return &countedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(address) })}, nil
		}
		l.refused(reason)
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0) // a reset, which leaves nothing behind in the kernel
		}
		c.Close()
	}
}

// enter counts a connection, or says why there is to be none.
func (l *fairListener) enter(address string) (refusal string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.open[address] >= l.most:
		return refusedOpen
	case l.rate.Take(address, l.now()) > 0:
		return refusedRate
	}
	l.open[address]++
	l.total++
	return ""
}

func (l *fairListener) leave(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.open[address]--; l.open[address] == 0 {
		delete(l.open, address)
	}
}

// connections returns how many are open.
func (l *fairListener) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// A countedConn is one that counts until it is closed.
type countedConn struct {
	net.Conn
	leave func()
}

func (c *countedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
