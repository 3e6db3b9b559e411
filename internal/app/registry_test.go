package app

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/postgres/pgtest"
)

// Two servers of one PostgreSQL database write the same identities at the same time,
// in opposite orders: everything is made once, whole, and nobody waits for ever.
func TestServersWriteTheSameRegistry(t *testing.T) {
	database, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer database.Stop()
	dir := t.TempDir()
	o := InitOptions{Data: filepath.Join(dir, "data"), Hosts: []string{"localhost"}, Listen: "127.0.0.1:0", PostgresDSNFile: filepath.Join(dir, "dsn")}
	if err := os.WriteFile(o.PostgresDSNFile, []byte(database.DSN()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Init(t.Context(), o, time.Now()); err != nil {
		t.Fatal(err)
	}
	config, err := LoadConfig(o.Data)
	if err != nil {
		t.Fatal(err)
	}
	var servers [2]*hub.Service
	for i := range servers {
		s, err := Open(t.Context(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		servers[i] = s.hubs.service
	}
	owner := access.Caller{Policy: "owner", Rights: access.AllHub}
	const host, rounds, devices = "hub.example", 5, 20
	edge, keys := true, hub.Authentication{Type: hub.AuthSAS}
	made := make([][2]int, rounds) // by each server
	for round := range rounds {
		var entries []hub.BulkEntry
		for i := range devices {
			id := device.ID(fmt.Sprintf("d%d-%02d", round, i))
			spec := hub.DeviceSpec{Auth: keys}
			if i%2 == 0 {
				spec.IoTEdge = &edge
			}
			entries = append(entries, hub.BulkEntry{ID: id, Mode: hub.ImportCreate, Device: spec},
				hub.BulkEntry{ID: id, Module: "m", Mode: hub.ImportCreateOrUpdate, Device: hub.DeviceSpec{Auth: keys}},
				hub.BulkEntry{ID: id + "-not", Module: "m", Mode: hub.ImportCreate, Device: hub.DeviceSpec{Auth: keys}})
		}
		var wait sync.WaitGroup
		for n, s := range servers {
			mine := slices.Clone(entries)
			if n == 1 { // devices still before their modules
				slices.SortStableFunc(mine, func(a, b hub.BulkEntry) int { return cmp.Compare(b.ID, a.ID) })
			}
			wait.Go(func() {
				refused, err := s.Bulk(t.Context(), owner, host, mine)
				if err != nil {
					t.Errorf("server %d: %v", n, err)
					return
				}
				made[round][n] = devices
				for _, r := range refused {
					switch code := errs.Public(r.Err).Code; {
					case code == errs.CodeDeviceAlreadyExists:
						made[round][n]--
					case code == errs.CodeDeviceNotFound && strings.HasSuffix(string(r.ID), "-not"):
					default:
						t.Errorf("server %d: %s: %v", n, r.ID, r.Err)
					}
				}
			})
		}
		wait.Wait()
		if made[round][0]+made[round][1] != devices {
			t.Errorf("round %d: %v of %d devices were made", round, made[round], devices)
		}
		for i := range devices {
			at := hub.Place{Hub: host, ID: device.ID(fmt.Sprintf("d%d-%02d", round, i))}
			modules, err := servers[0].Modules(t.Context(), hub.Operator(owner), at)
			if want := 1 + 2*((i+1)%2); err != nil || len(modules) != want {
				t.Errorf("%s has %d modules, want %d, %v", at, len(modules), want, err)
			}
		}
	}
}
