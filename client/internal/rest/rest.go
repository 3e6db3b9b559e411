// Package rest makes HTTPS requests for the SDK: signed, repeated where that is
// safe, bounded in time and size, and with refusals turned into
// [client.Error].
package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-iot/berth/client"
)

const (
	userAgent = "berth-go"

	defaultAttempts = 5
	defaultTimeout  = time.Minute

	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second

	// maxRetryAfter bounds what a service can ask for: five minutes, the
	// longest that any device SDK obeys.
	maxRetryAfter = 5 * time.Minute

	maxHeader  = 64 << 10 // bytes of an answer's header
	maxRefusal = 64 << 10 // bytes of an error body
)

// A Client talks to one host.
type Client struct {
	base     string
	http     *http.Client
	attempts int
	timeout  time.Duration
	warn     func(string) // or nil
}

// New returns a client for host, a name or address with an optional :port. It
// presents certificate, unless that is nil, to every server that asks.
func New(host string, certificate *tls.Certificate, o client.HTTP) (*Client, error) {
	if err := CheckHost(host); err != nil {
		return nil, err
	}
	if o.Attempts < 0 || o.Timeout < 0 {
		return nil, errors.New("the attempts and the timeout must not be negative")
	}
	c := &Client{base: "https://" + host, attempts: defaultAttempts, timeout: defaultTimeout, warn: o.Warn}
	if o.Attempts > 0 {
		c.attempts = o.Attempts
	}
	if o.Timeout > 0 {
		c.timeout = o.Timeout
	}
	c.http = &http.Client{
		Transport: transport(certificate, o),
		// A redirect would carry tokens and certificates to where nobody
		// meant them to go.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func transport(certificate *tls.Certificate, o client.HTTP) *http.Transport {
	var t *http.Transport
	if o.Transport != nil {
		t = o.Transport.Clone()
	} else if standard, ok := http.DefaultTransport.(*http.Transport); ok {
		t = standard.Clone()
	} else {
		t = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	if t.MaxResponseHeaderBytes == 0 {
		t.MaxResponseHeaderBytes = maxHeader
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	config := t.TLSClientConfig
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if o.RootCAs != nil {
		config.RootCAs = o.RootCAs
	}
	if certificate != nil {
		// Whatever authorities the server lists: the service judges the chain
		// by its enrollments.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
		// Azure asks for the certificate only once it has seen the request,
		// which in TLS 1.2 takes a renegotiation.
		config.Renegotiation = tls.RenegotiateOnceAsClient
	}
	return t
}

// CheckHost reports why host is not a host name or address with an optional
// :port, or nil.
func CheckHost(host string) error {
	bad := fmt.Errorf("%.100q is not a host name with an optional :port", host)
	u, err := url.Parse("https://" + host)
	if err != nil || u.Host != host || host == "" || len(host) > 260 {
		return bad
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad
		}
	} else if strings.HasSuffix(host, ":") {
		return bad
	}
	name := u.Hostname()
	if _, err := netip.ParseAddr(name); err == nil {
		return nil
	}
	for label := range strings.SplitSeq(name, ".") {
		const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
		if label == "" || len(label) > 63 || strings.Trim(label, allowed) != "" {
			return bad
		}
	}
	return nil
}

// Hostname returns host without its port.
func Hostname(host string) string {
	u := url.URL{Host: host}
	return u.Hostname()
}

// A Request is one call. Its body, where there is one, is JSON unless Header
// says otherwise.
type Request struct {
	Method string
	Path   string // escaped, with the query
	Header http.Header
	Body   []byte
	// Authorize returns the Authorization header of each attempt; nil means none.
	Authorize func(ctx context.Context) (string, error)
	// Repeatable says that making the call twice does no harm. Without it the
	// call is repeated only where it cannot have had an effect: when the
	// connection failed, or the service answered 429.
	Repeatable bool
	// Also lists statuses outside of 2xx that are answers and not refusals.
	Also []int
	// MaxAnswer bounds the answer's body, in bytes.
	MaxAnswer int64
	// Began is told the header of a stream; nil for nobody.
	Began func(http.Header)
}

// An Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// RetryAfter returns for how long the service asked to be left alone, or zero.
func (a *Answer) RetryAfter() time.Duration { return retryAfter(a.Header) }

// JSON reads the body into v. The error repeats nothing of it.
func (a *Answer) JSON(v any) error {
	if media, _, err := mime.ParseMediaType(a.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return fmt.Errorf("the answer is %.60q and not JSON: is something else in the way?", a.Header.Get("Content-Type"))
	}
	if err := json.Unmarshal(a.Body, v); err != nil {
		return errors.New("the answer is not the JSON that was expected")
	}
	return nil
}

// Do makes the call, again if need be, and returns the answer. A refusal is a
// [client.Error].
func (c *Client) Do(ctx context.Context, r Request) (*Answer, error) {
	var answer *Answer
	err := c.repeat(ctx, r, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %s", c.timeout))
		defer cancel()
		resp, err := c.send(ctx, r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err = read(resp, r.MaxAnswer)
		return why(ctx, err)
	})
	if err != nil {
		return nil, err
	}
	if c.warn != nil {
		for _, header := range answer.Header.Values("Warning") {
			c.warn(warning(header))
		}
	}
	return answer, nil
}

// warning returns the text of a Warning header, `299 - "text"`, without control
// characters, or all of one in another form.
func warning(header string) string {
	text := header
	if _, quoted, ok := strings.Cut(header, ` "`); ok {
		text = strings.TrimSuffix(quoted, `"`)
	}
	return Printable(text, maxBody)
}

// Stream makes the call and returns the answer's body to read for as long as
// ctx lives; only the wait for its beginning has a time limit. The caller
// closes it.
func (c *Client) Stream(ctx context.Context, r Request) (io.ReadCloser, error) {
	var body io.ReadCloser
	err := c.repeat(ctx, r, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(c.timeout, func() { cancel(fmt.Errorf("no answer within %s", c.timeout)) })
		resp, err := c.send(ctx, r)
		timer.Stop()
		if err != nil {
			cancel(nil)
			return err
		}
		if r.Began != nil {
			r.Began(resp.Header)
		}
		body = stream{resp.Body, cancel}
		return nil
	})
	return body, err
}

// A stream ends its request when it is closed.
type stream struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (s stream) Close() error {
	s.cancel(nil)
	return s.ReadCloser.Close()
}

// A networkError is one after which the same call may succeed.
type networkError struct{ error }

func (e networkError) Unwrap() error { return e.error }

// why gives err its real cause where a time limit of ours is behind it.
func why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && cause != ctx.Err() {
		return networkError{cause}
	}
	return err
}

