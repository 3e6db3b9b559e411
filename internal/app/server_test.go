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
	"strings"
	"testing"
	"time"
)

// start runs a fresh server and returns its configuration and an HTTPS client
// that trusts it.
func start(t *testing.T) (Config, string, *http.Client) {
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
	s, err := Open(t.Context(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	pem, err := os.ReadFile(filepath.Join(data, CAFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	t.Cleanup(client.CloseIdleConnections)
	return config, s.Address().String(), client
}

func TestEveryAPIAnswersOnTheOneListener(t *testing.T) {
	config, address, client := start(t)
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
		resp, err := client.Get("https://" + address + path)
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
