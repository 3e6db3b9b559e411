package peers

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/hub"
)

var (
	pump  = hub.Place{Hub: "hub1.example", ID: "pump-7"}
	noon  = time.Unix(1767225600, 123)
	whole = []message{
		{kind: hello, sent: noon},
		{kind: alive, sent: noon},
		{kind: leaving, sent: noon},
		{kind: connected, sent: noon, news: hub.News{Kind: hub.NewsConnected, At: pump, Connected: hub.Stamp{Time: 7, Server: 1<<64 - 1}}},
		{kind: desired, sent: noon, news: hub.News{Kind: hub.NewsDesired, At: pump, Version: 9, Patch: json.RawMessage(`{"a":null}`)}},
		{kind: disabled, sent: noon, news: hub.News{Kind: hub.NewsDisabled, At: pump}},
		{kind: deleted, sent: noon, news: hub.News{Kind: hub.NewsDeleted, At: hub.Place{Hub: "hub1.example", ID: "pump-7", Module: "Valve"}}},
		{kind: called, sent: noon, call: 5, invoke: hub.Call{At: pump, Name: "reboot", Payload: json.RawMessage(`"now"`), Response: time.Minute}},
		{kind: called, sent: noon, call: 6, invoke: hub.Call{At: pump, Name: "reboot", Response: time.Minute}},
		{kind: mine, sent: noon, call: 5},
		{kind: absent, sent: noon, call: 5},
		{kind: answered, sent: noon, call: 5, status: -3, payload: json.RawMessage(`{"a":1}`)},
		{kind: answered, sent: noon, call: 5, status: 200},
		{kind: unanswerable, sent: noon, call: 5, failure: failedTimeout},
		{kind: unanswerable, sent: noon, call: 5, failure: failedOtherwise, reason: "the connection ended"},
	}
)

func TestMessagesComeBackAsTheyWere(t *testing.T) {
	seen := map[kind]bool{}
	for _, m := range whole {
		seen[m.kind] = true
		got, err := decode(m.encode())
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
	}
	for k := hello; k <= lastKind; k++ {
		if !seen[k] {
			t.Errorf("no message of kind %d was tried", k)
		}
	}
}

