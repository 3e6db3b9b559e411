package client

import (
	"crypto/x509"
	"net/http"
	"time"
)

// HTTP says how a client reaches its service. The zero value is good for a
// service on the internet.
type HTTP struct {
	// RootCAs are the authorities that may vouch for the server; nil means the
	// system's.
	RootCAs *x509.CertPool
	// Transport is what connections are made with; nil means like
	// http.DefaultTransport, which honours the proxy variables of the
	// environment. The client works with a copy in which it sets the roots, if
	// given, the client certificate, if there is one, and TLS 1.2 as the
	// oldest version.
	Transport *http.Transport
	// Attempts is how often one request is made before giving up on network
	// errors and on answers 408, 429 and 5xx; zero means 5.
	Attempts int
	// Timeout bounds one attempt; zero means a minute.
	Timeout time.Duration
	// Warn is given the text of each Warning header (RFC 7234 §5.5) of a call that
	// succeeded; nil for nobody. It may be called by several goroutines at once.
	Warn func(text string)
}
