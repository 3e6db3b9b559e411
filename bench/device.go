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
	"github.com/berth-iot/berth/wire/dpsjson"
	"github.com/berth-iot/berth/wire/sas"
)

// dial makes a new TLS 1.3 connection to address. It offers the key exchanges
// that device TLS stacks offer, X25519 and P-256: the hybrid with ML-KEM that
// Go prefers would make every handshake dearer, and provisioning look cheap
// beside it. Nothing remembers sessions, so none is resumed.
func (s *server) dial(ctx context.Context, address string, certificate *tls.Certificate) (*tls.Conn, error) {
	config := &tls.Config{
		ServerName: host, RootCAs: s.roots, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}, NextProtos: []string{"http/1.1"},
	}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(conn, config)
	c.SetDeadline(time.Now().Add(patience))
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// shake is one visit to a server of bare handshakes.
func (s *server) shake(ctx context.Context, address string, certificate *tls.Certificate) error {
	c, err := s.dial(ctx, address, certificate)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// request is one visit to the server that always says the same, with a request
// like that of a device.
func (s *server) request(ctx context.Context, address string) error {
	c, err := s.call(ctx, address, "device", nil)
	if err != nil {
		return err
	}
	defer c.close()
	var operation dpsjson.OperationStatus
	return c.register(c.token(make([]byte, 32)), nil, http.StatusAccepted, &operation)
}

// A caller is a device on a connection to the server.
type caller struct {
	*server
	id   string
	conn *tls.Conn
	in   *bufio.Reader
}

func (s *server) call(ctx context.Context, address, id string, certificate *tls.Certificate) (*caller, error) {
	conn, err := s.dial(ctx, address, certificate)
	if err != nil {
		return nil, err
	}
	return &caller{s, id, conn, bufio.NewReader(conn)}, nil
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
func (s *server) provisionWithKey(ctx context.Context, id string, key device.SymmetricKey) error {
	c, err := s.call(ctx, s.address, id, nil)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.assigned(c.token(key.Bytes()), nil)
	return err
}

// provisionWithCertificate is that of an X.509 device.
func (s *server) provisionWithCertificate(ctx context.Context, id string, leaf *pki.Leaf) error {
	c, err := s.call(ctx, s.address, id, presented(leaf))
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
	tpm   *softTPM
	blob  []byte // the challenge
	nonce []byte // the key in it
}

func (d *tpmDevice) keys() *dpsjson.TPMKeys {
	return &dpsjson.TPMKeys{EndorsementKey: d.tpm.ekPublic, StorageRootKey: d.tpm.srkPublic}
}

// challenge is the device's first call. The connection stays open unless hangUp
// is set.
func (s *server) challenge(ctx context.Context, id string, t *softTPM, hangUp bool) (*tpmDevice, error) {
	c, err := s.call(ctx, s.address, id, nil)
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
	d.nonce, err = d.tpm.activate(d.blob)
	return err
}

// answer is the device's second call, on a new connection if it hung up.
func (d *tpmDevice) answer(ctx context.Context, hungUp bool) (err error) {
	if hungUp {
		if d.caller, err = d.call(ctx, d.address, d.id, nil); err != nil {
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