func TestMessagesThatAreRefused(t *testing.T) {
	for _, m := range whole {
		b := m.encode()
		for n := range b {
			if _, err := decode(b[:n]); !errors.Is(err, errShort) {
				t.Errorf("%d of %d bytes of kind %d: %v", n, len(b), m.kind, err)
			}
		}
		if _, err := decode(append(b[:len(b):len(b)], 0)); !errors.Is(err, errLong) {
			t.Errorf("a byte too many of kind %d: %v", m.kind, err)
		}
	}
	stamped := func(m message) []byte { m.sent = noon; return m.encode() }
	late := stamped(message{kind: connected, news: hub.News{At: pump, Connected: hub.Stamp{Time: -1}}})
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"no kind":                        {append([]byte{0}, stamped(message{kind: alive})[1:]...), errNoKind},
		"a kind of another version":      {append([]byte{byte(lastKind) + 1}, stamped(message{kind: alive})[1:]...), errNoKind},
		"a time that cannot be counted":  {append([]byte{byte(alive)}, bytes.Repeat([]byte{0xff}, 8)...), errTime},
		"a stamp beyond all others":      {late, errTime},
		"a version below zero":           {stamped(message{kind: desired, news: hub.News{At: pump, Version: -1}}), errCanonical},
		"a timeout below zero":           {stamped(message{kind: called, invoke: hub.Call{At: pump, Response: -1}}), errCanonical},
		"a text longer than the message": {append(stamped(message{kind: disabled})[:9], 0xff, 0xff, 0xff, 0xff, 'a'), errShort},
	} {
		if _, err := decode(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// What is taken is written again as it was.
func FuzzMessage(f *testing.F) {
	for _, m := range whole {
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		if again := m.encode(); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func newKeys(secret byte) keys { return bytes.Repeat([]byte{secret}, 32) }

func TestFramesThatAreRefused(t *testing.T) {
	ours, from := newKeys(1), identity{1, 2, 3}
	aead, err := ours.of(from)
	if err != nil {
		t.Fatal(err)
	}
	h := header{from, 4}
	const subject = "berth.all"
	frame := seal(aead, toAll, h, subject, []byte("secret"))
	if bytes.Contains(frame, []byte("secret")) {
		t.Error("the message can be read")
	}
	got, err := parseHeader(frame)
	if err != nil || got != h {
		t.Fatalf("%v, %v", got, err)
	}
	if m, err := openFrame(aead, toAll, h, subject, frame); err != nil || string(m) != "secret" {
		t.Fatalf("%q, %v", m, err)
	}
	open := func(k keys, c channel, subject string, frame []byte) error {
		h, err := parseHeader(frame)
		if err != nil {
			return err
		}
		aead, err := k.of(h.from)
		if err != nil {
			t.Fatal(err)
		}
		_, err = openFrame(aead, c, h, subject, frame)
		return err
	}
	if err := open(newKeys(2), toAll, subject, frame); !errors.Is(err, errSealed) {
		t.Errorf("of another installation: %v", err)
	}
	if err := open(ours, toOne, subject, frame); !errors.Is(err, errSealed) {
		t.Errorf("on another channel: %v", err)
	}
	if err := open(ours, toAll, subject+".x", frame); !errors.Is(err, errSealed) {
		t.Errorf("on another subject: %v", err)
	}
	for n := range frame {
		if err := open(ours, toAll, subject, frame[:n]); err == nil {
			t.Errorf("%d of %d bytes were taken", n, len(frame))
		}
		for bit := range 8 {
			changed := bytes.Clone(frame)
			changed[n] ^= 1 << bit
			if err := open(ours, toAll, subject, changed); err == nil {
				t.Errorf("bit %d of byte %d was changed", bit, n)
			}
		}
	}
}

// account is a server without NATS that keeps account of others.
func account(t *testing.T) *Peers {
	t.Helper()
	p, err := prepare(Config{Prefix: "berth", Key: secret(1), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	p.keys = newKeys(1)
	return p
}

// A peer is another server, as it writes.
type peer struct {
	t    *testing.T
	from identity
	keys keys
}

func (p peer) frame(number uint64, m message) []byte {
	p.t.Helper()
	aead, err := p.keys.of(p.from)
	if err != nil {
		p.t.Fatal(err)
	}
	return seal(aead, toAll, header{p.from, number}, "berth.all", m.encode())
}

func TestAccountOfOtherServers(t *testing.T) {
	now := noon
	tell := func(number uint64, k kind) message { return message{kind: k, sent: now} }
	known, stranger := peer{t, identity{1}, newKeys(1)}, peer{t, identity{2}, newKeys(2)}
	p := account(t)
	checks := func() bool {
		select {
		case <-p.recheck:
			return true
		default:
			return false
		}
	}
	step := func(what string, frame []byte, want error, checked bool) {
		t.Helper()
		if _, _, err := p.hear(frame, now); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if got := checks(); got != checked {
			t.Errorf("%s: devices are checked: %v", what, got)
		}
	}
	first := known.frame(1, tell(1, hello))
	step("the first message", first, nil, false)
	step("the next", known.frame(2, tell(2, alive)), nil, false)
	step("the first once more", first, errRepeated, false)
	step("one of another installation", stranger.frame(1, tell(1, hello)), errSealed, false)
	step("no message", []byte("PING"), errFrame, false)
	step("one after some were lost", known.frame(5, tell(5, alive)), nil, true)
	step("one of the lost", known.frame(4, tell(4, alive)), errRepeated, false)

	now = now.Add(goneAfter + time.Second)
	p.missing(now)
	if !checks() || len(p.presentLocked()) != 0 {
		t.Error("a server that says nothing is there")
	}
	p.missing(now)
	if checks() {
		t.Error("a server is gone twice")
	}
	step("it is back, and lost nothing", known.frame(6, tell(6, alive)), nil, false)
	if len(p.presentLocked()) != 1 {
		t.Error("a server that is back is not there")
	}
	step("it leaves", known.frame(7, tell(7, leaving)), nil, false)
	if len(p.presentLocked()) != 0 {
		t.Error("a server that left is there")
	}
	old := known.frame(8, tell(8, alive))
	now = now.Add(forgetAfter + time.Second)
	p.missing(now)
	if checks() || len(p.others) != 0 {
		t.Error("a server that left long ago is known")
	}
	step("its last message again, when it is forgotten", old, errOld, false)
	step("one of a server that was there all the time", peer{t, identity{3}, newKeys(1)}.frame(90, tell(90, alive)), nil, true)
	ahead := message{kind: alive, sent: now.Add(maxSkew + time.Second)}
	step("one of a server whose clock is wrong", peer{t, identity{4}, newKeys(1)}.frame(1, ahead), errOld, false)
	if len(p.others) != 1 {
		t.Errorf("%d servers are known", len(p.others))
	}
	if h := p.Health(); h.Missed != 1 || h.Others != 1 {
		t.Errorf("%+v", h)
	}
	if s := p.self.String(); strings.Trim(s, "0123456789abcdef") != "" || len(s) != 32 {
		t.Errorf("%q is no part of a subject", s)
	}
}
