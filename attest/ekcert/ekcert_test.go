package ekcert_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest/ekcert"
)

// Every shape in which vendors write down what a TPM is says the same to us, and
// every one verifies.
func TestShapes(t *testing.T) {
	root := newCA(t, nil, "Root")
	rsa, ecc := newRSA(), newECC(t)
	name := tpmName("id:4E544300", "NPCT75x", "id:00070002", asn1.TagUTF8String)
	printable := tpmName("id:4E544300", "NPCT75x", "id:00070002", asn1.TagPrintableString)
	other := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a, 0x03}} // a registeredID
	var directory []asn1.RawValue
	if _, err := asn1.Unmarshal(sanOf(separate(name...)), &directory); err != nil {
		t.Fatal(err)
	}

	shapes := map[string][]byte{
		"three relative names":      root.issue(t, rsa, shape{san: sanOf(separate(name...))}),
		"one relative name":         root.issue(t, rsa, shape{san: sanOf(together(name...))}),
		"another order":             root.issue(t, rsa, shape{san: sanOf(separate(name[2], name[0], name[1]))}),
		"PrintableString":           root.issue(t, rsa, shape{san: sanOf(separate(printable...))}),
		"PrintableString, together": root.issue(t, rsa, shape{san: sanOf(together(printable...))}),
		"lower-case digits":         root.issue(t, rsa, shape{san: sanOf(separate(tpmName("id:4e544300", "NPCT75x", "id:00070002", asn1.TagUTF8String)...))}),
		"other names beside it":     root.issue(t, rsa, shape{san: generalNames(other, directory[0])}),
		"other attributes beside":   root.issue(t, rsa, shape{san: sanOf(separate(append(name, attributeOf(99, "?", asn1.TagOctetString))...))}),
		"not critical":              root.issue(t, rsa, shape{san: sanOf(separate(name...)), sanFalse: true, subject: pkix.Name{CommonName: "TPM"}}),
		"ECC":                       root.issue(t, ecc, shape{san: sanOf(together(name...))}),
		"no basic constraints": root.issue(t, rsa, shape{san: sanOf(together(name...)), change: func(c *x509.Certificate) {
			c.BasicConstraintsValid = false
		}}),
	}
	shapes["RSAES-OAEP"] = root.asOAEP(t, shapes["three relative names"])
	for name, der := range shapes {
		t.Run(name, func(t *testing.T) {
			c := parse(t, der)
			if c.Manufacturer.ID() != "id:4E544300" || c.Manufacturer.String() != "NTC" || c.Model != "NPCT75x" || c.Firmware != "id:00070002" {
				t.Errorf("it says manufacturer %s (%v), model %q, firmware %q", c.Manufacturer.ID(), c.Manufacturer, c.Model, c.Firmware)
			}
			ek := rsa
			switch name {
			case "ECC":
				ek = ecc
			case "RSAES-OAEP":
				if c.X509.PublicKey != nil {
					t.Fatal("crypto/x509 reads the key: it is not an RSAES-OAEP key")
				}
			}
			v := ekcert.Verify(c, ek, ekcert.Policy{Roots: []*x509.Certificate{root.Certificate}}, now)
			if !v.Accepted() {
				t.Errorf("refused: %+v", v.Findings)
			}
		})
	}
}

// The same certificate is read out of everything that may stand around it.
func TestWrappings(t *testing.T) {
	root := newCA(t, nil, "Root")
	der := root.issue(t, newRSA(), shape{})
	header := func(parts ...[]byte) []byte {
		b := slices.Concat(parts...)
		return append(binary.BigEndian.AppendUint16([]byte{0x10, 0x01, 0x00}, uint16(len(b))), b...)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	std, url := base64.StdEncoding.EncodeToString(der), base64.RawURLEncoding.EncodeToString(der)

	for name, b := range map[string][]byte{
		"bare":                     der,
		"zeros behind it":          append(slices.Clone(der), make([]byte, 300)...),
		"ones behind it":           append(slices.Clone(der), bytes.Repeat([]byte{0xff}, 300)...),
		"PC Client header":         header(der),
		"PC Client header and tag": header([]byte{0x10, 0x02}, der),
		"header, padded inside":    header(der, make([]byte, 20)),
		"header, padded outside":   append(header(der), make([]byte, 20)...),
	} {
		t.Run(name, func(t *testing.T) {
			if c := parse(t, b); !bytes.Equal(c.X509.Raw, der) {
				t.Error("it is another certificate")
			}
			if c, err := ekcert.ParseFile(b); err != nil || !bytes.Equal(c.X509.Raw, der) {
				t.Errorf("as a file: %v", err)
			}
			if c, err := ekcert.ParseFile([]byte(base64.StdEncoding.EncodeToString(b))); err != nil || !bytes.Equal(c.X509.Raw, der) {
				t.Errorf("in base64: %v", err)
			}
		})
	}
	for name, text := range map[string]string{
		"PEM":                 string(block),
		"PEM below a comment": "Subject: TPM\n" + string(block),
		"base64":              std,
		"base64url":           url,
		"base64 in lines":     "\n" + std[:64] + "\r\n" + std[64:] + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ekcert.ParseFile([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(c.X509.Raw, der) || len(c.Chain) != 0 {
				t.Error("it is another certificate")
			}
		})
	}
	t.Run("PEM with its chain", func(t *testing.T) {
		chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
		c, err := ekcert.ParseFile(slices.Concat(block, chain))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.X509.Raw, der) || len(c.Chain) != 1 || !c.Chain[0].Equal(root.Certificate) {
			t.Errorf("it has a chain of %d", len(c.Chain))
		}
	})
	t.Run("what is read is a copy", func(t *testing.T) {
		b := slices.Clone(der)
		c := parse(t, b)
		clear(b)
		if !bytes.Equal(c.X509.Raw, der) {
			t.Error("the certificate changed with the bytes it was read from")
		}
	})
}

