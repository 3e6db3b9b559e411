package tpm2_test

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"os"
	"slices"
	"testing"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
	"github.com/berth-iot/berth/tpm"
)

// A TPM as plants deliver it has the certificate of the very key it shows.
func TestEndorsementCertificate(t *testing.T) {
	ca, err := swtpm.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.Manufacture(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	d := chip(t, dir)
	certificate, chain, err := d.EndorsementCertificate(t.Context())
	if err != nil || chain != nil {
		t.Fatalf("a chain of %d bytes, %v", len(chain), err)
	}
	c, err := ekcert.Parse(certificate)
	if err != nil {
		t.Fatal(err)
	}
	ek, _ := keys(t, d)
	public, err := tpm.ParsePublic(ek)
	if err != nil {
		t.Fatal(err)
	}
	key, err := public.CryptoKey()
	if err != nil {
		t.Fatal(err)
	}
	if certified, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !certified.Equal(key) {
		t.Error("the certificate is for another key")
	}
	nothingLoaded(t, d)
	t.Run("as vendors store it", func(t *testing.T) { storedCertificates(t, certificate, readPEM(t, ca.Issuer()), readPEM(t, ca.Root())) })
}

// storedCertificates puts a certificate into TPMs as vendors do.
func storedCertificates(t *testing.T, certificate, issuer, root []byte) {
	length := []byte{byte(len(certificate) >> 8), byte(len(certificate))}
	for _, c := range []struct {
		name    string
		nv      map[gotpm.TPMHandle][]byte
		chain   []byte
		refused bool
		kind    errs.Kind // of the refusal
	}{
		{name: "plain", nv: map[gotpm.TPMHandle][]byte{0x01c00002: certificate}},
		{name: "in a larger index", nv: map[gotpm.TPMHandle][]byte{0x01c00002: append(slices.Clone(certificate), bytes.Repeat([]byte{0xff}, 300)...)}},
		{name: "behind the old header", nv: map[gotpm.TPMHandle][]byte{0x01c00002: slices.Concat([]byte{0x10, 0x01, 0x00}, length, certificate)}},
		{name: "with its chain", nv: map[gotpm.TPMHandle][]byte{0x01c00002: certificate, 0x01c00101: root, 0x01c00100: issuer, 0x01c00200: root},
			chain: slices.Concat(issuer, root)},
		{name: "none", refused: true, kind: errs.NotFound},
		{name: "something else", nv: map[gotpm.TPMHandle][]byte{0x01c00002: []byte("no certificate")}, refused: true, kind: errs.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := chip(t, t.TempDir())
			for index, content := range c.nv {
				writeNV(t, d, index, content)
			}
			got, chain, err := d.EndorsementCertificate(t.Context())
			if c.refused {
				if err == nil || errs.KindOf(err) != c.kind {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil || !bytes.Equal(got, certificate) || !bytes.Equal(chain, c.chain) {
				t.Errorf("a certificate of %d bytes and a chain of %d, %v; want %d and %d", len(got), len(chain), err, len(certificate), len(c.chain))
			}
			if _, err := ekcert.ParseChain(chain); err != nil {
				t.Error(err)
			}
			nothingLoaded(t, d)
		})
	}
}

func readPEM(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s is no PEM file", file)
	}
	return block.Bytes
}
