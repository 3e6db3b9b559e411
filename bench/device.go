package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/tpm"
	"github.com/berth-iot/berth/tpm/tpmtest"
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/sas"
)

// A visitor is a device as TLS sees it.
type visitor struct {
	certificate *tls.Certificate       // or nil
	sessions    tls.ClientSessionCache // or nil for who forgets them
	resumes     bool                   // whether there is one, and it must be resumed
}

// dial makes a new TLS 1.3 connection. It offers the key exchanges that device
// TLS stacks offer, X25519 and P-256: the hybrid with ML-KEM that Go prefers
// would make every handshake dearer, and provisioning look cheap beside it.
func (p *place) dial(ctx context.Context, v visitor) (*tls.Conn, error) {
	config := &tls.Config{
		ServerName: host, RootCAs: p.roots, MinVersion: tls.VersionTLS13, ClientSessionCache: v.sessions,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}, NextProtos: []string{"http/1.1"},
	}
	if v.certificate != nil {
		config.Certificates = []tls.Certificate{*v.certificate}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(&metered{conn, p}, config)
	c.SetDeadline(time.Now().Add(patience))
	err = c.HandshakeContext(ctx)
	if resumed := c.ConnectionState().DidResume; err == nil && resumed != v.resumes {
		err = fmt.Errorf("a session was resumed: %t, not %t", resumed, v.resumes)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// A metered connection counts the bytes to and from a place.
type metered struct {
	net.Conn
	place *place
}

func (m *metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.place.received.Add(int64(n))
	return n, err
}

func (m *metered) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	m.place.sent.Add(int64(n))
	return n, err
}

// shake is one visit to a server of bare handshakes.
func (p *place) shake(ctx context.Context, v visitor) error {
	c, err := p.dial(ctx, v)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// request is one visit to the server that always says the same, with a request
// like that of a device.
func (p *place) request(ctx context.Context) error {
	c, err := p.call(ctx, "0ne00000000", "device", visitor{})
	if err != nil {
		return err
	}
	defer c.close()
	var operation dpsjson.OperationStatus
	return c.register(c.token(make([]byte, 32)), nil, http.StatusAccepted, &operation)
}

// A caller is a device on a connection.
type caller struct {
	*place
	scope string
	id    string
	conn  *tls.Conn
	in    *bufio.Reader
}

func (p *place) call(ctx context.Context, scope, id string, v visitor) (*caller, error) {
	conn, err := p.dial(ctx, v)
	if err != nil {
		return nil, err
	}
	return &caller{p, scope, id, conn, bufio.NewReader(conn)}, nil
}

func (c *caller) close() { c.conn.Close() }

// register makes the register call of the DPS device REST API, and reads the
// answer into answer if it has the wanted status.
func (c *caller) register(token string, keys *dpsjson.TPMKeys, want int, answer any) error {
	body, err := json.Marshal(dpsjson.DeviceRegistration{RegistrationID: c.id, TPM: keys})
	if err != nil {
		return err
	}
	url := "https://" + c.address + "/" + c.scope + "/registrations/" + c.id + "/register?api-version=2021-06-01"
	request, err := http.NewRequest(http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Host = host
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	if token != "" {
		request.Header.Set("Authorization", token)
	}
	c.conn.SetDeadline(time.Now().Add(patience))
	if err := request.Write(c.conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.in, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != want {
		return fmt.Errorf("status %d, not %d: %s", response.StatusCode, want, text)
	}
	return json.Unmarshal(text, answer)
}

// assigned makes the register call that is to be the last.
func (c *caller) assigned(token string, keys *dpsjson.TPMKeys) (*dpsjson.RegistrationState, error) {
	var operation dpsjson.OperationStatus
	if err := c.register(token, keys, http.StatusAccepted, &operation); err != nil {
		return nil, err
	}
	state := operation.RegistrationState
	if operation.Status != dpsjson.Assigned || state == nil || state.DeviceID != c.id || !strings.HasPrefix(state.AssignedHub, host) {
		return nil, fmt.Errorf("not assigned: %+v", operation)
	}
	return state, nil
}

func (c *caller) token(key []byte) string {
	return sas.Sign(key, sas.DeviceResource(c.scope, c.id), time.Now().Add(time.Hour), "registration")
}

// provisionWithKey is the whole life of a symmetric key device as the server
// sees it.
func (s *server) provisionWithKey(ctx context.Context, id string, key device.SymmetricKey, v visitor) error {
	c, err := s.call(ctx, s.scope, id, v)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.assigned(c.token(key.Bytes()), nil)
	return err
}

// provisionWithCertificate is that of an X.509 device.
func (s *server) provisionWithCertificate(ctx context.Context, id string, v visitor) error {
	c, err := s.call(ctx, s.scope, id, v)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.assigned("", nil)
	return err
}

// presented is what a device shows: its leaf, and the intermediates up to,
// without, the root.
func presented(leaf *pki.Leaf) *tls.Certificate {
	c := &tls.Certificate{Certificate: [][]byte{leaf.Certificate.Raw}, PrivateKey: leaf.Key, Leaf: leaf.Certificate}
	for _, above := range leaf.Above {
		c.Certificate = append(c.Certificate, above.Raw)
	}
	return c
}

// A tpmDevice asks twice: it is challenged, and asks again with a token that
// only its TPM could sign.
type tpmDevice struct {
	*caller
	tpm   *tpmtest.TPM
	blob  []byte // the challenge
	nonce []byte // the key in it
}

func (d *tpmDevice) keys() *dpsjson.TPMKeys {
	return &dpsjson.TPMKeys{EndorsementKey: d.tpm.EndorsementKey, StorageRootKey: d.tpm.StorageRootKey}
}

// challenge is the device's first call. The connection stays open unless hangUp
// is set.
func (s *server) challenge(ctx context.Context, id string, t *tpmtest.TPM, hangUp bool) (*tpmDevice, error) {
	c, err := s.call(ctx, s.scope, id, visitor{})
	if err != nil {
		return nil, err
	}
	d := &tpmDevice{caller: c, tpm: t}
	var challenge dpsjson.Challenge
	err = d.register("", d.keys(), http.StatusUnauthorized, &challenge)
	if err != nil || hangUp {
		d.close()
	}
	d.blob = challenge.AuthenticationKey
	return d, err
}

// solve is the TPM's part.
func (d *tpmDevice) solve() (err error) {
	d.nonce, err = d.tpm.Activate(d.blob)
	return err
}

// answer is the device's second call, on a new connection if it hung up.
func (d *tpmDevice) answer(ctx context.Context, hungUp bool) (err error) {
	if hungUp {
		if d.caller, err = d.call(ctx, d.scope, d.id, visitor{}); err != nil {
			return err
		}
	}
	defer d.close()
	state, err := d.assigned(d.token(d.nonce), d.keys())
	if err != nil {
		return err
	}
	if state.TPM == nil {
		return errors.New("there is no hub key in the answer")
	}
	_, err = tpm.ParseActivation(state.TPM.AuthenticationKey)
	return err
}
