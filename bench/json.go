package main

import (
	"encoding/json"
	"os"
	"time"
)

// A jsonRun is what was found at one server, by kind; every member says in
// which unit.
type jsonRun struct {
	Engine      string `json:"engine"`
	Enrollments int    `json:"enrollments"`

	CPURatio    map[string]float64 `json:"cpu_ratio"`
	CPURatioMin map[string]float64 `json:"cpu_ratio_min"`
	CPURatioMax map[string]float64 `json:"cpu_ratio_max"`
	CPU         map[string]float64 `json:"cpu_ms"`
	DatabaseCPU map[string]float64 `json:"database_cpu_ms,omitempty"`
	PerSecond   map[string]float64 `json:"provisionings_per_second"`
	P50         map[string]float64 `json:"p50_ms"`
	P99         map[string]float64 `json:"p99_ms"`
	BytesFrom   map[string]float64 `json:"bytes_from_device"`
	BytesTo     map[string]float64 `json:"bytes_to_device"`

	Resident    map[string]float64 `json:"resident_mib"`
	BytesPerRow map[string]float64 `json:"database_bytes_per_row"`
	Load        map[string]float64 `json:"load"`
}

// A jsonBar is a bar and how far it is from being met.
type jsonBar struct {
	Bar   float64 `json:"bar"`
	Found float64 `json:"found"`
	Met   bool    `json:"met"`
}

// A jsonReport begins with what was found at the headline server, that of the
// first engine with the most enrollments.
type jsonReport struct {
	jsonRun
	Bars    map[string]jsonBar            `json:"bars"`
	Growth  map[string]map[string]jsonBar `json:"throughput_growth"` // by engine, then by kind; with the most enrollments
	Imports map[string]map[string]float64 `json:"import_rows_per_second"`

	HandshakesPerSecond map[string]float64 `json:"handshakes_per_second"`
	HandshakeCPU        map[string]float64 `json:"handshake_cpu_ms"`
	HandshakeRatio      map[string]float64 `json:"handshake_cpu_ratio"`

	*jsonHubs

	Machine     machine   `json:"machine"`
	Time        time.Time `json:"time"`
	Seconds     float64   `json:"seconds"`
	Devices     int       `json:"devices_in_a_round"`
	Rounds      int       `json:"rounds"`
	Concurrency int       `json:"concurrency"`
	Runs        []jsonRun `json:"runs"`
}

// writeJSON writes the results to a file.
func (r *report) writeJSON(path string) error {
	v := jsonReport{
		Bars: map[string]jsonBar{}, Growth: map[string]map[string]jsonBar{}, Imports: map[string]map[string]float64{},
		HandshakesPerSecond: map[string]float64{}, HandshakeCPU: map[string]float64{}, HandshakeRatio: map[string]float64{},
		Machine: r.machine, Time: r.began.UTC().Truncate(time.Second), Seconds: r.took.Seconds(),
		Devices: r.options.n, Rounds: r.rounds, Concurrency: r.options.concurrency,
	}
	for _, run := range r.runs {
		v.Runs = append(v.Runs, run.json())
	}
	if len(r.runs) > 0 {
		headline := 0
		for headline+1 < len(r.runs) && r.runs[headline+1].engine == r.runs[0].engine {
			headline++
		}
		v.jsonRun = v.Runs[headline]
		for _, row := range r.runs[headline].rows {
			if row.bar > 0 {
				v.Bars[row.key] = jsonBar{row.bar, row.ratio, row.met()}
			}
		}
	}
	for _, g := range r.growth { // of an engine's, the last has the most enrollments
		set(v.Growth, g.engine, g.kind.key, jsonBar{1 - growthBar, g.perSecond, g.met()})
	}
	for _, i := range r.imports {
		set(v.Imports, i.server.engine, i.key, i.perSecond)
	}
	for _, b := range r.bare {
		v.HandshakesPerSecond[b.key], v.HandshakeCPU[b.key] = b.perSecond, milliseconds(b.cpu)
		if b.ratio > 0 {
			v.HandshakeRatio[b.key] = b.ratio
		}
	}
	if r.hubs != nil {
		v.jsonHubs = r.hubs.json(v.Bars)
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

func set[V any](m map[string]map[string]V, outer, inner string, v V) {
	if m[outer] == nil {
		m[outer] = map[string]V{}
	}
	m[outer][inner] = v
}

func (r finding) json() jsonRun {
	v := jsonRun{
		Engine: r.engine, Enrollments: r.size, CPURatio: map[string]float64{}, CPURatioMin: map[string]float64{}, CPURatioMax: map[string]float64{},
		CPU: map[string]float64{}, PerSecond: map[string]float64{}, P50: map[string]float64{}, P99: map[string]float64{},
		BytesFrom: map[string]float64{}, BytesTo: map[string]float64{},
		Resident: map[string]float64{
			"before": mebibytes(r.memory.started), "after": mebibytes(r.memory.resident), "peak": mebibytes(r.memory.peak),
		},
		BytesPerRow: r.loaded.bytes,
		Load:        map[string]float64{"rows": float64(r.loaded.rows), "seconds": r.loaded.took.Seconds()},
	}
	if r.database != nil {
		v.DatabaseCPU = map[string]float64{}
	}
	for _, row := range r.rows {
		k := row.key
		v.CPURatio[k], v.CPURatioMin[k], v.CPURatioMax[k] = row.ratio, row.low, row.high
		v.CPU[k], v.PerSecond[k] = milliseconds(row.cpu), row.perSecond
		v.P50[k], v.P99[k] = milliseconds(row.p50), milliseconds(row.p99)
		v.BytesFrom[k], v.BytesTo[k] = row.bytes[0], row.bytes[1]
		if r.database != nil {
			v.DatabaseCPU[k] = milliseconds(row.database)
		}
	}
	return v
}
