package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/hubjson"
)

// The keys of what is measured of hubs, for -only.
const (
	messagesKey     = "messages"
	connectionsKey  = "connections"
	idleKey         = "idle"
	methodsKey      = "methods"
	methodsTogether = "methods_together" // not for -only
	twinsKey        = "twins"
	queriesKey      = "queries"
)

var hubKeys = []string{messagesKey, connectionsKey, idleKey, methodsKey, twinsKey, queriesKey}

// hubs are servers with devices that live there, and what is measured of them:
// one server for each engine, and a broker beside them.
type hubs struct {
	*bencher
	servers   []*server
	mqtts     map[*server]*place // where they speak MQTT
	mosquitto *place
	shakes    *place // of bare handshakes
	flows     []*flow
	series    []*series
	counted   int     // rounds
	flushes   float64 // of the disk, each second
	idle      []idleCost
	queries   []queryTime
}

// deviceID is the ID of a device at the hub.
func deviceID(i int) string { return individualID("living", i) }

// measureHubs measures what devices do once they are registered, when all else
// is measured and its servers are gone.
func (b *bencher) measureHubs(ctx context.Context) (err error) {
	h := &hubs{bencher: b, mqtts: map[*server]*place{}}
	b.hubs = h
	defer h.stop()
	if b.wantsAny(idleKey) {
		if err := h.measureIdle(ctx); err != nil {
			return fmt.Errorf("idle connections: %w", err)
		}
	}
	if b.wantsAny(messagesKey, connectionsKey, methodsKey, twinsKey) {
		if err := h.prepare(ctx); err != nil {
			return err
		}
		if err := h.allRounds(time.Now(), "hubs", func(round int) error { return h.measureRound(ctx, round) }); err != nil {
			return err
		}
		h.stop()
	}
	if b.wantsAny(queriesKey) {
		if err := h.measureQueries(ctx); err != nil {
			return fmt.Errorf("queries: %w", err)
		}
	}
	return nil
}

func (h *hubs) stop() {
	for _, p := range []*place{h.mosquitto, h.shakes} {
		if p != nil {
			p.stop()
		}
	}
	for _, s := range h.servers {
		s.close()
	}
}

// engines are those of the servers, each once.
func (o options) engines() (found []string) {
	for _, s := range o.servers {
		if len(found) == 0 || found[len(found)-1] != s.engine {
			found = append(found, s.engine) // they are in order
		}
	}
	return found
}

// prepare starts the servers and lists what is measured in each round.
func (h *hubs) prepare(ctx context.Context) (err error) {
	for _, engine := range h.engines() {
		h.progress("%s: a hub of %s devices", engineNames[engine], thousands(h.devices()))
		s := &server{spec: spec{engine, h.devices()}, dir: filepath.Join(h.dir, "hub-"+engine)}
		h.servers = append(h.servers, s)
		if err := s.open(ctx, h.bencher, s.loadDevices); err != nil {
			return fmt.Errorf("%s: %w", s.spec, err)
		}
		h.mqtts[s] = &place{process: s.process, name: engineNames[engine] + " over MQTT", address: s.mqttAddress, roots: s.roots}
	}
	if h.mosquitto, err = h.startMosquitto(ctx, h.servers[0]); err != nil {
		return err
	}
	if h.shakes, err = h.startBare(ctx, bare, h.servers[0]); err != nil {
		return err
	}
	if h.flushes, err = flushes(h.dir); err != nil {
		return err
	}
	if h.wantsAny(messagesKey) {
		if err := h.planFlows(ctx); err != nil {
			return err
		}
	}
	if h.wantsAny(connectionsKey) {
		h.planConnections()
	}
	return h.planCompanions(ctx)
}

// devices is how many devices a hub has: enough that none is needed twice at a
// time, those that send messages aside.
func (o options) devices() int { return max(o.connections, o.n, o.concurrency) + o.concurrency }

// add lists a series.
func (h *hubs) add(v *series) *series {
	h.series = append(h.series, v)
	return v
}

