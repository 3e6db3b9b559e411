package hubmqtt

import (
	"context"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/hubtopic"
)

// maxHanded is how many messages to the device wait for its PUBACK. The
// connection's window has room for other things beside them.
const maxHanded = 4

// handing is what a session knows of the messages in the device's queue that it
// hands over: at most one goroutine does so, in the order of the queue.
type handing struct {
	running bool
	again   bool   // there may be more than the goroutine knows of
	after   uint64 // the sequence number of the last one that was sent
	unacked int
}

// Queued implements hub.Link.
func (s *session) Queued() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handOverLocked()
}

func (s *session) handOverLocked() {
	h := &s.handing
	h.again = true
	if !h.running {
		h.running = true
		go s.handOver()
	}
}

// handOver sends what is in the queue until there is no more, or the device has
// enough to acknowledge.
func (s *session) handOver() {
	for {
		after, qos, ok := s.mayHandOver()
		if !ok {
			return
		}
		// Nobody's context: the device is told of what it was given.
		m, err := s.Service.Deliver(context.Background(), s.from, after)
		if err == nil && m != nil {
			err = s.hand(m, qos)
		}
		if err != nil {
			s.handingFailed(err)
			return
		}
		if m == nil && s.handedAll() {
			return
		}
	}
}

// mayHandOver says behind which message to go on, and with which QoS. Where that
// is not to be, the goroutine has ended.
func (s *session) mayHandOver() (after uint64, qos byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.handing
	qos, ok = s.granted[hubtopic.CloudToDevice(string(s.from.ID))]
	select {
	case <-s.conn.Done():
		ok = false
	default:
	}
	if !ok || h.unacked >= maxHanded {
		h.running = false
		return 0, 0, false
	}
	h.again = false
	return h.after, qos, true
}

// handedAll ends the goroutine, unless something was queued meanwhile.
func (s *session) handedAll() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handing.running = s.handing.again
	return !s.handing.running
}

// hand sends one message. Of QoS 0 it is completed when it is sent, and of QoS 1
// when the device acknowledges it.
func (s *session) hand(m *hub.CloudMessage, qos byte) error {
	s.mu.Lock()
	s.handing.after = m.Sequence
	var acknowledged func()
	if qos > 0 {
		s.handing.unacked++
		acknowledged = func() { s.handed(m.Sequence) }
	}
	s.mu.Unlock()
	if err := s.conn.Send(m.Topic(s.from.ID), m.Body, acknowledged); err != nil {
		return err
	}
	if qos > 0 {
		return nil
	}
	return s.Service.Delivered(context.Background(), s.from, m.Sequence)
}

// handed completes a message that the device has acknowledged.
func (s *session) handed(sequence uint64) {
	if err := s.Service.Delivered(context.Background(), s.from, sequence); err != nil {
		s.handingFailed(err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handing.unacked--
	s.handOverLocked()
}

// handingFailed ends the connection: the device is given again, when it is back,
// what it did not acknowledge.
func (s *session) handingFailed(err error) {
	select {
	case <-s.conn.Done(): // what failed is of no use any more
	default:
		s.Logger.Error("handing over a message", "hub", s.from.Hub, "device_id", s.from.ID, "error", err)
	}
	s.conn.Close(err)
}
