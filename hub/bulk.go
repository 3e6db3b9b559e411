package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub/twin"
)

// MaxBulk is how many entries one bulk operation has at most. It is the documented
// limit.
const MaxBulk = 100

// An ImportMode says what becomes of the identity or the twin that a bulk entry
// names, spelled as in its JSON.
type ImportMode string

// The modes. Those that do not say IfMatchETag do not look at entity tags.
const (
	ImportCreateOrUpdate            ImportMode = "createOrUpdate"
	ImportCreate                    ImportMode = "create"
	ImportUpdate                    ImportMode = "update"
	ImportUpdateIfMatchETag         ImportMode = "updateIfMatchETag"
	ImportCreateOrUpdateIfMatchETag ImportMode = "createOrUpdateIfMatchETag"
	ImportDelete                    ImportMode = "delete"
	ImportDeleteIfMatchETag         ImportMode = "deleteIfMatchETag"
	ImportUpdateTwin                ImportMode = "updateTwin"
	ImportUpdateTwinIfMatchETag     ImportMode = "updateTwinIfMatchETag"
)

// ImportModes are all modes, in the order of the numbers that some clients write.
func ImportModes() []ImportMode {
	return []ImportMode{
		ImportCreateOrUpdate, ImportCreate, ImportUpdate, ImportUpdateIfMatchETag, ImportCreateOrUpdateIfMatchETag,
		ImportDelete, ImportDeleteIfMatchETag, ImportUpdateTwin, ImportUpdateTwinIfMatchETag,
	}
}

// A BulkEntry is what one entry of a bulk operation asks for.
type BulkEntry struct {
	ID     device.ID
	Module device.ID // empty for a device
	Mode   ImportMode
	// ETag and TwinETag are what the modes go by that look at them; "*" is any.
	ETag, TwinETag string
	// Device is what is said of a device. Of a module only Auth counts.
	Device    DeviceSpec
	ManagedBy string // of a module
	// Twin is what a new twin starts with, what is written over the sections of one
	// that is there, or merged into it by the modes for twins.
	Twin TwinChange
	// Unreadable is what is wrong with an entry that could not be read, or nil.
	Unreadable error
}

// A BulkError is what was wrong with an entry.
type BulkError struct {
	BulkEntry
	Err error // its public part is for the caller
}

// Bulk does what up to [MaxBulk] entries ask for and returns what could not be done,
// in the order of the entries. It takes RegistryWrite. All identities are written in
// one commit, which leaves out the entries that are refused; twins that were there
// before are changed after that, each in its own. Where Bulk itself fails, no
// identity was written.
//
// Entries that name the same device or module are all refused: which of them was
// meant is anybody's guess.
func (s *Service) Bulk(ctx context.Context, caller access.Caller, hub string, entries []BulkEntry) ([]BulkError, error) {
	if err := caller.Require(access.RegistryWrite); err != nil {
		return nil, err
	}
	if len(entries) > MaxBulk {
		return nil, errs.New(errs.TooLarge, errs.CodeTooManyDevices, "There are %d entries; %d are allowed", len(entries), MaxBulk)
	}
	refused, err := s.bulkIdentities(ctx, hub, entries)
	if err != nil {
		return nil, fmt.Errorf("writing %d identities of %s: %w", len(entries), hub, err)
	}
	var failed []BulkError
	for i, e := range entries {
		if refused[i] == nil {
			refused[i] = s.bulkTwin(ctx, hub, e)
		}
		if refused[i] != nil {
			failed = append(failed, BulkError{e, refused[i]})
		}
	}
	return failed, nil
}

// bulkIdentities writes the identities and returns what is wrong with each entry.
func (s *Service) bulkIdentities(ctx context.Context, hub string, entries []BulkEntry) ([]error, error) {
	named := make(map[Place]int)
	for _, e := range entries {
		if e.Unreadable == nil {
			named[e.at(hub)]++
		}
	}
	order := inOrder(entries)
	var refused []error
	err := s.together(ctx, func(ctx context.Context) error {
		refused = make([]error, len(entries))
		for _, i := range order {
			e, at := entries[i], entries[i].at(hub)
			if named[at] > 1 {
				refused[i] = errs.New(errs.Invalid, errs.CodeDeviceRepeated, "'%s' is named %d times.", at, named[at])
				continue
			}
			if refused[i] = s.bulkIdentity(ctx, at, e); refused[i] != nil && !refusal(refused[i]) {
				return refused[i]
			}
		}
		return nil
	})
	return refused, err
}

