package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// maxTogether and maxTogetherBytes bound the messages that one transaction
	// appends: how long the first waits for the others, and what is in memory.
	maxTogether      = 4096
	maxTogetherBytes = 4 << 20
	// trimBatch bounds how many messages one transaction removes.
	trimBatch = 1000
)

const (
	selectMessages    = "SELECT " + record.MessageColumns + " FROM message WHERE sequence > $1 ORDER BY sequence LIMIT $2"
	selectHubMessages = "SELECT " + record.MessageColumns + " FROM message WHERE hub = $1 AND sequence > $2 ORDER BY sequence LIMIT $3"

	// takeNumbers takes the counter's row and, with it, the numbers. The row stays
	// locked until the transaction has committed, so the next one that takes numbers
	// commits later, and a reader who sees its messages sees these too: no number
	// appears behind one that was read.
	takeNumbers  = "UPDATE counter SET value = value + $1, bytes = bytes + $2 WHERE name = 'message' RETURNING value"
	copyMessages = "COPY message (" + record.MessageColumns + ") FROM STDIN (FORMAT binary)"
	tellMessages = "SELECT pg_notify('" + messageChannel + "', $1)"

	// messageBytes is what counts of a message toward the size of the stream: its
	// texts and body, and about what a row and its indexes need besides. The size of
	// the relation would count what has been removed and not been used again.
	messageBytes = "100 + coalesce(octet_length(system), 0) + coalesce(octet_length(properties), 0) + coalesce(octet_length(body), 0)"
	rowBytes     = 100

	// oldMessages are those of the $2 oldest messages that were enqueued before $1:
	// the stream is about in the order of time. Another server may be removing the
	// same messages; each takes its own.
	oldMessages = `SELECT sequence FROM message WHERE sequence IN (
			SELECT sequence FROM (SELECT sequence, enqueued FROM message ORDER BY sequence LIMIT $2) AS oldest WHERE enqueued < $1
		) FOR UPDATE SKIP LOCKED`
	// surplusMessages are the oldest messages without which the stream has $1 bytes,
	// or less by a part of one message.
	surplusMessages = `SELECT sequence FROM (
			SELECT sequence, sum(bytes) OVER (ORDER BY sequence) - bytes AS before FROM (
				SELECT sequence, ` + messageBytes + ` AS bytes FROM message ORDER BY sequence LIMIT $2
			) AS oldest
		) AS summed WHERE before < (SELECT bytes FROM counter WHERE name = 'message') - $1`
	selectBytes = "SELECT bytes FROM counter WHERE name = 'message'"
)

// deleteMessages removes the messages whose numbers a query selects, and takes
// them from the size of the stream. It returns how many those were.
func deleteMessages(selected string) string {
	return `WITH gone AS (DELETE FROM message WHERE sequence IN (` + selected + `) RETURNING ` + messageBytes + ` AS bytes)
		UPDATE counter SET bytes = greatest(0, bytes - (SELECT coalesce(sum(gone.bytes), 0) FROM gone)) WHERE name = 'message'
		RETURNING (SELECT count(*) FROM gone)`
}

// An appending waits for its transaction.
type appending struct {
	messages []*hub.Message
	done     chan struct{} // closed when it is over; first and err are set before
	first    uint64
	err      error
}

// Append implements hub.Stream. Whatever this server appends at the same time
// goes into one transaction: they would wait for each other anyway.
func (s *Store) Append(ctx context.Context, ms []*hub.Message) error {
	if s.together(ctx) != nil {
		return record.NoMessagesTogether()
	}
	a := &appending{messages: ms, done: make(chan struct{})}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("waiting to append: %w", err)
	}
	select {
	case s.appends <- a: // from here on it is answered
	case <-ctx.Done():
		return fmt.Errorf("waiting to append: %w", ctx.Err())
	case <-s.closed:
		return record.Unavailable()
	}
	<-a.done
	if a.err != nil {
		return a.err
	}
	for i, m := range ms {
		m.Sequence = a.first + uint64(i)
	}
	return nil
}

// runAppender appends what others ask for until the store is closed. While one
// transaction goes to the disk the next batch gathers.
func (s *Store) runAppender() {
	var rows messageRows
	for {
		select {
		case first := <-s.appends:
			s.append(s.gather(first), &rows)
		case <-s.closed:
			return
		}
	}
}

// gather returns first and those who wait behind it.
func (s *Store) gather(first *appending) []*appending {
	batch, n, bytes := []*appending{first}, len(first.messages), size(first)
	for n < maxTogether && bytes < maxTogetherBytes {
		select {
		case a := <-s.appends:
			batch, n, bytes = append(batch, a), n+len(a.messages), bytes+size(a)
			continue
		default:
		}
		break
	}
	return batch
}

func size(a *appending) (n int) {
	for _, m := range a.messages {
		n += len(m.Body)
	}
	return n
}

