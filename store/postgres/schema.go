package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/berth-iot/berth/store/internal/sealed"
)

// migrations are the steps from an empty database to the current schema. They
// are numbered from 1 without gaps and never change once released. The first
// line of each says from which schema on a program can work with the database
// after it: an older program is then refused, and one between goes on, so that
// servers can be upgraded one after the other.
//
//go:embed migrations/*.sql
var migrations embed.FS

var minimumReader = regexp.MustCompile(`\A-- minimum_reader = ([0-9]+)\n`)

// migrationLock is the key of the advisory lock under which servers that start
// together migrate one after the other: "Berth" in ASCII.
const migrationLock = 0x4265727468

// A schema is what the one row of the table berth_schema says.
type schema struct {
	version       int // the last step that was applied
	minimumReader int // the lowest version that a program must know
}

// accepts returns an error unless a program that knows the schemas up to known
// can work with this one.
func (s schema) accepts(known int) error {
	if s.minimumReader > known {
		return fmt.Errorf("a newer version of this program upgraded it (schema %d needs a program that knows %d; this one knows up to %d)",
			s.version, s.minimumReader, known)
	}
	return nil
}

// steps returns the names of the migrations; their number is the newest schema
// that this program knows.
func steps() []string {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	return names
}

// checkDurability refuses a server that says itself that it loses what it has
// acknowledged.
func checkDurability(ctx context.Context, c *pgx.Conn) error {
	var fsync *string
	if err := c.QueryRow(ctx, "SELECT current_setting('fsync', true)").Scan(&fsync); err != nil {
		return sorted(c, err)
	}
	if fsync != nil && *fsync == "off" {
		return errors.New("the server runs with fsync = off, so what it acknowledges can be lost; turn it on")
	}
	return nil
}

// migrate brings the schema up to date, or goes on with a newer one that allows
// it.
func migrate(ctx context.Context, c *pgx.Conn) error {
	known := len(steps())
	have, err := readSchema(ctx, c)
	if err != nil {
		return err
	}
	if have.version >= known {
		return have.accepts(known)
	}
	t, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return sorted(c, err)
	}
	defer t.Rollback(ctx) // does nothing after the commit
	if err := migrateLocked(ctx, t, known); err != nil {
		return err
	}
	return sorted(c, t.Commit(ctx))
}

func migrateLocked(ctx context.Context, t pgx.Tx, known int) error {
	c := t.Conn()
	if err := script(ctx, c, fmt.Sprintf("SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock(%d)", migrationLock)); err != nil {
		return err
	}
	have, err := readSchema(ctx, c)
	if err != nil {
		return err
	}
	if have.version >= known {
		return have.accepts(known) // another server was faster
	}
	if have.version == 0 {
		if err := createSchema(ctx, c); err != nil {
			return err
		}
	}
	for i, name := range steps()[have.version:] {
		text, minimum, err := readStep(name)
		if err != nil {
			return err
		}
		have = schema{have.version + 1, max(have.minimumReader, minimum)}
		text += fmt.Sprintf("; UPDATE berth_schema SET version = %d, minimum_reader = %d", have.version, have.minimumReader)
		if err := script(ctx, c, text); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, name, err)
		}
	}
	return nil
}

func readStep(name string) (text string, minimum int, err error) {
	b, err := migrations.ReadFile(name)
	if err != nil {
		return "", 0, err
	}
	m := minimumReader.FindSubmatch(b)
	if m == nil {
		return "", 0, fmt.Errorf("%s does not begin with its minimum_reader", name)
	}
	minimum, err = strconv.Atoi(string(m[1]))
	return string(b), minimum, err
}

// readSchema returns the zero schema where there is none yet. It looks for the
// table with a query: to_regclass has been seen not to find one that was made
// while this session waited for the lock.
func readSchema(ctx context.Context, c *pgx.Conn) (s schema, err error) {
	var exists bool
	err = c.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM information_schema.tables
		WHERE table_schema = current_schema() AND table_name = 'berth_schema')`).Scan(&exists)
	if err != nil || !exists {
		return s, sorted(c, err)
	}
	err = c.QueryRow(ctx, "SELECT version, minimum_reader FROM berth_schema").Scan(&s.version, &s.minimumReader)
	return s, sorted(c, err)
}

// createSchema makes the table that says which schema there is, and refuses a
// place that another program has tables in.
func createSchema(ctx context.Context, c *pgx.Conn) error {
	var place *string
	var tables int
	err := c.QueryRow(ctx, `SELECT current_schema(), count(*) FROM information_schema.tables
		WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'`).Scan(&place, &tables)
	switch {
	case err != nil:
		return sorted(c, err)
	case place == nil:
		return errors.New("none of the schemas in its search_path exists, or the role may not use them")
	case tables != 0:
		return fmt.Errorf("another program has tables in schema %q; make a database for Berth alone", *place)
	}
	return script(ctx, c, `CREATE TABLE berth_schema (
		id             integer PRIMARY KEY CHECK (id = 1),
		version        integer NOT NULL,
		minimum_reader integer NOT NULL
	); INSERT INTO berth_schema VALUES (1, 0, 0)`)
}

// script runs statements that are needed once and return nothing.
func script(ctx context.Context, c *pgx.Conn, text string) error {
	_, err := c.PgConn().Exec(ctx, text).ReadAll()
	return sorted(c, err)
}

// checkSealer notices that the server key is not the one this database was
// sealed under.
func (s *Store) checkSealer(ctx context.Context, c *pgx.Conn) error {
	made, err := sealed.Check(s.codec.Sealer)
	if err != nil {
		return err
	}
	if _, err := c.Exec(ctx, "INSERT INTO seal_check (id, sealed) VALUES (1, $1) ON CONFLICT DO NOTHING", made); err != nil {
		return sorted(c, err)
	}
	var check []byte
	if err := c.QueryRow(ctx, "SELECT sealed FROM seal_check WHERE id = 1").Scan(&check); err != nil {
		return sorted(c, err)
	}
	if !sealed.Opens(s.codec.Sealer, check) {
		return errors.New("its secrets are sealed under another server key")
	}
	return nil
}
