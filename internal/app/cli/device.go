package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/tpm"
)

// connectTimeout bounds the wait for a connection to a hub.
const connectTimeout = 30 * time.Second

// A deviceRun is what the command line of berth device asks for.
type deviceRun struct {
	host, scope, ca string

	tpm, x509, x509Key, key, groupKey string

	id, payload string
	send        []string
	properties  []string
	identify    bool
	mqtt        int // the port, or zero for HTTPS
	webSocket   bool
	receive     int // how many messages to print
}

func newDevice(t *terminal) *cobra.Command {
	var d deviceRun
	c := &cobra.Command{
		Use:   "device (--tpm WHERE | --x509 CHAIN --x509-key KEY | --key FILE | --group-key FILE)",
		Short: "Be a device: register, send telemetry to the hub it got, and receive messages",
		Long: `Be a device: register with a provisioning service, print where it was assigned
and how long each step took, and send what --send says to that hub with the same
credential. It speaks to any service with the DPS device REST API, and shows
what a real device on the Go SDK would do.

The credential is one of
  --tpm WHERE        a TPM 2.0: /dev/tpmrm0, unix:SOCKET or mssim:HOST:PORT. The
                     registration ID defaults to the one all SDKs derive from
                     the endorsement key
  --x509, --x509-key a certificate chain, leaf first, and the leaf's key. The
                     registration ID defaults to the leaf's common name
  --key              the device's own symmetric key
  --group-key        an enrollment group's key, of which the device's is derived.
                     For tests: whoever has it is every device of the group

With --receive it stays connected and prints the messages that operators send it,
each with its message-id, properties and body, or with -o json as an object on a
line of its own. A message that was printed is acknowledged.

With --identify it prints what an enrollment of its TPM needs, and does not register.

Keys are files with base64 text; - reads standard input. On the machine of the
server the host, the ID scope and the CA are found in its data directory.`,
		Example: `  berth device --registration-id pump-7 --key pump-7.key --send '{"pressure":4.2}'
  berth device --x509 chain.pem --x509-key chain.key --send hello --property alert=false
  berth device --registration-id unit-1 --group-key fleet.key -o json
  berth device --tpm /dev/tpmrm0 --identify
  berth device --tpm /dev/tpmrm0 --send hello --websocket
  berth device --registration-id pump-7 --key pump-7.key --websocket --receive=1`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := t.device(c.Context(), d); err != nil {
				return deviceError{err}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&d.host, "host", "", "`name` of the provisioning service, with :port where it is not 443 (default: the local server's)")
	f.StringVar(&d.scope, "id-scope", "", "ID `scope` (default: the local server's)")
	f.StringVar(&d.ca, "ca", "", "PEM `file` of the CA that vouches for the service and its hubs (default: the local server's, else the system's)")
	f.StringVar(&d.tpm, "tpm", "", "`where` the TPM is: /dev/tpmrm0, unix:SOCKET or mssim:HOST:PORT")
	f.BoolVar(&d.identify, "identify", false, "print the TPM's registration ID and public keys, and do not register")
	f.StringVar(&d.x509, "x509", "", "PEM `file` with the certificate chain, leaf first")
	f.StringVar(&d.x509Key, "x509-key", "", "PEM `file` with the leaf's private key")
	f.StringVar(&d.key, "key", "", "`file` with the device's symmetric key in base64")
	f.StringVar(&d.groupKey, "group-key", "", "`file` with the enrollment group's key in base64")
	f.StringVar(&d.id, "registration-id", "", "registration `ID`")
	f.StringVar(&d.payload, "payload", "", "JSON `file` for a custom allocation policy")
	f.StringArrayVar(&d.send, "send", nil, "`text` of a telemetry message; repeat for more")
	f.IntVar(&d.mqtt, "mqtt", 0, "send over MQTT, to `PORT` or to 8883, and not over HTTPS")
	f.Lookup("mqtt").NoOptDefVal = "8883"
	f.BoolVar(&d.webSocket, "websocket", false, "send over MQTT on a WebSocket, and not over HTTPS")
	f.IntVar(&d.receive, "receive", 0, "print messages to the device as they arrive, `COUNT` of them or until it is interrupted")
	f.Lookup("receive").NoOptDefVal = strconv.Itoa(math.MaxInt)
	f.StringArrayVar(&d.properties, "property", nil, "`name=value` of the messages; repeat for more")
	return c
}

// A deviceError is what a device is told, who is no operator.
type deviceError struct{ error }

func (e deviceError) Unwrap() error { return e.error }

func (t *terminal) device(ctx context.Context, d deviceRun) error {
	properties, err := d.check()
	if err != nil {
		return err
	}
	if d.identify {
		return t.identify(ctx, d.tpm)
	}
	if err := t.locate(&d); err != nil {
		return err
	}
	options, err := t.trust(d.ca)
	if err != nil {
		return err
	}
	payload, err := t.payload(d.payload)
	if err != nil {
		return err
	}
	credential, done, err := t.credential(ctx, d)
	if err != nil {
		return err
	}
	defer done()
	line := timeline{began: time.Now()}
	c, err := provisioning.New(provisioning.Config{
		Host: d.host, IDScope: d.scope, RegistrationID: d.id, Credential: credential, Payload: payload, HTTP: options,
		Trace: &provisioning.Trace{Done: func(s provisioning.Step, took time.Duration, err error) { line.add(string(s), took, err) }},
	})
	if err != nil {
		return err
	}
	home, err := c.Register(ctx)
	if err != nil {
		return t.notAssigned(line, err)
	}
	box := make(mailbox)
	if len(d.send) > 0 || d.receive > 0 {
		leave, err := line.live(ctx, d, home, credential, options, properties, box)
		if err != nil {
			return fmt.Errorf("assigned to %s as %s, and then %w", home.Hub, home.DeviceID, err)
		}
		defer leave()
	}
	if err := t.showDevice(home, line); err != nil {
		return err
	}
	return t.receive(ctx, box, d.receive)
}

// check finds faults of the command line and reads the properties.
func (d *deviceRun) check() (map[string]string, error) {
	given := 0
	for _, flag := range []string{d.tpm, d.x509, d.key, d.groupKey} {
		if flag != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, usageError{errors.New("a device proves itself with one of --tpm, --x509, --key and --group-key")}
	case d.identify && d.tpm == "":
		return nil, usageError{errors.New("--identify reads a TPM: --tpm WHERE")}
	case (d.x509 == "") != (d.x509Key == ""):
		return nil, usageError{errors.New("--x509 and --x509-key go together: the certificate chain and the leaf's key")}
	case d.id == "" && (d.key != "" || d.groupKey != ""):
		return nil, usageError{errors.New("a symmetric key does not say whose it is: --registration-id ID")}
	case d.receive < 0:
		return nil, usageError{errors.New("--receive must be more than nothing")}
	case d.receive > 0 && d.mqtt == 0 && !d.webSocket:
		return nil, usageError{errors.New("messages arrive over --mqtt or over --websocket")}
	case (d.mqtt != 0 || d.webSocket) && len(d.send) == 0 && d.receive == 0:
		return nil, usageError{errors.New("--mqtt and --websocket say how to send and receive: --send TEXT, --receive")}
	case d.mqtt != 0 && d.webSocket:
		return nil, usageError{errors.New("a message goes over --mqtt or over --websocket")}
	case len(d.properties) > 0 && len(d.send) == 0:
		return nil, usageError{errors.New("--property belongs to a message: --send TEXT")}
	}
	return parseProperties(d.properties)
}

// parseProperties reads message properties written as name=value.
func parseProperties(written []string) (map[string]string, error) {
	properties := map[string]string{}
	for _, p := range written {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("--property: %q is not name=value", p)}
		}
		properties[name] = value
	}
	return properties, nil
}

