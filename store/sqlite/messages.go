package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
	"github.com/berth-iot/berth/store/segment"
)

// StreamSuffix is behind the path of a database in that of the directory with
// its messages.
const StreamSuffix = "-stream"

func streamDir(path string) string { return path + StreamSuffix }

// Append implements hub.Stream.
func (s *Store) Append(ctx context.Context, ms []*hub.Message) error {
	if s.together(ctx) != nil {
		return record.NoMessagesTogether()
	}
	return s.stream.Append(ctx, ms)
}

// Read implements hub.Stream.
func (s *Store) Read(ctx context.Context, host string, after uint64, limit int) ([]*hub.Message, error) {
	return s.stream.Read(ctx, host, after, limit)
}

// LastSequence implements hub.Stream. It stays when the message is trimmed.
func (s *Store) LastSequence(context.Context) (uint64, error) { return s.stream.Last(), nil }

// Wait returns when there is a message with a sequence number above after.
func (s *Store) Wait(ctx context.Context, after uint64) error { return s.stream.Wait(ctx, after) }

// Trim implements hub.Stream. It removes whole files, and returns how many
// messages went also when it fails.
func (s *Store) Trim(ctx context.Context, keep hub.Retention) (removed int, err error) {
	if s.together(ctx) != nil {
		return 0, record.NoMessagesTogether()
	}
	if removed, err = s.stream.Trim(ctx, keep); err != nil {
		return removed, err
	}
	return removed, s.noteLast(ctx)
}

// noteLast has the database know how far the stream is, so that files which are
// lost are missed.
func (s *Store) noteLast(ctx context.Context) error {
	last := int64(s.stream.Last())
	if s.noted.Swap(last) == last {
		return nil
	}
	return s.write(ctx, func(t *tx) error {
		return t.exec("UPDATE message_trimmed SET sequence = ? WHERE sequence < ?", last, last)
	})
}

// StreamSize returns how many bytes the files of messages have, and how many
// files there are.
func (s *Store) StreamSize() (bytes int64, files int) { return s.stream.Size() }

const (
	// moveBatch is how many messages are moved out of the database at once.
	moveBatch        = 1000
	selectOldMessage = "SELECT " + record.MessageColumns + " FROM message WHERE sequence > ? ORDER BY sequence LIMIT ?"
)

// openStream opens the messages, and moves those into the stream that an older
// version kept in the database. Should that be interrupted, it goes on where it
// was: a message leaves the database when all of them are in the stream.
func (s *Store) openStream(ctx context.Context, path string) error {
	var newest, old uint64
	moved := false
	err := s.writer.each(func(r *record.Row) error {
		newest, moved, old = uint64(r.Number()), r.Flag(), uint64(r.Number())
		return nil
	}, "SELECT sequence, moved, (SELECT coalesce(max(sequence), 0) FROM message) FROM message_trimmed")
	if err != nil {
		return err
	}
	dir := streamDir(path)
	if moved {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("its messages are missing: %w; restore them from a backup, or give them up with: mkdir -m 700 %s", err, dir)
		}
	}
	first := segment.Options{After: newest}
	if old > 0 {
		first.After = 0 // some may have lower numbers
	}
	if s.stream, err = segment.Open(dir, first); err != nil {
		return err
	}
	if moved && s.stream.Last() < newest {
		return fmt.Errorf("its newest messages are missing: %s ends with number %d, and went to %d; restore a backup, or give up all messages with: mv %s %s.old && mkdir -m 700 %s",
			dir, s.stream.Last(), newest, dir, dir, dir)
	}
	if moved && old == 0 {
		return nil
	}
	if err := s.moveMessages(ctx); err != nil {
		return fmt.Errorf("moving messages into the stream: %w", err)
	}
	if err := s.stream.Skip(ctx, max(newest, old)); err != nil {
		return err
	}
	return s.writer.script("BEGIN IMMEDIATE; DELETE FROM message; UPDATE message_trimmed SET moved = 1; COMMIT")
}

func (s *Store) moveMessages(ctx context.Context) error {
	for {
		ms, err := all(s.writer, record.Message, selectOldMessage, record.Above(s.stream.Last()), int64(moveBatch))
		if err != nil || len(ms) == 0 {
			return err
		}
		if err := s.stream.Import(ctx, ms); err != nil {
			return err
		}
	}
}
