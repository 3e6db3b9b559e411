package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/errs"
)

// A KeyChoice says which of two keys are meant.
type KeyChoice struct{ Primary, Secondary bool }

// A Regenerated is what came of new keys for an identity: the identity, or why there
// are none.
type Regenerated struct {
	At       Place
	Identity *Identity
	Err      error // its public part is for the caller
}

// RegenerateKeys makes new keys for up to [MaxBulk] devices and modules that
// authenticate with keys, and returns what came of each, in order. It takes
// RegistryWrite. All are written in one commit, which leaves out those that are
// refused. Who is connected stays so.
func (s *Service) RegenerateKeys(ctx context.Context, caller access.Caller, which KeyChoice, places []Place) ([]Regenerated, error) {
	if err := caller.Require(access.RegistryWrite); err != nil {
		return nil, err
	}
	if len(places) > MaxBulk {
		return nil, errs.New(errs.TooLarge, errs.CodeTooManyDevices, "There are %d entries; %d are allowed", len(places), MaxBulk)
	}
	order := make([]int, len(places)) // the same for all, so that nobody waits in a circle
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(places[a].String(), places[b].String()) })
	var all []Regenerated
	err := s.together(ctx, func(ctx context.Context) error {
		all = make([]Regenerated, len(places))
		for _, i := range order {
			at := places[i]
			d, err := s.regenerate(ctx, at, which)
			if err != nil && !refusal(err) {
				return err
			}
			all[i] = Regenerated{at, d, err}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("making keys for %d identities: %w", len(places), err)
	}
	return all, nil
}

// regenerate makes new keys for an identity in the transaction of ctx.
func (s *Service) regenerate(ctx context.Context, at Place, which KeyChoice) (*Identity, error) {
	var next *Identity
	err := s.registry.Change(ctx, at, func(old *Identity, twin *Twin) (_ *Identity, _ *Twin, err error) {
		switch {
		case old == nil:
			return nil, nil, notFound(at)
		case old.Auth.Type != AuthSAS:
			return nil, nil, invalid("%s authenticates with %s, and not with keys", at, old.Auth.Type)
		}
		changed := *old
		keep := attest.SymmetricKeys{}
		if !which.Primary {
			keep.Primary = old.Auth.Keys.Primary
		}
		if !which.Secondary {
			keep.Secondary = old.Auth.Keys.Secondary
		}
		changed.Auth.Keys = keep
		if err := s.completeKeys(&changed.Auth); err != nil {
			return nil, nil, err
		}
		if changed.ETag, err = s.newETag(); err != nil {
			return nil, nil, err
		}
		next = &changed
		return next, twin, nil
	})
	return next, err
}
