package hubhttp

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// bulk sends a bulk operation and returns its status and what was wrong with its
// entries: "id/module code", each once.
func (s *server) bulk(body string) (status int, wrong string) {
	s.Helper()
	r := s.as("POST", "/devices", body)
	var result struct {
		IsSuccessful *bool
		Errors       []struct {
			DeviceID    string
			ModuleID    *string
			ErrorCode   int
			ErrorStatus string
			Operation   string
		}
		Warnings []any
	}
	if err := json.Unmarshal([]byte(r.body), &result); err != nil || result.IsSuccessful == nil || result.Errors == nil || result.Warnings == nil {
		s.Fatalf("%v: %d %s", err, r.status, r.body)
	}
	if *result.IsSuccessful != (len(result.Errors) == 0) || *result.IsSuccessful != (r.status == 200) || r.status != 200 && r.status != 400 {
		s.Errorf("%d %s", r.status, r.body)
	}
	var all []string
	for _, e := range result.Errors {
		name := e.DeviceID
		if e.ModuleID != nil {
			name += "/" + *e.ModuleID
		}
		all = append(all, fmt.Sprintf("%s %d %s", name, e.ErrorCode, e.Operation))
		if e.ErrorStatus == "" {
			s.Errorf("no reason: %s", r.body)
		}
	}
	return r.status, strings.Join(all, ", ")
}

func (s *server) wantBulk(what, body, wrong string) {
	s.Helper()
	if _, got := s.bulk(body); got != wrong {
		s.Errorf("%s: %q, want %q", what, got, wrong)
	}
}

