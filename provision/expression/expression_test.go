package expression

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/provision/custom"
)

// question is about a device of a group with what it sent.
func question(source, payload string) provision.Question {
	return provision.Question{
		Entry: &enroll.Entry{Kind: enroll.Group, ID: "pumps", Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey},
			InitialTwin: &enroll.InitialTwin{Tags: json.RawMessage(`{"site":"north"}`)},
			Allocation:  enroll.Custom, Custom: &enroll.CustomAllocation{Expression: source}},
		ID: "eu-pump-7", Current: provision.Place{Hub: "us.example", DeviceID: "p7"},
		Payload: json.RawMessage(payload), Linked: []string{"ap.example", "EU.example", "us.example"},
	}
}

func TestChoose(t *testing.T) {
	e := New()
	for _, c := range []struct{ name, source, payload, want string }{
		{"a host", `"eu.example"`, ``, `{"hub":"EU.example"}`},
		{"a linked hub", `linkedHubs[2]`, ``, `{"hub":"us.example"}`},
		{"the first that fits", `linkedHubs.filter(h, h.startsWith("x"))[?0].orValue("us.example")`, ``, `{"hub":"us.example"}`},
		{"by its beginning", `deviceRuntimeContext.registrationId.startsWith("eu-") ? "eu.example" : "us.example"`, ``, `{"hub":"EU.example"}`},
		{"by what the device sent", `deviceRuntimeContext.payload.region + ".example"`, `{"region":"ap"}`, `{"hub":"ap.example"}`},
		{"or did not", `deviceRuntimeContext.?payload.?region.orValue("us") + ".example"`, ``, `{"hub":"us.example"}`},
		{"by where it is", `deviceRuntimeContext.currentIotHubHostName in linkedHubs ? deviceRuntimeContext.currentIotHubHostName : linkedHubs[0]`, ``, `{"hub":"us.example"}`},
		{"by its group", `enrollmentGroup.enrollmentGroupId == "pumps" && individualEnrollment == null ? "eu.example" : "us.example"`, ``, `{"hub":"EU.example"}`},
		{"by its twin", `enrollmentGroup.initialTwin.tags.site == "north" ? "eu.example" : "us.example"`, ``, `{"hub":"EU.example"}`},
		{"by a number", `deviceRuntimeContext.payload.n > 3 ? "eu.example" : "us.example"`, `{"n":4}`, `{"hub":"EU.example"}`},
		{"with twin and payload",
			`{"iotHubHostName": "us.example", "initialTwin": {"tags": {"line": deviceRuntimeContext.payload.line}, "properties": {"desired": {"n": 1, "on": true, "f": 0.5, "u": 2u, "none": null}}}, "payload": [deviceRuntimeContext.payload]}`,
			`{"line":"<7>"}`,
			`{"hub":"us.example","twin":{"Tags":{"line":"<7>"},"Desired":{"f":0.5,"n":1,"none":null,"on":true,"u":2}},"payload":[{"line":"<7>"}]}`},
		{"with what is there", `{"iotHubHostName": "us.example", ?"payload": deviceRuntimeContext.?payload}`, ``, `{"hub":"us.example"}`},
		{"the kinds of two results differ", `size(linkedHubs) > 1 ? dyn(linkedHubs[0]) : dyn({"iotHubHostName": linkedHubs[0]})`, ``, `{"hub":"ap.example"}`},
	} {
		got, err := e.Choose(t.Context(), question(c.source, c.payload))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var text strings.Builder
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(got); err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(text.String()) != c.want {
			t.Errorf("%s:\n got %swant %s", c.name, text.String(), c.want)
		}
	}
}

