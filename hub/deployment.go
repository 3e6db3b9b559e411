package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub/twin"
)

// How a configuration stands under "configurations" of a twin.
const (
	statusTargeted = "Targeted" // another one counts more
	statusApplied  = "Applied"
)

// A standing is what a twin says of the configurations that target it, by their IDs.
type standing map[string]configurationStatus

type configurationStatus struct {
	Status string `json:"status"`
	Layer  int    `json:"layer,omitempty"` // of a deployment: how far above its base it is set
}

// standingOf reads what a twin says, and nothing where that cannot be read.
func standingOf(t *Twin) standing {
	s := standing{}
	if t.Configurations != nil {
		_ = json.Unmarshal(t.Configurations, &s) // we wrote it
	}
	return s
}

// text is the standing as a twin has it.
func (s standing) text() json.RawMessage {
	if len(s) == 0 {
		return nil
	}
	text, _ := json.Marshal(s) // strings; sorted by their IDs
	return text
}

// configured returns what a twin becomes by those configurations that have content
// for it, in the order of precedence, and t itself where it is that already. The
// first one counts. What it sets is set once, when it begins to count: after that
// operators may change it.
func (s *Service) configured(t *Twin, targeting []*Configuration, content func(*Configuration) Settings) (*Twin, error) {
	was, now := standingOf(t), standing{}
	next := t
	for i, c := range targeting {
		now[c.ID] = configurationStatus{Status: statusTargeted}
		if i > 0 {
			continue
		}
		now[c.ID] = configurationStatus{Status: statusApplied}
		if was[c.ID].Status == statusApplied {
			continue
		}
		desired, err := withSettings(t.Desired, content(c))
		if err != nil {
			return nil, fmt.Errorf("configuration %s: %w", c.ID, err)
		}
		if next, err = s.rewritten(t, t.Tags, desired); err != nil {
			return nil, err
		}
	}
	return next.standing(now), nil
}

// standing returns t with other configurations.
func (t *Twin) standing(now standing) *Twin {
	text := now.text()
	if bytes.Equal(text, t.Configurations) {
		return t
	}
	next := *t
	next.Configurations = text
	next.Version++
	return &next
}

// withSettings returns desired properties with settings in them, outer ones first.
func withSettings(desired json.RawMessage, settings Settings) (json.RawMessage, error) {
	for _, at := range slices.Sorted(maps.Keys(settings)) {
		path, _ := settingPath(at)
		var err error
		if desired, err = twin.Desired.Set(desired, path, settings[at]); err != nil {
			return nil, err
		}
	}
	return desired, nil
}

// A deployment is what the modules of an IoT Edge device are to have.
type deployment struct {
	layers   []*Configuration // in the order in which they are set: the base first
	standing standing
}

// deploymentOf stacks those configurations that target a device and are
// deployments, in the order of precedence: the first one that is no layer is the
// base, and the layers that count more than it are set over it, those that count
// most last. Layers without a base are none.
func deploymentOf(targeting []*Configuration) deployment {
	d := deployment{standing: standing{}}
	base := slices.IndexFunc(targeting, func(c *Configuration) bool { return !c.layered() })
	for i, c := range targeting {
		d.standing[c.ID] = configurationStatus{Status: statusTargeted}
		if base >= 0 && i <= base {
			d.layers = append(d.layers, c)
		}
	}
	slices.Reverse(d.layers)
	for i, c := range d.layers {
		d.standing[c.ID] = configurationStatus{statusApplied, i} // layers that change places are another deployment
	}
	return d
}

// stands reports whether an agent's twin says that it has the deployment.
func (d deployment) stands(t *Twin) bool {
	return bytes.Equal(d.standing.text(), t.Configurations)
}

// modules are those that it sets, the agent last: what stands in its twin says that
// the others have theirs.
func (d deployment) modules() []device.ID {
	var all []device.ID
	for _, c := range d.layers {
		for module := range c.Content.Modules {
			if module != EdgeAgent {
				all = append(all, module)
			}
		}
	}
	slices.Sort(all)
	return append(slices.Compact(all), EdgeAgent)
}

// desired is what the desired properties of a module become.
func (d deployment) desired(module device.ID, was json.RawMessage) (json.RawMessage, error) {
	for _, c := range d.layers {
		var err error
		if was, err = withSettings(was, c.Content.Modules[module]); err != nil {
			return nil, fmt.Errorf("configuration %s: module %s: %w", c.ID, module, err)
		}
	}
	return was, nil
}
