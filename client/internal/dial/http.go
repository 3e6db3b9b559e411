package dial

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	maxHeader      = 16 << 10 // bytes of an answer's header
	maxConnections = 64       // to one host
)

// HTTPClient returns a client that connects by d, without a proxy, trusts roots
// (nil for those of the system) and follows no redirects.
func HTTPClient(roots *x509.CertPool, d Func) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            d,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // what is counted is what is read
			MaxConnsPerHost:        maxConnections,
			MaxIdleConnsPerHost:    maxConnections / 4,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Redacted is the text of err without the URL's secrets. The error of an HTTP client repeats
// the URL, and one about a malformed answer what the server sent, which may be
// what it was sent.
func Redacted(to *url.URL, err error) string {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	message := err.Error()
	secrets := []string{to.RequestURI(), to.RawQuery}
	for _, values := range to.Query() {
		secrets = append(secrets, values...)
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) }) // one may be in another
	for _, secret := range secrets {
		if len(secret) > 3 {
			message = strings.ReplaceAll(message, secret, "…")
		}
	}
	return fmt.Sprintf("%.300s", message)
}
