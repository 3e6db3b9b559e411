package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client/peers"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/admin"
	"github.com/berth-iot/berth/front/dpshttp"
	"github.com/berth-iot/berth/front/dpsmqtt"
	"github.com/berth-iot/berth/front/hubhttp"
	"github.com/berth-iot/berth/front/hubmqtt"
	"github.com/berth-iot/berth/front/mqttserver"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
)

// Deadlines of the HTTPS listener. A device behind a bad radio link needs
// seconds; nobody needs minutes.
const (
	handshakeTimeout = 15 * time.Second // also covers the request's headers
	requestTimeout   = 30 * time.Second
	answerTimeout    = 60 * time.Second
	idleTimeout      = 3 * time.Minute
	maxHeaderBytes   = 16 << 10
	trimInterval     = time.Minute
	readyTimeout     = 3 * time.Second // whoever asks whether to send calls here waits no longer
)

// A Server is a whole Berth server in one process.
type Server struct {
	config     Config
	logger     *slog.Logger
	store      store
	hubs       *hubs
	peers      *peers.Peers // nil where there are none
	registrar  *provision.Registrar
	dispatcher *hub.Dispatcher
	chooser    *chooser
	handler    http.Handler
	tls        *certificates
	listener   net.Listener
	metrics    *metrics
	scrapes    net.Listener // for Prometheus, or nil
	mqtt       *mqttserver.Server
	mqtts      net.Listener // for MQTT over TLS, or nil
	ready      atomic.Bool
	draining   chan struct{}
}

