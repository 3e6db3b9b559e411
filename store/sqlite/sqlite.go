// Package sqlite keeps everything a server knows in one SQLite file: the
// enrollments and registration records of the provisioning service, the hubs'
// identities and twins, and the access policies of both. Telemetry is in files
// beside it, which package segment keeps.
//
// One goroutine writes: it puts whatever is waiting into one transaction, and
// answers when that is on the disk (write-ahead log, synchronous=FULL). Reads
// run beside it on connections of their own and see what was committed.
// Symmetric keys are sealed before they reach the database; everything else is
// in plain columns, for operators to look at.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/cache"
	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/segment"
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

// A Store is an open database. Its methods may be called at the same time. An
// error of kind errs.Unavailable means that the store is closed or the disk
// does not take what it is given.
type Store struct {
	codec record.Codec
	lock  *os.File // held as long as the store is open

	writer  *conn         // owned by runWriter
	queue   chan *write   // closed by Close
	written chan struct{} // closed when runWriter has returned
	stream  *segment.Log  // the messages
	noted   atomic.Int64  // the number of a message of which the database knows

	readers chan *conn // the idle ones

	closing sync.RWMutex  // held for reading by who sends to queue, so that Close can close it
	closed  chan struct{} // closed by Close

	groups       cache.Cache[groupKey, []*enroll.Entry]
	certificates cache.Cache[device.IDScope, []*enroll.CACertificate]
	scopes       cache.Cache[device.IDScope, *provision.Scope]
	linked       cache.Cache[device.IDScope, []provision.LinkedHub]
	trust        cache.Cache[device.IDScope, *ekcert.Trust]
}

type groupKey struct {
	scope     device.IDScope
	mechanism attest.Type
}

// Open opens the database file at path, which only this process's user may
// use, or creates it there in an existing directory. Symmetric keys in it are
// sealed under key, which must be the same one as before. One process at a
// time can have it open.
func Open(ctx context.Context, path string, key hsm.ServerKey) (*Store, error) {
	s, err := open(ctx, path, key)
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string, key hsm.ServerKey) (_ *Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	codec, err := record.NewCodec(key)
	if err != nil {
		return nil, err
	}
	s := &Store{
		codec:   codec,
		queue:   make(chan *write, maxQueue),
		written: make(chan struct{}),
		readers: make(chan *conn, max(4, runtime.GOMAXPROCS(0))),
		closed:  make(chan struct{}),
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if s.lock, err = lock(path + ".lock"); err != nil {
		return nil, err
	}
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	if err := s.openWriter(ctx, path); err != nil {
		return nil, err
	}
	for range cap(s.readers) {
		c, err := connect(dsn(path) + "&mode=ro")
		if err != nil {
			return nil, err
		}
		s.readers <- c
		if err := c.script("PRAGMA busy_timeout = 5000; PRAGMA cache_size = -8192; PRAGMA trusted_schema = OFF"); err != nil {
			return nil, err
		}
	}
	go s.runWriter()
	return s, nil
}

// openWriter opens the writing connection and brings the schema up to date.
func (s *Store) openWriter(ctx context.Context, path string) (err error) {
	if s.writer, err = connect(dsn(path) + "&mode=rw"); err != nil {
		return err
	}
	if err := s.writer.script("PRAGMA busy_timeout = 5000; PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = ON"); err != nil {
		return err
	}
	if err := recognise(s.writer); err != nil {
		return err
	}
	var mode string
	if err := s.writer.each(func(r *record.Row) error { mode = r.Text(); return nil }, "PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("the file system allows no write-ahead log (journal mode %q)", mode)
	}
	// fullfsync is for macOS, whose fsync leaves data in the drive's cache.
	// A checkpoint at 4096 pages (16 MiB) costs less than many small ones.
	if err := s.writer.script(`
		PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
		PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 67108864;
		PRAGMA temp_store = MEMORY; PRAGMA cache_size = -32768`); err != nil {
		return err
	}
	if err := migrate(ctx, s.writer); err != nil {
		return err
	}
	if err := s.checkSealer(); err != nil {
		return err
	}
	// Whoever had the lock before is gone, and so are the connections to it.
	if err := s.writer.exec(endServers); err != nil {
		return err
	}
	if err := s.learnKeys(ctx); err != nil {
		return fmt.Errorf("learning which enrollments share a key: %w", err)
	}
	return s.openStream(ctx, path)
}

func dsn(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?_defensive=1&_dqs=0"
}

// prepareFile creates an empty database file that others cannot read, and
// refuses one that they can. The engine gives its other files the same mode.
func prepareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if perm := info.Mode().Perm(); perm&0o077 != 0 {
			return fmt.Errorf("it has mode %04o, so others can use it; run: chmod 600 %s", perm, path)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close finishes the writes that were queued, waits for the reads that run and
// closes the database. Whoever comes later gets an error of kind
// errs.Unavailable.
func (s *Store) Close() error {
	s.closing.Lock()
	select {
	case <-s.closed:
		s.closing.Unlock()
		return nil
	default:
	}
	close(s.closed)
	close(s.queue)
	s.closing.Unlock()
	<-s.written
	var failures []error
	for range cap(s.readers) {
		failures = append(failures, (<-s.readers).close())
	}
	// The last connection to close moves the log into the database.
	failures = append(failures, s.stream.Close(), s.writer.close(), unlock(s.lock))
	return errors.Join(failures...)
}

// release undoes a half-done open.
func (s *Store) release() {
	for len(s.readers) > 0 {
		(<-s.readers).close()
	}
	if s.stream != nil {
		s.stream.Close()
	}
	if s.writer != nil {
		s.writer.close()
	}
	if s.lock != nil {
		unlock(s.lock)
	}
}

// read runs f with a connection that can only read, or with that of the
// transaction which ctx carries.
func (s *Store) read(ctx context.Context, f func(*conn) error) error {
	if g := s.together(ctx); g != nil {
		return g.use(func(t *tx) error { return f(t.conn) })
	}
	select {
	case <-s.closed:
		return record.Unavailable()
	default:
	}
	select {
	case c := <-s.readers:
		defer func() { s.readers <- c }()
		return f(c)
	case <-s.closed:
		return record.Unavailable()
	case <-ctx.Done():
		return fmt.Errorf("waiting to read: %w", ctx.Err())
	}
}

// cached is c.Get, except in a transaction: what is read there is not committed
// yet, and not for others.
func cached[K comparable, V any](ctx context.Context, s *Store, c *cache.Cache[K, V], k K, load func(context.Context) (V, error)) (V, error) {
	if s.together(ctx) != nil {
		return load(ctx)
	}
	return c.Get(ctx, k, load)
}

// find is one on a reading connection; missing becomes an error of kind
// errs.NotFound with what.
func find[T any](ctx context.Context, s *Store, what *errs.Error, read func(*record.Row) (*T, error), query string, args ...any) (found *T, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		found, err = one(c, read, query, args...)
		return err
	})
	if err == nil && found == nil {
		return nil, what
	}
	return found, err
}

// list is all on a reading connection.
func list[T any](ctx context.Context, s *Store, read func(*record.Row) (T, error), query string, args ...any) (found []T, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		found, err = all(c, read, query, args...)
		return err
	})
	return found, err
}