// What fails, fails the registration, and tells the operator why and the device
// nothing.
func TestChooseRefuses(t *testing.T) {
	e := New()
	for _, c := range []struct{ name, source, payload, cause string }{
		{"an unlinked hub", `"hub-9.example"`, ``, `iotHubHostName "hub-9.example" is none of the 3 linked hubs`},
		{"a payload that is not there", `deviceRuntimeContext.payload.region`, ``, "no such key: payload"},
		{"a payload of another shape", `deviceRuntimeContext.payload.region`, `[1]`, "unsupported index type 'string' in list"},
		{"a number for a hub", `dyn(1)`, ``, "the result is of type int"},
		{"null for a hub", `dyn(null)`, ``, "the result is of type null_type"},
		{"an optional for a hub", `dyn(linkedHubs[?0])`, ``, "the result is of type optional_type"},
		{"a map without a hub", `{"payload": 1}`, ``, "the answer has no iotHubHostName"},
		{"a map with numbers for keys", `{1: "us.example"}`, ``, "a map with a key of type int"},
		{"a hub that is a list", `{"iotHubHostName": linkedHubs}`, ``, "iotHubHostName: not a string"},
		{"bytes", `{"iotHubHostName": "us.example", "payload": b"x"}`, ``, "a value of type bytes, which JSON cannot write"},
		{"a time", `{"iotHubHostName": "us.example", "payload": timestamp("2026-01-01T00:00:00Z")}`, ``, "a value of type google.protobuf.Timestamp"},
		{"infinity", `{"iotHubHostName": "us.example", "payload": 1.0 / 0.0}`, ``, "a number that JSON cannot write"},
		{"members twice", `{"iotHubHostName": "us.example", "iothubhostname": "eu.example"}`, ``, "iotHubHostName: given twice"},
		{"a division by zero", `linkedHubs[1 / 0]`, ``, "division by zero"},
		{"what is out of range", `linkedHubs[3]`, ``, "index out of bounds"},
	} {
		got, err := e.Choose(t.Context(), question(c.source, c.payload))
		if err == nil {
			t.Errorf("%s: %+v", c.name, got)
			continue
		}
		if public := errs.Public(err); public.Kind != errs.Invalid || !strings.HasPrefix(public.Message, "Custom allocation failed") || strings.Contains(public.Message, c.cause) {
			t.Errorf("%s: the device sees %v %q", c.name, public.Kind, public.Message)
		}
		if !strings.Contains(err.Error(), c.cause) {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.cause)
		}
	}
}

func TestCheck(t *testing.T) {
	e := New()
	for _, c := range []struct{ source, want string }{
		{`linkedHubs[0]`, ""},
		{`{"iotHubHostName": linkedHubs[0]}`, ""},
		{`dyn(linkedHubs)[0]`, ""},
		{`true ? dyn(linkedHubs[0]) : dyn({"iotHubHostName": linkedHubs[0]})`, ""},
		{``, "line 1, column 1: Syntax error"},
		{`linkedHub[0]`, "line 1, column 1: undeclared reference to 'linkedHub'"},
		{"linkedHubs\n  [zero]", "line 2, column 4: undeclared reference to 'zero'"},
		{`linkedHubs[0`, "line 1, column 13: Syntax error: missing ']'"},
		{`linkedHubs[0] + 1`, "line 1, column 15: found no matching overload for '_+_'"},
		{`deviceRuntimeContext + linkedHubs`, "line 1, column 22: found no matching overload"},
		{`linkedHubs`, "the result is of type list(string); it must be a host name or a map"},
		{`true`, "the result is of type bool; it must be a host name or a map"},
		{`now()`, "line 1, column 4: undeclared reference to 'now'"},
		{`linkedHubs[0]; linkedHubs[1]`, "line 1, column 14: Syntax error"},
		{strings.Repeat("(", 300) + "linkedHubs[0]" + strings.Repeat(")", 300), "expression recursion limit exceeded"},
		{strings.Repeat("[", 300) + strings.Repeat("]", 300), "expression recursion limit exceeded"},
		{strings.Repeat("-", 4000) + "1", "the result is of type int"},
		{strings.Repeat("true?", 800), "error recovery"},
		{strings.Repeat(" ", 4096) + "linkedHubs[0]", "expression code point size exceeds limit"},
		{"\xff\xfe", "line 1, column 1: Syntax error"},
	} {
		err := e.Check(c.source)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%.60q: %v", c.source, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%.60q: %v\nwant %s", c.source, err, c.want)
		}
	}
}

// What the manual shows can be used.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(page), "```cel\n")[1:]
	if len(examples) == 0 {
		t.Fatal("there is no example")
	}
	e := New()
	for _, rest := range examples {
		source, _, _ := strings.Cut(rest, "```")
		q := question(source, `{"region":"us","line":7}`)
		q.Linked = []string{"eu.example.com", "us.example.com"}
		if got, err := e.Choose(t.Context(), q); err != nil || got.Hub == "" {
			t.Errorf("%s%+v, %v", source, got, err)
		}
	}
}

