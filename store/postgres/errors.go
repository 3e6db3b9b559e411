package postgres

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/store/internal/record"
)

// ErrUncertain is in the chain of an error of kind errs.Unavailable when the
// connection broke between sending a commit and its answer.
var ErrUncertain = errors.New("the write may have happened")

// A lostRace is the error of a transaction that another one was faster than,
// and that is to be run again.
type lostRace struct{ cause error }

func (e *lostRace) Error() string { return e.cause.Error() }
func (e *lostRace) Unwrap() error { return e.cause }

// The SQLSTATE codes that this package looks at (PostgreSQL, Appendix A).
const (
	foreignKeyViolation  = "23503"
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
)

// unavailable are the codes and classes (the first two characters) of errors
// that may go away.
var unavailable = map[string]bool{
	"08":    true, // connection exception
	"25006": true, // read-only: the server is no primary any more
	"25P03": true, // idle in transaction for too long
	"28":    true, // the role or its password was taken away
	"3D000": true, // the database is not there
	"40":    true, // transaction rollback
	"53":    true, // insufficient resources: a full disk, too many connections
	"55P03": true, // lock not available
	"57":    true, // operator intervention: cancelled, shut down, starting up
	"58":    true, // I/O error
}

// sorted gives an error of the server or of the connection the kind that says
// what can be done.
func sorted(c *pgx.Conn, err error) error {
	if err == nil {
		return nil
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok && c.IsClosed():
		return record.Unavailable().WithCause(err)
	case !ok:
		return err
	}
	switch {
	case pg.Code == foreignKeyViolation && (pg.TableName == "module" || pg.TableName == "cloud_message" || pg.TableName == "subscription"):
		return record.NoDevice().WithCause(err)
	case pg.Code == foreignKeyViolation: // every other reference in the schema is to a scope
		return record.NoScope().WithCause(err)
	case pg.Code == uniqueViolation, pg.Code == serializationFailure, pg.Code == deadlockDetected:
		return &lostRace{err}
	case pg.Code == "22021", pg.Code == "22P05": // a NUL, or no UTF-8
		return errs.New(errs.Invalid, errs.CodeArgumentInvalid, "A text is not UTF-8, or has a NUL in it.").WithCause(err)
	case unavailable[pg.Code], unavailable[pg.Code[:min(2, len(pg.Code))]]:
		if pg.Code == "25006" {
			closeQuietly(c) // another connection may find the new primary
		}
		return record.Unavailable().WithCause(err)
	}
	return err
}
