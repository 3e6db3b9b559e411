package app

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/pki"
)

// A renewed certificate is in use for the next handshake, without a restart;
// half a renewal changes nothing.
func TestCertificatesAreReloaded(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewRoot("Test CA", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key")
	when := time.Now()
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		when = when.Add(time.Minute) // file systems count time coarsely
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	renew := func(name string) (certificate, privateKey []byte) {
		t.Helper()
		leaf, err := ca.IssueServer([]string{name}, nil, time.Now(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keyPEM, err := pki.EncodeKey(leaf.Key)
		if err != nil {
			t.Fatal(err)
		}
		return pki.EncodeCertificates(leaf.Certificate), keyPEM
	}
	oldCert, oldKey := renew("old.example")
	write(cert, oldCert)
	write(key, oldKey)
	s, err := loadCertificates(Config{TLS: TLSConfig{Certificates: []CertificateFiles{{cert, key}}}})
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	served := func() string {
		t.Helper()
		l, err := tls.Listen("tcp", "127.0.0.1:0", s.config())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				c.(*tls.Conn).Handshake()
				c.Close()
			}
		}()
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: roots, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].DNSNames[0]
	}

	if name := served(); name != "old.example" {
		t.Errorf("at first: %s", name)
	}
	newCert, newKey := renew("new.example")
	write(cert, newCert)
	s.reload(quiet)
	if name := served(); name != "old.example" {
		t.Errorf("after half a renewal: %s", name)
	}
	write(key, newKey)
	s.reload(quiet)
	if name := served(); name != "new.example" {
		t.Errorf("after the renewal: %s", name)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.load(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
}
