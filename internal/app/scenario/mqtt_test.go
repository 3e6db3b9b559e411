package scenario

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/mqtt"
	"github.com/berth-iot/berth/wire/websocket"
)

// mqtts is the wire of the MQTT APIs of DPS and IoT Hub, over TLS or in a
// WebSocket, with nothing but a client of its own.
type mqtts struct {
	w    *world
	dial func(w *world, certificate *tls.Certificate) (net.Conn, error)

	last *mqttClient // to the provisioning service, or nil
	said connection  // with which last was opened
}

func openMQTT(w *world) wire { return &mqtts{w: w, dial: dialMQTT} }

func openWebSocket(w *world) wire { return &mqtts{w: w, dial: dialWebSocket} }

// A connection is what a client says to open it.
type connection struct {
	clientID, username, password string
	certificate                  *tls.Certificate
}

// patience of clients: with the server, and with the machine.
const mqttTimeout = time.Minute

// open connects. A refusal is an answer, in the terms of the HTTP API.
func (m *mqtts) open(c connection) (*mqttClient, answer, error) {
	conn, err := m.dial(m.w, c.certificate)
	if err != nil {
		return nil, answer{}, err
	}
	client := &mqttClient{Conn: conn}
	connect := &mqtt.Connect{Level: 4, ClientID: c.clientID, KeepAlive: 60, Username: &c.username}
	if c.password != "" {
		connect.Password = []byte(c.password)
	}
	err = client.send(connect)
	var p mqtt.Packet
	if err == nil {
		p, err = client.hear()
	}
	if err != nil {
		client.Close()
		return nil, answer{}, err
	}
	connack, ok := p.(*mqtt.Connack)
	if ok && *connack == (mqtt.Connack{}) {
		return client, answer{}, nil
	}
	client.Close()
	if !ok || connack.SessionPresent {
		return nil, answer{}, fmt.Errorf("a CONNECT was answered with %#v", p)
	}
	a, err := refusal(connack.Code)
	return nil, a, err
}

// refusal is a CONNACK in the terms of the HTTP API.
func refusal(code mqtt.ReturnCode) (answer, error) {
	errorCode, ok := map[mqtt.ReturnCode]int{
		mqtt.IdentifierRejected: 400000, mqtt.BadUserNameOrPassword: 400000, mqtt.NotAuthorized: 401002, mqtt.ServerUnavailable: 503000,
	}[code]
	if !ok {
		return answer{}, fmt.Errorf("a CONNECT was answered with %v", code)
	}
	return failed(errorCode, code.String())
}

// failed is the answer to a client that heard no more than a word.
func failed(errorCode int, message string) (answer, error) {
	body, err := json.Marshal(map[string]any{
		"errorCode": errorCode, "message": message, "trackingId": strings.Repeat("0", 36), "timestampUtc": time.Now(),
	})
	return answer{status: errorCode / 1000, body: body}, err
}

// registrations opens a connection to the provisioning service, or has it still.
func (m *mqtts) registrations(c connection) (*mqttClient, answer, error) {
	if m.last != nil && m.said == c {
		return m.last, answer{}, nil
	}
	m.hangUp()
	client, refused, err := m.open(c)
	if client == nil {
		return nil, refused, err
	}
	if err := client.subscribe("$dps/registrations/res/#"); err != nil {
		client.Close()
		return nil, answer{}, err
	}
	if m.said == (connection{}) {
		m.w.env.Defer(m.hangUp)
	}
	m.last, m.said = client, c
	return client, answer{}, nil
}

func (m *mqtts) hangUp() {
	if m.last != nil {
		m.last.Close()
		m.last = nil
	}
}

