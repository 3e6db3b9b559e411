package provision

import (
	"regexp"
	"slices"
	"strings"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/limit"
)

// Bounds of scopes.
const (
	maxScopes     = 1000
	maxScopeHosts = 20
)

// hostName is a host name (RFC 1123 §2.1) in lower case, without a port.
var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// CheckScope reports why s cannot stand beside the other scopes, or nil: all are
// those that there are, with or without the one that s replaces. The error is of
// kind errs.Invalid and names the member, or of kind errs.Conflict when a host name
// is another scope's.
func CheckScope(s Scope, all []Scope) error {
	fault := func(format string, args ...any) error {
		return errs.New(errs.Invalid, errs.CodeBadRequest, format, args...)
	}
	if id, err := device.ParseIDScope(string(s.ID)); err != nil || id != s.ID {
		return fault("idScope: an ID scope is 0ne and eight hexadecimal digits, in lower case")
	}
	switch s.Allocation {
	case enroll.Hashed, enroll.GeoLatency, enroll.Static:
	default:
		return fault("allocationPolicy: is %q; hashed, geoLatency and static are for a scope", s.Allocation)
	}
	if s.SharedKeys != WarnOfSharedKeys && s.SharedKeys != RefuseSharedKeys {
		return fault("sharedKeys: is %q; warn and refuse are known", s.SharedKeys)
	}
	for _, l := range []struct{ name, rate string }{{"perAddress", s.Limits.PerAddress}, {"perDevice", s.Limits.PerDevice}} {
		if l.rate == "" {
			continue
		}
		if _, err := limit.ParseRate(l.rate); err != nil {
			return fault("limits.%s: %v", l.name, err)
		}
	}
	if len(s.Hosts) > maxScopeHosts {
		return fault("hosts: has %d names; %d are allowed", len(s.Hosts), maxScopeHosts)
	}
	for i, h := range s.Hosts {
		if len(h) > 253 || !hostName.MatchString(h) {
			return fault("hosts[%d]: %q is not a host name in lower case without a port", i, h)
		}
		if slices.Contains(s.Hosts[:i], h) {
			return fault("hosts[%d]: %s is there twice", i, h)
		}
	}
	return beside(s, all)
}

func beside(s Scope, all []Scope) error {
	others := 0
	for _, other := range all {
		if other.ID == s.ID {
			continue
		}
		others++
		for _, h := range s.Hosts {
			if slices.ContainsFunc(other.Hosts, func(o string) bool { return strings.EqualFold(o, h) }) {
				return errs.New(errs.Conflict, errs.CodeConflict, "hosts: %s is a name of another ID scope", h)
			}
		}
	}
	if others >= maxScopes {
		return errs.New(errs.Conflict, errs.CodeConflict, "There are %d ID scopes; no more are allowed", others)
	}
	return nil
}
