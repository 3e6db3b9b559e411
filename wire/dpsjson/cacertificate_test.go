package dpsjson

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
)

func TestDecodeCACertificateUpload(t *testing.T) {
	der := certificate(t).Raw
	pem := string(golden(t, "dev-1.pem"))
	quoted := strings.ReplaceAll(pem, "\n", `\n`)
	yes, no := true, false
	for _, tt := range []struct {
		name, body string
		want       CACertificateUpload
	}{
		{"nothing", `{}`, CACertificateUpload{}},
		{"nulls", `{"certificate":null,"isVerified":null,"properties":null}`, CACertificateUpload{}},
		{"PEM", `{"certificate":"` + quoted + `"}`, CACertificateUpload{Certificate: der}},
		{"base64 of DER", `{"certificate":"` + base64.StdEncoding.EncodeToString(der) + `"}`, CACertificateUpload{Certificate: der}},
		{"base64 of PEM, verified", `{"isVerified":true,"certificate":"` + base64.StdEncoding.EncodeToString([]byte(pem)) + `"}`, CACertificateUpload{der, &yes}},
		{"in properties", `{"name":"plant","properties":{"certificate":"` + quoted + `","isVerified":false,"subject":"CN=x"}}`, CACertificateUpload{der, &no}},
		{"in properties, in another case", `{"PROPERTIES":{"ISVERIFIED":true}}`, CACertificateUpload{nil, &yes}},
	} {
		got, err := DecodeCACertificateUpload([]byte(tt.body))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: read %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ name, body, err string }{
		{"no JSON", "certificate", "body: not one JSON value; wrong at byte 1"},
		{"a list", "[]", "body: not an object"},
		{"junk", `{"certificate":"plant"}`, "certificate: neither PEM nor base64"},
		{"two certificates", `{"certificate":"` + quoted + quoted + `"}`, "certificate: more than one PEM block"},
		{"a request", `{"properties":{"certificate":"` + strings.ReplaceAll(string(golden(t, "dev-1-request.pem")), "\n", `\n`) + `"}}`, "properties.certificate: not a PEM CERTIFICATE"},
		{"base64 of junk", `{"certificate":"AAAA"}`, "certificate: not an X.509 certificate"},
		{"verified by word", `{"isVerified":"true"}`, "isVerified: not true or false"},
		{"verified twice", `{"isVerified":false,"IsVerified":true}`, "isVerified: given twice"},
		{"verified in two places", `{"isVerified":false,"properties":{"isVerified":true}}`, "properties: the same members do not stand beside it"},
		{"certificate beside the properties", `{"certificate":"` + quoted + `","properties":{}}`, "properties: the same members do not stand beside it"},
		{"a long certificate", `{"certificate":"` + strings.Repeat("A", maxCertificate+1) + `"}`, "certificate: longer than 32768 bytes"},
		{"long", `{"certificate":"` + strings.Repeat("A", MaxBody) + `"}`, "body: longer than 98304 bytes"},
	} {
		if got, err := DecodeCACertificateUpload([]byte(tt.body)); err == nil || err.Error() != tt.err {
			t.Errorf("%s: read %+v, %v; want %s", tt.name, got, err, tt.err)
		}
	}
}

func TestDatesAreThoseOfRFC1123(t *testing.T) {
	d := Date(at(t, "2019-05-16T21:52:31+02:00"))
	text, err := d.MarshalText()
	if err != nil || string(text) != "Thu, 16 May 2019 19:52:31 GMT" {
		t.Errorf("wrote %s, %v", text, err)
	}
	var read Date
	if err := read.UnmarshalText(text); err != nil || read != Date(at(t, "2019-05-16T19:52:31Z")) {
		t.Errorf("read %v, %v", read, err)
	}
	for _, s := range []string{"", "2019-05-16T19:52:31Z", "Thu, 16 May 2019 19:52:31 CET", "Thu, 36 May 2019 19:52:31 GMT"} {
		if err := read.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("read %q", s)
		}
	}
}

func FuzzDecodeCACertificateUpload(f *testing.F) {
	f.Add([]byte(`{"certificate":"` + base64.StdEncoding.EncodeToString(certificate(f).Raw) + `","isVerified":true}`))
	f.Add([]byte(`{"properties":{"certificate":"` + strings.ReplaceAll(string(golden(f, "dev-1.pem")), "\n", `\n`) + `"}}`))
	f.Add([]byte(`{"properties":{"isVerified":null},"certificate":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := DecodeCACertificateUpload(b)
		if err != nil {
			return
		}
		stable(t, u, func(b []byte) (any, error) { return DecodeCACertificateUpload(b) })
	})
}
