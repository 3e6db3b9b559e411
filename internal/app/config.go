// Package app assembles the server: its configuration, its data directory, the
// wiring of stores, services and fronts, and its life from start to drain.
package app

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/berth-iot/berth/client/webhook"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/limit"
)

// A Config is the whole configuration of a server, read from berth.toml. The
// comments on its fields are the manual. Relative paths are taken from the data
// directory.
type Config struct {
	// IDScope is the scope devices are given at the factory.
	IDScope string `toml:"id_scope"`
	// Hosts are the names of the provisioning service: the first is the public
	// one, all are accepted in service tokens. Each must be in the server
	// certificate, and so must the names of the linked hubs.
	Hosts []string `toml:"hosts"`
	// Listen is the address of the HTTPS listener. Device SDKs have port 443
	// built in.
	Listen string `toml:"listen"`
	// MaxConnections bounds open connections; further ones wait to be accepted.
	MaxConnections int `toml:"max_connections"`
	// DrainTimeout is how long running requests may take to finish at shutdown.
	DrainTimeout Duration `toml:"drain_timeout"`

	Store        StoreConfig        `toml:"store"`
	NATS         NATSConfig         `toml:"nats"`
	TLS          TLSConfig          `toml:"tls"`
	Limits       LimitsConfig       `toml:"limits"`
	MQTT         MQTTConfig         `toml:"mqtt"`
	Metrics      MetricsConfig      `toml:"metrics"`
	Provisioning ProvisioningConfig `toml:"provisioning"`
	LinkedHubs   LinkedHubsConfig   `toml:"linked_hubs"`
	Telemetry    TelemetryConfig    `toml:"telemetry"`
	Log          LogConfig          `toml:"log"`

	// Data is the directory of the configuration file; it is not in the file.
	Data string `toml:"-"`
	// Now is the server's clock, the system's where it is nil. It is not in the
	// file.
	Now func() time.Time `toml:"-"`
}

// StoreConfig says where everything the server knows is kept.
type StoreConfig struct {
	// PostgresDSNFile is a file of mode 0600 with a connection string of a
	// PostgreSQL database, which several servers can share. Empty means the file
	// berth.db, for one server.
	PostgresDSNFile string `toml:"postgres_dsn_file"`
}

// TLSConfig names the server's certificates.
type TLSConfig struct {
	// Certificates are tried in order; the first that a client can use is
	// presented. ECDSA P-256 first, RSA for old clients second.
	Certificates []CertificateFiles `toml:"certificates"`
}

// CertificateFiles are a certificate and its key.
type CertificateFiles struct {
	Certificate string `toml:"certificate"` // PEM, leaf first, with intermediates
	Key         string `toml:"key"`         // PEM, mode 0600
}

// MQTTConfig says how devices reach the server over MQTT. Over WebSocket they do
// in any case, on the HTTPS listener.
type MQTTConfig struct {
	// Listen is the address of the MQTT listener, which speaks TLS. Device SDKs
	// have port 8883 built in. Empty means none.
	Listen string `toml:"listen"`
}

// ProvisioningConfig tunes the provisioning service.
type ProvisioningConfig struct {
	// ChallengeWindow is how long a TPM has at least to answer a challenge; at
	// most it has twice as long. Chips are slow: minutes.
	ChallengeWindow Duration `toml:"challenge_window"`
	// AnswerAtOnce tells a device its hub in the answer to its first call, when
	// it is known by then. Without it every device polls, as the original
	// service makes it.
	AnswerAtOnce bool `toml:"answer_at_once"`
	// Decisions is how many decisions are remembered for berth explain.
	Decisions int `toml:"decisions"`
	// Webhooks are what the webhooks of custom allocation may begin with:
	// "https://allocate.example.com/" or "https://example.com/api". Without any,
	// whoever may write enrollments says where this server connects to.
	Webhooks []string `toml:"webhooks"`
	// GiveUpAfter is how long a registration waits for a hub elsewhere or a webhook
	// that is out of reach, before it fails.
	GiveUpAfter Duration `toml:"give_up_after"`
	// Workers is how many such registrations are worked on at a time.
	Workers int `toml:"workers"`
}

