package app

import (
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/client/natstest"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
)

func TestFaultsOfNATS(t *testing.T) {
	for name, c := range map[string]struct {
		nats   NATSConfig
		shared bool
		faults []string
	}{
		"none":                    {NATSConfig{Prefix: usualPrefix}, false, nil},
		"one":                     {NATSConfig{URL: "nats://nats.example:4222", Prefix: usualPrefix}, true, nil},
		"several":                 {NATSConfig{URL: "tls://a.example:4222,tls://b.example", Prefix: "plant-7.berth", User: "u", PasswordFile: "p"}, true, nil},
		"a user without NATS":     {NATSConfig{User: "u", PasswordFile: "p", Prefix: usualPrefix}, true, []string{"nats.url: is missing"}},
		"for SQLite":              {NATSConfig{URL: "nats://nats.example:4222", Prefix: usualPrefix}, false, []string{"nats.url: is for servers"}},
		"no URL":                  {NATSConfig{URL: "nats.example:4222", Prefix: usualPrefix}, true, []string{"nats.url: is no list"}},
		"another protocol":        {NATSConfig{URL: "https://nats.example", Prefix: usualPrefix}, true, []string{"nats.url: is no list"}},
		"a list with a hole":      {NATSConfig{URL: "nats://a.example,", Prefix: usualPrefix}, true, []string{"nats.url: is no list"}},
		"a password in the URL":   {NATSConfig{URL: "nats://u:secret@nats.example", Prefix: usualPrefix}, true, []string{"nats.url: has a password in it"}},
		"a user without password": {NATSConfig{URL: "nats://nats.example", User: "u", Prefix: usualPrefix}, true, []string{"nats: needs both"}},
		"a password without user": {NATSConfig{URL: "nats://nats.example", PasswordFile: "p", Prefix: usualPrefix}, true, []string{"nats: needs both"}},
		"too many credentials":    {NATSConfig{URL: "nats://nats.example", CredentialsFile: "c", NKeyFile: "n", Prefix: usualPrefix}, true, []string{"nats: has several"}},
		"no prefix":               {NATSConfig{URL: "nats://nats.example"}, true, []string{"nats.prefix:"}},
		"a prefix for everything": {NATSConfig{URL: "nats://nats.example", Prefix: "berth.>"}, true, []string{"nats.prefix:"}},
		"everything":              {NATSConfig{URL: "http://u:secret@nats.example", User: "u", NKeyFile: "n", Prefix: "."}, false, []string{"nats.url: is for servers", "nats.url: is no list", "nats: has several", "nats: needs both", "nats.prefix:"}},
	} {
		config := DefaultConfig()
		config.IDScope, config.Hosts, config.NATS = "0ne0000000a", []string{"dps.example"}, c.nats
		if c.shared {
			config.Store.PostgresDSNFile = "dsn"
		}
		var got []string
		if err := config.Validate(); err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if !slices.EqualFunc(got, c.faults, func(fault, want string) bool { return strings.HasPrefix(fault, want) }) {
			t.Errorf("%s: %q, want %q", name, got, c.faults)
		}
		if strings.Contains(strings.Join(got, ""), "secret") {
			t.Errorf("%s: the password is in %q", name, got)
		}
	}
}

// The doctor tries NATS, and hears who is there.
func TestDoctorTriesNATS(t *testing.T) {
	broker := natstest.New(t, "--user", "berth", "--pass", "right")
	e := &examination{data: t.TempDir(), config: DefaultConfig()}
	e.config.Data = e.data
	e.config.NATS.URL, e.config.NATS.User, e.config.NATS.PasswordFile = broker.URL(), "berth", "password"
	file := e.path("password")
	if err := os.WriteFile(file, []byte("right"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := soft.Create(filepath.Join(e.data, "key"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	var err error
	if e.key, err = soft.Open(filepath.Join(e.data, "key")); err != nil {
		t.Fatal(err)
	}
	says := func(what string, status Status, text string) {
		t.Helper()
		e.findings = nil
		e.nats(t.Context())
		if len(e.findings) != 1 || e.findings[0].Status != status || !strings.Contains(e.findings[0].Text, text) || strings.Contains(e.findings[0].Text, "right") {
			t.Errorf("%s: %+v", what, e.findings)
		}
	}
	says("a password for everybody", Warning, "chmod 600")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	says("no NATS", Warning, "connecting to NATS")

	broker.Start(t)
	s := &Server{config: e.config, logger: slog.New(slog.DiscardHandler), metrics: newMetrics("test"), hubs: &hubs{service: hub.New(hub.Config{})}}
	if s.peers, err = openPeers(e.config, e.key, s.logger); err != nil {
		t.Fatal(err)
	}
	if err := s.servePeers(); err != nil {
		t.Fatal(err)
	}
	defer s.peers.Close()
	defer s.runPeers()()
	late := time.After(30 * time.Second)
	for !s.peers.Health().Connected {
		select {
		case <-late:
			t.Fatal("there is no connection to NATS")
		case <-time.After(10 * time.Millisecond):
		}
	}
	says("a server", OK, "servers that are heard: 1")
	e.config.NATS.Prefix = "other"
	says("nobody", Warning, "no server with this server key")
	e.config.NATS.URL = ""
	e.findings = nil
	e.nats(t.Context())
	if len(e.findings) != 0 {
		t.Errorf("one server alone: %+v", e.findings)
	}
}
