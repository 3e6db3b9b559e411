package hub

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub/query"
)

// The limits of configurations, as IoT Hub documents them.
const (
	MaxConfigurations       = 100 // of a hub
	MaxConfigurationMetrics = 5   // of an operator's own, of one configuration
	maxConfigurationModules = 50
	maxConfigurationLabels  = 100
	maxSettings             = 1000 // of one configuration
)

// A Configuration is an automatic device configuration or an IoT Edge deployment:
// what goes into the twins of those devices or modules that it targets.
type Configuration struct {
	Hub           string
	ID            string // 1 to 128 of a-z, 0-9 and -+%_*!'
	SchemaVersion string // "1.0"
	Labels        map[string]string
	Content       ConfigurationContent
	// TargetCondition is what follows WHERE in a query, "*" for all devices, or
	// empty for none. Of modules it is "FROM devices.modules WHERE …".
	TargetCondition  string
	Priority         int               // of several that target the same device the one with the highest counts
	Metrics          map[string]string // queries by name
	ETag             string
	Created, Updated time.Time
}

// A ConfigurationContent is what a configuration sets. One of the members is not
// nil.
type ConfigurationContent struct {
	Device  Settings               // of devices
	Module  Settings               // of modules
	Modules map[device.ID]Settings // of the modules of IoT Edge devices: a deployment
}

// Settings are JSON values by their places in a twin: "properties.desired", or a
// path below it with dots between the names.
type Settings map[string]json.RawMessage

const (
	desiredProperties = "properties.desired"
	targetsModules    = "from devices.modules where "
)

var configurationID = regexp.MustCompile(`^[a-z0-9\-+%_*!']{1,128}$`)

// check refuses a configuration that breaks a rule.
func (c *Configuration) check() error {
	switch {
	case !configurationID.MatchString(c.ID):
		return invalid("id must be 1 to 128 of the lower-case letters, digits and -+%%_*!'")
	case c.SchemaVersion != "1.0" && c.SchemaVersion != "":
		return invalid("schemaVersion %.20q is not known; 1.0 is", c.SchemaVersion)
	case c.Priority < 0:
		return invalid("priority must not be negative")
	case len(c.Labels) > maxConfigurationLabels:
		return invalid("there are %d labels; %d are allowed", len(c.Labels), maxConfigurationLabels)
	case len(c.Metrics) > MaxConfigurationMetrics:
		return invalid("there are %d metrics; %d are allowed", len(c.Metrics), MaxConfigurationMetrics)
	}
	if err := c.Content.check(); err != nil {
		return err
	}
	if _, err := c.target(); err != nil {
		return err
	}
	// The queries that are made of the condition are longer than it.
	made := slices.Collect(maps.Values(c.systemMetrics()))
	if text := aim(c).query(); text != "" {
		made = append(made, text)
	}
	for _, text := range made {
		if err := checkMetric(text); err != nil {
			return errs.New(errs.Invalid, errs.CodeTargetCondition, "targetCondition: %s", errs.Public(err).Message)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Metrics)) {
		if err := checkMetric(c.Metrics[name]); err != nil {
			return errs.New(errs.Invalid, errs.CodeMetricsQuery, "The query of the metric %.50q: %s", name, errs.Public(err).Message)
		}
	}
	return nil
}

func checkMetric(text string) error {
	_, err := query.Parse(text)
	return err
}

func contentInvalid(format string, args ...any) error {
	return errs.New(errs.Invalid, errs.CodeConfigurationContent, format, args...)
}

func (c ConfigurationContent) check() error {
	set, settings := 0, 0
	for _, s := range []struct {
		name string
		Settings
	}{{"deviceContent", c.Device}, {"moduleContent", c.Module}} {
		if s.Settings == nil {
			continue
		}
		set++
		settings += len(s.Settings)
		if err := s.check(s.name); err != nil {
			return err
		}
	}
	if c.Modules != nil {
		set++
		if len(c.Modules) > maxConfigurationModules {
			return contentInvalid("modulesContent has %d modules; %d are allowed", len(c.Modules), maxConfigurationModules)
		}
		for module, s := range c.Modules {
			settings += len(s)
			if _, err := device.ParseID(string(module)); err != nil {
				return contentInvalid("modulesContent: the module ID %v", err)
			}
			if err := s.check("modulesContent." + string(module)); err != nil {
				return err
			}
		}
	}
	if set != 1 {
		return contentInvalid("content takes one of deviceContent, moduleContent and modulesContent")
	}
	if settings > maxSettings {
		return contentInvalid("content has %d values; %d are allowed", settings, maxSettings)
	}
	return nil
}

