package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// growthBar is by how much throughput may change from the fewest enrollments to
// the most.
const growthBar = 0.10

// A report is what a run found.
type report struct {
	options options
	began   time.Time
	took    time.Duration
	machine machine
	rounds  int // that counted
	bare    []row
	runs    []finding
	growth  []growth
	imports []importRate
	hubs    *hubFindings // nil where nothing of them was measured
}

// A finding is what was found at one server.
type finding struct {
	*server
	rows []row
}

// A row is what was found about one kind at one place.
type row struct {
	*kind
	cpu       time.Duration // of one device; median over the rounds
	database  time.Duration // the same of the database server
	low, high float64       // of the ratio
	ratio     float64       // median over the rounds; zero if it is held against nothing
	perSecond float64
	p50, p99  time.Duration
	bytes     [2]float64 // of one device, from and to it
}

// A growth is how throughput and CPU time changed with the number of
// enrollments, as factors of those with the fewest: medians over the rounds.
type growth struct {
	spec
	from      int // the fewest
	kind      *kind
	perSecond float64
	cpu       float64
}

func (g growth) met() bool { return g.perSecond >= 1-growthBar }

func (r *report) take(ctx context.Context, b *bencher) {
	for _, k := range barest {
		if all := merged(b.series, k); all.devices > 0 {
			r.bare = append(r.bare, rowOf(all, r.options))
		}
	}
	for _, s := range b.places {
		v := finding{server: s}
		for _, at := range b.series {
			if at.server == s {
				v.rows = append(v.rows, rowOf(at, r.options))
			}
		}
		r.runs = append(r.runs, v)
	}
	for _, k := range kinds {
		r.growth = append(r.growth, growthOf(b.series, k)...)
	}
	r.imports = b.rates
	if len(b.series) > 0 {
		r.rounds = len(b.series[0].cpu)
	}
	if b.hubs != nil {
		r.hubs = b.hubs.take()
		r.rounds = max(r.rounds, r.hubs.rounds)
	}
	r.machine = describe(ctx, b)
	r.took = time.Since(r.began)
}

// merged is everything that was measured of a bare kind, in any place of the
// rounds. It is compared only where it is measured for its own sake.
func merged(all []*series, k *kind) *series {
	m := &series{kind: k}
	for _, v := range all {
		if v.kind != k || v.server != nil {
			continue
		}
		if v.baseline != nil {
			m.baseline = v.baseline
			m.cpu, m.wall = nil, nil // of the others nothing is known but for the ratio
		}
		m.cpu, m.wall = append(m.cpu, v.cpu...), append(m.wall, v.wall...)
		m.latencies = append(m.latencies, v.latencies...)
		m.database = append(m.database, v.database...)
		m.bytes[0] += v.bytes[0]
		m.bytes[1] += v.bytes[1]
		m.devices += v.devices
	}
	return m
}

func rowOf(s *series, o options) row {
	slices.Sort(s.latencies)
	v := row{
		kind: s.kind, cpu: median(s.cpu), database: median(s.database), perSecond: float64(o.n) / median(s.wall).Seconds(),
		p50: quantile(s.latencies, 0.50), p99: quantile(s.latencies, 0.99),
		bytes: [2]float64{float64(s.bytes[0]) / float64(s.devices), float64(s.bytes[1]) / float64(s.devices)},
	}
	if s.baseline != nil {
		ratios := quotients(s.cpu, s.baseline.cpu)
		v.ratio, v.low, v.high = median(ratios), slices.Min(ratios), slices.Max(ratios)
	}
	return v
}

func growthOf(all []*series, k *kind) (found []growth) {
	fewest := map[string]*series{} // by engine
	for _, v := range all {
		if v.kind != k || v.server == nil {
			continue
		}
		first := fewest[v.server.engine]
		if first == nil {
			fewest[v.server.engine] = v
			continue
		}
		found = append(found, growth{
			v.server.spec, first.server.size, k, median(quotients(first.wall, v.wall)), median(quotients(v.cpu, first.cpu)),
		})
	}
	return found
}

func quotients(a, b []time.Duration) []float64 {
	q := make([]float64, len(a))
	for i := range q {
		q[i] = float64(a[i]) / float64(b[i])
	}
	return q
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return quantile(sorted, 0.5)
}

// quantile returns one of the sorted values.
func quantile[T any](sorted []T, q float64) T {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// A machine is what the numbers are of.
type machine struct {
	CPU        string `json:"cpu"`
	CPUs       int    `json:"cpus"`
	MemoryMiB  int    `json:"memory_mib"`
	Kernel     string `json:"kernel"`
	Filesystem string `json:"filesystem"`
	Go         string `json:"go"`
	SQLite     string `json:"sqlite"`
	PostgreSQL string `json:"postgresql,omitempty"`
	Mosquitto  string `json:"mosquitto,omitempty"`
	Commit     string `json:"commit,omitempty"`
}

func describe(ctx context.Context, b *bencher) machine {
	m := machine{
		CPU: fact("/proc/cpuinfo", "model name"), CPUs: runtime.NumCPU(), Filesystem: filesystem(b.dir),
		Go: runtime.Version(), SQLite: sqlite3.SQLITE_VERSION,
	}
	fmt.Sscanf(fact("/proc/meminfo", "MemTotal"), "%d", &m.MemoryMiB)
	m.MemoryMiB >>= 10
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	if text, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(text))
	}
	servers := b.places
	if b.hubs != nil {
		servers = append(servers[:len(servers):len(servers)], b.hubs.servers...)
		if b.hubs.mosquitto != nil {
			m.Mosquitto = mosquittoVersion(ctx, b.hubs.mosquitto.cmd.Path)
		}
	}
	for _, s := range servers {
		if s.database != nil {
			m.PostgreSQL = s.database.version
		}
	}
	return m
}

