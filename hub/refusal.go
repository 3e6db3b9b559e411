package hub

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/errs"
)

// maxRefusals bounds the refusals that are remembered.
const maxRefusals = 1000

// An Approach says how somebody came who claims to be a device.
type Approach struct {
	Wire       string          // "mqtt" or "https"
	Remote     string          // the peer's address
	TrackingID errs.TrackingID // drawn for this attempt
	Under      string          // what of the device's they ask for, as in [Attempt]
}

// A Refusal is the whole story of a device that a hub did not let in, for the
// operator: the device was told less. It holds no key material.
type Refusal struct {
	TrackingID errs.TrackingID  `json:"trackingId"`
	Time       time.Time        `json:"time"`
	Hub        string           `json:"hub"`
	DeviceID   device.ID        `json:"deviceId"`
	ModuleID   device.ID        `json:"moduleId,omitempty"`
	Wire       string           `json:"wire"`
	Remote     string           `json:"remote"`
	Presented  string           `json:"presented"`
	Findings   []attest.Finding `json:"findings"`
	Outcome    string           `json:"outcome"` // what the device was told
	ErrorCode  errs.Code        `json:"errorCode"`
	Fix        string           `json:"fix,omitempty"` // what would let it in: sentences, and commands each on a line of its own
}

// refusals are the last ones, in memory: a stranger must not be able to cause
// durable writes. The zero value is ready.
type refusals struct {
	mu   sync.Mutex // guards what follows
	ring []Refusal
	next int
}

func (r *refusals) add(one Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ring) < maxRefusals {
		r.ring = append(r.ring, one)
		return
	}
	r.ring[r.next] = one
	r.next = (r.next + 1) % maxRefusals
}

// Refusals returns those of a device of a hub that this process remembers, or the
// one with a tracking ID, newest first. Who asks is the caller's to know.
func (s *Service) Refusals(hub, id string) []Refusal {
	r := &s.refusals
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Refusal
	for i := range r.ring {
		one := r.ring[(r.next+i)%len(r.ring)]
		if one.Hub == hub && (string(one.DeviceID) == id || strings.EqualFold(string(one.TrackingID), id)) {
			found = append(found, one)
		}
	}
	slices.Reverse(found)
	return found
}

// Refuse remembers that somebody was refused before he was asked to prove anything:
// what check found is why.
func (s *Service) Refuse(by Approach, at Place, check, detail string) {
	s.refusals.add(Refusal{
		TrackingID: by.TrackingID, Time: s.now(), Hub: at.Hub, DeviceID: at.ID, ModuleID: at.Module, Wire: by.Wire, Remote: by.Remote,
		Findings: []attest.Finding{{Check: check, Detail: detail}}, Outcome: detail,
	})
}

// refused is the story of an attempt that was refused.
func (a Attempt) refused(by Approach, v attest.Verdict) Refusal {
	return Refusal{
		TrackingID: by.TrackingID, Time: a.Now, Hub: a.At.Hub, DeviceID: a.At.ID, ModuleID: a.At.Module, Wire: by.Wire, Remote: by.Remote,
		Presented: a.Credential.Describe(), Findings: v.Findings, Outcome: v.Refusal.Message, ErrorCode: v.Refusal.Code, Fix: a.fix(v),
	}
}

// fix says what would let the device in, by what the last check found.
func (a Attempt) fix(v attest.Verdict) string {
	what, name, at := "device", word(a.At.ID), " --hub "+a.At.Hub
	if a.At.Module != "" {
		what, name = "module", name+" "+word(a.At.Module)
	}
	show := "\nberth hub " + what + " show " + name + at
	switch v.Findings[len(v.Findings)-1].Check {
	case "device":
		return "Let it be provisioned to this hub, or create it:\nberth hub " + what + " create " + name + at
	case "signature":
		return "Have it sign with one of the keys that are registered; a device that was provisioned again has others. Compare them:" + show + " --keys"
	case "audience":
		return "Have it sign a token for " + a.Host.Name + a.path()
	case "expiry":
		return "Have it make another token; compare its clock with this one, which says " + a.Now.UTC().Format(time.RFC3339)
	case "thumbprint", "certificate":
		return "Have it present the certificate that is registered, or register the thumbprint that it presents:" + show
	case "authentication type":
		return "Have it prove itself in the way that is registered, or register the other one:" + show
	case "status":
		return "Enable it:\nberth hub device update " + word(a.At.ID) + " --enable" + at
	case "policy token", "rights":
		return "Use a policy of the hub with the right DeviceConnect:\nberth policy list" + at
	}
	return ""
}

// word is an ID as shells take it for itself (POSIX.1-2017, Shell Command Language,
// §2.2.2). Strangers choose it, and some of the characters that it may have would be
// commands of theirs.
func word(id device.ID) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-:.+%_@,"
	if strings.Trim(string(id), plain) == "" {
		return string(id)
	}
	return "'" + strings.ReplaceAll(string(id), "'", `'\''`) + "'"
}
