package app

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/sqlite"
)

// RenewOptions say how to renew the certificates of a server.
type RenewOptions struct {
	Data  string // the data directory
	CAKey string // file of the CA's key; empty means the one in the data directory
}

// A Renewal is what was renewed.
type Renewal struct {
	Certificates []string  `json:"certificates"` // files
	Names        []string  `json:"names"`        // that they have now
	NotAfter     time.Time `json:"notAfter"`
}

// Renew issues the certificates of a server anew, with the names of all its scopes
// and hubs, if its own CA made them. Each keeps its key, and its file is replaced
// whole; a server that runs takes it without a restart.
func Renew(ctx context.Context, o RenewOptions, now time.Time) (*Renewal, error) {
	config, err := LoadConfig(o.Data)
	if err != nil {
		return nil, err
	}
	ca, err := openCA(config, o.CAKey)
	if err != nil {
		return nil, err
	}
	names, err := serverNames(ctx, config)
	if err != nil {
		return nil, err
	}
	done := &Renewal{Names: names}
	for _, f := range config.TLS.Certificates {
		file := config.path(f.Certificate)
		if err := renewOne(ca, names, file, config.path(f.Key), done, now); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return done, nil
}

// openCA loads the CA that init made.
func openCA(c Config, keyFile string) (*pki.Issuer, error) {
	if keyFile == "" {
		keyFile = c.path(caKeyFile)
	}
	key, err := os.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it is the key of the server's CA; where it was put aside, name it with --ca-key, and where the certificates are another CA's, have that make them", err)
	}
	if err != nil {
		return nil, err
	}
	ca := &pki.Issuer{}
	if ca.Key, err = pki.ParseKey(key); err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	text, err := os.ReadFile(c.path(caCertFile))
	if err != nil {
		return nil, err
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path(caCertFile), err)
	}
	for _, certificate := range chain {
		if public, ok := certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(ca.Key.Public()) {
			ca.Certificate = certificate
			return ca, nil
		}
	}
	return nil, fmt.Errorf("%s is not the key of %s", keyFile, c.path(caCertFile))
}

// serverNames returns every name that the server answers to: those of the
// configuration, of the scopes, and of the hubs that are not elsewhere.
func serverNames(ctx context.Context, c Config) ([]string, error) {
	var names []string
	add := func(hosts ...string) {
		for _, h := range hosts {
			if h = hub.HostName(h); !slices.Contains(names, h) {
				names = append(names, h)
			}
		}
	}
	add(c.Hosts...)
	err := eachTenancy(ctx, c, func(s provision.Scope, linked []provision.LinkedHub) {
		add(s.Hosts...)
		for _, h := range linked {
			if h.Connection == nil {
				add(h.Host)
			}
		}
	})
	return names, err
}

// eachTenancy reads the scopes and their hubs, beside a server that may run.
func eachTenancy(ctx context.Context, c Config, use func(provision.Scope, []provision.LinkedHub)) error {
	if c.Store.PostgresDSNFile == "" {
		snapshot, err := sqlite.OpenSnapshot(c.path(databaseFile))
		if err != nil {
			return err
		}
		defer snapshot.Close()
		scopes, err := snapshot.ListScopes()
		if err != nil {
			return err
		}
		return useEach(scopes, snapshot.Linked, use)
	}
	key, err := soft.Open(c.path(sealKeyFile))
	if err != nil {
		return err
	}
	db, err := openDatabase(ctx, c, key)
	if err != nil {
		return err
	}
	defer db.Close()
	scopes, err := db.ListScopes(ctx)
	if err != nil {
		return err
	}
	return useEach(scopes, func(id device.IDScope) ([]provision.LinkedHub, error) { return db.Linked(ctx, id) }, use)
}

func useEach(scopes []provision.Scope, linked func(device.IDScope) ([]provision.LinkedHub, error), use func(provision.Scope, []provision.LinkedHub)) error {
	for _, s := range scopes {
		hubs, err := linked(s.ID)
		if err != nil {
			return err
		}
		use(s, hubs)
	}
	return nil
}

// renewOne replaces one certificate.
func renewOne(ca *pki.Issuer, names []string, certFile, keyFile string, done *Renewal, now time.Time) error {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	if err := pair.Leaf.CheckSignatureFrom(ca.Certificate); err != nil {
		return fmt.Errorf("another CA than %s made it: %w", caCertFile, err)
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		return err
	}
	leaf, err := ca.IssueServer(names, key, now, rand.Reader)
	if err != nil {
		return err
	}
	half := certFile + ".new"
	os.Remove(half) // of an attempt that was cut off
	if err := writeFile(half, pki.EncodeCertificates(append([]*x509.Certificate{leaf.Certificate}, leaf.Above...)...), 0o644); err != nil {
		return err
	}
	if err := os.Rename(half, certFile); err != nil {
		return err
	}
	done.Certificates, done.NotAfter = append(done.Certificates, certFile), leaf.Certificate.NotAfter
	return syncDir(filepath.Dir(certFile))
}