func TestParseRefuses(t *testing.T) {
	root := newCA(t, nil, "Root")
	ek := newRSA()
	der := root.issue(t, ek, shape{})
	san := func(as ...attribute) []byte { return root.issue(t, ek, shape{san: sanOf(separate(as...))}) }
	utf8 := asn1.TagUTF8String
	m, model, version := attributeOf(1, "id:494E5443", utf8), attributeOf(2, "ADL", utf8), attributeOf(3, "id:01", utf8)

	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "not a DER SEQUENCE"},
		{"rubbish", []byte("certificate"), "not a DER SEQUENCE"},
		{"cut off", der[:len(der)-1], "not a whole DER SEQUENCE"},
		{"only the head", der[:3], "not a whole DER SEQUENCE"},
		{"too large", append(slices.Clone(der), make([]byte, ekcert.MaxSize)...), "more than 8192"},
		{"an empty SEQUENCE", []byte{0x30, 0x00}, "x509: malformed"},
		{"header without length", []byte{0x10, 0x01, 0x00, 0x01}, "the header names more bytes"},
		{"header that lies", append([]byte{0x10, 0x01, 0x00, 0x40, 0x00}, der...), "the header names more bytes"},
		{"header that cuts", append([]byte{0x10, 0x01, 0x00, 0x00, 0x20}, der...), "not a whole DER SEQUENCE"},
		{"partial certificate", append([]byte{0x10, 0x01, 0x01, 0x00, 0x20}, der...), "not a DER SEQUENCE"},
		{"manufacturer without id:", san(attributeOf(1, "INTC", utf8), model, version), "not id: and eight"},
		{"manufacturer too short", san(attributeOf(1, "id:494E54", utf8), model, version), "not id: and eight"},
		{"manufacturer too long", san(attributeOf(1, "id:494E544300", utf8), model, version), "not id: and eight"},
		{"manufacturer not hexadecimal", san(attributeOf(1, "id:494E544G", utf8), model, version), "not id: and eight"},
		{"manufacturer twice", san(m, model, version, m), "there twice"},
		{"model twice", san(m, model, version, model), "there twice"},
		{"version twice", san(m, model, version, attributeOf(3, "id:FF", utf8)), "there twice"},
		{"manufacturer as a number", san(attributeOf(1, "id:494E5443", asn1.TagInteger), model), "neither a UTF8String nor"},
		{"model with a line break", san(m, attributeOf(2, "ADL\nOK", utf8), version), "not a short printable text"},
		{"model not UTF-8", san(m, attributeOf(2, "AD\xff", utf8), version), "not a short printable text"},
		{"model without end", san(m, attributeOf(2, strings.Repeat("A", 300), utf8), version), "not a short printable text"},
		{"directoryName is no name", root.issue(t, ek, shape{san: generalNames(asn1.RawValue{
			Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x02, 0x01, 0x00}})}), "directoryName cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := ekcert.Parse(test.b)
			if err == nil {
				t.Fatalf("accepted: %v, %q, %q", c.Manufacturer, c.Model, c.Firmware)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %q, want one with %q", err, test.want)
			}
		})
	}
}

func TestParseFileRefuses(t *testing.T) {
	root := newCA(t, nil, "Root")
	block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.issue(t, newRSA(), shape{})}))
	for name, text := range map[string]string{
		"nothing":            "",
		"rubbish":            "no certificate!",
		"base64 of rubbish":  "bm8gY2VydGlmaWNhdGU=",
		"PEM of a key":       string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{0x30, 0}})),
		"PEM without end":    "-----BEGIN CERTIFICATE-----\nMIIB",
		"PEM of rubbish":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
		"chain of rubbish":   block + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
		"chain without end":  strings.Repeat(block, ekcert.MaxChain+2),
		"more than a folder": strings.Repeat("A", 1<<20),
	} {
		if c, err := ekcert.ParseFile([]byte(text)); err == nil {
			t.Errorf("%s: accepted as the certificate of %v", name, c.Manufacturer)
		}
	}
}

