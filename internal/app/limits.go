package app

import (
	"context"
	"sync"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/limit"
	"github.com/berth-iot/berth/provision"
)

// limits are the rate limiters of the scopes: one each for a scope that has a rate
// of its own, and those of the configuration for all others together.
type limits struct {
	tenants            tenants
	hubs               *hubs
	addresses, devices *limit.Limiter // of the configuration

	mu  sync.Mutex // guards own
	own map[limitKey]ownLimit
}

// A limitKey is one of the limits of a scope.
type limitKey struct {
	scope  device.IDScope
	device bool // or of an address
}

type ownLimit struct {
	rate    string
	limiter *limit.Limiter
}

func newLimits(c LimitsConfig, t tenants, h *hubs) *limits {
	perAddress, _ := limit.ParseRate(c.PerAddress) // Validate read them
	perDevice, _ := limit.ParseRate(c.PerDevice)
	return &limits{tenants: t, hubs: h, addresses: limit.New(perAddress), devices: limit.New(perDevice), own: map[limitKey]ownLimit{}}
}

// ofAddress returns what bounds the calls of one address to a scope, which is
// named by its ID or by a host name of its own or of one of its hubs.
func (l *limits) ofAddress(tenant string) *limit.Limiter {
	s := l.scope(tenant)
	if s == nil || s.Limits.PerAddress == "" {
		return l.addresses
	}
	return l.limiter(limitKey{s.ID, false}, s.Limits.PerAddress, l.addresses)
}

// ofDevice returns what bounds the calls of one device to a scope.
func (l *limits) ofDevice(tenant string) *limit.Limiter {
	s := l.scope(tenant)
	if s == nil || s.Limits.PerDevice == "" {
		return l.devices
	}
	return l.limiter(limitKey{s.ID, true}, s.Limits.PerDevice, l.devices)
}

// limiter returns the one of a rate. When the rate was changed, counting begins
// anew.
func (l *limits) limiter(key limitKey, rate string, otherwise *limit.Limiter) *limit.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.own[key]; ok && known.rate == rate {
		return known.limiter
	}
	r, err := limit.ParseRate(rate)
	if err != nil {
		return otherwise // one that a newer server wrote
	}
	l.own[key] = ownLimit{rate, limit.New(r)}
	return l.own[key].limiter
}

// scope returns the scope that a caller names, or nil when there is none or the
// store cannot say.
func (l *limits) scope(tenant string) *provision.Scope {
	ctx := context.Background()
	if id, err := device.ParseIDScope(tenant); err == nil {
		all, err := l.tenants.known.all(ctx)
		if err != nil {
			return nil
		}
		for _, s := range all {
			if s.ID == id {
				return &s
			}
		}
		return nil
	}
	if s, err := l.tenants.ScopeOf(ctx, tenant); err == nil {
		return s
	}
	var found *provision.Scope
	_ = l.hubs.each(ctx, func(s provision.Scope, name string) bool {
		if name == tenant {
			found = &s
		}
		return found == nil
	})
	return found
}
