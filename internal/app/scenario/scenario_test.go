// Package scenario tells how devices come to their hub, and how strangers do
// not, as scripts that can be read as documentation: see testdata. Each runs
// over every wire a device can take, against a whole server with a real store,
// software TPMs and a clock that the script turns.
//
// In a script, names of keys, certificates and TPMs are the script's own.
// Operators prepare:
//
//	serve [polling] [elsewhere]          start a server with one hub, hub.example;
//	                                     polling: it answers no registration at once;
//	                                     elsewhere: the hub of another whole server,
//	                                     $ELSEWHERE, is linked to it
//	elsewhere up|down|roll               start or stop that server, or give its hub's policy
//	                                     another key
//	link HOST | unlink HOST              a further hub
//	enroll ID EXPECTS... | group ID EXPECTS...
//	                                     write an enrollment, over one that may be there
//	unenroll ID | ungroup ID             remove it
//	forget ID                            remove the registration record
//	record ID                            show the registration record
//	device ID [at=HOST]                  show the identity at the hub
//	twin ID [at=HOST] [desired=JSON]     show the twin, after a change to it
//	explain ID [until=TEXT]              show the last decision, when it says that
//
// where EXPECTS is key=K[,K2], cert=C[,C2] or tpm=T[,srk], and may be followed
// by disabled and with=JSON, further members of the body.
//
// At the factory:
//
//	key NAME [BYTES]                     draw a symmetric key
//	ca NAME [under=CA]                   make a CA
//	leaf NAME cn=CN [under=CA] [from=D] [until=D]
//	                                     make a device's certificate, self-signed unless under
//	                                     a CA, valid from an hour ago for a day
//	tpm NAME                             start a TPM
//
// Devices call:
//
//	register ID SHOWS... | poll ID SHOWS... | lookup ID SHOWS...
//	await ID SHOWS...                    poll until the registration is not under way
//	activate TPM                         let it take in the last blob
//	send ID SHOWS... [at=HOST]           send telemetry to the hub
//	noise N KIND ID SHOWS...             register with N random bodies, all to be refused
//
// where SHOWS is any of key=K, a token signed by it; derived=K, one signed by
// the key of this device that is derived from it; signed=T, one signed by a TPM;
// cert=C, a client certificate with those above it, alone=C without; tpm=T the
// public keys of a TPM, srk=T of another or srk=software. A token is made
// for=ID, for=SCOPE/ID, name=SKN or until=D otherwise than it should be.
// scope=S and version=V are the ID scope and the api-version of the call,
// body=FILE is the body instead of what fits, and poll asks for the last
// operation or operation=O.
//
// What was answered is on standard output, one line for each member:
// "status 202", "registrationState.status assigned". A call with ! is one that
// is answered 400 or above, and not one byte of the database may have changed
// by it.
//
//	payload FILE BYTES                   write a body of that size
//	clock D                              let time pass
//
// What one wire does not have stands behind its name, or that of the one which
// has it: [https] lookup.
package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveDir); dir != "" {
		os.Exit(serveUntilKilled(dir))
	}
	code := m.Run()
	stopShared()
	os.Exit(code)
}

func TestScenarios(t *testing.T) {
	for name, open := range map[string]func(*world) wire{
		"https":     openHTTPS,
		"mqtt":      openMQTT,
		"websocket": openWebSocket,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Dir: "testdata",
				Setup: func(env *testscript.Env) error {
					w := newWorld(env)
					w.wire = open(w)
					env.Values["world"] = w
					return nil
				},
				Condition: func(condition string) (bool, error) { return condition == name, nil },
				Cmds:      commands,
			})
		})
	}
}

// A command gets its plain arguments and those of the form name=value.
type command func(w *world, neg bool, args []string, set map[string]string)