// planConnections compares a connection with a bare handshake.
func (h *hubs) planConnections() {
	shake := kindOf(bare)
	baseline := h.add(&series{kind: shake, at: h.shakes, steps: shake.visit(h.bencher, h.shakes)})
	connect := func(p *place) []step {
		// The devices that send messages keep their connections.
		return []step{{do: func(ctx context.Context, i int) error {
			d, err := p.connect(ctx, h.fleet, individualID("visiting", i%h.n))
			if err != nil {
				return err
			}
			return d.leave()
		}}}
	}
	name := "connection: TLS, CONNECT with a token"
	for _, s := range h.servers {
		p := h.mqtts[s]
		h.add(&series{kind: &kind{key: connectionsKey, name: name}, at: p, server: s, baseline: baseline, steps: connect(p)})
	}
	h.add(&series{kind: &kind{key: connectionsKey, name: name + ", mosquitto asks nobody"}, at: h.mosquitto, baseline: baseline, steps: connect(h.mosquitto)})
}

// planCompanions lists what is asked of devices that are connected: each is asked
// one thing at a time.
func (h *hubs) planCompanions(ctx context.Context) error {
	if !h.wantsAny(methodsKey, twinsKey) {
		return nil
	}
	for _, s := range h.servers {
		pool := make(chan *companion, h.concurrency)
		for i := range h.concurrency {
			c, err := h.mqtts[s].accompany(ctx, h.fleet, individualID("companion", i))
			if err != nil {
				return err
			}
			pool <- c
		}
		ask := func(do func(ctx context.Context, c *companion, i int) error) []step {
			return []step{{do: func(ctx context.Context, i int) error {
				c := <-pool
				defer func() { pool <- c }()
				return do(ctx, c, i)
			}}}
		}
		method := ask(func(ctx context.Context, c *companion, i int) error {
			answer, err := s.hub.Invoke(ctx, device.ID(c.id), hubjson.Method{Name: "reboot", Payload: json.RawMessage(`{"delay":5}`)})
			if err == nil && answer.Status != 200 {
				err = fmt.Errorf("the device answered %d", answer.Status)
			}
			return err
		})
		desired := ask(func(ctx context.Context, c *companion, i int) error {
			change := hubjson.TwinChange{Desired: fmt.Appendf(nil, `{"interval":%d}`, i)}
			_, err := s.hub.PatchTwin(ctx, device.ID(c.id), change, "")
			return errors.Join(err, c.hear(ctx))
		})
		reported := ask(func(ctx context.Context, c *companion, i int) error {
			return c.report(ctx, fmt.Appendf(nil, `{"temperature":%d}`, i))
		})
		list := func(wanted string, all ...*series) {
			for _, v := range all {
				if h.wantsAny(wanted) {
					v.at, v.server = &s.place, s
					h.add(v)
				}
			}
		}
		list(methodsKey,
			&series{kind: &kind{key: methodsKey, name: "method, one at a time"}, steps: method, atATime: 1},
			&series{kind: &kind{key: methodsTogether, name: "method"}, steps: method})
		list(twinsKey,
			&series{kind: &kind{key: "desired", name: "desired properties changed, and the device told"}, steps: desired},
			&series{kind: &kind{key: "reported", name: "reported properties changed"}, steps: reported})
	}
	return nil
}

// measureRound goes through all there is.
func (h *hubs) measureRound(ctx context.Context, round int) error {
	for _, f := range h.flows {
		if err := f.measure(ctx, h.options, round); err != nil {
			return fmt.Errorf("messages, %s: %w", f.name, err)
		}
	}
	for _, v := range h.series {
		if err := v.measure(ctx, h.options, round); err != nil {
			return fmt.Errorf("%s, %s: %w", v.at.name, v.name, err)
		}
	}
	h.counted = round
	return nil
}

// loadDevices fills the store of a hub.
func (s *server) loadDevices(ctx context.Context, f *fleet) error {
	db, err := s.openStore(ctx)
	if err != nil {
		return err
	}
	l := &loader{server: s, fleet: f, now: time.Now()}
	for _, way := range []string{"living", "visiting", "companion"} {
		err = errors.Join(err, concurrently(ctx, loaders, f.devices(), func(ctx context.Context, i int) error {
			return l.identity(ctx, db, individualID(way, i))
		}))
	}
	return errors.Join(err, db.Close())
}
