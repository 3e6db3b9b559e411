package hub_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/hub/query"
)

// A deploying is a hub that deploys configurations.
type deploying struct {
	*testing.T
	*hub.Service
	failed *[]error // what Deploy said; a story takes what it expects
}

func whileDeploying(t *testing.T, story func(d deploying)) {
	synctest.Test(t, func(t *testing.T) {
		db := openStore(t)
		s := hub.New(hub.Config{
			Registry: db, Stream: db, Queues: db, Presences: db, Configurations: db, Policies: db, Random: rand.Reader, Now: time.Now,
		})
		ctx, cancel := context.WithCancel(t.Context())
		var failed []error
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Deploy(ctx, func(err error) { failed = append(failed, err) })
		}()
		story(deploying{t, s, &failed})
		cancel()
		<-ended
		for _, err := range failed {
			t.Error(err)
		}
	})
}

func (d deploying) device(id device.ID, edge bool, tags string) {
	d.Helper()
	_, err := d.PutDevice(d.Context(), owner, home(id, ""), hub.DeviceSpec{IoTEdge: &edge, Auth: hub.Authentication{Type: hub.AuthSAS}}, nil)
	if err != nil {
		d.Fatal(err)
	}
	d.tag(id, tags)
}

func (d deploying) tag(id device.ID, tags string) {
	d.Helper()
	if _, _, err := d.PatchTwin(d.Context(), owner, home(id, ""), hub.TwinChange{Tags: json.RawMessage(tags)}, nil); err != nil {
		d.Fatal(err)
	}
}

func (d deploying) put(c hub.Configuration) {
	d.Helper()
	c.Hub = host
	if _, err := d.PutConfiguration(d.Context(), owner, c, nil); err != nil {
		d.Fatal(err)
	}
}

// has waits until everything that changed was looked at, and compares a twin's
// desired properties and what it says of configurations.
func (d deploying) has(at hub.Place, desired, configurations string) {
	d.Helper()
	synctest.Wait()
	_, twin, err := d.Twin(d.Context(), owner, at)
	if err != nil {
		d.Fatal(err)
	}
	if string(twin.Desired) != desired || string(twin.Configurations) != configurations {
		d.Errorf("%s has %s by %s, want %s by %s", at, twin.Desired, twin.Configurations, desired, configurations)
	}
}

func settings(pairs ...string) hub.Settings {
	s := hub.Settings{}
	for i := 0; i < len(pairs); i += 2 {
		s[pairs[i]] = json.RawMessage(pairs[i+1])
	}
	return s
}

func forDevices(id, condition string, priority int, pairs ...string) hub.Configuration {
	return hub.Configuration{ID: id, TargetCondition: condition, Priority: priority, Content: hub.ConfigurationContent{Device: settings(pairs...)}}
}

