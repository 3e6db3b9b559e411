package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/internal/sealed"
	"github.com/berth-iot/berth/store/segment"
)

// A Snapshot is what a database held at one moment, and what the stream beside
// it held a moment later. It is one read transaction, on a connection of its
// own: whatever was committed before it began is in it, a server that has the
// database open goes on writing, and the write-ahead log grows until Close. Its
// methods are for one goroutine.
type Snapshot struct {
	conn          *conn
	schema, known int
	size          int64
	stream        *segment.Snapshot
	streamFault   error
}

// OpenSnapshot looks at the database file at path, which a server may have
// open. It changes nothing and migrates nothing, and it refuses a database that
// another program or a newer version of this one made.
func OpenSnapshot(path string) (*Snapshot, error) {
	s, err := openSnapshot(path)
	if err != nil {
		return nil, fmt.Errorf("reading the database %s: %w", path, err)
	}
	return s, nil
}

func openSnapshot(path string) (_ *Snapshot, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err // the engine's word for it is "unable to open"
	}
	steps, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	s := &Snapshot{known: len(steps)}
	if s.conn, err = connect(dsn(path) + "&mode=ro"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.conn.script("PRAGMA busy_timeout = 5000; PRAGMA cache_size = -8192; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY; BEGIN"); err != nil {
		return nil, err
	}
	// The first read is where the transaction begins.
	if err := recognise(s.conn); err != nil {
		return nil, err
	}
	schema, err := s.conn.number("PRAGMA user_version")
	if err != nil {
		return nil, err
	}
	if s.schema = int(schema); s.schema == 0 || s.schema > s.known {
		return nil, fmt.Errorf("its schema is %d, and this program knows 1 to %d", s.schema, s.known)
	}
	pages, err := s.conn.number("PRAGMA page_count")
	if err != nil {
		return nil, err
	}
	bytes, err := s.conn.number("PRAGMA page_size")
	if err != nil {
		return nil, err
	}
	s.size = pages * bytes
	return s, s.openStream(path)
}

// streamSchema is the schema from which on messages are in files.
const streamSchema = 7

// openStream looks at the messages after the transaction has begun: what was
// acknowledged before is in one of them, should they move meanwhile.
func (s *Snapshot) openStream(path string) error {
	moved := int64(0)
	if s.schema >= streamSchema {
		var err error
		if moved, err = s.conn.number("SELECT moved FROM message_trimmed"); err != nil {
			return err
		}
	}
	_, err := os.Stat(streamDir(path))
	if moved == 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.stream, s.streamFault = segment.OpenSnapshot(streamDir(path))
	return nil
}

// Stream returns the messages, nil where they are still in the database, or why
// they cannot be read.
func (s *Snapshot) Stream() (*segment.Snapshot, error) { return s.stream, s.streamFault }

// Close ends the snapshot.
func (s *Snapshot) Close() error {
	err := s.conn.close()
	if s.stream != nil {
		err = errors.Join(err, s.stream.Close())
	}
	return err
}

// Size is the length in bytes of what Copy writes.
func (s *Snapshot) Size() int64 { return s.size }

// Schema returns the version of the database's schema, and the one that a
// server of this program would migrate it to.
func (s *Snapshot) Schema() (have, known int) { return s.schema, s.known }

// Copy writes the snapshot as a database file, page by page.
func (s *Snapshot) Copy(ctx context.Context, w io.Writer) error {
	var written int64
	err := s.each(ctx, func(row []driver.Value) error {
		page, ok := row[0].([]byte)
		if !ok {
			return errors.New("a page of the database cannot be read")
		}
		n, err := w.Write(page)
		written += int64(n)
		return err
	}, "SELECT data FROM sqlite_dbpage")
	if err == nil && written != s.size {
		err = fmt.Errorf("%d bytes of %d were read", written, s.size)
	}
	if err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	return nil
}

// Check has the engine look for damage. A quick check reads every page once; a
// thorough one also compares every index with its table.
func (s *Snapshot) Check(ctx context.Context, thorough bool) error {
	query := "PRAGMA quick_check(1)"
	if thorough {
		query = "PRAGMA integrity_check(1)"
	}
	return s.each(ctx, func(row []driver.Value) error {
		if report, _ := row[0].(string); report != "ok" {
			return fmt.Errorf("the database is damaged: %s", report)
		}
		return nil
	}, query)
}

// each calls use with every row. Unlike conn.each it ends with ctx: nobody
// shares this connection, and a large database takes minutes.
func (s *Snapshot) each(ctx context.Context, use func(row []driver.Value) error, query string) error {
	statement, err := s.conn.prepare(query)
	if err != nil {
		return err
	}
	rows, err := statement.QueryContext(ctx, nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch err := rows.Next(row); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := use(row); err != nil {
			return err
		}
	}
}

