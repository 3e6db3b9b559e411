// Package webhook asks the webhooks of custom allocation where devices are to
// live. Whoever may write enrollments says where it connects to, so it goes
// nowhere by itself: no proxy, no redirects, no addresses that only this machine
// can mean. A webhook's URL is a secret, because keys are in its query: no error
// and no record of this package repeats more of it than the host name.
package webhook

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/client/internal/dial"
	"github.com/berth-iot/berth/client/internal/rest"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/provision/custom"
	"github.com/berth-iot/berth/wire/dpsjson"
)

const (
	// timeout is how long a webhook has for one answer, connecting included.
	timeout = 5 * time.Second

	attempts     = 3
	firstBackoff = 250 * time.Millisecond

	// maxWait is the longest Retry-After that is waited for here. A longer one is
	// handed up, up to maxRetryAfter.
	maxWait       = 3 * time.Second
	maxRetryAfter = 5 * time.Minute
)

// A Config is what a Client works with.
type Config struct {
	// Allowed are what the URLs of webhooks may begin with, "https://host/path";
	// a path ends at a slash. None allows all.
	Allowed []string
	// RootCAs are the authorities that servers are trusted by; nil for those of the
	// system.
	RootCAs *x509.CertPool
	Now     func() time.Time
}

// A Client is the provision.Chooser of enrollments that have a webhook. It is
// safe for concurrent use.
type Client struct {
	allowed []*url.URL
	secure  *http.Client // for https
	plain   *http.Client // for http, within this machine
	health  health
}

// New returns a client; it does not connect.
func New(c Config) (*Client, error) {
	w := &Client{health: health{now: c.Now}}
	for _, s := range c.Allowed {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("%q is not the beginning of a URL, https://host/path", s)
		}
		w.allowed = append(w.allowed, u)
	}
	w.secure = dial.HTTPClient(c.RootCAs, dial.To(dial.Anywhere, "webhooks"))
	w.plain = dial.HTTPClient(c.RootCAs, dial.To(dial.Loopback, "webhooks"))
	return w, nil
}

// Close closes the connections that nothing uses.
func (w *Client) Close() {
	w.secure.CloseIdleConnections()
	w.plain.CloseIdleConnections()
}

// Check reports why the webhook at address, a valid URL, would not be asked.
// The error repeats nothing of it.
func (w *Client) Check(address string) error {
	if len(w.allowed) == 0 {
		return nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return errors.New("is not a URL")
	}
	for _, a := range w.allowed {
		if begins(u, a) {
			return nil
		}
	}
	return errors.New("is not among the webhooks that this server asks (provisioning.webhooks)")
}

// begins reports whether u begins with a: the same host, and a path below a's.
func begins(u, a *url.URL) bool {
	if u.Scheme != a.Scheme || !strings.EqualFold(u.Host, a.Host) {
		return false
	}
	below, ok := strings.CutPrefix(u.EscapedPath(), strings.TrimSuffix(a.EscapedPath(), "/"))
	if !ok || below != "" && below[0] != '/' {
		return false
	}
	// A server may take dots and slashes for what they mean, in either spelling.
	for step := range strings.SplitSeq(u.Path, "/") {
		if step == ".." || step == "." || strings.Contains(step, `\`) {
			return false
		}
	}
	return !strings.Contains(strings.ToLower(u.EscapedPath()), "%2f")
}

// Choose asks the webhook of q's enrollment, again if need be. See
// provision.Chooser.
func (w *Client) Choose(ctx context.Context, q provision.Question) (*provision.Choice, error) {
	choice, err := w.choose(ctx, q)
	if ctx.Err() == nil { // who gave up asking learned nothing about the webhook
		w.health.record(q.Entry, err)
	}
	return choice, err
}

func (w *Client) choose(ctx context.Context, q provision.Question) (*provision.Choice, error) {
	document, err := custom.Request(q)
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(q.Entry.Custom.WebhookURL)
	if err != nil {
		return nil, custom.Failed(errors.New("the webhook's URL cannot be read"))
	}
	if err := w.Check(to.String()); err != nil {
		return nil, custom.Failed(fmt.Errorf("the webhook %w", err))
	}
	for n := 1; ; n++ {
		answer, failure := w.ask(ctx, to, document)
		if failure == nil {
			return custom.Choice(answer, q.Linked)
		}
		wait := backoff(n, failure.RetryAfter)
		if failure.Kind != errs.Unavailable || n == attempts || wait > maxWait || !rest.Wait(ctx, wait) {
			return nil, failure
		}
	}
}

// backoff returns how long to wait after the nth attempt: what was asked for and
// a little more, or a growing time of which half is chance.
func backoff(n int, asked time.Duration) time.Duration {
	if asked > 0 {
		return asked + rand.N(firstBackoff)
	}
	d := firstBackoff << (n - 1)
	return d/2 + rand.N(d/2)
}

// ask makes one attempt.
func (w *Client) ask(ctx context.Context, to *url.URL, document []byte) ([]byte, *errs.Error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(document))
	if err != nil {
		return nil, failed(to, errors.New("the webhook's URL cannot be used"))
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "berth")
	client := w.secure
	if to.Scheme == "http" {
		client = w.plain
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, silent(ctx, to, err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		return nil, refused(to, response)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, dpsjson.MaxAllocationAnswer+1))
	if err == nil {
		err = ctx.Err() // a server that sees us go may end its answer early
	}
	if err != nil {
		return nil, silent(ctx, to, err)
	}
	return body, nil // one that is too long is refused with what else may be wrong
}

// refused is about a status that is no answer. Devices are told it in the
// original's words.
func refused(to *url.URL, r *http.Response) *errs.Error {
	e := errs.New(errs.Invalid, errs.CodeCustomAllocation, "Custom allocation failed with status code: %d", r.StatusCode)
	if r.StatusCode == http.StatusTooManyRequests || r.StatusCode >= 500 {
		e.Kind, e.RetryAfter = errs.Unavailable, retryAfter(r.Header)
	}
	return e.WithCause(fmt.Errorf("%s answered %d %s", to.Host, r.StatusCode, http.StatusText(r.StatusCode)))
}

// retryAfter reads the seconds of a Retry-After header (RFC 9110 §10.2.3); a date
// counts as none.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(strings.TrimSpace(h.Get("Retry-After")), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// silent is about no answer at all. That may pass, unless it is we who will not
// connect.
func silent(ctx context.Context, to *url.URL, err error) *errs.Error {
	if _, ok := errors.AsType[dial.Forbidden](err); ok {
		return failed(to, err)
	}
	e := failed(to, err)
	e.Kind = errs.Unavailable
	if cause := context.Cause(ctx); cause != nil {
		e = e.WithCause(fmt.Errorf("asking %s: %w", to.Host, cause))
	}
	return e
}

func failed(to *url.URL, err error) *errs.Error {
	return errs.New(errs.Invalid, errs.CodeCustomAllocation, "Custom allocation failed.").
		WithCause(fmt.Errorf("asking %s: %s", to.Host, dial.Redacted(to, err)))
}
