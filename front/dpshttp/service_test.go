package dpshttp

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

// keys are the symmetric keys of an attestation, or empty.
func keys(attestation map[string]any) (primary, secondary string) {
	k, _ := attestation["symmetricKey"].(map[string]any)
	primary, _ = k["primaryKey"].(string)
	secondary, _ = k["secondaryKey"].(string)
	return primary, secondary
}

func (a answered) attestation() map[string]any {
	m, _ := a.json["attestation"].(map[string]any)
	return m
}

func TestEnrollmentLivesAndDies(t *testing.T) {
	for _, path := range []string{"/enrollments/dev-1", "/enrollmentGroups/dev-1"} {
		s := newServer(t)
		s.want(404, s.service("GET", path, ""))

		// Keys that are not given are made, and shown once.
		created := s.want(200, s.service("PUT", path, `{"attestation":{"type":"symmetricKey"},"provisioningStatus":null}`))
		primary, secondary := keys(created.attestation())
		if b, err := base64.StdEncoding.DecodeString(primary); err != nil || len(b) != 64 || primary == secondary {
			t.Errorf("%s: keys %q and %q", path, primary, secondary)
		}
		if created.json["provisioningStatus"] != "enabled" || created.json["registrationState"] != nil ||
			created.json["reprovisionPolicy"] != nil || created.json["createdDateTimeUtc"] != "2026-05-04T03:02:01.1234567Z" {
			t.Errorf("%s: created %s", path, created.body)
		}
		if quoted, err := base64.StdEncoding.DecodeString(created.etag()); err != nil || len(quoted) != 38 || quoted[0] != '"' {
			t.Errorf("%s: etag %q", path, quoted)
		}

		read := s.want(200, s.service("GET", path, ""))
		if got := fmt.Sprint(read.attestation()); got != "map[type:symmetricKey]" || read.etag() != created.etag() {
			t.Errorf("%s: read %s", path, read.body)
		}
		want := "map[registrationId:dev-1 status:unassigned]"
		if got := fmt.Sprint(read.state()); got != want && strings.HasPrefix(path, "/enrollments/") {
			t.Errorf("%s: registrationState %s, want %s", path, got, want)
		}

		// What was read is written back: the stored keys stay.
		s.now = s.now.Add(time.Minute)
		updated := s.want(200, s.service("PUT", path, strings.Replace(read.body, `"enabled"`, `"Disabled"`, 1)))
		if p, q := keys(updated.attestation()); p != primary || q != secondary || updated.json["provisioningStatus"] != "disabled" {
			t.Errorf("%s: updated %s", path, updated.body)
		}
		if updated.etag() == created.etag() || updated.json["createdDateTimeUtc"] != created.json["createdDateTimeUtc"] ||
			updated.json["lastUpdatedDateTimeUtc"] != "2026-05-04T03:03:01.1234567Z" {
			t.Errorf("%s: updated %s", path, updated.body)
		}

		mechanism := s.want(200, s.service("POST", path+"/attestationmechanism", ""))
		if p, q := keys(mechanism.json); p != primary || q != secondary || mechanism.json["type"] != "symmetricKey" {
			t.Errorf("%s: mechanism %s", path, mechanism.body)
		}

		if gone := s.want(204, s.service("DELETE", path, "")); gone.body != "" {
			t.Errorf("%s: deleted %s", path, gone.body)
		}
		s.want(404, s.service("GET", path, ""))
		s.want(404, s.service("POST", path+"/attestationmechanism", ""))
	}
}