func TestConfigurationsOfDevices(t *testing.T) {
	whileDeploying(t, func(d deploying) {
		d.device("a", false, `{"site":"north"}`)
		d.device("b", false, `{"site":"south"}`)
		d.put(forDevices("rate", "tags.site='north'", 10, "properties.desired.rate", `{"seconds":5}`))
		d.has(home("a", ""), `{"rate":{"seconds":5}}`, `{"rate":{"status":"Applied"}}`)
		d.has(home("b", ""), `{}`, ``)

		// Who comes to be targeted gets it, also when he is new.
		d.tag("b", `{"site":"north"}`)
		d.has(home("b", ""), `{"rate":{"seconds":5}}`, `{"rate":{"status":"Applied"}}`)
		d.device("c", false, `{"site":"north"}`)
		d.has(home("c", ""), `{"rate":{"seconds":5}}`, `{"rate":{"status":"Applied"}}`)

		// What it set it sets once.
		if _, _, err := d.PatchTwin(d.Context(), owner, home("a", ""), said("", `{"rate":{"seconds":9},"own":1}`), nil); err != nil {
			d.Fatal(err)
		}
		d.has(home("a", ""), `{"rate":{"seconds":9},"own":1}`, `{"rate":{"status":"Applied"}}`)

		// Another one counts more, and less.
		d.put(forDevices("slow", "deviceId IN ['a','b']", 20, "properties.desired.rate", `{"seconds":60}`))
		d.put(forDevices("never", "*", 1, "properties.desired.rate", `0`))
		d.has(home("a", ""), `{"rate":{"seconds":60},"own":1}`, `{"never":{"status":"Targeted"},"rate":{"status":"Targeted"},"slow":{"status":"Applied"}}`)
		d.has(home("c", ""), `{"rate":{"seconds":5}}`, `{"never":{"status":"Targeted"},"rate":{"status":"Applied"}}`)

		// When it is gone, or targets others, the next one counts.
		if err := d.DeleteConfiguration(d.Context(), owner, host, "slow", nil); err != nil {
			d.Fatal(err)
		}
		d.has(home("a", ""), `{"rate":{"seconds":5},"own":1}`, `{"never":{"status":"Targeted"},"rate":{"status":"Applied"}}`)
		d.tag("a", `{"site":"south"}`)
		d.has(home("a", ""), `{"rate":0,"own":1}`, `{"never":{"status":"Applied"}}`)

		c, err := d.Configuration(d.Context(), owner, host, "rate")
		if err != nil {
			d.Fatal(err)
		}
		c.TargetCondition, c.Metrics = "", map[string]string{"all": "SELECT deviceId FROM devices"}
		if c, err = d.PutConfiguration(d.Context(), owner, *c, is(c.ETag)); err != nil {
			d.Fatal(err)
		}
		d.has(home("c", ""), `{"rate":0}`, `{"never":{"status":"Applied"}}`)
		if _, custom, err := d.ConfigurationMetrics(d.Context(), owner, c); err != nil || custom["all"].Count != 3 {
			d.Errorf("%v, %v", custom, err)
		}
		late, cancel := context.WithTimeout(d.Context(), 0)
		defer cancel()
		if system, _, err := d.ConfigurationMetrics(late, owner, c); err != nil || system["appliedCount"].Counted || system["appliedCount"].Query == "" {
			d.Errorf("%v, %v", system, err)
		}
		never, err := d.Configuration(d.Context(), owner, host, "never")
		if err != nil {
			d.Fatal(err)
		}
		if system, _, err := d.ConfigurationMetrics(d.Context(), owner, never); err != nil || system["targetedCount"].Count != 3 || system["appliedCount"].Count != 3 {
			d.Errorf("%v, %v", system, err)
		}
	})
}

// Content cannot be changed: who wants another one deletes and creates.
func TestAnIDMayBeThatOfAnotherConfiguration(t *testing.T) {
	whileDeploying(t, func(d deploying) {
		d.device("a", false, `{}`)
		d.put(forDevices("rate", "*", 10, "properties.desired.rate", `5`))
		d.has(home("a", ""), `{"rate":5}`, `{"rate":{"status":"Applied"}}`)
		if err := d.DeleteConfiguration(d.Context(), owner, host, "rate", nil); err != nil {
			d.Fatal(err)
		}
		d.put(forDevices("rate", "*", 10, "properties.desired.rate", `9`))
		d.has(home("a", ""), `{"rate":9}`, `{"rate":{"status":"Applied"}}`)
	})
}

func TestATwinThatIsFullKeepsConfigurationsFromNobodyElse(t *testing.T) {
	whileDeploying(t, func(d deploying) {
		for _, id := range []device.ID{"a", "b", "c"} {
			d.device(id, false, `{}`)
		}
		var full strings.Builder
		for i := range 8 {
			fmt.Fprintf(&full, `,"%d":%q`, i, strings.Repeat("x", 4000))
		}
		if _, _, err := d.PatchTwin(d.Context(), owner, home("b", ""), said("", "{"+full.String()[1:]+"}"), nil); err != nil {
			d.Fatal(err)
		}
		d.put(forDevices("more", "*", 10, "properties.desired.more", `"`+strings.Repeat("x", 1000)+`"`))
		for _, id := range []device.ID{"a", "c"} {
			d.has(home(id, ""), `{"more":"`+strings.Repeat("x", 1000)+`"}`, `{"more":{"status":"Applied"}}`)
		}
		if len(*d.failed) != 1 || !strings.Contains((*d.failed)[0].Error(), `1 twins cannot have what is for them; the first: `) {
			d.Errorf("operators are told %q", *d.failed)
		}
		*d.failed = nil
	})
}

