package hubhttp

import (
	"strings"
	"testing"

	"github.com/berth-iot/berth/access"
)

func TestConfigurations(t *testing.T) {
	s := start(t)
	s.as("PUT", "/devices/d1", `{"deviceId":"d1"}`)
	const content = `{"deviceContent":{"properties.desired.rate":{"s":5}},"modulesContent":null}`
	const body = `{"id":"cfg1","schemaVersion":"1.0","labels":{"k":"v"},"content":` + content + `,"targetCondition":"deviceId='d1'","priority":10,"metrics":{"queries":{"ok":"SELECT deviceId FROM devices"},"results":{}}}`
	made := s.as("PUT", "/configurations/cfg1", body)
	if made.status != 200 || !strings.Contains(made.header.Get("ETag"), etagOf(t, made)) {
		t.Fatal(made)
	}
	for _, part := range []string{
		`{"id":"cfg1","schemaVersion":"1.0","labels":{"k":"v"},"content":{"deviceContent":{"properties.desired.rate":{"s":5}},"modulesContent":null,"moduleContent":null},"targetCondition":"deviceId='d1'"`,
		`"priority":10,"systemMetrics":{"results":{"appliedCount":0,"targetedCount":1},"queries":{"appliedCount":"SELECT deviceId FROM devices WHERE configurations.[[cfg1]].status = 'Applied'","targetedCount":"SELECT deviceId FROM devices WHERE deviceId='d1'"}}`,
		`"metrics":{"results":{"ok":1},"queries":{"ok":"SELECT deviceId FROM devices"}}`,
	} {
		if !strings.Contains(made.body, part) {
			t.Errorf("%s has no %s", made.body, part)
		}
	}
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     string
	}{
		{"one that exists", "PUT", "/configurations/cfg1", body, nil, 409, "ConfigurationAlreadyExists"},
		{"a stale tag", "PUT", "/configurations/cfg1", body, []string{"If-Match", `"x"`}, 412, "PreconditionFailed"},
		{"another content", "PUT", "/configurations/cfg1", strings.Replace(body, `"s":5`, `"s":6`, 1), []string{"If-Match", "*"}, 400, "CannotModifyImmutableConfigurationContent"},
		{"another ID", "PUT", "/configurations/cfg2", body, nil, 400, "ArgumentInvalid"},
		{"no JSON", "PUT", "/configurations/cfg2", `{`, nil, 400, "IotHubFormatError"},
		{"no content", "PUT", "/configurations/cfg2", `{"targetCondition":"*"}`, nil, 400, "InvalidConfigurationContent"},
		{"a broken condition", "PUT", "/configurations/cfg2", `{"content":` + content + `,"targetCondition":"tags.x ="}`, nil, 400, "InvalidConfigurationTargetCondition"},
		{"a broken metric", "PUT", "/configurations/cfg2", `{"content":` + content + `,"targetCondition":"*","metrics":{"queries":{"m":"SELECT"}}}`, nil, 400, "InvalidConfigurationCustomMetricsQuery"},
		{"none", "GET", "/configurations/none", "", nil, 404, "ConfigurationNotFound"},
		{"a number of none", "GET", "/configurations?top=0&api-version=2021-04-12", "", nil, 400, "ArgumentInvalid"},
		{"content for nobody", "POST", "/devices/nobody/applyConfigurationContent", content, nil, 404, "DeviceNotFound"},
		{"no content for one", "POST", "/devices/d1/applyConfigurationContent", `{}`, nil, 400, "InvalidConfigurationContent"},
	} {
		if r := s.as(c.method, c.path, c.body, c.headers...); r.status != c.status || r.header.Get("iothub-errorcode") != c.code {
			t.Errorf("%s: %d %s", c.name, r.status, r.body)
		}
	}
	if r := s.as("PUT", "/configurations/cfg1", strings.Replace(body, `"priority":10`, `"priority":11`, 1), "If-Match", `"`+etagOf(t, made)+`"`); r.status != 200 || !strings.Contains(r.body, `"priority":11`) {
		t.Error(r)
	}
	if r := s.as("GET", "/configurations/?top=5&api-version=2021-04-12", ""); r.status != 200 || !strings.HasPrefix(r.body, `[{"id":"cfg1"`) {
		t.Error(r)
	}
	if r := s.as("POST", "/configurations/testQueries", `{"targetCondition":"tags.x =","customMetricQueries":{"a":"SELECT * FROM devices","b":"x"}}`); r.status != 200 ||
		!strings.Contains(r.body, `"targetConditionError":"`) || strings.Contains(r.body, `"a"`) || !strings.Contains(r.body, `"b":"`) {
		t.Error(r)
	}
	if r := s.as("POST", "/configurations/testQueries", `{"targetCondition":"FROM devices.modules WHERE moduleId='m'"}`); r.status != 200 || r.body != `{"targetConditionError":null,"customMetricQueryErrors":{}}` {
		t.Error(r)
	}
	if r := s.as("POST", "/devices/d1/applyConfigurationContent", content); r.status != 204 {
		t.Error(r)
	}
	if r := s.as("GET", "/twins/d1", ""); !strings.Contains(r.body, `"desired":{"rate":{"s":5},`) {
		t.Error(r)
	}
	if r := s.as("DELETE", "/configurations/cfg1", ""); r.status != 204 {
		t.Error(r)
	}

	// Either kind of right is documented for them.
	for policy, want := range map[string]map[string]int{
		"service":      {"GET": 200, "PUT": 200},
		"registryRead": {"GET": 200, "PUT": 401},
		"device":       {"GET": 401, "PUT": 401},
	} {
		rights := map[string]access.Right{"service": access.ServiceConnect, "registryRead": access.RegistryRead, "device": access.HubDeviceConnect}
		p := s.policy(policy, rights[policy])
		for method, status := range want {
			path := "/configurations"
			if method == "PUT" {
				path += "/" + policy
			}
			sent := strings.Replace(body, "cfg1", policy, 1)
			if policy == "registryRead" {
				sent = strings.Replace(body, "cfg1", "registryread", 1)
				path = strings.ToLower(path)
			}
			if r := s.send(method, path, sent, "Authorization", token(p), "Content-Type", "application/json"); r.status != status {
				t.Errorf("%s of %s: %d %s", method, policy, r.status, r.body)
			}
		}
	}
}
