package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// A report is what a run found.
type report struct {
	options     options
	filesystem  string
	enrollments int
	started     int64 // resident memory of the server after enrolling, in bytes
	resident    int64 // at the end
	peak        int64
	rows        []row
}

// A row is what was found about one kind.
type row struct {
	*kind
	cpuEach   time.Duration // median over the rounds
	low, high float64       // of the ratio
	ratio     float64       // median over the rounds; zero if it is held against nothing
	perSecond float64
	p50, p99  time.Duration
}

func (r *report) take(kinds []*kind) {
	for _, k := range kinds {
		slices.Sort(k.latencies)
		v := row{
			kind: k, cpuEach: median(k.cpu), perSecond: float64(r.options.n) / median(k.wall).Seconds(),
			p50: quantile(k.latencies, 0.50), p99: quantile(k.latencies, 0.99),
		}
		if k.against != nil {
			ratios := make([]float64, len(k.cpu))
			for i := range ratios {
				ratios[i] = float64(k.cpu[i]) / float64(k.against.cpu[i])
			}
			v.ratio, v.low, v.high = median(ratios), slices.Min(ratios), slices.Max(ratios)
		}
		r.rows = append(r.rows, v)
	}
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

func (r *report) writeTable(out io.Writer) error {
	o := r.options
	fmt.Fprintf(out, "%d CPUs, %s %s/%s, %s; medians of %d rounds of %d devices, %d at a time; %d enrollments\n\n",
		runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, r.filesystem, o.rounds, o.n, o.concurrency, r.enrollments)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tserver CPU, ms\tratio\tmin–max\tbar\t\teach second\tp50, ms\tp99, ms\t")
	for _, v := range r.rows {
		ratio, spread, bar, verdict := "", "", "", ""
		if v.against != nil {
			ratio, spread = fmt.Sprintf("%.2f", v.ratio), fmt.Sprintf("%.2f–%.2f", v.low, v.high)
		}
		if v.bar > 0 {
			bar, verdict = fmt.Sprintf("%.2f", v.bar), "met"
			if v.ratio > v.bar {
				verdict = "missed"
			}
		}
		fmt.Fprintf(w, "%s\t%.3f\t%s\t%s\t%s\t%s\t%.0f\t%.2f\t%.2f\t\n",
			v.name, milliseconds(v.cpuEach), ratio, spread, bar, verdict, v.perSecond, milliseconds(v.p50), milliseconds(v.p99))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nresident memory of the server: %.1f MiB before the first device, %.1f MiB after the last, %.1f MiB at most\n",
		mebibytes(r.started), mebibytes(r.resident), mebibytes(r.peak))
	return err
}

// writeJSON writes the results flat: every key says what it is, and in which
// unit.
func (r *report) writeJSON(path string) error {
	values := map[string]any{
		"cpus": runtime.NumCPU(), "go": runtime.Version(), "filesystem": r.filesystem,
		"n": r.options.n, "rounds": r.options.rounds, "concurrency": r.options.concurrency, "enrollments": r.enrollments,
		"resident_mib.before": mebibytes(r.started), "resident_mib.after": mebibytes(r.resident), "resident_mib.peak": mebibytes(r.peak),
	}
	for _, v := range r.rows {
		rate := "provisionings_per_second."
		if v.enroll == nil {
			rate = "handshakes_per_second."
		}
		if v.against != nil {
			values["cpu_ratio."+v.key], values["cpu_ratio_min."+v.key], values["cpu_ratio_max."+v.key] = v.ratio, v.low, v.high
		}
		values[rate+v.key] = v.perSecond
		values["cpu_ms."+v.key] = milliseconds(v.cpuEach)
		values["p50_ms."+v.key], values["p99_ms."+v.key] = milliseconds(v.p50), milliseconds(v.p99)
	}
	text, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }
