package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub/query"
)

// Configurations keeps the configurations of hubs. Each write is atomic and durable
// when it returns.
type Configurations interface {
	// Configurations returns all of a hub, ordered by ID.
	Configurations(ctx context.Context, hub string) ([]*Configuration, error)
	// ConfiguredHubs returns the hubs that have any.
	ConfiguredHubs(ctx context.Context) ([]string, error)
	// ChangeConfiguration reads a configuration, nil when there is none, and how many
	// others the hub has, and writes what decide makes of it, nil to remove it, all
	// without another write to the same one in between. An error from decide is
	// returned as it is, and nothing is written. decide must not call the store and
	// may be called more than once.
	ChangeConfiguration(ctx context.Context, hub, id string, decide func(old *Configuration, others int) (*Configuration, error)) error
}

// configurer is who may work with configurations: IoT Hub documents the rights for
// either the registry or the service.
func configurer(caller access.Caller, registry access.Right) error {
	if caller.Require(access.ServiceConnect) == nil {
		return nil
	}
	return caller.Require(registry)
}

func configurationNotFound(id string) error {
	return errs.New(errs.NotFound, errs.CodeConfigurationNotFound, "%s", id)
}

// Configuration returns one configuration. It takes RegistryRead or ServiceConnect.
func (s *Service) Configuration(ctx context.Context, caller access.Caller, hub, id string) (*Configuration, error) {
	all, err := s.Configurations(ctx, caller, hub)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.ID == id {
			return c, nil
		}
	}
	return nil, configurationNotFound(id)
}

// Configurations returns all configurations of a hub, ordered by ID. It takes
// RegistryRead or ServiceConnect.
func (s *Service) Configurations(ctx context.Context, caller access.Caller, hub string) ([]*Configuration, error) {
	if err := configurer(caller, access.RegistryRead); err != nil {
		return nil, err
	}
	all, err := s.configurations.Configurations(ctx, hub)
	if err != nil {
		return nil, fmt.Errorf("reading the configurations of %s: %w", hub, err)
	}
	return all, nil
}

// PutConfiguration creates a configuration, when there is no precondition, or
// replaces one when its entity tag satisfies the precondition: all but its content.
// Those that it targets get that soon. It takes RegistryWrite or ServiceConnect.
//
// Errors: errs.Conflict; errs.Precondition; errs.NotFound; errs.TooLarge where the
// hub has [MaxConfigurations]; errs.Invalid with the code of what is wrong.
func (s *Service) PutConfiguration(ctx context.Context, caller access.Caller, c Configuration, ifMatch Precondition) (*Configuration, error) {
	if err := configurer(caller, access.RegistryWrite); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	var put *Configuration
	err := s.configurations.ChangeConfiguration(ctx, c.Hub, c.ID, func(old *Configuration, others int) (*Configuration, error) {
		switch {
		case old == nil && ifMatch != nil:
			return nil, configurationNotFound(c.ID)
		case old == nil && others >= MaxConfigurations:
			return nil, errs.New(errs.TooLarge, errs.CodeTooManyConfigurations, "The hub has %d configurations; no more are taken", others)
		case old != nil && ifMatch == nil:
			return nil, errs.New(errs.Conflict, errs.CodeConfigurationAlreadyExists, "A configuration with ID '%s' exists.", c.ID)
		case old != nil && !ifMatch(old.ETag):
			return nil, errs.New(errs.Precondition, errs.CodePreconditionFailed, "Precondition failed: the configuration's entity tag is another one")
		case old != nil && !old.Content.equal(c.Content):
			return nil, errs.New(errs.Invalid, errs.CodeContentImmutable, "The content of a configuration cannot be changed; create another one with a higher priority")
		}
		next := c
		next.Created, next.Updated = s.now(), s.now()
		if old != nil {
			next.Created = old.Created
		}
		if next.SchemaVersion == "" {
			next.SchemaVersion = "1.0"
		}
		var err error
		next.ETag, err = s.newETag()
		put = &next
		return put, err
	})
	if err != nil {
		return nil, fmt.Errorf("writing configuration %q of %s: %w", c.ID, c.Hub, err)
	}
	if ifMatch != nil {
		s.deploying.hub(c.Hub)
	} else {
		s.deploying.without(c.Hub, c.ID) // what twins say of one that had the ID before
	}
	return put, nil
}

