package postgres

import (
	"context"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectConfigurations    = "SELECT " + record.ConfigurationColumns + " FROM configuration WHERE hub = $1 ORDER BY id"
	selectConfiguredHubs    = "SELECT DISTINCT hub FROM configuration ORDER BY hub"
	lockConfiguration       = "SELECT " + record.ConfigurationColumns + " FROM configuration WHERE hub = $1 AND id = $2 FOR UPDATE"
	countOtherConfiguration = "SELECT count(*) FROM configuration WHERE hub = $1 AND id <> $2"
	deleteConfiguration     = "DELETE FROM configuration WHERE hub = $1 AND id = $2"
)

var (
	insertConfiguration = insert("configuration", record.ConfigurationColumns)
	updateConfiguration = update("configuration", record.ConfigurationColumns, 2)
)

// Configurations implements hub.Configurations.
func (s *Store) Configurations(ctx context.Context, host string) ([]*hub.Configuration, error) {
	return list(ctx, s, record.Configuration, selectConfigurations, host)
}

// ConfiguredHubs implements hub.Configurations.
func (s *Store) ConfiguredHubs(ctx context.Context) ([]string, error) {
	return list(ctx, s, record.Text, selectConfiguredHubs)
}

// ChangeConfiguration implements hub.Configurations. Those who make the first of a
// name at the same time find each other when they insert it.
func (s *Store) ChangeConfiguration(ctx context.Context, host, id string, decide func(*hub.Configuration, int) (*hub.Configuration, error)) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		var old *hub.Configuration
		var others int
		err := t.read(ctx,
			query{into(&old, record.Configuration), lockConfiguration, []any{host, id}},
			query{func(r *record.Row) error { others = int(r.Number()); return nil }, countOtherConfiguration, []any{host, id}})
		if err != nil {
			return err
		}
		next, err := decide(old, others)
		if err != nil {
			return err
		}
		if next == nil {
			t.write(deleteConfiguration, host, id)
			return nil
		}
		values, err := record.ConfigurationValues(host, id, next)
		if err != nil {
			return err
		}
		if old == nil {
			t.write(insertConfiguration, values...)
		} else {
			t.write(updateConfiguration, values...)
		}
		return nil
	})
}
