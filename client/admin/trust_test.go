package admin_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest/ekcert"
	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/provision"
)

func TestTrust(t *testing.T) {
	var got []string
	anchor := ekcert.TrustAnchor{Thumbprint: "AA", Certificate: []byte{0x30, 0}, Root: true, Vendor: "Acme", File: "root.cer", Added: 1}
	h := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = append(got, strings.TrimSpace(r.Method+" "+r.URL.EscapedPath()+" "+string(body)))
		w.Header().Set("Content-Type", "application/json")
		var answer any = provision.TrustReport{Version: 2, Changed: true, Certificates: []ekcert.TrustOutcome{{TrustAnchor: anchor, Subject: "CN=Acme", Result: ekcert.TrustRemoved}}}
		switch {
		case r.Method == "POST":
		case r.URL.Path == "/berth/v1/trust":
			answer = admin.Trust{Trust: ekcert.Trust{Version: 1, Anchors: []ekcert.TrustAnchor{anchor}}, Digest: "BB"}
		default:
			answer = []ekcert.TrustVersion{{Version: 1, Time: time.Unix(0, 0).UTC(), Source: "a bundle", Added: 1}}
		}
		json.NewEncoder(w).Encode(answer)
	}
	bubble(t, h, func(t *testing.T, c *admin.Client) {
		ctx := t.Context()
		now, err := c.Trust(ctx)
		if err != nil || now.Digest != "BB" || now.Version != 1 || len(now.Anchors) != 1 || now.Anchors[0].Vendor != "Acme" || string(now.Anchors[0].Certificate) != "0\x00" {
			t.Errorf("%+v, %v", now, err)
		}
		versions, err := c.TrustVersions(ctx)
		if err != nil || len(versions) != 1 || versions[0].Source != "a bundle" {
			t.Errorf("%+v, %v", versions, err)
		}
		report, err := c.ImportTrust(ctx, ekcert.Offer{Source: "a bundle", Test: true, Anchors: []ekcert.TrustAnchor{anchor}}, true)
		if err != nil || report.Version != 2 || report.Certificates[0].Thumbprint != "AA" || report.Certificates[0].Subject != "CN=Acme" {
			t.Errorf("%+v, %v", report, err)
		}
		if _, err := c.RemoveTrust(ctx, []string{"AA"}, "why", false); err != nil {
			t.Error(err)
		}
	})
	want := []string{"GET /berth/v1/trust", "GET /berth/v1/trust/versions",
		`POST /berth/v1/trust {"certificates":[{"certificate":"MAA=","root":true,"vendor":"Acme","file":"root.cer"}],"dryRun":true,"source":"a bundle","test":true}`,
		`POST /berth/v1/trust/remove {"dryRun":false,"source":"why","thumbprints":["AA"]}`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// An import is tried again when its answer is lost, a removal is not: the second
// would say that there is nothing to remove.
func TestWhatOfTrustIsTriedAgain(t *testing.T) {
	asked := map[string]int{}
	bubble(t, func(_ http.ResponseWriter, r *http.Request) {
		asked[r.Method+" "+r.URL.Path]++
		panic(http.ErrAbortHandler)
	}, func(t *testing.T, c *admin.Client) {
		_, read := c.Trust(t.Context())
		_, history := c.TrustVersions(t.Context())
		_, add := c.ImportTrust(t.Context(), ekcert.Offer{Anchors: make([]ekcert.TrustAnchor, 1)}, false)
		_, remove := c.RemoveTrust(t.Context(), []string{"AA"}, "", false)
		for _, err := range []error{read, history, add, remove} {
			if _, refused := errors.AsType[*client.Error](err); err == nil || refused {
				t.Error(err)
			}
		}
	})
	if asked["POST /berth/v1/trust/remove"] != 1 || asked["POST /berth/v1/trust"] < 2 || asked["GET /berth/v1/trust"] < 2 {
		t.Errorf("%v", asked)
	}
}
