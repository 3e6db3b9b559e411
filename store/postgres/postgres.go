// Package postgres keeps everything the servers of one service know in a
// PostgreSQL database that they share: the enrollments and registration records
// of the provisioning service, the hubs' identities, twins and telemetry, and
// the access policies of both.
//
// A change reads its row locked, decides and writes in one transaction of two
// round trips; creating a row twice fails in one of the two, which then decides
// again. What was acknowledged is on the server's disk. Telemetry is numbered
// under a lock that is held to the end of the transaction, so that a reader who
// has seen a number has seen all below it.
//
// Servers keep in memory what every registration asks for (scopes, linked hubs,
// enrollment groups, CA certificates). Whoever changes it says so with the same
// commit, and the others hear of it at once (NOTIFY). When that message is lost
// they find out by asking every second; what is not known to be current for more
// than two seconds is not used. Symmetric keys are sealed before they reach the
// database; everything else is in plain columns, for operators to look at.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/cache"
	"github.com/berth-iot/berth/store/internal/news"
	"github.com/berth-iot/berth/store/internal/record"
)

var (
	_ enroll.Store               = (*Store)(nil)
	_ enroll.CACertificates      = (*Store)(nil)
	_ provision.EnrollmentReader = (*Store)(nil)
	_ provision.Records          = (*Store)(nil)
	_ provision.TrustStore       = (*Store)(nil)
	_ provision.Scopes           = (*Store)(nil)
	_ access.Policies            = (*Store)(nil)
	_ hub.Registry               = (*Store)(nil)
	_ hub.Stream                 = (*Store)(nil)
	_ hub.Queues                 = (*Store)(nil)
	_ hub.Presences              = (*Store)(nil)
	_ hub.Configurations         = (*Store)(nil)
	_ hub.RoutingStore           = (*Store)(nil)
	_ hub.Positions              = (*Store)(nil)
)

// A Store is an open database. Its methods may be called at the same time, and
// other servers may use the same database. An error of kind errs.Unavailable
// means that the store is closed or the database does not do what it is asked
// for; the next call tries again. An error that is also ErrUncertain may have
// written. A call that has begun is not interrupted when its context ends: it
// ends within seconds, one way or the other.
type Store struct {
	codec record.Codec
	pool  *pool

	appends chan *appending

	groups       cache.Cache[groupKey, []*enroll.Entry]
	certificates cache.Cache[device.IDScope, []*enroll.CACertificate]
	scopes       cache.Cache[device.IDScope, *provision.Scope]
	linked       cache.Cache[device.IDScope, []provision.LinkedHub]
	trust        cache.Cache[device.IDScope, *ekcert.Trust]
	// changes is the counter "change" that the caches go with, and confirmed is
	// when they were last known to be current. The listener sets both.
	changes   atomic.Int64
	confirmed atomic.Pointer[time.Time]
	news      news.News
	queued    atomic.Pointer[func(hub.Place)] // of OnQueued
	// outgrown says that a newer program upgraded the schema to one that this
	// one does not know.
	outgrown atomic.Bool

	closing sync.Once
	closed  chan struct{}  // closed by Close
	running sync.WaitGroup // the listener and the appender
	stop    func()         // ends the listener
}

type groupKey struct {
	scope     device.IDScope
	mechanism attest.Type
}

// Open connects to the database that dsn names, as a URL
// (postgres://user:password@host:port/database) or as key=value words, both as
// libpq takes them; pool_max_conns bounds the connections. A new database gets
// the schema, an older one is brought up to date; several servers may do so at
// once. Symmetric keys in it are sealed under key, which must be the same one
// for all servers.
func Open(ctx context.Context, dsn string, key hsm.ServerKey) (*Store, error) {
	s, err := open(ctx, dsn, key)
	if err != nil {
		return nil, fmt.Errorf("opening the PostgreSQL database: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, dsn string, key hsm.ServerKey) (_ *Store, err error) {
	codec, err := record.NewCodec(key)
	if err != nil {
		return nil, err
	}
	s := &Store{
		codec:   codec,
		appends: make(chan *appending),
		closed:  make(chan struct{}),
	}
	if s.pool, err = newPool(dsn, s.closed); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		s.pool.close()
		return nil, err
	}
	if err := s.learnKeys(ctx); err != nil {
		s.pool.close()
		return nil, fmt.Errorf("learning which enrollments share a key: %w", err)
	}
	l := &listener{store: s}
	if err := l.connect(ctx); err != nil {
		l.hangUp()
		s.pool.close()
		return nil, err
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.running.Go(func() { l.run(ctx) })
	s.running.Go(s.runAppender)
	return s, nil
}

// prepare brings the schema up to date and checks that the database is fit to
// be trusted.
func (s *Store) prepare(ctx context.Context) error {
	c, err := s.pool.acquire(ctx)
	if err != nil {
		return err
	}
	defer s.pool.release(c)
	if err := checkDurability(ctx, c.Conn); err != nil {
		return err
	}
	if err := migrate(ctx, c.Conn); err != nil {
		return err
	}
	return s.checkSealer(ctx, c.Conn)
}

// Close lets the calls that run finish and closes the connections. Whoever
// comes later gets an error of kind errs.Unavailable.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		s.stop()
		s.running.Wait()
		s.pool.close()
	})
	return nil
}

// acquire returns a connection for a call.
func (s *Store) acquire(ctx context.Context) (*conn, error) {
	if s.outgrown.Load() {
		return nil, record.Unavailable().WithCause(errors.New("a newer server upgraded the database to a schema that this program does not know"))
	}
	return s.pool.acquire(ctx)
}

// forgetAll drops everything that is kept in memory.
func (s *Store) forgetAll() {
	s.groups.Clear()
	s.certificates.Clear()
	s.scopes.Clear()
	s.linked.Clear()
	s.trust.Clear()
}

// cached is c.Get while the caches are known to be current, and otherwise asks
// the database. So does a transaction, whose connection others may be waiting
// for: it must not wait for what they are loading.
func cached[K comparable, V any](ctx context.Context, s *Store, c *cache.Cache[K, V], k K, load func(context.Context) (V, error)) (V, error) {
	if time.Since(*s.confirmed.Load()) < maxStale && s.together(ctx) == nil {
		return c.Get(ctx, k, load)
	}
	return load(ctx)
}
