package postgres

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/berth-iot/berth/store/internal/record"
)

// copyHeader begins the binary format of COPY (PostgreSQL, "COPY", section "Binary
// Format"): signature, flags and the length of an extension, of which there are none.
const copyHeader = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// A copying is rows in the binary format of COPY. It is written by hand into one
// piece of memory that is used again: as parameters of an INSERT, rows are taken
// apart into columns, and each column is copied three times into memory that grows.
type copying []byte

// begin starts again, in the same memory.
func (c *copying) begin() { *c = append((*c)[:0], copyHeader...) }

// row begins a row of so many columns.
func (c *copying) row(columns int) { *c = binary.BigEndian.AppendUint16(*c, uint16(columns)) }

// number is a column of type bigint.
func (c *copying) number(n int64) {
	*c = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(*c, 8), uint64(n))
}

// text is a column of type text.
func (c *copying) text(s string) {
	*c = append(binary.BigEndian.AppendUint32(*c, uint32(len(s))), s...)
}

// null is a column of any type.
func (c *copying) null() { *c = binary.BigEndian.AppendUint32(*c, 1<<32-1) }

// blob is a column of type bytea, NULL when b is nil.
func (c *copying) blob(b []byte) {
	if b == nil {
		c.null()
		return
	}
	*c = append(binary.BigEndian.AppendUint32(*c, uint32(len(b))), b...)
}

// properties is a column of type text that has properties, NULL when m is nil.
func (c *copying) properties(m map[string]string) {
	if m == nil {
		c.null()
		return
	}
	began := len(*c)
	*c = record.AppendProperties(append(*c, 0, 0, 0, 0), m)
	binary.BigEndian.PutUint32((*c)[began:], uint32(len(*c)-began-4))
}

// end ends the rows.
func (c *copying) end() { *c = binary.BigEndian.AppendUint16(*c, 1<<16-1) }

// copy runs a COPY ... FROM STDIN (FORMAT binary).
func (t *tx) copy(ctx context.Context, sql string, rows copying) error {
	_, err := t.conn.PgConn().CopyFrom(ctx, bytes.NewReader(rows), sql)
	if err = sorted(t.conn, err); err != nil {
		t.failed = err // also for the server
	}
	return err
}