// append appends the messages of batch together, or else each of them by
// itself, so that what is wrong with one harms no other.
func (s *Store) append(batch []*appending, rows *messageRows) {
	first, err := s.appendTogether(batch, rows)
	if err != nil && len(batch) > 1 && errs.KindOf(err) != errs.Unavailable {
		for i := range batch {
			s.append(batch[i:i+1], rows)
		}
		return
	}
	for _, a := range batch {
		a.first, a.err = first, err
		first += uint64(len(a.messages))
		close(a.done)
	}
}

// appendTogether returns the sequence number of the first message.
func (s *Store) appendTogether(batch []*appending, rows *messageRows) (first uint64, err error) {
	rows.encode(batch)
	count := int64(len(rows.numbers))
	if count == 0 {
		return 0, nil
	}
	var newest int64
	err = s.transact(context.Background(), func(ctx context.Context, t *tx) error {
		err := t.read(ctx, query{func(r *record.Row) error { newest = r.Number(); return nil }, takeNumbers, []any{count, rows.bytes}})
		if err != nil {
			return err
		}
		rows.assign(newest - count + 1)
		if err := t.copy(ctx, copyMessages, rows.copying); err != nil {
			return err
		}
		t.write(tellMessages, strconv.FormatInt(newest, 10))
		return nil
	})
	if err != nil {
		return 0, err
	}
	s.news.Publish(uint64(newest))
	return uint64(newest - count + 1), nil
}

// messageRows are messages as rows, before they have their numbers: while these
// are taken, all servers wait.
type messageRows struct {
	copying
	numbers []int // where the number of each message is to be
	bytes   int64 // what they count toward the size of the stream
}

func (rows *messageRows) encode(batch []*appending) {
	rows.begin()
	rows.numbers, rows.bytes = rows.numbers[:0], 0
	for _, a := range batch {
		for _, m := range a.messages {
			rows.message(m)
		}
	}
	rows.end()
}

// message adds a row of record.MessageColumns.
func (rows *messageRows) message(m *hub.Message) {
	rows.row(8)
	rows.numbers = append(rows.numbers, len(rows.copying)+4) // behind the length
	rows.number(0)
	rows.text(m.Hub)
	rows.text(string(m.DeviceID))
	rows.text(string(m.ModuleID))
	rows.number(record.Nanoseconds(m.Enqueued))
	counted := len(rows.copying) + 3*4 // the lengths of the three do not count
	rows.properties(m.System)
	rows.properties(m.Properties)
	rows.blob(m.Body)
	rows.bytes += int64(rowBytes + len(rows.copying) - counted)
}

// number gives the messages their sequence numbers.
func (rows *messageRows) assign(first int64) {
	for i, at := range rows.numbers {
		binary.BigEndian.PutUint64(rows.copying[at:], uint64(first)+uint64(i))
	}
}

// Read implements hub.Stream.
func (s *Store) Read(ctx context.Context, host string, after uint64, limit int) ([]*hub.Message, error) {
	if host == "" {
		return list(ctx, s, record.Message, selectMessages, record.Above(after), record.Limit(limit))
	}
	return list(ctx, s, record.Message, selectHubMessages, host, record.Above(after), record.Limit(limit))
}

// LastSequence implements hub.Stream. It stays when the message is trimmed.
func (s *Store) LastSequence(ctx context.Context) (uint64, error) {
	var last int64
	err := s.query(ctx, func(r *record.Row) error { last = r.Number(); return nil }, "SELECT value FROM counter WHERE name = 'message'")
	return uint64(last), err
}

// Wait returns when there is a message with a sequence number above after,
// whichever server appended it. Should its notification be lost, that takes
// up to a second.
func (s *Store) Wait(ctx context.Context, after uint64) error {
	for {
		last, changed := s.news.Watch()
		if last > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return record.Unavailable()
		}
	}
}

// Trim implements hub.Stream. It removes the messages in several transactions,
// and returns how many went also when one of them fails.
func (s *Store) Trim(ctx context.Context, keep hub.Retention) (removed int, err error) {
	if s.together(ctx) != nil {
		return 0, record.NoMessagesTogether()
	}
	if !keep.Before.IsZero() {
		removed, err = s.trim(ctx, deleteMessages(oldMessages), record.Nanoseconds(keep.Before))
	}
	if err != nil || keep.Bytes == 0 {
		return removed, err
	}
	// Most of the time nothing is to go: then nobody's append waits for this.
	var bytes int64
	err = s.query(ctx, func(r *record.Row) error { bytes = r.Number(); return nil }, selectBytes)
	if err != nil || bytes <= keep.Bytes {
		return removed, err
	}
	more, err := s.trim(ctx, deleteMessages(surplusMessages), keep.Bytes)
	return removed + more, err
}

// trim runs a query of deleteMessages until it removes nothing more.
func (s *Store) trim(ctx context.Context, query string, bound int64) (removed int, err error) {
	for {
		var n int
		err := s.transact(ctx, func(_ context.Context, t *tx) error {
			t.write(query, bound, int64(trimBatch)).QueryRow(func(r pgx.Row) error { return r.Scan(&n) })
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed += n
		if n < trimBatch {
			return removed, nil
		}
	}
}
