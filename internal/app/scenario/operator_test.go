package scenario

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berth-iot/berth/pki"
)

// operate makes a call of an operator: one of the provisioning service, or one
// of a hub.
func (w *world) operate(method, host, path string, body any, headers ...string) answer {
	text, err := json.Marshal(body)
	w.ts.Check(err)
	if body == nil {
		text = nil
	}
	p := w.owner
	switch {
	case w.foreign != nil && host == w.foreign.address:
		p = w.foreign.policy
	case host != dpsHost:
		p = w.hub
	}
	request, err := http.NewRequest(method, "https://"+host+path+"?api-version=2021-10-01", bytes.NewReader(text))
	w.ts.Check(err)
	request.Header.Set("Authorization", p.token(host, w.now()))
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	a, err := exchange(w.clientOf(host, nil), request)
	w.ts.Check(err)
	return a
}

// exchange sends a request and reads the whole answer.
func exchange(c *http.Client, r *http.Request) (answer, error) {
	response, err := c.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header.Get("Retry-After"), body}, err
}

// expect wants a status of 2xx, or with ! the one given.
func (w *world) expect(a answer, neg bool, refusal int) {
	switch {
	case !neg && a.status/100 != 2:
		w.ts.Fatalf("status %d: %s", a.status, a.body)
	case neg && a.status != refusal:
		w.ts.Fatalf("status %d, want %d: %s", a.status, refusal, a.body)
	}
	w.show(a)
}

func link(w *world, neg bool, args []string, _ map[string]string) {
	w.must(neg)
	w.expect(w.operate("PUT", dpsHost, "/berth/v1/hubs/"+args[0], map[string]any{}), false, 0)
}

func unlink(w *world, neg bool, args []string, _ map[string]string) {
	w.expect(w.operate("DELETE", dpsHost, "/berth/v1/hubs/"+args[0], nil), neg, http.StatusNotFound)
}

func enroll(collection, idMember string) command {
	return func(w *world, neg bool, args []string, set map[string]string) {
		body := map[string]any{idMember: args[0], "attestation": w.attestation(collection, set)}
		if len(args) == 2 {
			if args[1] != "disabled" {
				w.ts.Fatalf("%s is not known here; disabled is", args[1])
			}
			body["provisioningStatus"] = "disabled"
		}
		if with := set["with"]; with != "" {
			w.ts.Check(json.Unmarshal([]byte(with), &body))
		}
		path := "/" + collection + "/" + url.PathEscape(args[0])
		var headers []string
		if w.operate("GET", dpsHost, path, nil).status == http.StatusOK {
			headers = []string{"If-Match", "*"}
		}
		w.expect(w.operate("PUT", dpsHost, path, body, headers...), neg, http.StatusBadRequest)
	}
}

// attestation is the body's member for what a device is to prove.
func (w *world) attestation(collection string, set map[string]string) any {
	names := func(option string) (first, second string) {
		first, second, _ = strings.Cut(set[option], ",")
		return first, second
	}
	switch {
	case set["key"] != "":
		keys := map[string]string{}
		first, second := names("key")
		keys["primaryKey"] = named(w, "key", w.keys, first).Base64()
		if second != "" {
			keys["secondaryKey"] = named(w, "key", w.keys, second).Base64()
		}
		return map[string]any{"type": "symmetricKey", "symmetricKey": keys}
	case set["cert"] != "":
		use := "clientCertificates"
		if collection == "enrollmentGroups" {
			use = "signingCertificates"
		}
		slots := map[string]any{}
		first, second := names("cert")
		slots["primary"] = map[string]string{"certificate": w.pem(first)}
		if second != "" {
			slots["secondary"] = map[string]string{"certificate": w.pem(second)}
		}
		return map[string]any{"type": "x509", "x509": map[string]any{use: slots}}
	case set["tpm"] != "":
		chip, srk := names("tpm")
		c := named(w, "TPM", w.chips, chip)
		keys := map[string]string{"endorsementKey": encode(c.ek)}
		if srk == "srk" {
			keys["storageRootKey"] = encode(c.srk)
		}
		return map[string]any{"type": "tpm", "tpm": keys}
	}
	return map[string]any{"type": "symmetricKey"}
}

// pem is the certificate of a leaf or a CA.
func (w *world) pem(name string) string {
	if ca := w.cas[name]; ca != nil {
		return string(pki.EncodeCertificates(ca.Certificate))
	}
	return string(pki.EncodeCertificates(named(w, "certificate", w.leaves, name).Certificate))
}

func remove(collection string) command {
	return func(w *world, neg bool, args []string, _ map[string]string) {
		w.expect(w.operate("DELETE", dpsHost, "/"+collection+"/"+url.PathEscape(args[0]), nil), neg, http.StatusNotFound)
	}
}

func record(w *world, neg bool, args []string, _ map[string]string) {
	w.expect(w.operate("GET", dpsHost, "/registrations/"+url.PathEscape(args[0]), nil), neg, http.StatusNotFound)
}

// at is the hub that a command is about.
func at(set map[string]string) string {
	if host := set["at"]; host != "" {
		return host
	}
	return hubHost
}

// showDevice leaves the keys out: standard output is logged.
func showDevice(w *world, neg bool, args []string, set map[string]string) {
	a := w.operate("GET", at(set), "/devices/"+url.PathEscape(args[0]), nil)
	if a.status == http.StatusOK {
		var identity map[string]any
		w.ts.Check(json.Unmarshal(a.body, &identity))
		if proof, ok := identity["authentication"].(map[string]any); ok {
			delete(proof, "symmetricKey")
		}
		text, err := json.Marshal(identity)
		w.ts.Check(err)
		a.body = text
	}
	w.expect(a, neg, http.StatusNotFound)
}

func showTwin(w *world, neg bool, args []string, set map[string]string) {
	path := "/twins/" + url.PathEscape(args[0])
	if desired := set["desired"]; desired != "" {
		patch := map[string]any{"properties": map[string]any{"desired": json.RawMessage(desired)}}
		w.expect(w.operate("PATCH", at(set), path, patch), false, 0)
		return
	}
	w.expect(w.operate("GET", at(set), path, nil), neg, http.StatusNotFound)
}

// explain shows the newest decision, once it says what it is to say.
func explain(w *world, neg bool, args []string, set map[string]string) {
	w.must(neg)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		a := w.operate("GET", dpsHost, "/berth/v1/decisions/"+url.PathEscape(args[0]), nil)
		var decisions []json.RawMessage
		w.ts.Check(json.Unmarshal(a.body, &decisions))
		switch {
		case len(decisions) == 0:
			w.ts.Fatalf("nothing was decided about %s", args[0])
		case strings.Contains(string(decisions[0]), set["until"]):
			w.show(answer{status: a.status, body: decisions[0]})
			return
		case time.Now().After(deadline):
			w.ts.Fatalf("it does not say %q: %s", set["until"], decisions[0])
		}
	}
}
