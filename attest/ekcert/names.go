package ekcert

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Manufacturer is the four-byte vendor ID of the TCG Vendor ID Registry, the
// one TPM_PT_MANUFACTURER tells: text, filled up with zeros or spaces.
type Manufacturer [4]byte

// ParseManufacturer reads a vendor ID: "id:" and eight hexadecimal digits, as
// certificates write it, or one to four characters, as people do.
func ParseManufacturer(s string) (Manufacturer, error) {
	var m Manufacturer
	digits, isHex := strings.CutPrefix(s, "id:")
	if !isHex {
		if s == "" || len(s) > len(m) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return m, fmt.Errorf("TPM manufacturer %q: neither id: and eight hexadecimal digits nor one to four characters", s)
		}
		copy(m[:], s)
		return m, nil
	}
	if b, err := hex.DecodeString(digits); err != nil || copy(m[:], b) != len(m) || len(b) != len(m) {
		return Manufacturer{}, fmt.Errorf("TPM manufacturer %q: not id: and eight hexadecimal digits", s)
	}
	return m, nil
}

// ID returns m as certificates write it: "id:494E5443".
func (m Manufacturer) ID() string { return fmt.Sprintf("id:%X", m[:]) }

// String returns the text of m, "INTC" or "STM", or ID where it is not text.
func (m Manufacturer) String() string {
	text := m.text()
	for _, c := range text {
		if c < ' ' || c > '~' {
			return m.ID()
		}
	}
	if len(text) == 0 {
		return m.ID()
	}
	return string(text)
}

// Is reports whether m and o name the same vendor: zeros and spaces at the end
// do not count.
func (m Manufacturer) Is(o Manufacturer) bool { return bytes.Equal(m.text(), o.text()) }

func (m Manufacturer) text() []byte { return bytes.TrimRight(m[:], "\x00 ") }

func (m Manufacturer) isZero() bool { return m == Manufacturer{} }

// A Firmware is the version in an endorsement key certificate: "id:" and
// hexadecimal digits in upper case, as many as the vendor likes, or, where a
// vendor wrote something else, what it wrote. It is the firmware of the day the
// certificate was made: an update in the field does not change it, nor the key
// that the older firmware generated.
type Firmware string

// ParseFirmware reads a version as certificates write it: "id:" and hexadecimal
// digits.
func ParseFirmware(s string) (Firmware, error) {
	f := normalFirmware(s)
	if f.digits() == "" {
		return "", fmt.Errorf("TPM firmware version %q: not id: and hexadecimal digits", s)
	}
	return f, nil
}

func normalFirmware(s string) Firmware {
	if digits := Firmware(s).digits(); digits != "" {
		return Firmware("id:" + strings.ToUpper(digits))
	}
	return Firmware(s)
}

// digits returns what follows "id:", or nothing if that is not a number.
func (f Firmware) digits() string {
	digits, found := strings.CutPrefix(string(f), "id:")
	if !found || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return ""
	}
	return digits
}

// Compare returns -1, 0 or 1 as f is older than, the same as or newer than o. ok
// is false where that cannot be said: versions with different numbers of digits
// were not counted in the same way.
func (f Firmware) Compare(o Firmware) (order int, ok bool) {
	a, b := normalFirmware(string(f)), normalFirmware(string(o))
	if a.digits() == "" || len(a) != len(b) || b.digits() == "" {
		return 0, false
	}
	return strings.Compare(string(a), string(b)), true
}

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

	// The attributes tcg-at-tpmManufacturer, -tpmModel and -tpmVersion.
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// A name is an X.501 RDNSequence with its values unread. The SET in the name of
// its elements' type is for encoding/asn1.
type name []relativeSET

type relativeSET []struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// readNames reads the TPM attributes of the subjectAltName: in one relative
// distinguished name each, or all in one. Other kinds of names may stand beside
// them; nothing here relies on those. The subject is not asked: the profile puts
// the attributes into the extension.
func (c *Certificate) readNames() error {
	for _, e := range c.X509.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		var general []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &general); err != nil || len(rest) > 0 {
			return errors.New("the subjectAltName cannot be read")
		}
		for _, g := range general {
			const directoryName = 4
			if g.Class != asn1.ClassContextSpecific || g.Tag != directoryName {
				continue
			}
			if err := c.readDirectoryName(g.Bytes); err != nil {
				return fmt.Errorf("the subjectAltName: %w", err)
			}
		}
	}
	return nil
}

func (c *Certificate) readDirectoryName(der []byte) error {
	var n name
	if rest, err := asn1.Unmarshal(der, &n); err != nil || len(rest) > 0 {
		return errors.New("the directoryName cannot be read")
	}
	for _, set := range n {
		for _, a := range set {
			var err error
			switch {
			case a.Type.Equal(oidManufacturer):
				err = c.setManufacturer(a.Value)
			case a.Type.Equal(oidModel):
				err = setOnce(&c.Model, a.Value)
			case a.Type.Equal(oidVersion):
				var text string
				if err = setOnce(&text, a.Value); err == nil && c.Firmware != "" {
					err = errTwice
				}
				c.Firmware = normalFirmware(text)
			}
			if err != nil {
				return fmt.Errorf("attribute %v: %w", a.Type, err)
			}
		}
	}
	return nil
}

func (c *Certificate) setManufacturer(v asn1.RawValue) error {
	var text string
	if err := setOnce(&text, v); err != nil {
		return err
	}
	if !c.Manufacturer.isZero() {
		return errTwice
	}
	if !strings.HasPrefix(text, "id:") {
		return fmt.Errorf("%q is not id: and eight hexadecimal digits", text)
	}
	m, err := ParseManufacturer(text)
	c.Manufacturer = m
	return err
}

// errTwice keeps a certificate from saying one thing to us and another to the
// next reader.
var errTwice = errors.New("it is there twice")

// setOnce reads the text of an attribute: a UTF8String, as the profile wants,
// or a PrintableString, as some vendors have it.
func setOnce(s *string, v asn1.RawValue) error {
	const maxText = 256
	text := string(v.Bytes)
	switch {
	case *s != "":
		return errTwice
	case v.Class != asn1.ClassUniversal || v.Tag != asn1.TagUTF8String && v.Tag != asn1.TagPrintableString:
		return errors.New("neither a UTF8String nor a PrintableString")
	case len(text) > maxText || !utf8.ValidString(text) || strings.ContainsFunc(text, unprintable):
		return errors.New("not a short printable text")
	}
	*s = text
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
