package websocket

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The examples of RFC 6455 section 5.7.
func TestExamples(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		header      Header
	}{
		{"unmasked text", "81 05", Header{Final: true, Opcode: Text, Length: 5}},
		{"masked text", "81 85 37fa213d", Header{Final: true, Opcode: Text, Masked: true, Mask: [4]byte{0x37, 0xfa, 0x21, 0x3d}, Length: 5}},
		{"first fragment", "01 03", Header{Opcode: Text, Length: 3}},
		{"last fragment", "80 02", Header{Final: true, Opcode: Continuation, Length: 2}},
		{"ping", "89 05", Header{Final: true, Opcode: Ping, Length: 5}},
		{"256 bytes", "82 7e 0100", Header{Final: true, Opcode: Binary, Length: 256}},
		{"64 KiB", "82 7f 0000000000010000", Header{Final: true, Opcode: Binary, Length: 65536}},
	} {
		b := unhex(t, c.bytes)
		h, size, err := DecodeHeader(append(b, 1, 2, 3))
		if err != nil || size != len(b) || h != c.header {
			t.Errorf("%s: %+v, %d bytes, %v", c.name, h, size, err)
		}
		if got := c.header.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%s: encoded as %x", c.name, got)
		}
		for n := range b {
			if _, _, err := DecodeHeader(b[:n]); !errors.Is(err, ErrIncomplete) {
				t.Errorf("%s: %d bytes: %v", c.name, n, err)
			}
		}
	}
	hello := unhex(t, "7f9f4d5158")
	Apply([4]byte{0x37, 0xfa, 0x21, 0x3d}, hello[:2], 0)
	Apply([4]byte{0x37, 0xfa, 0x21, 0x3d}, hello[2:], 2)
	if string(hello) != "Hello" {
		t.Errorf("unmasked %q", hello)
	}
	if got := Accept("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("accept %s", got)
	}
}

func TestBreaches(t *testing.T) {
	for name, b := range map[string]string{
		"reserved bit":         "c2 00",
		"reserved opcode 3":    "83 00",
		"reserved opcode 11":   "8b 00",
		"fragmented ping":      "09 00",
		"long close":           "88 7e 0080",
		"length 125 in two":    "82 7e 007d",
		"length 65535 in four": "82 7f 000000000000ffff",
		"negative length":      "82 7f 8000000000000000",
	} {
		if _, _, err := DecodeHeader(unhex(t, b)); err == nil || errors.Is(err, ErrIncomplete) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add([]byte{0x82, 0x7e, 1, 0})
	f.Add([]byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, size, err := DecodeHeader(b)
		if err == nil && !bytes.Equal(h.Append(nil), b[:size]) {
			t.Errorf("%x decodes to %+v, which encodes to %x", b[:size], h, h.Append(nil))
		}
	})
}
