package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/berth-iot/berth/wire/hubtopic"
	"github.com/berth-iot/berth/wire/mqtt"
)

// messageBars is what a server's messages each second are to be at least, as a
// multiple of those of a broker that keeps nothing on the disk.
const messageBar = 1.0

// messageSize is how many bytes a message has, its properties aside.
const messageSize = 200

// bag is what a message has of properties: two that say what is in it, two of
// the application.
var bag = map[string]string{"$.ct": "application/json", "$.ce": "utf-8", "line": "press-4", "severity": "normal"}

// window is how many messages a connection sends before it waits.
const window = 20

// absent is the client for whom a broker keeps messages.
const absent = "absent"

// A flow is what is measured of messages at one place: devices that stay
// connected send as fast as they are answered. Of its series, a device is a
// message.
type flow struct {
	*series
	keeps   bool // a broker is to keep the messages in memory
	devices []*livingDevice
}

// The keys of brokers in the JSON results.
const (
	forgetful = "mosquitto"
	keeping   = "mosquitto_keeping"
)

// planFlows connects the devices of all places.
func (h *hubs) planFlows(ctx context.Context) error {
	for _, s := range h.servers {
		k := &kind{key: s.engine, name: "Berth, on the disk of " + engineNames[s.engine]}
		if err := h.addFlow(ctx, &flow{series: &series{kind: k, at: h.mqtts[s], server: s}}); err != nil {
			return err
		}
	}
	for _, f := range []*flow{
		{series: &series{kind: &kind{key: forgetful, name: "mosquitto, for nobody"}, at: h.mosquitto}},
		{series: &series{kind: &kind{key: keeping, name: "mosquitto, in memory for one who is away"}, at: h.mosquitto}, keeps: true},
	} {
		if err := h.addFlow(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (h *hubs) addFlow(ctx context.Context, f *flow) error {
	f.devices = make([]*livingDevice, h.connections)
	h.flows = append(h.flows, f)
	return concurrently(ctx, h.concurrency, h.connections, func(ctx context.Context, i int) (err error) {
		id := deviceID(i)
		if f.server == nil {
			id = individualID(f.key, i) // both flows at the broker have devices of their own
		}
		f.devices[i], err = f.at.connect(ctx, h.fleet, id)
		return err
	})
}

// measure lets every device send its messages. Round zero warms up.
func (f *flow) measure(ctx context.Context, o options, round int) error {
	if f.keeps {
		if err := f.at.keepFor(ctx, absent); err != nil {
			return err
		}
		defer f.at.forgetFor(ctx, absent)
	}
	body := bytes.Repeat([]byte("m"), messageSize)
	latencies := make([]time.Duration, o.connections*o.messages)
	if err := f.profiler().begin("messages"); err != nil {
		return err
	}
	before, err := f.account()
	if err != nil {
		return err
	}
	began := time.Now()
	err = concurrently(ctx, o.connections, o.connections, func(_ context.Context, i int) error {
		message := mqtt.Publish{Topic: hubtopic.Events(f.devices[i].id, bag), Payload: body}
		if err := f.devices[i].publish(o.messages, window, message, latencies[i*o.messages:(i+1)*o.messages]); err != nil {
			return fmt.Errorf("device %d: %w", i, err)
		}
		return nil
	})
	wall := time.Since(began)
	if err != nil {
		return err
	}
	after, err := f.account()
	if err != nil {
		return err
	}
	if err := f.profiler().end(); err != nil {
		return err
	}
	if round == 0 {
		return nil
	}
	var spent account
	spent.add(before, after)
	n := o.connections * o.messages
	f.cpu = append(f.cpu, spent.cpu/time.Duration(n))
	f.database = append(f.database, spent.database/time.Duration(n))
	f.wall = append(f.wall, wall)
	f.latencies = append(f.latencies, latencies...)
	f.bytes[0] += spent.bytes[0]
	f.bytes[1] += spent.bytes[1]
	f.series.devices += int64(n)
	return nil
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address) // of one that was listened on
	return port
}