// What a device reports counts where a condition looks at it.
func TestConfigurationsFollowWhatDevicesReport(t *testing.T) {
	whileDeploying(t, func(d deploying) {
		d.device("a", false, `{}`)
		d.put(forDevices("update", "properties.reported.version < 2", 10, "properties.desired.version", `2`))
		d.has(home("a", ""), `{}`, ``)
		identity, err := d.Identity(d.Context(), owner, home("a", ""))
		if err != nil {
			d.Fatal(err)
		}
		from := hub.Sender{Place: identity.Place, GenerationID: identity.GenerationID}
		if _, err := d.PatchReported(d.Context(), from, json.RawMessage(`{"version":1}`), nil); err != nil {
			d.Fatal(err)
		}
		d.has(home("a", ""), `{"version":2}`, `{"update":{"status":"Applied"}}`)
		if _, err := d.PatchReported(d.Context(), from, json.RawMessage(`{"version":2}`), nil); err != nil {
			d.Fatal(err)
		}
		d.has(home("a", ""), `{"version":2}`, ``)
	})
}

func deployment(id, condition string, priority int, modules map[device.ID]hub.Settings) hub.Configuration {
	return hub.Configuration{ID: id, TargetCondition: condition, Priority: priority, Content: hub.ConfigurationContent{Modules: modules}}
}

func TestDeployments(t *testing.T) {
	whileDeploying(t, func(d deploying) {
		d.device("gate", true, `{"site":"north"}`)
		d.device("leaf", false, `{"site":"north"}`)
		d.put(deployment("base", "tags.site='north'", 10, map[device.ID]hub.Settings{
			"$edgeAgent": settings("properties.desired", `{"schemaVersion":"1.1","modules":{}}`),
			"$edgeHub":   settings("properties.desired", `{"schemaVersion":"1.1","routes":{}}`),
		}))
		const baseAgent, baseHub = `{"schemaVersion":"1.1","modules":{}}`, `{"schemaVersion":"1.1","routes":{}}`
		d.has(home("gate", "$edgeAgent"), baseAgent, `{"base":{"status":"Applied"}}`)
		d.has(home("gate", "$edgeHub"), baseHub, ``)
		d.has(home("gate", ""), `{}`, ``)
		d.has(home("leaf", ""), `{}`, ``)

		// A layer that counts more stacks on it; it makes a module. One that counts
		// less does not.
		d.put(deployment("filter", "*", 20, map[device.ID]hub.Settings{
			"$edgeAgent": settings("properties.desired.modules.filter", `{"type":"docker"}`),
			"filter":     settings("properties.desired.limit", `25`),
		}))
		d.put(deployment("below", "*", 5, map[device.ID]hub.Settings{"$edgeAgent": settings("properties.desired.modules.below", `{}`)}))
		const layered = `{"schemaVersion":"1.1","modules":{"filter":{"type":"docker"}}}`
		d.has(home("gate", "$edgeAgent"), layered, `{"base":{"status":"Applied"},"below":{"status":"Targeted"},"filter":{"status":"Applied","layer":1}}`)
		d.has(home("gate", "filter"), `{"limit":25}`, ``)
		m, err := d.Identity(d.Context(), owner, home("gate", "filter"))
		if err != nil || m.ManagedBy != "iotEdge" || m.Auth.Keys.Primary.IsZero() {
			d.Errorf("%+v, %v", m, err)
		}

		// Another base takes the place of the first, with the layers above it.
		d.put(deployment("next", "*", 15, map[device.ID]hub.Settings{"$edgeAgent": settings("properties.desired", `{"schemaVersion":"1.0","modules":{}}`)}))
		d.has(home("gate", "$edgeAgent"), `{"schemaVersion":"1.0","modules":{"filter":{"type":"docker"}}}`,
			`{"base":{"status":"Targeted"},"below":{"status":"Targeted"},"filter":{"status":"Applied","layer":1},"next":{"status":"Applied"}}`)

		// Layers that change places are set anew.
		d.put(deployment("wide", "*", 30, map[device.ID]hub.Settings{"filter": settings("properties.desired.limit", `100`)}))
		d.has(home("gate", "filter"), `{"limit":100}`, ``)
		filter, err := d.Configuration(d.Context(), owner, host, "filter")
		if err != nil {
			d.Fatal(err)
		}
		filter.Priority = 40
		if _, err := d.PutConfiguration(d.Context(), owner, *filter, is(filter.ETag)); err != nil {
			d.Fatal(err)
		}
		d.has(home("gate", "filter"), `{"limit":25}`, ``)

		// When all are gone, what they set stays.
		for _, id := range []string{"base", "below", "filter", "next", "wide"} {
			if err := d.DeleteConfiguration(d.Context(), owner, host, id, nil); err != nil {
				d.Fatal(err)
			}
		}
		synctest.Wait()
		_, twin, err := d.Twin(d.Context(), owner, home("gate", "$edgeAgent"))
		if err != nil || twin.Configurations != nil {
			d.Errorf("%s, %v", twin.Configurations, err)
		}
	})
}

