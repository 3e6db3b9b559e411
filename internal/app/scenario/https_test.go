package scenario

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// https is the wire of the DPS REST API, with nothing but net/http.
type https struct{ w *world }

func openHTTPS(w *world) wire { return https{w} }

func (h https) carry(c call) (answer, error) {
	method, path := "", "/"+url.PathEscape(c.scope)+"/registrations/"+url.PathEscape(c.id)
	switch c.operation {
	case "register":
		method, path = http.MethodPut, path+"/register"
	case "poll":
		method, path = http.MethodGet, path+"/operations/"+c.operationID
	case "lookup":
		method = http.MethodPost
	default:
		return answer{}, fmt.Errorf("there is no operation %s", c.operation)
	}
	request, err := http.NewRequest(method, "https://"+dpsHost+path+"?api-version="+url.QueryEscape(c.version), bytes.NewReader(c.body))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	if c.token != "" {
		request.Header.Set("Authorization", c.token)
	}
	return exchange(h.w.client(c.certificate), request)
}

func (h https) deliver(d delivery) (answer, error) {
	request, err := http.NewRequest("POST", "https://"+d.host+"/devices/"+url.PathEscape(d.id)+"/messages/events?api-version=2020-03-13", strings.NewReader(telemetry))
	if err != nil {
		return answer{}, err
	}
	if d.token != "" {
		request.Header.Set("Authorization", d.token)
	}
	return exchange(h.w.clientOf(d.host, d.certificate), request)
}

// telemetry is what devices have to say.
const telemetry = "21.5"

// client is for one connection or, without a certificate, for all that are
// made.
func (w *world) client(certificate *tls.Certificate) *http.Client {
	if certificate == nil && w.anonymous != nil {
		return w.anonymous
	}
	c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: w.dial, TLSClientConfig: w.tls(certificate), DisableKeepAlives: certificate != nil,
	}}
	if certificate == nil {
		w.anonymous = c
		w.env.Defer(c.CloseIdleConnections)
	}
	return c
}
