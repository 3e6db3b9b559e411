package app

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
)

// The files of a data directory.
const (
	configFile     = "berth.toml"
	databaseFile   = "berth.db"
	sealKeyFile    = "server.key"
	caCertFile     = "ca.pem"
	caKeyFile      = "ca.key"
	serverCertFile = "tls.pem"
	serverKeyFile  = "tls.key"
	serverRSACert  = "tls-rsa.pem"
	serverRSAKey   = "tls-rsa.key"

	// ServiceConnectionFile holds the connection string of the provisioning
	// service's owner policy.
	ServiceConnectionFile = "service.connection"
	// HubConnectionFile holds the connection string of the hub's owner policy.
	HubConnectionFile = "hub.connection"
	// CAFile is the CA that clients need to trust the server.
	CAFile = caCertFile
	// CAKeyFile is its key.
	CAKeyFile = caKeyFile
)

// The names of the policies that init makes, those of the original services.
const (
	serviceOwner = "provisioningserviceowner"
	hubOwner     = "iothubowner"
)

// InitOptions say what a new data directory is for.
type InitOptions struct {
	Data   string   // the directory to make
	Hosts  []string // names of the provisioning service, the public one first
	Hub    string   // host name of the first hub; empty means Hosts[0]
	Listen string   // empty means :443
	RSA    bool     // also make an RSA server certificate, for clients without ECDSA
	Scope  string   // the ID scope; empty means a fresh one

	// PostgresDSNFile is the file with the connection string of the PostgreSQL
	// database to use; empty means a database file in the directory.
	PostgresDSNFile string

	Config func(*Config) // may change the configuration that is written; or nil
}

// Init makes a data directory: the server's key, a CA and a server certificate,
// a database with a scope, a hub and an owner policy for each, and the
// configuration. The directory appears whole or not at all; an existing one is
// an error.
func Init(ctx context.Context, o InitOptions, now time.Time) (err error) {
	if len(o.Hosts) == 0 {
		return errors.New("a server needs a host name: --host NAME")
	}
	if err := refuseExisting(o.Data); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(o.Data)), 0o755); err != nil {
		return err
	}
	half, err := os.MkdirTemp(filepath.Dir(filepath.Clean(o.Data)), ".berth-init-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(half)

	config, err := newConfig(o, half)
	if err != nil {
		return err
	}
	if err := makeCertificates(half, o, now); err != nil {
		return err
	}
	if err := soft.Create(filepath.Join(half, sealKeyFile), rand.Reader); err != nil {
		return err
	}
	if err := makeDatabase(ctx, config, o, half); err != nil {
		return err
	}
	text, err := toml.Marshal(config)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(half, configFile), text, 0o644); err != nil {
		return err
	}
	os.Remove(o.Data) // an empty directory may stand there
	if err := os.Rename(half, o.Data); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(o.Data)))
}

// refuseExisting protects what is there: the keys of a server exist once.
func refuseExisting(data string) error {
	entries, err := os.ReadDir(data)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty; start it with berth serve --data %s, or choose another directory", data, data)
	}
	return nil
}

func newConfig(o InitOptions, data string) (Config, error) {
	c := DefaultConfig()
	c.Data, c.Hosts, c.IDScope = data, o.Hosts, o.Scope
	if o.Listen != "" {
		c.Listen = o.Listen
	}
	c.MQTT.Listen = mqttListen(c.Listen)
	if o.RSA {
		c.TLS.Certificates = append(c.TLS.Certificates, CertificateFiles{serverRSACert, serverRSAKey})
	}
	if o.PostgresDSNFile != "" {
		path, err := filepath.Abs(o.PostgresDSNFile)
		if err != nil {
			return c, err
		}
		c.Store.PostgresDSNFile = path
	}
	if c.IDScope == "" {
		b := make([]byte, 4)
		if _, err := io.ReadFull(rand.Reader, b); err != nil {
			return c, err
		}
		c.IDScope = "0ne" + hex.EncodeToString(b)
	}
	if o.Config != nil {
		o.Config(&c)
	}
	return c, c.Validate()
}

