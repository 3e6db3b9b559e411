package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"

	"github.com/berth-iot/berth/attest/x509id"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
)

// maxParsed bounds the CA certificates that are kept parsed.
const maxParsed = 256

// authorities are the CA certificates that vouch for the devices of hubs of these
// servers: the verified ones of the scope that a hub belongs to.
type authorities struct {
	store interface {
		HubScope(ctx context.Context, name string) (device.IDScope, error)
		CACertificates(ctx context.Context, scope device.IDScope) ([]*enroll.CACertificate, error)
	}

	mu     sync.Mutex // guards parsed
	parsed map[string]*x509.Certificate
}

// Authorities implements hub.Authorities.
func (a *authorities) Authorities(ctx context.Context, name string) ([]x509id.Authority, error) {
	scope, err := a.store.HubScope(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reading whose hub %s is: %w", name, err)
	}
	if scope == "" {
		return nil, nil
	}
	kept, err := a.store.CACertificates(ctx, scope)
	if err != nil {
		return nil, fmt.Errorf("reading the CA certificates of %s: %w", scope, err)
	}
	var trusted []x509id.Authority
	for _, c := range kept {
		if !c.Verified {
			continue
		}
		certificate, err := a.parse(c.Certificate)
		if err != nil {
			return nil, fmt.Errorf("parsing the CA certificate %q of %s: %w", c.Name, scope, err)
		}
		trusted = append(trusted, x509id.Authority{Name: c.Name, Certificate: certificate})
	}
	return trusted, nil
}

func (a *authorities) parse(der []byte) (*x509.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.parsed[string(der)]; c != nil {
		return c, nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if a.parsed == nil || len(a.parsed) >= maxParsed {
		a.parsed = make(map[string]*x509.Certificate)
	}
	a.parsed[string(der)] = c
	return c, nil
}