func TestConfigurationsOfModules(t *testing.T) {
	whileDeploying(t, func(d deploying) {
		d.device("gate", true, `{}`)
		for _, id := range []device.ID{"a", "b"} {
			if _, err := d.PutModule(d.Context(), boss, home("gate", id), hub.ModuleSpec{Auth: hub.Authentication{Type: hub.AuthSAS}}, nil); err != nil {
				d.Fatal(err)
			}
		}
		d.put(hub.Configuration{ID: "m", TargetCondition: "FROM devices.modules WHERE moduleId='a'", Content: hub.ConfigurationContent{Module: settings("properties.desired.x", `1`)}})
		d.has(home("gate", "a"), `{"x":1}`, `{"m":{"status":"Applied"}}`)
		d.has(home("gate", "b"), `{}`, ``)
		d.has(home("gate", "$edgeAgent"), `{}`, ``)
		c, err := d.Configuration(d.Context(), owner, host, "m")
		if err != nil {
			d.Fatal(err)
		}
		if system, _, err := d.ConfigurationMetrics(d.Context(), owner, c); err != nil || system["targetedCount"].Count != 1 || system["appliedCount"].Count != 1 {
			d.Errorf("%v, %v", system, err)
		}
	})
}

func TestContentIsAppliedToOneDevice(t *testing.T) {
	whileDeploying(t, func(d deploying) {
		d.device("gate", true, `{}`)
		err := d.ApplyContent(d.Context(), owner, home("gate", ""), hub.ConfigurationContent{Modules: map[device.ID]hub.Settings{
			"$edgeAgent": settings("properties.desired", `{"modules":{}}`), "temp": settings("properties.desired", `{"every":5}`),
		}})
		if err != nil {
			d.Fatal(err)
		}
		d.has(home("gate", "$edgeAgent"), `{"modules":{}}`, ``)
		d.has(home("gate", "temp"), `{"every":5}`, ``)
		if err := d.ApplyContent(d.Context(), owner, home("gate", ""), hub.ConfigurationContent{Device: settings("properties.desired.a", `1`)}); err != nil {
			d.Fatal(err)
		}
		d.has(home("gate", ""), `{"a":1}`, ``)
		d.device("leaf", false, `{}`)
		for name, c := range map[string]struct {
			at      hub.Place
			content hub.ConfigurationContent
			kind    errs.Kind
		}{
			"no device": {home("nobody", ""), hub.ConfigurationContent{Modules: map[device.ID]hub.Settings{"m": settings("properties.desired.a", `1`)}}, errs.NotFound},
			"no edge":   {home("leaf", ""), hub.ConfigurationContent{Modules: map[device.ID]hub.Settings{"$edgeAgent": settings("properties.desired.a", `1`)}}, errs.Invalid},
			"nothing":   {home("gate", ""), hub.ConfigurationContent{}, errs.Invalid},
			"of module": {home("gate", ""), hub.ConfigurationContent{Module: settings("properties.desired.a", `1`)}, errs.Invalid},
			"too much":  {home("gate", ""), hub.ConfigurationContent{Device: settings("properties.desired.a", `"`+strings.Repeat("x", 5000)+`"`)}, errs.Invalid},
		} {
			if err := d.ApplyContent(d.Context(), owner, c.at, c.content); errs.KindOf(err) != c.kind {
				d.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	s, _ := open(t)
	good := forDevices("good", "*", 1, "properties.desired.a", `1`)
	good.Hub = host
	put, err := s.PutConfiguration(t.Context(), owner, good, nil)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*hub.Configuration)) hub.Configuration {
		c := good
		c.ID = "other"
		change(&c)
		return c
	}
	reader := access.Caller{Policy: "reader", Rights: access.RegistryRead}
	for name, c := range map[string]struct {
		configuration hub.Configuration
		caller        access.Caller
		ifMatch       hub.Precondition
		code          errs.Code
	}{
		"there is one":        {good, owner, nil, errs.CodeConfigurationAlreadyExists},
		"it is another one":   {good, owner, is("x"), errs.CodePreconditionFailed},
		"there is none":       {with(func(*hub.Configuration) {}), owner, always, errs.CodeConfigurationNotFound},
		"no right":            {with(func(*hub.Configuration) {}), reader, nil, errs.CodeUnauthorizedAccess},
		"capital letters":     {with(func(c *hub.Configuration) { c.ID = "Other" }), owner, nil, errs.CodeArgumentInvalid},
		"no ID":               {with(func(c *hub.Configuration) { c.ID = "" }), owner, nil, errs.CodeArgumentInvalid},
		"another schema":      {with(func(c *hub.Configuration) { c.SchemaVersion = "9" }), owner, nil, errs.CodeArgumentInvalid},
		"a negative priority": {with(func(c *hub.Configuration) { c.Priority = -1 }), owner, nil, errs.CodeArgumentInvalid},
		"no content":          {with(func(c *hub.Configuration) { c.Content = hub.ConfigurationContent{} }), owner, nil, errs.CodeConfigurationContent},
		"two contents":        {with(func(c *hub.Configuration) { c.Content.Module = hub.Settings{} }), owner, nil, errs.CodeConfigurationContent},
		"reported properties": {with(func(c *hub.Configuration) { c.Content.Device = settings("properties.reported.a", `1`) }), owner, nil, errs.CodeConfigurationContent},
		"an empty name":       {with(func(c *hub.Configuration) { c.Content.Device = settings("properties.desired..a", `1`) }), owner, nil, errs.CodeConfigurationContent},
		"a number for all":    {with(func(c *hub.Configuration) { c.Content.Device = settings("properties.desired", `1`) }), owner, nil, errs.CodeConfigurationContent},
		"a broken condition":  {with(func(c *hub.Configuration) { c.TargetCondition = "tags.site=" }), owner, nil, errs.CodeTargetCondition},
		"a long condition": {with(func(c *hub.Configuration) {
			c.TargetCondition = "tags.site='" + strings.Repeat("x", query.MaxText-13) + "'"
		}), owner, nil, errs.CodeTargetCondition},
		"six metrics": {with(func(c *hub.Configuration) {
			c.Metrics = map[string]string{"1": "", "2": "", "3": "", "4": "", "5": "", "6": ""}
		}), owner, nil, errs.CodeArgumentInvalid},
		"a broken metric": {with(func(c *hub.Configuration) { c.Metrics = map[string]string{"m": "SELECT"} }), owner, nil, errs.CodeMetricsQuery},
		"the content is other": {func() hub.Configuration {
			c := good
			c.Content.Device = settings("properties.desired.a", `2`)
			return c
		}(), owner, is(put.ETag), errs.CodeContentImmutable},
	} {
		if _, err := s.PutConfiguration(t.Context(), c.caller, c.configuration, c.ifMatch); errs.Public(err).Code != c.code {
			t.Errorf("%s: %v, want %d", name, err, c.code)
		}
	}
	same := good
	same.Content.Device, same.Priority = settings("properties.desired.a", ` 1`), 7
	if _, err := s.PutConfiguration(t.Context(), owner, same, is(put.ETag)); err != nil {
		t.Error(err)
	}
	if err := s.DeleteConfiguration(t.Context(), owner, host, "good", is(put.ETag)); errs.KindOf(err) != errs.Precondition {
		t.Error(err)
	}
	if err := s.DeleteConfiguration(t.Context(), reader, host, "good", nil); errs.KindOf(err) != errs.Denied {
		t.Error(err)
	}
	for i := range hub.MaxConfigurations - 1 {
		c := with(func(c *hub.Configuration) { c.ID = fmt.Sprint("c-", i) })
		if _, err := s.PutConfiguration(t.Context(), owner, c, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.PutConfiguration(t.Context(), owner, with(func(*hub.Configuration) {}), nil); errs.Public(err).Code != errs.CodeTooManyConfigurations {
		t.Error(err)
	}
}

func home(id, module device.ID) hub.Place { return hub.Place{Hub: host, ID: id, Module: module} }
