package record

import (
	"bytes"
	"encoding/json"
	"maps"
	"testing"
)

// Whatever is in properties is read as it was written.
func TestProperties(t *testing.T) {
	if v := Properties(nil); v != nil {
		t.Errorf("no map became %v", v)
	}
	for _, m := range []map[string]string{
		{},
		{"line": "press-4", "": "", "enqueuedtime": "2026-03-01T12:00:01.0000000Z"},
		{"quote\"": `a\b`, "control\n": "\x00\x7f", "Größe": "50 µm", "<&>": "\u2028", "method": `{"scope":"device"}`},
	} {
		var read map[string]string
		text, _ := Properties(m).(string)
		if behind := AppendProperties([]byte("text"), m); !bytes.HasPrefix(behind, []byte("text{")) || bytes.Contains(behind, []byte("{,")) {
			t.Errorf("behind another text, %q became %s", m, behind)
		}
		if err := json.Unmarshal([]byte(text), &read); err != nil || !maps.Equal(read, m) {
			t.Errorf("%q became %s (%v)", m, text, err)
		}
	}
}

func BenchmarkProperties(b *testing.B) {
	m := map[string]string{
		"connection-device-id": "0123456789abcdef0123", "connection-auth-generation-id": "637946283462834628", "message-source": "Telemetry",
		"connection-auth-method": `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`, "enqueuedtime": "2026-03-01T12:00:01.0000000Z",
	}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Properties(m)
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			encoded(m, false)
		}
	})
}
