// Package hub is the device SDK for Azure IoT Hub and for Berth's hub.
//
// [Connect] makes a device, or one of its modules, live there, over MQTT or MQTT on
// a WebSocket: it sends messages, is sent messages, has a twin and answers direct
// methods, and is connected again whenever it lost the hub. Neither side loses a
// message over that: what was not acknowledged is sent again, so each arrives at
// least once.
//
//	c, err := hub.Connect(ctx, hub.ConnectionConfig{
//		Host:       "contoso.azure-devices.net",
//		DeviceID:   "pump-7",
//		Credential: client.SymmetricKey(key),
//		OnMessage: func(ctx context.Context, m hub.CloudMessage) error {
//			return open(ctx, m.Properties["valve"]) // with an error it is given again
//		},
//	})
//
// [New] is for a device that wakes up, sends device-to-cloud messages over HTTPS
// and sleeps on.
//
// Package provisioning tells a device the Host and DeviceID to use here; the
// same credential is good for both. Package deviceclient does all of it in one
// call.
package hub

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/sas"
)

const (
	apiVersion = "2021-04-12"

	maxAnswer = 64 << 10 // bytes; there should be none

	// MaxMessage is how many bytes one message or one batch may have, bodies
	// and properties together.
	MaxMessage = 256 << 10
	// MaxBatch is how many messages a batch may have.
	MaxBatch = 500

	// batchType is the media type of a batch of messages.
	batchType = "application/vnd.microsoft.iothub.json"

	// appPrefix marks an application property.
	appPrefix = "iothub-app-"
)

// A Config says which device talks to which hub over HTTPS. All but HTTP are
// required.
type Config struct {
	// Host is the hub's name with an optional :port.
	Host string
	// DeviceID is the device's name there.
	DeviceID device.ID
	// Credential is what the device proves itself with. Tokens are made for an
	// hour and renewed as needed.
	Credential client.Credential
	// HTTP says how to reach the host.
	HTTP client.HTTP
}

// A Client is one device's access to its hub over HTTPS. It is safe for concurrent use.
type Client struct {
	rest      *rest.Client
	path      string
	authorize func(context.Context) (string, error) // nil with a certificate
}

// New checks the configuration and returns a client; it does not connect.
func New(c Config) (*Client, error) {
	id, err := device.ParseID(string(c.DeviceID))
	if err != nil {
		return nil, fmt.Errorf("hub: the device ID %w", err)
	}
	if err := c.Credential.Check(); err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	r, err := rest.New(c.Host, c.Credential.Certificate(), c.HTTP)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	client := &Client{rest: r, path: "/devices/" + url.PathEscape(string(id)) + "/messages/events"}
	if c.Credential.Certificate() == nil {
		resource := sas.HubDeviceResource(rest.Hostname(c.Host), string(id))
		tokens := &rest.Tokens{Sign: func(ctx context.Context, expiry time.Time) (string, error) {
			return c.Credential.Token(ctx, resource, "", expiry)
		}}
		client.authorize = tokens.Token
	}
	return client, nil
}

// A Message is what a device tells its hub. All members are optional.
type Message struct {
	Body            []byte
	ContentType     string // of the body: "application/json"; the hub can route by what is in such a body
	ContentEncoding string // "utf-8"
	MessageID       string // lets a reader tell a message that was sent twice
	CorrelationID   string
	CreationTime    time.Time
	// Properties are the application's own. Names are compared with case.
	Properties map[string]string
}

// Send sends one message; when it returns nil the hub has it for good. After a
// lost answer the message is sent again, so it arrives at least once. A refusal
// is a [client.Error]: 401 means that the hub does not know the device or its
// key any more, and registering again helps.
func (c *Client) Send(ctx context.Context, m Message) error {
	if err := c.send(ctx, m); err != nil {
		return fmt.Errorf("sending a message: %w", err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, m Message) error {
	if !headersHold(m) {
		return c.sendBatch(ctx, []Message{m})
	}
	if m.size() > MaxMessage {
		return fmt.Errorf("it has %d bytes, %d are allowed", m.size(), MaxMessage)
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	for name, value := range m.properties() {
		header.Set(name, value)
	}
	return c.post(ctx, header, m.Body)
}

// SendBatch sends up to [MaxBatch] messages, of which the hub takes all or
// none. Otherwise it is like Send.
func (c *Client) SendBatch(ctx context.Context, messages []Message) error {
	if err := c.sendBatch(ctx, messages); err != nil {
		return fmt.Errorf("sending %d messages: %w", len(messages), err)
	}
	return nil
}

func (c *Client) sendBatch(ctx context.Context, messages []Message) error {
	if len(messages) == 0 || len(messages) > MaxBatch {
		return fmt.Errorf("a batch has 1 to %d messages", MaxBatch)
	}
	type item struct {
		Body          string            `json:"body"`
		Base64Encoded bool              `json:"base64Encoded"`
		Properties    map[string]string `json:"properties,omitempty"`
	}
	items, size := make([]item, len(messages)), 0
	for i, m := range messages {
		if _, empty := m.Properties[""]; empty {
			return errors.New("a property has no name")
		}
		size += m.size()
		items[i] = item{base64.StdEncoding.EncodeToString(m.Body), true, m.properties()}
	}
	if size > MaxMessage {
		return fmt.Errorf("they have %d bytes, %d are allowed", size, MaxMessage)
	}
	body, err := json.Marshal(items)
	if err != nil {
		return err
	}
	return c.post(ctx, http.Header{"Content-Type": {batchType}}, body)
}

func (c *Client) post(ctx context.Context, header http.Header, body []byte) error {
	_, err := c.rest.Do(ctx, rest.Request{
		Method:     http.MethodPost,
		Path:       c.path + "?api-version=" + apiVersion,
		Header:     header,
		Body:       body,
		Authorize:  c.authorize,
		Repeatable: true,
		MaxAnswer:  maxAnswer,
	})
	return err
}

// size counts what the hub's limit is on.
func (m Message) size() int {
	n := len(m.Body)
	for name, value := range m.properties() {
		n += len(name) + len(value)
	}
	return n
}

// properties returns the message's properties by the names they have on the
// wire.
func (m Message) properties() map[string]string {
	all := map[string]string{}
	for name, value := range map[string]string{
		"iothub-contenttype":     m.ContentType,
		"iothub-contentencoding": m.ContentEncoding,
		"iothub-messageid":       m.MessageID,
		"iothub-correlationid":   m.CorrelationID,
	} {
		if value != "" {
			all[name] = value
		}
	}
	if !m.CreationTime.IsZero() {
		all["iothub-creation-time-utc"] = m.CreationTime.UTC().Format("2006-01-02T15:04:05.999Z")
	}
	for name, value := range m.Properties {
		all[appPrefix+name] = value
	}
	return all
}

// headersHold reports whether m's properties survive as header fields (RFC 9110
// §5): names have no case there, and values are printable ASCII without blanks
// around them. A batch has them in JSON, which holds anything.
func headersHold(m Message) bool {
	for name, value := range m.properties() {
		if name == appPrefix || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.~!#$%&'*+^`|") != "" {
			return false
		}
		if strings.TrimSpace(value) != value || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return false
		}
	}
	return true
}
