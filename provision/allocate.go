package provision

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
)

// An allocation is a chosen hub and why it was chosen; Hub is empty when there
// is none to choose.
type allocation struct {
	Hub string
	Why string
}

// candidates returns the hubs an enrollment allows: the one it pins, those it
// lists that are linked, in its order, or all that take part in allocation.
func candidates(e *enroll.Entry, linked []LinkedHub) []LinkedHub {
	wanted := e.IoTHubs
	if e.IoTHub != "" {
		wanted = []string{e.IoTHub}
	}
	var out []LinkedHub
	if len(wanted) == 0 {
		for _, h := range linked {
			if h.Allocation {
				out = append(out, h)
			}
		}
		return out
	}
	for _, host := range wanted {
		for _, h := range linked {
			if strings.EqualFold(h.Host, host) {
				out = append(out, h)
			}
		}
	}
	return out
}

// allocate chooses a hub for the device. current is the hub of its record, or
// empty. It is a function of its arguments alone.
func allocate(policy enroll.AllocationPolicy, hubs []LinkedHub, key device.RegistrationID, current string) allocation {
	if len(hubs) == 0 {
		return allocation{Why: "no hub is linked that the enrollment allows"}
	}
	if policy == enroll.Static {
		return allocation{hubs[0].Host, "static: the first of the allowed hubs"}
	}
	for _, h := range hubs {
		if strings.EqualFold(h.Host, current) {
			return allocation{h.Host, "hashed: the device stays where it is"}
		}
	}
	return allocation{hashed(hubs, key), fmt.Sprintf("hashed: by weight among %d hub(s)", len(hubs))}
}

// hashed chooses by weighted rendezvous hashing (Thaler and Ravishankar; weights
// after Schindelhauer and Schomaker): a hub that is added takes its share of the
// devices from all others, and no device moves between two that were there.
func hashed(hubs []LinkedHub, key device.RegistrationID) string {
	var best string
	bestScore := math.Inf(-1)
	for _, h := range hubs {
		host := strings.ToLower(h.Host)
		sum := sha256.Sum256([]byte(host + "\x00" + string(key)))
		// The 53 upper bits as a number in (0, 1]: a float64 holds them exactly.
		u := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 1) / (1 << 53)
		if score := -float64(max(h.Weight, 1)) / math.Log(u); score > bestScore {
			best, bestScore = h.Host, score
		}
	}
	return best
}
