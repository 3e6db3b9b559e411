package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/provision"
)

// maxNamed is how many things of one kind are told one by one.
const maxNamed = 5

// each calls f with every scope of the database.
func (e *examination) each(about string, f func(scope device.IDScope) error) {
	scopes, err := e.snapshot.ListScopes()
	for _, s := range scopes {
		if err != nil {
			break
		}
		err = f(s.ID)
	}
	if err != nil {
		e.say(Broken, databaseFile, "", "reading the %s: %v", about, err)
	}
}

// references looks for groups that go by CA certificates which let nobody in.
func (e *examination) references() {
	e.each("CA certificates", func(scope device.IDScope) error {
		broken, err := e.snapshot.BrokenReferences(scope, maxNamed+1)
		for i, r := range broken {
			if i == maxNamed {
				e.say(Warning, "groups", "berth group list", "there are more such groups in %s", scope)
				break
			}
			fault := "is not verified"
			if !r.Kept {
				fault = "is not there"
			}
			e.say(Warning, "groups", fmt.Sprintf("berth ca prove %s --key CA.key --certificate CA.pem", r.CA),
				"%s of %s goes by the CA certificate %s, which %s: no device comes in through it", r.Group, scope, r.CA, fault)
		}
		return err
	})
}

// elsewhere asks every hub elsewhere whether its policy is still good for a link.
func (e *examination) elsewhere(ctx context.Context) {
	links, err := openLinks(e.config)
	if err != nil || e.key == nil {
		return // configuration has told, or secrets
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var (
		asking sync.WaitGroup
		mu     sync.Mutex // guards the findings
	)
	e.each("hubs elsewhere", func(scope device.IDScope) error {
		linked, err := e.snapshot.LinkedElsewhere(e.key, scope)
		for _, h := range linked {
			asking.Go(func() {
				err := links.check(ctx, h)
				mu.Lock()
				defer mu.Unlock()
				e.judge(scope, h, err)
			})
		}
		return err
	})
	asking.Wait()
}

func (e *examination) judge(scope device.IDScope, h provision.LinkedHub, err error) {
	about := "hub " + h.Host
	if err == nil {
		e.fine(about, "takes the connection of %s", scope)
		return
	}
	e.say(Warning, about, fmt.Sprintf("berth hub link %s --hub-connection-string-file FILE", h.Host),
		"is linked to %s, and devices wait that are to go there: %s", scope, strings.TrimPrefix(errs.Public(err).Message, "connectionString: "))
}

// mqttListener makes a TLS connection to the listener for MQTT, if there is one.
func (e *examination) mqttListener(ctx context.Context) {
	const about = "mqtt.listen"
	address, ok := e.address(e.config.MQTT.Listen)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := (&tls.Dialer{Config: e.transport(address).TLSClientConfig}).DialContext(ctx, "tcp", address)
	if err != nil {
		e.unreachable(about, address, err)
		return
	}
	c.Close()
	e.fine(about, "%s takes connections, as %s", address, e.hosts[0])
}

// webhooks asks the server how the webhooks of its own scope do.
func (e *examination) webhooks(ctx context.Context) {
	f, err := readSmall(e.path(ServiceConnectionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return // with the operator, who can ask
	}
	address, _ := e.address(e.config.Listen)
	var server *admin.Client
	if err == nil {
		server, err = admin.New(strings.TrimSpace(string(f.content)), client.HTTP{Transport: e.transport(address), RootCAs: e.roots(), Attempts: 1, Timeout: probeTimeout})
	}
	var failing []provision.WebhookHealth
	if err == nil {
		failing, err = server.Webhooks(ctx)
	}
	if err != nil {
		e.say(Broken, "webhooks", "", "the server does not tell how they do: %v", err)
		return
	}
	for _, h := range failing {
		if h.Failures == 0 {
			continue // it does by now
		}
		what := "enrollment"
		if h.Kind == enroll.Group {
			what = "group"
		}
		e.say(Warning, "webhooks", "berth webhook list",
			"that of the %s %s did not answer as it must, %d times in a row: %s", what, h.ID, h.Failures, h.LastError)
	}
}
