package admin

import (
	"context"
	"fmt"
	"net/http"

	"github.com/berth-iot/berth/provision"
)

// Webhooks returns how the webhooks of custom allocation do that failed since the
// server started, the last failure first.
func (c *Client) Webhooks(ctx context.Context) ([]provision.WebhookHealth, error) {
	var found []provision.WebhookHealth
	if err := c.call(ctx, http.MethodGet, "webhooks", nil, &found); err != nil {
		return nil, fmt.Errorf("reading how webhooks do: %w", err)
	}
	return found, nil
}
