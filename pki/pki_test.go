package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestAHierarchyVerifies(t *testing.T) {
	root, err := NewRoot("Test Root", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	line, err := root.NewIntermediate("Test Line", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	device, err := line.IssueDevice("dev-1", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	server, err := root.IssueServer([]string{"dps.example", "127.0.0.1"}, nil, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	roots, above := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.Certificate)
	for _, c := range device.Above {
		above.AddCert(c)
	}
	for name, c := range map[string]struct {
		leaf *x509.Certificate
		opts x509.VerifyOptions
		ok   bool
	}{
		"device as client":          {device.Certificate, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true},
		"device as server":          {device.Certificate, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, false},
		"server by name":            {server.Certificate, x509.VerifyOptions{DNSName: "dps.example"}, true},
		"server by address":         {server.Certificate, x509.VerifyOptions{DNSName: "127.0.0.1"}, true},
		"server by another name":    {server.Certificate, x509.VerifyOptions{DNSName: "hub.example"}, false},
		"device after its lifetime": {device.Certificate, x509.VerifyOptions{CurrentTime: now.Add(LeafLifetime + time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, false},
	} {
		c.opts.Roots, c.opts.Intermediates = roots, above
		if c.opts.CurrentTime.IsZero() {
			c.opts.CurrentTime = now
		}
		if _, err := c.leaf.Verify(c.opts); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}

	proof, err := line.ProvePossession("C0DE", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.CheckSignatureFrom(line.Certificate); err != nil || proof.Subject.CommonName != "C0DE" || proof.IsCA || proof.NotAfter.Sub(now) > 24*time.Hour {
		t.Errorf("a proof: %v, %+v", err, proof)
	}

	below, err := line.NewIntermediate("Below", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	deep, err := below.IssueDevice("dev-1", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range deep.Above {
		above.AddCert(c)
	}
	if _, err := deep.Certificate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("an intermediate issued another one")
	}
}

func TestKeysAndCertificatesSurviveTheirFiles(t *testing.T) {
	leaf, err := SelfSigned("dev-1", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := EncodeKey(leaf.Key)
	if err != nil {
		t.Fatal(err)
	}
	both := append(EncodeCertificates(leaf.Certificate), keyPEM...)
	cs, err := ParseCertificates(both)
	if err != nil || len(cs) != 1 || !cs[0].Equal(leaf.Certificate) {
		t.Errorf("certificates: %v, %v", cs, err)
	}
	key, err := ParseKey(both)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := EncodeKey(key)
	if !bytes.Equal(again, keyPEM) {
		t.Error("another key was read")
	}
}

func TestRefusals(t *testing.T) {
	if _, err := ParseCertificates([]byte("no PEM")); err == nil {
		t.Error("certificates were read from nothing")
	}
	broken := []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
	if _, err := ParseKey(broken); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("a broken key: %v", err)
	}
	if _, err := SelfSigned(strings.Repeat("x", 65), now, rand.Reader); err == nil {
		t.Error("a common name of 65 characters was issued")
	}
	root, err := NewRoot("Test Root", now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.IssueServer(nil, nil, now, rand.Reader); err == nil {
		t.Error("a server without a name got a certificate")
	}
}
