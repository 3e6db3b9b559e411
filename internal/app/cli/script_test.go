package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"berth": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			code := Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
			stop()
			os.Exit(code)
		},
	})
}

// Each script has a server of its own, that of $BERTH_DATA, and the files of
// writeCertificates.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			if err := writeCertificates(env.WorkDir); err != nil {
				return err
			}
			data := filepath.Join(env.WorkDir, "server")
			config, stop, err := startServer(data)
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := stop(); err != nil {
					t.Errorf("the server ended with: %v", err)
				}
			})
			_, port, err := net.SplitHostPort(config.Listen)
			if err != nil {
				return err
			}
			env.Setenv("BERTH_DATA", data)
			env.Setenv("SCOPE", config.IDScope)
			env.Setenv("PORT", port)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":  cmdExits,
			"hubof":  cmdHubOf,
			"json":   cmdJSON,
			"manual": cmdManual,
			"peer":   cmdPeer,
			"setenv": cmdSetenv,
			"tpm":    cmdTPM,
		},
	})
}

// manual FILE writes the file that docs/operate.md shows: the YAML that begins with
// a comment of its name.
func cmdManual(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: manual FILE")
	}
	text, err := os.ReadFile("../../../docs/operate.md")
	ts.Check(err)
	_, shown, found := strings.Cut(string(text), "```yaml\n# "+args[0]+"\n")
	if !found {
		ts.Fatalf("the manual does not show %s", args[0])
	}
	shown, _, _ = strings.Cut(shown, "```")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(shown), 0o600))
}

// exits STATUS COMMAND... runs a command that must end with that status.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	status := 0
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		status = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("exit status %d, want %s", status, args[0])
	}
}

// json PATH [VALUE] looks into the JSON on standard output: the member must be
// there, and be VALUE. With ! it must not be there.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: json PATH [VALUE]")
	}
	got, ok := member(ts, args[0])
	switch {
	case neg == ok:
		ts.Fatalf("member %s: present is %v", args[0], ok)
	case len(args) == 2 && got != args[1]:
		ts.Fatalf("member %s is %s, want %s", args[0], got, args[1])
	}
}

// setenv NAME PATH keeps a member of the JSON on standard output.
func cmdSetenv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: setenv NAME PATH")
	}
	got, ok := member(ts, args[1])
	if !ok {
		ts.Fatalf("there is no member %s", args[1])
	}
	ts.Setenv(args[0], got)
}

// member follows a path of names and indices, separated by dots; . is all.
func member(ts *testscript.TestScript, path string) (string, bool) {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
		ts.Fatalf("standard output is not JSON: %v", err)
	}
	for name := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '.' }) {
		switch in := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = in[name]; !ok {
				return "", false
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(in) {
				return "", false
			}
			v = in[i]
		default:
			return "", false
		}
	}
	return fmt.Sprint(v), true
}

// peer NAME starts a second server. Its data directory is $NAME, and its connection
// string and its CA are in NAME.connection and NAME-ca.pem.
func cmdPeer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: peer NAME")
	}
	data := ts.MkAbs(args[0])
	stop, err := startPeer(data, ts.MkAbs(args[0]+".connection"), ts.MkAbs(args[0]+"-ca.pem"))
	ts.Check(err)
	ts.Defer(func() { ts.Check(stop()) })
	ts.Setenv(args[0], data)
}

// hubof NAME FILE keeps the host of a connection string.
func cmdHubOf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hubof NAME FILE")
	}
	host, _, found := strings.Cut(strings.TrimPrefix(ts.ReadFile(args[1]), "HostName="), ";")
	if !found {
		ts.Fatalf("%s holds no connection string", args[1])
	}
	ts.Setenv(args[0], host)
}

// tpm NAME [CA] makes a software TPM. Its address is in $NAME and its endorsement
// key in NAME.ek. With a CA it is certified as a plant does it, and CA.pem and
// CA-issuer.pem are the certificates above.
func cmdTPM(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: tpm NAME [CA]")
	}
	dir := ts.MkAbs("tpm-" + args[0])
	if len(args) == 2 {
		manufacture(ts, dir, args[1])
	}
	chip, err := swtpm.Start(context.Background(), dir)
	ts.Check(err)
	ts.Defer(func() { ts.Check(chip.Stop()) })
	ts.Check(writeEndorsementKey(chip.Address(), ts.MkAbs(args[0]+".ek")))
	ts.Setenv(args[0], chip.Address())
}

func manufacture(ts *testscript.TestScript, dir, name string) {
	ca, err := swtpm.NewCA(ts.MkAbs("ca-" + name))
	ts.Check(err)
	ts.Check(ca.Manufacture(context.Background(), dir))
	for file, from := range map[string]string{name + ".pem": ca.Root(), name + "-issuer.pem": ca.Issuer()} {
		b, err := os.ReadFile(from)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(file), b, 0o644))
	}
}
