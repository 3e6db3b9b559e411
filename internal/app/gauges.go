package app

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// gaugesTimeout bounds what a scrape waits for the database.
	gaugesTimeout = 5 * time.Second
	// gaugesStale is for how long what was read there is good: ten thousand
	// registrations take a third of a second of one core.
	gaugesStale = 5 * time.Second
)

// gauges are what is read of a server when Prometheus asks. What the database
// knows is missing while it does not answer.
type gauges struct {
	*Server

	mu   sync.Mutex // guards last
	last *unfinished
}

// unfinished are the registrations under way as they were at a moment.
type unfinished struct {
	at      time.Time
	err     error // they could not be read
	states  map[string]int
	oldest  time.Duration
	waiting map[destination]int
}

// What a registration under way waits for.
const (
	underWayLeased  = "leased"  // a server works on it
	underWayDue     = "due"     // a worker
	underWayDelayed = "delayed" // the time of its next attempt
)

var (
	databaseUp   = describe("berth_database_up", "Whether the database answered this scrape.")
	databaseSize = describe("berth_database_size_bytes", "Size of the files of an SQLite database.", "file")
	underWay     = describe("berth_registrations_under_way",
		"Registrations that are not finished, of all servers that share the database, by what they wait for. 10,000 are counted.", "state")
	oldestUnderWay = describe("berth_registrations_under_way_oldest_age_seconds",
		"How long the oldest registration that is not finished is under way, 0 when there is none.")
	linkFailures = describe("berth_linked_hub_consecutive_failures",
		"Calls of this server to a hub elsewhere that failed since the last that did not.", "id_scope", "hub")
	linkSuccess = describe("berth_linked_hub_last_success_timestamp_seconds",
		"When a hub elsewhere last answered this server, 0 if it did not since the server started.", "id_scope", "hub")
	linkWaiting = describe("berth_linked_hub_waiting_registrations",
		"Registrations under way that are to go to a hub elsewhere, of all servers that share the database.", "id_scope", "hub")
	mqttOpen            = describe("berth_mqtt_connections_open", "MQTT connections that are open, over TLS and WebSocket.")
	certificateNotAfter = describe("berth_server_certificate_not_after_timestamp_seconds",
		"When a server certificate in use expires, by its file in the configuration.", "certificate")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func gauge(d *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		databaseUp, databaseSize, underWay, oldestUnderWay, linkFailures, linkSuccess, linkWaiting, mqttOpen, certificateNotAfter,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	up := 0.0
	if u := g.unfinished(ctx); u.err == nil {
		up = 1
		for state, n := range u.states {
			out <- gauge(underWay, float64(n), state)
		}
		out <- gauge(oldestUnderWay, u.oldest.Seconds())
		g.collectLinks(ctx, out, u.waiting)
	}
	out <- gauge(databaseUp, up)
	g.collectFiles(out)
	g.collectCertificates(out)
	out <- gauge(mqttOpen, float64(g.mqtt.Open()))
}

// unfinished reads the registrations under way, unless somebody did just now.
func (g *gauges) unfinished(ctx context.Context) *unfinished {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last != nil && time.Since(g.last.at) < gaugesStale {
		return g.last
	}
	found, err := g.store.DueRegistrations(ctx, farFuture, maxWaiting)
	g.last = &unfinished{
		at: time.Now(), err: err, waiting: countWaiting(found),
		states: map[string]int{underWayLeased: 0, underWayDue: 0, underWayDelayed: 0},
	}
	now := g.config.clock()()
	for _, r := range found {
		g.last.oldest = max(g.last.oldest, now.Sub(r.Updated))
		switch {
		case !now.Before(r.Pending.Due):
			g.last.states[underWayDue]++
		case now.Before(r.Pending.Lease):
			g.last.states[underWayLeased]++
		default:
			g.last.states[underWayDelayed]++
		}
	}
	return g.last
}

// collectLinks tells of the hubs elsewhere of all scopes.
func (g *gauges) collectLinks(ctx context.Context, out chan<- prometheus.Metric, waiting map[destination]int) {
	scopes, err := g.hubs.scopes.all(ctx)
	if err != nil {
		return
	}
	for _, s := range scopes {
		scope := s.ID
		linked, err := g.store.Linked(ctx, scope)
		if err != nil {
			return
		}
		for _, l := range linked {
			if l.Connection == nil {
				continue
			}
			health, labels := g.hubs.links.health(l), []string{string(scope), l.Host}
			success := 0.0
			if at := health.LastSuccess; !at.IsZero() {
				success = float64(at.UnixMilli()) / 1000
			}
			out <- gauge(linkFailures, float64(health.Failures), labels...)
			out <- gauge(linkSuccess, success, labels...)
			out <- gauge(linkWaiting, float64(waiting[destinationOf(scope, l.Host)]), labels...)
		}
	}
}

// collectFiles tells the size of the database, its log and the messages beside it,
// where they are files.
func (g *gauges) collectFiles(out chan<- prometheus.Metric) {
	if g.config.Store.PostgresDSNFile != "" {
		return
	}
	for _, name := range []string{databaseFile, databaseFile + "-wal"} {
		if info, err := os.Stat(g.config.path(name)); err == nil {
			out <- gauge(databaseSize, float64(info.Size()), name)
		}
	}
	if s, ok := g.store.(interface{ StreamSize() (int64, int) }); ok {
		bytes, _ := s.StreamSize()
		out <- gauge(databaseSize, float64(bytes), streamDir)
	}
}

func (g *gauges) collectCertificates(out chan<- prometheus.Metric) {
	told := map[string]bool{}
	for i, pair := range g.tls.current.Load().Certificates {
		if name := g.config.TLS.Certificates[i].Certificate; !told[name] {
			told[name] = true
			out <- gauge(certificateNotAfter, float64(pair.Leaf.NotAfter.Unix()), name)
		}
	}
}