func TestBulkOperations(t *testing.T) {
	s := start(t)
	s.wantBulk("nothing", `[]`, "")
	s.wantBulk("create", `[
		{"id":"d1","importMode":"create","status":"enabled","authentication":`+keysJSON(1, 2)+`,"tags":{"site":"a"},"properties":{"desired":{"rate":10},"reported":{"x":1}}},
		{"ID":"d2","IMPORTMODE":"CREATE","STATUS":"Disabled","statusReason":"later","authentication":{"symmetricKey":{"primaryKey":null,"secondaryKey":null},"x509Thumbprint":null,"type":"sas"}},
		{"id":"d3","importMode":1,"authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+strings.Repeat("A", 40)+`"}}},
		{"id":"edge","importMode":"Create","capabilities":{"iotEdge":true}},
		{"id":"d1","moduleId":"m1","importMode":"create","managedBy":"me","authentication":`+keysJSON(3, 4)+`,"properties":{"desired":{"of":"m1"}}},
		{"id":"d4","authentication":{"type":"certificateAuthority"}}]`, "")
	twin := s.as("GET", "/twins/d1", "").body
	for _, want := range []string{`"tags":{"site":"a"}`, `"rate":10`, `"version":2,`} {
		if !strings.Contains(twin, want) {
			t.Errorf("the twin of a new device lacks %s: %s", want, twin)
		}
	}
	if strings.Contains(twin, `"x":1`) {
		t.Errorf("an operator wrote what a device reports: %s", twin)
	}
	if m := s.as("GET", "/devices/d1/modules/m1", "").body; member(t, m, "managedBy") != "me" || !strings.Contains(m, testKey(3).Base64()) {
		t.Errorf("a module: %s", m)
	}
	if !strings.Contains(s.as("GET", "/twins/d1/modules/m1", "").body, `"of":"m1"`) || strings.Count(s.as("GET", "/devices/edge/modules", "").body, "$edge") != 2 {
		t.Error("a module has not its twin, or IoT Edge not its modules")
	}
	if d := s.as("GET", "/devices/d2", "").body; member(t, d, "status") != "disabled" || member(t, d, "statusReason") != "later" {
		t.Errorf("disabled: %s", d)
	}

	// One that cannot be done keeps none of the others from being done.
	s.wantBulk("create again", `[{"id":"d1","importMode":"create"},{"id":"new","importMode":"create"},{"id":"d1","moduleId":"m1","importMode":"create"}]`,
		"d1 409001 create, d1/m1 409301 create")
	s.as("GET", "/devices/new", "").want(t, "the one between", 200, 0)

	etag := etagOf(t, s.as("GET", "/devices/d1", ""))
	s.wantBulk("stale", `[{"id":"d1","importMode":"updateIfMatchETag","eTag":"stale"},{"id":"new","importMode":4,"eTag":"stale"},{"id":"d2","importMode":"deleteIfMatchETag","eTag":"stale"}]`,
		"d1 412001 updateIfMatchETag, new 412001 createOrUpdateIfMatchETag, d2 412001 deleteIfMatchETag")
	s.wantBulk("of nothing", `[{"id":"no1","importMode":"update"},{"id":"no2","importMode":"delete"},{"id":"no3","importMode":"updateIfMatchETag","eTag":"*"},
		{"id":"no4","importMode":"updateTwin","tags":{"a":1}},{"id":"no5","moduleId":"m","importMode":"create"},{"id":"d1","moduleId":"m9","importMode":"update"}]`,
		"no1 404001 update, no2 404001 delete, no3 404001 updateIfMatchETag, no4 404001 updateTwin, no5/m 404001 create, d1/m9 404010 update")
	s.wantBulk("update", `[{"id":"d1","importMode":"updateIfMatchETag","eTag":"\"`+etag+`\"","status":"disabled","authentication":`+keysJSON(1, 2)+`,"tags":{"b":2}},
		{"id":"d2","importMode":"UPDATE","status":"enabled"},{"id":"d5","importMode":"createOrUpdateIfMatchETag","eTag":"x"},
		{"id":"d1","moduleId":"m1","importMode":"createOrUpdate","authentication":{"type":"none"},"properties":{"desired":{"of":"it"}}}]`, "")
	if twin := s.as("GET", "/twins/d1", "").body; !strings.Contains(twin, `"tags":{"b":2}`) || !strings.Contains(twin, `"rate":10`) || !strings.Contains(twin, `"status":"disabled"`) {
		t.Errorf("sections that are said are written over, and others stay: %s", twin)
	}
	if twin := s.as("GET", "/twins/d1/modules/m1", "").body; !strings.Contains(twin, `"of":"it"`) || !strings.Contains(twin, `"authenticationType":"none"`) {
		t.Errorf("the module became %s", twin)
	}

	stale := etagOf(t, s.as("GET", "/twins/d2", ""))
	s.wantBulk("twins", `[{"id":"d1","importMode":"updateTwin","tags":{"b":null,"c":3}},{"id":"d2","importMode":8,"twinETag":"`+stale+`","properties":{"desired":{"x":1}}},
		{"id":"d1","moduleId":"m1","importMode":"updateTwin","properties":{"desired":{"more":true}}}]`, "")
	s.wantBulk("a stale twin", `[{"id":"d2","importMode":"updateTwinIfMatchETag","twinETag":"`+stale+`","tags":{"a":1}}]`, "d2 412001 updateTwinIfMatchETag")
	s.wantBulk("a twin, whatever it is", `[{"id":"d2","importMode":"updateTwinIfMatchETag","twinETag":"*","tags":{"a":1}}]`, "")
	if twin := s.as("GET", "/twins/d1", "").body; !strings.Contains(twin, `"tags":{"c":3}`) {
		t.Errorf("merged into %s", twin)
	}
	if twin := s.as("GET", "/twins/d1/modules/m1", "").body; !strings.Contains(twin, `"of":"it","more":true`) {
		t.Errorf("merged into %s", twin)
	}

	s.wantBulk("delete", `[{"id":"d1","importMode":"delete"},{"id":"d2","importMode":"Delete"},{"id":"edge","moduleId":"$edgeHub","importMode":5}]`, "edge/$edgeHub 401100 delete")
	for _, path := range []string{"/devices/d1", "/twins/d2"} {
		s.as("GET", path, "").want(t, "deleted", 404, errs.CodeDeviceNotFound)
	}
}

func TestBulkEntriesThatAreRefused(t *testing.T) {
	s := start(t)
	const secret = "c2VjcmV0LWtleQ=" // is not base64
	s.wantBulk("one by one", `[
		{"id":"","importMode":"create"}, null,
		{"id":"a b","importMode":"create"},
		{"id":"d1","moduleId":"x/y","importMode":"create"},
		{"id":"mode","importMode":"replace"}, {"id":"number","importMode":9}, {"id":"object","importMode":{}},
		{"id":"status","importMode":"create","status":"stolen"},
		{"id":"key","importMode":"create","authentication":{"symmetricKey":{"primaryKey":"`+secret+`"}}},
		{"id":"type","importMode":"create","authentication":{"type":"password"}},
		{"id":"parents","importMode":"create","parentScopes":["ms-azure-iot-edge://e-1"]},
		{"id":"tags","importMode":"create","tags":{"a.b":1}},
		{"id":"desired","importMode":"create","properties":{"desired":[]}},
		{"id":"good","importMode":"create"}]`,
		" 400004 create,  400004 createOrUpdate, a b 400004 create, d1/x/y 400004 create, mode 400004 , number 400004 , object 400004 , status 400004 create, "+
			"key 400004 create, type 400004 create, parents 400028 create, tags 400004 create, desired 400004 create")
	if r := s.as("POST", "/devices", `[{"id":"key","importMode":"create","authentication":{"symmetricKey":{"primaryKey":"`+secret+`"}}}]`); strings.Contains(r.body, secret[:8]) {
		t.Errorf("a key is in the answer: %s", r.body)
	}
	s.as("GET", "/devices/good", "").want(t, "the good one", 200, 0)
	s.wantBulk("twice", `[{"id":"twice","importMode":"create"},{"id":"once","importMode":"create"},{"id":"twice","importMode":"delete"},{"id":"once","moduleId":"m","importMode":"create"}]`,
		"twice 400011 create, twice 400011 delete")

	for name, body := range map[string]string{"no JSON": `x`, "an object": `{}`, "null": `null`, "numbers": `[1]`, "a number for a name": `[{"id":1}]`, "nothing": ``} {
		s.as("POST", "/devices", body).want(t, name, 400, errs.CodeFormatError)
	}
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf(`{"id":"many-%d","importMode":"create"}`, i))
	}
	s.as("POST", "/devices", "["+strings.Join(many, ",")+"]").want(t, "101", 413, errs.CodeTooManyDevices)
	s.as("GET", "/devices/many-0", "").want(t, "the first of 101", 404, errs.CodeDeviceNotFound)
	s.wantBulk("100", "["+strings.Join(many[:100], ",")+"]", "")
	s.as("POST", "/devices", `[]`, "Content-Type", "text/plain").want(t, "no JSON declared", 415, errs.CodeUnsupportedMediaType)
}

func TestNewKeys(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1", `{"authentication":`+keysJSON(1, 2)+`}`).want(t, "create", 200, 0)
	s.as("PUT", "/devices/d1/modules/m1", `{"authentication":`+keysJSON(3, 4)+`}`).want(t, "create", 200, 0)
	s.as("PUT", "/devices/pinned", `{"authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+strings.Repeat("A", 40)+`"}}}`).want(t, "create", 200, 0)
	regenerate := func(which string) (keys map[string]string) {
		t.Helper()
		r := s.as("POST", "/devices/keys/regenerate", `{"policyKey":"`+which+`","devices":[{"id":"d1"},{"id":"d1","moduleId":"m1"},{"id":"pinned"},{"id":"nobody"}]}`)
		r.want(t, which, 200, 0)
		var result struct {
			PolicyKey   string
			RotatedKeys []struct {
				ID, ModuleID             device.ID
				PrimaryKey, SecondaryKey string
			}
			Errors []struct {
				ID          device.ID
				ErrorCode   int
				ErrorStatus string
			}
		}
		if err := json.Unmarshal([]byte(r.body), &result); err != nil || len(result.RotatedKeys) != 2 || len(result.Errors) != 2 ||
			result.Errors[0].ErrorCode != 400004 || result.Errors[1].ErrorCode != 404001 || result.PolicyKey != which {
			t.Fatalf("%v %s", err, r.body)
		}
		keys = map[string]string{}
		for _, k := range result.RotatedKeys {
			keys[string(k.ID+"/"+k.ModuleID)+" 1"], keys[string(k.ID+"/"+k.ModuleID)+" 2"] = k.PrimaryKey, k.SecondaryKey
		}
		return keys
	}
	first := regenerate("primary")
	if first["d1/ 1"] == testKey(1).Base64() || first["d1/ 2"] != testKey(2).Base64() || first["d1/m1 1"] == testKey(3).Base64() || first["d1/m1 2"] != testKey(4).Base64() {
		t.Errorf("primary: %v", first)
	}
	second := regenerate("secondary")
	if second["d1/ 1"] != first["d1/ 1"] || second["d1/ 2"] == testKey(2).Base64() {
		t.Errorf("secondary: %v", second)
	}
	both := regenerate("both")
	if both["d1/ 1"] == second["d1/ 1"] || both["d1/ 2"] == second["d1/ 2"] || both["d1/ 1"] == both["d1/ 2"] {
		t.Errorf("both: %v", both)
	}
	if d := s.as("GET", "/devices/d1", "").body; !strings.Contains(d, both["d1/ 1"]) || !strings.Contains(d, both["d1/ 2"]) {
		t.Errorf("the device has other keys: %s", d)
	}
	for name, body := range map[string]string{
		"no choice":    `{"devices":[{"id":"d1"}]}`,
		"a bad choice": `{"policyKey":"third","devices":[{"id":"d1"}]}`,
		"a bad ID":     `{"policyKey":"both","devices":[{"id":"a b"}]}`,
		"a bad module": `{"policyKey":"both","devices":[{"id":"d1","moduleId":"a b"}]}`,
	} {
		s.as("POST", "/devices/keys/regenerate", body).want(t, name, 400, errs.CodeArgumentInvalid)
	}
}

func FuzzDecodeBulk(f *testing.F) {
	f.Add([]byte(`[{"id":"d1","moduleId":null,"eTag":"MA==","importMode":"createOrUpdate","status":"enabled","authentication":{"type":"sas"},"tags":{},"properties":{"desired":{"x":1}},"capabilities":{"iotEdge":false},"deviceScope":null,"parentScopes":[]}]`))
	f.Add([]byte(`[{"id":"d1","importMode":8,"twinETag":"AAAAAAAAAAE=","tags":null},null]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		entries, err := decodeBulk(body)
		if err != nil {
			if k := errs.KindOf(err); k != errs.Invalid && k != errs.TooLarge {
				t.Errorf("not the sender's fault: %v", err)
			}
			return
		}
		for _, e := range entries {
			if e.Unreadable != nil {
				continue
			}
			if _, err := device.ParseID(string(e.ID)); err != nil || e.Mode == "" || string(e.Twin.Tags) == "null" {
				t.Errorf("%s became %+v", body, e)
			}
		}
	})
}