// Whatever an expression is, it ends.
func TestNothingRunsForLong(t *testing.T) {
	e := New()
	chain := func(step string, n int, end string) string { return "[[1]]" + strings.Repeat(step, n) + end }
	nest := func(n int, end string) string {
		s := end
		for i := n; i > 0; i-- {
			s = fmt.Sprintf("[[x%d, x%d]].all(x%d, %s)", i-1, i-1, i, s)
		}
		return "[[1]].all(x0, " + s + ") ? 'us.example' : ''"
	}
	var wide strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&wide, "%d,", i)
	}
	numbers := `{"l":[` + wide.String() + `0],"s":"` + strings.Repeat("a", 40000) + `"}`
	const p = "deviceRuntimeContext.payload."
	for _, c := range []struct{ name, source string }{
		{"loops in loops", `[` + p + `l.map(a, ` + p + `l.map(b, ` + p + `l.map(c, a+b+c)))].size() == 0 ? "us.example" : ""`},
		{"all of all of all", p + `l.all(a, ` + p + `l.all(b, ` + p + `l.all(c, a+b+c >= 0.0))) ? "us.example" : ""`},
		{"sharing by literals, compared", chain(".map(x,[x,x])", 100, " == [] ? 'us.example' : ''")},
		{"compared with itself", chain(".map(x,[x,x])", 100, ".all(x, x == x) ? 'us.example' : ''")},
		{"sharing by addition", chain(".map(x,x+x)", 100, ".all(x, x == x) ? 'us.example' : ''")},
		{"sharing by addition, answered", "{'iotHubHostName':'us.example','payload':" + chain(".map(x,x+x)", 100, "}")},
		{"sharing by literals, answered", "{'iotHubHostName':'us.example','payload':" + chain(".map(x,[x,x])", 30, "}")},
		{"sharing by maps", "{'iotHubHostName':'us.example','payload':" + chain(".map(x,{'a':x,'b':x})", 30, "}")},
		{"sharing by nesting", nest(40, "x40 == x40")},
		{"sharing by nesting, in", nest(40, "x40 in [x40]")},
		{"sharing by optionals", "optional.of([1])" + strings.Repeat(".optMap(x,[x,x])", 60) + " == optional.none() ? 'us.example' : ''"},
		{"text that doubles", chain(".map(x,string(x[0])+'')", 0, "") + ".map(x,'a')" + strings.Repeat(".map(x,x+x)", 60) + "[0]"},
		{"what the device sent, often", "[" + p + "l].all(x, " + strings.Repeat("x==x&&", 500) + "true) ? 'us.example' : ''"},
		{"a wide answer", "{'iotHubHostName':'us.example','payload':" + p + "l.map(x, " + p + "l)}"},
		{"text many times", "[" + p + "s].map(x," + strings.Repeat("x+", 500) + "x)[0]"},
		{"a search for text in text", p + "l.all(x, " + p + "s.contains(" + p + "s + 'b') == false) ? 'us.example' : ''"},
		{"a regular expression", p + "l.all(x, " + p + "s.matches('(a*)*(a*)*(a*)*(a*)*b') == false) ? 'us.example' : ''"},
	} {
		begin := time.Now()
		got, err := e.Choose(t.Context(), question(c.source, numbers))
		if err == nil || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		// Far above what it takes, and far below what it would take.
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%s: took %v", c.name, took)
		}
	}
}

func TestEndOfTheCallEndsTheEvaluation(t *testing.T) {
	e := New()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.Choose(ctx, question(`deviceRuntimeContext.payload.all(x, x == x) ? "us.example" : ""`, "["+strings.Repeat("1,", 1000)+"1]"))
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("%v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	e := New()
	var all sync.WaitGroup
	for i := range 4 * maxPrograms {
		all.Go(func() {
			got, err := e.Choose(t.Context(), question(fmt.Sprintf("linkedHubs[%d %% 3]", i), ""))
			if err != nil || got.Hub != question("", "").Linked[i%3] {
				t.Errorf("%d: %+v, %v", i, got, err)
			}
		})
	}
	all.Wait()
	if n := len(e.programs); n > maxPrograms {
		t.Errorf("%d programs are kept", n)
	}
}

// Whatever an expression and a payload are, the answer is JSON of a bounded size,
// or there is none.
func FuzzEvaluate(f *testing.F) {
	for _, seed := range [][2]string{
		{`linkedHubs[0]`, ``},
		{`{"iotHubHostName": "us.example", "payload": deviceRuntimeContext.payload}`, `{"a":[1,2.5,null,true,"x"]}`},
		{`deviceRuntimeContext.payload.map(x, {"k": x, "l": [x, x]}).size() == 1 ? dyn("us.example") : dyn({})`, `[1]`},
		{`{"iotHubHostName": "us.example", "payload": [1, 2u, 0.5, b"x", type(1), duration("1s")]}`, ``},
		{`{"iotHubHostName": "us.example", ?"payload": deviceRuntimeContext.?payload, "x": optional.none()}`, `1`},
		{`dyn({1: 2, true: 3})`, ``},
	} {
		f.Add(seed[0], seed[1])
	}
	e := New()
	f.Fuzz(func(t *testing.T, source, payload string) {
		if len(source) > 4<<10 {
			return // an enrollment does not have it
		}
		if !json.Valid([]byte(payload)) {
			payload = ""
		}
		q := question(source, payload)
		document, err := custom.Request(q)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := e.evaluate(t.Context(), source, document)
		if err != nil {
			return
		}
		if !json.Valid(answer) || answer[0] != '{' {
			t.Fatalf("%q", answer)
		}
	})
}
