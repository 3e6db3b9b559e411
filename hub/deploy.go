package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-iot/berth/errs"
)

const (
	// deployInterval is how often all devices are looked at: another server may have
	// been killed while it was about to.
	deployInterval = 5 * time.Minute
	// relearnInterval is how often configurations are read that other servers may
	// have changed.
	relearnInterval = 10 * time.Second
	// maxTouched bounds the devices that wait to be looked at; where there are more,
	// all of their hub are.
	maxTouched = 10_000
)

// A due is what is to be looked at. The zero value is nothing.
type due struct {
	touched map[Place]bool
	hubs    map[string]bool
	gone    map[string][]string // IDs of configurations, by hub
}

func (d *due) place(at Place) {
	switch {
	case len(d.touched) >= maxTouched:
		d.hub(at.Hub)
		return
	case d.touched == nil:
		d.touched = make(map[Place]bool)
	}
	d.touched[at] = true
}

func (d *due) hub(name string) {
	if d.hubs == nil {
		d.hubs = make(map[string]bool)
	}
	d.hubs[name] = true
}

// without is hub where what twins say of some configurations counts no more.
func (d *due) without(name string, ids ...string) {
	if d.gone == nil {
		d.gone = make(map[string][]string)
	}
	d.gone[name] = append(d.gone[name], ids...)
	d.hub(name)
}

// deploying is what is to be looked at, because configurations or twins changed.
// The zero value is ready.
type deploying struct {
	// known are the configurations by hub, in the order of precedence.
	known atomic.Pointer[map[string][]aimed]

	mu    sync.Mutex // guards what follows
	due   due
	woken chan struct{} // closed when there is something
}

// of returns what is known of a hub's configurations.
func (d *deploying) of(hub string) []aimed {
	if known := d.known.Load(); known != nil {
		return (*known)[hub]
	}
	return nil
}

// twin notes that a twin or an identity changed. Where only what the device reports
// did, that counts when a condition looks at it.
func (d *deploying) twin(at Place, reported bool) {
	wanted := func(c aimed) bool { return !reported || c.target.reported }
	if !slices.ContainsFunc(d.of(at.Hub), wanted) {
		return
	}
	d.note(func(next *due) { next.place(at) })
}

// hub notes that a hub's configurations changed.
func (d *deploying) hub(name string) { d.note(func(next *due) { next.hub(name) }) }

// without notes that a hub has a configuration no more, or another one by its ID.
func (d *deploying) without(name, id string) { d.note(func(next *due) { next.without(name, id) }) }

// again notes what could not be looked at.
func (d *deploying) again(missed due) {
	d.note(func(next *due) {
		for at := range missed.touched {
			next.place(at)
		}
		for hub := range missed.hubs {
			next.without(hub, missed.gone[hub]...)
		}
	})
}

func (d *deploying) note(what func(next *due)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	what(&d.due)
	if d.woken != nil {
		close(d.woken)
		d.woken = nil
	}
}

// take returns what is to be looked at, and what is closed when there is more.
func (d *deploying) take() (now due, more <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, d.due = d.due, due{}
	if d.woken == nil {
		d.woken = make(chan struct{})
	}
	return now, d.woken
}

