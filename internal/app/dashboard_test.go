package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/wire/dpsjson"
)

const docs = "../../docs"

// A dashboard is what we look at of a dashboard of Grafana.
type dashboard struct {
	UID           string `json:"uid"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
	Annotations struct {
		List []struct{ Expr string }
	}
	Panels []panel
}

type panel struct {
	ID         int `json:"id"`
	Type       string
	Title      string
	Datasource *source
	GridPos    struct{ X, Y, W, H int }
	Targets    []struct {
		RefID        string `json:"refId"`
		Expr         string
		LegendFormat string
		Datasource   *source
	}
}

type source struct {
	Type string
	UID  string `json:"uid"`
}

// rules is a file of rules for Prometheus.
type rules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For    string
			Labels, Annotations map[string]string
		}
	}
}

// The dashboard and the alerts ask for nothing that a server does not tell, and
// the manual knows all that it tells.
func TestDashboardAndAlertsAskForWhatThereIs(t *testing.T) {
	told := tell(t)
	var d dashboard
	text := readDocument(t, "grafana/berth.json")
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			wantQuery(t, "panel "+p.Title, target.Expr, told, used)
			for _, m := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !strings.Contains(target.Expr, m[1]) && !anyHas(told, target.Expr, m[1]) {
					t.Errorf("panel %s: the legend has label %s, which %s does not", p.Title, m[1], target.Expr)
				}
			}
		}
	}
	for _, a := range d.Annotations.List {
		wantQuery(t, "annotations", a.Expr, told, used)
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			_, inner, _ := strings.Cut(string(v.Query), "label_values(")
			name := regexp.MustCompile(`^\w+`).FindString(inner)
			if told[name] == nil {
				t.Errorf("variable %s: no metric %s", v.Name, name)
			}
		}
	}
	shown := map[string]bool{}
	for name := range used {
		shown[family(name)] = true
	}
	for name := range told {
		if strings.HasPrefix(name, "berth_") && !shown[family(name)] {
			t.Errorf("%s is in no panel", name)
		}
	}
	var r rules
	if err := decode(readDocument(t, "grafana/alerts.yaml"), &r, true); err != nil {
		t.Fatal(err)
	}
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			wantQuery(t, "alert "+rule.Alert, rule.Expr, told, used)
		}
	}
}

// family returns the name of the metric that a series is of.
func family(series string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if name, ok := strings.CutSuffix(series, suffix); ok {
			return name
		}
	}
	return series
}

// anyHas reports whether a metric of a query has a label.
func anyHas(told map[string]labels, query, label string) bool {
	if label == "instance" || label == "job" {
		return true // Prometheus gives them to everything
	}
	for name := range metricsOf(query) {
		if told[name][label] {
			return true
		}
	}
	return false
}

// labels are the names of those that a metric has.
type labels map[string]bool

// tell runs a server with one of everything and returns what it tells Prometheus,
// by the names of the series.
func tell(t *testing.T) map[string]labels {
	t.Helper()
	n := newTenant(t, func(c *Config) {
		c.Metrics.Listen, c.MQTT.Listen = "127.0.0.1:0", "127.0.0.1:0"
		c.NATS.URL = "nats://127.0.0.1:1" // where there is none, which is no reason not to serve
	})
	linkFar(t, n.server, device.IDScope(n.config.IDScope))
	if _, err := n.server.dispatcher.PutSink(t.Context(), hub.SinkConfig{Hub: "hub.example", Name: "lake", Kind: "jetstream", URL: "nats://127.0.0.1:1"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.server.dispatcher.PutRoute(t.Context(), hub.Route{Hub: "hub.example", Name: "all", Source: hub.DeviceMessages, Sink: "lake"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.enroll("pump-7", dpsjson.CustomAllocationDefinition{Expression: `"hub-1.example"`}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.register("pump-7", "{}"); err != nil {
		t.Fatal(err)
	}
	told := map[string]labels{}
	for line := range strings.Lines(counts(t, n.server, `berth_registrations_total{result="assigned"} 1`)) {
		name := metricName.FindString(line)
		if name == "" {
			continue // a comment
		}
		if told[name] == nil {
			told[name] = labels{}
		}
		for _, m := range regexp.MustCompile(`[{,](\w+)="`).FindAllStringSubmatch(line, -1) {
			told[name][m[1]] = true
		}
	}
	return told
}

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][\w:]*`)
	quoted     = regexp.MustCompile(`"[^"]*"`)
	window     = regexp.MustCompile(`\[[^\]]*\]`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right) *\(([^)]*)\)`)
	selector   = regexp.MustCompile(`([a-zA-Z_:][\w:]*)\s*(\(|\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`(\w+) *(?:=~|!~|!=|=)`)
	operators  = []string{"and", "or", "unless", "bool", "offset"}
)

// metricsOf returns the metrics that a query in PromQL names, each with the labels
// that it is selected by.
func metricsOf(query string) map[string][]string {
	query = grouping.ReplaceAllString(window.ReplaceAllString(quoted.ReplaceAllString(query, ""), ""), "")
	found := map[string][]string{}
	for _, m := range selector.FindAllStringSubmatch(query, -1) {
		if m[2] == "(" || slices.Contains(operators, m[1]) {
			continue
		}
		by := found[m[1]]
		for _, label := range matcher.FindAllStringSubmatch(m[2], -1) {
			by = append(by, label[1])
		}
		found[m[1]] = by
	}
	return found
}

