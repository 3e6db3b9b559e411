package admin

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// document is what openapi.json says, read once.
var document = sync.OnceValues(func() (*openapi3.T, error) {
	openapi3filter.RegisterBodyDecoder("application/x-ndjson", openapi3filter.RegisteredBodyDecoder("application/json")) // a line of it
	return openapi3.NewLoader().LoadFromData(openapi)
})

func readDocument(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestTheDocumentIsValidAndServed(t *testing.T) {
	if err := readDocument(t).Validate(t.Context()); err != nil {
		t.Error(err)
	}
	s := start(t)
	if status, answer := s.send("GET", "/berth/v1/openapi.json", "", ""); status != 200 || answer != string(openapi) {
		t.Errorf("%d, %d bytes", status, len(answer))
	}
}

func TestEveryRouteIsInTheDocument(t *testing.T) {
	var served, documented []string
	for _, r := range (front{}).routes() {
		served = append(served, r.Method+" "+r.Pattern)
	}
	names := map[string]string{}
	for path, item := range readDocument(t).Paths.Map() {
		for method, operation := range item.Operations() {
			documented = append(documented, method+" "+path)
			if other, taken := names[operation.OperationID]; taken || operation.OperationID == "" {
				t.Errorf("%s %s: operationId %q is also that of %s", method, path, operation.OperationID, other)
			}
			names[operation.OperationID] = path
		}
	}
	slices.Sort(served)
	slices.Sort(documented)
	if !slices.Equal(served, documented) {
		t.Errorf("served     %q\ndocumented %q", served, documented)
	}
}

// documented holds every exchange with h to the document: what is answered, and
// what is asked where that is granted.
func documented(t *testing.T, h http.Handler) http.Handler {
	doc := readDocument(t)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, answered := &bytes.Buffer{}, &copied{ResponseWriter: w, status: http.StatusOK}
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, sent), r.Body}
		h.ServeHTTP(answered, r)
		if err := compare(doc, r, sent.Bytes(), answered); err != nil {
			t.Errorf("%s %s is answered %d, and the document says: %v", r.Method, r.URL.Path, answered.status, err)
		}
	})
}

// copied keeps a copy of an answer.
type copied struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (c *copied) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *copied) Write(b []byte) (int, error) {
	c.body.Write(b)
	return c.ResponseWriter.Write(b)
}

func (c *copied) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func compare(doc *openapi3.T, r *http.Request, sent []byte, answered *copied) error {
	pattern := r.Pattern // of the route that served it
	if pattern == "" {
		var refusal any
		if err := json.Unmarshal(answered.body.Bytes(), &refusal); err != nil {
			return err
		}
		return doc.Components.Schemas["Error"].Value.VisitJSON(refusal, openapi3.EnableJSONSchema2020())
	}
	item := doc.Paths.Value(pattern)
	call := &openapi3filter.RequestValidationInput{
		Request:    r,
		PathParams: map[string]string{},
		Route:      &routers.Route{Spec: doc, Path: pattern, PathItem: item, Method: r.Method, Operation: item.GetOperation(r.Method)},
		Options: &openapi3filter.Options{
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true,
			RejectWhenRequestBodyNotSpecified: true, SkipSettingDefaults: true,
		},
	}
	for segment := range strings.SplitSeq(pattern, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			call.PathParams[name] = r.PathValue(name)
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(sent))
	if answered.status < 300 {
		if err := openapi3filter.ValidateRequest(r.Context(), call); err != nil {
			return err
		}
	}
	bodies := [][]byte{answered.body.Bytes()}
	if strings.HasPrefix(answered.Header().Get("Content-Type"), "application/x-ndjson") {
		bodies = slices.Collect(bytes.Lines(answered.body.Bytes()))
	}
	for _, body := range bodies {
		answer := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: call, Status: answered.status, Header: answered.Header(), Options: call.Options,
		}
		if err := openapi3filter.ValidateResponse(r.Context(), answer.SetBodyBytes(body)); err != nil {
			return err
		}
	}
	return nil
}

// mediaType is what a client declares the body of a call to be.
func mediaType(path string) string {
	if strings.HasSuffix(path, "/endorsementKeys") {
		return "text/plain; charset=utf-8"
	}
	return "application/json"
}
