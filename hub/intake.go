package hub

import (
	"context"
	"fmt"
	"sync"
)

const (
	// intakeBatch is how many messages are appended at once, at most, and
	// intakeBytes how many bytes they have, the last one aside.
	intakeBatch = 2048
	intakeBytes = 4 << 20
	// intakeWaiting is how many messages wait to be appended, and intakeWaitingBytes
	// how many bytes they have, the last one aside. Whoever brings more waits
	// outside.
	intakeWaiting      = 4 * intakeBatch
	intakeWaitingBytes = 8 * intakeBytes
)

// An arrival is a message that is to be kept, and who wants to know.
type arrival struct {
	message *Message
	kept    func(error)
	size    int // of the message, in bytes; add works it out
}

// An intake appends messages to the stream in the order in which they came, many
// at once where many come. While there are none it has no goroutine. The zero
// value is ready.
type intake struct {
	mu      sync.Mutex // guards what follows
	waiting []arrival
	bytes   int // of those
	running bool
	room    chan struct{} // closed when there is room again; nil while there is
}

func (in *intake) add(ctx context.Context, stream Stream, a arrival) error {
	a.size = a.message.size()
	for {
		in.mu.Lock()
		if len(in.waiting) < intakeWaiting && in.bytes < intakeWaitingBytes {
			in.waiting = append(in.waiting, a)
			in.bytes += a.size
			if !in.running {
				in.running = true
				go in.run(stream)
			}
			in.mu.Unlock()
			return nil
		}
		if in.room == nil {
			in.room = make(chan struct{})
		}
		room := in.room
		in.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("waiting for messages before this one: %w", context.Cause(ctx))
		}
	}
}

// run appends until nothing waits.
func (in *intake) run(stream Stream) {
	for {
		batch := in.take()
		if batch == nil {
			return
		}
		messages := make([]*Message, len(batch))
		for i, a := range batch {
			messages[i] = a.message
		}
		// Nobody's context: what was taken in is somebody else's as well.
		err := stream.Append(context.Background(), messages)
		if err != nil {
			err = fmt.Errorf("keeping %d message(s): %w", len(messages), err)
		}
		for _, a := range batch {
			a.kept(err)
		}
	}
}

// take returns what is to be appended next, nil when there is nothing.
func (in *intake) take() []arrival {
	in.mu.Lock()
	defer in.mu.Unlock()
	n, bytes := 0, 0
	for n < len(in.waiting) && n < intakeBatch && bytes < intakeBytes {
		bytes += in.waiting[n].size
		n++
	}
	if n == 0 {
		in.waiting, in.running = nil, false
		return nil
	}
	batch := in.waiting[:n:n]
	in.waiting = in.waiting[n:]
	in.bytes -= bytes
	if in.room != nil {
		close(in.room)
		in.room = nil
	}
	return batch
}
