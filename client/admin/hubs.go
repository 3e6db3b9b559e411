package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/provision"
)

// A Hub is a linked hub as it is read.
type Hub struct {
	provision.LinkedHub
	Kind   string               `json:"kind"`             // "local", or "linked" for one elsewhere
	Policy string               `json:"policy,omitempty"` // whose key a link elsewhere has
	Health *provision.HubHealth `json:"health,omitempty"` // of a hub elsewhere
	ETag   string               `json:"etag"`
}

// Hubs returns the linked hubs, ordered by host.
func (c *Client) Hubs(ctx context.Context) ([]Hub, error) {
	var hubs []Hub
	if err := c.call(ctx, http.MethodGet, "hubs", nil, &hubs); err != nil {
		return nil, fmt.Errorf("listing the linked hubs: %w", err)
	}
	return hubs, nil
}

// A Link is what an operator says about a hub.
type Link struct {
	Host       string `json:"-"`
	Weight     int    `json:"weight"`
	Allocation bool   `json:"allocation"`
	// Latency replaces what is stored; nil keeps that.
	Latency []provision.Latency `json:"latency,omitzero"`
	// ConnectionString makes it a hub elsewhere. Empty, what is stored stays, and a
	// hub that was not linked is one of these servers.
	ConnectionString string `json:"connectionString,omitempty"`
	// Untested writes a connection string that does not work yet.
	Untested bool `json:"-"`
	// IfMatch is the entity tag that the link must have; empty for any.
	IfMatch string `json:"-"`
}

// LinkHub links a hub, or changes the link to it, and returns what it is now.
func (c *Client) LinkHub(ctx context.Context, l Link) (*Hub, error) {
	path, err := hubPath(l.Host)
	if err != nil {
		return nil, err
	}
	if l.Untested {
		path += "?check=false"
	}
	body, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	var now Hub
	if err := c.callIf(ctx, l.IfMatch, http.MethodPut, path, body, &now); err != nil {
		return nil, fmt.Errorf("linking %s: %w", l.Host, err)
	}
	return &now, nil
}

// UnlinkHub removes the link to a hub. Devices that are at home there stay. After
// a lost answer the call is repeated and may then report 404.
func (c *Client) UnlinkHub(ctx context.Context, host string) error {
	path, err := hubPath(host)
	if err != nil {
		return err
	}
	if err := c.call(ctx, http.MethodDelete, path, nil, nil); err != nil {
		return fmt.Errorf("unlinking %s: %w", host, err)
	}
	return nil
}

func hubPath(host string) (string, error) {
	if err := rest.CheckHost(host); err != nil {
		return "", err
	}
	return "hubs/" + url.PathEscape(host), nil
}