// wantQuery wants a query of metrics that there are, by labels that they have.
func wantQuery(t *testing.T, where, query string, told map[string]labels, used map[string]bool) {
	t.Helper()
	if query == "" {
		if where != "annotations" {
			t.Errorf("%s asks for nothing", where)
		}
		return
	}
	bare := quoted.ReplaceAllString(query, "")
	for _, pair := range []string{"()", "{}", "[]"} {
		if strings.Count(bare, pair[:1]) != strings.Count(bare, pair[1:]) {
			t.Errorf("%s: unbalanced %s in %s", where, pair, query)
		}
	}
	for name, by := range metricsOf(query) {
		used[name] = true
		if name == "up" {
			continue // of Prometheus itself
		}
		if told[name] == nil {
			t.Errorf("%s: no metric %s", where, name)
			continue
		}
		for _, label := range by {
			if label != "job" && label != "instance" && !told[name][label] {
				t.Errorf("%s: %s has no label %s", where, name, label)
			}
		}
	}
	for _, group := range grouping.FindAllStringSubmatch(bare, -1) {
		for label := range strings.SplitSeq(group[1], ",") {
			if label = strings.TrimSpace(label); !anyHas(told, query, label) {
				t.Errorf("%s: no metric of %s has the label %s", where, query, label)
			}
		}
	}
}

func TestMetricsOfAQuery(t *testing.T) {
	got := metricsOf(`sum by (le, api) (rate(a_bucket{job="$job",api!~"x{y}"}[5m])) / 86400 > 0.1 and on (api) b - time() or c{code = "up"}`)
	want := map[string][]string{"a_bucket": {"job", "api"}, "b": nil, "c": {"code"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v", got)
	}
}

// Grafana can import the dashboard as it is, whatever its data source is called.
func TestDashboardCanBeImported(t *testing.T) {
	var d dashboard
	if err := json.Unmarshal(readDocument(t, "grafana/berth.json"), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.SchemaVersion != 39 {
		t.Errorf("uid %q, schema %d", d.UID, d.SchemaVersion)
	}
	if v := d.Templating.List[0]; v.Name != "DS_PROMETHEUS" || v.Type != "datasource" {
		t.Errorf("the first variable is %+v", v)
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] {
			t.Errorf("panel %s: the ID %d is not its own", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := cells[cell]; other != "" || cell[0] >= 24 {
					t.Fatalf("panel %s is over the edge or over %q", p.Title, other)
				}
				cells[cell] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		refs := map[string]bool{}
		sources := []*source{p.Datasource}
		for _, target := range p.Targets {
			if refs[target.RefID] {
				t.Errorf("panel %s has two queries %s", p.Title, target.RefID)
			}
			refs[target.RefID] = true
			sources = append(sources, target.Datasource)
		}
		for _, s := range sources {
			if s == nil || *s != (source{"prometheus", "${DS_PROMETHEUS}"}) {
				t.Errorf("panel %s asks %+v", p.Title, s)
			}
		}
		if len(refs) == 0 {
			t.Errorf("panel %s asks for nothing", p.Title)
		}
	}
}

// Every alert says how bad it is, what is wrong and what to do. They go with the
// scrape configuration of the manual.
func TestAlertsSayWhatToDo(t *testing.T) {
	var r rules
	text := readDocument(t, "grafana/alerts.yaml")
	if err := decode(text, &r, true); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, g := range r.Groups {
		for _, rule := range g.Rules {
			if rule.Alert == "" || known[rule.Alert] {
				t.Errorf("%s/%s: the name is not its own", g.Name, rule.Alert)
			}
			known[rule.Alert] = true
			if s := rule.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s: severity %q", rule.Alert, s)
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s does not say what is wrong and what to do", rule.Alert)
			}
			if _, err := time.ParseDuration(rule.For); rule.For != "" && err != nil {
				t.Errorf("%s: %v", rule.Alert, err)
			}
		}
	}
	var prometheus struct {
		ScrapeConfigs []struct {
			JobName string `yaml:"job_name"`
		} `yaml:"scrape_configs"`
		RuleFiles []string `yaml:"rule_files"`
	}
	_, manual, _ := strings.Cut(string(readDocument(t, "operate.md")), "```yaml\n")
	manual, _, _ = strings.Cut(manual, "```")
	if err := decode([]byte(manual), &prometheus, false); err != nil || len(prometheus.ScrapeConfigs) != 1 || len(prometheus.RuleFiles) != 1 {
		t.Fatalf("%+v, %v", prometheus, err)
	}
	if job := prometheus.ScrapeConfigs[0].JobName; !strings.Contains(string(text), `up{job="`+job+`"}`) {
		t.Errorf("the manual calls the job %s, and the alerts do not", job)
	}
}

// The manual has one line for each metric, with its labels.
func TestMetricsAreInTheManual(t *testing.T) {
	told := map[string]string{}
	for name, has := range tell(t) {
		if strings.HasPrefix(name, "berth_") {
			delete(has, "le") // of histograms
			told[family(name)] = strings.Join(slices.Sorted(maps.Keys(has)), ", ")
		}
	}
	written := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(berth_\\w+)` \\|([^|]*)\\| .+ \\|$").FindAllStringSubmatch(string(readDocument(t, "operate.md")), -1) {
		names := strings.Split(strings.Trim(strings.ReplaceAll(m[2], "`", ""), " "), ", ")
		slices.Sort(names)
		written[m[1]] = strings.Join(names, ", ")
	}
	for name, has := range told {
		if got, ok := written[name]; !ok || got != has {
			t.Errorf("%s has the labels %q, in the manual %q", name, has, got)
		}
	}
	for name := range written {
		if _, ok := told[name]; !ok {
			t.Errorf("%s is in the manual, and no server tells it", name)
		}
	}
}

// decode reads YAML. A strict reader knows every member.
func decode(text []byte, into any, strict bool) error {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(strict)
	return d.Decode(into)
}

func readDocument(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(docs, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
