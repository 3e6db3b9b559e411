package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

const (
	// checkInterval is how often a server asks whether it missed something.
	checkInterval = time.Second
	// maxStale bounds how long a server can go on with what another one has
	// changed, when no notification tells it and asking fails: what it keeps in
	// memory is used this long after it was last known to be current.
	maxStale = 2 * time.Second
	// checkTimeout bounds asking; a connection that took longer is given up.
	checkTimeout = 5 * time.Second
	// maxBackoff bounds the pause between two attempts to connect again.
	maxBackoff = time.Second
)

// The channels of NOTIFY. A notification on changeChannel says that the counter
// "change" went on, one on messageChannel has the stream's newest sequence
// number in decimal, and one on queueChannel the hub and the ID of a device to
// which messages were queued, with a slash between them.
const (
	changeChannel  = "berth_change"
	messageChannel = "berth_message"
	queueChannel   = "berth_queue"
)

const selectNews = `SELECT (SELECT value FROM counter WHERE name = 'change'), (SELECT value FROM counter WHERE name = 'message'),
	version, minimum_reader FROM berth_schema`

// A listener hears what other servers have to tell, on a connection of its own.
type listener struct {
	store *Store
	conn  *pgx.Conn // nil while there is none
}

// connect makes the connection, listens and then asks: what happened before is
// in the answer, what happens later is told.
func (l *listener) connect(ctx context.Context) error {
	c, err := l.store.pool.connect(ctx)
	if err != nil {
		return err
	}
	l.conn = c
	if err := script(ctx, c, "LISTEN "+changeChannel+"; LISTEN "+messageChannel+"; LISTEN "+queueChannel); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	l.store.tellQueued(hub.Place{}) // whatever was told while nobody listened
	return l.check(ctx)
}

// check asks for the news, and says from when on they are known.
func (l *listener) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	asked := time.Now()
	var changes, sequence int64
	var now schema
	if err := l.conn.QueryRow(ctx, selectNews).Scan(&changes, &sequence, &now.version, &now.minimumReader); err != nil {
		return sorted(l.conn, err)
	}
	l.store.outgrown.Store(now.accepts(len(steps())) != nil)
	if changes != l.store.changes.Load() {
		l.store.forgetAll()
		l.store.changes.Store(changes)
	}
	l.store.confirmed.Store(&asked)
	l.store.news.Publish(uint64(sequence))
	return nil
}

// run hears until ctx ends, and connects again when the connection breaks.
func (l *listener) run(ctx context.Context) {
	var backoff time.Duration
	for ctx.Err() == nil {
		if err := l.hear(ctx); err == nil {
			backoff = 0
			continue
		}
		l.hangUp()
		backoff = min(maxBackoff, 2*backoff+10*time.Millisecond)
		pause := time.NewTimer(backoff)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
	l.hangUp()
}

// hear waits for one notification, or asks when it is time to.
func (l *listener) hear(ctx context.Context) error {
	if l.conn == nil {
		return l.connect(ctx)
	}
	due := l.store.confirmed.Load().Add(checkInterval)
	if !time.Now().Before(due) {
		return l.check(ctx)
	}
	wait, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	n, err := l.conn.WaitForNotification(wait)
	switch {
	case err == nil && n.Channel == messageChannel:
		return l.told(ctx, n.Payload)
	case err == nil && n.Channel == queueChannel:
		host, id, _ := strings.Cut(n.Payload, "/")
		l.store.tellQueued(hub.Place{Hub: host, ID: device.ID(id)})
		return nil
	case err == nil:
		return l.check(ctx)
	case ctx.Err() == nil && pgconn.Timeout(err) && !l.conn.IsClosed():
		return nil
	}
	return err
}

// told publishes the sequence number of a notification.
func (l *listener) told(ctx context.Context, payload string) error {
	sequence, err := strconv.ParseUint(payload, 10, 63)
	if err != nil {
		return l.check(ctx) // somebody else's notification
	}
	l.store.news.Publish(sequence)
	return nil
}

func (l *listener) hangUp() {
	if l.conn != nil {
		closeQuietly(l.conn)
		l.conn = nil
	}
}
