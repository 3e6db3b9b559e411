package main

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// A table is one that a load fills, and how a copy of a row is another.
type table struct {
	name string
	key  string   // the column by which rows are found
	ids  []string // columns that hold the ID
}

var (
	enrollments   = table{"enrollment", "key", []string{"key", "id"}}
	keyUses       = table{"symmetric_key_use", "key", []string{"key"}}
	registrations = table{"registration", "key", []string{"key", "id", "device_id"}}
	identities    = table{"device", "id", []string{"id"}}
	twinValues    = table{"twin_value", "id", []string{"id"}}
)

// A dialect is how an engine says things.
type dialect struct {
	ids     string // so many random IDs in order, and the turn of each
	columns string // of a table
	digest  string // 16 bytes that are others for each row t and ID n.id
}

var dialects = map[string]dialect{
	sqliteEngine: {
		ids:     "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < %d) SELECT lower(hex(randomblob(10))) AS id, i %% %d AS turn FROM c ORDER BY 1",
		columns: "SELECT name FROM pragma_table_info('%s')",
		digest:  "randomblob(16)",
	},
	postgresEngine: {
		ids:     "SELECT left(replace(gen_random_uuid()::text, '-', ''), 20) AS id, i %% %[2]d AS turn FROM generate_series(1, %[1]d) i ORDER BY 1",
		columns: "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = '%s'",
		digest:  "decode(md5(encode(t.digest, 'hex') || n.id), 'hex')",
	},
}

// copies has the database make n devices like those of some IDs, of each as many,
// each with a random ID of its own, in all tables. What is sealed for the first
// cannot be opened for the others; it has the size.
func (s *server) copies(ctx context.Context, of []string, n int, tables []table) error {
	db, err := s.openSession(ctx)
	if err != nil {
		return err
	}
	defer db.close()
	d := dialects[s.engine]
	turns := make([]string, len(of))
	for i, id := range of {
		turns[i] = fmt.Sprintf("(%d, '%s')", i, id)
	}
	for _, statement := range []string{
		"CREATE TEMPORARY TABLE n AS " + fmt.Sprintf(d.ids, n, len(of)),
		"CREATE TEMPORARY TABLE original (turn INTEGER PRIMARY KEY, id TEXT)",
		"INSERT INTO original VALUES " + strings.Join(turns, ", "),
	} {
		if err := db.exec(ctx, statement); err != nil {
			return err
		}
	}
	for _, t := range tables {
		columns, err := db.texts(ctx, fmt.Sprintf(d.columns, t.name))
		if err != nil {
			return err
		}
		other := map[string]string{"digest": d.digest}
		for _, column := range t.ids {
			other[column] = "n.id"
		}
		values := make([]string, len(columns))
		for i, column := range columns {
			values[i] = cmp.Or(other[column], "t."+column)
		}
		for _, statement := range []string{
			fmt.Sprintf("CREATE TEMPORARY TABLE t AS SELECT o.turn, %s.* FROM %s JOIN original o ON %s.%s = o.id", t.name, t.name, t.name, t.key),
			"CREATE INDEX t_turn ON t (turn)",
			fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM n JOIN t ON t.turn = n.turn", t.name, strings.Join(columns, ", "), strings.Join(values, ", ")),
			"DROP TABLE t",
		} {
			if err := db.exec(ctx, statement); err != nil {
				return fmt.Errorf("copying rows of %s: %w", t.name, err)
			}
		}
	}
	return nil
}

// A session is one connection to a database, past the store.
type session interface {
	exec(ctx context.Context, statement string) error
	texts(ctx context.Context, query string) ([]string, error)
	close()
}

// openSession connects to the database of a server that does not run. With SQLite
// a crash would lose everything.
func (s *server) openSession(ctx context.Context) (session, error) {
	if s.database != nil {
		c, err := pgx.Connect(ctx, s.database.DSN())
		if err != nil {
			return nil, err
		}
		return postgresSession{c}, nil
	}
	db, err := sql.Open("sqlite", "file:"+s.databaseFile()+"?_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=cache_size(-524288)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // temporary tables are a connection's own
	return sqliteSession{db}, nil
}

type sqliteSession struct{ *sql.DB }

func (s sqliteSession) exec(ctx context.Context, statement string) error {
	_, err := s.ExecContext(ctx, statement)
	return err
}

func (s sqliteSession) texts(ctx context.Context, query string) (found []string, err error) {
	rows, err := s.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		found = append(found, text)
	}
	return found, rows.Err()
}

func (s sqliteSession) close() { s.Close() }

type postgresSession struct{ *pgx.Conn }

func (s postgresSession) exec(ctx context.Context, statement string) error {
	_, err := s.Exec(ctx, statement)
	return err
}

func (s postgresSession) texts(ctx context.Context, query string) ([]string, error) {
	rows, err := s.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (s postgresSession) close() { s.Close(context.Background()) }
