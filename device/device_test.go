package device

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	scope := func(s string) (string, error) { v, err := ParseIDScope(s); return string(v), err }
	registration := func(s string) (string, error) { v, err := ParseRegistrationID(s); return string(v), err }
	id := func(s string) (string, error) { v, err := ParseID(s); return string(v), err }
	long := strings.Repeat("a", 128)

	for _, c := range []struct {
		parse func(string) (string, error)
		in    string
		want  string // empty when it is refused
	}{
		{scope, "0ne00111111", "0ne00111111"},
		{scope, "0NE0045B3C6", "0ne0045b3c6"},
		{scope, "", ""},
		{scope, "0ne", ""},
		{scope, "0ne0011111", ""},
		{scope, "0ne001111111", ""},
		{scope, "0ne0011111g", ""},
		{scope, "1ne00111111", ""},
		{scope, "0ne00111111/x", ""},

		{registration, "Pump-7", "pump-7"},
		{registration, "a:b_c.d-", "a:b_c.d-"},
		{registration, long, long},
		{registration, long + "a", ""},
		{registration, "", ""},
		{registration, "ends.", ""},
		{registration, "ends_", ""},
		{registration, "sp ace", ""},
		{registration, "sla/sh", ""},
		{registration, "nul\x00", ""},
		{registration, "ümlaut", ""},
		{registration, "\u212aelvin", ""}, // lower-cases to an ASCII k

		{id, "Pump-7", "Pump-7"},
		{id, "-:.+%_#*?!(),=@;$'", "-:.+%_#*?!(),=@;$'"},
		{id, long, long},
		{id, long + "a", ""},
		{id, "", ""},
		{id, "sla/sh", ""},
		{id, "sp ace", ""},
		{id, "line\nfeed", ""},
	} {
		got, err := c.parse(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%.20q: %q, %v", c.in, got, err)
		}
	}
}

func TestSymmetricKeysHaveASize(t *testing.T) {
	for size, ok := range map[int]bool{0: false, 15: false, 16: true, 64: true, 65: false} {
		if _, err := NewSymmetricKey(make([]byte, size)); (err == nil) != ok {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, text := range []string{"", "no base64!", "c2hvcnQ="} {
		if _, err := ParseSymmetricKey(text); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// However deep a key is nested, neither a format verb nor JSON shows it.
func TestSymmetricKeysDoNotPrint(t *testing.T) {
	raw := []byte("this must not be seen by anybody")
	key, err := NewSymmetricKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	nested := struct {
		Key  SymmetricKey
		Keys map[string]*SymmetricKey
	}{key, map[string]*SymmetricKey{"k": &key}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+"\n", key, nested)
	}
	for _, shown := range []string{string(raw), key.Base64(), fmt.Sprintf("%x", raw), fmt.Sprint(raw[:4])} {
		if strings.Contains(out.String(), strings.Trim(shown, "[]")) {
			t.Errorf("the key is in %s", out.String())
		}
	}
	if b, err := json.Marshal(nested); err == nil {
		t.Errorf("serialised: %s", b)
	}
}

func TestSymmetricKeysCompare(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, 32)
	a, _ := NewSymmetricKey(raw)
	b, _ := NewSymmetricKey(raw)
	raw[0] = 8
	c, _ := NewSymmetricKey(raw)
	if !a.Equal(b) || a.Equal(c) || a.Equal(SymmetricKey{}) || (SymmetricKey{}).Equal(a) || !(SymmetricKey{}).Equal(SymmetricKey{}) {
		t.Error("keys are told apart wrongly")
	}
	if a.Bytes()[0] != 7 {
		t.Error("a key changes with the slice it was made from")
	}
}
