package record

import (
	"encoding/json"
	"math"
	"time"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/provision"
)

// The column "pending" has a provision.Pending as JSON. What is JSON in it is
// kept as a string, which holds it as it came: an encoder would rewrite it. The
// members here hide those of the same names.
type (
	pending struct {
		provision.Pending
		Payload text    `json:"payload,omitempty"`
		Choice  *choice `json:"choice,omitempty"`
	}
	choice struct {
		provision.Choice
		Twin    *initialTwin `json:"twin,omitempty"`
		Payload text         `json:"payload,omitempty"`
	}
	initialTwin struct {
		Tags    text `json:"tags,omitempty"`
		Desired text `json:"desired,omitempty"`
	}
)

// A text is JSON that is encoded as a string.
type text json.RawMessage

func (t text) MarshalJSON() ([]byte, error) { return json.Marshal(string(t)) }

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	err := json.Unmarshal(b, &s)
	*t = text(s)
	return err
}

func newPending(p *provision.Pending) *pending {
	if p == nil {
		return nil
	}
	row := &pending{Pending: *p, Payload: text(p.Payload)}
	if c := p.Choice; c != nil {
		row.Choice = &choice{Choice: *c, Payload: text(c.Payload)}
		if c.Twin != nil {
			row.Choice.Twin = &initialTwin{text(c.Twin.Tags), text(c.Twin.Desired)}
		}
	}
	return row
}

func (p *pending) value(due int64) *provision.Pending {
	if p == nil {
		return nil
	}
	v := &p.Pending
	if due != math.MinInt64 {
		v.Due = time.Unix(0, due).UTC()
	}
	v.Payload = json.RawMessage(p.Payload)
	if p.Choice != nil {
		v.Choice = &p.Choice.Choice
		v.Choice.Payload = json.RawMessage(p.Choice.Payload)
		if t := p.Choice.Twin; t != nil {
			v.Choice.Twin = &enroll.InitialTwin{Tags: json.RawMessage(t.Tags), Desired: json.RawMessage(t.Desired)}
		}
	}
	return v
}

// due is the column that a search goes by: NULL where nothing is pending, and
// before everything else for the zero time.
func due(p *provision.Pending) any {
	if p == nil {
		return nil
	}
	return Nanoseconds(p.Due)
}
