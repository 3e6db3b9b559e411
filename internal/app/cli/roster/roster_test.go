package roster

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

func reader() Reader {
	return Reader{
		Kind: enroll.Individual, Decode: dpsjson.DecodeIndividualEnrollment, Certificates: Certificates{},
		File: func(name string) ([]byte, error) { return nil, errors.New("no such file") },
	}
}

func decode(t *testing.T, body string) Enrollment {
	t.Helper()
	e, err := dpsjson.DecodeIndividualEnrollment([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDifferences(t *testing.T) {
	const key, other = `"a2V5IG51bWJlciBvbmUhIQ=="`, `"a2V5IG51bWJlciB0d28hIQ=="`
	keys := func(primary, secondary string) string {
		return `{"registrationId":"A","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":` + primary + `,"secondaryKey":` + secondary + `}}}`
	}
	info := func(thumbprint string) string {
		return `{"registrationId":"a","attestation":{"type":"x509","x509":{"clientCertificates":{"primary":{"info":{"sha256Thumbprint":"` + thumbprint + `"}}}}}}`
	}
	references := func(primary, secondary string) string {
		return `{"registrationId":"a","attestation":{"type":"x509","x509":{"caReferences":{"primary":"` + primary + `","secondary":"` + secondary + `"}}}}`
	}
	tpm := func(members string) string {
		return `{"registrationId":"a","attestation":{"type":"tpm","tpm":{` + members + `}}}`
	}
	with := func(members string) string { return `{"registrationId":"a",` + members + `}` }
	const bare = `{"registrationId":"a"}`
	for _, c := range []struct{ name, want, have, differ string }{
		{"nothing", bare, bare, ""},
		{"defaults spelled out", bare, with(`"provisioningStatus":"enabled","capabilities":{"iotEdge":false},"deviceId":"a",
			"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":true},"initialTwin":{"tags":{},"properties":{}}`), ""},
		{"a name at the hub", bare, with(`"deviceId":"b"`), "deviceId"},
		{"disabled", with(`"provisioningStatus":"disabled"`), bare, "provisioningStatus"},
		{"an edge gateway", bare, with(`"capabilities":{"iotEdge":true}`), "capabilities"},
		{"another reprovisioning", bare, with(`"reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false}`), "reprovisionPolicy"},
		{"the case of hubs", with(`"iotHubs":["H1","h2"],"iotHubHostName":"H3"`), with(`"iotHubs":["h1","h2"],"iotHubHostName":"h3"`), ""},
		{"the order of hubs", with(`"iotHubs":["h1","h2"]`), with(`"iotHubs":["h2","h1"]`), "iotHubs"},
		{"a pinned hub", with(`"iotHubHostName":"h1"`), bare, "iotHubHostName"},
		{"an allocation policy", with(`"allocationPolicy":"static"`), with(`"allocationPolicy":"hashed"`), "allocationPolicy"},
		{"a webhook", with(`"customAllocationDefinition":{"webhookUrl":"u"}`), bare, "customAllocationDefinition"},
		{"a credential policy", with(`"credentialPolicyName":"p"`), bare, "credentialPolicyName"},
		{"a twin in another order", with(`"initialTwin":{"tags":{"a":1,"b":[true]}}`), with(`"initialTwin":{"tags":{"b": [true], "a": 1}}`), ""},
		{"another tag", with(`"initialTwin":{"tags":{"a":1}}`), with(`"initialTwin":{"tags":{"a":2}}`), "initialTwin"},
		{"another large number", with(`"initialTwin":{"properties":{"desired":{"a":9007199254740993}}}`), with(`"initialTwin":{"properties":{"desired":{"a":9007199254740992}}}`), "initialTwin"},
		{"information", with(`"optionalDeviceInformation":{"a":1}`), bare, "optionalDeviceInformation"},
		{"what the service keeps", with(`"etag":"x","createdDateTimeUtc":"2024-01-01T00:00:00Z"`), bare, ""},

		{"another mechanism", keys(key, key), info("AB"), "attestation"},
		{"no attestation", bare, keys(key, key), "attestation"},
		{"the same keys", keys(key, other), keys(key, other), ""},
		{"keys that may be any", keys("null", "null"), keys(key, other), ""},
		{"another primary key", keys(other, "null"), keys(key, other), "attestation"},
		{"another secondary key", keys("null", key), keys(key, other), "attestation"},
		{"keys that are not there", keys(key, "null"), keys("null", "null"), "attestation"},
		{"the same certificate", info("ab12"), info("AB12"), ""},
		{"another certificate", info("AB12"), info("AB13"), "attestation"},
		{"the same CA certificates", references("plant", "next"), references("Plant", "NEXT"), ""},
		{"another CA certificate", references("plant", "next"), references("plant", ""), "attestation"},
		{"a certificate instead of its name", info("AB12"), references("plant", ""), "attestation"},
		{"the same TPM", tpm(`"endorsementKey":"AAEC"`), tpm(`"endorsementKey":"AAEC"`), ""},
		{"another TPM", tpm(`"endorsementKey":"AAEC"`), tpm(`"endorsementKey":"AAED"`), "attestation"},
		{"a pinned storage root key", tpm(`"endorsementKey":"AAEC","storageRootKey":"AAEC"`), tpm(`"endorsementKey":"AAEC"`), "attestation"},
		{"the list of a reel", tpm(`"endorsementKeyList":{"count":2}`), tpm(`"endorsementKeyList":{"count":3}`), ""},
		{"no list", tpm(`"endorsementKeyList":{"count":2}`), tpm(`"endorsementKey":"AAEC"`), "attestation"},
		{"other manufacturers", tpm(`"endorsementCertificates":{"manufacturers":["INTC"]}`), tpm(`"endorsementCertificates":{"manufacturers":["AMD"]}`), "attestation"},
		{"other roots", tpm(`"endorsementCertificates":{"roots":[{"info":{"sha256Thumbprint":"AB"}}]}`), tpm(`"endorsementCertificates":{}`), "attestation"},
	} {
		if got := strings.Join(Differences(decode(t, c.want), decode(t, c.have)), " "); got != c.differ {
			t.Errorf("%s: differ in %q, want %q", c.name, got, c.differ)
		}
	}
}

// A spreadsheet begins with a byte order mark and ends its lines as Windows does.
func TestReadingWhatSpreadsheetsWrite(t *testing.T) {
	r, err := reader().Read(strings.NewReader("\xef\xbb\xbfREGISTRATIONID,attestation\r\n a , symmetricKey \r\n\r\n\"b\",\"symmetricKey\"\r\n"))
	if err != nil || len(r.Faults) > 0 || len(r.Entries) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r.Entries[0].RegistrationID != "a" || r.Entries[0].Line != 2 || r.Entries[1].Line != 4 {
		t.Errorf("%+v", r.Entries)
	}
}

func TestAFileThatEndsInTheMiddle(t *testing.T) {
	for _, text := range []string{"", " \n", "registrationId\n\"a", "registrationId,registrationId\n", "{\"registrationId\":\"a\"}\n{" + strings.Repeat(" ", dpsjson.MaxBody+9) + "}"} {
		if r, err := reader().Read(strings.NewReader(text)); err == nil {
			t.Errorf("%.40q: %+v", text, r)
		}
	}
}

func TestFilesThatAreNoJournal(t *testing.T) {
	for name, content := range map[string]string{
		"another file":  "registrationId,primaryKey\n",
		"a damaged one": journalHeader + strings.Repeat("0", 64) + "\n" + "sesame\n",
	} {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJournal(file, "service", enroll.Individual); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != content {
			t.Errorf("%s: was changed: %v", name, err)
		}
	}
	// The last line of a process that was killed may be torn.
	file := filepath.Join(t.TempDir(), "torn")
	if err := os.WriteFile(file, []byte(journalHeader+strings.Repeat("0", 64)+"\n123"), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(file, "service", enroll.Individual)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Add(Enrollment{RegistrationID: "a"}), j.Close()); err != nil {
		t.Fatal(err)
	}
	if j, err = OpenJournal(file, "service", enroll.Individual); err != nil || len(j.done) != 2 || !j.Has(Enrollment{RegistrationID: "a"}) {
		t.Errorf("%v", err)
	}
}

// FuzzRead: whatever a file holds, it is read or refused, what was read can be
// written and read again, and no fault shows a key.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"registrationId,primaryKey,tags\na,a2V5IG51bWJlciBvbmUhIQ==,\"{\"\"b\"\":1}\"\n",
		"registrationId,endorsementKey\na,AAEC\nb,!\n",
		`{"registrationId":"a","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"a2V5IG51bWJlciBvbmUhIQ=="}}}`,
		`{"registrationId":"a","x":1}` + "\n" + `{"registrationId":"b"}`,
		"registrationId\n\"", "\xef\xbb\xbf{}", "a;b\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := reader().Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, fault := range r.Faults {
			if strings.Contains(fault.String(), "a2V5IG51bWJlciBvbmUhIQ==") {
				t.Errorf("a fault shows a key: %s", fault)
			}
		}
		r.Check(func(e Enrollment) error {
			if _, err := dpsjson.Encode(e); err != nil {
				return err // a twin that is no JSON
			}
			return nil
		})
		var out bytes.Buffer
		for _, e := range r.Entries {
			if err := NewWriter(&out).Write(Portable(e.Enrollment)); err != nil {
				t.Fatal(err)
			}
		}
		if len(r.Entries) == 0 {
			return
		}
		again, err := reader().Read(&out)
		if err != nil {
			return // a line longer than the service takes
		}
		for i, e := range again.Entries {
			if len(again.Faults) == 0 && len(Differences(e.Enrollment, Portable(r.Entries[i].Enrollment))) > 0 {
				t.Errorf("%+v came back as %+v", r.Entries[i].Enrollment, e.Enrollment)
			}
		}
	})
}