// Open readies a server: it opens the store, migrates it, loads keys and
// certificates and begins to listen. Run serves; Close is for a server that
// never ran.
func Open(ctx context.Context, c Config, version string, logger *slog.Logger) (_ *Server, err error) {
	s := &Server{
		config: c, logger: logger, metrics: newMetrics(version), draining: make(chan struct{}),
		mqtt: &mqttserver.Server{Logger: logger},
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	key, err := soft.Open(c.path(sealKeyFile))
	if err != nil {
		return nil, err
	}
	if s.tls, err = loadCertificates(c); err != nil {
		return nil, err
	}
	if s.store, err = openDatabase(ctx, c, key); err != nil {
		return nil, err
	}
	scope, err := device.ParseIDScope(c.IDScope)
	if err != nil {
		return nil, err
	}
	if _, err := s.store.Scope(ctx, scope); err != nil {
		return nil, fmt.Errorf("id_scope %s: the database does not have it: %w", scope, err)
	}
	links, err := openLinks(c)
	if err != nil {
		return nil, err
	}
	if s.hubs, err = openHubs(ctx, s.store, &scopeCache{store: s.store}, links); err != nil {
		return nil, err
	}
	if s.chooser, err = newChooser(c, s.metrics); err != nil {
		return nil, err
	}
	if s.peers, err = openPeers(c, key, logger); err != nil {
		return nil, err
	}
	s.handler = s.assemble(scope, key, version)
	if err = s.servePeers(); err != nil {
		return nil, err
	}
	s.metrics.registry.MustRegister(&gauges{Server: s}, routeGauges{s})
	if s.listener, err = net.Listen("tcp", c.Listen); err != nil {
		return nil, listenError(c.Listen, err)
	}
	if c.MQTT.Listen != "" {
		if s.mqtts, err = net.Listen("tcp", c.MQTT.Listen); err != nil {
			return nil, listenError(c.MQTT.Listen, err)
		}
	}
	if c.Metrics.Listen != "" {
		if s.scrapes, err = net.Listen("tcp", c.Metrics.Listen); err != nil {
			return nil, listenError(c.Metrics.Listen, err)
		}
	}
	return s, nil
}

// assemble wires the services to the store and the fronts to the services.
func (s *Server) assemble(scope device.IDScope, key *soft.Key, version string) http.Handler {
	now := s.config.clock()
	journal := provision.NewJournal(s.config.Provisioning.Decisions)
	hubService := hub.New(hub.Config{
		Registry: s.store, Stream: s.store, Queues: s.store, Presences: s.store, Configurations: s.store, Policies: s.store,
		Authorities: &authorities{store: s.store}, Peers: s.hubPeers(), Now: now, Random: rand.Reader,
	})
	s.hubs.service = hubService
	s.dispatcher = s.newDispatcher(hubService)
	if shared, ok := s.store.(interface{ OnQueued(func(hub.Place)) }); ok {
		shared.OnQueued(hubService.Wake) // what other servers send to devices of this one
	}
	s.registrar = provision.NewRegistrar(provision.Config{
		Enrollments: s.store, Trust: s.store, Records: announcing{s.store}, Scopes: s.store, Hubs: s.hubs, Chooser: s.chooser, Secrets: key,
		Journal: journal, Now: now, Random: rand.Reader,
		ChallengeWindow: time.Duration(s.config.Provisioning.ChallengeWindow),
		AnswerAtOnce:    s.config.Provisioning.AnswerAtOnce,
		GiveUpAfter:     time.Duration(s.config.Provisioning.GiveUpAfter),
		Workers:         s.config.Provisioning.Workers,
		Observe:         s.metrics.registered,
		Finished:        s.metrics.finishedLater,
		Fault:           func(err error) { s.logger.Error("finishing registrations", "error", err) },
	})
	enroller := provision.NewEnroller(provision.EnrollerConfig{
		Store: s.store, Scopes: s.store, Records: s.store, Trust: s.store, Journal: journal, Now: now, Random: rand.Reader,
		CheckCustom: s.chooser.check,
	})
	scopes := tenants{s.store, s.hubs.scopes, scope, s.config.Hosts}
	limits := newLimits(s.config.Limits, scopes, s.hubs)
	s.mqtt.Observe = s.metrics.connected
	s.mqtt.Fronts = []mqttserver.Front{
		dpsmqtt.New(dpsmqtt.Config{
			Registrar: s.registrar, Addresses: limits.ofAddress, Devices: limits.ofDevice, Observe: s.metrics.of("dps"),
			Now: now, Logger: s.logger, Random: rand.Reader,
		}),
		hubmqtt.New(hubmqtt.Config{
			Service: hubService, Hubs: s.hubs, Addresses: limits.ofAddress, Observe: s.metrics.of("hub"),
			Now: now, Logger: s.logger, Random: rand.Reader,
		}),
	}
	return mux{
		dps: dpshttp.New(dpshttp.Config{
			Registrar: s.registrar, Enroller: enroller, Policies: s.store, Secrets: key, Scopes: scopes,
			PublicURL: "https://" + s.config.Hosts[0] + portSuffix(s.config.Listen),
			Addresses: limits.ofAddress, Devices: limits.ofDevice, Observe: s.metrics.of("dps"),
			Now: now, Logger: s.logger, Random: rand.Reader,
		}),
		hub: hubhttp.New(hubhttp.Config{
			Service: hubService, Hubs: s.hubs, Addresses: limits.ofAddress, Observe: s.metrics.of("hub"),
			Now: now, Logger: s.logger, Random: rand.Reader,
		}),
		admin: admin.New(admin.Config{
			Home: scope, Scopes: scopes, Tenants: scopes, Policies: s.store, Secrets: key, Decisions: enroller, Refusals: hubService, Links: s.hubs, Lists: enroller, Sharers: enroller, Certificates: enroller, Trust: enroller, Messages: s.store, Outbox: hubService, Routing: s.dispatcher,
			Version: version, Ready: s.isReady, Draining: s.draining, Webhooks: s.chooser.webhooks.Health,
			Addresses: limits.ofAddress, Observe: s.metrics.of("admin"),
			Now: now, Logger: s.logger, Random: rand.Reader,
		}),
	}
}

// A mux shares one listener among the APIs. Their paths begin differently, so
// one host name can serve them all.
type mux struct{ dps, hub, admin http.Handler }

func (m mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch strings.ToLower(first) {
	case "devices", "twins", "statistics", "messages", "configurations":
		m.hub.ServeHTTP(w, r)
	case "berth", "healthz", "readyz":
		m.admin.ServeHTTP(w, r)
	default:
		m.dps.ServeHTTP(w, r)
	}
}

// Address is where the server listens.
func (s *Server) Address() net.Addr { return s.listener.Addr() }

// MQTTAddress is where the server listens for MQTT over TLS, or nil.
func (s *Server) MQTTAddress() net.Addr {
	if s.mqtts == nil {
		return nil
	}
	return s.mqtts.Addr()
}

// Run serves until ctx ends, then lets running requests finish and closes the
// store. It returns when everything it started has stopped.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	defer s.runPeers()()
	defer s.mqtt.Wait()
	server := &http.Server{
		TLSConfig:         s.tls.config(),
		ReadHeaderTimeout: handshakeTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	// Some clients look for lower-case header names and ask for WebSocket
	// upgrades, which HTTP/2 has neither of.
	server.Protocols.SetHTTP1(true)

	g, ctx := errgroup.WithContext(ctx)
	server.Handler = s.upgrading(ctx)
	if s.mqtts != nil {
		g.Go(func() error { return s.mqtt.Serve(ctx, s.bounded("mqtts", s.mqtts), s.tls.config()) })
	}
	g.Go(func() error {
		err := server.ServeTLS(s.bounded("https", s.listener), "", "")
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	g.Go(func() error {
		<-ctx.Done()
		return s.drain(server)
	})
	g.Go(func() error {
		s.registrar.Run(ctx, time.Duration(s.config.DrainTimeout))
		return nil
	})
	g.Go(func() error {
		s.dispatcher.Run(ctx)
		return nil
	})
	g.Go(func() error { return s.trim(ctx) })
	g.Go(func() error {
		s.hubs.service.KeepIndex(ctx, func(err error) { s.logger.Error("hub", "error", err) })
		return nil
	})
	g.Go(func() error {
		s.hubs.service.KeepPresence(ctx, func(err error) { s.logger.Error("hub", "error", err) })
		return nil
	})
	g.Go(func() error {
		s.hubs.service.Deploy(ctx, func(err error) { s.logger.Error("hub", "error", err) })
		return nil
	})
	g.Go(func() error { return s.tls.watch(ctx, s.logger) })
	if s.scrapes != nil {
		g.Go(func() error { return s.metrics.serve(ctx, s.scrapes, s.logger) })
	}
	s.ready.Store(true)
	s.logger.Info("serving", "address", s.listener.Addr().String(), "host", s.config.Hosts[0], "id_scope", s.config.IDScope)
	return g.Wait()
}

// upgrading is the handler of all APIs, and of the WebSockets that devices speak
// MQTT on: on any path, for clients differ in it. They end with ctx.
func (s *Server) upgrading(ctx context.Context) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if mqttserver.Wanted(r) {
			s.mqtt.Upgrade(ctx, w, r)
			return
		}
		s.handler.ServeHTTP(w, r)
	})
}

