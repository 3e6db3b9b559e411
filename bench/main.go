// Command bench measures what it costs the server to provision a device, and
// holds that against a bare TLS handshake in the same run. Server and load are
// separate processes; the server is cmd/berth as it is, with the configuration
// that "berth init" writes. Linux only: it reads the kernel's accounts in /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// roles are what a child process that is this program does, by its first
// argument.
var roles = map[string]func(ctx context.Context, args []string, in io.Reader, out, log io.Writer) error{
	bareRole:     serveBare,
	profiledRole: serveProfiled,
}

func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) int {
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok {
			return status(role(ctx, args[1:], in, out, log), log)
		}
	}
	o, err := parse(args, log)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	return status(bench(ctx, o, out, log), log)
}

func status(err error, log io.Writer) int {
	if err != nil {
		fmt.Fprintf(log, "bench: %v\n", err)
		return 1
	}
	return 0
}

// options are the command line.
type options struct {
	n           int
	rounds      int
	concurrency int
	only        string
	json        string
	profile     string
}

func parse(args []string, log io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(log)
	f.IntVar(&o.n, "n", 500, "devices of every kind in a `round`")
	f.IntVar(&o.rounds, "rounds", 7, "`rounds` that count, after one that does not")
	f.IntVar(&o.concurrency, "concurrency", 32, "`devices` at a time")
	f.StringVar(&o.only, "only", "", "measure only these `keys`, separated by commas, such as tpm,x509_group")
	f.StringVar(&o.json, "json", "", "write the results to this `file`, too")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles of the server to this `directory`; costs it a little")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.n < 1 || o.rounds < 1 || o.concurrency < 1 || f.NArg() > 0 {
		fmt.Fprintln(log, "bench: all counts must be positive, and nothing follows the flags")
		f.Usage()
		return o, errors.New("usage")
	}
	return o, nil
}

// wants reports whether the kind with this key is to be measured.
func (o options) wants(key string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), key)
}

// bench runs everything and reports it.
func bench(ctx context.Context, o options, out, log io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := startServer(ctx, dir, o.profile, log)
	if err != nil {
		return err
	}
	defer s.stop()
	kinds, stop, err := prepare(ctx, o, s, log)
	if err != nil {
		return err
	}
	defer stop()
	r := report{options: o, filesystem: filesystem(dir), enrollments: s.enrollments}
	if r.started, _, err = s.resident(); err != nil {
		return err
	}
	for round := range o.rounds + 1 {
		fmt.Fprintf(log, "bench: round %d of %d\n", round, o.rounds)
		if err := measureRound(ctx, o, kinds, round); err != nil {
			return err
		}
	}
	if r.resident, r.peak, err = s.resident(); err != nil {
		return err
	}
	r.take(kinds)
	if o.json != "" {
		if err := r.writeJSON(o.json); err != nil {
			return err
		}
	}
	return r.writeTable(out)
}
