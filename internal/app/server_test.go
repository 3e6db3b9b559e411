package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

// start runs a fresh server and returns its configuration, the server, and an
// HTTPS client that trusts it.
func start(t *testing.T, change ...func(*Config)) (Config, *Server, *http.Client) {
	t.Helper()
	config, client := initialised(t)
	for _, f := range change {
		f(&config)
	}
	s, stop := run(t, config)
	t.Cleanup(stop)
	return config, s, client
}

// run starts a server; stop returns when it has stopped.
func run(t *testing.T, config Config) (s *Server, stop func()) {
	t.Helper()
	s, err := Open(t.Context(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	}
}

// initialised makes a data directory and a client that trusts its server.
func initialised(t *testing.T) (Config, *http.Client) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	err := Init(t.Context(), InitOptions{Data: data, Hosts: []string{"localhost", "127.0.0.1"}, Listen: "127.0.0.1:0"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config, err := LoadConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(data, CAFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	t.Cleanup(client.CloseIdleConnections)
	return config, client
}

func TestEveryAPIAnswersOnTheOneListener(t *testing.T) {
	config, server, client := start(t)
	for path, want := range map[string]int{
		"/healthz": 200,
		"/readyz":  200,
		"/" + config.IDScope + "/registrations/x/operations/1?api-version=2021-06-01": 404,
		"/0neffffffff/registrations/x/operations/1?api-version=2021-06-01":            404,
		"/enrollments/x?api-version=2021-10-01":                                       401,
		"/devices/x?api-version=2021-04-12":                                           401,
		"/berth/v1/hubs":                                                              401,
		"/nothing":                                                                    404,
	} {
		resp, err := client.Get("https://" + server.Address().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d: %s", path, resp.StatusCode, want, body)
		}
	}
}

// What is counted has names that a stranger cannot choose.
func TestMetrics(t *testing.T) {
	_, server, client := start(t, func(c *Config) { c.Metrics.Listen = "127.0.0.1:0" })
	for _, method := range []string{"GET", "BREW"} {
		r, err := http.NewRequest(method, "https://"+server.Address().String()+"/0neffffffff/registrations/some-name/operations/1?api-version=2021-06-01", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	body := counts(t, server,
		`berth_http_requests_total{api="dps",method="GET",route="/{idScope}/registrations/{id}/operations/{operationId}",status="404"} 1`,
		`berth_http_requests_total{api="dps",method="other",route="none",status="405"} 1`,
		`berth_build_info{version="test"} 1`,
	)
	for _, secret := range []string{"some-name", "BREW"} {
		if strings.Contains(body, secret) {
			t.Errorf("%q, which a stranger chose, is in the metrics", secret)
		}
	}
}

// counts wants lines among the metrics of a server, and returns all of them.
func counts(t *testing.T, s *Server, lines ...string) string {
	t.Helper()
	resp, err := http.Get("http://" + s.scrapes.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range lines {
		if !strings.Contains(string(body), want) {
			t.Errorf("missing: %s", want)
		}
	}
	return string(body)
}

func TestInitOverwritesNothing(t *testing.T) {
	data := t.TempDir()
	keep := filepath.Join(data, "keep")
	if err := os.WriteFile(keep, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Init(t.Context(), InitOptions{Data: data, Hosts: []string{"localhost"}}, time.Now())
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("init over a directory in use: %v", err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error("what was there is gone")
	}
}

func TestSecretsAreTheOwnersAlone(t *testing.T) {
	config, _, _ := start(t)
	for _, name := range []string{sealKeyFile, caKeyFile, serverKeyFile, ServiceConnectionFile, HubConnectionFile, databaseFile} {
		info, err := os.Stat(filepath.Join(config.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
}

func TestConfigurationFaultsComeAllAtOnce(t *testing.T) {
	data := t.TempDir()
	text := `
id_scope = "nonsense"
hosts = []
listen = "443"
colour = "blue"
[log]
level = "loud"
format = "xml"
[provisioning]
challenge_window = "1s"
decisions = 0
`
	if err := os.WriteFile(filepath.Join(data, configFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConfig(data)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, key := range []string{"id_scope", "hosts", "listen", "colour", "tls.certificates", "log.level", "log.format", "challenge_window", "decisions"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"none": 0, "0": 0, "1": 1, "1048577": 1048577, "512KiB": 512 << 10, "10GiB": 10 << 30, "1024MiB": 1 << 30, "3TiB": 3 << 40,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s is %d, %v", text, s, err)
		}
		written, err := s.MarshalText()
		if again := Size(-1); err != nil || again.UnmarshalText(written) != nil || again != s {
			t.Errorf("%s was written as %s, %v", text, written, err)
		}
	}
	for _, text := range []string{"", "None", "-1", "+1", "1.5GiB", "10 GiB", "10GB", "10gib", "GiB", "8388608TiB", "9223372036854775808", "0x10"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, s)
		}
	}
}

// The manual's configuration is the one that a server starts from, every key of it.
func TestConfigurationOfTheManual(t *testing.T) {
	_, manual, _ := strings.Cut(string(readDocument(t, "operate.md")), "```toml\n")
	manual, _, _ = strings.Cut(manual, "```")
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, configFile), []byte(manual), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.IDScope, want.Hosts, want.Data, want.Provisioning.Webhooks = "0ne00000000", []string{"dps.example.com"}, data, []string{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the manual has\n%+v, and the defaults are\n%+v", got, want)
	}

	meta, err := toml.Decode(manual, new(Config))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range settings(reflect.TypeFor[Config]()) {
		if !meta.IsDefined(key...) {
			t.Errorf("the manual lacks %s", strings.Join(key, "."))
		}
	}
}

// settings are the keys of a configuration. TOML knows those of a list of tables
// by the list alone.
func settings(of reflect.Type) (all [][]string) {
	for _, field := range reflect.VisibleFields(of) {
		key := field.Tag.Get("toml")
		switch {
		case key == "-":
		case field.Type.Kind() == reflect.Struct:
			for _, below := range settings(field.Type) {
				all = append(all, append([]string{key}, below...))
			}
		default:
			all = append(all, []string{key})
		}
	}
	return all
}