func makeCertificates(dir string, o InitOptions, now time.Time) error {
	ca, err := pki.NewRoot("Berth Server CA", now, rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(dir, caKeyFile), ca.Key); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, caCertFile), pki.EncodeCertificates(ca.Certificate), 0o644); err != nil {
		return err
	}
	names := o.Hosts
	if host := hostOnly(o.Hub); host != "" && host != o.Hosts[0] {
		names = append(names[:len(names):len(names)], host)
	}
	if err := makeServerCertificate(ca, names, nil, now, filepath.Join(dir, serverCertFile), filepath.Join(dir, serverKeyFile)); err != nil {
		return err
	}
	if !o.RSA {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return makeServerCertificate(ca, names, key, now, filepath.Join(dir, serverRSACert), filepath.Join(dir, serverRSAKey))
}

func makeServerCertificate(ca *pki.Issuer, names []string, key crypto.Signer, now time.Time, certFile, keyFile string) error {
	leaf, err := ca.IssueServer(names, key, now, rand.Reader)
	if err != nil {
		return err
	}
	if err := writeKey(keyFile, leaf.Key); err != nil {
		return err
	}
	return writeFile(certFile, pki.EncodeCertificates(append(leaf.Above, leaf.Certificate)...), 0o644)
}

// makeDatabase makes the scope, the first hub and their owner policies, and
// writes the connection strings of both.
func makeDatabase(ctx context.Context, c Config, o InitOptions, dir string) error {
	seal, err := soft.Open(filepath.Join(dir, sealKeyFile))
	if err != nil {
		return err
	}
	db, err := openDatabase(ctx, c, seal)
	if err != nil {
		return err
	}
	defer db.Close()

	scope, err := device.ParseIDScope(c.IDScope)
	if err != nil {
		return err
	}
	port := portSuffix(c.Listen)
	hub := o.Hub
	if hub == "" {
		hub = o.Hosts[0] + port
	}
	if err := db.PutScope(ctx, provision.Scope{ID: scope, Allocation: enroll.Hashed}); err != nil {
		return err
	}
	if err := db.PutLinkedHub(ctx, scope, provision.LinkedHub{Host: hub, Weight: 1, Allocation: true}); err != nil {
		return err
	}
	for _, p := range []struct {
		owner  access.Owner
		name   string
		rights access.Right
		host   string
		file   string
	}{
		{access.ScopeOwner(scope), serviceOwner, access.AllProvisioning, o.Hosts[0] + port, ServiceConnectionFile},
		{access.HubOwner(hostOnly(hub)), hubOwner, access.AllHub, hub, HubConnectionFile},
	} {
		policy, err := access.NewPolicy(p.name, p.rights, rand.Reader)
		if err != nil {
			return err
		}
		if err := db.PutPolicy(ctx, p.owner, policy); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, p.file), []byte(connectionString(p.host, policy)+"\n"), 0o600); err != nil {
			return err
		}
	}
	return db.Close()
}

// connectionString has the form the service SDKs take.
func connectionString(host string, p access.Policy) string {
	return fmt.Sprintf("HostName=%s;SharedAccessKeyName=%s;SharedAccessKey=%s", host, p.Name, p.Primary.Base64())
}

// hostOnly cuts the port off a host.
func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

// portSuffix returns ":port" of a listen address, or nothing for the port that
// SDKs have built in and for one that the system is yet to choose.
func portSuffix(listen string) string {
	_, port, err := net.SplitHostPort(listen)
	if err != nil || port == "443" || port == "0" {
		return ""
	}
	return ":" + port
}

// mqttListen is the address for MQTT beside one for HTTPS: each has the port that
// SDKs have built in, or one that the system chooses, or MQTT has none.
func mqttListen(https string) string {
	host, port, err := net.SplitHostPort(https)
	switch {
	case err != nil:
		return ""
	case port == "443":
		return net.JoinHostPort(host, "8883")
	case port == "0":
		return https
	}
	return ""
}

func writeKey(path string, key crypto.Signer) error {
	b, err := pki.EncodeKey(key)
	if err != nil {
		return err
	}
	return writeFile(path, b, 0o600)
}

// writeFile makes a file and waits until it is on disk.
func writeFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