// identify prints what an enrollment of a TPM needs. All of it is public.
func (t *terminal) identify(ctx context.Context, where string) (err error) {
	chip, err := tpm2.Open(ctx, where)
	if err != nil {
		return fmt.Errorf("--tpm: %w", err)
	}
	defer func() { err = errors.Join(err, chip.Close()) }()
	ek, err := chip.EndorsementKey(ctx)
	if err != nil {
		return fmt.Errorf("reading the endorsement key: %w", err)
	}
	srk, err := chip.StorageRootKey(ctx)
	if err != nil {
		return fmt.Errorf("reading the storage root key: %w", err)
	}
	id := tpm.RegistrationID(ek)
	if t.json() {
		return t.printJSON(map[string]any{"registrationId": id, "endorsementKey": ek, "storageRootKey": srk})
	}
	return t.table([][]string{{"Registration ID", id}, {"Endorsement key", base64Text(ek)}, {"Storage root key", base64Text(srk)}})
}

// locate fills in what the local server's configuration knows.
func (t *terminal) locate(d *deviceRun) error {
	if d.host != "" && d.scope != "" {
		return nil
	}
	config, err := app.LoadConfig(t.data)
	if err != nil {
		return fmt.Errorf("--host and --id-scope say where to register; without them the local server is asked for: %w", err)
	}
	if d.host == "" {
		d.host = publicHost(config.Hosts[0], config.Listen)
	}
	if d.scope == "" {
		d.scope = config.IDScope
	}
	return nil
}

