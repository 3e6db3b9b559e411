package app

import (
	"context"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-iot/berth/provision"
)

// gaugesTimeout bounds what a scrape waits for the database.
const gaugesTimeout = 5 * time.Second

// gauges are what is read of a server when Prometheus asks. What the database
// knows is missing while it does not answer.
type gauges struct{ *Server }

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
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		databaseUp, databaseSize, underWay, oldestUnderWay, linkFailures, linkSuccess, linkWaiting, mqttOpen, certificateNotAfter,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	up := 0.0
	if unfinished, err := g.store.DueRegistrations(ctx, farFuture, maxWaiting); err == nil {
		up = 1
		g.collectUnderWay(out, unfinished)
		g.collectLinks(ctx, out, unfinished)
	}
	out <- gauge(databaseUp, up)
	g.collectFiles(out)
	g.collectCertificates(out)
	out <- gauge(mqttOpen, float64(g.mqtt.Open()))
}

func (g gauges) collectUnderWay(out chan<- prometheus.Metric, unfinished []*provision.Registration) {
	now := g.config.clock()()
	states := map[string]int{underWayLeased: 0, underWayDue: 0, underWayDelayed: 0}
	var oldest time.Duration
	for _, r := range unfinished {
		oldest = max(oldest, now.Sub(r.Updated))
		switch {
		case !now.Before(r.Pending.Due):
			states[underWayDue]++
		case now.Before(r.Pending.Lease):
			states[underWayLeased]++
		default:
			states[underWayDelayed]++
		}
	}
	for state, n := range states {
		out <- gauge(underWay, float64(n), state)
	}
	out <- gauge(oldestUnderWay, oldest.Seconds())
}

// collectLinks tells of the hubs elsewhere of all scopes.
func (g gauges) collectLinks(ctx context.Context, out chan<- prometheus.Metric, unfinished []*provision.Registration) {
	scopes, err := g.hubs.listScopes(ctx)
	if err != nil {
		return
	}
	waiting := countWaiting(unfinished)
	for _, scope := range scopes {
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

// collectFiles tells the size of the database and its log, where they are files.
func (g gauges) collectFiles(out chan<- prometheus.Metric) {
	if g.config.Store.PostgresDSNFile != "" {
		return
	}
	for _, name := range []string{databaseFile, databaseFile + "-wal"} {
		if info, err := os.Stat(g.config.path(name)); err == nil {
			out <- gauge(databaseSize, float64(info.Size()), name)
		}
	}
}

func (g gauges) collectCertificates(out chan<- prometheus.Metric) {
	told := map[string]bool{}
	for i, pair := range g.tls.current.Load().Certificates {
		if name := g.config.TLS.Certificates[i].Certificate; !told[name] {
			told[name] = true
			out <- gauge(certificateNotAfter, float64(pair.Leaf.NotAfter.Unix()), name)
		}
	}
}
