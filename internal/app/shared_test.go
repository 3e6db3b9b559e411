package app

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/postgres/pgtest"
)

func TestServersShareAPostgreSQLDatabase(t *testing.T) {
	database, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer database.Stop()
	dir := t.TempDir()
	o := InitOptions{
		Data: filepath.Join(dir, "data"), Hosts: []string{"localhost"}, Listen: "127.0.0.1:0",
		PostgresDSNFile: filepath.Join(dir, "dsn"),
	}
	if err := os.WriteFile(o.PostgresDSNFile, []byte(database.DSN()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Init(t.Context(), o, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Data, databaseFile)); err == nil {
		t.Error("there is a database file too")
	}
	config, err := LoadConfig(o.Data)
	if err != nil {
		t.Fatal(err)
	}
	var servers [2]*Server
	for i := range servers {
		if servers[i], err = Open(t.Context(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
			t.Fatal(err)
		}
		defer servers[i].Close()
	}
	a, b := servers[0].hubs, servers[1].hubs
	link := provision.LinkedHub{Host: "hub.example:8443", Weight: 1}
	err = a.ChangeLinkedHub(t.Context(), device.IDScope(config.IDScope), link.Host, func(*provision.LinkedHub) (*provision.LinkedHub, error) { return &link, nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Hub("hub.example"); !ok {
		t.Error("who linked a hub does not know it")
	}
	if h, ok := a.Hub("hub.device.example"); !ok || h.Name != "hub.example" {
		t.Errorf("by its name for devices a hub is %+v, %t", h, ok)
	}
	if h, ok := a.Hub("hub2.device.example"); ok {
		t.Errorf("there is %+v", h)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for known := false; !known; _, known = b.Hub("hub.example") {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the other server never hears of a hub")
		}
	}

	if _, _, err := Backup(t.Context(), BackupOptions{Data: o.Data, File: filepath.Join(dir, "backup")}, time.Now()); err == nil || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("a backup without the database: %v", err)
	}

	// The database is sealed under the first server's key.
	o.Data = filepath.Join(dir, "other")
	if err := Init(t.Context(), o, time.Now()); err == nil || !strings.Contains(err.Error(), "another server key") {
		t.Errorf("a second init on the same database: %v", err)
	}
	if err := os.Chmod(o.PostgresDSNFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil))); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("with a connection string that others can read: %v", err)
	}
}