// OpensWith returns an error unless the secrets in the database are sealed by
// sealer.
func (s *Snapshot) OpensWith(sealer hsm.Sealer) error {
	var check []byte
	err := s.conn.each(func(r *record.Row) error { check = r.Blob(); return nil }, "SELECT sealed FROM seal_check WHERE id = 1")
	if err != nil {
		return fmt.Errorf("reading what the server key must open: %w", err)
	}
	if !sealed.Opens(sealer, check) {
		return errors.New("its secrets are sealed under another server key")
	}
	return nil
}

// Linked returns the hubs of scope, ordered by host without case. The keys of
// their connections stay sealed and are not returned.
func (s *Snapshot) Linked(scope device.IDScope) ([]provision.LinkedHub, error) {
	query := selectLinked
	if s.schema < 4 { // when there were no hubs elsewhere
		query = "SELECT host, weight, allocation, NULL, '', NULL FROM linked_hub WHERE scope = ? ORDER BY host"
	}
	return all(s.conn, record.SealedLinkedHub, query, string(scope))
}

// LinkedElsewhere returns the hubs elsewhere of scope with their connections,
// whose keys sealer opens.
func (s *Snapshot) LinkedElsewhere(sealer hsm.Sealer, scope device.IDScope) ([]provision.LinkedHub, error) {
	if s.schema < 4 {
		return nil, nil
	}
	linked, err := all(s.conn, record.Codec{Sealer: sealer}.LinkedHub(scope), selectLinked, string(scope))
	return slices.DeleteFunc(linked, func(h provision.LinkedHub) bool { return h.Connection == nil }), err
}

// A Reference is a group's to a CA certificate of the service.
type Reference struct {
	Group, CA string
	Kept      bool // whether there is a certificate of the name
}

// BrokenReferences returns up to limit references of scope to CA certificates that
// are not there or not verified, ordered by group. Through them no device comes in.
func (s *Snapshot) BrokenReferences(scope device.IDScope, limit int) ([]Reference, error) {
	if s.schema < 4 { // when no group could begin to name one
		return nil, nil
	}
	read := func(r *record.Row) (Reference, error) { return Reference{r.Text(), r.Text(), r.Flag()}, nil }
	return all(s.conn, read, `WITH named AS (
			SELECT key, id, x509_primary_name AS ca FROM enrollment WHERE scope = ?1 AND x509_primary_name <> '' UNION
			SELECT key, id, x509_secondary_name FROM enrollment WHERE scope = ?1 AND x509_secondary_name <> '')
		SELECT id, ca, c.name IS NOT NULL FROM named LEFT JOIN ca_certificate c ON c.scope = ?1 AND c.name = named.ca
		WHERE c.name IS NULL OR NOT c.verified ORDER BY key, ca LIMIT ?2`, string(scope), int64(limit))
}

// ListSharedKeys is Store.ListSharedKeys. An older schema knows of none.
func (s *Snapshot) ListSharedKeys(scope device.IDScope, limit int) ([][]string, error) {
	if s.schema < 4 {
		return nil, nil
	}
	var sharers record.Sharers
	err := s.conn.each(sharers.Read, selectAllSharers, string(scope))
	return sharers.Groups(limit), err
}

// ListScopes returns every provisioning tenant, ordered by ID.
func (s *Snapshot) ListScopes() ([]provision.Scope, error) {
	query := selectScopes
	if s.schema < 4 { // when there was one
		query = "SELECT id, allocation, NULL, NULL, 'warn' FROM scope ORDER BY id"
	}
	return all(s.conn, record.Scope, query)
}

// HasScope reports whether there is such a tenant.
func (s *Snapshot) HasScope(scope device.IDScope) (bool, error) {
	n, err := s.conn.number("SELECT count(*) FROM scope WHERE id = ?", string(scope))
	return n > 0, err
}

// Policies returns the policies of owner, whose keys sealer opens.
func (s *Snapshot) Policies(sealer hsm.Sealer, owner access.Owner) ([]access.Policy, error) {
	return all(s.conn, record.Codec{Sealer: sealer}.Policy(owner), selectPolicies, string(owner))
}

// Newest returns when the newest of its records was made, or the zero time when
// there is none.
func (s *Snapshot) Newest() (time.Time, error) {
	var newest time.Time
	err := s.conn.each(func(r *record.Row) error { newest = r.Time(); return nil }, `SELECT max(t) FROM (
		SELECT max(updated) AS t FROM enrollment UNION ALL
		SELECT max(updated) FROM registration UNION ALL
		SELECT enqueued FROM (SELECT enqueued FROM message ORDER BY sequence DESC LIMIT 1))`)
	if s.stream != nil && s.stream.Newest().After(newest) {
		newest = s.stream.Newest()
	}
	return newest, err
}
