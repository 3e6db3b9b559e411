package cli

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/wire/hubjson"
)

func newDemo(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Watch a device with a TPM go from nothing to its hub",
		Long: `Make a device with a software TPM, enroll it, and watch it being challenged,
assigned to a hub and accepted there, with what each step proved and how long
it took. It stays connected: an operator changes its twin and calls a method of
it. Then a copy of the device tries the same, and is refused with reasons.

Everything happens on this machine in a temporary directory. It needs swtpm.`,
		Example: `  berth demo`,
		Args:    exactly(),
		RunE:    func(c *cobra.Command, _ []string) error { return t.demo(c.Context()) },
	}
}

// A demo is one showing.
type demo struct {
	*terminal
	dir    string // temporary; a socket's path must be short
	config app.Config
	host   string
	roots  *x509.CertPool
}

func (t *terminal) demo(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "berth-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{terminal: t, dir: dir}
	stop, err := d.serve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	id, err := d.lifeOfADevice(ctx)
	if err != nil {
		return err
	}
	if err := d.impostor(ctx, id); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nYour turn:  berth dev   and connect a device of your own.\n")
	return nil
}

// serve starts a server in this process; stop ends it.
func (d *demo) serve(ctx context.Context) (stop func() error, err error) {
	d.heading("A device with a TPM finds its hub with no hands")
	began := time.Now()
	if d.config, err = devConfig(ctx, filepath.Join(d.dir, "data"), "127.0.0.1:0"); err != nil {
		return nil, err
	}
	server, err := app.Open(ctx, d.config, Version(), d.logger(d.config.Log))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stop = func() error { cancel(); return <-done }

	pem, err := os.ReadFile(filepath.Join(d.config.Data, app.CAFile))
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	d.roots = x509.NewCertPool()
	d.roots.AppendCertsFromPEM(pem)
	_, port, err := net.SplitHostPort(server.Address().String())
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	d.host = net.JoinHostPort(devHost, port)
	d.step(time.Since(began), "server", "provisioning service and hub ready on %s, ID scope %s", d.host, d.config.IDScope)
	return stop, nil
}

// lifeOfADevice makes a device, enrolls it and follows it to its hub. It
// returns the registration ID.
func (d *demo) lifeOfADevice(ctx context.Context) (string, error) {
	d.heading("In the factory")
	module, stop, err := d.makeTPM(ctx, "device", "a TPM is made (software, by swtpm)")
	if err != nil {
		return "", err
	}
	defer stop()
	began := time.Now()
	ek, err := module.EndorsementKey(ctx)
	if err != nil {
		return "", err
	}
	if _, err := module.StorageRootKey(ctx); err != nil {
		return "", err
	}
	id := tpm.RegistrationID(ek)
	d.step(time.Since(began), "TPM", "made its endorsement key and its storage root key; neither can ever leave it")
	d.note("its name from now on is the hash of its endorsement key: %s", id)
	began = time.Now()
	if err := d.run(ctx, "enrollment", "create", id, "--tpm", base64.StdEncoding.EncodeToString(ek)); err != nil {
		return "", err
	}
	d.step(time.Since(began), "operator", "berth enrollment create %s… --tpm …: one public key, no secret shared", id[:8])

	d.heading("In the field: power on")
	inside := &stopwatch{SecurityModule: module}
	began = time.Now()
	home, err := d.register(ctx, inside, id)
	if err != nil {
		return "", err
	}
	d.note("this is home: %s as %s…", home.Hub, home.DeviceID[:8])
	heard := make(chan hub.Desired, 1)
	c, err := d.connect(ctx, inside, home, heard)
	if err != nil {
		return "", err
	}
	defer c.Close()
	total := time.Since(began)
	d.note("power-on to accepted telemetry: %s, of which %s inside the TPM", milliseconds(total), milliseconds(inside.spent))
	if err := d.showStream(ctx); err != nil {
		return "", err
	}
	return id, d.live(ctx, c, heard)
}

// proofs says what each step of a registration proves.
var proofs = map[provisioning.Step]string{
	provisioning.ReceiveChallenge:   "public keys shown; a challenge came back, sealed so that only this TPM can open it",
	provisioning.ActivateCredential: "the TPM opened it: it holds the enrolled endorsement key and a storage key that cannot leave it",
	provisioning.SignToken:          "the TPM signed with the key from the challenge, which it alone can use",
	provisioning.Register:           "signature good, enrollment enabled, a hub chosen, identity and record on disk",
	provisioning.ActivateHubKey:     "a hub key, sealed the same way, taken into the TPM; nobody else has seen it but the hub",
}

func (d *demo) register(ctx context.Context, module client.SecurityModule, id string) (*provisioning.Assignment, error) {
	trace := func(step provisioning.Step, took time.Duration, err error) {
		if proof := proofs[step]; proof != "" && err == nil {
			d.step(took, "device", "%s", proof)
		}
	}
	c, err := provisioning.New(provisioning.Config{
		Host: d.host, IDScope: d.config.IDScope, RegistrationID: id, Credential: client.TPM(module),
		HTTP: client.HTTP{RootCAs: d.roots}, Trace: &provisioning.Trace{Done: trace},
	})
	if err != nil {
		return nil, err
	}
	return c.Register(ctx)
}