// inOrder returns the entries' indices in the order in which they are written: that of
// their places, a device before its modules, so that those who write the same ones do
// not wait for each other in a circle. No entry has to come after another one's: the
// scope of a parent has its generation ID, which is known when the parent is there.
func inOrder(entries []BulkEntry) []int {
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(entries[a].ID, entries[b].ID), cmp.Compare(entries[a].Module, entries[b].Module))
	})
	return order
}

// refusal reports whether an entry alone is at fault, and nothing was written of it.
func refusal(err error) bool {
	switch errs.KindOf(err) {
	case errs.Internal, errs.Unavailable, errs.Busy:
		return false
	}
	return true
}

func (e BulkEntry) at(hub string) Place { return Place{Hub: hub, ID: e.ID, Module: e.Module} }

// bulkIdentity does what an entry asks for of an identity, in the transaction of ctx.
func (s *Service) bulkIdentity(ctx context.Context, at Place, e BulkEntry) error {
	if e.Unreadable != nil {
		return e.Unreadable
	}
	var allowed rule
	switch e.Mode {
	case ImportUpdateTwin, ImportUpdateTwinIfMatchETag:
		return nil
	case ImportCreate:
		allowed = createOrUpdate(nil)
	case ImportUpdate, ImportDelete:
		allowed = update(nil)
	case ImportUpdateIfMatchETag, ImportDeleteIfMatchETag:
		allowed = update(tagged(e.ETag))
	case ImportCreateOrUpdate:
		allowed = func(Place, *Identity) error { return nil }
	case ImportCreateOrUpdateIfMatchETag:
		allowed = func(at Place, old *Identity) error {
			if old == nil {
				return nil
			}
			return update(tagged(e.ETag))(at, old)
		}
	default:
		return invalid("importMode %q is not known", e.Mode)
	}
	if e.Mode == ImportDelete || e.Mode == ImportDeleteIfMatchETag {
		return s.delete(ctx, at, allowed)
	}
	initial, err := (&InitialTwin{Tags: e.Twin.Tags, Desired: e.Twin.Desired}).checked()
	if err != nil {
		return err
	}
	if at.Module != "" {
		_, err = s.putModule(ctx, at, ModuleSpec{ManagedBy: e.ManagedBy, Auth: e.Device.Auth}, allowed, initial)
	} else {
		_, err = s.putDevice(ctx, at, e.Device, allowed, initial)
	}
	return err
}

// tagged is the precondition that an entry has in it.
func tagged(etag string) Precondition {
	return func(current string) bool { return etag == "*" || etag == current }
}

// bulkTwin does what an entry asks for of a twin that is there. One that was made by
// the entry has what it says already, and stays as it is.
func (s *Service) bulkTwin(ctx context.Context, hub string, e BulkEntry) error {
	apply, ifMatch := applied(overSaid), Precondition(nil)
	switch e.Mode {
	case ImportUpdateTwinIfMatchETag:
		ifMatch, apply = tagged(e.TwinETag), mergeSaid
	case ImportUpdateTwin:
		apply = mergeSaid
	case ImportUpdate, ImportUpdateIfMatchETag, ImportCreateOrUpdate, ImportCreateOrUpdateIfMatchETag:
		if e.Twin.Tags == nil && e.Twin.Desired == nil {
			return nil
		}
	default:
		return nil
	}
	_, _, err := s.writeTwin(ctx, e.at(hub), updateTwin, e.Twin, ifMatch, apply)
	return err
}

// overSaid writes what is said of a section over it.
func overSaid(section twin.Section, old, said json.RawMessage) (json.RawMessage, error) {
	if said == nil {
		return old, nil
	}
	return section.Replace(said)
}