var commands = map[string]func(*testscript.TestScript, bool, []string){
	"serve":     run(0, 2, serve),
	"elsewhere": run(1, 0, elsewhere),
	"link":      run(1, 0, link),
	"unlink":    run(1, 0, unlink),
	"enroll":    run(1, 1, enroll("enrollments", "registrationId"), "disabled", "key", "cert", "tpm", "with"),
	"group":     run(1, 1, enroll("enrollmentGroups", "enrollmentGroupId"), "disabled", "key", "cert", "tpm", "with"),
	"unenroll":  run(1, 0, remove("enrollments")),
	"ungroup":   run(1, 0, remove("enrollmentGroups")),
	"forget":    run(1, 0, remove("registrations")),
	"record":    run(1, 0, record),
	"device":    run(1, 0, showDevice, "at"),
	"twin":      run(1, 0, showTwin, "at", "desired"),
	"explain":   run(1, 0, explain, "until"),
	"key":       run(1, 1, drawKey),
	"ca":        run(1, 0, makeCA, "under"),
	"leaf":      run(1, 0, makeLeaf, "cn", "under", "from", "until"),
	"tpm":       run(1, 0, startTPM),
	"register":  run(1, 0, deviceCall("register"), shows...),
	"poll":      run(1, 0, deviceCall("poll"), append(shows, "operation")...),
	"lookup":    run(1, 0, deviceCall("lookup"), shows...),
	"await":     run(1, 0, await, append(shows, "operation")...),
	"activate":  run(1, 0, activate),
	"send":      run(1, 0, send, append(shows, "at")...),
	"noise":     run(3, 0, noise, shows...),
	"payload":   run(2, 0, payload),
	"clock":     run(1, 0, turnClock),
}

var shows = []string{"key", "derived", "signed", "cert", "alone", "tpm", "srk", "for", "scope", "name", "until", "body", "version"}

// run reads a command's arguments: least plain ones, up to more beyond those,
// and any of the given names.
func run(least, more int, c command, names ...string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		var plain []string
		set := map[string]string{}
		for _, a := range args {
			name, value, ok := strings.Cut(a, "=")
			if !ok {
				plain = append(plain, a)
				continue
			}
			if !slices.Contains(names, name) {
				ts.Fatalf("%s= is not known here; %v are", name, names)
			}
			set[name] = value
		}
		if len(plain) < least || len(plain) > least+more {
			ts.Fatalf("%d plain arguments, %d to %d are taken", len(plain), least, least+more)
		}
		w := ts.Value("world").(*world)
		w.ts = ts
		c(w, neg, plain, set)
	}
}

// must is for commands that make no sense with !.
func (w *world) must(neg bool) {
	if neg {
		w.ts.Fatalf("there is no ! for this command")
	}
}

// show writes an answer for the script to look at.
func (w *world) show(a answer) {
	out := w.ts.Stdout()
	fmt.Fprintf(out, "status %d\n", a.status)
	if a.retryAfter != "" {
		fmt.Fprintf(out, "retry-after %s\n", a.retryAfter)
	}
	var body any
	if len(a.body) > 0 {
		d := json.NewDecoder(bytes.NewReader(a.body))
		d.UseNumber()
		if err := d.Decode(&body); err != nil {
			w.ts.Fatalf("the answer is not JSON: %v: %q", err, a.body)
		}
	}
	for _, line := range facts("", body) {
		fmt.Fprintln(out, line)
	}
}

// facts are the members of a JSON value, one a line, ordered by name.
func facts(path string, v any) []string {
	var lines []string
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 && path != "" {
			return []string{path + " {}"}
		}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			lines = append(lines, facts(strings.TrimPrefix(path+"."+name, "."), v[name])...)
		}
	case []any:
		if len(v) == 0 {
			return []string{path + " []"}
		}
		for i, element := range v {
			lines = append(lines, facts(path+"["+strconv.Itoa(i)+"]", element)...)
		}
	case nil:
		if path != "" {
			return []string{path + " null"}
		}
	default:
		return []string{path + " " + strings.ReplaceAll(fmt.Sprint(v), "\n", `\n`)}
	}
	return lines
}

func turnClock(w *world, neg bool, args []string, _ map[string]string) {
	w.must(neg)
	w.offset.Add(int64(w.duration(args[0])))
}

func (w *world) duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	w.ts.Check(err)
	return d
}