func TestParseChain(t *testing.T) {
	root := newCA(t, nil, "On-die root")
	rom := newCA(t, root, "ROM")
	two := slices.Concat(rom.Raw, root.Raw)
	for name, test := range map[string]struct {
		b    []byte
		want int // -1 is an error
	}{
		"nothing":          {nil, 0},
		"an unused index":  {make([]byte, 64), 0},
		"never written":    {bytes.Repeat([]byte{0xff}, 64), 0},
		"one":              {rom.Raw, 1},
		"two":              {two, 2},
		"two, then zeros":  {append(slices.Clone(two), make([]byte, 40)...), 2},
		"two, then ones":   {append(slices.Clone(two), bytes.Repeat([]byte{0xff}, 40)...), 2},
		"two, then a rest": {append(slices.Clone(two), 1, 2, 3), -1},
		"cut off":          {two[:len(two)-1], -1},
		"zeros first":      {append(make([]byte, 4), two...), -1},
		"too many":         {bytes.Repeat(rom.Raw, ekcert.MaxChain+1), -1},
	} {
		chain, err := ekcert.ParseChain(test.b)
		if err == nil && test.want < 0 || err != nil && test.want >= 0 || len(chain) != max(test.want, 0) {
			t.Errorf("%s: %d certificates, %v", name, len(chain), err)
		}
	}
}

func TestManufacturer(t *testing.T) {
	for in, want := range map[string]string{
		"id:494E5443": "INTC", "INTC": "INTC", "id:53544d20": "STM", "STM": "STM", "STM ": "STM",
		"id:49465800": "IFX", "id:00001014": "id:00001014", "id:00000000": "id:00000000",
	} {
		m, err := ekcert.ParseManufacturer(in)
		if err != nil || m.String() != want {
			t.Errorf("%q is %v, %v; want %s", in, m, err, want)
		}
		if again, err := ekcert.ParseManufacturer(m.ID()); err != nil || again != m {
			t.Errorf("%q read again is %v, %v", m.ID(), again, err)
		}
	}
	for _, in := range []string{"", "INTEL", "id:", "id:494E", "id:494E5443FF", "id:xyzw0000", "A\x00", "é"} {
		if m, err := ekcert.ParseManufacturer(in); err == nil {
			t.Errorf("%q is accepted as %v", in, m)
		}
	}
	padded, _ := ekcert.ParseManufacturer("id:53544D20")
	short, _ := ekcert.ParseManufacturer("STM")
	other, _ := ekcert.ParseManufacturer("STN")
	if !padded.Is(short) || !short.Is(padded) || padded.Is(other) {
		t.Error("padding decides who a vendor is")
	}
}

func TestFirmware(t *testing.T) {
	for _, test := range []struct {
		a, b  ekcert.Firmware
		order int
		ok    bool
	}{
		{"id:0700003F", "id:0700003f", 0, true},
		{"id:0700003E", "id:0700003F", -1, true},
		{"id:07000040", "id:0700003F", 1, true},
		{"id:0F", "id:10", -1, true},
		{"id:10", "id:0F", 1, true},
		{"id:0700", "id:07000000", 0, false},
		{"7.63", "7.63", 0, false},
		{"id:7.63", "id:7.63", 0, false},
		{"", "id:01", 0, false},
		{"id:01", "", 0, false},
		{"id:", "id:", 0, false},
	} {
		if order, ok := test.a.Compare(test.b); order != test.order || ok != test.ok {
			t.Errorf("%q against %q is %d, %v; want %d, %v", test.a, test.b, order, ok, test.order, test.ok)
		}
	}
	if f, err := ekcert.ParseFirmware("id:0700003f"); err != nil || f != "id:0700003F" {
		t.Errorf("%q, %v", f, err)
	}
	for _, in := range []string{"", "7.63", "id:", "id:7.63", "07"} {
		if f, err := ekcert.ParseFirmware(in); err == nil {
			t.Errorf("%q is accepted as %q", in, f)
		}
	}
}

// What is accepted is read the same when it comes again without its wrapping.
func FuzzParse(f *testing.F) {
	root := newCA(f, nil, "Root")
	rsa := newRSA()
	plain := root.issue(f, rsa, shape{})
	f.Add(plain)
	f.Add(root.asOAEP(f, plain))
	f.Add(root.issue(f, newECC(f), shape{san: sanOf(together(tpmName("id:4e544300", "NPCT75x", "id:1", asn1.TagPrintableString)...))}))
	f.Add(append([]byte{0x10, 0x01, 0x00, byte(len(plain) >> 8), byte(len(plain))}, plain...))
	f.Add(append(slices.Clone(plain), 0, 0, 0))
	f.Add([]byte(base64.StdEncoding.EncodeToString(plain)))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: plain}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ekcert.ParseChain(b)
		c, err := ekcert.ParseFile(b)
		if err != nil {
			return
		}
		ekcert.Verify(c, rsa, ekcert.Policy{Roots: []*x509.Certificate{root.Certificate}}, now)
		again, err := ekcert.Parse(c.X509.Raw)
		if err != nil {
			t.Fatalf("unwrapped it is refused: %v", err)
		}
		if again.Manufacturer != c.Manufacturer || again.Model != c.Model || again.Firmware != c.Firmware {
			t.Errorf("unwrapped it says %v %q %q, wrapped %v %q %q",
				again.Manufacturer, again.Model, again.Firmware, c.Manufacturer, c.Model, c.Firmware)
		}
	})
}
