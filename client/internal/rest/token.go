package rest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/sas"
)

// lifetime is how long a token is good for. A new one is made when a quarter
// of it is left.
const lifetime = time.Hour

// Tokens makes tokens and hands each out until shortly before it expires. It is
// safe for concurrent use.
type Tokens struct {
	// Sign makes a token that is good until expiry.
	Sign func(ctx context.Context, expiry time.Time) (string, error)

	mu     sync.Mutex // guards the rest, and is held while signing
	token  func() string
	expiry time.Time
}

// Token returns a token with some life left.
func (t *Tokens) Token(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != nil && time.Until(t.expiry) > lifetime/4 {
		return t.token(), nil
	}
	// Without its monotonic part the expiry follows a clock that is set.
	expiry := time.Now().Add(lifetime).Round(0)
	token, err := t.Sign(ctx, expiry)
	if err != nil {
		return "", err
	}
	t.token, t.expiry = func() string { return token }, expiry
	return token, nil
}

// A ConnectionString is an operator's access to a service. No format verb shows
// its secret.
type ConnectionString struct {
	Host    string // HostName, with an optional :port
	KeyName string // SharedAccessKeyName

	key   device.SymmetricKey
	token func() string // SharedAccessSignature, or nil
}

// ParseConnectionString reads
//
//	HostName={host};SharedAccessKeyName={policy};SharedAccessKey={base64}
//
// in any order, or with SharedAccessSignature={token} instead of the last two.
// No error repeats any of it.
func ParseConnectionString(s string) (ConnectionString, error) {
	var c ConnectionString
	seen := map[string]bool{}
	for part := range strings.SplitSeq(strings.Trim(strings.TrimSpace(s), ";"), ";") {
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(name)
		switch {
		case !ok || value == "":
			return ConnectionString{}, errors.New("connection string: a part is not name=value")
		case seen[name]:
			return ConnectionString{}, errors.New("connection string: a part is given twice")
		}
		seen[name] = true
		if err := c.set(name, value); err != nil {
			return ConnectionString{}, fmt.Errorf("connection string: %w", err)
		}
	}
	switch {
	case c.Host == "":
		return ConnectionString{}, errors.New("connection string: HostName is missing")
	case (c.token == nil) == c.key.IsZero():
		return ConnectionString{}, errors.New("connection string: needs either SharedAccessKey or SharedAccessSignature")
	case !c.key.IsZero() && c.KeyName == "":
		return ConnectionString{}, errors.New("connection string: SharedAccessKeyName is missing")
	}
	return c, nil
}

func (c *ConnectionString) set(name, value string) error {
	var err error
	switch name {
	case "hostname":
		if CheckHost(value) != nil {
			return errors.New("HostName is not a host name with an optional :port")
		}
		c.Host = value
	case "sharedaccesskeyname":
		c.KeyName = value
	case "sharedaccesskey":
		if c.key, err = device.ParseSymmetricKey(value); err != nil {
			return fmt.Errorf("SharedAccessKey %w", err)
		}
	case "sharedaccesssignature":
		if _, err = sas.Parse(value); err != nil {
			return fmt.Errorf("SharedAccessSignature: %w", err)
		}
		c.token = func() string { return value }
	case "deviceid":
		return errors.New("this one is a device's; an operator's has a SharedAccessKeyName")
	default:
		return errors.New("has a part besides HostName, SharedAccessKeyName, SharedAccessKey and SharedAccessSignature")
	}
	return nil
}

// Key returns the policy's key, which is zero where there is a token instead.
func (c ConnectionString) Key() device.SymmetricKey { return c.key }

// Authorize returns the function that signs requests to the host.
func (c ConnectionString) Authorize() func(context.Context) (string, error) {
	if c.token != nil {
		return func(context.Context) (string, error) { return c.token(), nil }
	}
	t := &Tokens{Sign: func(_ context.Context, expiry time.Time) (string, error) {
		return sas.Sign(c.key.Bytes(), Hostname(c.Host), expiry, c.KeyName), nil
	}}
	return t.Token
}
