package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/limit"
)

// A Request is an HTTP request and the name it goes by in answers, logs and
// decisions.
type Request struct {
	*http.Request
	TrackingID errs.TrackingID
}

// A Route is one operation of an API.
type Route struct {
	// Method is empty for a path that is known and allows no method.
	Method string
	// Pattern is the path: literal segments, which match without case, and
	// {names}, which match any one segment and become the request's path
	// values, percent-decoded.
	Pattern string
	// Serve answers the request or returns an error, not both.
	Serve func(w http.ResponseWriter, r *Request) error
}

// An Edge is where requests come in and errors become answers.
type Edge struct {
	Routes []Route // the first match wins
	// Refuse answers with err in the form of this API. Every error comes here:
	// those of the routes, unknown paths and methods, and recovered panics.
	Refuse func(w http.ResponseWriter, r *Request, err error)

	// Tenant names whose limits a request counts against; nil for its host.
	Tenant func(*http.Request) string
	// Addresses bounds how often one address may call, before anything is read
	// of the request; nil for no bound.
	Addresses limit.By
	// Observe is told of every request when it is over; nil for nobody. route is
	// a pattern, or "none".
	Observe func(method, route string, status int, took time.Duration)

	Logger *slog.Logger
	Random io.Reader // for tracking IDs
	Now    func() time.Time
}

// retryUnavailable is when to come again after a 503 that does not say it
// itself: a database takes seconds to come back.
const retryUnavailable = 5 * time.Second

// Handler returns the edge as a handler. Every answer carries the tracking ID
// in x-ms-request-id, and every request leaves one log line: the route's
// pattern rather than the path, and the private cause of an error.
func (e Edge) Handler() http.Handler {
	var t table
	for _, route := range e.Routes {
		t = append(t, entry{route, strings.Split(strings.TrimPrefix(route.Pattern, "/"), "/")})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve(t, w, r) })
}

func (e Edge) serve(t table, w http.ResponseWriter, hr *http.Request) {
	start := e.Now()
	rec := &recorder{ResponseWriter: w}
	id, err := errs.NewTrackingID(e.Random)
	r := &Request{hr, id}
	SetHeader(rec.Header(), HeaderRequestID, string(id))
	rec.Header().Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")

	tenant := Host
	if e.Tenant != nil {
		tenant = e.Tenant
	}
	if wait := e.Addresses.Take(tenant(hr), limit.Address(hr.RemoteAddr), start); err == nil && wait > 0 {
		err = TooManyRequests(wait)
	}
	var stack []byte
	if err == nil {
		stack, err = guarded(func() error { return t.serve(rec, r) })
	}
	answered := rec.status != 0
	if err != nil && !answered {
		if wait := retryAfter(errs.Public(err)); wait > 0 {
			SetRetryAfter(rec.Header(), wait)
		}
		e.Refuse(rec, r, err)
	}
	e.end(r, rec.status, e.Now().Sub(start), err, stack)
	if err != nil && answered {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
}

// retryAfter is when the caller may come again, zero where that would not help.
func retryAfter(e *errs.Error) time.Duration {
	if e.Kind == errs.Unavailable && e.RetryAfter == 0 {
		return retryUnavailable
	}
	return e.RetryAfter
}

// guarded runs f and turns a panic into an error with the stack it came from.
func guarded(f func() error) (stack []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			stack, err = debug.Stack(), fmt.Errorf("panic: %v", p)
		}
	}()
	return nil, f()
}

// TooManyRequests is the refusal of a call over a rate limit.
func TooManyRequests(wait time.Duration) error {
	e := errs.New(errs.Busy, 0, "Too many requests; try again later.")
	e.RetryAfter = wait
	return e
}

// end logs and counts a request.
func (e Edge) end(r *Request, status int, took time.Duration, err error, stack []byte) {
	route := r.Pattern
	if route == "" {
		route = "none"
	}
	status = max(status, http.StatusOK)
	if e.Observe != nil {
		e.Observe(r.Method, route, status, took)
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method),
		slog.String("route", route),
		slog.Int("status", status),
		slog.Duration("duration", took),
		slog.String("tracking_id", string(r.TrackingID)),
		slog.String("remote", r.RemoteAddr),
	}
	level := slog.LevelInfo
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
		switch kind := errs.KindOf(err); {
		case kind == errs.Internal && !gone(r, err):
			level = slog.LevelError
		case kind == errs.Busy:
			level = slog.LevelDebug // a flood must not become a flood of lines
		}
	}
	if stack != nil {
		attrs = append(attrs, slog.String("stack", string(stack)))
	}
	e.Logger.LogAttrs(r.Context(), level, "http request", attrs...)
}

// gone reports whether err says no more than that the client hung up.
func gone(r *Request, err error) bool {
	return r.Context().Err() != nil && errors.Is(err, context.Canceled)
}

type entry struct {
	Route
	segments []string
}

type table []entry

// serve finds the route of r and lets it answer.
func (t table) serve(w http.ResponseWriter, r *Request) error {
	segments, err := Segments(r.Request)
	if err != nil {
		return err
	}
	known, allowed := false, []string(nil)
	for _, entry := range t {
		if !entry.matches(segments) {
			continue
		}
		if known = true; entry.Method == "" {
			continue
		}
		if entry.Method != r.Method {
			allowed = append(allowed, entry.Method)
			continue
		}
		r.Pattern = entry.Pattern
		for i, part := range entry.segments {
			if name, ok := variable(part); ok {
				r.SetPathValue(name, segments[i])
			}
		}
		return entry.Serve(w, r)
	}
	if !known {
		return errs.New(errs.NotFound, errs.CodeGenericNotFound, "There is no such resource")
	}
	slices.Sort(allowed)
	w.Header().Set("Allow", strings.Join(slices.Compact(allowed), ", "))
	return errs.New(errs.NotAllowed, errs.CodeMethodNotAllowed, "The method is not known for this resource")
}

func (e entry) matches(segments []string) bool {
	if len(segments) != len(e.segments) {
		return false
	}
	for i, part := range e.segments {
		if _, ok := variable(part); !ok && !strings.EqualFold(part, segments[i]) {
			return false
		}
	}
	return true
}

// variable returns the name inside the braces of a pattern's segment.
func variable(part string) (name string, ok bool) {
	name, ok = strings.CutPrefix(part, "{")
	return strings.TrimSuffix(name, "}"), ok
}

// A recorder remembers the status of an answer; zero means that none has
// begun.
type recorder struct {
	http.ResponseWriter
	status int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets [http.ResponseController] reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
