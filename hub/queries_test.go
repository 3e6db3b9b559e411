package hub_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// putTwin writes an identity with a twin, as it comes: queries only read.
func (s store) putTwin(t *testing.T, d hub.Identity, twin hub.Twin) {
	t.Helper()
	d.Hub, d.GenerationID, d.ETag, d.Auth.Type = host, "638000000000000000", "MQ==", hub.AuthSAS
	for _, section := range []*json.RawMessage{&twin.Tags, &twin.Desired, &twin.Reported} {
		if *section == nil {
			*section = json.RawMessage("{}")
		}
	}
	twin.Version = max(twin.Version, 2)
	err := s.Store.Change(t.Context(), d.Place, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) { return &d, &twin, nil })
	if err != nil {
		t.Fatal(err)
	}
}

func (s store) putTags(t *testing.T, id, tags string) {
	t.Helper()
	name, module, _ := strings.Cut(id, "/")
	s.putTwin(t, hub.Identity{Place: hub.Place{ID: device.ID(name), Module: device.ID(module)}}, hub.Twin{Tags: json.RawMessage(tags)})
}

// A finder is a store that counts how it is used, and that can be slow or not know
// all twins.
type finder struct {
	store
	scans, entries int
	slow, blind    bool
	stale          []string // devices that the index has under every value that it is asked for
}

func (f *finder) ScanTwins(ctx context.Context, host string, of hub.Part, wanted hub.Members, limit int) ([]hub.Found, error) {
	f.scans++
	if f.slow {
		limit = 1
	}
	return f.store.ScanTwins(ctx, host, of, wanted, limit)
}

func (f *finder) TwinEntries(ctx context.Context, path int64, after hub.TwinEntry, high []byte, limit int) ([]hub.TwinEntry, error) {
	f.entries++
	if f.blind {
		return nil, nil
	}
	entries, err := f.store.TwinEntries(ctx, path, after, high, limit)
	for _, id := range f.stale {
		e := hub.TwinEntry{Value: high, ID: device.ID(id)}
		if bytes.Equal(after.Value, high) && after.ID >= e.ID || slices.ContainsFunc(entries, func(o hub.TwinEntry) bool { return bytes.Equal(o.Value, high) && o.ID == e.ID }) {
			continue
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b hub.TwinEntry) int { return cmp.Or(bytes.Compare(a.Value, b.Value), cmp.Compare(a.ID, b.ID)) })
	return entries[:min(limit, len(entries))], err
}

func (f *finder) UnindexedTwins(ctx context.Context, limit int) ([]hub.Place, error) {
	if f.blind {
		return []hub.Place{{Hub: host, ID: "old"}}, nil
	}
	return f.store.UnindexedTwins(ctx, limit)
}

// openFinder returns a service whose clock stands still, unless the finder is slow.
func openFinder(t *testing.T) (*hub.Service, *finder) {
	t.Helper()
	_, s := open(t)
	f := &finder{store: s}
	now := t0
	return hub.New(hub.Config{
		Registry: f, Stream: s, Queues: s, Presences: s, Policies: s, Random: rand.Reader,
		Now: func() time.Time {
			if f.slow {
				now = now.Add(time.Second)
			}
			return now
		},
	}), f
}

// ask reads all pages of a query.
func ask(t *testing.T, s *hub.Service, text string, limit int) (rows []string, pages int) {
	t.Helper()
	for continuation := ""; ; {
		page, err := s.Query(t.Context(), owner, host, text, limit, continuation)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if n := len(page.Twins) + len(page.Rows); n > limit {
			t.Fatalf("%s: a page of %d rows, not %d", text, n, limit)
		}
		for _, f := range page.Twins {
			rows = append(rows, f.Identity.String())
		}
		for _, r := range page.Rows {
			rows = append(rows, string(r))
		}
		if pages++; page.Continuation == "" {
			return rows, pages
		}
		continuation = page.Continuation
	}
}

