package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/device"
)

// A hubOperator is how commands reach one hub: the flags that those have which work
// with its service API.
type hubOperator struct {
	*operator
	hub, hubConnectionFile string
}

// newHubOperator adds the flags to c and the commands below it.
func newHubOperator(o *operator, c *cobra.Command) *hubOperator {
	h := &hubOperator{operator: o}
	f := c.PersistentFlags()
	f.StringVar(&h.hub, "hub", "", "`HOST` of the hub, where more than one is linked")
	f.StringVar(&h.hubConnectionFile, "hub-connection-string-file", "", "`file` with the connection string of a policy of the hub, for a hub elsewhere, Azure's included; without it the server is asked for that of its own hub")
	c.MarkFlagsMutuallyExclusive("hub", "hub-connection-string-file")
	return h
}

// open returns the client of the hub that is meant.
func (h *hubOperator) open(ctx context.Context) (*service.Hub, error) {
	connection, err := h.hubConnection(ctx)
	if err != nil {
		return nil, err
	}
	options, err := h.trust(h.ca)
	if err != nil {
		return nil, err
	}
	options.Attempts, options.Warn = 2, h.warn // somebody is waiting
	return service.NewHub(connection, options)
}

func (h *hubOperator) hubConnection(ctx context.Context) (string, error) {
	if h.hubConnectionFile != "" {
		b, err := h.read(h.hubConnectionFile)
		if err != nil {
			return "", fmt.Errorf("--hub-connection-string-file: %w", err)
		}
		return string(bytes.TrimSpace(b)), nil
	}
	api, err := h.admin()
	if err != nil {
		return "", err
	}
	host, err := h.host(ctx)
	if err != nil {
		return "", err
	}
	keys, err := api.PolicyKeys(ctx, host, hubOwnerPolicy)
	if err != nil {
		return "", fmt.Errorf("asking for the policy %s of %s: %w", hubOwnerPolicy, host, unknownHub(err))
	}
	return keys.ConnectionString(host, access.Primary), nil
}

// host is the name of the hub that is meant.
func (h *hubOperator) host(ctx context.Context) (string, error) {
	if h.hub != "" {
		return h.hub, nil
	}
	api, err := h.admin()
	if err != nil {
		return "", err
	}
	return onlyHub(ctx, api, nil, "which hub? --hub HOST:")
}

// named is what a command is about: a device, or DEVICE/MODULE.
type named struct{ device, module device.ID }

func parseNamed(text string) (n named, err error) {
	id, module, isModule := strings.Cut(text, "/")
	if n.device, err = device.ParseID(id); err != nil {
		return n, usageError{fmt.Errorf("the device ID %w", err)}
	}
	if !isModule {
		return n, nil
	}
	if n.module, err = device.ParseID(module); err != nil {
		return n, usageError{fmt.Errorf("the module ID %w", err)}
	}
	return n, nil
}

// missingDevice says what to do about a device or a module that there is not.
func missingDevice(err error) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok || refused.Name != "DeviceNotFound" && refused.Name != "ModuleNotFound" {
		return err
	}
	return fmt.Errorf("%w\nSee what there is:\n  berth hub device list", err)
}
