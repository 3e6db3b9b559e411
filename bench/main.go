// Command bench measures what it costs the server to provision a device, and
// holds that against a bare TLS handshake in the same run: on each engine, with
// few enrollments and with many. Then it measures what devices do at their hub,
// beside a broker of messages. Servers and load are separate processes; a server
// is cmd/berth as it is. Linux only: it reads the kernel's accounts in /proc.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
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
	idleRole:     serveIdle,
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
	servers     []spec
	within      time.Duration
	imports     int
	connections int   // that send messages
	messages    int   // of each of them in a round
	idling      int   // connections
	twins       []int // how many of them queries go through
	only        []string
	json        string
	profile     string
}

// A spec is one server to measure: its engine, and how many enrollments it has.
type spec struct {
	engine string
	size   int
}

func (s spec) String() string {
	return fmt.Sprintf("%s, %s enrollments", engineNames[s.engine], thousands(s.size))
}

// total is how many devices of every kind there are.
func (o options) total() int { return o.n * (o.rounds + 1) }

func parse(args []string, log io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(log)
	f.IntVar(&o.n, "n", 300, "devices of every kind in a `round`")
	f.IntVar(&o.rounds, "rounds", 7, "`rounds` that count, after one that does not")
	f.IntVar(&o.concurrency, "concurrency", 32, "`devices` at a time")
	servers := f.String("servers", "sqlite:1000,sqlite:100000,sqlite:1000000,postgres:1000,postgres:100000,postgres:1000000",
		"`servers` to measure, separated by commas: an engine and a number of enrollments, more than three for each of -n; "+
			"the last of the first engine stands for all where one is asked for")
	f.DurationVar(&o.within, "within", deadline, "begin no round of registrations that would not end in this `time`, and none of hubs that would not in as much again")
	f.IntVar(&o.imports, "imports", 20000, "`enrollments` to import at the end by each way; 0 for none")
	f.IntVar(&o.connections, "connections", 50, "`devices` that send messages at a time")
	f.IntVar(&o.messages, "messages", 400, "`messages` that each of them sends in a round")
	f.IntVar(&o.idling, "idle", 10000, "idle `connections` whose memory is measured")
	twins := f.String("twins", "1000,100000,1000000", "how many `twins` queries go through, separated by commas")
	only := f.String("only", "", "measure only these `keys`, separated by commas, such as tpm,x509_group,messages")
	f.StringVar(&o.json, "json", "", "write the results to this `file`, too")
	f.StringVar(&o.profile, "profile", "", "write CPU profiles of the servers to this `directory`; costs them a little")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	err := func() (err error) {
		if o.n < 1 || o.rounds < 1 || o.concurrency < 1 || o.imports < 0 || f.NArg() > 0 {
			return errors.New("all counts must be positive, and nothing follows the flags")
		}
		if o.connections < 1 || o.messages < 1 || o.messages > maxBurst || o.idling < 1 {
			return fmt.Errorf("-connections and -idle must be positive, -messages between 1 and %d", maxBurst)
		}
		if o.twins, err = sizes(*twins); err != nil {
			return fmt.Errorf("-twins: %w", err)
		}
		if o.only, err = words(*only, append(keys(), hubKeys...)); err != nil {
			return fmt.Errorf("-only: %w", err)
		}
		o.servers, err = specs(*servers, 3*o.n+groups)
		return err
	}()
	if err != nil {
		fmt.Fprintf(log, "bench: %v\n", err)
		f.Usage()
	}
	return o, err
}

// specs reads a list of servers, and orders those of one engine by size.
func specs(list string, least int) (found []spec, err error) {
	var engines []string
	for word := range strings.SplitSeq(list, ",") {
		engine, number, _ := strings.Cut(word, ":")
		size, err := strconv.Atoi(number)
		if engineNames[engine] == "" || err != nil || size < least {
			return nil, fmt.Errorf("-servers: %q is not sqlite or postgres, a colon and at least %d", word, least)
		}
		if !slices.Contains(engines, engine) {
			engines = append(engines, engine)
		}
		found = append(found, spec{engine, size})
	}
	slices.SortFunc(found, func(a, b spec) int {
		return cmp.Or(cmp.Compare(slices.Index(engines, a.engine), slices.Index(engines, b.engine)), cmp.Compare(a.size, b.size))
	})
	return found, nil
}

