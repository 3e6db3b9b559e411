package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/berth-iot/berth/client/webhook"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/mqtt"
)

// maxScrapes bounds the scrapes at a time: each reads the database.
const maxScrapes = 4

// metrics are what Prometheus can read of this process. No label has a value
// that a stranger can choose.
type metrics struct {
	registry      *prometheus.Registry
	requests      *prometheus.CounterVec
	seconds       *prometheus.HistogramVec
	registrations *prometheus.CounterVec
	finished      *prometheus.HistogramVec
	allocations   *prometheus.HistogramVec
	refused       *prometheus.CounterVec
	connects      *prometheus.CounterVec
}

func newMetrics(version string) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_http_requests_total", Help: "Calls that ended, over HTTP and MQTT, by API, route and status.",
		}, []string{"api", "method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_http_request_duration_seconds", Help: "How long calls took, over HTTP and MQTT, by API and route.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"api", "route"}),
		registrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_registrations_total", Help: "Register calls of devices, by what they came to.",
		}, []string{"result"}),
		finished: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_background_registration_duration_seconds", Help: "How long registrations were under way that register calls left assigning, by what they came to.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600},
		}, []string{"result"}),
		allocations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_custom_allocation_duration_seconds", Help: "How long custom allocations took, by what decides and what came of it.",
			Buckets: []float64{.0001, .001, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"by", "result"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_connections_refused_total", Help: "Connections hung up on, because their address had too many open or made too many at a time.",
		}, []string{"reason"}),
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_mqtt_connects_total", Help: "CONNECT packets that were answered, by return code.",
		}, []string{"code"}),
	}
	m.begin()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_build_info", Help: "Always 1; the version is in the label.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.seconds, m.registrations, m.finished, m.allocations, m.refused, m.connects, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// begin counts nothing of everything that is known beforehand: the first of a kind
// is then an increase, and not a series that appears.
func (m *metrics) begin() {
	for _, result := range []provision.Result{
		provision.ResultAssigned, provision.ResultAssigning, provision.ResultChallenged, provision.ResultDisabled,
		provision.ResultFailed, provision.ResultRefused, provision.ResultError,
	} {
		m.registrations.WithLabelValues(string(result))
	}
	for _, result := range []provision.Result{provision.ResultAssigned, provision.ResultDisabled, provision.ResultFailed} {
		m.finished.WithLabelValues(string(result))
	}
	for _, by := range []string{byExpression, byWebhook} {
		for _, result := range []string{allocationChosen, allocationFailed, allocationUnavailable} {
			m.allocations.WithLabelValues(by, result)
		}
	}
	for _, reason := range []string{refusedOpen, refusedRate} {
		m.refused.WithLabelValues(reason)
	}
	for code := mqtt.Accepted; code <= mqtt.NotAuthorized; code++ {
		m.connects.WithLabelValues(code.String())
	}
}

// methods are those that routes have, over HTTP and MQTT; any other a stranger
// made up.
var methods = map[string]bool{"GET": true, "PUT": true, "POST": true, "PATCH": true, "DELETE": true, "PUBLISH": true}

// of returns what counts the requests of one API. There is one for every message of
// a device, so what is counted is found by its labels once.
func (m *metrics) of(api string) func(method, route string, status int, took time.Duration) {
	type labels struct {
		method, route string
		status        int
	}
	type counted struct {
		requests prometheus.Counter
		seconds  prometheus.Observer
	}
	var mu sync.Mutex // guards known
	known := make(map[labels]counted)
	find := func(l labels) counted {
		mu.Lock()
		defer mu.Unlock()
		c, ok := known[l]
		if !ok {
			c = counted{m.requests.WithLabelValues(api, l.method, l.route, strconv.Itoa(l.status)), m.seconds.WithLabelValues(api, l.route)}
			known[l] = c
		}
		return c
	}
	return func(method, route string, status int, took time.Duration) {
		if !methods[method] {
			method = "other"
		}
		c := find(labels{method, route, status})
		c.requests.Inc()
		c.seconds.Observe(took.Seconds())
	}
}

// registered counts a register call.
func (m *metrics) registered(result provision.Result) {
	m.registrations.WithLabelValues(string(result)).Inc()
}

// finishedLater counts a registration that was under way.
func (m *metrics) finishedLater(result provision.Result, took time.Duration) {
	m.finished.WithLabelValues(string(result)).Observe(took.Seconds())
}

// connected counts the answer to a CONNECT.
func (m *metrics) connected(code mqtt.ReturnCode) { m.connects.WithLabelValues(code.String()).Inc() }

// refusedConnection counts a connection that was hung up on.
func (m *metrics) refusedConnection(reason string) { m.refused.WithLabelValues(reason).Inc() }

// allocated counts a custom allocation.
func (m *metrics) allocated(by, result string, took time.Duration) {
	m.allocations.WithLabelValues(by, result).Observe(took.Seconds())
}

// watch lets Prometheus read how many enrollments have a webhook that fails.
func (m *metrics) watch(webhooks *webhook.Client) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_webhooks_failing", Help: "Enrollments whose webhook did not answer as it must when it was last asked.",
	}, func() float64 {
		failing := 0
		for _, one := range webhooks.Health() {
			if one.Failures > 0 {
				failing++
			}
		}
		return float64(failing)
	}))
}

// watchListener lets Prometheus read how many connections a listener has, of how
// many.
func (m *metrics) watchListener(name string, l *fairListener, most int) {
	labels := prometheus.Labels{"listener": name}
	bound := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_connections_max", Help: "Connections that a listener can have open; further ones wait.", ConstLabels: labels,
	})
	bound.Set(float64(most))
	m.registry.MustRegister(bound, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "berth_connections_open", Help: "Connections that a listener has open; those with MQTT over WebSocket are of https.", ConstLabels: labels,
	}, func() float64 { return float64(l.connections()) }))
}

// serve answers Prometheus until ctx ends.
func (m *metrics) serve(ctx context.Context, l net.Listener, logger *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: handshakeTimeout, ReadTimeout: requestTimeout, WriteTimeout: answerTimeout,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
