package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/attest/x509id"
)

// reloadInterval is how often the certificate files are looked at. A new one is
// in use after that at the latest.
const reloadInterval = 10 * time.Second

// What a client may present: its certificates are kept, and take several times
// their size, for as long as the connection is open. A chain of four with RSA
// keys of 4096 bits has 8 KiB. Longer ones than those that are looked at are let
// through, so that the operator is told why they are refused.
const (
	maxPresented      = 2 * x509id.MaxChain // certificates
	maxPresentedBytes = 16 << 10            // of DER
)

// certificates are the server's own, read again when their files change.
type certificates struct {
	files   []CertificateFiles // absolute paths
	current atomic.Pointer[tls.Config]
	seen    []time.Time // when the files were last written; watch owns it
}

func loadCertificates(c Config) (*certificates, error) {
	s := &certificates{}
	for _, f := range c.TLS.Certificates {
		s.files = append(s.files, CertificateFiles{c.path(f.Certificate), c.path(f.Key)})
	}
	s.seen = s.written()
	return s, s.load()
}

// config is what the listener works with: each handshake takes the certificates
// of its moment.
func (s *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.Load(), nil },
	}
}

// load reads the files. On an error what was loaded before stays in use.
//
// Every client is asked for a certificate and none is verified: a self-signed
// leaf is legal in an individual enrollment, and the attestation rules judge
// chains with reasons an operator can read. Only a client that presents more
// than anybody needs is refused here.
func (s *certificates) load() error {
	t := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"http/1.1"},

		VerifyPeerCertificate: boundPresented,
	}
	for _, f := range s.files {
		if info, err := os.Stat(f.Key); err == nil && info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("%s can be read by others; run: chmod 600 %s", f.Key, f.Key)
		}
		pair, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			return fmt.Errorf("loading the server certificate %s: %w", f.Certificate, err)
		}
		t.Certificates = append(t.Certificates, pair)
	}
	s.current.Store(t)
	return nil
}

// boundPresented refuses a handshake with too many certificates, or too long
// ones.
func boundPresented(presented [][]byte, _ [][]*x509.Certificate) error {
	size := 0
	for _, c := range presented {
		size += len(c)
	}
	if len(presented) > maxPresented || size > maxPresentedBytes {
		return fmt.Errorf("%d certificates of %d bytes were presented; %d of %d are allowed", len(presented), size, maxPresented, maxPresentedBytes)
	}
	return nil
}

// watch loads the files again when they have changed, until ctx ends. Whoever
// renews a certificate may replace its two files one after the other: a pair
// that does not fit is tried again at the next look.
func (s *certificates) watch(ctx context.Context, logger *slog.Logger) error {
	tick := time.NewTicker(reloadInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.reload(logger)
		}
	}
}

func (s *certificates) reload(logger *slog.Logger) {
	now := s.written()
	if slices.EqualFunc(now, s.seen, time.Time.Equal) {
		return
	}
	if err := s.load(); err != nil {
		logger.Error("server certificate not reloaded", "error", err)
		return
	}
	s.seen = now
	logger.Info("server certificate reloaded", "not_after", s.current.Load().Certificates[0].Leaf.NotAfter)
}

// written returns when each file was last written.
func (s *certificates) written() []time.Time {
	var times []time.Time
	for _, f := range s.files {
		for _, path := range []string{f.Certificate, f.Key} {
			var t time.Time
			if info, err := os.Stat(path); err == nil {
				t = info.ModTime()
			}
			times = append(times, t)
		}
	}
	return times
}

// ListenerTLS is what a server of c listens with, for who measures what is
// above it.
func ListenerTLS(c Config) (*tls.Config, error) {
	s, err := loadCertificates(c)
	if err != nil {
		return nil, err
	}
	return s.config(), nil
}
