// Package cli is the berth command: one file a command. Data goes to standard
// output, talk to standard error; every command that shows data shows it to
// programs with -o json.
package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // it was tried and did not work
	exitUsage  = 2 // the command line makes no sense
)

// A terminal is what a command reads and writes, and the flags all commands
// have.
type terminal struct {
	in       io.Reader
	out, err io.Writer

	data   string // --data
	format string // --output
}

// Run runs one berth command and returns its exit status.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	t := &terminal{in: stdin, out: stdout, err: stderr}
	root := newRoot(t)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "berth: %v\nFor help: %s --help\n", err, command.CommandPath())
		return exitUsage
	default:
		fmt.Fprintf(stderr, "berth: %v\n", err)
		if hint := remedy(err); hint != "" {
			fmt.Fprintln(stderr, hint)
		}
		return exitFailed
	}
}

// A usageError is a fault of the command line.
type usageError struct{ error }

func newRoot(t *terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "Take devices from the factory floor to their hub",
		Long: `Berth provisions IoT devices with no hands. It speaks the wire protocols of
Azure IoT Hub Device Provisioning Service and IoT Hub, so the SDKs that devices
carry work against it unchanged, and it needs no cloud.

Start with:  berth dev      a server on this machine, gone when you stop it
             berth demo     a device with a software TPM, from nothing to its hub`,
		Version:       Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if t.format != "table" && t.format != "json" {
				return usageError{fmt.Errorf("--output: %q is not known; table and json are", t.format)}
			}
			return nil
		},
	}
	root.Args, root.RunE = cobra.ArbitraryArgs, unknownCommand
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&t.data, "data", defaultData(), "data `directory` of the server ($BERTH_DATA)")
	root.PersistentFlags().StringVarP(&t.format, "output", "o", "table", "output `format`: table for people, json for programs")
	complete(root, "output", "table", "json")
	root.AddCommand(newInit(t), newServe(t), newDev(t), newDemo(t), newBackup(t), newRestore(t), newDoctor(t),
		newEnrollment(t), newGroup(t), newRegistration(t), newCA(t), newHub(t), newWebhook(t), newPolicy(t), newScope(t), newCertificate(t), newTrust(t), newExplain(t), newDevice(t), newApply(t), newDiff(t),
		newMoveIn(t), newMoveOut(t))
	return root
}

// parent returns a command that only holds others.
func parent(name, short, long, example string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Long: long, Example: example, Args: cobra.ArbitraryArgs, RunE: unknownCommand}
}

// unknownCommand is what a command does that only holds others: it says which.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	var meant string
	if c.SuggestionsMinimumDistance == 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if close := c.SuggestionsFor(args[0]); len(close) > 0 {
		meant = "; " + strings.Join(close, " or ") + " is"
	}
	return usageError{fmt.Errorf("%q is not a command of %s%s", args[0], c.CommandPath(), meant)}
}

// complete names the values of a flag to shells.
func complete(c *cobra.Command, flag string, values ...string) {
	// The only error is that the flag does not exist, or is registered twice.
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

// limitFlag is the flag of every listing.
func limitFlag(c *cobra.Command, limit *int) {
	c.Flags().IntVar(limit, "limit", 0, "end after this `number` (default: all)")
}

// Version is what the build says about this program.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// defaultData is where a server keeps its data unless told otherwise.
func defaultData() string {
	if d := os.Getenv("BERTH_DATA"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/berth"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "berth-data"
	}
	return filepath.Join(home, ".local", "share", "berth")
}

// json reports whether a program reads the output.
func (t *terminal) json() bool { return t.format == "json" }

// printJSON writes v for a program.
func (t *terminal) printJSON(v any) error {
	e := json.NewEncoder(t.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table writes rows for a person; the first is the heading.
func (t *terminal) table(rows [][]string) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// done says what a command did that has no data to show.
func (t *terminal) done(format string, args ...any) error {
	_, err := fmt.Fprintf(t.err, format+"\n", args...)
	return err
}

// printable returns s with blanks in place of what a terminal might obey: parts
// of it come from devices.
func printable(s string) string {
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s), " ")
}

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// publicHost returns a host as clients name it: with the port of the address
// listened on, unless that is the one they have built in.
func publicHost(host, address string) string {
	if _, port, err := net.SplitHostPort(address); err == nil && port != "443" {
		return net.JoinHostPort(host, port)
	}
	return host
}

// exactly checks the number of arguments and names them in the error.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError{fmt.Errorf("%s takes %s, and %d argument(s) were given", c.CommandPath(), argumentList(names), len(args))}
		}
		return nil
	}
}

// atMostOne is exactly for an argument that may be left out.
func atMostOne(name string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError{fmt.Errorf("%s takes one %s, and %d were given", c.CommandPath(), name, len(args))}
		}
		return nil
	}
}

func argumentList(names []string) string {
	if len(names) == 0 {
		return "no argument"
	}
	return strings.Join(names, " ")
}
