package peers

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
)

// A kind says what a message is. News go to all other servers, the rest to one.
type kind uint8

const (
	hello        kind = iota + 1 // who hears it says alive at once
	alive                        // from time to time, so that it shows when one is not
	leaving                      // this server ends
	connected                    // the kinds of hub.News
	desired                      //
	disabled                     //
	deleted                      //
	called                       // a direct method: all servers say at once whether they have the device
	mine                         // it is connected here: the answer follows
	absent                       // it is not
	answered                     // by the device
	unanswerable                 // why there is no answer of the device
	lastKind     = unanswerable
)

// A message is what one server sends to others. Which members count depends on the
// kind.
type message struct {
	kind kind
	sent time.Time // by the clock of the sender

	news hub.News // of the kinds of hub.News

	call    uint64 // which one, of the server that calls
	invoke  hub.Call
	status  int
	payload json.RawMessage // of the answer
	failure failure
	reason  string // of a failure
}

// A failure is why a device does not answer.
type failure uint8

const (
	failedOtherwise failure = iota + 1 // as the reason says
	failedNoMethods                    // hub.ErrNoMethods
	failedTimeout                      // it took too long
)

var newsKinds = map[hub.NewsKind]kind{
	hub.NewsConnected: connected, hub.NewsDesired: desired, hub.NewsDisabled: disabled, hub.NewsDeleted: deleted,
}

// ofNews is the kind.
var ofNews = func() map[kind]hub.NewsKind {
	turned := make(map[kind]hub.NewsKind)
	for n, k := range newsKinds {
		turned[k] = n
	}
	return turned
}()

// maxTime bounds what times other servers may have, in nanoseconds since 1970: it is
// in the year 2116, and numbers from there on have room to count.
const maxTime = 1 << 62

var (
	errShort     = errors.New("it ends too early")
	errLong      = errors.New("it goes on behind its end")
	errNoKind    = errors.New("its kind is not known")
	errTime      = errors.New("its time is out of bounds")
	errCanonical = errors.New("its numbers are out of bounds")
)

// encode writes a message: the kind in one byte, the time, and then the members of
// the kind, numbers big-endian and texts behind their lengths.
func (m message) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{byte(m.kind)}, uint64(m.sent.UnixNano()))
	switch m.kind {
	case connected:
		b = appendPlace(b, m.news.At)
		b = binary.BigEndian.AppendUint64(b, uint64(m.news.Connected.Time))
		b = binary.BigEndian.AppendUint64(b, m.news.Connected.Server)
	case desired:
		b = appendPlace(b, m.news.At)
		b = binary.BigEndian.AppendUint64(b, uint64(m.news.Version))
		b = appendText(b, string(m.news.Patch))
	case disabled, deleted:
		b = appendPlace(b, m.news.At)
	case called:
		b = binary.BigEndian.AppendUint64(b, m.call)
		b = appendPlace(b, m.invoke.At)
		b = binary.BigEndian.AppendUint64(b, uint64(m.invoke.Response))
		b = appendText(b, m.invoke.Name)
		b = appendText(b, string(m.invoke.Payload))
	case mine, absent:
		b = binary.BigEndian.AppendUint64(b, m.call)
	case answered:
		b = binary.BigEndian.AppendUint64(b, m.call)
		b = binary.BigEndian.AppendUint64(b, uint64(m.status))
		b = appendText(b, string(m.payload))
	case unanswerable:
		b = binary.BigEndian.AppendUint64(b, m.call)
		b = appendText(append(b, byte(m.failure)), m.reason)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendPlace(b []byte, at hub.Place) []byte {
	return appendText(appendText(appendText(b, at.Hub), string(at.ID)), string(at.Module))
}

// decode reads what encode wrote, and nothing else.
func decode(b []byte) (message, error) {
	r := reader{rest: b}
	m := message{kind: kind(r.byte()), sent: time.Unix(0, r.time())}
	switch m.kind {
	case hello, alive, leaving:
	case connected:
		m.news = hub.News{At: r.place(), Connected: hub.Stamp{Time: r.time(), Server: r.uint64()}}
	case desired:
		m.news = hub.News{At: r.place(), Version: r.positive(), Patch: r.json()}
	case disabled, deleted:
		m.news = hub.News{At: r.place()}
	case called:
		m.call = r.uint64()
		m.invoke = hub.Call{At: r.place(), Response: time.Duration(r.positive()), Name: r.text(), Payload: r.json()}
	case mine, absent:
		m.call = r.uint64()
	case answered:
		m.call = r.uint64()
		m.status, m.payload = int(int64(r.uint64())), r.json()
	case unanswerable:
		m.call = r.uint64()
		m.failure, m.reason = failure(r.byte()), r.text()
	default:
		r.fail(errNoKind)
	}
	m.news.Kind = ofNews[m.kind]
	if len(r.rest) > 0 {
		r.fail(errLong)
	}
	if r.err != nil {
		return message{}, fmt.Errorf("a message of another server: %w", r.err)
	}
	return m, nil
}

// A reader takes a message apart. Behind the first fault it reads nothing.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.rest = err, nil
	}
}

// take returns the next n bytes, or nil where there are fewer.
func (r *reader) take(n int) []byte {
	if len(r.rest) < n {
		r.fail(errShort)
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) positive() int64 {
	n := r.uint64()
	if n > 1<<63-1 {
		r.fail(errCanonical)
		return 0
	}
	return int64(n)
}

func (r *reader) time() int64 {
	n := r.uint64()
	if n > maxTime {
		r.fail(errTime)
		return 0
	}
	return int64(n)
}

func (r *reader) text() string {
	b := r.take(4)
	if b == nil {
		return ""
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(r.rest)) {
		r.fail(errShort)
		return ""
	}
	return string(r.take(int(n)))
}

// json is nil for an empty text, which is no JSON.
func (r *reader) json() json.RawMessage {
	if s := r.text(); s != "" {
		return json.RawMessage(s)
	}
	return nil
}

func (r *reader) place() hub.Place {
	return hub.Place{Hub: r.text(), ID: device.ID(r.text()), Module: device.ID(r.text())}
}