func asked(t *testing.T, s *hub.Service, text string) string {
	t.Helper()
	rows, _ := ask(t, s, text, 100)
	return strings.Join(rows, " ")
}

func TestQueryPages(t *testing.T) {
	s, f := openFinder(t)
	var all []string
	for i := range 250 {
		id := fmt.Sprintf("device-%03d", i)
		f.putTags(t, id, fmt.Sprintf(`{"site":"site-%d","n":%d}`, i%5, i))
		all = append(all, id)
	}
	for _, limit := range []int{1, 7, 100, 1000} {
		rows, pages := ask(t, s, "SELECT * FROM devices", limit)
		if !slices.Equal(rows, all) || pages != (250+limit-1)/limit {
			t.Errorf("%d at once: %d rows on %d pages", limit, len(rows), pages)
		}
		rows, _ = ask(t, s, "SELECT deviceId FROM devices WHERE tags.site = 'site-3'", limit)
		if len(rows) != 50 || rows[1] != `{"deviceId":"device-008"}` {
			t.Errorf("%d at once: %v", limit, rows)
		}
		rows, _ = ask(t, s, "SELECT * FROM devices WHERE tags.n > 9 AND tags.n <= 29 OR tags.n = 40", limit)
		if len(rows) != 21 || rows[0] != "device-010" {
			t.Errorf("%d at once: %v", limit, rows)
		}
		rows, _ = ask(t, s, "SELECT TOP 30 deviceId FROM devices WHERE tags.site IN ['site-1', 'site-2']", limit)
		if len(rows) != 30 {
			t.Errorf("TOP 30, %d at once: %d", limit, len(rows))
		}
	}
}

// A query that names values goes by the index, and one that names devices to
// these.
func TestQueriesGoByTheIndex(t *testing.T) {
	s, f := openFinder(t)
	for i := range 40 {
		f.putTags(t, fmt.Sprintf("device-%02d", i), fmt.Sprintf(`{"site":"site-%d","n":%d,"all":true}`, i%2, i))
	}
	for _, c := range []struct {
		text           string
		want           int
		scans, entries int
	}{
		{"SELECT * FROM devices WHERE tags.n = 7", 1, 0, 2},
		{"SELECT * FROM devices WHERE tags.all = true AND tags.n = 7", 1, 0, 2},
		{"SELECT * FROM devices WHERE tags.n = 7 AND tags.all", 1, 0, 2},
		{"SELECT * FROM devices WHERE tags.n IN [7, 9, 99]", 2, 0, 6},
		{"SELECT * FROM devices WHERE tags.n IN []", 0, 0, 0},
		{"SELECT * FROM devices WHERE starts_with(tags.site, 'site-1')", 20, 0, 2},
		{"SELECT * FROM devices WHERE deviceId = 'device-09'", 1, 0, 0},
		{"SELECT * FROM devices WHERE deviceId = 'device-09' AND tags.all", 1, 0, 0},
		{"SELECT * FROM devices WHERE deviceId IN ['device-09', 'device-03', 'nobody', '~', 5]", 2, 0, 0},
		{"SELECT * FROM devices WHERE deviceId > 'device-37'", 2, 2, 0},
		{"SELECT * FROM devices WHERE STARTSWITH(deviceId, 'device-0')", 10, 2, 0},
		{"SELECT * FROM devices WHERE deviceId >= 'device-30' AND tags.n = 35", 1, 0, 2},
		{"SELECT * FROM devices WHERE deviceId < '€'", 40, 2, 0},
		{"SELECT * FROM devices WHERE deviceId IN ['device-09', '€']", 1, 2, 0},
		{"SELECT * FROM devices WHERE status = 'enabled'", 40, 2, 0},
		{"SELECT * FROM devices WHERE tags.n != 7", 39, 2, 0},
		{"SELECT * FROM devices WHERE tags.n = 7 OR tags.all = false", 1, 2, 0},
	} {
		f.scans, f.entries = 0, 0
		rows, _ := ask(t, s, c.text, 100)
		if len(rows) != c.want || f.scans > c.scans || f.entries > c.entries || f.entries > 0 != (c.entries > 0) {
			t.Errorf("%s: %d rows, %d scans, %d reads of entries", c.text, len(rows), f.scans, f.entries)
		}
	}
}

