package roster

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// Differences names the members in which a stored enrollment is not what is
// wanted; none means that writing would change nothing. Symmetric keys and lists
// that want does not have may be any. Where it has keys, have needs them, too.
func Differences(want, have Enrollment) (members []string) {
	for _, m := range []struct {
		name string
		same bool
	}{
		{"deviceId", want.DeviceID == have.DeviceID || deviceName(want) == deviceName(have)},
		{"attestation", sameAttestation(want.Attestation, have.Attestation)},
		{"capabilities", isEdge(want) == isEdge(have)},
		{"iotHubHostName", strings.EqualFold(want.IoTHubHostName, have.IoTHubHostName)},
		{"iotHubs", slices.EqualFunc(want.IoTHubs, have.IoTHubs, strings.EqualFold)},
		{"allocationPolicy", want.AllocationPolicy == have.AllocationPolicy},
		{"customAllocationDefinition", reflect.DeepEqual(want.CustomAllocationDefinition, have.CustomAllocationDefinition)},
		{"credentialPolicyName", want.CredentialPolicyName == have.CredentialPolicyName},
		{"provisioningStatus", isDisabled(want) == isDisabled(have)},
		{"reprovisionPolicy", reprovisioning(want) == reprovisioning(have)},
		{"initialTwin", sameTwin(want.InitialTwin, have.InitialTwin)},
		{"optionalDeviceInformation", sameObject(want.OptionalDeviceInformation, have.OptionalDeviceInformation)},
	} {
		if !m.same {
			members = append(members, m.name)
		}
	}
	return members
}

func deviceName(e Enrollment) string {
	if e.DeviceID != "" {
		return e.DeviceID
	}
	return e.RegistrationID
}

func isEdge(e Enrollment) bool { return e.Capabilities != nil && e.Capabilities.IoTEdge }

func isDisabled(e Enrollment) bool { return e.ProvisioningStatus == dpsjson.ProvisioningDisabled }

// reprovisioning returns the policy in force: no policy means both.
func reprovisioning(e Enrollment) dpsjson.ReprovisionPolicy {
	if e.ReprovisionPolicy == nil {
		return dpsjson.ReprovisionPolicy{UpdateHubAssignment: true, MigrateDeviceData: true}
	}
	return *e.ReprovisionPolicy
}

func sameAttestation(want, have *dpsjson.AttestationMechanism) bool {
	switch {
	case want == nil || have == nil:
		return want == have
	case want.Type != have.Type:
		return false
	}
	return sameKeys(want.SymmetricKey, have.SymmetricKey) && sameTPM(want.TPM, have.TPM) && sameX509(want.X509, have.X509)
}

// givesKeys reports whether e has symmetric keys of its own to compare.
func givesKeys(e Enrollment) bool {
	for range keysOf(e) {
		return true
	}
	return false
}

func sameKeys(want, have *dpsjson.SymmetricKeys) bool {
	if want == nil {
		return true
	}
	if have == nil {
		have = &dpsjson.SymmetricKeys{}
	}
	return (want.PrimaryKey.IsZero() || want.PrimaryKey.Equal(have.PrimaryKey.SymmetricKey)) &&
		(want.SecondaryKey.IsZero() || want.SecondaryKey.Equal(have.SecondaryKey.SymmetricKey))
}

func sameTPM(want, have *dpsjson.TPMAttestation) bool {
	if want == nil || have == nil {
		return want == have
	}
	return bytes.Equal(want.EndorsementKey, have.EndorsementKey) && bytes.Equal(want.StorageRootKey, have.StorageRootKey) &&
		sameEKCertificates(want.EndorsementCertificates, have.EndorsementCertificates) &&
		sameEKList(want.EndorsementKeyList, have.EndorsementKeyList)
}

func sameEKCertificates(want, have *dpsjson.EKCertificates) bool {
	if want == nil || have == nil {
		return want == have
	}
	same := func(a, b []dpsjson.X509Certificate) bool {
		return slices.EqualFunc(a, b, func(a, b dpsjson.X509Certificate) bool { return printOf(&a) == printOf(&b) })
	}
	return same(want.Roots, have.Roots) && same(want.Intermediates, have.Intermediates) && same(want.TestRoots, have.TestRoots) &&
		slices.Equal(want.Manufacturers, have.Manufacturers) && slices.Equal(want.Models, have.Models) &&
		slices.Equal(want.Firmware, have.Firmware) &&
		want.TrustStore == have.TrustStore && want.TestTrustStore == have.TestTrustStore && slices.Equal(want.Vendors, have.Vendors)
}

func sameEKList(want, have *dpsjson.EKList) bool {
	if want == nil || have == nil {
		return want == have
	}
	if len(want.Keys) == 0 {
		return true
	}
	list, err := ekcert.ParseList(strings.NewReader(strings.Join(want.Keys, "\n")))
	return err == nil && list.Stored().Digest == have.SHA256
}

func sameX509(want, have *dpsjson.X509Attestation) bool {
	if want == nil || have == nil {
		return want == have
	}
	return samePair(want.ClientCertificates, have.ClientCertificates) && samePair(want.SigningCertificates, have.SigningCertificates) &&
		sameReferences(want.CAReferences, have.CAReferences)
}

func sameReferences(want, have *dpsjson.X509CAReferences) bool {
	if want == nil || have == nil {
		return want == have
	}
	return strings.EqualFold(want.Primary, have.Primary) && strings.EqualFold(want.Secondary, have.Secondary)
}

func samePair(want, have *dpsjson.X509Certificates) bool {
	if want == nil || have == nil {
		return want == have
	}
	return printOf(want.Primary) == printOf(have.Primary) && printOf(want.Secondary) == printOf(have.Secondary)
}

// printOf returns the thumbprint of a certificate, or "" of none.
func printOf(c *dpsjson.X509Certificate) string {
	switch {
	case c == nil:
		return ""
	case len(c.Certificate) > 0:
		return thumbprint(c.Certificate)
	case c.Info != nil:
		return strings.ToUpper(c.Info.SHA256Thumbprint)
	}
	return ""
}

func sameTwin(want, have *dpsjson.InitialTwin) bool {
	return sameObject(tags(want), tags(have)) && sameObject(desired(want), desired(have))
}

func tags(t *dpsjson.InitialTwin) dpsjson.Object {
	if t == nil {
		return nil
	}
	return t.Tags
}

func desired(t *dpsjson.InitialTwin) dpsjson.Object {
	if t == nil || t.Properties == nil {
		return nil
	}
	return t.Properties.Desired
}

// sameObject compares what JSON objects say: white space and the order of members
// do not count, and nothing is like {}.
func sameObject(a, b dpsjson.Object) bool {
	x, xErr := members(a)
	y, yErr := members(b)
	return xErr == nil && yErr == nil && (len(x)+len(y) == 0 || reflect.DeepEqual(x, y))
}

func members(o dpsjson.Object) (m map[string]any, err error) {
	if len(o) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(o))
	d.UseNumber() // 1 and 1.0 are different texts, and large integers stay whole
	if err = d.Decode(&m); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}
