package query

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berth-iot/berth/errs"
)

// A page is a document of JSON.
type page string

func (p page) Lookup(at Path) Value { return Find(json.RawMessage(p), at, false) }

func mustParse(t *testing.T, text string) *Query {
	t.Helper()
	q, err := Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return q
}

func mustCondition(t *testing.T, text string) *Condition {
	t.Helper()
	c, err := ParseCondition(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

// What is understood, as it is printed.
func TestQueries(t *testing.T) {
	for text, want := range map[string]string{
		"select * from devices":                                                                "SELECT * FROM devices",
		"SELECT TOP 5 * FROM Devices.Modules":                                                  "SELECT TOP 5 * FROM devices.modules",
		"Select * from devices where capabilities.iotEdge = true":                              "SELECT * FROM devices WHERE capabilities.iotEdge = true",
		"SELECT LastActivityTime FROM devices":                                                 "SELECT lastActivityTime FROM devices",
		"SELECT deviceId AS [[an id]], tags.a FROM devices":                                    "SELECT deviceId AS [[an id]], tags.a FROM devices",
		"SELECT top FROM devices":                                                              "SELECT top FROM devices",
		"SELECT 1+2*3 AS x, -(4) AS y FROM devices":                                            "SELECT 1 + 2 * 3 AS x, -4 AS y FROM devices",
		"SELECT COUNT() FROM devices":                                                          "SELECT COUNT() FROM devices",
		"select count() as n, avg(tags.a), max(tags.a+1) from devices group by tags.b, status": "SELECT COUNT() AS n, AVG(tags.a), MAX(tags.a + 1) FROM devices GROUP BY tags.b, status",
		"select tags.b, count() as n, avg(tags.a) from devices group by tags.b,status":         "SELECT tags.b, COUNT() AS n, AVG(tags.a) FROM devices GROUP BY tags.b, status",
		"SELECT * FROM devices WHERE devices.deviceId='a' AND devices.tags.b=1":                "SELECT * FROM devices WHERE deviceId = 'a' AND tags.b = 1",
		"SELECT * FROM devices.modules WHERE devices.modules.moduleId='a'":                     "SELECT * FROM devices.modules WHERE moduleId = 'a'",
		"SELECT * FROM devices WHERE tags.from = 1 AND properties.reported.2nd.select = 0x1F":  "SELECT * FROM devices WHERE tags.from = 1 AND properties.reported.2nd.select = 31",
		"select * from devices where array_contains(parentScopes, 'ms-azure-iot-edge://x-1')":  "SELECT * FROM devices WHERE ARRAY_CONTAINS(parentScopes, 'ms-azure-iot-edge://x-1')",
		"select deviceId from devices where configurations.[[cfg-1]].status = 'Applied'":       "SELECT deviceId FROM devices WHERE configurations.[[cfg-1]].status = 'Applied'",
	} {
		q, err := Parse(text)
		if err != nil || q.String() != want {
			t.Errorf("%s: %v, %v; want %s", text, q, err, want)
		}
	}
}

func TestConditionsPrinted(t *testing.T) {
	for text, want := range map[string]string{
		"a=1 or b=2 and not c=3":                          "a = 1 OR b = 2 AND NOT c = 3",
		"(a=1 or b=2) and c=3":                            "(a = 1 OR b = 2) AND c = 3",
		"(a=1 and (b=2 and c=3))":                         "a = 1 AND (b = 2 AND c = 3)",
		"NOT (a = 1 AND b <> 2)":                          "NOT (a = 1 AND b != 2)",
		"not not a":                                       "NOT NOT a",
		"a-(b-c)-d*(e+f)/g%h > - -1":                      "a - (b - c) - d * (e + f) / g % h > 1",
		"-a.b = --c":                                      "-a.b = --c",
		`a = "it's" and b = 'say \"\u0041\\\uD83D\uDE00'`: `a = 'it\'s' AND b = 'say "A\\😀'`,
		`a = '\u0007é'`:                                   `a = '\u0007é'`,
		"a in [1, 'b', true,null , undefined]":            "a IN [1, 'b', true, null, undefined]",
		"a nin []":                                        "a NIN []",
		"a[0][12].b.[[c d]].[[]]].true = 1.50e3":          "a[0][12].b.[[c d]].[[]]].true = 1500",
		"[[where]] = [[3]]":                               "[[where]] = [[3]]",
		"array_contains([ [1],2], b)":                     "ARRAY_CONTAINS([ [1], 2], b)",
		"(a=1)=true":                                      "(a = 1) = true",
		"(a in [1]) = (b=1)":                              "(a IN [1]) = (b = 1)",
		"startswith(lower(a), concat('b','c'))":           "STARTS_WITH(LOWER(a), CONCAT('b', 'c'))",
		"DEVICEID = 'a' and PROPERTIES.Reported.X=1":      "deviceId = 'a' AND properties.reported.X = 1",
		"properties.desired.$version > 4":                 "properties.desired.$version > 4",
		"température = 1e300":                             "température = 1e+300",
	} {
		c, err := ParseCondition(text)
		if err != nil || c.String() != want {
			t.Errorf("%s: %v, %v; want %s", text, c, err, want)
			continue
		}
		if again := mustCondition(t, c.String()); again.String() != want {
			t.Errorf("%s is read as %s", want, again)
		}
	}
}

func TestRoutes(t *testing.T) {
	message := page(`{"processingPath":"hot","severity":"3","$contentEncoding":"UTF-8","$dt-subject":"thermostat","$connectionDeviceId":"d1",
		"$body":{"Weather":{"Temperature":50,"IsEnabled":true,"Location":{"State":"WA"},"HistoricalData":[{"Month":"Feb"},{"Month":"Jan"}]}},
		"$twin":{"properties":{"desired":{"telemetryConfig":{"sendFrequency":"5m"}}},"tags":{"deploymentLocation":{"floor":1}}}}`)
	for text, want := range map[string]bool{
		`$contentEncoding = 'UTF-8'`:                                         true,
		`processingPath = 'hot'`:                                             true,
		`$contentEncoding = 'UTF-8' AND processingPath = 'hot'`:              true,
		`$body.Weather.HistoricalData[0].Month = 'Feb'`:                      true,
		`$body.Weather.HistoricalData[2].Month = 'Feb'`:                      false,
		`$body.Weather.Temperature = 50 AND $body.Weather.IsEnabled`:         true,
		`length($body.Weather.Location.State) = 2`:                           true,
		`$body.Weather.Temperature = 50 AND processingPath = 'hot'`:          true,
		`is_defined($body.properties.desired.telemetryConfig.sendFrequency)`: false,
		`$body[0] = 'Feb'`: false,
		`$twin.properties.desired.telemetryConfig.sendFrequency = '5m'`: true,
		`$twin.tags.deploymentLocation.floor = 1`:                       true,
		`processingPath = 'hot' AND as_number(severity) <= 2`:           false,
		`as_number(severity) <= 3`:                                      true,
		`$dt-subject = 'thermostat'`:                                    true,
		`severity = 3`:                                                  false,
		`true`:                                                          true,
		`false`:                                                         false,
	} {
		c, err := ParseRoute(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if c.Holds(message) != want {
			t.Errorf("%s: %v", text, !want)
		}
		if again, err := ParseRoute(c.String()); err != nil || again.String() != c.String() {
			t.Errorf("%s is read as %v (%v)", c, again, err)
		}
	}
}

func TestRefusedQueries(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "at character 1: expected SELECT, found the end",
		"SELEKT * FROM devices":           "at character 1: expected SELECT, found SELEKT",
		"SELECT *":                        "expected FROM, found the end",
		"SELECT * FROM":                   "expected devices or devices.modules, found the end",
		"SELECT * FROM twins":             "at character 15: expected devices or devices.modules, found twins",
		"SELECT * FROM devices.jobs":      "devices.jobs is not offered",
		"SELECT * FROM devices.cats":      "expected modules, found cats",
		"SELECT *, deviceId FROM devices": "expected FROM, found ,",
		"SELECT deviceId FROM devices ORDER BY tags": "ORDER BY is not in this language",
		"SELECT TOP 0 * FROM devices":                "TOP takes a whole number",
		"SELECT TOP 1.5 * FROM devices":              "TOP takes a whole number",
		"SELECT TOP 99999999999 * FROM devices":      "TOP takes a whole number",
		"SELECT deviceId AS FROM devices":            "expected a name, found FROM",
		"SELECT deviceId AS select FROM devices":     "expected a name, found select",
		"SELECT deviceId id FROM devices":            "expected FROM, found id",
		"SELECT a.x, b.x FROM devices":               `two columns have the name "x"`,
		"SELECT COUNT(), COUNT() FROM devices":       `two columns have the name "count"`,
		"SELECT COUNT(*) FROM devices":               "expected ), found *",
		"SELECT COUNT(deviceId) FROM devices":        "expected ), found deviceId",
		"SELECT AVG() FROM devices":                  "expected a property, a value or a function, found )",
		"SELECT 1 + COUNT() AS n FROM devices":       "an aggregate is a column by itself",
		"SELECT MAX(COUNT()) FROM devices":           "an aggregate is a column by itself",
		"SELECT deviceId, COUNT() FROM devices":      "deviceId is neither an aggregate nor in GROUP BY",
		"SELECT * FROM devices GROUP BY tags.a":      "SELECT * has no GROUP BY",
		"SELECT tags.b FROM devices GROUP BY tags.a": "tags.b is neither",
		"SELECT COUNT() FROM devices GROUP tags.a":   "expected BY",
		"SELECT COUNT() FROM devices GROUP BY 1":     "GROUP BY takes properties",
		"SELECT COUNT() FROM devices GROUP BY":       "expected a property",
		"SELECT * FROM devices WHERE":                "expected a property, a value or a function, found the end",
		"SELECT * FROM devices WHERE a = 1 b":        "expected the end or AND or OR, found b",
		"SELECT * FROM devices; DROP TABLE device":   "there is no ';'",
		"SELECT * FROM devices WHERE $body.x = 1":    "known to routes only",
		"SELECT * FROM devices JOIN devices.modules": "expected the end",
		"SELECT * FROM devices HAVING a = 1":         "expected the end",
		strings.Repeat("x", MaxText+1):               "it has 16385 bytes; 16384 are allowed",
		"SELECT * FROM devices WHERE a = '\xff'":     "it is not UTF-8",
	} {
		q, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%.60s: %v, %v; want %s", text, q, err, want)
		}
	}
}

func TestRefusedConditions(t *testing.T) {
	for text, want := range map[string]string{
		"a = ":                              "expected a property, a value or a function, found the end",
		"a == 1":                            "found =",
		"a = 1 = 1":                         "a comparison is not compared",
		"a IN [1] = true":                   "a comparison is not compared",
		"a IN 1":                            "expected [",
		"a IN ['x'":                         "expected , or ]",
		"a IN [,]":                          "found ,",
		"a LIKE 'x%'":                       "found LIKE",
		"a = 'x":                            "at character 5: the string has no end",
		"é = 'x":                            "at character 5: the string has no end",
		`a = 'x\n'`:                         "this is no escape",
		`a = '\u12'`:                        "this is no escape",
		`a = '\uD800'`:                      "this is no escape",
		`a = '\uD800\u0041'`:                "this is no escape",
		`a = '\uDC00'`:                      "this is no escape",
		`a = '\`:                            "this is no escape",
		"a = 5x":                            "this is no number",
		"a = 0x":                            "this is no number",
		"a = 0xfffffffffffffffff":           "this is no number",
		"a = 1e999":                         "this is no number",
		"a = 5.":                            "expected the end",
		"a. = 1":                            "expected a name, found =",
		"a.'b' = 1":                         "expected a name, found a string",
		"a[] = 1":                           "expected the number of an element",
		"a[1.5] = 1":                        "expected the number of an element",
		"a[-1] = 1":                         "expected the number of an element",
		"a['b'] = 1":                        "expected the number of an element",
		"a[1 = 1":                           "expected ]",
		"[[]] = 1":                          "there is no name between",
		"[[a = 1":                           "[[ has no ]]",
		"(a = 1":                            "expected ), found the end",
		"a = 1)":                            "found )",
		"a AND":                             "found the end",
		"AND a":                             "found AND",
		"NOT":                               "found the end",
		"a & b":                             `there is no '&'`,
		"a = #":                             `there is no '#'`,
		"frobnicate(a) = 1":                 "there is no function frobnicate",
		"is_defined()":                      "IS_DEFINED takes one argument",
		"is_defined(1)":                     "IS_DEFINED takes a property",
		"is_defined(a, b)":                  "IS_DEFINED takes one argument",
		"contains(a)":                       "CONTAINS takes 2 arguments",
		"substring(a)":                      "SUBSTRING takes 2 or 3 arguments",
		"concat(a)":                         "CONCAT takes 2 arguments or more",
		"lower(a":                           "expected , or )",
		"count() > 1":                       "an aggregate is a column by itself",
		"$body.x = 1":                       "known to routes only",
		"select = 1":                        "found select",
		strings.Repeat("(", 65) + "a":       "too deep",
		strings.Repeat("NOT ", 65):          "too deep",
		strings.Repeat("-", 65):             "too deep",
		"a = " + strings.Repeat("[ ", 65):   "too deep",
		strings.Repeat("lower(", 65):        "too deep",
		strings.Repeat("a+", 300) + "a = 1": "too many properties",
	} {
		c, err := ParseCondition(text)
		if err == nil || !strings.Contains(err.Error(), want) || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%.60s: %v, %v; want %s", text, c, err, want)
		}
	}
}

const thermostat = page(`{"deviceId":"pump-7","status":"enabled","capabilities":{"iotEdge":true},
	"tags":{"location":{"region":"US","plant":"Redmond43"},"n":5,"zero":0,"yes":true,"no":false,"list":[1,"a",null,{"b":1}],"nul":null,"euro":"prix: 5 €","one":"1"},
	"properties":{"desired":{"telemetryConfig":{"configId":"db00ebf5","sendFrequencyInSecs":300},"$version":4},
	"reported":{"telemetryConfig":{"configId":"db00ebf5","sendFrequencyInSecs":300,"status":"Success"},"connectivity":{"type":"cellular"}}},
	"configurations":{"cfg-1":{"status":"Applied"}},"parentScopes":["ms-azure-iot-edge://gw-1"]}`)

func TestHolds(t *testing.T) {
	for text, want := range map[string]bool{
		"tags.location.region = 'US'": true,
		"tags.location.region = 'US' AND properties.reported.telemetryConfig.sendFrequencyInSecs >= 60": true,
		"properties.reported.connectivity.type IN ['wired', 'cellular']":                                true,
		"properties.reported.connectivity.type NIN ['wired', 'cellular']":                               false,
		"properties.reported.connectivity.type NIN ['wired']":                                           true,
		"is_defined(properties.reported.connectivity)":                                                  true,
		"is_defined(property.reported.connectivity)":                                                    false,
		"properties.desired.telemetryConfig.configId = properties.reported.telemetryConfig.configId":    true,
		"properties.desired.telemetryConfig = properties.reported.telemetryConfig":                      false, // objects
		"properties.desired.telemetryConfig != properties.reported.telemetryConfig":                     false,
		"configurations.[[cfg-1]].status = 'Applied'":                                                   true,
		"configurations.[[cfg-2]].status = 'Applied'":                                                   false,
		"array_contains(parentScopes, 'ms-azure-iot-edge://gw-1')":                                      true,
		"array_contains(parentScopes, 'ms-azure-iot-edge://gw-2')":                                      false,
		"capabilities.iotEdge = true":                                                                   true,
		"capabilities.iotEdge":                                                                          true,
		"properties.desired.$version = 4":                                                               true,
		"deviceId IN ['device1', 'pump-7']":                                                             true,
		"STARTSWITH(deviceId, 'pump')":                                                                  true,

		// What is not there makes a comparison neither true nor false.
		"tags.missing = 1":                      false,
		"tags.missing != 1":                     false,
		"NOT tags.missing = 1":                  false,
		"tags.missing NIN [1]":                  false,
		"NOT (tags.missing IN [1])":             false,
		"tags.missing = undefined":              false,
		"NOT is_defined(tags.missing)":          true,
		"tags.missing = 1 OR tags.n = 5":        true,
		"tags.missing = 1 AND tags.n = 5":       false,
		"NOT (tags.missing = 1 AND tags.n = 6)": true,
		"NOT (tags.missing = 1 OR tags.n = 5)":  false,
		"tags.n.deeper = 1":                     false,

		// Only what is exactly true passes.
		"tags.n":          false,
		"tags.one":        false,
		"1":               false,
		"'true'":          false,
		"null":            false,
		"undefined":       false,
		"tags.list":       false,
		"tags.yes":        true,
		"NOT tags.no":     true,
		"NOT tags.n":      false,
		"tags.n AND true": false,
		"tags.n OR true":  true,

		// Kinds differ, and two have no order.
		"tags.n = '5'":          false,
		"tags.n != '5'":         true,
		"tags.n < '6'":          false,
		"NOT tags.n < '6'":      false,
		"tags.nul = null":       true,
		"tags.n != null":        true,
		"tags.nul < 1":          false,
		"tags.no < tags.yes":    true,
		"tags.list = tags.list": false,
		"tags.list IN [1]":      false,
		"'a' < 'b'":             true,
		"'a' < 'B'":             false, // by their bytes
		"'a' <= 'a'":            true,
		"tags.zero = -0":        true,

		"tags.n + 1 = 6":             true,
		"tags.n - -1 = 0x6":          true,
		"2 + 3 * 4 = 14":             true,
		"(2 + 3) * 4 = 20":           true,
		"10 - 3 - 2 = 5":             true,
		"tags.n / 2 = 2.5":           true,
		"tags.n % 3 = 2":             true,
		"tags.n / tags.zero > 0":     false,
		"NOT tags.n % tags.zero = 0": false,
		"1e308 * 10 > 0":             false,
		"tags.n + '1' = 6":           false,
		"'a' + 'b' = 'ab'":           false,
		"-tags.n = -5":               true,
		"-tags.one = -1":             false,

		"abs(-3) = 3 AND abs(tags.n) = 5":                 true,
		"exp(0) = 1 AND power(2, 10) = 1024":              true,
		"square(3) = 9 AND sqrt(9) = 3":                   true,
		"ceiling(1.2) = 2 AND floor(1.8) = 1":             true,
		"sign(-2) = -1 AND sign(0) = 0 AND sign(2) = 1":   true,
		"sqrt(-1) = 0 OR NOT sqrt(-1) = 0":                false,
		"abs('3') = 3":                                    false,
		"power(0, -1) > 0":                                false,
		"starts_with('abc', 'ab')":                        true,
		"ENDSWITH('abc', 'bc') AND ends_with('abc', '')":  true,
		"contains(tags.euro, '€')":                        true,
		"contains(tags.n, '5')":                           false,
		"length(tags.euro) = 9":                           true,
		"length(5) = 1":                                   false,
		"lower('ÄB') = 'äb' AND upper('äb') = 'ÄB'":       true,
		"substring(tags.euro, 6) = '5 €'":                 true,
		"substring(tags.euro, 8, 1) = '€'":                true,
		"substring(tags.euro, 8, 100) = '€'":              true,
		"substring(tags.euro, 100) = ''":                  true,
		"substring(tags.euro, -1) = ''":                   false,
		"substring(tags.euro, 0.5) = ''":                  false,
		"substring('abc', '1') = 'bc'":                    false,
		"index_of(tags.euro, '€') = 8":                    true,
		"index_of('€b', 'b') = 1":                         true,
		"index_of('a', 'b') = -1":                         true,
		"concat('a', 'b', tags.one) = 'ab1'":              true,
		"concat('a', 1) = 'a1'":                           false,
		"as_number('1.5e1') = 15 AND as_number(2) = 2":    true,
		"as_number('-1') = -1":                            true,
		"as_number('0x10') = 16":                          false,
		"as_number('inf') > 0":                            false,
		"as_number(' 1') = 1":                             false,
		"as_number('1e999') > 0":                          false,
		"as_number(true) = 1":                             false,
		"is_null(tags.nul) AND NOT is_null(tags.missing)": true,
		"is_number(tags.n) AND NOT is_number(tags.one)":   true,
		"is_string(tags.one) AND is_bool(tags.no)":        true,
		"is_array(tags.list) AND is_object(tags)":         true,
		"is_primitive(tags.nul) AND is_primitive('')":     true,
		"is_primitive(tags.list)":                         false,
		"is_primitive(tags.missing)":                      false,
		"is_defined(tags.nul)":                            true,
		"array_contains(tags.list, 'a')":                  true,
		"array_contains(tags.list, null)":                 true,
		"array_contains(tags.list, 2)":                    false,
		"NOT array_contains(tags.n, 2)":                   false,
		"array_contains([1, tags.n, undefined], 5)":       true,
		"tags.list[1] = 'a' AND tags.list[3].b = 1":       true,
		"tags.list[4] = 'a'":                              false,
		"tags[0] = 'a'":                                   false,
	} {
		if c := mustCondition(t, text); c.Holds(thermostat) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
}

// What a short text makes of long properties has an end.
func TestResultsAreBounded(t *testing.T) {
	long := page(`{"a":"` + strings.Repeat("x", 30<<10) + `"}`)
	twice := "concat(a, a)"
	if !mustCondition(t, "is_string("+twice+")").Holds(long) {
		t.Error("twice 30 KB is too long")
	}
	for _, text := range []string{"is_string(concat(" + twice + ", " + twice + "))", "is_array([a, a, a])"} {
		if mustCondition(t, text).Holds(long) {
			t.Errorf("%s has a value", text)
		}
	}
}

func TestRows(t *testing.T) {
	for text, want := range map[string]string{
		"SELECT deviceId FROM devices":                                      `{"deviceId":"pump-7"}`,
		"SELECT DeviceID FROM devices":                                      `{"DeviceID":"pump-7"}`,
		"SELECT tags.location FROM devices":                                 `{"location":{"region":"US","plant":"Redmond43"}}`,
		"SELECT tags.missing, tags.n AS m, tags.nul FROM devices":           `{"m":5,"nul":null}`,
		"SELECT tags.missing FROM devices":                                  `{}`,
		"SELECT tags.n + 1, tags.list FROM devices":                         `{"$1":6,"list":[1,"a",null,{"b":1}]}`,
		"SELECT 'a\\u0007\"' AS [[x\"y]], 12345678901234 AS n FROM devices": `{"x\"y":"a\u0007\"","n":12345678901234}`,
		"SELECT tags.n > 4 AS hot FROM devices":                             `{"hot":true}`,
	} {
		q := mustParse(t, text)
		if q.Whole() || q.Aggregates() || q.CountsAll() {
			t.Errorf("%s is another kind of query", text)
		}
		if got := string(q.AppendRow(nil, thermostat)); got != want || !json.Valid([]byte(got)) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestGroups(t *testing.T) {
	documents := []page{
		`{"deviceId":"a","tags":{"s":"Success","t":10,"large":1.7e308}}`,
		`{"deviceId":"b","tags":{"s":"Success","t":20,"large":1.7e308}}`,
		`{"deviceId":"c","tags":{"s":"Error","t":"hot"}}`,
		`{"deviceId":"d","tags":{"t":-5}}`,
		`{"deviceId":"e","tags":{"s":null}}`,
		`{"deviceId":"f","tags":{"s":["x"]}}`,
	}
	for text, want := range map[string]string{
		"SELECT tags.s AS status, COUNT() AS numberOfDevices FROM devices GROUP BY tags.s": `{"numberOfDevices":1}`,
		"SELECT COUNT() FROM devices": `{"count":6}`,
		"SELECT COUNT() AS n, AVG(tags.t), SUM(tags.t), MIN(tags.t), MAX(tags.t) FROM devices": `{"n":6,"avg":8.333333333333334,"sum":25,"min":-5,"max":"hot"}`,
		"SELECT AVG(tags.x), SUM(tags.x) AS s, MIN(tags.x) FROM devices":                       `{"s":0}`,
		"SELECT SUM(tags.large), MAX(tags.large) FROM devices":                                 `{"max":1.7e+308}`,
		"SELECT COUNT() AS n, tags.s FROM devices GROUP BY tags.s":                             `{"n":1} {"n":1,"s":null} {"n":1,"s":"Error"} {"n":2,"s":"Success"} {"n":1,"s":["x"]}`,
		"SELECT tags.s FROM devices GROUP BY tags.s":                                           `{} {"s":null} {"s":"Error"} {"s":"Success"} {"s":["x"]}`,
	} {
		q := mustParse(t, text)
		groups := q.Groups()
		for _, d := range documents {
			if err := groups.Add(d); err != nil {
				t.Fatal(err)
			}
		}
		var rows []string
		for _, r := range groups.Rows() {
			rows = append(rows, string(r))
		}
		if got := strings.Join(rows, " "); !strings.HasPrefix(got, want) || !q.Aggregates() {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	none := mustParse(t, "SELECT COUNT(), MAX(tags.t) FROM devices").Groups().Rows()
	if len(none) != 1 || string(none[0]) != `{"count":0}` {
		t.Errorf("of no documents: %s", none)
	}
	if none := mustParse(t, "SELECT COUNT() FROM devices GROUP BY tags.s").Groups().Rows(); len(none) != 0 {
		t.Errorf("groups of no documents: %s", none)
	}
}

func TestCountsAll(t *testing.T) {
	q := mustParse(t, "SELECT COUNT() AS a, COUNT() AS b FROM devices")
	groups := q.Groups()
	groups.Count(7)
	if rows := groups.Rows(); !q.CountsAll() || string(rows[0]) != `{"a":7,"b":7}` {
		t.Errorf("%s", rows)
	}
	for _, text := range []string{"SELECT COUNT() FROM devices WHERE true", "SELECT COUNT() FROM devices GROUP BY status", "SELECT AVG(tags.a) FROM devices", "SELECT * FROM devices"} {
		if mustParse(t, text).CountsAll() {
			t.Errorf("%s needs no documents", text)
		}
	}
}

func TestTooManyGroups(t *testing.T) {
	groups := mustParse(t, "SELECT COUNT() FROM devices GROUP BY n").Groups()
	for i := range MaxGroups {
		if err := groups.Add(page(fmt.Sprintf(`{"n":%d}`, i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := groups.Add(page(`{"n":1}`)); err != nil {
		t.Error(err)
	}
	if err := groups.Add(page(`{"n":-1}`)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("one more: %v", err)
	}
	groups = mustParse(t, "SELECT COUNT() FROM devices GROUP BY n").Groups()
	var err error
	for i := 0; err == nil && i < MaxGroups; i++ {
		err = groups.Add(page(fmt.Sprintf(`{"n":"%d%s"}`, i, strings.Repeat("x", 4000))))
	}
	if errs.KindOf(err) != errs.Invalid {
		t.Errorf("40 MB of groups: %v", err)
	}
}

func TestReads(t *testing.T) {
	q := mustParse(t, "SELECT tags.a AS x, COUNT() FROM devices WHERE lower(tags.b) IN ['c', tags.d] AND NOT -e.f < 1 OR array_contains([g], 1) GROUP BY tags.a")
	var read []string
	q.Reads(func(p Path) { read = append(read, p.String()) })
	if want := []string{"tags.a", "tags.a", "tags.b", "tags.d", "e.f", "g"}; !slices.Equal(read, want) {
		t.Errorf("%v, want %v", read, want)
	}
}

func BenchmarkHolds(b *testing.B) {
	for _, text := range []string{"tags.location.region = 'US'", "properties.reported.telemetryConfig.sendFrequencyInSecs > 60 AND tags.n IN [1, 5] OR tags.missing = 1"} {
		b.Run(text, func(b *testing.B) {
			c, err := ParseCondition(text)
			if err != nil {
				b.Fatal(err)
			}
			document := json.RawMessage(thermostat)
			b.ReportAllocs()
			for b.Loop() {
				c.Holds(raw(document))
			}
		})
	}
}

// raw is a document of JSON bytes.
type raw json.RawMessage

func (r raw) Lookup(at Path) Value { return Find(json.RawMessage(r), at, false) }