// With twins that are not in the index, queries do without it.
func TestQueriesOfUnindexedTwins(t *testing.T) {
	s, f := openFinder(t)
	f.putTags(t, "old", `{"n":7}`)
	f.blind = true
	if got := asked(t, s, "SELECT * FROM devices WHERE tags.n = 7"); got != "old" {
		t.Errorf("found %q", got)
	}
}

// What is found by an index is what a look at every twin finds.
func TestIndexAndScanAgree(t *testing.T) {
	s, f := openFinder(t)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	values := []string{`1`, `2.5`, `-3`, `0`, `true`, `false`, `"a"`, `"ab"`, `"b"`, `""`, `["a"]`, `{"y":"a"}`,
		`"` + strings.Repeat("l", 70) + `1"`, `"` + strings.Repeat("l", 70) + `2"`}
	for i := range 120 {
		f.putTwin(t, hub.Identity{
			Place: hub.Place{ID: device.ID(fmt.Sprintf("d%03d", i))}, Disabled: i%7 == 0, IoTEdge: i%5 == 0, ParentScope: []string{"", "", "gw-1", "gw-2"}[i%4],
		}, hub.Twin{
			Tags:           json.RawMessage(`{"x":` + values[random.IntN(len(values))] + `}`),
			Reported:       json.RawMessage(`{"x":` + values[random.IntN(len(values))] + `,"n":` + fmt.Sprint(random.IntN(5)) + `}`),
			Configurations: json.RawMessage(`{"cfg-` + fmt.Sprint(i%3) + `":{"status":"Applied"}}`),
			ModelID:        []string{"", "dtmi:a;1"}[i%2],
		})
		if i%3 == 0 {
			f.putTags(t, fmt.Sprintf("d%03d/m%d", i, i%2), `{"x":`+values[random.IntN(len(values))]+`}`)
		}
	}
	conditions := []string{
		"tags.x.y = 'a'", "array_contains(parentScopes, 'gw-1')", "array_contains(parentScopes, 'gw-1') AND array_contains(parentScopes, 'gw-2')",
		"status = 'disabled'", "status = 'enabled'", "status IN ['disabled', 'enabled']", "status > 'd'", "capabilities.iotEdge = true", "capabilities.iotEdge = false",
		"capabilities.iotEdge", "configurations.[[cfg-1]].status = 'Applied'", "modelId = 'dtmi:a;1'", "modelId = ''", "modelId < 'e'", "modelId != ''",
		"moduleId = 'm0'", "moduleId IN ['m1', 'x']", "properties.reported.n > 1 AND properties.reported.n < 4", "properties.reported.$version = 0",
		"properties.reported.n = 1 OR properties.reported.n = 3", "starts_with(properties.reported.x, '" + strings.Repeat("l", 66) + "')",
		"parentScopes = 'gw-1'", "deviceId > 'd05' AND deviceId <= 'd1'", "deviceId IN ['d003', 'd006']", "deviceId = 5", "DEVICEID = 'd003'",
	}
	for _, v := range values[:len(values)-4] {
		for _, op := range []string{"=", "!=", "<", "<=", ">", ">="} {
			conditions = append(conditions, "tags.x "+op+" "+strings.ReplaceAll(v, `"`, "'"), "NOT tags.x "+op+" "+v)
		}
	}
	for _, v := range values[len(values)-2:] {
		conditions = append(conditions, "tags.x = "+v, "tags.x > "+v, "properties.reported.x <= "+v)
	}
	for _, from := range []string{"devices", "devices.modules"} {
		for _, condition := range conditions {
			byIndex, _ := ask(t, s, "SELECT * FROM "+from+" WHERE "+condition, 50)
			byScan, _ := ask(t, s, "SELECT * FROM "+from+" WHERE NOT NOT ("+condition+")", 50)
			slices.Sort(byIndex)
			if !slices.Equal(byIndex, byScan) {
				t.Errorf("%s, %s: by index %v, by scan %v", from, condition, byIndex, byScan)
			}
		}
	}
}