func (s Settings) check(of string) error {
	for at, value := range s {
		path, ok := settingPath(at)
		switch {
		case !ok:
			return contentInvalid("%s: %.100q is not properties.desired or a path below it", of, at)
		case len(path) == 0 && !isObject(value):
			return contentInvalid("%s: %s is not a JSON object", of, at)
		}
	}
	return nil
}

func isObject(value json.RawMessage) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(value, &object) == nil && object != nil
}

// settingPath is the path of a setting below the desired properties.
func settingPath(at string) (path []string, ok bool) {
	if at == desiredProperties {
		return nil, true
	}
	below, ok := strings.CutPrefix(at, desiredProperties+".")
	if !ok {
		return nil, false
	}
	path = strings.Split(below, ".")
	return path, !slices.Contains(path, "")
}

// A target says whom a configuration is for.
type target struct {
	modules   bool
	none      bool
	condition *query.Condition // nil for all
	reported  bool             // the condition looks at reported properties
}

// condition is the target condition without what it says of modules.
func (c *Configuration) condition() string {
	text := strings.TrimSpace(c.TargetCondition)
	if c.Content.Module != nil && len(text) >= len(targetsModules) && strings.EqualFold(text[:len(targetsModules)], targetsModules) {
		text = text[len(targetsModules):]
	}
	return text
}

// target reads the target condition.
func (c *Configuration) target() (target, error) {
	t := target{modules: c.Content.Module != nil}
	text := c.condition()
	switch {
	case text == "":
		t.none = true
		return t, nil
	case text == "*":
		return t, nil
	}
	var err error
	if t.condition, err = query.ParseCondition(text); err != nil {
		return t, errs.New(errs.Invalid, errs.CodeTargetCondition, "targetCondition: %s", errs.Public(err).Message)
	}
	t.condition.Reads(func(p query.Path) {
		t.reported = t.reported || len(p) > 1 && p[0].Name == "properties" && p[1].Name == "reported"
	})
	return t, nil
}

// An aimed configuration has its target read, for those who look at many twins.
type aimed struct {
	*Configuration
	target target
}

// aim reads the target of a configuration. One that cannot be read is for nobody.
func aim(c *Configuration) aimed {
	t, err := c.target()
	if err != nil {
		t.none = true // it was checked when it was put, by another program
	}
	return aimed{c, t}
}

// targets reports whether the configuration is for a device, or for a module.
func (c aimed) targets(f Found) bool {
	t := c.target
	switch {
	case t.none, f.Identity == nil, f.Twin == nil, t.modules != (f.Identity.Module != ""):
		return false
	case c.Content.Modules != nil && !f.Identity.IoTEdge, isSystemModule(f.Identity.Module):
		return false
	}
	return t.condition == nil || t.condition.Holds(queriedTwin{f})
}

// query finds whom the configuration targets. It is empty for nobody.
func (c aimed) query() string {
	if c.target.none {
		return ""
	}
	text := "SELECT * FROM devices"
	if c.target.modules {
		text += ".modules"
	}
	if c.target.condition != nil {
		text += " WHERE " + c.target.condition.String()
	}
	return text
}

// layered reports whether a deployment stacks on another one: it says nothing whole
// of the agent.
func (c *Configuration) layered() bool {
	if c.Content.Modules == nil {
		return false
	}
	_, whole := c.Content.Modules[EdgeAgent][desiredProperties]
	return !whole
}

// precedence sorts configurations: the first one of those that target a device
// counts. Where priorities are the same the newest does.
func precedence(a, b *Configuration) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
}
