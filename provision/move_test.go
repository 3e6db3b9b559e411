package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// A berth is one hub with room for one device, in memory.
type berth struct {
	*Departure        // nil when there is none
	generation int    // of the next identity
	calls      string // what was called
	fail       string // the call that fails,
	late       bool   // and whether it does after it had its effect
	onDelete   func() // happens before a deletion
}

var errCut = errors.New("cut off")

func (b *berth) step(name string, do func() error) error {
	b.calls += name + " "
	if b.fail == name && !b.late {
		return errCut
	}
	if err := do(); err != nil {
		return err
	}
	if b.fail == name {
		return errCut
	}
	return nil
}

func (b *berth) Export(context.Context, device.ID) (out *Departure, err error) {
	err = b.step("export", func() error {
		if b.Departure == nil {
			return errs.New(errs.NotFound, errs.CodeDeviceNotFound, "d")
		}
		copied := *b.Departure
		out = &copied
		return nil
	})
	return out, err
}

func (b *berth) Delete(_ context.Context, _ device.ID, etag string) error {
	return b.step("delete", func() error {
		if b.onDelete != nil {
			b.onDelete()
		}
		if b.Departure != nil && b.ETag != etag {
			return errs.New(errs.Precondition, errs.CodePreconditionFailed, "changed")
		}
		b.Departure = nil
		return nil
	})
}

func (b *berth) Assign(_ context.Context, a Assignment) error {
	return b.step("assign", func() error {
		if b.Departure == nil {
			b.settle(*a.Twin)
		}
		return nil
	})
}

func (b *berth) Receive(_ context.Context, a Assignment, d Departure) (generation string, err error) {
	err = b.step("receive", func() error {
		if b.Departure == nil || b.GenerationID != d.GenerationID {
			b.settle(d.Twin)
			b.Disabled, b.StatusReason = d.Disabled, d.StatusReason
		}
		generation = b.GenerationID
		return nil
	})
	return generation, err
}

func (b *berth) settle(twin enroll.InitialTwin) {
	if b.Departure == nil {
		b.generation++
		b.Departure = &Departure{GenerationID: fmt.Sprint(b.generation)}
	}
	b.Twin, b.ETag = twin, b.ETag+"'"
}

func twinOf(rate int) enroll.InitialTwin {
	return enroll.InitialTwin{Desired: json.RawMessage(fmt.Sprintf(`{"rate":%d}`, rate))}
}

func moved(migrate bool) Assignment {
	initial := twinOf(1)
	return Assignment{Hub: "new", DeviceID: "d", Twin: &initial, From: Place{"old", "d"}, MigrateTwin: migrate}
}

func berths() (from, to *berth) {
	return &berth{Departure: &Departure{Twin: twinOf(7), Disabled: true, StatusReason: "stolen", GenerationID: "9", ETag: "e"}}, &berth{generation: 10}
}

func TestMoveOrder(t *testing.T) {
	from, to := berths()
	if err := Move(t.Context(), moved(true), from, to); err != nil {
		t.Fatal(err)
	}
	if from.calls != "export delete " || to.calls != "receive " {
		t.Errorf("%s, %s", from.calls, to.calls)
	}
}

// Wherever a move is cut off, the device is somewhere, and the next call ends it.
func TestMoveResumes(t *testing.T) {
	for _, migrate := range []bool{true, false} {
		for _, fail := range []string{"export", "receive", "delete"} {
			for _, late := range []bool{false, true} {
				from, to := berths()
				for _, b := range []*berth{from, to} {
					b.fail, b.late = fail, late
				}
				if err := Move(t.Context(), moved(migrate), from, to); !errors.Is(err, errCut) {
					t.Fatalf("%v", err)
				}
				if from.Departure == nil && to.Departure == nil {
					t.Errorf("%s, late %v: the device is nowhere", fail, late)
				}
				from.fail, to.fail = "", ""
				if err := Move(t.Context(), moved(migrate), from, to); err != nil {
					t.Fatal(err)
				}
				rate := `{"rate":1}`
				if migrate {
					rate = `{"rate":7}`
				}
				if from.Departure != nil || to.Departure == nil || string(to.Twin.Desired) != rate || !to.Disabled || to.StatusReason != "stolen" {
					t.Errorf("%s, late %v: %+v, %+v", fail, late, from.Departure, to.Departure)
				}
			}
		}
	}
}

func TestMoveOfADeviceThatIsNotThere(t *testing.T) {
	from, to := berths()
	from.Departure = nil
	if err := Move(t.Context(), moved(true), from, to); err != nil || to.Departure == nil || string(to.Twin.Desired) != `{"rate":1}` || from.calls != "export " {
		t.Errorf("%v, %+v, %s", err, to.Departure, from.calls)
	}
}

func TestMoveOfADeviceThatChanges(t *testing.T) {
	from, to := berths()
	n := 0
	from.onDelete = func() {
		if n++; n == 1 {
			from.Departure.StatusReason, from.ETag = "found", "f"
		}
	}
	if err := Move(t.Context(), moved(true), from, to); err != nil || from.Departure != nil || to.StatusReason != "found" {
		t.Errorf("%v, %+v", err, to.Departure)
	}
	from, to = berths()
	from.onDelete = func() { from.ETag += "x" }
	if err := Move(t.Context(), moved(true), from, to); errs.KindOf(err) != errs.Unavailable || from.Departure == nil {
		t.Errorf("%v, %+v", err, from.Departure)
	}
}

func TestMoveToWhereItIs(t *testing.T) {
	from, _ := berths()
	if err := Move(t.Context(), moved(true), from, from); err != nil || from.Departure == nil || from.calls != "export receive " {
		t.Errorf("%v, %s", err, from.calls)
	}
}
