package segment

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// agePart is into how many files the messages of the time that they are kept
	// for are divided, at least: so much longer than that they are kept.
	agePart = 8
	// sizePart is the same for a bounded size.
	sizePart = 8
)

// Trim removes the oldest files: those whose messages were all enqueued before
// keep.Before, and as many as make the rest no larger than keep.Bytes. A zero
// bound is none. A file that is written is finished where that helps, so that
// the messages of a quiet hub go as well. It returns how many messages went,
// also when it fails.
func (l *Log) Trim(ctx context.Context, keep hub.Retention) (removed int, err error) {
	l.trimming.Lock()
	defer l.trimming.Unlock()
	l.roll.Store(l.segmentSize)
	if keep.Bytes > 0 {
		l.roll.Store(min(l.segmentSize, keep.Bytes/sizePart))
	}
	before := int64(math.MinInt64)
	if !keep.Before.IsZero() {
		before = record.Nanoseconds(keep.Before)
	}
	// On a full disk there is room for a new file when an old one is gone.
	if removed, err = l.remove(ctx, before, keep.Bytes); err != nil {
		return removed, err
	}
	err = l.request(ctx, &request{do: func() error {
		if !l.toFinish(before, keep.Bytes) {
			return nil
		}
		return l.add()
	}})
	if err != nil {
		return removed, err
	}
	more, err := l.remove(ctx, before, keep.Bytes)
	return removed + more, err
}

// toFinish reports whether the file that is written is to be the last one of its
// messages.
func (l *Log) toFinish(before, bytes int64) bool {
	s := l.newest()
	switch {
	case s.count == 0:
		return false
	case bytes > 0 && s.size > bytes || s.newest < before:
		return true
	}
	// The messages in it are to go while younger ones come.
	age := uint64(s.newest) - uint64(before)
	return before > math.MinInt64 && uint64(s.newest)-uint64(s.oldest) > age/agePart
}

// remove removes the oldest files.
func (l *Log) remove(ctx context.Context, before, bytes int64) (removed int, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		s := l.surplus(before, bytes)
		if s == nil {
			return removed, nil
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		// One after the other, so that after a crash none is missing between others.
		if err := syncDir(l.dir); err != nil {
			return removed, err
		}
		l.mu.Lock()
		l.segments = l.segments[1:]
		l.forget()
		l.mu.Unlock()
		removed += int(s.count)
	}
}

// surplus returns the oldest file if it is to be removed.
func (l *Log) surplus(before, bytes int64) *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segments) == 1 {
		return nil
	}
	total := int64(0)
	for _, s := range l.segments {
		total += s.size
	}
	if s := l.segments[0]; s.newest < before || bytes > 0 && total > bytes {
		return s
	}
	return nil
}