// fact returns what a file of /proc says after "name:", or nothing.
func fact(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// writeMarkdown writes the tables of docs/performance.md.
func (r *report) writeMarkdown(out io.Writer) error {
	w := &tables{out: out}
	o, m := r.options, r.machine
	w.line("%d × %s, %d MiB, Linux %s, %s, %s, SQLite %s, PostgreSQL %s, commit %s, mosquitto %s. Medians of %d rounds of %d devices, %d at a time. It took %d s.",
		m.CPUs, m.CPU, m.MemoryMiB, m.Kernel, m.Filesystem, m.Go, m.SQLite, cmp.Or(m.PostgreSQL, "not measured"), cmp.Or(m.Commit, "unknown"),
		cmp.Or(m.Mosquitto, "not measured"), r.rounds, o.n, o.concurrency, int(r.took.Seconds()))
	if len(r.runs) > 0 {
		r.writeProvisioning(w)
	}
	if r.hubs != nil {
		r.hubs.write(w)
	}
	return w.err
}

func (r *report) writeProvisioning(w *tables) {
	w.line("")
	w.heads("Beside Berth", "CPU, ms", "ratio", "min–max", "each second", "p50, ms", "p99, ms", "bytes from", "to the device")
	for _, v := range r.bare {
		w.row(v.name, v.cpuText(), v.ratioText(), v.spread(), fmt.Sprintf("%.0f", v.perSecond), ms(v.p50), ms(v.p99), whole(v.bytes[0]), whole(v.bytes[1]))
	}
	for _, run := range r.runs {
		w.line("")
		heads := []string{run.name, "CPU, ms", "ratio", "min–max", "bar", "each second", "p50, ms", "p99, ms", "bytes from", "to the device"}
		if run.database != nil {
			heads = append(heads, "database CPU, ms")
		}
		w.heads(heads...)
		for _, v := range run.rows {
			cells := []string{v.name, v.cpuText(), v.ratioText(), v.spread(), v.barText(), fmt.Sprintf("%.0f", v.perSecond), ms(v.p50), ms(v.p99), whole(v.bytes[0]), whole(v.bytes[1])}
			if run.database != nil {
				cells = append(cells, fmt.Sprintf("%.3f", milliseconds(v.database)))
			}
			w.row(cells...)
		}
	}
	r.writeGrowth(w)
	w.line("")
	w.heads("Server", "RSS before, MiB", "after", "at most", "rows loaded", "in s", "bytes/enrollment: key", "TPM", "X.509", "bytes/registered device")
	for _, run := range r.runs {
		l := run.loaded
		w.row(run.name, mib(run.memory.started), mib(run.memory.resident), mib(run.memory.peak), thousands(l.rows), fmt.Sprintf("%.0f", l.took.Seconds()),
			whole(l.bytes["symmetric_key"]), whole(l.bytes["tpm"]), whole(l.bytes["x509"]), whole(l.bytes["registered"]))
	}
	if len(r.imports) > 0 {
		w.line("")
		w.heads("Import through the service API", "engine", "rows each second", "server CPU for a row, ms")
		for _, i := range r.imports {
			w.row(i.way, engineNames[i.server.engine], fmt.Sprintf("%.0f", i.perSecond), fmt.Sprintf("%.3f", milliseconds(i.cpuEach)))
		}
	}
}

var engineNames = map[string]string{sqliteEngine: "SQLite", postgresEngine: "PostgreSQL"}

func (r *report) writeGrowth(w *tables) {
	if len(r.growth) == 0 {
		return
	}
	w.line("")
	w.heads("As enrollments grow", "engine", "from", "to", "throughput", fmt.Sprintf("bar −%.0f %%", 100*growthBar), "CPU")
	for _, g := range r.growth {
		verdict := "met"
		if !g.met() {
			verdict = "missed"
		}
		w.row(g.kind.name, engineNames[g.engine], thousands(g.from), thousands(g.size), percent(g.perSecond), verdict, percent(g.cpu))
	}
}

// tables writes Markdown, until the first error.
type tables struct {
	out io.Writer
	err error
}

func (t *tables) line(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.out, format+"\n", args...)
	}
}

func (t *tables) row(cells ...string) { t.line("| %s |", strings.Join(cells, " | ")) }

func (t *tables) heads(cells ...string) {
	t.row(cells...)
	t.line("|---%s|", strings.Repeat("|---:", len(cells)-1))
}

func (v row) cpuText() string { return fmt.Sprintf("%.3f", milliseconds(v.cpu)) }

func (v row) ratioText() string {
	if v.ratio == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v.ratio)
}

func (v row) spread() string {
	if v.ratio == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f–%.2f", v.low, v.high)
}

func (v row) met() bool { return v.ratio <= v.bar }

func (v row) barText() string {
	switch {
	case v.bar == 0:
		return ""
	case v.met():
		return fmt.Sprintf("%.2f met", v.bar)
	}
	return fmt.Sprintf("%.2f missed", v.bar)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", milliseconds(d)) }

func mib(n int64) string { return fmt.Sprintf("%.0f", mebibytes(n)) }

func whole(f float64) string { return thousands(int(f + 0.5)) }

func percent(factor float64) string { return fmt.Sprintf("%+.1f %%", 100*(factor-1)) }

// thousands writes n as 1,234,567.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
