package segment

import (
	"context"
	"fmt"
	"os"
	"runtime"
	stdsync "sync"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	// maxWrite is how many bytes are written at once, the last frame aside.
	maxWrite = 4 << 20
	// maxQueue bounds who waits to be written. Those who come to a full queue
	// wait outside, in no order.
	maxQueue = 1024
	// maxPooled is how large a buffer may be that is used again.
	maxPooled = 1 << 20
)

// A request waits for the writer: blocks to be written, or something else to be
// done between writes.
type request struct {
	blocks []*block
	do     func() error
	done   chan struct{} // closed when it is over; err and the blocks' numbers are set before
	err    error
}

var buffers = stdsync.Pool{New: func() any { return new([]byte) }}

// Append gives each message its sequence number and keeps them all or none. They
// are durable when it returns. The messages are read before it waits.
func (l *Log) Append(ctx context.Context, ms []*hub.Message) error {
	if len(ms) == 0 {
		return nil
	}
	buffer := buffers.Get().(*[]byte)
	k, err := newBlock(*buffer, ms)
	if err != nil {
		return err
	}
	defer func() {
		if *buffer = k.bytes; cap(k.bytes) <= maxPooled {
			buffers.Put(buffer)
		}
	}()
	if err := l.request(ctx, &request{blocks: []*block{k}}); err != nil {
		return err
	}
	for i, m := range ms {
		m.Sequence = k.first + uint64(i)
	}
	return nil
}

// Import keeps messages that have their sequence numbers, in their order, each
// above that of the one before it and above Last. It is for who brings a stream
// here from elsewhere.
func (l *Log) Import(ctx context.Context, ms []*hub.Message) error {
	var r request
	for len(ms) > 0 {
		n := 1
		for n < len(ms) && ms[n].Sequence == ms[0].Sequence+uint64(n) {
			n++
		}
		k, err := newBlock(nil, ms[:n])
		if err != nil {
			return err
		}
		k.first = ms[0].Sequence
		r.blocks, ms = append(r.blocks, k), ms[n:]
	}
	return l.request(ctx, &r)
}

// Skip makes the next message's sequence number one behind last, if it is not
// above that already.
func (l *Log) Skip(ctx context.Context, last uint64) error {
	return l.request(ctx, &request{do: func() error {
		if l.next > last {
			return nil
		}
		l.next = last + 1
		if err := l.add(); err != nil {
			return err
		}
		l.news.Publish(last)
		return nil
	}})
}

// request has the writer answer r.
func (l *Log) request(ctx context.Context, r *request) error {
	r.done = make(chan struct{})
	if err := l.enqueue(ctx, r); err != nil {
		return err
	}
	<-r.done // from here on it is answered
	return r.err
}

func (l *Log) enqueue(ctx context.Context, r *request) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	select {
	case <-l.closed:
		return record.Unavailable()
	case <-ctx.Done():
		return fmt.Errorf("waiting to append: %w", ctx.Err())
	default:
	}
	select {
	case l.queue <- r:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting to append: %w", ctx.Err())
	}
}

// run answers requests until the queue is closed and empty. While one write goes
// to the disk the next one gathers.
func (l *Log) run() {
	defer close(l.written)
	var batch []*request
	for first := range l.queue {
		// Those who were just answered come again with this one, not with the next.
		runtime.Gosched()
		var then *request // what is to be done behind the batch
		batch, then = l.gather(append(batch[:0], first))
		l.answer(batch, l.keep(batch))
		if then != nil {
			l.answer([]*request{then}, l.do(then))
		}
	}
}

// gather adds to batch what else is waiting. Something else to be done ends it.
func (l *Log) gather(batch []*request) (_ []*request, then *request) {
	if batch[0].do != nil {
		return nil, batch[0]
	}
	for bytes := batch[0].size(); bytes < maxWrite; {
		select {
		case r, ok := <-l.queue:
			if !ok {
				return batch, nil
			}
			if r.do != nil {
				return batch, r
			}
			batch, bytes = append(batch, r), bytes+r.size()
			continue
		default:
		}
		break
	}
	return batch, nil
}

func (r *request) size() (n int) {
	for _, k := range r.blocks {
		n += len(k.bytes)
	}
	return n
}

func (l *Log) answer(batch []*request, err error) {
	if err != nil {
		err = record.Unavailable().WithCause(err)
	}
	for _, r := range batch {
		r.err = err
		close(r.done)
	}
}

func (l *Log) do(r *request) error {
	if l.fault != nil {
		return l.fault
	}
	return r.do()
}

// keep writes the blocks of a batch and waits until they are on the disk.
func (l *Log) keep(batch []*request) error {
	if l.fault != nil || len(batch) == 0 {
		return l.fault
	}
	size := 0
	for _, r := range batch {
		size += r.size()
	}
	s := l.newest()
	if s.size > s.frames && s.size+int64(size) > l.roll.Load() {
		if err := l.add(); err != nil {
			return fmt.Errorf("beginning a file: %w", err)
		}
		s = l.newest()
	}
	next, err := l.lay(batch, s)
	if err != nil {
		return err
	}
	if err := l.write(l.file, l.out, s.size); err != nil {
		// Without what may be there of it, the next write can be tried.
		if cut := l.file.Truncate(s.size); cut != nil {
			l.fault = fmt.Errorf("%w: %w; %w", errFaulty, err, cut)
		}
		return fmt.Errorf("writing %s: %w", s.path, err)
	}
	if err := l.sync(l.file); err != nil {
		// The kernel may forget what it could not write, and say of the next sync
		// that all is well.
		l.fault = fmt.Errorf("%w: syncing %s: %w", errFaulty, s.path, err)
		return l.fault
	}
	l.note(batch, s)
	l.next = next
	l.news.Publish(next - 1)
	return nil
}

// newest returns the file that is written. Only the writer adds files.
func (l *Log) newest() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segments[len(l.segments)-1]
}

// lay puts the frames of a batch into out, and returns the number behind the
// last message.
func (l *Log) lay(batch []*request, s *segment) (next uint64, err error) {
	next, l.out = l.next, l.out[:0]
	if cap(l.out) > 2*maxWrite {
		l.out = nil
	}
	for _, r := range batch {
		for _, k := range r.blocks {
			switch {
			case k.first == 0:
				k.first = next
			case k.first < next:
				return 0, fmt.Errorf("message %d comes behind %d", k.first, next-1)
			}
			seal(k.bytes, s.mark, frame{write: uint32(s.size), count: uint32(k.count), first: k.first}, k.sum)
			l.out = append(l.out, k.bytes...)
			next = k.first + uint64(k.count)
		}
	}
	return next, nil
}

// note remembers what has been written.
func (l *Log) note(batch []*request, s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch {
		for _, k := range r.blocks {
			s.marks = marked(s.marks, mark{k.first, s.size})
			s.size += int64(len(k.bytes))
			s.add(k.count, k.oldest, k.newest)
			for _, h := range k.hubs {
				l.hubs[h] = k.first + uint64(k.count) - 1
			}
		}
	}
}

func writeAt(f *os.File, b []byte, offset int64) error {
	_, err := f.WriteAt(b, offset)
	return err
}
