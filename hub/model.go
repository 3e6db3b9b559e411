package hub

import (
	"context"
	"fmt"

	"github.com/berth-iot/berth/errs"
)

// maxModelID is the length of a digital twin model identifier (DTDL 3, "Digital
// Twin Model Identifier").
const maxModelID = 2048

// NameModel keeps in a sender's twin which DTDL model it says that it follows.
// Where that is known already nothing is written.
func (s *Service) NameModel(ctx context.Context, from Sender, model string) error {
	if len(model) > maxModelID {
		return invalid("the model ID has %d characters; %d are allowed", len(model), maxModelID)
	}
	t, err := s.registry.Twin(ctx, from.Place)
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return notFound(from.Place)
	case err != nil:
		return fmt.Errorf("reading the twin of %q of %s: %w", from, from.Hub, err)
	case t.ModelID == model:
		return nil
	}
	err = s.registry.Change(ctx, from.Place, func(d *Identity, t *Twin) (*Identity, *Twin, error) {
		if d == nil || t == nil {
			return nil, nil, notFound(from.Place)
		}
		if err := from.is(d); err != nil {
			return nil, nil, err
		}
		next := *t
		if next.ModelID != model {
			next.ModelID = model
			next.Version++
		}
		return d, &next, nil
	})
	if err != nil {
		return fmt.Errorf("writing the model of %q of %s: %w", from, from.Hub, err)
	}
	return nil
}