// bounded is the listener with the bounds of the configuration. Metrics have it
// under name.
func (s *Server) bounded(name string, l net.Listener) net.Listener {
	calls, _ := limit.ParseRate(s.config.Limits.PerAddress) // Validate read it
	fair := newFairListener(l, s.config.Limits.ConnectionsPerAddress, calls, s.config.clock(), s.metrics.refusedConnection)
	s.metrics.watchListener(name, fair, s.config.MaxConnections)
	return netutil.LimitListener(fair, s.config.MaxConnections)
}

func (s *Server) drain(server *http.Server) error {
	s.ready.Store(false)
	close(s.draining)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.config.DrainTimeout))
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		s.logger.Warn("requests were cut off", "after", time.Duration(s.config.DrainTimeout).String())
		return server.Close()
	}
	s.logger.Info("stopped")
	return nil
}

// trim keeps the telemetry stream within its retention, and the queues of messages
// to devices free of what has expired.
func (s *Server) trim(ctx context.Context) error {
	tick := time.NewTicker(trimInterval)
	defer tick.Stop()
	for {
		n, err := s.store.Trim(ctx, hub.Retention{Before: s.config.clock()().Add(-time.Duration(s.config.Telemetry.Retention)), Bytes: int64(s.config.Telemetry.MaxSize)})
		switch {
		case err != nil && ctx.Err() == nil:
			s.logger.Error("trimming telemetry", "error", err)
		case n > 0:
			s.logger.Debug("trimmed telemetry", "messages", n)
		}
		if err := s.hubs.service.Expire(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("expiring messages to devices", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// isReady reports whether calls are answered, which takes the database.
func (s *Server) isReady(ctx context.Context) error {
	if !s.ready.Load() {
		return errs.New(errs.Unavailable, 0, "not serving")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := s.store.Policies(ctx, access.ScopeOwner(device.IDScope(s.config.IDScope)))
	if err != nil && errs.KindOf(err) != errs.Unavailable {
		return errs.New(errs.Unavailable, 0, "not serving").WithCause(err)
	}
	return err
}

// Close releases the listener and the store.
func (s *Server) Close() error {
	var faults []error
	for _, l := range []net.Listener{s.listener, s.mqtts, s.scrapes} {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			faults = append(faults, err)
		}
	}
	if s.chooser != nil {
		s.chooser.webhooks.Close()
	}
	if s.peers != nil {
		s.peers.Close()
	}
	if s.store != nil {
		faults = append(faults, s.store.Close())
	}
	return errors.Join(faults...)
}

func listenError(address string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("listening on %s: %w; a port below 1024 needs root or CAP_NET_BIND_SERVICE, or set listen in %s", address, err, configFile)
	default:
		return fmt.Errorf("listening on %s: %w", address, err)
	}
}