// LinkedHubsConfig says how hubs elsewhere are reached.
type LinkedHubsConfig struct {
	// CAFile is a PEM file of authorities that may vouch for such hubs, besides the
	// system's; empty for none.
	CAFile string `toml:"ca_file"`
}

// LimitsConfig bounds how often callers may call. What is over a limit is
// answered 429 with Retry-After. A rate is "2000/1s", or "off".
type LimitsConfig struct {
	// PerAddress bounds all calls of one address; for IPv6, of one /64 network.
	// A factory's devices may all come from one.
	PerAddress string `toml:"per_address"`
	// PerDevice bounds the registrations and polls of one device.
	PerDevice string `toml:"per_device"`
	// ConnectionsPerAddress bounds the open connections of one address; further
	// ones are hung up on. A factory may be behind one address, and everybody
	// behind a load balancer that hides theirs: then raise it to max_connections.
	ConnectionsPerAddress int `toml:"connections_per_address"`
}

// MetricsConfig says where metrics can be read.
type MetricsConfig struct {
	// Listen is the address of a plain HTTP listener for Prometheus, "127.0.0.1:9464";
	// empty for none. It asks nobody who they are.
	Listen string `toml:"listen"`
}

// TelemetryConfig bounds the built-in stream.
type TelemetryConfig struct {
	// Retention is how long messages are kept, at least. With SQLite they go by the
	// file, when it has been up to an eighth longer.
	Retention Duration `toml:"retention"`
	// MaxSize is how many bytes of messages are kept, "10GiB"; older ones go. It is
	// looked at once a minute. "none" is without end.
	MaxSize Size `toml:"max_size"`
}

// LogConfig says what is logged to standard error.
type LogConfig struct {
	Level  string `toml:"level"`  // debug, info, warn or error
	Format string `toml:"format"` // text or json
}

// minStreamSize is the least that the stream can be held to.
const minStreamSize = 1 << 20

// A Duration is a time.Duration written as "5m" or "168h".
type Duration time.Duration

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes the form of time.Duration.String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// A Size is a number of bytes, written as "512MiB", "10GiB" or "10737418240".
// Zero is "none": no bound.
type Size int64

