package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hsm"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/postgres"
	"github.com/berth-iot/berth/store/sqlite"
)

// A store is what a server needs of its database, whichever engine keeps it.
type store interface {
	enroll.Store
	enroll.CACertificates
	provision.EnrollmentReader
	provision.Records
	provision.Scopes
	provision.TrustStore
	access.Keeper
	hub.Registry
	hub.Stream
	hub.Queues
	hub.Presences
	hub.Configurations
	hub.RoutingStore
	hub.Positions
	PutScope(context.Context, provision.Scope) error
	ListScopes(context.Context) ([]provision.Scope, error)
	ChangeScopes(context.Context, func([]provision.Scope) (*provision.Scope, error)) error
	DeleteScope(context.Context, device.IDScope) error
	ListSharedKeys(ctx context.Context, scope device.IDScope, limit int) ([][]string, error)
	PutPolicy(context.Context, access.Owner, access.Policy) error
	Linked(context.Context, device.IDScope) ([]provision.LinkedHub, error)
	PutLinkedHub(context.Context, device.IDScope, provision.LinkedHub) error
	ChangeLinkedHub(ctx context.Context, scope device.IDScope, host string, decide func(*provision.LinkedHub) (*provision.LinkedHub, error)) error
	HubScope(ctx context.Context, name string) (device.IDScope, error)
	Wait(ctx context.Context, after uint64) error
	Close() error
}

// openDatabase opens the database that c names.
func openDatabase(ctx context.Context, c Config, key hsm.ServerKey) (store, error) {
	if c.Store.PostgresDSNFile == "" {
		s, err := sqlite.Open(ctx, c.path(databaseFile), key)
		if err != nil {
			return nil, err // and no interface with nothing in it
		}
		return s, nil
	}
	dsn, err := readSecret(c.path(c.Store.PostgresDSNFile))
	if err != nil {
		return nil, fmt.Errorf("store.postgres_dsn_file: %w", err)
	}
	s, err := postgres.Open(ctx, dsn, key)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// readSecret reads a file that is for its owner alone, without the space around
// what is in it.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others; run: chmod 600 %s", path, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", errors.New(path + " is empty")
	}
	return text, nil
}