func (m *mqtts) carry(c call) (answer, error) {
	topic := ""
	switch c.operation {
	case "register":
		topic = "$dps/registrations/PUT/iotdps-register/?$rid="
	case "poll":
		topic = "$dps/registrations/GET/iotdps-get-operationstatus/?operationId=" + url.QueryEscape(c.operationID) + "&$rid="
	default:
		return answer{}, fmt.Errorf("MQTT has no operation %s", c.operation)
	}
	client, refused, err := m.registrations(connection{
		clientID: c.id, username: c.scope + "/registrations/" + url.PathEscape(c.id) + "/api-version=" + url.QueryEscape(c.version),
		password: c.token, certificate: c.certificate,
	})
	if client == nil {
		return refused, err
	}
	a, err := client.call(topic, c.body)
	if err != nil {
		m.hangUp()
	}
	switch {
	case err != nil && len(c.body) > hub.MaxMessageSize+64<<10 && !timedOut(err):
		return failed(400000, "the server hung up on a packet too large")
	case a.status == http.StatusOK && c.operation == "register":
		a.status = http.StatusAccepted // as which the HTTP API answers all that it takes
	}
	return a, err
}

// telemetry goes to the hub of the server, and to one elsewhere by HTTPS.
func (m *mqtts) deliver(d delivery) (answer, error) {
	if m.w.foreign != nil && d.host == m.w.foreign.address {
		return https{m.w}.deliver(d)
	}
	client, refused, err := m.open(connection{
		clientID: d.id, username: d.host + "/" + d.id + "/?api-version=2021-04-12", password: d.token, certificate: d.certificate,
	})
	if client == nil {
		return refused, err
	}
	defer client.Close()
	if err := client.publish("devices/"+d.id+"/messages/events/", []byte(telemetry)); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

// A mqttClient is at the device's end of a connection.
type mqttClient struct {
	net.Conn
	unread []byte
	lastID uint16
}

func (c *mqttClient) send(p mqtt.Packet) error {
	b, err := p.Append(nil)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(mqttTimeout)); err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

func (c *mqttClient) hear() (mqtt.Packet, error) {
	b := make([]byte, 4<<10)
	for {
		first, body, size, err := mqtt.Next(c.unread, 1<<20)
		if err == nil {
			c.unread = c.unread[size:]
			return mqtt.Decode(first, body)
		}
		if !errors.Is(err, mqtt.ErrIncomplete) {
			return nil, err
		}
		n, err := c.Read(b)
		if c.unread = append(c.unread, b[:n]...); n == 0 && err != nil {
			return nil, err
		}
	}
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func (c *mqttClient) subscribe(filter string) error {
	c.lastID++
	if err := c.send(&mqtt.Subscribe{ID: c.lastID, Subscriptions: []mqtt.Subscription{{Filter: filter, QoS: 1}}}); err != nil {
		return err
	}
	p, err := c.hear()
	if err != nil {
		return err
	}
	if s, ok := p.(*mqtt.Suback); !ok || s.ID != c.lastID || !bytes.Equal(s.Codes, []byte{1}) {
		return fmt.Errorf("a SUBSCRIBE was answered with %#v", p)
	}
	return nil
}

// publish sends a message and waits until it is acknowledged.
func (c *mqttClient) publish(topic string, payload []byte) error {
	c.lastID++
	if err := c.send(&mqtt.Publish{QoS: 1, ID: c.lastID, Topic: topic, Payload: payload}); err != nil {
		return err
	}
	p, err := c.hear()
	if err != nil {
		return err
	}
	if a, ok := p.(*mqtt.Puback); !ok || a.ID != c.lastID {
		return fmt.Errorf("a PUBLISH was answered with %#v", p)
	}
	return nil
}

var answerTopic = regexp.MustCompile(`^\$dps/registrations/res/([1-5]\d\d)/\?\$rid=(\d+)(?:&retry-after=(\d+))?$`)

// call publishes to the topic, to which it adds a request ID, and hears the
// answer.
func (c *mqttClient) call(topic string, body []byte) (answer, error) {
	rid := strconv.Itoa(int(c.lastID) + 1)
	if err := c.publish(topic+rid, body); err != nil {
		return answer{}, err
	}
	heard, err := c.hear()
	if err != nil {
		return answer{}, err
	}
	p, ok := heard.(*mqtt.Publish)
	if !ok {
		return answer{}, fmt.Errorf("a call was answered with %#v", heard)
	}
	m := answerTopic.FindStringSubmatch(p.Topic)
	if m == nil || m[2] != rid || p.QoS != 1 {
		return answer{}, fmt.Errorf("the call %s was answered on %s", topic+rid, p.Topic)
	}
	status, err := strconv.Atoi(m[1])
	if err != nil {
		return answer{}, err
	}
	return answer{status, m[3], p.Payload}, c.send(&mqtt.Puback{ID: p.ID})
}

func dialMQTT(w *world, certificate *tls.Certificate) (net.Conn, error) {
	return dialTLS(w.mqtts, w.tls(certificate))
}

func dialTLS(address string, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), mqttTimeout)
	defer cancel()
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
}

