package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/client/linkedhub"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// checkTimeout is how long a hub elsewhere may take to say whether it accepts a
// policy.
const checkTimeout = 10 * time.Second

// hubJSON is a link as it is read. The key of its connection is never shown.
type hubJSON struct {
	provision.LinkedHub
	Kind   string               `json:"kind"`             // "local" or "linked"
	Policy string               `json:"policy,omitempty"` // of a connection
	Health *provision.HubHealth `json:"health,omitempty"` // of a hub elsewhere
	ETag   string               `json:"etag"`
}

func (f front) hubs(w http.ResponseWriter, r call) error {
	linked, err := f.Links.Linked(r.Context(), r.scope.ID)
	if err != nil {
		return fmt.Errorf("listing the linked hubs: %w", err)
	}
	health, err := f.Links.HubHealth(r.Context(), r.scope.ID)
	if err != nil {
		return fmt.Errorf("reading the health of linked hubs: %w", err)
	}
	all := []hubJSON{}
	for _, h := range linked {
		body, err := f.hubBody(h, health)
		if err != nil {
			return err
		}
		all = append(all, body)
	}
	return answer(w, all)
}

func (f front) hub(w http.ResponseWriter, r call) error {
	h, err := f.linked(r.Context(), r.scope.ID, r.PathValue("host"))
	if err != nil {
		return err
	}
	return f.answerHub(w, r, h)
}

func (f front) answerHub(w http.ResponseWriter, r call, h provision.LinkedHub) error {
	health, err := f.Links.HubHealth(r.Context(), r.scope.ID)
	if err != nil {
		return fmt.Errorf("reading the health of %s: %w", h.Host, err)
	}
	body, err := f.hubBody(h, health)
	if err != nil {
		return err
	}
	return answerTagged(w, body.ETag, body)
}

func (f front) hubBody(h provision.LinkedHub, health []provision.HubHealth) (hubJSON, error) {
	tag, err := f.hubTag(h)
	body := hubJSON{LinkedHub: h, Kind: "local", ETag: dpsjson.EncodeETag(tag)}
	if h.Connection == nil {
		return body, err
	}
	body.Kind, body.Policy = "linked", h.Connection.Policy
	if i := slices.IndexFunc(health, func(of provision.HubHealth) bool { return strings.EqualFold(of.Host, h.Host) }); i >= 0 {
		body.Health = &health[i]
	}
	return body, err
}

func (f front) hubTag(h provision.LinkedHub) (string, error) {
	members := []string{"hub", h.Host, strconv.Itoa(h.Weight), strconv.FormatBool(h.Allocation)}
	for _, l := range h.Latency {
		members = append(members, l.Network.String(), strconv.Itoa(l.Milliseconds))
	}
	if h.Connection != nil {
		members = append(members, "connection", h.Connection.Policy, h.Connection.Key.Base64())
	}
	return f.tag(members...)
}

// linkJSON is a link as it is written.
type linkJSON struct {
	Weight           int                  `json:"weight"`
	Allocation       bool                 `json:"allocation"`
	Latency          *[]provision.Latency `json:"latency"`          // nil keeps what is stored
	ConnectionString string               `json:"connectionString"` // so does an empty one
}

// link makes or changes the link to a hub. A connection string is tried out
// before anything is written.
func (f front) link(w http.ResponseWriter, r call) error {
	host, err := parseHost(r.PathValue("host"))
	if err != nil {
		return err
	}
	check, err := parseCheck(r.URL.RawQuery)
	if err != nil {
		return err
	}
	sent := linkJSON{Weight: 1, Allocation: true} // a full share in every allocation
	if err := readStrict(w, r, maxBody, &sent); err != nil {
		return err
	}
	asked := provision.LinkedHub{Host: host, Weight: sent.Weight, Allocation: sent.Allocation}
	if sent.Latency != nil {
		asked.Latency = *sent.Latency
	}
	if asked.Connection, err = parseConnection(sent.ConnectionString, host); err != nil {
		return err
	}
	if sent.Weight < 1 || sent.Weight > 1000 {
		return invalid("weight must be 1 to 1000")
	}
	if err := provision.CheckLatency(asked.Latency); err != nil {
		return err
	}
	if asked.Connection != nil && check {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		if err := f.Links.CheckLink(ctx, asked); err != nil {
			return err
		}
	}
	match := precondition(r)
	var now provision.LinkedHub
	err = f.Links.ChangeLinkedHub(r.Context(), r.scope.ID, host, func(old *provision.LinkedHub) (*provision.LinkedHub, error) {
		if err := f.mayChange(old, match); err != nil {
			return nil, err
		}
		now = asked
		switch {
		case old == nil:
		case old.Connection == nil && asked.Connection != nil:
			return nil, errs.New(errs.Conflict, 0, "%s is a hub of these servers; unlink it before you link one elsewhere", host)
		default:
			if sent.Latency == nil {
				now.Latency = old.Latency
			}
			if asked.Connection == nil {
				now.Connection = old.Connection
			}
		}
		return &now, nil
	})
	if err != nil {
		return fmt.Errorf("linking %s: %w", host, err)
	}
	return f.answerHub(w, r, now)
}

// mayChange holds a link, nil for none, against the caller's If-Match.
func (f front) mayChange(old *provision.LinkedHub, match provision.Precondition) error {
	if match == nil {
		return nil
	}
	stale := errs.New(errs.Precondition, 0, "The etag is not the current one; read the link again.")
	if old == nil {
		return stale
	}
	tag, err := f.hubTag(*old)
	if err == nil && !match(tag) {
		return stale
	}
	return err
}

// parseConnection reads the connection string of a hub that is reached by host;
// none means a hub of these servers.
func parseConnection(text, host string) (*provision.Connection, error) {
	if text == "" {
		return nil, nil
	}
	named, c, err := linkedhub.ParseConnectionString(text)
	if err != nil {
		return nil, invalid("connectionString: %s", strings.TrimPrefix(err.Error(), "connection string: "))
	}
	if named, err = parseHost(named); err != nil || named != host {
		return nil, invalid("connectionString: is for the hub %s, and not for %s", named, host)
	}
	return &c, nil
}

// parseCheck reads whether a connection string is to be tried out, as it is
// unless the query says check=false.
func parseCheck(rawQuery string) (bool, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return false, invalid("The query cannot be parsed")
	}
	if !query.Has("check") {
		return true, nil
	}
	check, err := strconv.ParseBool(query.Get("check"))
	if err != nil || len(query["check"]) > 1 {
		return false, invalid("check takes true or false")
	}
	return check, nil
}

func (f front) unlink(w http.ResponseWriter, r call) error {
	host, err := parseHost(r.PathValue("host"))
	if err != nil {
		return err
	}
	match := precondition(r)
	err = f.Links.ChangeLinkedHub(r.Context(), r.scope.ID, host, func(old *provision.LinkedHub) (*provision.LinkedHub, error) {
		if old == nil {
			return nil, notLinked(host)
		}
		return nil, f.mayChange(old, match)
	})
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