// equal compares JSON by what it says.
func (c ConfigurationContent) equal(other ConfigurationContent) bool {
	same := func(a, b Settings) bool { return (a == nil) == (b == nil) && maps.EqualFunc(a, b, sameJSON) }
	return same(c.Device, other.Device) && same(c.Module, other.Module) &&
		(c.Modules == nil) == (other.Modules == nil) && maps.EqualFunc(c.Modules, other.Modules, same)
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// DeleteConfiguration removes a configuration, when its entity tag satisfies the
// precondition. What it set stays until another one sets it. It takes RegistryWrite
// or ServiceConnect.
func (s *Service) DeleteConfiguration(ctx context.Context, caller access.Caller, hub, id string, ifMatch Precondition) error {
	if err := configurer(caller, access.RegistryWrite); err != nil {
		return err
	}
	err := s.configurations.ChangeConfiguration(ctx, hub, id, func(old *Configuration, _ int) (*Configuration, error) {
		switch {
		case old == nil:
			return nil, configurationNotFound(id)
		case ifMatch != nil && !ifMatch(old.ETag):
			return nil, errs.New(errs.Precondition, errs.CodePreconditionFailed, "Precondition failed: the configuration's entity tag is another one")
		}
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("deleting configuration %q of %s: %w", id, hub, err)
	}
	s.deploying.without(hub, id)
	return nil
}

// ApplyContent sets content in the twins of one device and its modules, once. It
// makes modules that there are none of. It takes RegistryWrite or ServiceConnect.
func (s *Service) ApplyContent(ctx context.Context, caller access.Caller, at Place, content ConfigurationContent) error {
	if err := configurer(caller, access.RegistryWrite); err != nil {
		return err
	}
	if content.Device == nil && content.Module == nil && content.Modules == nil {
		return contentInvalid("content takes one of deviceContent and modulesContent")
	}
	if err := content.check(); err != nil {
		return err
	}
	switch {
	case content.Module != nil:
		return contentInvalid("moduleContent says of no module which one it is")
	case content.Device != nil:
		return s.setContent(ctx, at, content.Device)
	}
	d, err := s.identityAt(ctx, at)
	switch {
	case err != nil:
		return err
	case !d.IoTEdge:
		return contentInvalid("modulesContent is for devices that run IoT Edge")
	}
	for _, id := range slices.Sorted(maps.Keys(content.Modules)) {
		module := at
		module.Module = id
		if err := s.makeModule(ctx, module); err != nil {
			return err
		}
		if err := s.setContent(ctx, module, content.Modules[id]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) setContent(ctx context.Context, at Place, settings Settings) error {
	return s.configure(ctx, at, func(_ *Identity, t *Twin) (*Twin, error) {
		desired, err := withSettings(t.Desired, settings)
		if err != nil {
			return nil, err
		}
		return s.rewritten(t, t.Tags, desired)
	})
}

// configure writes what becomes of a twin by a configuration, and tells who is
// connected.
func (s *Service) configure(ctx context.Context, at Place, become func(*Identity, *Twin) (*Twin, error)) error {
	turn := s.live.turn(at)
	turn.Lock()
	defer turn.Unlock()
	var before, after *Twin
	err := s.registry.Change(ctx, at, func(d *Identity, t *Twin) (*Identity, *Twin, error) {
		if d == nil || t == nil {
			return nil, nil, notFound(at)
		}
		next, err := become(d, t)
		before, after = t, next
		return d, next, err
	})
	if err != nil {
		return fmt.Errorf("configuring %q of %s: %w", at, at.Hub, err)
	}
	s.notify(at, before, after)
	s.twinChanged(at, updateTwin, before, after)
	return nil
}

// makeModule makes a module that a deployment names, unless it is there.
func (s *Service) makeModule(ctx context.Context, at Place) error {
	err := s.registry.Change(ctx, at, func(d *Identity, t *Twin) (*Identity, *Twin, error) {
		if d != nil {
			return d, t, nil
		}
		made, err := s.written(at, nil, Authentication{Type: AuthSAS})
		if err != nil {
			return nil, nil, err
		}
		made.ManagedBy = managedByEdge
		return made, s.freshTwin(nil), nil
	})
	if err != nil {
		return fmt.Errorf("making the module %q of %s: %w", at, at.Hub, err)
	}
	return nil
}

// A ConfigurationMetric is a query about a configuration, and how many rows it has.
type ConfigurationMetric struct {
	Query   string
	Count   int
	Counted bool // or else it has more than could be counted in time
}

// ConfigurationMetrics counts whom a configuration targets and who has it, by the
// names that IoT Hub gives to that, and answers the operator's own metrics. What
// cannot be counted before ctx ends stays uncounted. It takes RegistryRead or
// ServiceConnect.
func (s *Service) ConfigurationMetrics(ctx context.Context, caller access.Caller, c *Configuration) (system, custom map[string]ConfigurationMetric, err error) {
	if err := configurer(caller, access.RegistryRead); err != nil {
		return nil, nil, err
	}
	if system, err = s.count(ctx, c.Hub, c.systemMetrics()); err != nil {
		return nil, nil, err
	}
	custom, err = s.count(ctx, c.Hub, c.Metrics)
	return system, custom, err
}

func (s *Service) count(ctx context.Context, hub string, queries map[string]string) (map[string]ConfigurationMetric, error) {
	counted := make(map[string]ConfigurationMetric, len(queries))
	for name, text := range queries {
		q, err := query.Parse(text)
		if err != nil {
			return nil, err
		}
		n, err := s.walk(hub, q).count(ctx)
		switch kind := errs.KindOf(err); {
		case err == nil:
			counted[name] = ConfigurationMetric{text, n, true}
		case kind == errs.Invalid, kind == errs.Busy, errors.Is(ctx.Err(), context.DeadlineExceeded):
			counted[name] = ConfigurationMetric{Query: text} // the rest is worth knowing
		default:
			return nil, fmt.Errorf("counting %s: %w", name, err)
		}
	}
	return counted, nil
}

// systemMetrics are the queries that IoT Hub's tools read and ask themselves.
func (c *Configuration) systemMetrics() map[string]string {
	from, of, where := "devices", "deviceId", c.condition()
	applied := "configurations.[[" + c.ID + "]].status = 'Applied'"
	switch {
	case c.Content.Modules != nil:
		edge := "capabilities.iotEdge = true"
		if where != "*" {
			edge += " AND (" + where + ")"
		}
		agents := "SELECT deviceId FROM devices.modules WHERE moduleId = '" + string(EdgeAgent) + "' AND " + applied
		current := agents + " AND properties.desired.$version = properties.reported.lastDesiredVersion AND properties.reported.lastDesiredStatus.code "
		return targetedMetric(where, map[string]string{
			"targetedCount":           "SELECT deviceId FROM devices WHERE " + edge,
			"appliedCount":            agents,
			"reportedSuccessfulCount": current + "= 200",
			"reportedFailedCount":     current + "!= 200",
		})
	case c.Content.Module != nil:
		from, of = "devices.modules", "deviceId, moduleId"
	}
	all := "SELECT " + of + " FROM " + from
	targeted := all + " WHERE " + where
	if where == "*" {
		targeted = all
	}
	return targetedMetric(where, map[string]string{"targetedCount": targeted, "appliedCount": all + " WHERE " + applied})
}

// targetedMetric leaves out whom nothing targets.
func targetedMetric(where string, metrics map[string]string) map[string]string {
	if where == "" {
		delete(metrics, "targetedCount")
	}
	return metrics
}

// TestQueries says what is wrong with a target condition and with queries of
// metrics, by their names; nothing where nothing is. It takes RegistryRead or
// ServiceConnect.
func (s *Service) TestQueries(caller access.Caller, condition string, metrics map[string]string) (target string, faults map[string]string, err error) {
	if err := configurer(caller, access.RegistryRead); err != nil {
		return "", nil, err
	}
	for _, content := range []ConfigurationContent{{Device: Settings{}}, {Module: Settings{}}} {
		of := Configuration{TargetCondition: condition, Content: content}
		if _, err := of.target(); err == nil {
			target = ""
			break
		} else if target == "" {
			target = errs.Public(err).Message
		}
	}
	faults = map[string]string{}
	for name, text := range metrics {
		if err := checkMetric(text); err != nil {
			faults[name] = errs.Public(err).Message
		}
	}
	return target, faults, nil
}