// dialWebSocket has a connection upgraded.
func dialWebSocket(w *world, certificate *tls.Certificate) (net.Conn, error) {
	conn, err := dialTLS(w.address, w.tls(certificate))
	if err != nil {
		return nil, err
	}
	c := &webSocket{Conn: conn, buffered: bufio.NewReader(conn)}
	if err := c.upgrade(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// A webSocket is the client's side of a WebSocket, as a stream of bytes.
type webSocket struct {
	net.Conn
	buffered *bufio.Reader
	left     uint64 // of the frame that is being read
}

func (c *webSocket) upgrade() error {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	key := base64.StdEncoding.EncodeToString(nonce)
	if err := c.SetDeadline(time.Now().Add(mqttTimeout)); err != nil {
		return err
	}
	_, err := io.WriteString(c.Conn, "GET /$iothub/websocket HTTP/1.1\r\nHost: "+dpsHost+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: "+key+"\r\n\r\n")
	if err != nil {
		return err
	}
	response, err := http.ReadResponse(c.buffered, nil)
	if err != nil {
		return err
	}
	h := response.Header
	if response.StatusCode != http.StatusSwitchingProtocols || h.Get("Sec-WebSocket-Accept") != websocket.Accept(key) || h.Get("Sec-WebSocket-Protocol") != "mqtt" {
		return fmt.Errorf("the upgrade was answered %s with %v", response.Status, h)
	}
	return nil
}

// Write sends b in two frames, neither of which is an MQTT packet.
func (c *webSocket) Write(b []byte) (int, error) {
	var frames []byte
	for i, part := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		h := websocket.Header{Final: true, Opcode: websocket.Binary, Masked: true, Length: uint64(len(part))}
		if i == 0 {
			h.Final = false
		} else {
			h.Opcode = websocket.Continuation
		}
		rand.Read(h.Mask[:])
		frames = h.Append(frames)
		began := len(frames)
		frames = append(frames, part...)
		websocket.Apply(h.Mask, frames[began:], 0)
	}
	if _, err := c.Conn.Write(frames); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read reads what the server's binary frames carry.
func (c *webSocket) Read(b []byte) (int, error) {
	for c.left == 0 {
		var header []byte
		for {
			h, _, err := websocket.DecodeHeader(header)
			if err == nil {
				if h.Opcode == websocket.Close {
					return 0, io.EOF
				}
				if h.Opcode != websocket.Binary || h.Masked {
					return 0, fmt.Errorf("a frame %+v", h)
				}
				c.left = h.Length
				break
			}
			if !errors.Is(err, websocket.ErrIncomplete) {
				return 0, err
			}
			next, err := c.buffered.ReadByte()
			if err != nil {
				return 0, err
			}
			header = append(header, next)
		}
	}
	n, err := c.buffered.Read(b[:min(uint64(len(b)), c.left)])
	c.left -= uint64(n)
	return n, err
}
