package ekcert_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/tpm"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// Where swtpm_setup puts what it makes.
const (
	rsaIndex      tpm2.TPMHandle = 0x01C00002
	eccIndex      tpm2.TPMHandle = 0x01C00016
	platformIndex tpm2.TPMHandle = 0x01C08000
	rsaHandle     tpm2.TPMHandle = 0x81010001 // RSA-2048, template L-1
	eccHandle     tpm2.TPMHandle = 0x81010016 // P-384, template H-3
)

// A manufactured TPM is one that swtpm's tools made with endorsement keys and
// certificates, and the CA that issued those.
type manufactured struct {
	conn          transport.TPM
	root, issuing string // PEM files of the CA
}

// manufacture makes a TPM. Its CA is made for it: all files are in the test's
// directory.
func manufacture(t *testing.T) manufactured {
	t.Helper()
	state := t.TempDir()
	ca, err := swtpm.NewCA(t.TempDir())
	if err == nil {
		err = ca.Manufacture(t.Context(), state)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Not t.Context, which ends before the clean-up closes the connection.
	instance, err := swtpm.Start(context.Background(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { instance.Stop() })
	conn, err := linuxudstpm.Open(strings.TrimPrefix(instance.Address(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return manufactured{conn, ca.Root(), ca.Issuer()}
}

func readPEM(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is no PEM file", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// nv reads a whole NV index with the index's own empty password.
func (m manufactured) nv(t *testing.T, index tpm2.TPMHandle) (content []byte) {
	t.Helper()
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(m.conn)
	if err != nil {
		t.Fatalf("NV index %#x: %v", index, err)
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	const chunk = 512
	for len(content) < int(area.DataSize) {
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       min(chunk, area.DataSize-uint16(len(content))), Offset: uint16(len(content)),
		}.Execute(m.conn)
		if err != nil {
			t.Fatalf("NV index %#x: %v", index, err)
		}
		content = append(content, rsp.Data.Buffer...)
	}
	return content
}

func (m manufactured) public(t *testing.T, handle tpm2.TPMHandle) *tpm.Public {
	t.Helper()
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(m.conn)
	if err != nil {
		t.Fatalf("key %#x: %v", handle, err)
	}
	p, err := tpm.ParsePublic(tpm2.Marshal(rsp.OutPublic))
	if err != nil {
		t.Fatalf("key %#x: %v", handle, err)
	}
	return p
}

// A real TPM's certificates, read from its NV memory, are those of its real keys,
// in an RSA and an ECC world; and a production policy wants none of it.
func TestSwtpm(t *testing.T) {
	m := manufacture(t)
	rsa, ecc := m.public(t, rsaHandle), m.public(t, eccHandle)
	rsaCert, eccCert := parse(t, m.nv(t, rsaIndex)), parse(t, m.nv(t, eccIndex))
	bench := ekcert.Policy{
		TestRoots:     []*x509.Certificate{readPEM(t, m.root)},
		Intermediates: []*x509.Certificate{readPEM(t, m.issuing)},
	}
	careless := ekcert.Policy{Roots: bench.TestRoots, Intermediates: bench.Intermediates}
	production := ekcert.Policy{Roots: []*x509.Certificate{newCA(t, nil, "Root").Certificate}, Intermediates: bench.Intermediates}
	renamed := bench
	renamed.Manufacturers = manufacturers(t, "IFX")
	today := time.Now()

	for _, test := range []struct {
		name    string
		c       *ekcert.Certificate
		ek      *tpm.Public
		policy  ekcert.Policy
		now     time.Time
		refused string // the check that speaks against it, empty if accepted
	}{
		{"RSA", rsaCert, rsa, bench, today, ""},
		{"ECC", eccCert, ecc, bench, today, ""},
		{"RSA in the year 9000", rsaCert, rsa, bench, time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC), ""},
		{"before the TPM was made", rsaCert, rsa, bench, today.AddDate(-1, 0, 0), "validity"},
		{"the RSA certificate for the ECC key", rsaCert, ecc, bench, today, "endorsement key"},
		{"the ECC certificate for the RSA key", eccCert, rsa, bench, today, "endorsement key"},
		{"a policy with other roots", rsaCert, rsa, production, today, "chain"},
		{"its CA among the production roots", rsaCert, rsa, careless, today, "test root"},
		{"a group of another vendor", rsaCert, rsa, renamed, today, "manufacturer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := ekcert.Verify(test.c, test.ek, test.policy, test.now)
			if v.Accepted() != (test.refused == "") {
				t.Fatalf("accepted is %v: %+v", v.Accepted(), v.Findings)
			}
			if test.refused != "" && !slices.ContainsFunc(v.Findings, func(f attest.Finding) bool { return !f.OK && f.Check == test.refused }) {
				t.Errorf("%s does not speak against it: %+v", test.refused, v.Findings)
			}
		})
	}
	if got := rsaCert.Manufacturer.ID() + " " + rsaCert.Model; got != "id:00001014 swtpm" {
		t.Errorf("the certificate describes %s", got)
	}
	if err := careless.Check(); err == nil {
		t.Error("swtpm's root can be pinned for production")
	}
	m.platformCertificateIsNone(t, rsa, bench)
	m.anchors(t)
}

// platformCertificateIsNone holds that the certificate of a platform, which names
// the same TPM and comes from the same CA, is not one of its key.
func (m manufactured) platformCertificateIsNone(t *testing.T, ek *tpm.Public, policy ekcert.Policy) {
	c, err := ekcert.Parse(m.nv(t, platformIndex))
	if err == nil && ekcert.Verify(c, ek, policy, time.Now()).Accepted() {
		t.Error("a platform certificate is accepted")
	}
}

// anchors holds that an importer which meets swtpm's CA learns what it is.
func (m manufactured) anchors(t *testing.T) {
	files := map[string][]byte{}
	for _, file := range []string{m.root, m.issuing} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		files[file] = b
	}
	anchors, skipped, err := ekcert.ParseAnchors(maps.All(files), time.Now())
	if err != nil || len(anchors) != 2 || len(skipped) != 0 {
		t.Fatalf("%d anchors, skipped %v, %v", len(anchors), skipped, err)
	}
	for _, a := range anchors {
		if !a.Test {
			t.Errorf("%s is not known as the CA of a software TPM", a.Source)
		}
	}
}