// sizeUnits are what a Size may be counted in, the largest first.
var sizeUnits = []struct {
	name  string
	shift int
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// UnmarshalText reads what MarshalText writes, and plain bytes.
func (s *Size) UnmarshalText(b []byte) error {
	text := string(b)
	if text == "none" {
		*s = 0
		return nil
	}
	shift := 0
	for _, u := range sizeUnits {
		if digits, ok := strings.CutSuffix(text, u.name); ok {
			text, shift = digits, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n > math.MaxInt64>>shift || strings.HasPrefix(text, "+") {
		return fmt.Errorf("%q is no size: write 10GiB, 512MiB, a number of bytes or none", b)
	}
	*s = Size(n << shift)
	return nil
}

// MarshalText writes the largest unit of which it is a whole number.
func (s Size) MarshalText() ([]byte, error) {
	if s == 0 {
		return []byte("none"), nil
	}
	for _, u := range sizeUnits {
		if s%(1<<u.shift) == 0 {
			return []byte(strconv.FormatInt(int64(s>>u.shift), 10) + u.name), nil
		}
	}
	return []byte(strconv.FormatInt(int64(s), 10)), nil
}

// DefaultConfig is what a configuration file starts from.
func DefaultConfig() Config {
	return Config{
		Listen:         ":443",
		MaxConnections: 20000,
		NATS:           NATSConfig{Prefix: usualPrefix},
		DrainTimeout:   Duration(20 * time.Second),
		TLS:            TLSConfig{Certificates: []CertificateFiles{{serverCertFile, serverKeyFile}}},
		Provisioning:   ProvisioningConfig{ChallengeWindow: Duration(5 * time.Minute), AnswerAtOnce: true, Decisions: 4096, GiveUpAfter: Duration(time.Hour), Workers: 16},
		Limits:         LimitsConfig{PerAddress: "2000/1s", PerDevice: "50/10s", ConnectionsPerAddress: 5000},
		Telemetry:      TelemetryConfig{Retention: Duration(7 * 24 * time.Hour), MaxSize: 10 << 30},
		Log:            LogConfig{Level: "info", Format: "text"},
	}
}

// LoadConfig reads berth.toml in the data directory. It reports every fault at
// once; unknown keys are faults.
func LoadConfig(data string) (Config, error) {
	c := DefaultConfig()
	c.TLS.Certificates = nil
	path := filepath.Join(data, configFile)
	meta, err := toml.DecodeFile(path, &c)
	if errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("%w: make a data directory with: berth init --data %s --host NAME", err, data)
	}
	if err != nil {
		return c, fmt.Errorf("reading %s: %w", path, err)
	}
	c.Data = data
	var faults []error
	for _, key := range meta.Undecoded() {
		faults = append(faults, fmt.Errorf("%s: is not a setting", key))
	}
	if err := errors.Join(append(faults, c.Validate())...); err != nil {
		return c, fmt.Errorf("%s:\n%w", path, err)
	}
	return c, nil
}

// Validate reports every fault of c, each naming its key.
func (c Config) Validate() error {
	var faults []error
	fault := func(key, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if _, err := device.ParseIDScope(c.IDScope); err != nil {
		fault("id_scope", "%v", err)
	}
	if len(c.Hosts) == 0 {
		fault("hosts", "names no host")
	}
	for _, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "/ ") {
			fault("hosts", "%q is not a host name", h)
		}
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		fault("listen", "%q is not address:port", c.Listen)
	}
	if c.MaxConnections < 1 {
		fault("max_connections", "must be at least 1")
	}
	if c.DrainTimeout <= 0 {
		fault("drain_timeout", "must be above zero")
	}
	if len(c.TLS.Certificates) == 0 {
		fault("tls.certificates", "names no certificate")
	}
	for i, f := range c.TLS.Certificates {
		if f.Certificate == "" || f.Key == "" {
			fault(fmt.Sprintf("tls.certificates[%d]", i), "needs certificate and key")
		}
	}
	if w := time.Duration(c.Provisioning.ChallengeWindow); w < 10*time.Second || w > time.Hour {
		fault("provisioning.challenge_window", "must be between 10s and 1h")
	}
	if n := c.Provisioning.Decisions; n < 1 || n > 1<<20 {
		fault("provisioning.decisions", "must be between 1 and 1048576")
	}
	if _, err := webhook.New(webhook.Config{Allowed: c.Provisioning.Webhooks}); err != nil {
		fault("provisioning.webhooks", "%v", err)
	}
	if d := time.Duration(c.Provisioning.GiveUpAfter); d < time.Minute || d > 7*24*time.Hour {
		fault("provisioning.give_up_after", "must be between 1m and 168h")
	}
	if n := c.Provisioning.Workers; n < 1 || n > 1024 {
		fault("provisioning.workers", "must be between 1 and 1024")
	}
	if _, err := limit.ParseRate(c.Limits.PerAddress); err != nil {
		fault("limits.per_address", "%v", err)
	}
	if _, err := limit.ParseRate(c.Limits.PerDevice); err != nil {
		fault("limits.per_device", "%v", err)
	}
	if c.Limits.ConnectionsPerAddress < 1 {
		fault("limits.connections_per_address", "must be at least 1")
	}
	for key, address := range map[string]string{"mqtt.listen": c.MQTT.Listen, "metrics.listen": c.Metrics.Listen} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			fault(key, "%q is not address:port", address)
		}
	}
	c.NATS.faults(c.Store.PostgresDSNFile != "", fault)
	if c.Telemetry.Retention <= 0 {
		fault("telemetry.retention", "must be above zero")
	}
	if n := c.Telemetry.MaxSize; n != 0 && n < minStreamSize {
		fault("telemetry.max_size", "must be at least 1MiB, or none")
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		fault("log.level", "is %q; debug, info, warn and error are known", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		fault("log.format", "is %q; text and json are known", c.Log.Format)
	}
	return errors.Join(faults...)
}

// clock is what the server takes the time from.
func (c Config) clock() func() time.Time {
	if c.Now != nil {
		return c.Now
	}
	return time.Now
}

// path resolves a path of the configuration file.
func (c Config) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Data, p)
}
