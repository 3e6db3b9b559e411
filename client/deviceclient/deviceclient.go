// Package deviceclient is the whole life of a device in one call: it registers
// with a provisioning service, connects to the hub it is given, and registers
// again when that hub turns it away for good.
//
//	c, err := deviceclient.Connect(ctx, deviceclient.Config{
//		Provisioning: provisioning.Config{
//			Host:           "global.azure-devices-provisioning.net",
//			IDScope:        "0ne00111111",
//			RegistrationID: "pump-7",
//			Credential:     client.SymmetricKey(key),
//		},
//		Hub: hub.ConnectionConfig{OnDesired: adjust, OnMethod: run},
//	})
//	…
//	err = c.Send(ctx, hub.Message{Body: body})
//
// Packages provisioning and hub do either half alone.
package deviceclient

import (
	"context"
	"errors"

	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/device"
)

// A Config says who the device is and how it lives.
type Config struct {
	// Provisioning says where and as whom to register. Its credential is the hub's
	// too, and so are its authorities, where Hub names none.
	Provisioning provisioning.Config
	// Hub says how to live at the hub. Host, DeviceID, Credential and Reprovision
	// are filled in.
	Hub hub.ConnectionConfig
	// Home is where the device was assigned before it was last switched off. It is
	// tried first, so that devices that start do not burden the provisioning
	// service. nil for a device that does not remember.
	Home *provisioning.Assignment
	// Assigned is told of each assignment, for the device to remember; an error
	// counts as that of the registration. nil for nobody.
	Assigned func(*provisioning.Assignment) error
}

// Connect registers the device, unless it remembers a home, and connects it to its
// hub. It returns once the device is connected; afterwards the Connection keeps
// itself up until it is closed, wherever the device is assigned meanwhile.
//
// Errors: those of [provisioning.Client.Register] and of [hub.Connect].
func Connect(ctx context.Context, config Config) (*hub.Connection, error) {
	if config.Hub.Reprovision != nil {
		return nil, errors.New("deviceclient: Reprovision is what Connect is for")
	}
	registrar, err := provisioning.New(config.Provisioning)
	if err != nil {
		return nil, err
	}
	register := func(ctx context.Context) (string, device.ID, error) {
		home, err := registrar.Register(ctx)
		if err == nil && config.Assigned != nil {
			err = config.Assigned(home)
		}
		if err != nil {
			return "", "", err
		}
		return home.Hub, home.DeviceID, nil
	}
	life := config.Hub
	if home := config.Home; home != nil {
		life.Host, life.DeviceID = home.Hub, home.DeviceID
	} else if life.Host, life.DeviceID, err = register(ctx); err != nil {
		return nil, err
	}
	life.Credential, life.Reprovision = config.Provisioning.Credential, register
	if life.RootCAs == nil {
		life.RootCAs = config.Provisioning.HTTP.RootCAs
	}
	return hub.Connect(ctx, life)
}
