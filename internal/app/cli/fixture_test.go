package cli

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/pki"
)

// startServer runs a real server whose data directory is data. stop ends it and
// returns what it ended with.
func startServer(data string) (config app.Config, stop func() error, err error) {
	if config, err = devConfig(context.Background(), data, "127.0.0.1:0"); err != nil {
		return config, nil, err
	}
	server, err := app.Open(context.Background(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return config, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	return config, func() error { cancel(); return <-done }, nil
}

// startPeer runs another server, one that plays Azure, and writes how to reach it
// into files.
func startPeer(data, connection, ca string) (stop func() error, err error) {
	_, stop, err = startServer(data)
	if err != nil {
		return nil, err
	}
	for from, to := range map[string]string{app.ServiceConnectionFile: connection, app.CAFile: ca} {
		b, err := os.ReadFile(filepath.Join(data, from))
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			return nil, errors.Join(err, stop())
		}
	}
	return stop, nil
}

// writeCertificates puts the files into dir that scripts and examples name: a
// CA, chains below it, and certificates that are their own issuers.
//
//	ca.pem, ca.key            a root CA
//	next-ca.pem, next-ca.key  another one
//	chain.pem, chain.key      unit-1's certificate and the intermediate below that CA
//	leaf.pem, leaf.key        leaf-1's self-signed certificate
//	next.pem, next.key        another one of leaf-1
//	expired.pem, expired.key  expired-1's, of three years ago
//	vendor.pem                a root of a TPM vendor
//	swtpm.pem                 one with the name of swtpm's CA, and
//	swtpm-issuer.pem          the intermediate below it
func writeCertificates(dir string) error {
	now := time.Now()
	root, err := pki.NewRoot("Plant CA", now, rand.Reader)
	if err != nil {
		return err
	}
	below, err := root.NewIntermediate("Plant line 1", now, rand.Reader)
	if err != nil {
		return err
	}
	unit, err := below.IssueDevice("unit-1", now, rand.Reader)
	if err != nil {
		return err
	}
	if err := writeLeaf(dir, "ca", &pki.Leaf{Certificate: root.Certificate, Key: root.Key}); err != nil {
		return err
	}
	if err := writeLeaf(dir, "chain", unit); err != nil {
		return err
	}
	next, err := pki.NewRoot("Plant CA 2", now, rand.Reader)
	if err != nil {
		return err
	}
	if err := writeLeaf(dir, "next-ca", &pki.Leaf{Certificate: next.Certificate, Key: next.Key}); err != nil {
		return err
	}
	vendor, err := pki.NewRoot("Vendor TPM Root", now, rand.Reader)
	if err != nil {
		return err
	}
	swtpm, err := pki.NewRoot("swtpm-localca-rootca", now, rand.Reader)
	if err != nil {
		return err
	}
	issuer, err := swtpm.NewIntermediate("swtpm-localca", now, rand.Reader)
	if err != nil {
		return err
	}
	for name, ca := range map[string]*pki.Issuer{"vendor": vendor, "swtpm": swtpm, "swtpm-issuer": issuer} {
		if err := os.WriteFile(filepath.Join(dir, name+".pem"), pki.EncodeCertificates(ca.Certificate), 0o644); err != nil {
			return err
		}
	}
	for name, of := range map[string]struct {
		id   string
		made time.Time
	}{
		"leaf":    {"leaf-1", now},
		"next":    {"leaf-1", now},
		"expired": {"expired-1", now.AddDate(-3, 0, 0)},
	} {
		leaf, err := pki.SelfSigned(of.id, of.made, rand.Reader)
		if err != nil {
			return err
		}
		if err := writeLeaf(dir, name, leaf); err != nil {
			return err
		}
	}
	return nil
}

func writeLeaf(dir, name string, leaf *pki.Leaf) error {
	key, err := pki.EncodeKey(leaf.Key)
	if err != nil {
		return err
	}
	chain := pki.EncodeCertificates(append([]*x509.Certificate{leaf.Certificate}, leaf.Above...)...)
	if err := os.WriteFile(filepath.Join(dir, name+".pem"), chain, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".key"), key, 0o600)
}

// writeEndorsementKey puts the endorsement key of a TPM into a file, as the
// factory hands it to the operator.
func writeEndorsementKey(address, file string) error {
	ctx := context.Background()
	chip, err := tpm2.Open(ctx, address)
	if err != nil {
		return err
	}
	defer chip.Close()
	ek, err := chip.EndorsementKey(ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(base64Text(ek)+"\n"), 0o644)
}