// sizes reads a list of growing numbers.
func sizes(list string) (found []int, err error) {
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || len(found) > 0 && n <= found[len(found)-1] {
			return nil, fmt.Errorf("%q is not a number above the one before", word)
		}
		found = append(found, n)
	}
	return found, nil
}

// words splits a list whose words are among known. An empty list is all that
// are known.
func words(list string, known []string) ([]string, error) {
	if list == "" {
		return known, nil
	}
	found := strings.Split(list, ",")
	for _, w := range found {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("there is no %q; there are %s", w, strings.Join(known, ", "))
		}
	}
	return found, nil
}

// deadline ends a run that hangs.
const deadline = 2 * time.Hour

// bench runs everything and reports it.
func bench(ctx context.Context, o options, out, log io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	r := report{options: o, began: time.Now()}
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bencher{options: o, dir: dir, log: log}
	defer b.stop()
	b.progress("building cmd/berth")
	if b.berth, err = build(ctx, b.dir); err != nil {
		return err
	}
	if b.fleet, err = newFleet(o); err != nil {
		return err
	}
	if o.wantsAny(keys()...) {
		if err := b.measureProvisioning(ctx, r.began); err != nil {
			return err
		}
	}
	b.stop()
	if o.wantsAny(hubKeys...) {
		if err := b.measureHubs(ctx); err != nil {
			return fmt.Errorf("hubs: %w", err)
		}
	}
	r.take(ctx, b)
	if o.json != "" {
		if err := r.writeJSON(o.json); err != nil {
			return err
		}
	}
	return r.writeMarkdown(out)
}

// measureProvisioning measures how devices register.
func (b *bencher) measureProvisioning(ctx context.Context, began time.Time) (err error) {
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, s := range b.places {
		if s.memory.started, _, err = s.resident(); err != nil {
			return err
		}
	}
	if err := b.allRounds(began, "registrations", func(round int) error { return b.measureRound(ctx, round) }); err != nil {
		return err
	}
	for _, s := range b.places {
		if s.memory.resident, s.memory.peak, err = s.resident(); err != nil {
			return err
		}
	}
	return b.importRates(ctx)
}

// A bencher is a run: the servers, and what is measured of them.
type bencher struct {
	options
	dir    string // temporary
	log    io.Writer
	berth  string // the program
	fleet  *fleet
	places []*server // in the order of servers
	bares  []*place
	series []*series // in the order they are measured
	rates  []importRate
	hubs   *hubs // nil where nothing of them is measured
}

func (b *bencher) progress(format string, args ...any) {
	fmt.Fprintf(b.log, "bench: "+format+"\n", args...)
}

// stop ends the children.
func (b *bencher) stop() {
	for _, p := range b.bares {
		p.stop()
	}
	for _, s := range b.places {
		s.close()
	}
}

// prepare makes everything that rounds need, so that between the measurements
// of a round nothing else happens.
func (b *bencher) prepare(ctx context.Context) (err error) {
	if err := b.fleet.prepare(); err != nil {
		return err
	}
	for _, v := range b.servers {
		s := &server{spec: v, fleet: b.total(), dir: filepath.Join(b.dir, fmt.Sprintf("%s-%d", v.engine, v.size))}
		b.places = append(b.places, s)
		b.progress("%s: loading, with as many registered devices", s.spec)
		if err := s.open(ctx, b, s.load); err != nil {
			return fmt.Errorf("%s: %w", s.spec, err)
		}
		b.progress("%s: loaded in %.1f s", s.spec, s.loaded.took.Seconds())
	}
	return b.plan(ctx)
}
