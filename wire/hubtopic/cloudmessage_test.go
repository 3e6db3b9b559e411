package hubtopic

import (
	"net/url"
	"strings"
	"testing"
)

func TestCloudMessage(t *testing.T) {
	for _, c := range []struct {
		id                  string
		system, application map[string]string
		want                string
	}{
		{"d1", nil, nil, "devices/d1/messages/devicebound/%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound"},
		{"d1", map[string]string{"to": "/devices/d1/messages/devicebound", "message-id": "m 1"}, nil,
			"devices/d1/messages/devicebound/%24.mid=m%201&%24.to=%2Fdevices%2Fd1%2Fmessages%2Fdevicebound"},
		{"d1", map[string]string{
			"message-id": "1", "correlation-id": "2", "user-id": "3", "absolute-expiry-time": "2026-03-01T12:00:00.0000000Z",
			"content-type": "application/json", "content-encoding": "utf-8", "something": "else",
		}, map[string]string{"iothub-ack": "full", "b": "a=b&c+d/e", "a%": "é~-_."},
			"devices/d1/messages/devicebound/%24.mid=1&%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound&%24.cid=2&%24.uid=3" +
				"&%24.exp=2026-03-01T12%3A00%3A00.0000000Z&%24.ct=application%2Fjson&%24.ce=utf-8" +
				"&a%25=%C3%A9~-_.&b=a%3Db%26c%2Bd%2Fe&iothub-ack=full"},
		{"a:b@c", nil, map[string]string{"$x": "#"},
			"devices/a:b@c/messages/devicebound/%24.to=%2Fdevices%2Fa%3Ab%40c%2Fmessages%2FdeviceBound&%24x=%23"},
	} {
		if got := CloudMessage(c.id, c.system, c.application); got != c.want {
			t.Errorf("\n%s, want\n%s", got, c.want)
		}
	}
}

// What clients do to a topic, each in its own way, down to its mistakes.
var parsers = map[string]func(topic string) map[string]string{
	// Finds the first system property, and splits at every equals sign; plus is a
	// space.
	"Java": func(topic string) map[string]string {
		bag := map[string]string{}
		for _, member := range strings.Split(topic[strings.Index(topic, "%24."):], "&") {
			parts := strings.Split(member, "=")
			name, _ := url.QueryUnescape(parts[0])
			bag[name], _ = url.QueryUnescape(parts[1])
		}
		return bag
	},
	// The fifth segment is the bag.
	"Node": func(topic string) map[string]string {
		bag := map[string]string{}
		for member := range strings.SplitSeq(strings.Split(topic, "/")[4], "&") {
			name, value, _ := strings.Cut(member, "=")
			name, _ = url.PathUnescape(name)
			bag[name], _ = url.PathUnescape(value)
		}
		return bag
	},
	// The fifth segment, and exactly one equals sign.
	"Python": func(topic string) map[string]string {
		bag := map[string]string{}
		for _, member := range strings.Split(strings.Split(topic, "/")[4], "&") {
			parts := strings.Split(member, "=")
			if len(parts) != 2 {
				return nil
			}
			name, _ := url.PathUnescape(parts[0])
			bag[name], _ = url.PathUnescape(parts[1])
		}
		return bag
	},
	// Compares names with the literal %24. before it decodes them.
	"C": func(topic string) map[string]string {
		bag := map[string]string{}
		_, all, _ := strings.Cut(topic, "/devicebound/")
		for member := range strings.SplitSeq(all, "&") {
			name, value, _ := strings.Cut(member, "=")
			if short, ok := strings.CutPrefix(name, "%24."); ok {
				name = "$." + short
			} else {
				name, _ = url.PathUnescape(name)
			}
			bag[name], _ = url.PathUnescape(value)
		}
		return bag
	},
}

func FuzzCloudMessage(f *testing.F) {
	f.Add("d1", "m/1", "key", "a b+c=d&e/f%20$#")
	f.Add("a:b", "%24.mid=1&", "=", "é\x00")
	f.Add("d1", "", "/", "x")
	f.Fuzz(func(t *testing.T, id, mid, name, value string) {
		if id == "" || strings.ContainsAny(id, " /&=%$+#") || name == "" || strings.HasPrefix(name, "$.") {
			return
		}
		topic := CloudMessage(id, map[string]string{"message-id": mid}, map[string]string{name: value})
		if strings.ContainsAny(topic, "+# ") {
			t.Fatalf("%q is not a topic", topic)
		}
		for client, parse := range parsers {
			bag := parse(topic)
			if bag[name] != value || bag["$.mid"] != mid || bag["$.to"] != Destination(id) {
				t.Errorf("%s reads %q from %q", client, bag, topic)
			}
		}
	})
}
