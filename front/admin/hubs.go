package admin

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

func (f front) hubs(w http.ResponseWriter, r call) error {
	linked, err := f.Links.Linked(r.Context(), r.scope.ID)
	if err != nil {
		return fmt.Errorf("listing the linked hubs: %w", err)
	}
	if linked == nil {
		linked = []provision.LinkedHub{}
	}
	return answer(w, linked)
}

func (f front) link(w http.ResponseWriter, r call) error {
	host, err := parseHost(r.PathValue("host"))
	if err != nil {
		return err
	}
	sent := struct {
		Weight     int                 `json:"weight"`
		Allocation bool                `json:"allocation"`
		Latency    []provision.Latency `json:"latency"`
	}{Weight: 1, Allocation: true} // a full share in every allocation
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	if sent.Weight < 1 || sent.Weight > 1000 {
		return invalid("weight must be 1 to 1000")
	}
	if err := provision.CheckLatency(sent.Latency); err != nil {
		return err
	}
	h := provision.LinkedHub{Host: host, Weight: sent.Weight, Allocation: sent.Allocation, Latency: sent.Latency}
	if err := f.Links.PutLinkedHub(r.Context(), r.scope.ID, h); err != nil {
		return fmt.Errorf("linking %s: %w", host, err)
	}
	return answer(w, h)
}

func (f front) unlink(w http.ResponseWriter, r call) error {
	host, err := parseHost(r.PathValue("host"))
	if err != nil {
		return err
	}
	err = f.Links.DeleteLinkedHub(r.Context(), r.scope.ID, host)
	if errs.KindOf(err) == errs.NotFound {
		return notLinked(host)
	}
	if err != nil {
		return fmt.Errorf("unlinking %s: %w", host, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// hostPattern is a host name (RFC 1123 §2.1) with an optional port.
var hostPattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?$`)

// parseHost returns the canonical form of a linked hub's host: lower case, with
// the port where it is not 443.
func parseHost(s string) (string, error) {
	host := strings.ToLower(s)
	name, port, _ := strings.Cut(host, ":")
	if n, err := strconv.ParseUint("0"+port, 10, 16); err != nil || port != "" && n == 0 || len(name) > 253 || !hostPattern.MatchString(host) {
		return "", invalid("The hub must be a host name with an optional port")
	}
	return strings.TrimSuffix(host, ":443"), nil
}

func notLinked(host string) error {
	return errs.New(errs.NotFound, 0, "No hub %s is linked", host)
}

func invalid(format string, args ...any) *errs.Error {
	return errs.New(errs.Invalid, 0, format, args...)
}
