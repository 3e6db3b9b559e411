package provision

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// maxConsidered bounds the enrollments a decision describes one by one.
const maxConsidered = 20

// A Decision is the whole story of one call of a device, for the operator: what
// was presented, what was considered, and why it ended as it did. It holds no
// key material.
type Decision struct {
	TrackingID     errs.TrackingID `json:"trackingId"`
	Time           time.Time       `json:"time"`
	Scope          device.IDScope  `json:"idScope"`
	RegistrationID string          `json:"registrationId"`
	Call           string          `json:"call"` // register, operation status, lookup, or finish: what was left of a register call
	Wire           string          `json:"wire"`
	Remote         string          `json:"remote"`
	Presented      string          `json:"presented"`
	Considered     []Considered    `json:"considered"`
	NotShown       int             `json:"notShown,omitempty"` // enrollments considered beyond those listed
	Allocation     string          `json:"allocation,omitempty"`
	Hub            string          `json:"hub,omitempty"` // the hub's answer
	Outcome        string          `json:"outcome"`
	Result         Result          `json:"result"`
	Accepted       bool            `json:"accepted"`
	ErrorCode      errs.Code       `json:"errorCode,omitempty"`
	Cause          string          `json:"cause,omitempty"` // what the device was not told
	Fix            string          `json:"fix,omitempty"`   // what would change the outcome: sentences, and commands each on a line of its own
}

// A Result is what a call came to, in a word.
type Result string

// The results.
const (
	ResultAssigned   Result = "assigned"
	ResultAssigning  Result = "assigning" // begun; what it comes to is another decision
	ResultChallenged Result = "challenged"
	ResultDisabled   Result = "disabled"
	ResultFailed     Result = "failed"
	ResultRefused    Result = "refused"
	ResultError      Result = "error" // ours, not the device's
)

// Considered is one enrollment that was looked at.
type Considered struct {
	Kind     enroll.Kind      `json:"kind"`
	ID       string           `json:"id"`
	Decided  bool             `json:"decided"` // whether this one governs the device
	Findings []attest.Finding `json:"findings"`
}

func (d *Decision) consider(e *enroll.Entry, decided bool, findings []attest.Finding) {
	if len(d.Considered) >= maxConsidered && !decided {
		d.NotShown++
		return
	}
	d.Considered = append(d.Considered, Considered{e.Kind, e.ID, decided, findings})
}

// end says what the call came to.
func (d *Decision) end(result Result, format string, args ...any) {
	d.Result, d.Outcome = result, string(result)+fmt.Sprintf(format, args...)
	d.Accepted = result == ResultAssigned || result == ResultAssigning || result == ResultChallenged
}

// conclude writes the end of a story that has none yet.
func (d *Decision) conclude(out Outcome, err error) {
	switch {
	case err != nil:
		public := errs.Public(err)
		d.end(ResultRefused, ": %s", public.Message)
		if public.Kind == errs.Internal || public.Kind == errs.Unavailable {
			d.end(ResultError, ": %s", public.Message)
			d.Cause = err.Error()
		} else if cause := errors.Unwrap(public); cause != nil {
			d.Cause = cause.Error()
		}
		d.ErrorCode = public.Code
	case out.Challenge != nil:
		d.Fix = "" // nothing is wrong yet
		d.end(ResultChallenged, ": the device must sign with a key sealed to its TPM")
	}
	if len(d.Presented) > 512 {
		d.Presented = d.Presented[:512] + "…"
	}
}

// A Journal keeps the last decisions in memory. It is bounded, and it does not
// survive the process: a stranger must not be able to cause durable writes.
type Journal struct {
	mu   sync.Mutex // guards ring and next
	ring []Decision
	next int
}

// NewJournal returns a journal of the last size decisions.
func NewJournal(size int) *Journal { return &Journal{ring: make([]Decision, 0, size)} }

func (j *Journal) add(d Decision) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.ring) < cap(j.ring) {
		j.ring = append(j.ring, d)
		return
	}
	j.ring[j.next] = d
	j.next = (j.next + 1) % len(j.ring)
}

// put is add for the story of something that goes on: what was told of the same
// call before is forgotten.
func (j *Journal) put(d Decision) {
	j.mu.Lock()
	n := len(j.ring)
	at := func(i int) *Decision { return &j.ring[(j.next+i)%n] } // the oldest is 0
	for i := range n {
		if o := at(i); o.TrackingID != d.TrackingID || o.Call != d.Call || o.Scope != d.Scope || o.RegistrationID != d.RegistrationID {
			continue
		}
		for ; i < n-1; i++ {
			*at(i) = *at(i + 1)
		}
		*at(n - 1) = d
		j.mu.Unlock()
		return
	}
	j.mu.Unlock()
	j.add(d)
}

// find returns the decisions about a registration ID, or the one with a
// tracking ID, newest first.
func (j *Journal) find(scope device.IDScope, id string) []Decision {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []Decision
	for i := range j.ring {
		d := j.ring[(j.next+i)%len(j.ring)]
		if d.Scope == scope && (strings.EqualFold(d.RegistrationID, id) || strings.EqualFold(string(d.TrackingID), id)) {
			found = append(found, d)
		}
	}
	slices.Reverse(found)
	return found
}