func TestEntityTags(t *testing.T) {
	s := newServer(t)
	const body = `{"attestation":{"type":"symmetricKey"}}`
	stale := s.want(200, s.service("PUT", "/enrollments/dev-1", body)).etag()
	if again := s.want(409, s.service("PUT", "/enrollments/dev-1", body)); again.json["errorCode"] != float64(errs.CodeEnrollmentConflict) {
		t.Errorf("created twice: %s", again.body)
	}
	current := func() string { return s.want(200, s.service("GET", "/enrollments/dev-1", "")).etag() }
	decoded := func(etag string) string {
		b, err := base64.StdEncoding.DecodeString(etag)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, spell := range map[string]func(etag string) string{
		"raw":            func(etag string) string { return etag },
		"quoted":         func(etag string) string { return `"` + etag + `"` },
		"decoded":        decoded,
		"decoded, inner": func(etag string) string { return strings.Trim(decoded(etag), `"`) },
		"any":            func(string) string { return "*" },
	} {
		if a := s.do(s.service("PUT", "/enrollments/dev-1", body, "If-Match", spell(current()))); a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if name == "any" {
			continue
		}
		for _, method := range []string{"PUT", "DELETE"} {
			if a := s.do(s.service(method, "/enrollments/dev-1", body, "If-Match", spell(stale))); a.status != 412 {
				t.Errorf("%s of before, %s: %d %s", name, method, a.status, a.body)
			}
		}
	}

	inBody := func(etag string) string { return `{"etag":` + quote(etag) + `,"attestation":{"type":"symmetricKey"}}` }
	s.want(412, s.service("PUT", "/enrollments/dev-1", inBody(stale)))
	s.want(200, s.service("PUT", "/enrollments/dev-1", inBody(current())))
	s.want(412, s.service("PUT", "/enrollments/dev-1", inBody(current()), "If-Match", stale)) // the header counts
	s.want(204, s.service("DELETE", "/enrollments/dev-1", "", "If-Match", current()))
	s.want(404, s.service("PUT", "/enrollments/dev-1", body, "If-Match", "*"))
	s.want(404, s.service("DELETE", "/enrollments/dev-1", ""))

	token := s.enrollKey("dev-2")
	record := s.want(202, request("PUT", registerPath("dev-2"), token, "")).state()
	s.want(412, s.service("DELETE", "/registrations/dev-2", "", "If-Match", stale))
	s.want(204, s.service("DELETE", "/registrations/dev-2", "", "If-Match", record["etag"].(string)))
	s.want(404, s.service("DELETE", "/registrations/dev-2", ""))
}

// Everything a client writes comes back, member for member.
func TestEnrollmentRoundTrip(t *testing.T) {
	const shared = `"attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"AAAAAAAAAAAAAAAAAAAAAA==","secondaryKey":"AQAAAAAAAAAAAAAAAAAAAA=="}},` +
		`"capabilities":{"iotEdge":true},"iotHubHostName":"hub-1.example",` +
		`"initialTwin":{"tags":{"b":1,"a":[null,1.50]},"properties":{"desired":{"count":null,"$x":"<&>"}}},` +
		`"provisioningStatus":"disabled","reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false},` +
		`"allocationPolicy":"static","iotHubs":["hub-1.example","hub-2.example:8443"],"credentialPolicyName":"p"`
	const times = `"createdDateTimeUtc":"2026-05-04T03:02:01.1234567Z","lastUpdatedDateTimeUtc":"2026-05-04T03:02:01.1234567Z"`
	s := newServer(t)
	for path, body := range map[string]string{
		"/enrollments/Dev-1":      `{"registrationId":"Dev-1","deviceId":"Hub Name"`,
		"/enrollmentGroups/Group": `{"enrollmentGroupId":"Group"`,
	} {
		body = strings.Replace(body, "Hub Name", "Hub-Name", 1)
		if strings.HasPrefix(path, "/enrollments") {
			body += `,"optionalDeviceInformation":{"additionalProperties":{"hello":"world"}}`
		}
		body += "," + shared + "}"
		a := s.want(200, s.service("PUT", path, body))
		var want, got map[string]any
		json.Unmarshal([]byte(strings.TrimSuffix(body, "}")+","+times+`,"etag":`+quote(a.etag())+"}"), &want)
		json.Unmarshal([]byte(a.body), &got)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\n got %v\nwant %v", path, got, want)
		}
		if !strings.Contains(a.body, `{"b":1,"a":[null,1.50]}`) || !strings.Contains(a.body, `{"count":null,"$x":"<&>"}`) {
			t.Errorf("%s: the twin is not kept to the byte: %s", path, a.body)
		}
	}
}

