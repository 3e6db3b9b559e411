package hub

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub/twin"
)

// A TwinChange is what an operator writes into a twin. A member is a JSON
// object, the JSON value null for an empty one, or nil where nothing is said.
type TwinChange struct{ Tags, Desired json.RawMessage }

// ETag returns the twin's entity tag: the base64 of a big-endian counter that
// is one in a fresh twin, whose version is two.
func (t *Twin) ETag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(t.Version-1)))
}

// PatchTwin merges the change into the twin, when its entity tag satisfies the
// precondition: null removes a member, and sections of which nothing is said
// stay. It takes ServiceConnect.
//
// Like [Service.ReplaceTwin] it answers a change that breaks a limit of package
// twin with an error of kind errs.Invalid, and one that changes nothing with
// the twin as it is: neither versions nor the entity tag move.
func (s *Service) PatchTwin(ctx context.Context, caller access.Caller, at Place, change TwinChange, ifMatch Precondition) (*Identity, *Twin, error) {
	return s.changeTwin(ctx, caller, at, updateTwin, change, ifMatch, mergeSaid)
}

// ReplaceTwin writes the change over the twin's tags and desired properties,
// on the terms of [Service.PatchTwin]. A section of which nothing is said
// becomes empty; the reported properties stay.
func (s *Service) ReplaceTwin(ctx context.Context, caller access.Caller, at Place, change TwinChange, ifMatch Precondition) (*Identity, *Twin, error) {
	replace := func(section twin.Section, _, said json.RawMessage) (json.RawMessage, error) {
		return section.Replace(said)
	}
	return s.changeTwin(ctx, caller, at, replaceTwin, change, ifMatch, replace)
}

// An applied is what becomes of a section of which something is said.
type applied func(section twin.Section, old, said json.RawMessage) (json.RawMessage, error)

// mergeSaid merges what is said of a section into it.
func mergeSaid(section twin.Section, old, said json.RawMessage) (json.RawMessage, error) {
	if said == nil {
		return old, nil
	}
	return section.Merge(old, said)
}

func (s *Service) changeTwin(ctx context.Context, caller access.Caller, at Place, operation string, change TwinChange, ifMatch Precondition, apply applied) (*Identity, *Twin, error) {
	if err := caller.Require(access.ServiceConnect); err != nil {
		return nil, nil, err
	}
	return s.writeTwin(ctx, at, operation, change, ifMatch, apply)
}

// writeTwin writes a twin and tells of it. It is for no transaction: it waits for
// others who write the same twin.
func (s *Service) writeTwin(ctx context.Context, at Place, operation string, change TwinChange, ifMatch Precondition, apply applied) (*Identity, *Twin, error) {
	turn := s.live.turn(at)
	turn.Lock()
	defer turn.Unlock()
	var of *Identity
	var before, changed *Twin
	err := s.registry.Change(ctx, at, func(d *Identity, t *Twin) (*Identity, *Twin, error) {
		switch {
		case d == nil || t == nil:
			return nil, nil, notFound(at)
		case ifMatch != nil && !ifMatch(t.ETag()):
			return nil, nil, errs.New(errs.Precondition, errs.CodePreconditionFailed, "Precondition failed: the twin's entity tag is another one")
		}
		tags, err := apply(twin.Tags, t.Tags, change.Tags)
		if err != nil {
			return nil, nil, err
		}
		desired, err := apply(twin.Desired, t.Desired, change.Desired)
		if err != nil {
			return nil, nil, err
		}
		if changed, err = s.rewritten(t, tags, desired); err != nil {
			return nil, nil, err
		}
		of, before = d, t
		return of, changed, nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("writing the twin of %q of %s: %w", at, at.Hub, err)
	}
	s.notify(at, before, changed)
	s.deploying.twin(at, false)
	s.twinChanged(at, operation, before, changed)
	return of, changed, nil
}

// rewritten returns t with other tags and desired properties. Versions move
// where something changed.
func (s *Service) rewritten(t *Twin, tags, desired json.RawMessage) (*Twin, error) {
	next := *t
	if !bytes.Equal(desired, t.Desired) {
		next.Desired = desired
		next.DesiredVersion++
		next.DesiredUpdated = s.now()
		var err error
		next.DesiredMetadata, err = twin.Desired.Metadata(t.DesiredMetadata, twin.Stamp{Updated: t.DesiredUpdated, Version: t.DesiredVersion},
			t.Desired, desired, twin.Stamp{Updated: next.DesiredUpdated, Version: next.DesiredVersion})
		if err != nil {
			return nil, fmt.Errorf("metadata of desired properties: %w", err)
		}
	}
	if !bytes.Equal(tags, t.Tags) {
		next.Tags = tags
	}
	if next.DesiredVersion != t.DesiredVersion || !bytes.Equal(next.Tags, t.Tags) {
		next.Version++
	}
	return &next, nil
}
