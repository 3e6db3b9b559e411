package tenant

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/front/internal/rest"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/sas"
)

var (
	north = provision.Scope{ID: "0ne0000000a", Hosts: []string{"north.example", "alias.example"}}
	south = provision.Scope{ID: "0ne0000000b", Hosts: []string{"south.example"}}
	now   = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// two are both scopes and their policies.
type two struct {
	policies map[access.Owner][]access.Policy
	broken   error
}

func (s two) ScopeOf(_ context.Context, host string) (*provision.Scope, error) {
	for _, scope := range []provision.Scope{north, south} {
		if slices.Contains(scope.Hosts, host) {
			return &scope, s.broken
		}
	}
	return nil, errs.New(errs.NotFound, 0, "none")
}

func (s two) Policies(_ context.Context, owner access.Owner) ([]access.Policy, error) {
	return s.policies[owner], nil
}

func policy(t *testing.T, name string, random io.Reader) access.Policy {
	t.Helper()
	p, err := access.NewPolicy(name, access.AllProvisioning, random)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAuthenticate(t *testing.T) {
	p := policy(t, "owner", rand.Reader)
	elsewhere := policy(t, "owner", rand.Reader)
	// Somebody gave the same key to both scopes.
	shared := access.Policy{Name: "shared", Primary: p.Secondary, Rights: access.AllProvisioning}
	s := two{policies: map[access.Owner][]access.Policy{
		access.ScopeOwner(north.ID): {p, shared}, access.ScopeOwner(south.ID): {elsewhere, shared},
	}}
	sign := func(p access.Policy, resource string) string {
		return sas.Sign(p.Primary.Bytes(), resource, now.Add(time.Hour), p.Name)
	}
	for name, c := range map[string]struct {
		host, token string
		want        errs.Kind // Internal for none
	}{
		"at its own host":                      {"north.example", sign(p, "north.example"), errs.Internal},
		"at its own host, with a port":         {"North.example:8443", sign(p, "https://NORTH.example:8443/"), errs.Internal},
		"at another name of it":                {"alias.example", sign(p, "north.example"), errs.Internal},
		"another scope's at its own":           {"south.example", sign(elsewhere, "south.example"), errs.Internal},
		"at another scope's host":              {"south.example", sign(p, "south.example"), errs.Denied},
		"at another scope's host, for its own": {"south.example", sign(p, "north.example"), errs.Denied},
		"with a key that both have":            {"south.example", sign(shared, "north.example"), errs.Denied},
		"at a host of nobody":                  {"east.example", sign(p, "north.example"), errs.NotFound},
		"at no host":                           {"", sign(p, "north.example"), errs.NotFound},
		"at an ending of its host":             {"example", sign(p, "north.example"), errs.NotFound},
		"without a token":                      {"north.example", "", errs.Denied},
		"with half a token":                    {"north.example", "SharedAccessSignature sr=north.example", errs.Denied},
	} {
		r := httptest.NewRequest("GET", "/", strings.NewReader(""))
		r.Host = c.host
		r.Header.Set("Authorization", c.token)
		scope, caller, err := Authenticate(&rest.Request{Request: r}, s, s, now)
		switch {
		case c.want == errs.Internal && (err != nil || scope == nil || !slices.Contains(scope.Hosts, rest.Host(r)) || caller.Rights != access.AllProvisioning):
			t.Errorf("%s: %v, %v, %v", name, scope, caller, err)
		case c.want != errs.Internal && (err == nil || errs.KindOf(err) != c.want || caller != access.Caller{}):
			t.Errorf("%s: %v, %v", name, caller, err)
		}
	}

	s.broken = errors.New("the disk is gone")
	r := httptest.NewRequest("GET", "/", strings.NewReader(""))
	r.Host = "north.example"
	r.Header.Set("Authorization", sign(p, "north.example"))
	if _, _, err := Authenticate(&rest.Request{Request: r}, s, s, now); !errors.Is(err, s.broken) {
		t.Error(err)
	}
}