func (t *terminal) payload(file string) (any, error) {
	if file == "" {
		return nil, nil
	}
	b, err := t.read(file)
	if err != nil {
		return nil, fmt.Errorf("--payload: %w", err)
	}
	if !json.Valid(b) {
		return nil, fmt.Errorf("--payload: %s is not JSON", file)
	}
	return json.RawMessage(b), nil
}

// credential reads what the device proves itself with. done gives it up.
func (t *terminal) credential(ctx context.Context, d deviceRun) (c client.Credential, done func(), err error) {
	done = func() {}
	switch {
	case d.tpm != "":
		chip, err := tpm2.Open(ctx, d.tpm)
		if err != nil {
			return c, nil, fmt.Errorf("--tpm: %w", err)
		}
		return client.TPM(chip), func() { chip.Close() }, nil
	case d.x509 != "":
		pair, err := t.keyPair(d.x509, d.x509Key)
		return client.X509(pair), done, err
	case d.key != "":
		key, err := t.readKey("--key", d.key)
		return client.SymmetricKey(key), done, err
	default:
		group, err := t.readKey("--group-key", d.groupKey)
		return client.SymmetricKey(provisioning.DeriveDeviceKey(group, d.id)), done, err
	}
}

func (t *terminal) keyPair(chainFile, keyFile string) (tls.Certificate, error) {
	var pair tls.Certificate
	chain, err := t.readCertificates("--x509", chainFile)
	if err != nil {
		return pair, err
	}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	pair.Leaf = chain[0]
	text, err := t.read(keyFile)
	if err != nil {
		return pair, fmt.Errorf("--x509-key: %w", err)
	}
	if pair.PrivateKey, err = pki.ParseKey(text); err != nil {
		return pair, fmt.Errorf("--x509-key: %s: %w", keyFile, err)
	}
	return pair, nil
}

// notAssigned shows how far a device came, and where the reason is to be found.
func (t *terminal) notAssigned(line timeline, err error) error {
	if !t.json() {
		line.show(t)
	}
	var tracking string
	if refused, ok := errors.AsType[*client.Error](err); ok {
		tracking = refused.TrackingID
	} else if ended, ok := errors.AsType[*provisioning.Error](err); ok {
		tracking = ended.TrackingID
	}
	if tracking == "" {
		return err
	}
	return fmt.Errorf("%w\nThe operator can see why:\n  berth explain %s", err, tracking)
}

