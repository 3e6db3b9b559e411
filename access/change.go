package access

import (
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// keySize is the size in bytes of the keys made here.
const keySize = 64

// maxPolicies is how many policies an owner may have: a call is held against
// all of them.
const maxPolicies = 100

// namePattern is what a policy may be called, so that its name needs no
// escaping in connection strings, tokens and paths.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// A Match judges a policy as a caller's If-Match asks.
type Match func(Policy) bool

// Rights returns all rights that a policy of o may have.
func (o Owner) Rights() Right {
	if strings.HasPrefix(string(o), "hub:") {
		return AllHub
	}
	return AllProvisioning
}

// ParseRights reads the names of rights, as a policy of o may have them, without
// case. The error is of kind errs.Invalid.
func (o Owner) ParseRights(names []string) (Right, error) {
	var all Right
	for _, name := range names {
		i := slices.IndexFunc(rightNames, func(n rightName) bool { return o.Rights()&n.right != 0 && strings.EqualFold(n.name, name) })
		if i < 0 {
			return 0, invalid("%q is no right here; %s are", name, o.Rights())
		}
		all |= rightNames[i].right
	}
	if all == 0 {
		return 0, invalid("a policy needs a right: %s", o.Rights())
	}
	return all, nil
}

// Put returns the policies of owner after next was created (match nil) or put in
// the place of the one with its name, which match accepts. Keys that next leaves
// open stay as they are, or are made. It changes nothing that it is given.
//
// Errors: errs.Conflict (it exists, or owner would be locked out),
// errs.NotFound (nothing to update), errs.Precondition (match does not accept
// it), errs.Invalid.
func Put(policies []Policy, owner Owner, next Policy, match Match, random io.Reader) ([]Policy, error) {
	if !namePattern.MatchString(next.Name) {
		return nil, invalid("the name must be 1 to 64 letters, digits and - . _, the first a letter or digit")
	}
	i := find(policies, next.Name)
	switch {
	case i < 0 && match != nil:
		return nil, notFound(next.Name)
	case i >= 0 && match == nil:
		return nil, errs.New(errs.Conflict, errs.CodeConflict, "There is a policy %q already", policies[i].Name)
	case i < 0 && len(policies) >= maxPolicies:
		return nil, errs.New(errs.Conflict, errs.CodeConflict, "There are %d policies; no more are allowed", len(policies))
	case i < 0:
		if err := complete(&next, Policy{}, random); err != nil {
			return nil, err
		}
		return append(slices.Clone(policies), next), nil
	case !match(policies[i]):
		return nil, stale(next.Name)
	}
	if err := complete(&next, policies[i], random); err != nil {
		return nil, err
	}
	next.Name = policies[i].Name // in the spelling it was made with
	after := slices.Clone(policies)
	after[i] = next
	return after, notLockedOut(owner, after)
}

// complete fills the slots of p that have no key.
func complete(p *Policy, stored Policy, random io.Reader) (err error) {
	for _, slot := range []struct {
		key    *device.SymmetricKey
		stored device.SymmetricKey
	}{{&p.Primary, stored.Primary}, {&p.Secondary, stored.Secondary}} {
		if slot.key.IsZero() {
			*slot.key = slot.stored
		}
		if !slot.key.IsZero() {
			continue
		}
		if *slot.key, err = device.GenerateSymmetricKey(random, keySize); err != nil {
			return err
		}
	}
	if p.Primary.Equal(p.Secondary) {
		return invalid("the two keys are the same: neither could be rolled while programs use the other")
	}
	return nil
}

// A Slot is one of the two keys of a policy.
type Slot string

// The slots.
const (
	Primary   Slot = "primary"
	Secondary Slot = "secondary"
)

// Roll returns the policies of an owner after the one with a name got a fresh
// key in a slot, and that policy. match may be nil, for any. Errors are those of
// Put.
func Roll(policies []Policy, name string, slot Slot, match Match, random io.Reader) ([]Policy, Policy, error) {
	i := find(policies, name)
	switch {
	case slot != Primary && slot != Secondary:
		return nil, Policy{}, invalid("the key to roll is %q; primary and secondary are known", slot)
	case i < 0:
		return nil, Policy{}, notFound(name)
	case match != nil && !match(policies[i]):
		return nil, Policy{}, stale(name)
	}
	fresh, err := device.GenerateSymmetricKey(random, keySize)
	if err != nil {
		return nil, Policy{}, err
	}
	after := slices.Clone(policies)
	if slot == Primary {
		after[i].Primary = fresh
	} else {
		after[i].Secondary = fresh
	}
	return after, after[i], nil
}

// Remove returns the policies of owner without the one with a name. match may be
// nil, for any. Errors are those of Put.
func Remove(policies []Policy, owner Owner, name string, match Match) ([]Policy, error) {
	i := find(policies, name)
	switch {
	case i < 0:
		return nil, notFound(name)
	case match != nil && !match(policies[i]):
		return nil, stale(name)
	}
	after := slices.Delete(slices.Clone(policies), i, i+1)
	return after, notLockedOut(owner, after)
}

// Find returns the policy with a name, which is compared without case, or an
// error of kind errs.NotFound.
func Find(policies []Policy, name string) (Policy, error) {
	i := find(policies, name)
	if i < 0 {
		return Policy{}, notFound(name)
	}
	return policies[i], nil
}

func find(policies []Policy, name string) int {
	return slices.IndexFunc(policies, func(p Policy) bool { return strings.EqualFold(p.Name, name) })
}

// notLockedOut refuses to leave a scope without anybody who could make another
// policy. Those of a hub are made by its scope.
func notLockedOut(owner Owner, after []Policy) error {
	if owner.Rights()&ServiceConfig == 0 {
		return nil
	}
	if slices.ContainsFunc(after, func(p Policy) bool { return p.Rights&ServiceConfig != 0 }) {
		return nil
	}
	return errs.New(errs.Conflict, errs.CodeConflict, "It is the last policy with the right ServiceConfig: without it nobody could make another")
}

func invalid(format string, args ...any) error {
	return errs.New(errs.Invalid, errs.CodeBadRequest, format, args...)
}

func notFound(name string) error {
	return errs.New(errs.NotFound, errs.CodeGenericNotFound, "There is no policy %q", name)
}

func stale(name string) error {
	return errs.New(errs.Precondition, errs.CodePrecondition, "The policy %q was changed meanwhile; read it again", name)
}
