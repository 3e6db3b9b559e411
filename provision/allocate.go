package provision

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
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
// empty; remote is the address that it registers from, perhaps with a port. It
// is a function of its arguments alone.
func allocate(policy enroll.AllocationPolicy, hubs []LinkedHub, key device.RegistrationID, current, remote string) allocation {
	if len(hubs) == 0 {
		return allocation{Why: "no hub is linked that the enrollment allows"}
	}
	switch policy {
	case enroll.Static:
		return allocation{hubs[0].Host, "static: the first of the allowed hubs"}
	case enroll.GeoLatency:
		return nearest(hubs, key, current, address(remote))
	}
	if h, ok := find(hubs, current); ok {
		return allocation{h.Host, "hashed: the device stays where it is"}
	}
	return allocation{hashed(hubs, key), fmt.Sprintf("hashed: by weight among %d hub(s)", len(hubs))}
}

func find(hubs []LinkedHub, host string) (LinkedHub, bool) {
	i := slices.IndexFunc(hubs, func(h LinkedHub) bool { return strings.EqualFold(h.Host, host) })
	if i < 0 {
		return LinkedHub{}, false
	}
	return hubs[i], true
}

// nearest chooses the hub that the hints say is closest to where the device
// registers from, and by hash among several that are. A device leaves the hub
// it is at only for one that is strictly closer: equals trade no devices, and
// one that roams into a network nobody measured stays.
func nearest(hubs []LinkedHub, key device.RegistrationID, current string, from netip.Addr) allocation {
	best := unknownLatency
	var closest []LinkedHub
	for _, h := range hubs {
		switch l := h.latency(from); {
		case l < best:
			best, closest = l, []LinkedHub{h}
		case l == best:
			closest = append(closest, h)
		}
	}
	network := "an address that cannot be read"
	if from.IsValid() {
		network = from.String()
	}
	if h, ok := find(closest, current); ok {
		return allocation{h.Host, fmt.Sprintf("geoLatency: the device stays where it is: no allowed hub is closer to %s", network)}
	}
	switch {
	case best == unknownLatency:
		return allocation{hashed(hubs, key), fmt.Sprintf("geoLatency: no allowed hub has a hint for %s; by weight among %d hub(s)", network, len(hubs))}
	case len(closest) > 1:
		return allocation{hashed(closest, key), fmt.Sprintf("geoLatency: %d ms from %s, as close as %d hub(s); by weight among them", best, network, len(closest))}
	}
	return allocation{closest[0].Host, fmt.Sprintf("geoLatency: %d ms from %s, the closest of %d hub(s)", best, network, len(hubs))}
}

// unknownLatency is further than every hint.
const unknownLatency = math.MaxInt

// latency is how far from is from the hub, in milliseconds: what the hint for
// the narrowest network that holds from says.
func (h LinkedHub) latency(from netip.Addr) int {
	best, bits := unknownLatency, -1
	for _, l := range h.Latency {
		if l.Network.Contains(from) && l.Network.Bits() > bits {
			best, bits = l.Milliseconds, l.Network.Bits()
		}
	}
	return best
}

// Bounds of the hints of one hub.
const (
	maxHints        = 100
	maxMilliseconds = 60_000
)

// CheckLatency reports why hints are not good for a hub, or nil. The error is of
// kind errs.Invalid.
func CheckLatency(hints []Latency) error {
	fault := func(format string, args ...any) error {
		return errs.New(errs.Invalid, errs.CodeBadRequest, "latency: "+format, args...)
	}
	if len(hints) > maxHints {
		return fault("%d networks; %d are allowed", len(hints), maxHints)
	}
	for i, l := range hints {
		n := l.Network
		switch {
		case !n.IsValid():
			return fault("hint %d has no network", i)
		case n.Addr().Is4In6():
			return fault("%s is written as IPv6; devices of IPv4 are found in networks of IPv4", n)
		case n != n.Masked():
			return fault("%s is an address in the network %s", n, n.Masked())
		case l.Milliseconds < 0 || l.Milliseconds > maxMilliseconds:
			return fault("%s: milliseconds must be 0 to %d", n, maxMilliseconds)
		case slices.ContainsFunc(hints[:i], func(o Latency) bool { return o.Network == n }):
			return fault("%s is there twice", n)
		}
	}
	return nil
}

// Share returns the part of new devices, 0 to 1, that hashed allocation sends to
// a hub with a weight beside the others that take part.
func Share(weight int, others []LinkedHub) float64 {
	total := max(weight, 1)
	for _, h := range others {
		if h.Allocation {
			total += max(h.Weight, 1)
		}
	}
	return float64(max(weight, 1)) / float64(total)
}

// address reads a peer's address, with or without a port, as hints are written:
// an IPv4 address in IPv6's clothes is one of IPv4. What it cannot read is the
// zero address, which is in no network.
func address(remote string) netip.Addr {
	if at, err := netip.ParseAddrPort(remote); err == nil {
		return at.Addr().Unmap().WithZone("")
	}
	from, err := netip.ParseAddr(remote)
	if err != nil {
		return netip.Addr{}
	}
	return from.Unmap().WithZone("")
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