// A timeline is the steps a device took.
type timeline struct {
	began time.Time
	steps []deviceStep
}

type deviceStep struct {
	Step         string  `json:"step"`
	Milliseconds float64 `json:"milliseconds"`
	OK           bool    `json:"ok"`
}

func (l *timeline) add(step string, took time.Duration, err error) {
	l.steps = append(l.steps, deviceStep{step, inMilliseconds(took), err == nil})
}

func inMilliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// live connects the device to its hub as the command line says, and sends what
// that says. leave is how it goes.
func (l *timeline) live(ctx context.Context, d deviceRun, home *provisioning.Assignment, credential client.Credential, options client.HTTP, properties map[string]string, box mailbox) (leave func() error, err error) {
	if d.mqtt == 0 && !d.webSocket {
		c, err := hub.New(hub.Config{Host: home.Hub, DeviceID: home.DeviceID, Credential: credential, HTTP: options})
		if err != nil {
			return nil, err
		}
		return func() error { return nil }, l.send(ctx, c, d.send, properties)
	}
	config := hub.ConnectionConfig{Host: home.Hub, DeviceID: home.DeviceID, Credential: credential, RootCAs: options.RootCAs, Port: d.mqtt}
	if d.webSocket {
		config.Transport = hub.WebSocket
	}
	if d.receive > 0 {
		config.OnMessage = box.take
	}
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := hub.Connect(bounded, config)
	l.add("connect", time.Since(began), err)
	if err != nil {
		return nil, err
	}
	if err := l.send(ctx, c, d.send, properties); err != nil {
		c.Close()
		return nil, err
	}
	return c.Close, nil
}

// send sends messages.
func (l *timeline) send(ctx context.Context, h interface {
	Send(context.Context, hub.Message) error
}, messages []string, properties map[string]string) error {
	for _, text := range messages {
		m := hub.Message{Body: []byte(text), ContentEncoding: "utf-8", ContentType: "text/plain", Properties: properties}
		if json.Valid(m.Body) {
			m.ContentType = "application/json"
		}
		began := time.Now()
		err := h.Send(ctx, m)
		l.add("send message", time.Since(began), err)
		if err != nil {
			return err
		}
	}
	return nil
}

// show writes the timeline as talk: the data is where the device lives.
func (l *timeline) show(t *terminal) {
	for _, s := range l.steps {
		mark := "✓"
		if !s.OK {
			mark = "✗"
		}
		fmt.Fprintf(t.err, "  %s %-22s %9.1f ms\n", mark, s.Step, s.Milliseconds)
	}
	fmt.Fprintf(t.err, "    %-22s %9.1f ms\n", "in all", inMilliseconds(time.Since(l.began)))
}

func (t *terminal) showDevice(home *provisioning.Assignment, line timeline) error {
	if t.json() {
		return t.printJSON(struct {
			RegistrationID string          `json:"registrationId"`
			DeviceID       device.ID       `json:"deviceId"`
			AssignedHub    string          `json:"assignedHub"`
			Substatus      string          `json:"substatus"`
			Payload        json.RawMessage `json:"payload,omitempty"`
			Steps          []deviceStep    `json:"steps"`
			Milliseconds   float64         `json:"milliseconds"`
		}{home.RegistrationID, home.DeviceID, home.Hub, home.Substatus, home.Payload, line.steps, inMilliseconds(time.Since(line.began))})
	}
	line.show(t)
	rows := [][]string{
		{"Registration ID", home.RegistrationID},
		{"Hub", home.Hub},
		{"Device ID", string(home.DeviceID)},
		{"Assignment", home.Substatus},
	}
	if home.Payload != nil {
		rows = append(rows, []string{"Payload", string(home.Payload)})
	}
	return t.table(rows)
}
