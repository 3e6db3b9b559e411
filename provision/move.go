package provision

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// A Departure is what a device takes along from a hub that it leaves. Reported
// properties are not among it: no hub lets anybody but the device write them.
type Departure struct {
	Twin         enroll.InitialTwin // its tags and desired properties, as they are now
	Disabled     bool
	StatusReason string
	// GenerationID and ETag are those of the identity. The first tells it from
	// every other one, the second from what it becomes.
	GenerationID string
	ETag         string
}

// An Origin is a hub that a device leaves.
type Origin interface {
	// Export returns what the device takes along, or an error of kind
	// errs.NotFound when the hub does not have it.
	Export(ctx context.Context, id device.ID) (*Departure, error)
	// Delete removes the device's identity. It is durable when it returns, and
	// succeeds when there is none. An identity with another entity tag stays,
	// with an error of kind errs.Precondition.
	Delete(ctx context.Context, id device.ID, etag string) error
}

// A Destination is a hub that a device comes to.
type Destination interface {
	// Assign gives the device its identity and, unless it has one, its initial
	// twin. It is idempotent and durable when it returns; From and MigrateTwin
	// mean nothing to it. An identity that is disabled stays disabled.
	Assign(ctx context.Context, a Assignment) error
	// Receive is Assign for a device that brings something from another hub:
	// its twin takes the place of one that is there, and it arrives disabled if
	// it left so. An identity there with the generation ID of the departure is
	// that which leaves, under another name of its hub: Receive is then Assign.
	// It returns the generation ID of the identity.
	Receive(ctx context.Context, a Assignment, d Departure) (generationID string, err error)
}

// An End is a hub as either end of a move.
type End interface {
	Origin
	Destination
}

// Bring gives the device its identity at a.Hub, wherever it is now: at a.From, or
// at a place where an attempt before this one left it. It can be repeated like
// Move. hub returns the hub of a name.
func Bring(ctx context.Context, a Assignment, hub func(host string) (End, error)) error {
	to, err := hub(a.Hub)
	if err != nil {
		return err
	}
	home, at := to, Place{a.Hub, a.DeviceID}
	if a.From != (Place{}) {
		if home, err = hub(a.From.Hub); err != nil {
			return err
		}
		at = a.From
	}
	for _, tried := range a.Tried {
		if err := collect(ctx, a, tried, to, home, at, hub); err != nil {
			return err
		}
	}
	if a.From == (Place{}) {
		return to.Assign(ctx, a)
	}
	return Move(ctx, a, home, to)
}

// collect brings the device from a place where an attempt that was cut off may
// have left it, before it is brought from its home: whatever is there counts for
// more. A place that cannot be asked does not matter while the device is still at
// home, or has none: what is there then is no more than a copy, and stays.
func collect(ctx context.Context, a Assignment, tried Place, to, home End, at Place, hub func(string) (End, error)) error {
	from, err := hub(tried.Hub)
	if err != nil {
		return err
	}
	if a.From == (Place{}) {
		a.MigrateTwin = true // it comes back to where it was
	}
	a.From = tried
	if _, err := from.Export(ctx, tried.DeviceID); err != nil {
		if errs.KindOf(err) == errs.NotFound || a.First {
			return nil
		}
		if _, gone := home.Export(ctx, at.DeviceID); gone == nil {
			return nil
		}
		return errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The IoT hub that the device may be at cannot be asked; try again later.").WithCause(err)
	}
	return Move(ctx, a, from, to)
}

// moveRounds is how often a move begins anew because the identity that leaves
// changed while it was under way.
const moveRounds = 5

// Move brings the device from a.From to a.Hub, two hubs that do not share a
// database. At every moment the device is at one of them at least, and whoever
// stops halfway or does not know whether it was done calls it again: the old
// identity is what says that a move is not over, and goes last.
//
// A device that is not at the old hub has moved before or was deleted there; it
// is then only assigned.
func Move(ctx context.Context, a Assignment, from Origin, to Destination) error {
	for range moveRounds {
		left, err := from.Export(ctx, a.From.DeviceID)
		if errs.KindOf(err) == errs.NotFound {
			return to.Assign(ctx, a)
		}
		if err != nil {
			return fmt.Errorf("reading the device at %s: %w", a.From.Hub, err)
		}
		if !a.MigrateTwin {
			left.Twin = enroll.InitialTwin{}
			if a.Twin != nil {
				left.Twin = *a.Twin
			}
		}
		generation, err := to.Receive(ctx, a, *left)
		if err != nil {
			return err
		}
		if generation == left.GenerationID && a.DeviceID == a.From.DeviceID {
			return nil // it is the same identity: deleting it would leave none
		}
		err = from.Delete(ctx, a.From.DeviceID, left.ETag)
		if errs.KindOf(err) == errs.Precondition {
			continue // disabled meanwhile, say, and has to arrive so
		}
		if err != nil {
			return fmt.Errorf("removing the device at %s: %w", a.From.Hub, err)
		}
		return nil
	}
	return errs.New(errs.Unavailable, errs.CodeServiceUnavailable, "The device changes at the hub that it leaves; try again later.")
}

// Sections returns the twin's tags and desired properties, empty objects where
// there are none.
func (d Departure) Sections() (tags, desired json.RawMessage) {
	tags, desired = d.Twin.Tags, d.Twin.Desired
	if tags == nil {
		tags = json.RawMessage("{}")
	}
	if desired == nil {
		desired = json.RawMessage("{}")
	}
	return tags, desired
}
