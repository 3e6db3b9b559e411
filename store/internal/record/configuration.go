package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berth-iot/berth/hub"
)

// ConfigurationColumns are in the order in which Configuration and
// ConfigurationValues go through them. The first two are the key.
const ConfigurationColumns = "hub, id, document, etag, created, updated"

// configurationDocument is what the column "document" has of a configuration.
type configurationDocument struct {
	SchemaVersion   string                   `json:"schemaVersion"`
	Labels          map[string]string        `json:"labels"`
	Content         hub.ConfigurationContent `json:"content"`
	TargetCondition string                   `json:"targetCondition"`
	Priority        int                      `json:"priority"`
	Metrics         map[string]string        `json:"metrics"`
}

// ConfigurationValues returns the row of a configuration. It refuses one of another
// key: a change cannot rename it.
func ConfigurationValues(host, id string, c *hub.Configuration) ([]any, error) {
	if c.Hub != host || c.ID != id {
		return nil, fmt.Errorf("configuration %s/%s cannot become %s/%s", host, id, c.Hub, c.ID)
	}
	var document bytes.Buffer
	e := json.NewEncoder(&document)
	e.SetEscapeHTML(false) // operators read it
	if err := e.Encode(configurationDocument{c.SchemaVersion, c.Labels, c.Content, c.TargetCondition, c.Priority, c.Metrics}); err != nil {
		return nil, fmt.Errorf("configuration %s/%s: %w", host, id, err)
	}
	return []any{c.Hub, c.ID, strings.TrimSpace(document.String()), c.ETag, Nanoseconds(c.Created), Nanoseconds(c.Updated)}, nil
}

// Configuration reads the row of a configuration.
func Configuration(r *Row) (*hub.Configuration, error) {
	c := &hub.Configuration{Hub: r.Text(), ID: r.Text()}
	var d configurationDocument
	if err := r.decode(&d); err != nil {
		return nil, fmt.Errorf("reading configuration %s/%s: %w", c.Hub, c.ID, err)
	}
	c.SchemaVersion, c.Labels, c.Content = d.SchemaVersion, d.Labels, d.Content
	c.TargetCondition, c.Priority, c.Metrics = d.TargetCondition, d.Priority, d.Metrics
	c.ETag, c.Created, c.Updated = r.Text(), r.Time(), r.Time()
	return c, nil
}

// Text reads a column of text.
func Text(r *Row) (string, error) { return r.Text(), nil }
