package main

import (
	"fmt"
	"slices"
	"time"
)

// hubFindings are what was found about hubs.
type hubFindings struct {
	options
	messages []flowRow
	rows     []hubRow
	idle     []idleCost
	queries  []queryTime
	rounds   int     // that counted
	flushes  float64 // of the disk, each second
}

// A flowRow is what was found about messages at one place.
type flowRow struct {
	row
	server  *server // nil for a broker
	faster  float64 // messages each second, as a multiple of the forgetful broker's in the same round; the median
	dearer  float64 // the same of CPU time
	slowest float64 // the least of faster
}

// A hubRow is what was found about one thing that devices do, at one place.
type hubRow struct {
	row
	at     *place
	server *server // nil for what Berth is held against
}

// take works out what was found.
func (h *hubs) take() *hubFindings {
	v := &hubFindings{options: h.options, idle: h.idle, queries: h.queries, flushes: h.flushes, rounds: h.counted}
	o := h.options
	o.n = h.connections * h.messages
	for _, f := range h.flows {
		v.messages = append(v.messages, flowRow{row: rowOf(f.series, o), server: f.server})
	}
	if i := slices.IndexFunc(h.flows, func(f *flow) bool { return f.key == forgetful }); i >= 0 {
		for j, f := range h.flows {
			faster := quotients(h.flows[i].wall, f.wall)
			v.messages[j].faster, v.messages[j].slowest = median(faster), slices.Min(faster)
			v.messages[j].dearer = median(quotients(f.cpu, h.flows[i].cpu))
		}
	}
	for _, s := range h.series {
		v.rows = append(v.rows, hubRow{rowOf(s, h.options), s.at, s.server})
	}
	return v
}

// write writes the tables about hubs.
func (v *hubFindings) write(w *tables) {
	if len(v.messages) > 0 {
		w.line("")
		w.heads("Messages of QoS 1", "each second", "× mosquitto", "at least", "bar", "CPU, µs", "× mosquitto", "p50, ms", "p99, ms", "bytes from", "to the device", "database CPU, µs")
		for _, r := range v.messages {
			bar, database := "", ""
			if r.server != nil {
				bar = fmt.Sprintf("%.2f %s", messageBar, verdict(r.faster >= messageBar))
				if r.server.database != nil {
					database = micro(r.database)
				}
			}
			w.row(r.name, whole(r.perSecond), fmt.Sprintf("%.2f", r.faster), fmt.Sprintf("%.2f", r.slowest), bar, micro(r.cpu),
				fmt.Sprintf("%.2f", r.dearer), ms(r.p50), ms(r.p99), whole(r.bytes[0]), whole(r.bytes[1]), database)
		}
		w.line("")
		w.line("Medians of %d rounds of %d messages by each of %d connections with %d messages under way each, of %d bytes and four properties. The disk takes %s flushes of a page each second.",
			v.rounds, v.options.messages, v.connections, window, messageSize, whole(v.flushes))
	}
	if len(v.rows) > 0 {
		w.line("")
		w.heads("At the hub", "server", "CPU, ms", "ratio", "min–max", "each second", "p50, ms", "p99, ms", "database CPU, ms")
		for _, r := range v.rows {
			database := ""
			if r.server != nil && r.server.database != nil {
				database = fmt.Sprintf("%.3f", milliseconds(r.database))
			}
			w.row(r.name, r.where(), r.cpuText(), r.ratioText(), r.spread(), whole(r.perSecond), fmt.Sprintf("%.2f", milliseconds(r.p50)), fmt.Sprintf("%.2f", milliseconds(r.p99)), database)
		}
	}
	if len(v.idle) > 0 {
		w.line("")
		w.heads("An idle connection, KiB", "connections", "resident", "bar", "before garbage is collected", "heap", "stacks")
		for _, c := range v.idle {
			name, bar := "with TLS", ""
			if !c.tls {
				name, bar = "before TLS", fmt.Sprintf("%.0f %s", kib(idleBar), verdict(c.kept <= idleBar))
			}
			w.row(name, thousands(c.connections), kibText(c.kept), bar, kibText(c.grown), kibText(c.heap), kibText(c.stack))
		}
	}
	writeQueries(w, v.queries)
}

func (r hubRow) where() string {
	if r.server != nil {
		return engineNames[r.server.engine]
	}
	return r.at.name
}

// jsonHubs are the results about hubs; every member says in which unit.
type jsonHubs struct {
	MQTT    jsonMQTT                                  `json:"mqtt"`
	Methods *jsonCalls                                `json:"methods,omitempty"`
	Twins   map[string]*jsonCalls                     `json:"twins,omitempty"`   // by section
	Queries map[string]map[string]map[string]jsonTime `json:"queries,omitempty"` // by engine, number of twins and query
}

