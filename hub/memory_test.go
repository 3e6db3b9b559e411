package hub

import (
	"context"
	"sync"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// memory is a registry, a stream and a set of policies. Every second call of
// Change and Move lets decide decide twice, as the contract allows.
type memory struct {
	mu       sync.Mutex
	calls    int
	devices  map[Place]*Device
	twins    map[Place]*Twin
	stream   []*Message
	policies map[access.Owner][]access.Policy
}

func newMemory() *memory {
	return &memory{devices: map[Place]*Device{}, twins: map[Place]*Twin{}, policies: map[access.Owner][]access.Policy{}}
}

func (m *memory) Device(_ context.Context, hub string, id device.ID) (*Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.devices[Place{hub, id}]; d != nil {
		return clone(d), nil
	}
	return nil, errs.New(errs.NotFound, 0, "no device")
}

func (m *memory) Twin(_ context.Context, hub string, id device.ID) (*Twin, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.twins[Place{hub, id}]; t != nil {
		return clone(t), nil
	}
	return nil, errs.New(errs.NotFound, 0, "no twin")
}

func (m *memory) Change(_ context.Context, hub string, id device.ID, decide func(*Device, *Twin) (*Device, *Twin, error)) error {
	return m.write(hub, id, func(at *Device, twin *Twin) (*Device, *Twin, error) { return decide(at, twin) })
}

func (m *memory) Move(_ context.Context, from Place, hub string, id device.ID, decide func(*Device, *Twin, *Device, *Twin) (*Device, *Twin, error)) error {
	err := m.write(hub, id, func(at *Device, twin *Twin) (*Device, *Twin, error) {
		return decide(at, twin, clone(m.devices[from]), clone(m.twins[from]))
	})
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.devices, from)
		delete(m.twins, from)
	}
	return err
}

func (m *memory) write(hub string, id device.ID, decide func(*Device, *Twin) (*Device, *Twin, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Place{hub, id}
	if m.calls++; m.calls%2 == 0 {
		decide(clone(m.devices[p]), clone(m.twins[p]))
	}
	d, t, err := decide(clone(m.devices[p]), clone(m.twins[p]))
	if err != nil {
		return err
	}
	delete(m.devices, p)
	delete(m.twins, p)
	if d != nil {
		m.devices[p], m.twins[p] = clone(d), clone(t)
	}
	return nil
}

func (m *memory) Append(_ context.Context, ms []*Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range ms {
		message.Sequence = uint64(len(m.stream) + 1)
		m.stream = append(m.stream, message)
	}
	return nil
}

func (m *memory) Read(context.Context, string, uint64, int) ([]*Message, error) { return m.stream, nil }
func (m *memory) LastSequence(context.Context) (uint64, error)                  { return uint64(len(m.stream)), nil }
func (m *memory) Trim(context.Context, time.Time) (int, error)                  { return 0, nil }

func (m *memory) Policies(_ context.Context, o access.Owner) ([]access.Policy, error) {
	return m.policies[o], nil
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}
