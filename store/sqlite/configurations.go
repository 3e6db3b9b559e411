package sqlite

import (
	"context"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/store/internal/record"
)

const (
	selectConfigurations    = "SELECT " + record.ConfigurationColumns + " FROM configuration WHERE hub = ? ORDER BY id"
	selectConfiguredHubs    = "SELECT DISTINCT hub FROM configuration ORDER BY hub"
	selectConfiguration     = "SELECT " + record.ConfigurationColumns + " FROM configuration WHERE hub = ? AND id = ?"
	countOtherConfiguration = "SELECT count(*) FROM configuration WHERE hub = ? AND id <> ?"
	putConfiguration        = "INSERT OR REPLACE INTO configuration (" + record.ConfigurationColumns + ") VALUES (?, ?, ?, ?, ?, ?)"
	deleteConfiguration     = "DELETE FROM configuration WHERE hub = ? AND id = ?"
)

// Configurations implements hub.Configurations.
func (s *Store) Configurations(ctx context.Context, host string) ([]*hub.Configuration, error) {
	return list(ctx, s, record.Configuration, selectConfigurations, host)
}

// ConfiguredHubs implements hub.Configurations.
func (s *Store) ConfiguredHubs(ctx context.Context) ([]string, error) {
	return list(ctx, s, record.Text, selectConfiguredHubs)
}

// ChangeConfiguration implements hub.Configurations.
func (s *Store) ChangeConfiguration(ctx context.Context, host, id string, decide func(*hub.Configuration, int) (*hub.Configuration, error)) error {
	return s.write(ctx, func(t *tx) error {
		old, err := one(t.conn, record.Configuration, selectConfiguration, host, id)
		if err != nil {
			return err
		}
		others, err := t.number(countOtherConfiguration, host, id)
		if err != nil {
			return err
		}
		next, err := decide(old, int(others))
		if err != nil {
			return err
		}
		if next == nil {
			return t.exec(deleteConfiguration, host, id)
		}
		values, err := record.ConfigurationValues(host, id, next)
		if err != nil {
			return err
		}
		return t.exec(putConfiguration, values...)
	})
}