// jsonMQTT is what was found about MQTT, by server: an engine of Berth, or a
// broker.
type jsonMQTT struct {
	MessagesPerSecond  map[string]float64 `json:"messages_per_second,omitempty"`
	MessagesRatio      map[string]float64 `json:"messages_ratio,omitempty"`
	MessageCPU         map[string]float64 `json:"message_cpu_us,omitempty"`
	MessageCPURatio    map[string]float64 `json:"message_cpu_ratio,omitempty"`
	MessageDatabaseCPU map[string]float64 `json:"message_database_cpu_us,omitempty"`
	MessageP50         map[string]float64 `json:"message_p50_ms,omitempty"`
	MessageP99         map[string]float64 `json:"message_p99_ms,omitempty"`
	FlushesPerSecond   float64            `json:"flushes_per_second,omitempty"`

	ConnectionsPerSecond map[string]float64 `json:"connections_per_second,omitempty"`
	ConnectionCPU        map[string]float64 `json:"connection_cpu_ms,omitempty"`
	ConnectionCPURatio   map[string]float64 `json:"connection_cpu_ratio,omitempty"`
	ConnectionP50        map[string]float64 `json:"connection_p50_ms,omitempty"`
	ConnectionP99        map[string]float64 `json:"connection_p99_ms,omitempty"`

	IdleConnections int     `json:"idle_connections,omitempty"`
	IdleBytes       float64 `json:"idle_bytes,omitempty"`
	IdleHeap        float64 `json:"idle_heap_bytes,omitempty"`
	IdleStack       float64 `json:"idle_stack_bytes,omitempty"`
	IdleTLSBytes    float64 `json:"idle_bytes_with_tls,omitempty"`
	IdleTLSHeap     float64 `json:"idle_heap_bytes_with_tls,omitempty"`
	IdleTLSStack    float64 `json:"idle_stack_bytes_with_tls,omitempty"`
}

// jsonCalls are what was found about calls, by engine. Latencies of methods are
// those of one call at a time.
type jsonCalls struct {
	PerSecond map[string]float64 `json:"per_second"`
	P50       map[string]float64 `json:"p50_ms"`
	P99       map[string]float64 `json:"p99_ms"`
	CPU       map[string]float64 `json:"cpu_ms"`
}

func newJSONCalls() *jsonCalls {
	return &jsonCalls{map[string]float64{}, map[string]float64{}, map[string]float64{}, map[string]float64{}}
}

// A jsonTime is how long something took.
type jsonTime struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
}

// json also adds the bars to bars.
func (v *hubFindings) json(bars map[string]jsonBar) *jsonHubs {
	all := func() map[string]float64 { return map[string]float64{} }
	j := &jsonHubs{MQTT: jsonMQTT{
		MessagesPerSecond: all(), MessagesRatio: all(), MessageCPU: all(), MessageCPURatio: all(), MessageDatabaseCPU: all(), MessageP50: all(), MessageP99: all(),
		FlushesPerSecond: v.flushes, ConnectionsPerSecond: all(), ConnectionCPU: all(), ConnectionCPURatio: all(), ConnectionP50: all(), ConnectionP99: all(),
	}}
	m := &j.MQTT
	for _, r := range v.messages {
		k := r.key
		m.MessagesPerSecond[k], m.MessagesRatio[k] = r.perSecond, r.faster
		m.MessageCPU[k], m.MessageCPURatio[k] = microseconds(r.cpu), r.dearer
		m.MessageP50[k], m.MessageP99[k] = milliseconds(r.p50), milliseconds(r.p99)
		if r.server != nil {
			bars["messages_"+k] = jsonBar{messageBar, r.faster, r.faster >= messageBar}
			if r.server.database != nil {
				m.MessageDatabaseCPU[k] = microseconds(r.database)
			}
		}
	}
	for _, r := range v.rows {
		j.add(r)
	}
	for _, c := range v.idle {
		m.IdleConnections = c.connections
		if c.tls {
			m.IdleTLSBytes, m.IdleTLSHeap, m.IdleTLSStack = c.kept, c.heap, c.stack
			continue
		}
		m.IdleBytes, m.IdleHeap, m.IdleStack = c.kept, c.heap, c.stack
		bars["idle"] = jsonBar{idleBar, c.kept, c.kept <= idleBar}
	}
	j.Queries = jsonQueries(v.queries)
	return j
}

func (j *jsonHubs) add(r hubRow) {
	m := &j.MQTT
	at := r.at.name
	if r.server != nil {
		at = r.server.engine
	}
	var calls *jsonCalls
	switch r.key {
	case bare, connectionsKey:
		m.ConnectionsPerSecond[at], m.ConnectionCPU[at] = r.perSecond, milliseconds(r.cpu)
		m.ConnectionP50[at], m.ConnectionP99[at] = milliseconds(r.p50), milliseconds(r.p99)
		if r.ratio > 0 {
			m.ConnectionCPURatio[at] = r.ratio
		}
		return
	case methodsKey, methodsTogether:
		if j.Methods == nil {
			j.Methods = newJSONCalls()
		}
		calls = j.Methods
	default:
		if j.Twins == nil {
			j.Twins = map[string]*jsonCalls{}
		}
		if j.Twins[r.key] == nil {
			j.Twins[r.key] = newJSONCalls()
		}
		calls = j.Twins[r.key]
	}
	if r.key != methodsKey {
		calls.PerSecond[at], calls.CPU[at] = r.perSecond, milliseconds(r.cpu)
	}
	if r.key != methodsTogether {
		calls.P50[at], calls.P99[at] = milliseconds(r.p50), milliseconds(r.p99)
	}
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func micro(d time.Duration) string { return fmt.Sprintf("%.1f", microseconds(d)) }

func kib(n float64) float64 { return n / (1 << 10) }

func kibText(n float64) string { return fmt.Sprintf("%.1f", kib(n)) }
