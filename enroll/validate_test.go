package enroll

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// A fault is told by the name that the member has in the service API, then the
// rule.
func TestValidate(t *testing.T) {
	leaf, ca, nameless := certificate(t, "pump-7", false), certificate(t, "Factory CA", true), certificate(t, "", false)
	swtpm := certificate(t, "swtpm-localca-rootca", true)
	chip := tpmKeys(t)
	ekAlone := &attest.TPM{EndorsementKey: chip.EndorsementKey}
	swapped := &attest.TPM{EndorsementKey: chip.StorageRootKey}
	ekTwice := &attest.TPM{EndorsementKey: chip.EndorsementKey, StorageRootKey: chip.EndorsementKey}

	individual := func(change func(*Entry)) *Entry {
		e := byKey(Individual, "pump-7")
		change(e)
		return e
	}
	group := func(change func(*Entry)) *Entry {
		e := byKey(Group, "pumps")
		change(e)
		return e
	}
	clientCert := func(primary, secondary []byte) *Entry {
		return byCertificates(Individual, "pump-7", attest.ClientCertificates, primary, secondary)
	}
	signingCert := func(primary, secondary []byte) *Entry {
		return byCertificates(Group, "pumps", attest.SigningCertificates, primary, secondary)
	}

	for _, c := range []struct {
		name  string
		entry *Entry
		want  string // how the error begins, empty when valid
	}{
		{"symmetric key", individual(func(*Entry) {}), ""},
		{"symmetric key, to be made", individual(func(e *Entry) { e.Attestation.SymmetricKey = nil }), ""},
		{"symmetric key group", group(func(*Entry) {}), ""},
		{"certificate", clientCert(leaf, nil), ""},
		{"two certificates", clientCert(leaf, certificate(t, "pump-7", false)), ""},
		{"a CA certificate of its own", clientCert(certificate(t, "pump-7", true), nil), ""},
		{"CA", signingCert(ca, nil), ""},
		{"nearest hub", individual(func(e *Entry) { e.Allocation = GeoLatency }), ""},
		{"webhook", webhook("https://x.example/api/allocate?code=c2VjcmV0"), ""},
		{"webhook at a port", webhook("https://x.example:8443"), ""},
		{"webhook on loopback", webhook("http://127.0.0.1:7071/api/allocate"), ""},
		{"webhook on loopback of IPv6", webhook("http://[::1]:7071/api/allocate"), ""},
		{"webhook on localhost", webhook("http://LOCALHOST:7071/"), ""},
		{"webhook of the first preview", custom(CustomAllocation{WebhookURL: "https://x.example/", APIVersion: "2018-09-01-preview"}), ""},
		{"expression", custom(CustomAllocation{Expression: "linkedHubs[0]"}), ""},
		{"a definition for later", individual(func(e *Entry) {
			e.Allocation, e.Custom = Static, &CustomAllocation{Expression: "linkedHubs[0]"}
		}), ""},
		{"CA by name", byReferences(Group, "Plant_1.root-ca", ""), ""},
		{"two CAs by name", byReferences(Group, strings.Repeat("a", 256), "b"), ""},
		{"TPM", byTPM(Individual, "pump-7", chip), ""},
		{"TPM without SRK", byTPM(Individual, "pump-7", ekAlone), ""},
		{"TPMs with certificates", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca}, Manufacturers: []string{"INTC", "id:49465800"},
			Models: []string{"SLB9670"}, Firmware: []attest.FirmwareRule{{Manufacturer: "IFX", Oldest: "id:0007003d"}}}), ""},
		{"TPMs below the trust store", ofTPMs(attest.TPMGroup{Trusted: true}), ""},
		{"TPMs of vendors of the trust store", ofTPMs(attest.TPMGroup{Trusted: true, Vendors: []string{"Infineon"}, Models: []string{"SLB9670"}}), ""},
		{"software TPMs below the trust store", ofTPMs(attest.TPMGroup{TrustedTest: true}), ""},
		{"TPMs of swtpm as such", ofTPMs(attest.TPMGroup{TestRoots: [][]byte{swtpm}}), ""},
		{"TPMs of a list to be uploaded", ofTPMs(attest.TPMGroup{List: &attest.EKList{}}), ""},
		{"longest ID", individual(func(e *Entry) { e.ID = strings.Repeat("a", 128) }), ""},
		{"all characters of an ID", individual(func(e *Entry) { e.ID = "A-z.0_9:x-" }), ""},
		{"device ID", individual(func(e *Entry) { e.DeviceID = "Pump#7'$" }), ""},
		{"largest objects", individual(func(e *Entry) {
			e.OptionalDeviceInformation = object(maxInfo)
			e.InitialTwin = &InitialTwin{object(maxTags), object(maxDesired)}
		}), ""},
		{"empty objects", individual(func(e *Entry) {
			e.OptionalDeviceInformation = json.RawMessage(" {} ")
			e.InitialTwin = &InitialTwin{Tags: json.RawMessage("{}")}
		}), ""},
		{"hubs", individual(func(e *Entry) {
			e.Allocation, e.IoTHub = Static, "hub.example"
			e.IoTHubs = []string{"hub-1.example", "hub-2.example:8443", "[::1]:443", "10.0.0.7"}
		}), ""},

		{"no ID", individual(func(e *Entry) { e.ID = "" }), "registrationId: is empty"},
		{"no group ID", group(func(e *Entry) { e.ID = "" }), "enrollmentGroupId: is empty"},
		{"long ID", individual(func(e *Entry) { e.ID = strings.Repeat("a", 129) }), "registrationId: has 129 characters"},
		{"slash in ID", individual(func(e *Entry) { e.ID = "a/b" }), "registrationId: has '/' at position 2"},
		{"space in ID", individual(func(e *Entry) { e.ID = "pump 7" }), "registrationId: has ' ' at position 5"},
		{"ID beyond ASCII", individual(func(e *Entry) { e.ID = "pümp" }), "registrationId: has "},
		{"ID ends in a dot", group(func(e *Entry) { e.ID = "pumps." }), "enrollmentGroupId: must end in"},
		{"device ID with a slash", individual(func(e *Entry) { e.DeviceID = "a/b" }), "deviceId: has '/'"},
		{"long device ID", individual(func(e *Entry) { e.DeviceID = device.ID(strings.Repeat("ab", 65)) }), "deviceId: has 130 characters"},
		{"device ID of a group", group(func(e *Entry) { e.DeviceID = "pump-7" }), "deviceId: is for individual enrollments"},

		{"information is text", individual(func(e *Entry) { e.OptionalDeviceInformation = json.RawMessage(`"text"`) }), "optionalDeviceInformation: is not a JSON object"},
		{"information is broken", individual(func(e *Entry) { e.OptionalDeviceInformation = json.RawMessage(`{"a":`) }), "optionalDeviceInformation: is not a JSON object"},
		{"information is two objects", individual(func(e *Entry) { e.OptionalDeviceInformation = json.RawMessage(`{}{}`) }), "optionalDeviceInformation: is not a JSON object"},
		{"too much information", individual(func(e *Entry) { e.OptionalDeviceInformation = object(maxInfo + 1) }), "optionalDeviceInformation: has 32769 bytes"},
		{"tags are a list", individual(func(e *Entry) { e.InitialTwin = &InitialTwin{Tags: json.RawMessage(`[]`)} }), "initialTwin.tags: is not a JSON object"},
		{"too many tags", individual(func(e *Entry) { e.InitialTwin = &InitialTwin{Tags: object(maxTags + 1)} }), "initialTwin.tags: has 8193 bytes"},
		{"desired is null", individual(func(e *Entry) { e.InitialTwin = &InitialTwin{Desired: json.RawMessage(`null`)} }), "initialTwin.properties.desired: is not a JSON object"},
		{"too much desired", individual(func(e *Entry) { e.InitialTwin = &InitialTwin{Desired: object(maxDesired + 1)} }), "initialTwin.properties.desired: has 32769 bytes"},

		{"no attestation", individual(func(e *Entry) { e.Attestation = attest.Mechanism{} }), "attestation.type: is missing"},
		{"unknown attestation", individual(func(e *Entry) { e.Attestation.Type = "none" }), `attestation.type: is "none"`},
		{"one TPM for a group", byTPM(Group, "pumps", chip), "attestation.tpm.endorsementKey: is for individual enrollments"},
		{"TPM group without anything", byTPM(Group, "pumps", nil), "attestation.tpm: of an enrollment group must have"},
		{"TPM group that names nothing", ofTPMs(attest.TPMGroup{}), "attestation.tpm: of an enrollment group must have"},
		{"TPM group of one device", &Entry{Kind: Individual, ID: "pump-7", Attestation: ofTPMs(attest.TPMGroup{List: &attest.EKList{}}).Attestation}, "attestation.tpm: of an individual enrollment has an endorsementKey"},
		{"TPM group with filters alone", ofTPMs(attest.TPMGroup{Models: []string{"SLB9670"}}), "attestation.tpm.endorsementCertificates: no root is pinned"},
		{"TPM group of vendors of nothing", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca}, Vendors: []string{"Infineon"}}), "attestation.tpm.endorsementCertificates: vendors are those of the trust store"},
		{"TPM group of a vendor without a name", ofTPMs(attest.TPMGroup{Trusted: true, Vendors: []string{""}}), "attestation.tpm.endorsementCertificates.vendors[0]: is empty"},
		{"TPM group below the trust store with swtpm's root", ofTPMs(attest.TPMGroup{Trusted: true, Roots: [][]byte{swtpm}}), `attestation.tpm.endorsementCertificates: "CN=swtpm-localca-rootca"`},
		{"TPM group with a leaf as root", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca, leaf}}), `attestation.tpm.endorsementCertificates: "CN=pump-7" is not a CA certificate`},
		{"TPM group with swtpm's root", ofTPMs(attest.TPMGroup{Roots: [][]byte{swtpm}}), `attestation.tpm.endorsementCertificates: "CN=swtpm-localca-rootca" is the CA of a software TPM`},
		{"TPM group with junk as root", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca, ca[1:]}}), "attestation.tpm.endorsementCertificates.roots[1]: not an X.509 certificate"},
		{"TPM group with junk as intermediate", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca}, Intermediates: [][]byte{nil}}), "attestation.tpm.endorsementCertificates.intermediates[0]: "},
		{"TPM group of no manufacturer", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca}, Manufacturers: []string{"INTEL"}}), "attestation.tpm.endorsementCertificates.manufacturers[0]: "},
		{"TPM group of no model", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca}, Models: []string{""}}), "attestation.tpm.endorsementCertificates.models[0]: is empty"},
		{"TPM group of firmware of nobody", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca}, Firmware: []attest.FirmwareRule{{Oldest: "id:01"}}}), "attestation.tpm.endorsementCertificates.firmware[0].manufacturer: "},
		{"TPM group of any firmware", ofTPMs(attest.TPMGroup{Roots: [][]byte{ca}, Firmware: []attest.FirmwareRule{{Manufacturer: "INTC", Oldest: "7.2"}}}), "attestation.tpm.endorsementCertificates.firmware[0].oldest: "},
		{"TPM without keys", byTPM(Individual, "pump-7", nil), "attestation.tpm.endorsementKey: is missing"},
		{"TPM without EK", byTPM(Individual, "pump-7", &attest.TPM{StorageRootKey: chip.StorageRootKey}), "attestation.tpm.endorsementKey: is missing"},
		{"EK that is no key", byTPM(Individual, "pump-7", &attest.TPM{EndorsementKey: []byte("EK")}), "attestation.tpm.endorsementKey: TPM public area: "},
		{"EK that is an SRK", byTPM(Individual, "pump-7", swapped), "attestation.tpm.endorsementKey: endorsement key: "},
		{"SRK that is an EK", byTPM(Individual, "pump-7", ekTwice), "attestation.tpm.storageRootKey: storage root key: "},
		{"SRK that is no key", byTPM(Individual, "pump-7", &attest.TPM{EndorsementKey: chip.EndorsementKey, StorageRootKey: []byte("SRK")}), "attestation.tpm.storageRootKey: TPM public area: "},

		{"x509 without certificates", individual(func(e *Entry) { e.Attestation = attest.Mechanism{Type: attest.TypeX509} }), "attestation.x509: must have one of"},
		{"x509 without a use", byCertificates(Individual, "pump-7", "", leaf, nil), "attestation.x509: must have one of"},
		{"no primary certificate", clientCert(nil, leaf), "attestation.x509.clientCertificates.primary: is missing"},
		{"no primary CA", signingCert(nil, ca), "attestation.x509.signingCertificates.primary: is missing"},
		{"no certificate at all", clientCert([]byte("certificate"), nil), "attestation.x509.clientCertificates.primary: is not an X.509 certificate"},
		{"secondary is none", clientCert(leaf, leaf[:100]), "attestation.x509.clientCertificates.secondary: is not an X.509 certificate"},
		{"certificate without a name", clientCert(nameless, nil), "attestation.x509.clientCertificates.primary: has no common name"},
		{"a leaf as CA", signingCert(leaf, nil), `attestation.x509.signingCertificates.primary: "CN=pump-7" is not a CA certificate`},
		{"a leaf as second CA", signingCert(ca, leaf), `attestation.x509.signingCertificates.secondary: "CN=pump-7" is not a CA certificate`},
		{"CA of an individual", byCertificates(Individual, "pump-7", attest.SigningCertificates, ca, nil), "attestation.x509: of an individual enrollment must have clientCertificates"},
		{"leaf of a group", byCertificates(Group, "pumps", attest.ClientCertificates, leaf, nil), "attestation.x509: of an enrollment group must have signingCertificates or caReferences"},
		{"CA by no name", byReferences(Group, "", ""), "attestation.x509.caReferences.primary: is empty"},
		{"CA by the second name alone", byReferences(Group, "", "plant"), "attestation.x509.caReferences.primary: is empty"},
		{"CA by a path", byReferences(Group, "plant/a", ""), "attestation.x509.caReferences.primary: has '/' at position 6"},
		{"second CA by a parent directory", byReferences(Group, "plant", ".."), "attestation.x509.caReferences.secondary: has nothing but dots"},
		{"CA by a long name", byReferences(Group, strings.Repeat("a", 257), ""), "attestation.x509.caReferences.primary: has 257 characters"},
		{"CA of an individual by name", byReferences(Individual, "plant", ""), "attestation.x509: of an individual enrollment must have clientCertificates"},

		{"unknown allocation", individual(func(e *Entry) { e.Allocation = "random" }), `allocationPolicy: is "random"`},
		{"custom without a definition", individual(func(e *Entry) { e.Allocation = Custom }), "customAllocationDefinition: is missing"},
		{"a definition without policy", individual(func(e *Entry) {
			e.Custom = &CustomAllocation{WebhookURL: "https://x.example", APIVersion: "2021-10-01"}
		}), "customAllocationDefinition: is for allocationPolicy custom"},
		{"a bad definition for later", individual(func(e *Entry) { e.Allocation, e.Custom = Hashed, &CustomAllocation{WebhookURL: "x"} }), "customAllocationDefinition.webhookUrl: "},
		{"an empty definition", custom(CustomAllocation{}), "customAllocationDefinition: must have a webhookUrl or an expression"},
		{"an api-version alone", custom(CustomAllocation{APIVersion: "2021-10-01"}), "customAllocationDefinition: must have a webhookUrl or an expression"},
		{"webhook and expression", custom(CustomAllocation{WebhookURL: "https://x.example", APIVersion: "2021-10-01", Expression: "'a'"}), "customAllocationDefinition: has a webhookUrl and an expression"},
		{"a long expression", custom(CustomAllocation{Expression: strings.Repeat("a", 4097)}), "customAllocationDefinition.expression: has 4097 bytes; 4096 are allowed"},
		{"an expression with an api-version", custom(CustomAllocation{Expression: "'a'", APIVersion: "2021-10-01"}), "customAllocationDefinition.apiVersion: is for a webhook"},
		{"webhook in plain HTTP", webhook("http://x.example/"), "customAllocationDefinition.webhookUrl: must begin with https://; http://"},
		{"webhook on all addresses", webhook("http://0.0.0.0/"), "customAllocationDefinition.webhookUrl: must begin with https://; http://"},
		{"webhook on a host called like loopback", webhook("http://localhost.example/"), "customAllocationDefinition.webhookUrl: must begin with https://; http://"},
		{"webhook with another scheme", webhook("ftp://x.example/"), "customAllocationDefinition.webhookUrl: must begin with https://"},
		{"webhook in a file", webhook("file:///etc/passwd"), "customAllocationDefinition.webhookUrl: must begin with https://"},
		{"webhook without a scheme", webhook("//x.example/"), "customAllocationDefinition.webhookUrl: must begin with https://"},
		{"webhook without a host", webhook("https:///x"), "customAllocationDefinition.webhookUrl: has no host name"},
		{"webhook with a port alone", webhook("https://:443/x"), "customAllocationDefinition.webhookUrl: has no host name"},
		{"webhook with a password", webhook("https://u:p@x.example/"), "customAllocationDefinition.webhookUrl: has a user name or a password"},
		{"webhook with a fragment", webhook("https://x.example/#top"), "customAllocationDefinition.webhookUrl: has a fragment"},
		{"webhook with a line feed", webhook("https://x.example/\n"), "customAllocationDefinition.webhookUrl: is not a URL"},
		{"long webhook", webhook("https://x.example/" + strings.Repeat("a", 2048)), "customAllocationDefinition.webhookUrl: has 2066 bytes; 2048 are allowed"},
		{"webhook without api-version", custom(CustomAllocation{WebhookURL: "https://x.example/"}), "customAllocationDefinition.apiVersion: is missing"},
		{"webhook with an old api-version", custom(CustomAllocation{WebhookURL: "https://x.example/", APIVersion: "2018-08-31"}), "customAllocationDefinition.apiVersion: is older than 2018-09-01-preview"},
		{"webhook with a day that is none", custom(CustomAllocation{WebhookURL: "https://x.example/", APIVersion: "2021-02-30"}), "customAllocationDefinition.apiVersion: must be YYYY-MM-DD"},
		{"webhook with a wrong api-version", custom(CustomAllocation{WebhookURL: "https://x.example/", APIVersion: "2021-10-01-beta"}), "customAllocationDefinition.apiVersion: must be YYYY-MM-DD"},
		{"a URL as hub", individual(func(e *Entry) { e.IoTHubs = []string{"hub.example", "https://hub.example"} }), `iotHubs[1]: "https://hub.example" is not a host name`},
		{"an empty hub", individual(func(e *Entry) { e.IoTHubs = []string{""} }), `iotHubs[0]: "" is not a host name`},
		{"a path in the hub", individual(func(e *Entry) { e.IoTHub = "hub.example/x" }), "iotHubHostName: "},
		{"a user in the hub", individual(func(e *Entry) { e.IoTHub = "me@hub.example" }), "iotHubHostName: "},
		{"a query in the hub", individual(func(e *Entry) { e.IoTHub = "hub.example?x" }), "iotHubHostName: "},
		{"a space in the hub", individual(func(e *Entry) { e.IoTHub = "hub example" }), "iotHubHostName: "},
		{"only a port as hub", individual(func(e *Entry) { e.IoTHub = ":443" }), "iotHubHostName: "},
		{"a line feed in the hub", individual(func(e *Entry) { e.IoTHub = "hub.example\nx" }), "iotHubHostName: "},
		{"long hub", individual(func(e *Entry) { e.IoTHub = strings.Repeat("a", 256) }), "iotHubHostName: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Validate(c.entry)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Fatalf("error %v, want %s", err, c.want)
			}
			if public := errs.Public(err); public.Kind != errs.Invalid || public.Code != errs.CodeBadRequest {
				t.Errorf("kind %v and code %d", public.Kind, public.Code)
			}
		})
	}
}

func custom(c CustomAllocation) *Entry {
	e := byKey(Individual, "pump-7")
	e.Allocation, e.Custom = Custom, &c
	return e
}

func webhook(url string) *Entry {
	return custom(CustomAllocation{WebhookURL: url, APIVersion: "2019-03-31"})
}

// A URL's query is where keys are, and whoever may not read the enrollment may
// read the log.
func TestNoErrorRepeatsTheWebhook(t *testing.T) {
	for _, url := range []string{"http://x.example/?code=c2VjcmV0", "https://x.example/?code=c2VjcmV0#", "https://u@x.example/?code=c2VjcmV0",
		"https://x.example:99x/?code=c2VjcmV0", "https://x.example/%zz?code=c2VjcmV0", "https://x.example/?code=c2VjcmV0\n", "?code=c2VjcmV0"} {
		if err := Validate(webhook(url)); err == nil || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