// Deploy gives devices and modules what configurations have for them, when one of
// the two changes and every few minutes, until ctx ends. failed is told of what went
// wrong, which is tried again, and of twins that cannot have what is for them.
func (s *Service) Deploy(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(relearnInterval)
	defer tick.Stop()
	var looked time.Time
	for ctx.Err() == nil {
		now, more := s.deploying.take()
		missed := now
		known, err := s.learnConfigurations(ctx)
		if err == nil {
			if at := s.now(); at.Sub(looked) >= deployInterval {
				looked = at
				for hub := range known {
					now.hub(hub)
				}
			}
			missed, err = s.deployDue(ctx, known, now)
		}
		if err != nil && ctx.Err() == nil {
			failed(fmt.Errorf("deploying configurations: %w", err))
		}
		if len(missed.hubs)+len(missed.touched) > 0 {
			s.deploying.again(missed)
			more = nil // not at once
		}
		select {
		case <-more:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// deployDue looks at what is due, and returns what of it is to be looked at again.
func (s *Service) deployDue(ctx context.Context, known map[string][]aimed, now due) (missed due, err error) {
	var unfit unfit
	for hub := range now.hubs {
		if fault := s.deployAll(ctx, hub, known[hub], now.gone[hub], &unfit); fault != nil {
			missed.without(hub, now.gone[hub]...)
			err = errors.Join(err, fault)
		}
	}
	for at := range now.touched {
		if now.hubs[at.Hub] {
			continue
		}
		if fault := unfit.unless(s.deployTo(ctx, at, known[at.Hub])); fault != nil {
			missed.place(at)
			err = errors.Join(err, fault)
		}
	}
	return missed, errors.Join(err, unfit.err())
}

// unfit counts twins that cannot have what is for them, such as those that would
// become too large. They must not keep it from the others.
type unfit struct {
	n     int
	first error
}

// unless returns err, or nil where the twin alone is at fault.
func (u *unfit) unless(err error) error {
	switch {
	case err == nil || errs.KindOf(err) == errs.NotFound: // deleted since
		return nil
	case !refusal(err):
		return err
	case u.n == 0:
		u.first = err
	}
	u.n++
	return nil
}

func (u *unfit) err() error {
	if u.n == 0 {
		return nil
	}
	return fmt.Errorf("%d twins cannot have what is for them; the first: %w", u.n, u.first)
}

// learnConfigurations reads all configurations, by hub and in the order of
// precedence.
func (s *Service) learnConfigurations(ctx context.Context) (map[string][]aimed, error) {
	hubs, err := s.configurations.ConfiguredHubs(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading which hubs have configurations: %w", err)
	}
	known := make(map[string][]aimed, len(hubs))
	for _, hub := range hubs {
		all, err := s.configurations.Configurations(ctx, hub)
		if err != nil {
			return nil, fmt.Errorf("reading the configurations of %s: %w", hub, err)
		}
		slices.SortFunc(all, precedence)
		for _, c := range all {
			known[hub] = append(known[hub], aim(c))
		}
	}
	s.deploying.known.Store(&known)
	return known, nil
}

// deployAll looks at everyone of a hub whom a configuration targets, or whose twin
// says so. What twins say of those that are gone is taken back first: an ID may be
// that of another configuration by now.
func (s *Service) deployAll(ctx context.Context, hub string, all []aimed, gone []string, unfit *unfit) error {
	var faults []error
	look := func(text string, all []aimed) {
		faults = append(faults, s.eachFound(ctx, hub, text, func(f Found) error { return unfit.unless(s.deploy(ctx, f, all)) }))
	}
	standing := func(id string, all []aimed) {
		for _, from := range []string{"devices", "devices.modules"} {
			look("SELECT * FROM "+from+" WHERE configurations.[["+id+"]].status IN ['"+statusApplied+"', '"+statusTargeted+"']", all)
		}
	}
	others := slices.DeleteFunc(slices.Clone(all), func(c aimed) bool { return slices.Contains(gone, c.ID) })
	for _, id := range gone {
		standing(id, others)
	}
	for _, c := range all {
		look(c.query(), all)
		standing(c.ID, all)
	}
	return errors.Join(faults...)
}

// eachFound calls use with every twin that a query finds.
func (s *Service) eachFound(ctx context.Context, hub, text string, use func(Found) error) error {
	for continued := ""; text != ""; {
		page, err := s.find(ctx, hub, text, MaxPage, continued, own)
		if err != nil {
			return err
		}
		for _, f := range page.Twins {
			if err := use(f); err != nil {
				return err
			}
		}
		if continued = page.Continuation; continued == "" {
			break
		}
	}
	return nil
}

// deployTo is deploy for a place, whatever is there.
func (s *Service) deployTo(ctx context.Context, at Place, all []aimed) error {
	d, err := s.identityAt(ctx, at)
	if errs.KindOf(err) == errs.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	t, err := s.registry.Twin(ctx, at)
	if errs.KindOf(err) == errs.NotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the twin of %q of %s: %w", at, at.Hub, err)
	}
	return s.deploy(ctx, Found{Identity: d, Twin: t}, all)
}

// deploy gives one device or module what the configurations have for it.
func (s *Service) deploy(ctx context.Context, f Found, all []aimed) error {
	at := f.Identity.Place
	content := func(c *Configuration) Settings { return c.Content.Device }
	if at.Module != "" {
		content = func(c *Configuration) Settings { return c.Content.Module }
	}
	if at.Module == EdgeAgent { // its standing is that of its device's deployments
		return s.deployTo(ctx, at.Device(), all)
	}
	become := func(d *Identity, t *Twin) (*Twin, error) {
		return s.configured(t, targeting(all, Found{Identity: d, Twin: t}, func(c *Configuration) bool { return content(c) != nil }), content)
	}
	next, err := become(f.Identity, f.Twin)
	if err == nil && next != f.Twin {
		err = s.configure(ctx, at, become)
	}
	if err != nil || !f.Identity.IoTEdge {
		return err
	}
	return s.deployEdge(ctx, at, deploymentOf(targeting(all, f, func(c *Configuration) bool { return c.Content.Modules != nil })))
}

// targeting are those of all that target a device or a module and that are wanted.
func targeting(all []aimed, f Found, wanted func(*Configuration) bool) []*Configuration {
	var them []*Configuration
	for _, c := range all {
		if wanted(c.Configuration) && c.targets(f) {
			them = append(them, c.Configuration)
		}
	}
	return them
}

// deployEdge gives the modules of an IoT Edge device its deployment, unless they
// have it.
func (s *Service) deployEdge(ctx context.Context, at Place, d deployment) error {
	agent := at
	agent.Module = EdgeAgent
	t, err := s.registry.Twin(ctx, agent)
	if errs.KindOf(err) == errs.NotFound && len(d.layers) == 0 || err == nil && d.stands(t) {
		return nil
	}
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return fmt.Errorf("reading the twin of %q of %s: %w", agent, at.Hub, err)
	}
	for _, id := range d.modules() {
		module := at
		module.Module = id
		if err := s.makeModule(ctx, module); err != nil {
			return err
		}
		err := s.configure(ctx, module, func(_ *Identity, t *Twin) (*Twin, error) {
			desired, err := d.desired(id, t.Desired)
			if err != nil {
				return nil, err
			}
			next, err := s.rewritten(t, t.Tags, desired)
			if err == nil && id == EdgeAgent {
				next = next.standing(d.standing)
			}
			return next, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
