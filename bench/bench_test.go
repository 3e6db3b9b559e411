package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The bench starts itself as a child, and here it is this test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		main()
		return
	}
	os.Exit(m.Run())
}

// A whole run, only short: with every kind of device, real processes, both
// engines and profiled servers.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	results := filepath.Join(dir, "bench.json")
	var out, log bytes.Buffer
	args := []string{"-n", "4", "-rounds", "2", "-concurrency", "2", "-servers", "sqlite:20,sqlite:100,postgres:20", "-imports", "15",
		"-connections", "3", "-messages", "30", "-idle", "300", "-twins", "10,30",
		"-json", results, "-profile", filepath.Join(dir, "profiles")}
	if status := run(t.Context(), args, nil, &out, &log); status != 0 {
		t.Fatalf("status %d\n%s", status, log.String())
	}
	for _, want := range []string{
		"bare handshake, resumed", "SQLite, 20 enrollments", "PostgreSQL, 20 enrollments", "symmetric key, group", "TPM, one connection",
		"X.509 group", "As enrollments grow", "RSS", "berth enrollment import", "on the disk of PostgreSQL", "mosquitto, in memory", "CONNECT with a token",
		"method, one at a time", "desired properties", "reported properties", "before TLS", "with TLS",
		"Queries, SQLite", "Queries, PostgreSQL", "how many of each",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tables have no %q:\n%s", want, out.String())
		}
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := json.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"enrollments", "cpu_ratio.symmetric_key", "cpu_ratio.symmetric_key_individual", "cpu_ratio.tpm", "cpu_ratio.tpm_two_connections",
		"cpu_ratio.x509_group", "cpu_ratio.x509_individual", "cpu_ratio.symmetric_key_resumed", "provisionings_per_second.tpm",
		"handshakes_per_second.bare", "handshake_cpu_ms.bare_mutual", "p50_ms.x509_group", "p99_ms.x509_group", "bytes_to_device.tpm",
		"resident_mib.peak", "bars.tpm.bar", "throughput_growth.sqlite.tpm.found", "import_rows_per_second.sqlite.bulk",
		"mqtt.messages_per_second.sqlite", "mqtt.messages_per_second.mosquitto", "mqtt.messages_ratio.postgres", "mqtt.message_cpu_us.sqlite",
		"mqtt.message_p99_ms.postgres", "mqtt.flushes_per_second", "mqtt.connections_per_second.sqlite", "mqtt.connection_cpu_ms.bare",
		"mqtt.connection_cpu_ratio.postgres", "mqtt.idle_bytes", "mqtt.idle_bytes_with_tls", "methods.p50_ms.sqlite", "methods.p99_ms.postgres",
		"methods.per_second.sqlite", "twins.desired.per_second.postgres", "twins.reported.per_second.sqlite", "bars.messages_sqlite.bar",
		"queries.sqlite.30.tag.p50_ms", "queries.postgres.10.sites.p99_ms", "bars.idle.found",
		"import_rows_per_second.postgres.command", "machine.cpus", "seconds",
	} {
		var found any = values
		for member := range strings.SplitSeq(key, ".") {
			inside, _ := found.(map[string]any)
			found = inside[member]
		}
		if n, ok := found.(float64); !ok || n <= 0 {
			t.Errorf("%s is %v", key, found)
		}
	}
	profiles, err := filepath.Glob(filepath.Join(dir, "profiles", "*", "tpm-*.prof"))
	if err != nil || len(profiles) != 3*2*3 {
		t.Errorf("profiles of three servers, two calls and three rounds: %v, %v", profiles, err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, args := range [][]string{nil, {"-n", "300", "-servers", "sqlite:902"}} {
		if _, err := parse(args, io.Discard); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	for _, args := range [][]string{
		{"-n", "0"}, {"-rounds", "-1"}, {"-only", "tpm", "x"}, {"-only", "tmp"}, {"-servers", "oracle:2000"}, {"-servers", "sqlite:1e6"},
		{"-n", "300", "-servers", "sqlite:901"}, {"-what"}, {"-messages", "65536"}, {"-idle", "0"}, {"-twins", "10,10"}, {"-twins", ""},
	} {
		var log bytes.Buffer
		if status := run(t.Context(), args, nil, nil, &log); status != 2 || log.Len() == 0 {
			t.Errorf("%v: status %d, said %q", args, status, log.String())
		}
	}
}