// send makes one attempt and returns its response if that is not a refusal.
func (c *Client) send(ctx context.Context, r Request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, c.base+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	if r.Header != nil {
		req.Header = r.Header.Clone()
	}
	req.Header.Set("User-Agent", userAgent)
	if r.Body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	if r.Authorize != nil {
		token, err := r.Authorize(ctx)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
			return nil, err
		}
		return nil, why(ctx, networkError{err})
	}
	if resp.StatusCode/100 == 2 || slices.Contains(r.Also, resp.StatusCode) {
		return resp, nil
	}
	defer resp.Body.Close()
	answer, err := read(resp, maxRefusal)
	if err != nil {
		answer = &Answer{Status: resp.StatusCode, Header: resp.Header} // the status says enough
	}
	return nil, Refusal(answer)
}

func read(resp *http.Response, limit int64) (*Answer, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, networkError{fmt.Errorf("reading the answer: %w", err)}
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return &Answer{resp.StatusCode, resp.Header, body}, nil
}

// repeat calls once until it succeeds, fails for good or was tried often
// enough.
func (c *Client) repeat(ctx context.Context, r Request, once func(context.Context) error) error {
	for n := 1; ; n++ {
		err := once(ctx)
		if err == nil || ctx.Err() != nil || !worthRepeating(err, r.Repeatable) {
			return err
		}
		if n == c.attempts {
			if n > 1 {
				err = fmt.Errorf("after %d attempts: %w", n, err)
			}
			return err
		}
		if !Wait(ctx, backoff(n, err)) {
			if ctx.Err() != nil {
				err = fmt.Errorf("%w; before that: %w", context.Cause(ctx), err)
			}
			return err
		}
	}
}

func worthRepeating(err error, repeatable bool) bool {
	if refused, ok := errors.AsType[*client.Error](err); ok {
		failed := refused.Status >= 500 || refused.Status == http.StatusRequestTimeout
		return refused.Status == http.StatusTooManyRequests || failed && repeatable
	}
	if _, ok := errors.AsType[networkError](err); !ok {
		return false
	}
	op, ok := errors.AsType[*net.OpError](err)
	return repeatable || ok && op.Op == "dial"
}

// backoff returns how long to wait after the nth attempt ended with err: what
// the service asked for and a little more, else an exponentially growing time
// of which half is chance, so that a fleet does not come back at once.
func backoff(n int, err error) time.Duration {
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.RetryAfter > 0 {
		return refused.RetryAfter + rand.N(refused.RetryAfter/10+firstBackoff)
	}
	d := min(maxBackoff, firstBackoff<<min(n-1, 16))
	return d/2 + rand.N(d/2)
}

// Wait waits for d and reports whether it did. It returns false at once if ctx
// would end before.
func Wait(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retryAfter reads a Retry-After header of whole seconds, the only form these
// services use; anything else counts as none.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(strings.TrimSpace(h.Get("Retry-After")), 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}
