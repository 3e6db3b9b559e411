package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	engine "modernc.org/sqlite"
	result "modernc.org/sqlite/lib"

	"github.com/berth-iot/berth/store/internal/record"
)

// A conn is one connection with its prepared statements, used by one goroutine
// at a time. It speaks to the driver without database/sql in between: a pool
// that may run each statement on another connection is of no use to one writer
// who batches, and that layer drops the difference between NULL and an empty
// BLOB.
type conn struct {
	driver driver.Conn
	stmts  map[string]*stmt // by SQL text, of which this package has a few dozen
	args   []driver.NamedValue
}

// A stmt is a prepared statement and room for one row of what it returns.
type stmt struct {
	preparedStmt
	row []driver.Value
}

type preparedStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func connect(dsn string) (*conn, error) {
	connector, err := engine.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	c, err := connector.Connect(context.Background())
	if err != nil {
		return nil, err
	}
	return &conn{driver: c, stmts: make(map[string]*stmt)}, nil
}

func (c *conn) close() error {
	var failures []error
	for _, s := range c.stmts {
		failures = append(failures, s.Close())
	}
	return errors.Join(append(failures, c.driver.Close())...)
}

func (c *conn) prepare(query string) (*stmt, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	s, err := c.driver.Prepare(query)
	if err != nil {
		return nil, fmt.Errorf("preparing %.40q: %w", query, err)
	}
	prepared, ok := s.(preparedStmt)
	if !ok {
		return nil, fmt.Errorf("the driver prepared a %T", s)
	}
	kept := &stmt{preparedStmt: prepared}
	c.stmts[query] = kept
	return kept, nil
}

// script runs statements that are needed once and return nothing.
func (c *conn) script(text string) error {
	s, err := c.driver.Prepare(text)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.(driver.StmtExecContext).ExecContext(context.Background(), nil)
	return err
}

// exec runs a statement that returns no rows. It takes no context: a statement
// runs for microseconds, and interrupting one would end the transaction of
// everybody in the batch.
func (c *conn) exec(query string, args ...any) error {
	s, err := c.prepare(query)
	if err != nil {
		return sorted(err)
	}
	_, err = s.ExecContext(context.Background(), c.named(args))
	return sorted(err)
}

// each calls use with every row the query returns, until use returns an error.
// The row is only valid until use returns.
func (c *conn) each(use func(*record.Row) error, query string, args ...any) (err error) {
	s, err := c.prepare(query)
	if err != nil {
		return sorted(err)
	}
	rows, err := s.QueryContext(context.Background(), c.named(args))
	if err != nil {
		return sorted(err)
	}
	defer func() {
		if closed := rows.Close(); err == nil {
			err = sorted(closed)
		}
	}()
	if s.row == nil {
		s.row = make([]driver.Value, len(rows.Columns()))
	}
	for {
		switch err := rows.Next(s.row); {
		case err == io.EOF:
			return nil
		case err != nil:
			return sorted(err)
		}
		if err := use(record.NewRow(s.row)); err != nil {
			return err
		}
	}
}

func (c *conn) named(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// number returns the one integer a query returns, or zero when it returns
// nothing.
func (c *conn) number(query string, args ...any) (n int64, err error) {
	err = c.each(func(r *record.Row) error { n = r.Number(); return nil }, query, args...)
	return n, err
}

// one reads the one row a query returns, or returns nil when there is none.
func one[T any](c *conn, read func(*record.Row) (*T, error), query string, args ...any) (found *T, err error) {
	err = c.each(func(r *record.Row) error { found, err = read(r); return err }, query, args...)
	return found, err
}

// all reads the rows a query returns.
func all[T any](c *conn, read func(*record.Row) (T, error), query string, args ...any) ([]T, error) {
	var found []T
	err := c.each(func(r *record.Row) error {
		v, err := read(r)
		found = append(found, v)
		return err
	}, query, args...)
	return found, err
}

// sorted gives the errors of the engine that may go away a kind that says so.
func sorted(err error) error {
	e, ok := errors.AsType[*engine.Error](err)
	if !ok {
		return err
	}
	switch e.Code() & 0xff {
	case result.SQLITE_BUSY, result.SQLITE_LOCKED, result.SQLITE_FULL, result.SQLITE_IOERR, result.SQLITE_NOMEM,
		result.SQLITE_READONLY, result.SQLITE_CANTOPEN:
		return record.Unavailable().WithCause(err)
	}
	return err
}

func isForeignKey(err error) bool {
	e, ok := errors.AsType[*engine.Error](err)
	return ok && e.Code() == result.SQLITE_CONSTRAINT_FOREIGNKEY
}