// connect connects the device to its hub. What it hears of desired properties it
// puts into heard, and it has one direct method.
func (d *demo) connect(ctx context.Context, module client.SecurityModule, home *provisioning.Assignment, heard chan<- hub.Desired) (*hub.Connection, error) {
	began := time.Now()
	c, err := hub.Connect(ctx, hub.ConnectionConfig{
		Host: home.Hub, DeviceID: home.DeviceID, Credential: client.TPM(module), RootCAs: d.roots, Transport: hub.WebSocket,
		OnDesired: func(_ context.Context, p hub.Desired) {
			if p.Version > 1 { // a new twin has version 1
				heard <- p
			}
		},
		OnMethod: func(_ context.Context, name string, _ json.RawMessage) (int, json.RawMessage, error) {
			if name != "blink" {
				return 404, nil, nil
			}
			return 200, json.RawMessage(`{"blinked":3}`), nil
		},
	})
	if err != nil {
		return nil, err
	}
	d.step(time.Since(began), "hub", "knows the device by a token its TPM signed, and keeps a line to it: MQTT on a WebSocket")
	began = time.Now()
	err = c.Send(ctx, hub.Message{Body: []byte(`{"temperature":21.5}`), ContentType: "application/json", ContentEncoding: "utf-8"})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	d.step(time.Since(began), "hub", "has the device's first message on disk")
	return c, nil
}

// live has an operator change the device's twin and call a method of it.
func (d *demo) live(ctx context.Context, c *hub.Connection, heard <-chan hub.Desired) error {
	d.heading("At home: the operator and the device talk")
	connection, err := os.ReadFile(filepath.Join(d.config.Data, app.HubConnectionFile))
	if err != nil {
		return err
	}
	operator, err := service.NewHub(string(connection), client.HTTP{RootCAs: d.roots})
	if err != nil {
		return err
	}
	_, id := c.Home()
	began := time.Now()
	if _, err := operator.PatchTwin(ctx, id, hubjson.TwinChange{Desired: json.RawMessage(`{"interval":30}`)}, ""); err != nil {
		return err
	}
	select {
	case p := <-heard:
		d.step(time.Since(began), "twin", "the operator wants %s, and the device has heard of it", p.Properties)
	case <-time.After(10 * time.Second):
		return errors.New("the device did not hear of its twin's change")
	}
	began = time.Now()
	version, err := c.Report(ctx, map[string]any{"interval": 30})
	if err != nil {
		return err
	}
	d.step(time.Since(began), "twin", `the device reports {"interval":30}, which makes version %d of what it reported`, version)
	began = time.Now()
	result, err := operator.Invoke(ctx, id, hubjson.Method{Name: "blink"})
	if err != nil {
		return err
	}
	d.step(time.Since(began), "method", "the operator calls blink, and the device answers %d %s", result.Status, result.Payload)
	return nil
}

func (d *demo) showStream(ctx context.Context) error {
	d.command("berth hub tail --follow=false")
	return d.run(ctx, "hub", "tail", "--follow=false")
}

// impostor has another TPM claim the device's name.
func (d *demo) impostor(ctx context.Context, id string) error {
	d.heading("A copy of the device, with everything but its TPM")
	module, stop, err := d.makeTPM(ctx, "impostor", "another TPM is made")
	if err != nil {
		return err
	}
	defer stop()
	_, err = d.register(ctx, module, id)
	if err == nil {
		return errors.New("another TPM was let in under the device's name")
	}
	fmt.Fprintf(d.out, "  refused  %v\n", err)
	d.command("berth explain " + id)
	return d.run(ctx, "explain", id)
}

// makeTPM starts a software TPM and opens it.
func (d *demo) makeTPM(ctx context.Context, name, what string) (_ *tpm2.TPM, stop func(), err error) {
	began := time.Now()
	dir := filepath.Join(d.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	instance, err := swtpm.Start(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	module, err := tpm2.Open(ctx, instance.Address())
	if err != nil {
		return nil, nil, errors.Join(err, instance.Stop())
	}
	d.step(time.Since(began), "factory", "%s", what)
	return module, func() { module.Close(); instance.Stop() }, nil
}

// run runs a berth command against the demo's server, as a person would.
func (d *demo) run(ctx context.Context, args ...string) error {
	out := d.out
	if args[0] == "enrollment" {
		out = io.Discard // it prints the enrollment, which the timeline tells in a line
	}
	if status := Run(ctx, append(args, "--data", d.config.Data), nil, out, d.err); status != exitOK {
		return fmt.Errorf("berth %s %s ended with status %d", args[0], args[1], status)
	}
	return nil
}

func (d *demo) heading(text string) { fmt.Fprintf(d.out, "\n%s\n\n", text) }
func (d *demo) command(text string) { fmt.Fprintf(d.out, "\n$ %s\n", text) }

func (d *demo) step(took time.Duration, who, format string, args ...any) {
	fmt.Fprintf(d.out, "%10s  %-9s %s\n", milliseconds(took), who, fmt.Sprintf(format, args...))
}

func (d *demo) note(format string, args ...any) {
	fmt.Fprintf(d.out, "%10s  %s\n", "", fmt.Sprintf(format, args...))
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// A stopwatch measures the time that is the TPM's own.
type stopwatch struct {
	client.SecurityModule
	spent time.Duration
}

func (s *stopwatch) since(began time.Time) { s.spent += time.Since(began) }

func (s *stopwatch) EndorsementKey(ctx context.Context) ([]byte, error) {
	defer s.since(time.Now())
	return s.SecurityModule.EndorsementKey(ctx)
}

func (s *stopwatch) StorageRootKey(ctx context.Context) ([]byte, error) {
	defer s.since(time.Now())
	return s.SecurityModule.StorageRootKey(ctx)
}

func (s *stopwatch) Activate(ctx context.Context, blob []byte) error {
	defer s.since(time.Now())
	return s.SecurityModule.Activate(ctx, blob)
}

func (s *stopwatch) MAC(ctx context.Context, msg []byte) ([]byte, error) {
	defer s.since(time.Now())
	return s.SecurityModule.MAC(ctx, msg)
}
