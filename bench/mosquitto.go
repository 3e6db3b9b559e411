package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-iot/berth/wire/mqtt"
)

// mosquittoConfig lets mosquitto do as little as it can, with the certificate and
// the cipher suite of Berth: it keeps nothing on the disk, asks nobody who they
// are, and holds nothing up.
const mosquittoConfig = `listener %[1]s 127.0.0.1
certfile %[2]s/tls.pem
keyfile %[2]s/tls.key
ciphers_tls1.3 TLS_AES_128_GCM_SHA256
allow_anonymous true
max_inflight_messages 0
max_queued_messages 0
persistence false
set_tcp_nodelay true
connection_messages false
log_type error
log_dest stderr
user root
`

// startMosquitto runs a broker with the certificate of a server.
func (b *bencher) startMosquitto(ctx context.Context, s *server) (*place, error) {
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program = "/usr/sbin/mosquitto" // where Debian keeps it, and few look
	}
	if _, err := os.Stat(program); err != nil {
		return nil, errors.New("there is no mosquitto: apt-get install mosquitto")
	}
	p := &place{name: "mosquitto", roots: s.roots}
	if p.address, err = freeAddress(); err != nil {
		return nil, err
	}
	data, err := filepath.Abs(s.data)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "mosquitto.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, mosquittoConfig, port(p.address), data), 0o600); err != nil {
		return nil, err
	}
	if p.process, err = start(ctx, filepath.Join(b.dir, "mosquitto.log"), nil, program, "-c", file); err != nil {
		return nil, err
	}
	return p, p.awaitReady(ctx)
}

// mosquittoVersion is what the program calls itself, or nothing. Asked how it is
// used, it says so and fails.
func mosquittoVersion(ctx context.Context, program string) string {
	text, _ := exec.CommandContext(ctx, program, "-h").Output()
	first, _, _ := strings.Cut(string(text), "\n")
	version, _ := strings.CutPrefix(first, "mosquitto version ")
	return version
}

// keepFor makes the broker keep what is published from now on, in memory, for one
// who is not there, and forget what it kept before.
func (p *place) keepFor(ctx context.Context, subscriber string) error {
	if err := p.forgetFor(ctx, subscriber); err != nil {
		return err
	}
	d, err := p.subscriber(ctx, subscriber, false)
	if err != nil {
		return err
	}
	if err := d.send(&mqtt.Subscribe{ID: 1, Subscriptions: []mqtt.Subscription{{Filter: "#", QoS: 1}}}); err != nil {
		return err
	}
	if _, err := d.next(); err != nil {
		return err
	}
	return d.leave()
}

// forgetFor is the end of keepFor.
func (p *place) forgetFor(ctx context.Context, subscriber string) error {
	d, err := p.subscriber(ctx, subscriber, true)
	if err != nil {
		return err
	}
	return d.leave()
}

func (p *place) subscriber(ctx context.Context, id string, clean bool) (*livingDevice, error) {
	hello, err := (&mqtt.Connect{Level: 4, ClientID: id, CleanSession: clean}).Append(nil)
	if err != nil {
		return nil, err
	}
	conn, err := p.dial(ctx, visitor{})
	if err != nil {
		return nil, err
	}
	return enter(conn, id, hello)
}

// flushes returns how often in a second a page can be appended to a file in dir and
// brought to the disk, by one who does nothing else.
func flushes(dir string) (float64, error) {
	f, err := os.CreateTemp(dir, "flush-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page, n, began := make([]byte, 4096), 0, time.Now()
	for time.Since(began) < time.Second {
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) / time.Since(began).Seconds(), nil
}
