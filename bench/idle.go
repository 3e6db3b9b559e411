package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/berth-iot/berth/front/hubmqtt"
	"github.com/berth-iot/berth/front/mqttserver"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
)

// idleBar is what an idle connection may take of memory before TLS, in bytes.
const idleBar = 25 << 10

// warm is how many connections there are before memory is looked at, so that what
// the first one makes is not taken for what each of them does.
const warm = 32

// An idleCost is what the server's memory grows by with each connection, in bytes.
type idleCost struct {
	tls         bool
	connections int
	kept        float64 // resident, after a collection of garbage; there is one every two minutes
	grown       float64 // resident, before it
	heap, stack float64 // Go's own account of what is kept
}

// idleRole makes this program a server of hubs that says how much memory it
// takes. Its arguments are the data directory, and what MQTT goes over: "tls",
// which makes it the same as "berth serve", or "tcp", which makes it the parts of
// that which a connection is held by, on a listener without TLS. It prints where
// it listens. Each line of its standard input is answered with the bytes of heap
// and stacks after a collection. It ends with its input.
const idleRole = "serve-idle"

func serveIdle(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error {
	if len(args) != 2 {
		return errors.New(idleRole + " takes a directory and tls or tcp")
	}
	config, err := app.LoadConfig(args[0])
	if err != nil {
		return err
	}
	app.TuneMemory(config)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for orders := bufio.NewScanner(in); orders.Scan(); {
			var m runtime.MemStats
			debug.FreeOSMemory() // and collects
			runtime.ReadMemStats(&m)
			fmt.Fprintln(out, m.HeapAlloc, m.StackInuse)
		}
	}()
	logger := slog.New(slog.NewTextHandler(log, nil))
	if args[1] == "tls" {
		s, err := app.Open(ctx, config, "bench", logger)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, s.MQTTAddress())
		return s.Run(ctx)
	}
	db, err := openStore(ctx, args[0])
	if err != nil {
		return err
	}
	service := hub.New(hub.Config{Registry: db, Stream: db, Queues: db, Policies: db, Now: time.Now, Random: rand.Reader})
	front := hubmqtt.New(hubmqtt.Config{Service: service, Hubs: only{}, Now: time.Now, Logger: logger, Random: rand.Reader})
	server := &mqttserver.Server{Fronts: []mqttserver.Front{front}, Logger: logger}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	fmt.Fprintln(out, listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return errors.Join(ignoreClosed(err), db.Close())
		}
		go server.Converse(ctx, conn, nil)
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// only is a server with one hub.
type only struct{}

func (only) Hub(name string) (hub.Host, bool) { return hub.Host{Name: name}, name == host }

// measureIdle holds many connections of devices that do nothing, once without
// TLS and once with it.
func (h *hubs) measureIdle(ctx context.Context) error {
	n := h.idling
	if err := allowFiles(uint64(n + 1000)); err != nil {
		return err
	}
	s := &server{spec: spec{sqliteEngine, n}, dir: filepath.Join(h.dir, "idle")}
	if err := s.create(ctx); err != nil {
		return err
	}
	if err := s.loadIdle(ctx, h.fleet, n+warm); err != nil {
		return err
	}
	for _, over := range []string{"tcp", "tls"} {
		h.progress("%s idle connections over %s", thousands(n), strings.ToUpper(over))
		cost, err := h.idleCost(ctx, s, over, n)
		if err != nil {
			return fmt.Errorf("over %s: %w", over, err)
		}
		h.idle = append(h.idle, cost)
	}
	return nil
}

func (s *server) loadIdle(ctx context.Context, f *fleet, n int) error {
	db, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	l := &loader{server: s, fleet: f, now: time.Now()}
	err = concurrently(ctx, loaders, n, func(ctx context.Context, i int) error { return l.identity(ctx, db, deviceID(i)) })
	return errors.Join(err, db.Close())
}

func (h *hubs) idleCost(ctx context.Context, s *server, over string, n int) (cost idleCost, err error) {
	p, answers, err := s.startChild(ctx, "idle-"+over, idleRole, s.data, over)
	if err != nil {
		return cost, err
	}
	defer p.stop()
	conns := make([]net.Conn, warm+n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	open := func(first, n int) error {
		return concurrently(ctx, h.concurrency, n, func(ctx context.Context, i int) (err error) {
			conns[first+i], err = p.idle(ctx, h.fleet, deviceID(first+i), over == "tls")
			return err
		})
	}
	if err := open(0, warm); err != nil {
		return cost, err
	}
	before, err := p.memory(answers)
	if err != nil {
		return cost, err
	}
	if err := open(warm, n); err != nil {
		return cost, err
	}
	after, err := p.memory(answers)
	each := func(after, before int64) float64 { return float64(after-before) / float64(n) }
	return idleCost{
		tls: over == "tls", connections: n, kept: each(after.kept, before.kept), grown: each(after.resident, before.kept),
		heap: each(after.heap, before.heap), stack: each(after.stack, before.stack),
	}, err
}

// idle connects a device that subscribes to what devices subscribe to, and does
// no more.
func (p *place) idle(ctx context.Context, f *fleet, id string, secured bool) (net.Conn, error) {
	hello, err := greeting(id, f.derived(id))
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	if secured {
		conn, err = p.dial(ctx, visitor{})
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", p.address)
	}
	if err != nil {
		return nil, err
	}
	d, err := enter(conn, id, hello)
	if err == nil {
		err = d.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: hubtopic.Methods}, {Filter: hubtopic.TwinDesired}, {Filter: hubtopic.TwinResponses}}})
	}
	if err == nil {
		_, err = d.next()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// A memory is that of a process, in bytes.
type memory struct{ resident, kept, heap, stack int64 }

// memory asks a child in the idleRole.
func (p *place) memory(answers *bufio.Reader) (m memory, err error) {
	if _, err := p.quiet(); err != nil {
		return m, err
	}
	if m.resident, _, err = p.resident(); err != nil {
		return m, err
	}
	if _, err := fmt.Fprintln(p.in); err != nil {
		return m, err
	}
	if _, err := fmt.Fscanln(answers, &m.heap, &m.stack); err != nil {
		return m, err
	}
	m.kept, _, err = p.resident()
	return m, err
}

// allowFiles lets this process and its children have so many files open.
func allowFiles(n uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || l.Cur >= n {
		return err
	}
	l.Cur, l.Max = n, max(l.Max, n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raising the limit of open files to %d: %w; -idle asks for fewer", n, err)
	}
	return nil
}
