package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// defaultConnections bounds the connections where the DSN says nothing. More
	// of them share a flush to the disk; the servers together must stay below
	// PostgreSQL's max_connections, which is 100 unless changed.
	defaultConnections = 16
	// connectTimeout bounds making one connection, where the DSN says nothing.
	connectTimeout = 5 * time.Second
	// acquireTimeout bounds how long a call waits for one of the others to give
	// its connection back.
	acquireTimeout = 5 * time.Second
	// callTimeout bounds everything a call does with its connection. What it
	// asks for takes milliseconds; a server that has taken longer is gone.
	callTimeout = 15 * time.Second
	// idleBeforePing is how long a connection may lie idle and still be trusted.
	// Between the query of a dead connection and its error a write is uncertain.
	idleBeforePing = time.Second
	// pingTimeout bounds asking whether a connection lives.
	pingTimeout = 2 * time.Second
)

// settings are what every connection has the server set where the DSN says
// nothing, each an SQL expression. Commits are durable, whatever the server, the
// database or the role has; the rows of a client that went silent between
// reading and writing become free. Poolers refuse most of them in a startup
// packet, and take them in a query.
var settings = []struct{ name, value string }{
	{"application_name", "'berth'"},
	{"statement_timeout", "'10s'"},
	{"idle_in_transaction_session_timeout", "'10s'"},
	{"synchronous_commit", "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END"},
}

// A pool keeps connections. It makes one when all others are in use, up to a
// bound, and gives up those that broke. It exists because the driver's own pool
// would be one more dependency, for what is little once a connection is never
// cancelled in the middle of something.
type pool struct {
	config *pgx.ConnConfig
	setup  string          // the query that makes the settings
	slots  chan struct{}   // holds one for every connection in use
	closed <-chan struct{} // of the store

	mu   sync.Mutex // guards idle
	idle []*conn    // the one used last is at the end
}

// A conn is one connection, used by one goroutine at a time.
type conn struct {
	*pgx.Conn
	since time.Time // when it became idle
}

// parse reads a DSN. Its errors do not show it, nor any part of it: a password
// can be anywhere in one that is not in order.
func parse(dsn string) (config *pgx.ConnConfig, setup string, connections int, err error) {
	config, err = pgx.ParseConfig(dsn)
	if err != nil {
		return nil, "", 0, errors.New("the connection string is not in order: postgres://user:password@host:port/database and " +
			"host=… user=… password=… dbname=… are the two forms")
	}
	connections = defaultConnections
	if text, ok := config.RuntimeParams["pool_max_conns"]; ok {
		if connections, err = strconv.Atoi(text); err != nil || connections < 1 {
			return nil, "", 0, errors.New("pool_max_conns in the connection string is not a positive number")
		}
		delete(config.RuntimeParams, "pool_max_conns")
	}
	var calls []string
	for _, s := range settings {
		if _, ok := config.RuntimeParams[s.name]; !ok || s.name == "synchronous_commit" {
			calls = append(calls, "set_config('"+s.name+"', "+s.value+", false)")
		}
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.ValidateConnect == nil { // find the primary among several hosts, also after a failover
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	return config, "SELECT " + strings.Join(calls, ", "), connections, nil
}

func newPool(dsn string, closed <-chan struct{}) (*pool, error) {
	config, setup, connections, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	return &pool{config: config, setup: setup, slots: make(chan struct{}, connections), closed: closed}, nil
}

// connect makes a connection.
func (p *pool) connect(ctx context.Context) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, p.config)
	if err == nil {
		if err = script(ctx, c, p.setup); err != nil {
			closeQuietly(c)
		}
	}
	if err != nil {
		return nil, record.Unavailable().WithCause(fmt.Errorf("connecting: %w", err))
	}
	return c, nil
}

// acquire returns a connection that is the caller's until release.
func (p *pool) acquire(ctx context.Context) (*conn, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	if c := p.takeIdle(); c != nil {
		if time.Since(c.since) < idleBeforePing || ping(ctx, c) {
			return c, nil
		}
		closeQuietly(c.Conn)
		p.closeIdle() // what broke it broke them too
	}
	c, err := p.connect(ctx)
	if err != nil {
		<-p.slots
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// enter waits for a free slot.
func (p *pool) enter(ctx context.Context) error {
	select {
	case <-p.closed:
		return record.Unavailable()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the database: %w", ctx.Err())
	default:
	}
	timeout := time.NewTimer(acquireTimeout)
	defer timeout.Stop()
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-p.closed:
		return record.Unavailable()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the database: %w", ctx.Err())
	case <-timeout.C:
		return record.Unavailable().WithCause(fmt.Errorf("all %d connections to the database are in use", cap(p.slots)))
	}
}

func (p *pool) takeIdle() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	last := len(p.idle) - 1
	c := p.idle[last]
	p.idle = p.idle[:last]
	return c
}

func ping(ctx context.Context, c *conn) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	return c.Ping(ctx) == nil
}

// release takes a connection back. One that is broken, or in a transaction that
// could not be ended, is given up.
func (p *pool) release(c *conn) {
	defer func() { <-p.slots }()
	if c.IsClosed() {
		return
	}
	if c.PgConn().TxStatus() != 'I' {
		closeQuietly(c.Conn)
		return
	}
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}

// close waits for the connections in use and closes all.
func (p *pool) close() {
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	p.closeIdle()
}

func (p *pool) closeIdle() {
	for c := p.takeIdle(); c != nil; c = p.takeIdle() {
		closeQuietly(c.Conn)
	}
}

// closeQuietly says goodbye to the server, which needs no answer.
func closeQuietly(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	_ = c.Close(ctx)
}
