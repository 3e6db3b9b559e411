package sqlite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

// migrations are the steps from an empty database to the current schema. They
// are numbered from 1 without gaps and never change once released; the number
// of the last one applied is the database's user_version.
//
//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks a database file as ours (SQLite database file format,
// offset 68). The first migration sets it.
const applicationID = 0x42657274

// recognise refuses a database that some other program made.
func recognise(c *conn) error {
	id, err := c.number("PRAGMA application_id")
	if err != nil {
		return err
	}
	if id == applicationID {
		return nil
	}
	tables, err := c.number("SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return err
	}
	if id != 0 || tables != 0 {
		return errors.New("it is the database of another program")
	}
	return nil
}

// migrate brings the schema up to date, each step in its own transaction.
func migrate(ctx context.Context, c *conn) error {
	steps, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	have, err := c.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	if have > int64(len(steps)) {
		return fmt.Errorf("a newer version of this program wrote it (schema %d; this one knows up to %d)", have, len(steps))
	}
	for i, name := range steps {
		if int64(i) < have {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		if err := c.script(fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; COMMIT", text, i+1)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
