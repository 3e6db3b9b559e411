package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-iot/berth/client/peers"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/hub"
)

// NATSConfig says how several servers of one PostgreSQL database find each other's
// devices.
type NATSConfig struct {
	// URL has the address of NATS, "nats://nats.example:4222" or with tls:, several
	// with commas between them. Empty is for one server alone.
	URL string `toml:"url"`
	// CredentialsFile is a file of NATS credentials, NKeyFile one with the seed of an
	// NKey. Or there are User and PasswordFile. All of mode 0600.
	CredentialsFile string `toml:"credentials_file"`
	NKeyFile        string `toml:"nkey_file"`
	User            string `toml:"user"`
	PasswordFile    string `toml:"password_file"`
	// CAFile is a PEM file of the authorities that NATS is trusted by; empty for the
	// system's.
	CAFile string `toml:"ca_file"`
	// Prefix begins the subjects. Installations that share a NATS differ in it.
	Prefix string `toml:"prefix"`
}

// usualPrefix is that of an installation which has its NATS to itself.
const usualPrefix = "berth"

var subject = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// faults tells of every fault, with its key. shared says whether there is a database
// for several servers.
func (c NATSConfig) faults(shared bool, fault func(key, format string, args ...any)) {
	if c.URL == "" {
		if c != (NATSConfig{Prefix: c.Prefix}) {
			fault("nats.url", "is missing")
		}
		return
	}
	if !shared {
		fault("nats.url", "is for servers that share a database; set store.postgres_dsn_file")
	}
	for address := range strings.SplitSeq(c.URL, ",") {
		u, err := url.Parse(address)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls":
			fault("nats.url", "is no list of nats://host:port or tls://host:port")
		case u.User != nil:
			fault("nats.url", "has a password in it; use nats.user and nats.password_file")
		}
	}
	ways := 0
	for _, way := range []string{c.CredentialsFile, c.NKeyFile, c.User} {
		if way != "" {
			ways++
		}
	}
	if ways > 1 {
		fault("nats", "has several of credentials_file, nkey_file and user")
	}
	if (c.User == "") != (c.PasswordFile == "") {
		fault("nats", "needs both user and password_file")
	}
	if !subject.MatchString(c.Prefix) {
		fault("nats.prefix", "%q is not the beginning of a subject", c.Prefix)
	}
}

// secrets are the files that only the server may read.
func (c NATSConfig) secrets() []string {
	var files []string
	for _, f := range []string{c.CredentialsFile, c.NKeyFile, c.PasswordFile} {
		if f != "" {
			files = append(files, f)
		}
	}
	return files
}

// natsConfig is how the server reaches its peers.
func (c Config) natsConfig(key hsm.Deriver, logger *slog.Logger) (peers.Config, error) {
	p := peers.Config{URL: c.NATS.URL, User: c.NATS.User, Prefix: c.NATS.Prefix, Key: key, Logger: logger}
	p.Password = func() (string, error) { return readSecret(c.path(c.NATS.PasswordFile)) }
	if c.NATS.CredentialsFile != "" {
		p.CredentialsFile = c.path(c.NATS.CredentialsFile)
	}
	if c.NATS.NKeyFile != "" {
		p.NKeyFile = c.path(c.NATS.NKeyFile)
	}
	for _, f := range c.NATS.secrets() {
		if _, err := readSecret(c.path(f)); err != nil {
			return peers.Config{}, fmt.Errorf("nats: %w", err)
		}
	}
	if c.NATS.CAFile == "" {
		return p, nil
	}
	pem, err := os.ReadFile(c.path(c.NATS.CAFile))
	if err != nil {
		return peers.Config{}, fmt.Errorf("nats.ca_file: %w", err)
	}
	p.RootCAs = x509.NewCertPool()
	if !p.RootCAs.AppendCertsFromPEM(pem) {
		return peers.Config{}, errors.New("nats.ca_file: it holds no certificate")
	}
	return p, nil
}

// openPeers returns the other servers, nil where there are none.
func openPeers(c Config, key hsm.Deriver, logger *slog.Logger) (*peers.Peers, error) {
	if c.NATS.URL == "" {
		return nil, nil
	}
	p, err := c.natsConfig(key, logger)
	if err != nil {
		return nil, err
	}
	return peers.Connect(p)
}

// hubPeers is what the hubs see of the other servers.
func (s *Server) hubPeers() hub.Peers {
	if s.peers == nil {
		return nil
	}
	return s.peers
}

// servePeers has the hubs answer other servers.
func (s *Server) servePeers() error {
	if s.peers == nil {
		return nil
	}
	s.metrics.registry.MustRegister(peerGauges{s.peers})
	return s.peers.Serve(s.hubs.service)
}

// runPeers has this server be one of several, until leave is called: when nothing
// happens any more that others have to hear of.
func (s *Server) runPeers() (leave func()) {
	if s.peers == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.peers.Run(ctx) })
	return func() { cancel(); running.Wait() }
}

// peerGauges are what is read of the peers when Prometheus asks.
type peerGauges struct{ peers *peers.Peers }

var (
	natsConnected = describe("berth_nats_connected", "Whether this server is connected to NATS.")
	peersPresent  = describe("berth_peers", "Other servers of the installation that this one hears.")
	peersRefused  = describe("berth_peer_messages_refused_total", "Messages on NATS that are none of this installation's, or were sent again.")
	peersMissed   = describe("berth_peer_messages_missed_total", "Times when messages of other servers were lost.")
	peersChecks   = describe("berth_connected_devices_checks_total", "Times when all devices that are connected were compared with the database.")
)

// Describe implements prometheus.Collector.
func (g peerGauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{natsConnected, peersPresent, peersRefused, peersMissed, peersChecks} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g peerGauges) Collect(out chan<- prometheus.Metric) {
	h, connected := g.peers.Health(), 0.0
	if h.Connected {
		connected = 1
	}
	out <- gauge(natsConnected, connected)
	out <- gauge(peersPresent, float64(h.Others))
	for d, n := range map[*prometheus.Desc]int64{peersRefused: h.Refused, peersMissed: h.Missed, peersChecks: h.Checks} {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n))
	}
}

// nats looks whether NATS can be reached, and who else is there.
func (e *examination) nats(ctx context.Context) {
	const about = "nats"
	if e.config.NATS.URL == "" || e.key == nil {
		return
	}
	c, err := e.config.natsConfig(e.key, slog.New(slog.DiscardHandler))
	servers := 0
	if err == nil {
		servers, err = peers.Probe(ctx, c)
	}
	switch {
	case err != nil:
		e.say(Warning, about, "", "%v; methods do not reach devices at other servers, and news reach them late", err)
	case servers == 0:
		e.say(Warning, about, "", "%s takes connections, and no server with this server key is heard under %q", e.config.NATS.URL, e.config.NATS.Prefix)
	default:
		e.fine(about, "%s takes connections, servers that are heard: %d", e.config.NATS.URL, servers)
	}
}
