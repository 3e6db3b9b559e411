// Package cli is the berth command: one file a command. Data goes to standard
// output, talk to standard error; every command that shows data shows it to
// programs with -o json.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"text/tabwriter"

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
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "berth: %v\nRun 'berth --help' for the commands.\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "berth: %v\n", err)
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&t.data, "data", defaultData(), "data `directory` of the server ($BERTH_DATA)")
	root.PersistentFlags().StringVarP(&t.format, "output", "o", "table", "output `format`: table for people, json for programs")
	root.AddCommand(newInit(t), newServe(t), newDev(t), newDemo(t),
		newEnrollment(t), newGroup(t), newRegistration(t), newHub(t), newExplain(t), newDevice(t))
	return root
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

// args checks the number of arguments and names them in the error.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError{fmt.Errorf("%s takes %d argument(s) %v, and %d were given; see berth %[1]s --help", c.Name(), len(names), names, len(args))}
		}
		return nil
	}
}