func TestCertificatesAreDescribedNotShown(t *testing.T) {
	s := newServer(t)
	first, second := s.issue("dev-1", false, nil), s.issue("dev-1", false, nil)
	attestation := func(primary, secondary string) string {
		return `"attestation":{"type":"x509","x509":{"clientCertificates":{"primary":` + primary + `,"secondary":` + secondary + `}}}`
	}
	der := `{"certificate":"` + base64.StdEncoding.EncodeToString(first.cert.Raw) + `"}`
	pemOfPEM := `{"certificate":"` + base64.StdEncoding.EncodeToString([]byte(second.pem())) + `"}`
	created := s.want(200, s.service("PUT", "/enrollments/dev-1", `{`+attestation(der, pemOfPEM)+`}`))
	for name, a := range map[string]answered{
		"put": created, "get": s.want(200, s.service("GET", "/enrollments/dev-1", "")),
		"mechanism": s.want(200, s.service("POST", "/enrollments/dev-1/attestationmechanism", "")),
	} {
		if strings.Contains(a.body, `"certificate"`) || strings.Count(a.body, `"info":{"subjectName":"CN=dev-1","sha1Thumbprint":`) != 2 ||
			!strings.Contains(a.body, `"serialNumber":"5EED"`) || !strings.Contains(a.body, `"notBeforeUtc":"2026-05-04T02:02:01Z"`) {
			t.Errorf("%s: %s", name, a.body)
		}
	}

	// Written back as it was read, it stays; a slot that is left out is emptied.
	kept := s.want(200, s.service("PUT", "/enrollments/dev-1", created.body))
	if fmt.Sprint(kept.attestation()) != fmt.Sprint(created.attestation()) {
		t.Errorf("written back: %s", kept.body)
	}
	info := `{"info":{"subjectName":"CN=other"}}`
	rolled := s.want(200, s.service("PUT", "/enrollments/dev-1", `{`+attestation(info, "null")+`}`, "If-Match", "*"))
	if strings.Count(rolled.body, `"info"`) != 1 || !strings.Contains(rolled.body, "CN=dev-1") {
		t.Errorf("secondary left out: %s", rolled.body)
	}
	s.want(400, s.service("PUT", "/enrollments/dev-1", `{`+attestation(info, info)+`}`, "If-Match", "*"))
	s.want(400, s.service("PUT", "/enrollments/dev-2", `{`+attestation(info, "null")+`}`))

	ca := s.issue("Factory CA", true, nil)
	group := s.want(200, s.service("PUT", "/enrollmentGroups/g",
		`{"attestation":{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":`+quote(ca.pem())+`},"secondary":null}}}}`))
	if x, _ := group.attestation()["x509"].(map[string]any); x["signingCertificates"] == nil || strings.Contains(group.body, "secondary") {
		t.Errorf("group: %s", group.body)
	}

	const references = `{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"Factory"}}}}`
	s.store.cas["factory"] = &enroll.CACertificate{Scope: scope, Name: "factory", Certificate: ca.cert.Raw}
	if refused := s.want(400, s.service("PUT", "/enrollmentGroups/h", references)); !strings.Contains(refused.body, "caReferences.primary: the CA certificate \\\"factory\\\" is not verified") {
		t.Errorf("by reference: %s", refused.body)
	}
	s.store.cas["factory"].Verified = true
	s.want(200, s.service("PUT", "/enrollmentGroups/h", references))
	if named := s.want(200, s.service("GET", "/enrollmentGroups/h", "")); !strings.Contains(named.body, `"x509":{"caReferences":{"primary":"Factory"}}`) {
		t.Errorf("by reference: %s", named.body)
	}
}

func TestTPMEnrollmentShowsItsKeys(t *testing.T) {
	s := newServer(t)
	chip := newSoftTPM(t)
	body := `{"attestation":{"type":"TPM","tpm":{"endorsementKey":"` + chip.ek + `","storageRootKey":"` + chip.srk + `"}}}`
	s.want(200, s.service("PUT", "/enrollments/dev-1", body))
	for _, r := range []*http.Request{
		s.service("GET", "/enrollments/dev-1", ""), s.service("POST", "/enrollments/query", ""),
		s.service("POST", "/enrollments/dev-1/attestationmechanism", ""),
	} {
		if a := s.want(200, r); !strings.Contains(a.body, chip.ek) || !strings.Contains(a.body, chip.srk) {
			t.Errorf("%s: %s", r.URL.Path, a.body)
		}
	}
}