func TestQueriesOfModules(t *testing.T) {
	s, f := openFinder(t)
	for _, id := range []string{"a", "b", "a/$edgeAgent", "a/filter", "b/filter"} {
		f.putTags(t, id, `{"x":1}`)
	}
	for text, want := range map[string]string{
		"SELECT * FROM devices.modules":                                                 "a/$edgeAgent a/filter b/filter",
		"SELECT * FROM devices.modules WHERE moduleId = 'filter'":                       "a/filter b/filter",
		"SELECT * FROM devices.modules WHERE deviceId IN ['b'] AND moduleId = 'filter'": "b/filter",
		"SELECT * FROM devices.modules WHERE deviceId = 'a'":                            "a/$edgeAgent a/filter",
		"SELECT * FROM devices.modules WHERE tags.x = 1":                                "a/$edgeAgent a/filter b/filter",
		"SELECT deviceId, moduleId FROM devices.modules WHERE moduleId = '$edgeAgent'":  `{"deviceId":"a","moduleId":"$edgeAgent"}`,
		"SELECT * FROM devices WHERE tags.x = 1":                                        "a b",
		"SELECT * FROM devices WHERE moduleId = 'filter'":                               "",
		"SELECT COUNT() FROM devices.modules":                                           `{"count":3}`,
		"SELECT COUNT() FROM devices":                                                   `{"count":2}`,
		"SELECT moduleId, COUNT() AS n FROM devices.modules GROUP BY moduleId":          `{"moduleId":"$edgeAgent","n":1} {"moduleId":"filter","n":2}`,
		"SELECT TOP 1 moduleId, COUNT() AS n FROM devices.modules GROUP BY moduleId":    `{"moduleId":"$edgeAgent","n":1}`,
		"SELECT COUNT() AS n FROM devices.modules WHERE tags.x = 1 AND deviceId != 'a'": `{"n":1}`,
	} {
		if got := asked(t, s, text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// What a query sees of a twin is what its document has.
func TestQueriedDocument(t *testing.T) {
	s, f := openFinder(t)
	updated := time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC)
	f.putTwin(t, hub.Identity{Place: hub.Place{ID: "gw"}, IoTEdge: true, Disabled: true, StatusReason: "lost", StatusUpdated: updated, ParentScope: "up"}, hub.Twin{
		Tags: json.RawMessage(`{"a":{"b":[1]}}`), Desired: json.RawMessage(`{"x":1}`), Reported: json.RawMessage(`{}`),
		DesiredVersion: 3, ReportedVersion: 4, Version: 5, DesiredUpdated: updated, ReportedUpdated: updated,
		ReportedMetadata: json.RawMessage(`{"$lastUpdated":"2026"}`), ModelID: "dtmi:m;1", Configurations: json.RawMessage(`{"c":{"status":"Applied"}}`),
	})
	if err := f.LeaseServer(t.Context(), "server", t0, t0.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	gw := hub.Place{Hub: host, ID: "gw"}
	if err := f.Notice(t.Context(), "server", []hub.Notice{{Place: gw, Change: hub.NowConnected, Changed: t0, Activity: t0}}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Send(t.Context(), owner, host, "gw", hub.CloudMessage{})
	if err != nil {
		t.Fatal(err)
	}
	for columns, want := range map[string]string{
		"deviceId, etag, deviceEtag, version":                       `{"deviceId":"gw","etag":"AAAAAAAAAAQ=","deviceEtag":"MQ==","version":5}`,
		"moduleId, nothing, tags.none":                              `{}`,
		"status, statusReason, statusUpdateTime":                    `{"status":"disabled","statusReason":"lost","statusUpdateTime":"2026-01-02T03:04:05.6Z"}`,
		"connectionState, lastActivityTime":                         `{"connectionState":"Connected","lastActivityTime":"2026-03-01T12:00:00Z"}`,
		"connectionStateUpdatedTime AS since":                       `{"since":"2026-03-01T12:00:00Z"}`,
		"cloudToDeviceMessageCount AS n, authenticationType AS how": `{"n":1,"how":"sas"}`,
		"x509Thumbprint, capabilities":                              `{"x509Thumbprint":{"primaryThumbprint":null,"secondaryThumbprint":null},"capabilities":{"iotEdge":true}}`,
		"modelId, deviceScope, parentScopes":                        `{"modelId":"dtmi:m;1","deviceScope":"ms-azure-iot-edge://gw-638000000000000000","parentScopes":["up"]}`,
		"tags, tags.a.b[0] AS b":                                    `{"tags":{"a":{"b":[1]}},"b":1}`,
		"configurations":                                            `{"configurations":{"c":{"status":"Applied"}}}`,
		"properties.reported":                                       `{"reported":{"$metadata":{"$lastUpdated":"2026"},"$version":4}}`,
		"properties.desired.$version AS d, properties.desired.$metadata.x.$lastUpdatedVersion AS v": `{"d":3,"v":3}`,
		"properties.desired.$metadata.$lastUpdated AS at, properties.other":                         `{"at":"2026-01-02T03:04:05.6Z"}`,
	} {
		if got := asked(t, s, "SELECT "+columns+" FROM devices"); got != want {
			t.Errorf("%s: %s, want %s", columns, got, want)
		}
	}
	// A query reads no more than it looks at, and sees the same.
	for _, name := range []string{
		"deviceId", "moduleId", "etag", "deviceEtag", "status", "statusReason", "statusUpdateTime", "connectionState", "connectionStateUpdatedTime", "lastActivityTime",
		"cloudToDeviceMessageCount", "authenticationType", "x509Thumbprint", "modelId", "version", "tags", "properties", "configurations",
		"capabilities", "deviceScope", "parentScopes", "properties.desired", "properties.reported", "properties.desired.x",
		"properties.desired.$version", "properties.desired.$metadata", "properties.reported.$metadata.$lastUpdated",
	} {
		alone := asked(t, s, "SELECT "+name+" AS v FROM devices")
		amongAll := asked(t, s, "SELECT "+name+" AS v, authenticationType AS a, tags AS t, properties AS p, configurations AS c FROM devices")
		if !strings.HasPrefix(amongAll, strings.TrimSuffix(alone, "}")) {
			t.Errorf("%s: %s alone, %s among all", name, alone, amongAll)
		}
	}
	whole := asked(t, s, "SELECT properties FROM devices")
	if !json.Valid([]byte(whole)) || !strings.HasPrefix(whole, `{"properties":{"desired":{"x":1,"$metadata":{"`) {
		t.Error(whole)
	}
	for _, condition := range []string{"connectionState = 'Connected'", "connectionStateUpdatedTime > '2026-02-28'", "lastActivityTime < '2026-03-02'", "cloudToDeviceMessageCount > 0 AND tags.a.b[0] = 1"} {
		if got := asked(t, s, "SELECT * FROM devices WHERE "+condition); got != "gw" {
			t.Errorf("%s: %q", condition, got)
		}
	}
	page, err := s.Query(t.Context(), owner, host, "SELECT * FROM devices", 10, "")
	if err != nil || len(page.Twins) != 1 || !page.Twins[0].About.Connected || page.Twins[0].About.Waiting != 1 || !page.Whole {
		t.Errorf("%+v, %v", page, err)
	}
}

// A page that takes too long has what was found so far, which may be nothing.
func TestSlowPages(t *testing.T) {
	s, f := openFinder(t)
	for i := range 60 {
		f.putTags(t, fmt.Sprintf("device-%02d", i), fmt.Sprintf(`{"n":%d}`, i))
	}
	f.slow = true
	rows, pages := ask(t, s, "SELECT * FROM devices WHERE tags.n + 0 = 33", 100)
	if len(rows) != 1 || pages < 20 {
		t.Errorf("%v on %d pages", rows, pages)
	}
	_, err := s.Query(t.Context(), owner, host, "SELECT MAX(tags.n) FROM devices WHERE tags.n != 3", 100, "")
	if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "index") {
		t.Errorf("an aggregate of all: %v", err)
	}
	if got := asked(t, s, "SELECT MAX(tags.n) AS most FROM devices WHERE tags.n IN [1, 2]"); got != `{"most":2}` {
		t.Errorf("an aggregate of few: %s", got)
	}
	f.scans = 0
	if got := asked(t, s, "SELECT COUNT() FROM devices"); got != `{"count":60}` || f.scans > 0 {
		t.Errorf("how many: %s in %d scans", got, f.scans)
	}
}

func TestRefusedQueries(t *testing.T) {
	s, f := openFinder(t)
	for i := range 3 {
		f.putTags(t, fmt.Sprintf("device-%d", i), `{"a":1,"b":2}`)
	}
	const text = "SELECT TOP 2 * FROM devices WHERE tags.a = 1"
	page, err := s.Query(t.Context(), owner, host, text, 1, "")
	if err != nil || page.Continuation == "" {
		t.Fatal(page, err)
	}
	decoded, err := base64.RawURLEncoding.DecodeString(page.Continuation)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(old, next string) string {
		t.Helper()
		if !strings.Contains(string(decoded), old) {
			t.Fatalf("%s has no %s", decoded, old)
		}
		return base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(decoded), old, next, 1)))
	}
	for name, c := range map[string]struct {
		rights       access.Right
		text         string
		limit        int
		continuation string
	}{
		"no right":              {access.RegistryRead | access.RegistryWrite, text, 1, ""},
		"no query":              {access.AllHub, "", 1, ""},
		"no rows":               {access.AllHub, text, 0, ""},
		"too many rows":         {access.AllHub, text, hub.MaxPage + 1, ""},
		"another query's":       {access.AllHub, "SELECT TOP 2 * FROM devices WHERE tags.a = 2", 1, page.Continuation},
		"an aggregate's":        {access.AllHub, "SELECT COUNT() FROM devices", 1, page.Continuation},
		"no base64":             {access.AllHub, text, 1, "?"},
		"no JSON":               {access.AllHub, text, 1, "AAAA"},
		"nothing":               {access.AllHub, text, 1, base64.RawURLEncoding.EncodeToString([]byte("{}"))},
		"an index that is none": {access.AllHub, text, 1, forged(`"By":0`, `"By":1`)},
		"an index below none":   {access.AllHub, text, 1, forged(`"By":0`, `"By":-2`)},
		"more than TOP":         {access.AllHub, text, 1, forged(`"Left":1`, `"Left":3`)},
		"none left":             {access.AllHub, text, 1, forged(`"Left":1`, `"Left":0`)},
		"an ID that is none":    {access.AllHub, text, 1, forged(`device-0`, `a\u0000b`)},
	} {
		_, err := s.Query(t.Context(), access.Caller{Policy: "p", Rights: c.rights}, host, c.text, c.limit, c.continuation)
		if kind := errs.KindOf(err); err == nil || kind != errs.Invalid && name != "no right" || name == "no right" && kind == errs.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What may be forged is where to go on.
	for _, c := range []string{forged(`device-0`, `zzz`), forged(`"By":0`, `"By":-1`), forged(`"Value":"`, `"Value":"`)} {
		if _, err := s.Query(t.Context(), owner, host, text, 1, c); err != nil {
			t.Error(err)
		}
	}
}
