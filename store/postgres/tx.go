package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/store/internal/record"
)

// maxAttempts bounds how often a transaction that lost a race is run again.
// One who loses finds the row that the winner made, and locks it; more than two
// rounds take somebody who makes and removes the row all the time.
const maxAttempts = 16

// begin asks for what this package relies on, whatever the server's defaults
// are: with the row locked, read committed is enough.
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

// A tx is one transaction. It begins with the first query, and what it writes
// is sent together with the next query or with the commit.
type tx struct {
	conn   *pgx.Conn
	begun  bool
	writes pgx.Batch // those that were not sent yet
	wrote  int       // all, sent or not
	tell   bool      // others, that what they keep in memory is not current
	failed error     // what makes a commit impossible
	after  []func()  // run after the commit or what came of it
}

// A query is a statement, its arguments and who takes the rows.
type query struct {
	use  func(*record.Row) error
	sql  string
	args []any
}

// transact runs do in a transaction and commits it. When ctx ends before the
// transaction has begun, it never begins; when it ends later, the transaction
// goes on and its own result is returned. do is called again when another
// transaction was faster. Its error is returned as it is, and then nothing is
// written.
//
// With a context of Together it is a part of that transaction.
func (s *Store) transact(ctx context.Context, do func(context.Context, *tx) error) error {
	if g := s.together(ctx); g != nil {
		return g.write(do)
	}
	for attempt := 1; ; attempt++ {
		err := s.attempt(ctx, do)
		lost, ok := errors.AsType[*lostRace](err)
		if !ok {
			return err
		}
		if attempt == maxAttempts {
			return record.Unavailable().WithCause(fmt.Errorf("trying %d times: %w", attempt, lost.cause))
		}
	}
}

func (s *Store) attempt(ctx context.Context, do func(context.Context, *tx) error) error {
	c, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer s.pool.release(c)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	t := &tx{conn: c.Conn}
	defer t.rollback(ctx) // unless it was committed; also when do panics
	defer func() {
		for _, f := range t.after {
			f()
		}
	}()
	err = do(ctx, t)
	if _, lost := errors.AsType[*lostRace](t.failed); lost || err == nil && t.failed != nil {
		return t.failed
	}
	if err != nil {
		return err
	}
	return t.commit(ctx)
}

// read runs queries, which take one round trip together with what is to be written:
// they see it.
func (t *tx) read(ctx context.Context, queries ...query) error {
	var b pgx.Batch
	if !t.begun {
		b.Queue(begin)
		t.begun = true
	}
	b.QueuedQueries = append(b.QueuedQueries, t.writes.QueuedQueries...)
	t.writes = pgx.Batch{}
	for _, q := range queries {
		b.Queue(q.sql, q.args...).Query(func(rows pgx.Rows) error { return each(rows, q.use) })
	}
	err := sorted(t.conn, t.conn.SendBatch(ctx, &b).Close())
	if err != nil {
		t.failed = err // also for the server
	}
	return err
}

// write queues a statement, to be sent with the next query or the commit.
func (t *tx) write(sql string, args ...any) *pgx.QueuedQuery {
	t.wrote++
	return t.writes.Queue(sql, args...)
}

// changed has the commit tell all servers that something they keep in memory is
// not current any more. It serialises those who call it, at the end of their
// transactions.
func (t *tx) changed() { t.tell = true }

// then has f called when the transaction is over and before its caller is
// answered.
func (t *tx) then(f func()) { t.after = append(t.after, f) }

// commit sends the writes and the commit. Losing the answer leaves it open
// whether they happened: the error is then also ErrUncertain.
func (t *tx) commit(ctx context.Context) error {
	if t.wrote == 0 {
		return nil
	}
	if t.tell {
		t.write("UPDATE counter SET value = value + 1 WHERE name = 'change'")
		t.write("SELECT pg_notify('" + changeChannel + "', '')")
	}
	b := &t.writes
	if !t.begun {
		b = &pgx.Batch{}
		b.Queue(begin)
		b.QueuedQueries = append(b.QueuedQueries, t.writes.QueuedQueries...)
	}
	b.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return fmt.Errorf("committing was answered with %s", tag)
		}
		return nil
	})
	err := t.conn.SendBatch(ctx, b).Close()
	if err != nil && t.conn.IsClosed() && !pgconn.SafeToRetry(err) {
		return record.Unavailable().WithCause(fmt.Errorf("%w: %w", ErrUncertain, err))
	}
	return sorted(t.conn, err)
}

// rollback ends the transaction if it still runs. A connection on which that
// fails is given up, which ends it too.
func (t *tx) rollback(ctx context.Context) {
	if !t.conn.IsClosed() && t.conn.PgConn().TxStatus() != 'I' {
		_, _ = t.conn.Exec(ctx, "ROLLBACK")
	}
}

// query runs one query, outside of a transaction unless ctx carries one.
func (s *Store) query(ctx context.Context, use func(*record.Row) error, sql string, args ...any) error {
	if g := s.together(ctx); g != nil {
		return g.read(query{use, sql, args})
	}
	c, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer s.pool.release(c)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	rows, err := c.Query(ctx, sql, args...)
	if err == nil {
		err = each(rows, use)
	}
	return sorted(c.Conn, err)
}

// each calls use with every row, until it returns an error, and closes rows.
func each(rows pgx.Rows, use func(*record.Row) error) error {
	defer rows.Close()
	var columns []driver.Value
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return err
		}
		columns = columns[:0]
		for _, v := range values {
			columns = append(columns, v)
		}
		if err := use(record.NewRow(columns)); err != nil {
			return err
		}
	}
	return rows.Err()
}

// find reads the one row that a query returns; missing is the error when there
// is none.
func find[T any](ctx context.Context, s *Store, missing *errs.Error, read func(*record.Row) (*T, error), sql string, args ...any) (found *T, err error) {
	err = s.query(ctx, into(&found, read), sql, args...)
	if err == nil && found == nil {
		return nil, missing
	}
	return found, err
}

// list reads the rows that a query returns.
func list[T any](ctx context.Context, s *Store, read func(*record.Row) (T, error), sql string, args ...any) (found []T, err error) {
	err = s.query(ctx, func(r *record.Row) error {
		v, err := read(r)
		found = append(found, v)
		return err
	}, sql, args...)
	return found, err
}

// into reads a row into found.
func into[T any](found **T, read func(*record.Row) (*T, error)) func(*record.Row) error {
	return func(r *record.Row) (err error) { *found, err = read(r); return err }
}