func TestQueryGoesThroughAllPages(t *testing.T) {
	s := newServer(t)
	for i := range 150 {
		s.want(200, s.service("PUT", fmt.Sprintf("/enrollments/dev-%03d", i), `{"attestation":{"type":"symmetricKey"}}`))
	}
	walk := func(size string) (pages []int, ids []string) {
		t.Helper()
		next := ""
		for {
			a := s.want(200, s.service("POST", "/enrollments/query", `{"query":"SELECT * FROM enrollments"}`,
				"x-ms-max-item-count", size, "x-ms-continuation", next))
			if got := a.header["x-ms-item-type"]; !slices.Equal(got, []string{"Enrollment"}) {
				t.Errorf("x-ms-item-type %q", got)
			}
			var items []map[string]any
			if err := json.Unmarshal([]byte(a.body), &items); err != nil {
				t.Fatal(err)
			}
			pages = append(pages, len(items))
			for _, item := range items {
				ids = append(ids, item["registrationId"].(string))
				if attestation, _ := item["attestation"].(map[string]any); len(attestation) != 1 || item["registrationState"] != nil {
					t.Errorf("item %v", item)
				}
			}
			if a.header["x-ms-continuation"] == nil {
				return pages, ids
			}
			next = a.header["x-ms-continuation"][0]
		}
	}
	for size, want := range map[string][]int{"50": {50, 50, 50}, "": {100, 50}, "1000": {150}, "149": {149, 1}, "99999": {150}} {
		pages, ids := walk(size)
		if !slices.Equal(pages, want) || !slices.IsSorted(ids) || len(slices.Compact(ids)) != 150 {
			t.Errorf("page size %q: pages %v with %d items, want %v", size, pages, len(ids), want)
		}
	}

	empty := s.want(200, s.service("POST", "/enrollmentgroups/query", ""))
	if empty.body != "[]" || empty.header["x-ms-item-type"][0] != "EnrollmentGroup" || empty.header["x-ms-continuation"] != nil {
		t.Errorf("no groups: %s %v", empty.body, empty.header)
	}
	for query, status := range map[string]int{
		``: 200, ` `: 200, `{}`: 200, `{"query":""}`: 200, `{"query":null}`: 200, `{"query":"select *"}`: 200,
		`{"query":"SELECT registrationId FROM enrollments"}`: 200,
		`{"query":"*"}`: 200,
		`{"query":"SELECT * FROM enrollments WHERE registrationId = 'a'"}`: 400,
		`{"query":"SELECT * FROM enrollments where(1=0)"}`:                 400,
		`{"query":"DROP TABLE enrollments"}`:                               400,
		`{"query":7}`:                                                      400,
		`[]`:                                                               400,
	} {
		s.want(status, s.service("POST", "/enrollments/query", query))
	}

	// A continuation is good for the listing that gave it.
	next := s.want(200, s.service("POST", "/enrollments/query", "", "x-ms-max-item-count", "1")).header["x-ms-continuation"][0]
	for name, r := range map[string]*http.Request{
		"of another listing":  s.service("POST", "/enrollmentGroups/query", "", "x-ms-continuation", next),
		"of another still":    s.service("POST", "/registrations/g/query", "", "x-ms-continuation", next),
		"forged":              s.service("POST", "/enrollments/query", "", "x-ms-continuation", next[:len(next)-1]),
		"not base64":          s.service("POST", "/enrollments/query", "", "x-ms-continuation", "%%%"),
		"page size of none":   s.service("POST", "/enrollments/query", "", "x-ms-max-item-count", "0"),
		"page size of a word": s.service("POST", "/enrollments/query", "", "x-ms-max-item-count", "all"),
	} {
		if a := s.do(r); a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestServiceRequestVariants(t *testing.T) {
	s := newServer(t)
	s.enrollKey("dev:1")
	p := s.store.policies[0]
	for name, resource := range map[string]string{
		"host": dpsHost, "host in capitals": "CONTOSO.example", "host and port": dpsHost + ":8443",
		"URL": "https://" + dpsHost, "URL and port": "https://" + dpsHost + ":8443/", "alias": "alias.example",
	} {
		token := sas.Sign(p.Secondary.Bytes(), resource, s.now.Add(time.Hour), "Owner")
		if a := s.do(request("GET", "/enrollments/dev:1", token, "")); a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	milliseconds := sas.Sign(p.Primary.Bytes(), dpsHost, time.Unix(s.now.UnixMilli(), 0), "owner")
	for name, r := range map[string]*http.Request{
		"trailing slash":   s.service("GET", "/enrollments/dev:1/", ""),
		"case":             s.service("GET", "/Enrollments/DEV:1", ""),
		"percent-encoding": s.service("GET", "/enrollments/dev%3A1", ""),
		"lower-case path":  s.service("POST", "/enrollments/dev:1/AttestationMechanism", ""),
		"far expiry":       request("GET", "/enrollments/dev:1", milliseconds, ""),
		"other version":    s.service("GET", "/enrollments/dev:1?api-version=2019-03-31", ""),
		"get with a body":  s.service("GET", "/enrollments/dev:1", "{}"),
	} {
		r.Host = dpsHost + ":443"
		if a := s.do(r); a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestServiceRefusals(t *testing.T) {
	s := newServer(t)
	deviceToken := s.enrollKey("dev-1")
	p := s.store.policies[0]
	signed := func(resource string, expiry time.Time, policy string) string {
		return sas.Sign(p.Primary.Bytes(), resource, expiry, policy)
	}
	hour := s.now.Add(time.Hour)
	key, good := key32(1)
	const body = `{"attestation":{"type":"symmetricKey"}}`
	ca := s.issue("Factory CA", true, nil)
	leaf := s.issue("dev-2", false, nil)
	put := func(attestation string) *http.Request {
		return s.service("PUT", "/enrollments/dev-2", `{"attestation":`+attestation+`}`)
	}
	for name, c := range map[string]struct {
		r    *http.Request
		code errs.Code
	}{
		"no token":             {request("GET", "/enrollments/dev-1", "", ""), 401002},
		"bearer":               {request("GET", "/enrollments/dev-1", "Bearer abc", ""), 401002},
		"device token":         {request("GET", "/enrollments/dev-1", deviceToken, ""), 401002},
		"other audience":       {request("GET", "/enrollments/dev-1", signed("evil.example", hour, "owner"), ""), 401002},
		"longer audience":      {request("GET", "/enrollments/dev-1", signed("x"+dpsHost, hour, "owner"), ""), 401002},
		"audience with a path": {request("GET", "/enrollments/dev-1", signed(dpsHost+"/enrollments", hour, "owner"), ""), 401002},
		"expired":              {request("GET", "/enrollments/dev-1", signed(dpsHost, s.now.Add(-time.Hour), "owner"), ""), 401002},
		"unknown policy":       {request("GET", "/enrollments/dev-1", signed(dpsHost, hour, "nobody"), ""), 401002},
		"no policy":            {request("GET", "/enrollments/dev-1", signed(dpsHost, hour, ""), ""), 401002},
		"another key":          {request("GET", "/enrollments/dev-1", sas.Sign(key, dpsHost, hour, "owner"), ""), 401002},
		"unknown and stranger": {request("GET", "/enrollments/dev-9", "", ""), 401002},
		"no api-version":       {s.service("GET", "/enrollments/dev-1?a=b", ""), 400001},
		"unknown ID":           {s.service("GET", "/enrollments/dev-9", ""), 404201},
		"bad ID":               {s.service("GET", "/enrollments/dev%209", ""), 400000},
		"never registered":     {s.service("GET", "/registrations/dev-1", ""), 404202},
		"bulk of nothing":      {s.service("POST", "/enrollments", `{"mode":"create","enrollments":[]}`), 400000},
		"bulk with a slash":    {s.service("POST", "/enrollments/", `{}`), 400000},
		"bulk of groups":       {s.service("POST", "/enrollmentGroups", `{"mode":"create","enrollments":[{}]}`), 400000},
		"bulk of eleven":       {s.service("POST", "/enrollments", `{"mode":"create","enrollments":[{},{},{},{},{},{},{},{},{},{},{}]}`), 400000},
		"bulk in another mode": {s.service("POST", "/enrollments", `{"mode":"upsert","enrollments":[{}]}`), 400000},
		"no registration ID":   {s.service("GET", "/registrations", ""), 405000},
		"patch":                {s.service("PATCH", "/enrollments/dev-1", "{}"), 405000},
		"head":                 {s.service("HEAD", "/enrollments/dev-1", ""), 405000},
		"put a registration":   {s.service("PUT", "/registrations/dev-1", "{}"), 405000},
		"unknown collection":   {s.service("GET", "/trustBundles/a", ""), 404000},
		"no body":              {s.service("PUT", "/enrollments/dev-2", ""), 400000},
		"no attestation":       {s.service("PUT", "/enrollments/dev-2", `{}`), 400000},
		"null attestation":     {put(`null`), 400000},
		"attestation none":     {put(`{"type":"none"}`), 400000},
		"unknown attestation":  {put(`{"type":"palm"}`), 400000},
		"two mechanisms":       {put(`{"type":"symmetricKey","tpm":{"endorsementKey":"AAAA"}}`), 400000},
		"tpm without keys":     {put(`{"type":"tpm"}`), 400000},
		"tpm of junk":          {put(`{"type":"tpm","tpm":{"endorsementKey":"AAAA"}}`), 400000},
		"short key":            {put(`{"type":"symmetricKey","symmetricKey":{"primaryKey":"AAAA"}}`), 400000},
		"x509 without uses":    {put(`{"type":"x509","x509":{}}`), 400000},
		"x509 with two uses": {put(`{"type":"x509","x509":{"clientCertificates":{"primary":{"certificate":` + quote(leaf.pem()) +
			`}},"signingCertificates":{"primary":{"certificate":` + quote(ca.pem()) + `}}}}`), 400000},
		"ca for an individual": {put(`{"type":"x509","x509":{"signingCertificates":{"primary":{"certificate":` + quote(ca.pem()) + `}}}}`), 400000},
		"ca by reference":      {put(`{"type":"x509","x509":{"caReferences":{"primary":"factory"}}}`), 400000},
		"ca that is not kept":  {s.service("PUT", "/enrollmentGroups/g", `{"attestation":{"type":"x509","x509":{"caReferences":{"primary":"factory"}}}}`), 400000},
		"tpm group": {s.service("PUT", "/enrollmentGroups/g", `{"attestation":{"type":"tpm","tpm":{"endorsementKey":"`+
			newSoftTPM(t).ek+`"}}}`), 400000},
		"other ID in body":    {s.service("PUT", "/enrollments/dev-2", `{"registrationId":"dev-3",`+body[1:]), 400000},
		"other group in body": {s.service("PUT", "/enrollmentGroups/g", `{"enrollmentGroupId":"h",`+body[1:]), 400000},
		"bad hub":             {s.service("PUT", "/enrollments/dev-2", `{"iotHubs":["a/b"],`+body[1:]), 400000},
		"bad status":          {s.service("PUT", "/enrollments/dev-2", `{"provisioningStatus":"maybe",`+body[1:]), 400000},
		"custom allocation":   {s.service("PUT", "/enrollments/dev-2", `{"allocationPolicy":"custom",`+body[1:]), 400000},
		"malformed":           {s.service("PUT", "/enrollments/dev-2", body[:10]), 400000},
		"depth bomb":          {s.service("PUT", "/enrollments/dev-2", strings.Repeat(`{"initialTwin":`, 5000)), 400000},
		"oversize":            {s.service("PUT", "/enrollments/dev-2", `{"iotHubs":["`+strings.Repeat("a", 96<<10)+`"]}`), 413000},
		"form":                {s.service("PUT", "/enrollments/dev-2", body, "Content-Type", "application/x-www-form-urlencoded"), 415000},
		"query by form":       {s.service("POST", "/enrollments/query", "q=1", "Content-Type", "application/x-www-form-urlencoded"), 415000},
	} {
		a := s.do(c.r)
		if code, _ := a.json["errorCode"].(float64); errs.Code(code) != c.code && c.r.Method != "HEAD" {
			t.Errorf("%s: %d %s, want %d", name, a.status, a.body, c.code)
		}
	}
	if s.want(200, s.service("POST", "/enrollmentGroups/query", "")).body != "[]" || len(s.store.entries["individual"]) != 1 {
		t.Error("a refused request left something behind")
	}
	for _, secret := range []string{"sig=", "level=ERROR", good} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log holds %q:\n%s", secret, s.log.String())
		}
	}
}

// Each operation asks for the right that its documentation names, and for no
// other.
func TestRights(t *testing.T) {
	s := newServer(t)
	s.enrollKey("dev-1")
	const body = `{"attestation":{"type":"symmetricKey"}}`
	all := []access.Right{access.ServiceConfig, access.EnrollmentRead, access.EnrollmentWrite,
		access.DeviceConnect, access.RegistrationStatusRead, access.RegistrationStatusWrite}
	tokens := map[access.Right]string{}
	for _, right := range all {
		tokens[right] = s.policyToken("only "+right.String(), right)
	}
	for operation, need := range map[string]access.Right{
		"PUT /enrollments/dev-2":                           access.EnrollmentWrite,
		"GET /enrollments/dev-1":                           access.EnrollmentRead,
		"DELETE /enrollments/dev-2":                        access.EnrollmentWrite,
		"POST /enrollments/query":                          access.EnrollmentRead,
		"POST /enrollments/dev-1/attestationmechanism":     access.EnrollmentRead,
		"PUT /enrollmentGroups/g":                          access.EnrollmentWrite,
		"GET /enrollmentGroups/g":                          access.EnrollmentRead,
		"DELETE /enrollmentGroups/g":                       access.EnrollmentWrite,
		"POST /enrollmentGroups/query":                     access.EnrollmentRead,
		"POST /enrollmentGroups/g/attestationmechanism":    access.EnrollmentRead,
		"GET /registrations/dev-1":                         access.RegistrationStatusRead,
		"DELETE /registrations/dev-1":                      access.RegistrationStatusWrite,
		"POST /registrations/g/query":                      access.RegistrationStatusRead,
		"GET /enrollments/there-is-no-such-enrollment":     access.EnrollmentRead,
		"GET /registrations/there-is-no-such-registration": access.RegistrationStatusRead,
	} {
		method, path, _ := strings.Cut(operation, " ")
		for right, token := range tokens {
			content := ""
			if method == "PUT" {
				content = body
			}
			a := s.do(request(method, path, token, content))
			if allowed := a.status != 401; allowed != (right == need) {
				t.Errorf("%s with %v: %d %s", operation, right, a.status, a.body)
			}
		}
	}

	// Who may read enrollments only is not told what became of the device.
	if a := s.want(200, request("GET", "/enrollments/dev-1", tokens[access.EnrollmentRead], "")); a.json["registrationState"] != nil {
		t.Errorf("registrationState without the right: %s", a.body)
	}
}

// Symmetric keys are in the answers that are for them and nowhere else.
func TestKeysAreHidden(t *testing.T) {
	s := newServer(t)
	_, primary := key32(7)
	s.enrollKey("dev-1")
	shown := map[string]bool{}
	for name, r := range map[string]*http.Request{
		"get": s.service("GET", "/enrollments/dev-1", ""), "query": s.service("POST", "/enrollments/query", ""),
		"mechanism": s.service("POST", "/enrollments/dev-1/attestationmechanism", ""),
	} {
		shown[name] = strings.Contains(s.want(200, r).body, primary)
	}
	if want := map[string]bool{"get": false, "query": false, "mechanism": true}; !maps.Equal(shown, want) {
		t.Errorf("shown %v, want %v", shown, want)
	}
	if strings.Contains(s.log.String(), primary) {
		t.Error("the log holds a key")
	}
}

// An enrollment with the key of another one is written with a warning, or not at
// all, as its scope wants it.
func TestKeysThatOthersHave(t *testing.T) {
	s := newServer(t)
	const body = `{"attestation":{"type":"symmetricKey"}}`
	put := func(id string) *http.Request { return s.service("PUT", "/enrollments/"+id, body) }
	if a := s.want(200, put("dev-1")); a.header["Warning"] != nil {
		t.Errorf("%q", a.header["Warning"])
	}
	s.store.sharers = []string{"dev-8", "dev-9"}
	for name, a := range map[string]answered{
		"one":  s.want(200, put("dev-2")),
		"bulk": s.want(200, s.service("POST", "/enrollments", `{"mode":"create","enrollments":[{"registrationId":"dev-3","attestation":{"type":"symmetricKey"}}]}`)),
	} {
		if got := a.header["Warning"]; len(got) != 1 || !strings.HasPrefix(got[0], `299 - "The symmetric key of dev-`) || !strings.Contains(got[0], "dev-8, dev-9") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if a := s.want(200, s.service("PUT", "/enrollmentGroups/fleet", body)); a.header["Warning"] != nil {
		t.Errorf("a group: %q", a.header["Warning"])
	}
	s.store.sharedKeys = provision.RefuseSharedKeys
	if a := s.want(409, put("dev-4")); !strings.Contains(a.body, "dev-8, dev-9") {
		t.Error(a.body)
	}
	s.want(404, s.service("GET", "/enrollments/dev-4", ""))
	s.want(200, s.service("PUT", "/enrollmentGroups/other", body))
}
