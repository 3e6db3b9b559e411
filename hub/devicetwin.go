package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub/twin"
)

// DeviceTwin returns the twin of a device that asks for its own: what it may see
// are the desired and reported properties with their versions.
func (s *Service) DeviceTwin(ctx context.Context, from Sender) (*Twin, error) {
	s.active(from, s.now())
	d, err := s.identityAt(ctx, from.Place)
	if err != nil {
		return nil, err
	}
	if err := from.is(d); err != nil {
		return nil, err
	}
	t, err := s.registry.Twin(ctx, from.Place)
	if errs.KindOf(err) == errs.NotFound {
		return nil, notFound(from.Place)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the twin of %q of %s: %w", from, from.Hub, err)
	}
	s.learnt(from.Place, t)
	return t, nil
}

// PatchReported merges what a device reports into its twin and returns the version
// of its reported properties then. version, where it is not nil, is the one that
// the device means to change; with another one the error is of kind
// errs.Precondition. Limits are those of package twin.
func (s *Service) PatchReported(ctx context.Context, from Sender, patch json.RawMessage, version *int64) (int64, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(patch, " \t\r\n"), []byte("{")) {
		return 0, invalid("properties.reported is not a JSON object")
	}
	s.active(from, s.now())
	var now int64
	var before, after *Twin
	err := s.registry.Change(ctx, from.Place, func(d *Identity, t *Twin) (*Identity, *Twin, error) {
		switch {
		case d == nil || t == nil:
			return nil, nil, notFound(from.Place)
		case version != nil && *version != t.ReportedVersion:
			return nil, nil, errs.New(errs.Precondition, errs.CodePreconditionFailed, "Precondition failed: the reported properties have version %d", t.ReportedVersion)
		}
		if err := from.is(d); err != nil {
			return nil, nil, err
		}
		reported, err := twin.Reported.Merge(t.Reported, patch)
		if err != nil {
			return nil, nil, err
		}
		next := *t
		if !bytes.Equal(reported, t.Reported) {
			next.Reported = reported
			next.ReportedVersion++
			next.ReportedUpdated = s.now()
			next.ReportedMetadata, err = twin.Reported.Metadata(t.ReportedMetadata, twin.Stamp{Updated: t.ReportedUpdated},
				t.Reported, reported, twin.Stamp{Updated: next.ReportedUpdated})
			if err != nil {
				return nil, nil, fmt.Errorf("metadata of reported properties: %w", err)
			}
			next.Version++
		}
		now = next.ReportedVersion
		before, after = t, &next
		return d, &next, nil
	})
	if err != nil {
		return 0, fmt.Errorf("writing the reported properties of %q of %s: %w", from, from.Hub, err)
	}
	s.deploying.twin(from.Place, true)
	s.twinChanged(from.Place, updateTwin, before, after)
	return now, nil
}

// is refuses a sender whose identity was deleted since it proved itself, also when
// another one has its name now.
func (from Sender) is(d *Identity) error {
	if d.GenerationID != from.GenerationID {
		return notFound(from.Place)
	}
	return nil
}
