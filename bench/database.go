package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-iot/berth/store/postgres/pgtest"
)

// The engines.
const (
	sqliteEngine   = "sqlite"
	postgresEngine = "postgres"
)

// A database is a PostgreSQL server of its own for one Berth server, with its
// defaults but for a cache of the size that its manual suggests for a machine
// with a few gigabytes.
type database struct {
	*pgtest.Server
	pid     int
	version string
	stopped bool
}

func startDatabase(ctx context.Context) (*database, error) {
	s, err := pgtest.Start(ctx, "shared_buffers=1GB")
	if err != nil {
		return nil, err
	}
	d := &database{Server: s}
	text, err := os.ReadFile(filepath.Join(s.Directory(), "data", "postmaster.pid"))
	if err == nil {
		first, _, _ := bytes.Cut(text, []byte("\n"))
		d.pid, err = strconv.Atoi(string(first))
	}
	if err == nil {
		d.version, err = d.askVersion(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return d, nil
}

func (d *database) stop() {
	if !d.stopped {
		d.stopped = true
		d.Stop()
	}
}

// cpu returns the CPU time of the server's processes that live.
func (d *database) cpu() (time.Duration, error) {
	sum, err := cpu(d.pid)
	if err != nil {
		return 0, err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", d.pid, d.pid))
	if err != nil {
		return 0, err
	}
	for child := range bytes.FieldsSeq(children) {
		pid, err := strconv.Atoi(string(child))
		if err != nil {
			return 0, err
		}
		used, err := cpu(pid)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoAccount) {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// exec runs statements one by one: some of these cannot be in a transaction.
func (d *database) exec(ctx context.Context, statements ...string) error {
	c, err := pgx.Connect(ctx, d.DSN())
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, s := range statements {
		if _, err := c.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// settle also collects what the planner goes by.
func (d *database) settle(ctx context.Context) error {
	return d.exec(ctx, "VACUUM ANALYZE", "CHECKPOINT")
}

func (d *database) size(ctx context.Context) (n int64, err error) {
	c, err := pgx.Connect(ctx, d.DSN())
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	return n, c.QueryRow(ctx, "SELECT pg_database_size(current_database())").Scan(&n)
}

func (d *database) askVersion(ctx context.Context) (v string, err error) {
	c, err := pgx.Connect(ctx, d.DSN())
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	return v, c.QueryRow(ctx, "SHOW server_version").Scan(&v)
}
