package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/linkedhub"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/internal/app/cli/manifest"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// A planner looks at what there is and says what has to be done.
type planner func(context.Context, *applier) (step, error)

// isMissing tells that a thing is not there from an error.
func isMissing(err error) bool {
	refused, ok := errors.AsType[*client.Error](err)
	return ok && refused.Status == http.StatusNotFound
}

// readPolicyDocument understands a document about a shared access policy, of the
// scope or of one of its hubs.
func readPolicyDocument(d manifest.Document) (string, planner, error) {
	var want struct {
		Name         string   `json:"name"`
		Hub          string   `json:"hub"` // empty for the scope
		Rights       []string `json:"rights"`
		PrimaryKey   string   `json:"primaryKey"`
		SecondaryKey string   `json:"secondaryKey"`
	}
	if err := strictly(d, &want); err != nil {
		return "", nil, err
	}
	name := want.Name
	if want.Hub != "" {
		name = want.Hub + "/" + want.Name
	}
	if want.Name == "" {
		return "", nil, errors.New("name: is missing")
	}
	if len(want.Rights) == 0 && !d.Absent {
		return "", nil, errors.New("rights: is missing")
	}
	keys := admin.PolicyKeys{Policy: admin.Policy{Name: want.Name, Rights: want.Rights}}
	for _, k := range []struct {
		member, text string
		key          *device.SymmetricKey
	}{{"primaryKey", want.PrimaryKey, &keys.Primary}, {"secondaryKey", want.SecondaryKey, &keys.Secondary}} {
		if k.text == "" {
			continue
		}
		var err error
		if *k.key, err = device.ParseSymmetricKey(k.text); err != nil {
			return "", nil, errors.New(k.member + ": " + err.Error())
		}
	}
	return name, func(ctx context.Context, a *applier) (step, error) {
		return a.planPolicy(ctx, want.Hub, keys, d.Absent)
	}, nil
}

func (a *applier) planPolicy(ctx context.Context, hub string, want admin.PolicyKeys, absent bool) (step, error) {
	all, err := a.management.Policies(ctx, hub)
	if err != nil && !(hub != "" && isMissing(err)) { // a step before may link the hub
		return step{}, err
	}
	i := slices.IndexFunc(all, func(p admin.Policy) bool { return strings.EqualFold(p.Name, want.Name) })
	put := func(ifMatch string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.management.PutPolicy(ctx, hub, want, ifMatch)
			return err
		}
	}
	switch {
	case i < 0 && absent:
		return step{Action: toNone}, nil
	case i < 0:
		return step{Action: toCreate, do: put("")}, nil
	case absent:
		return step{Action: toDelete, do: func(ctx context.Context) error {
			return a.management.DeletePolicy(ctx, hub, want.Name, all[i].ETag)
		}}, nil
	}
	var members []string
	if !sameRights(want.Rights, all[i].Rights) {
		members = append(members, "rights")
	}
	if !want.Primary.IsZero() || !want.Secondary.IsZero() {
		have, err := a.management.PolicyKeys(ctx, hub, want.Name)
		if err != nil {
			return step{}, err
		}
		if !want.Primary.IsZero() && !want.Primary.Equal(have.Primary) {
			members = append(members, "primaryKey")
		}
		if !want.Secondary.IsZero() && !want.Secondary.Equal(have.Secondary) {
			members = append(members, "secondaryKey")
		}
	}
	if members == nil {
		return step{Action: toNone}, nil
	}
	return step{Action: toUpdate, Members: members, do: put(all[i].ETag)}, nil
}

func sameRights(a, b []string) bool {
	in := func(set []string, right string) bool {
		return slices.ContainsFunc(set, func(r string) bool { return strings.EqualFold(r, right) })
	}
	return !slices.ContainsFunc(a, func(r string) bool { return !in(b, r) }) && !slices.ContainsFunc(b, func(r string) bool { return !in(a, r) })
}

// readCADocument understands a document about a CA certificate.
func readCADocument(d manifest.Document) (string, planner, error) {
	var want struct {
		Name        string `json:"name"`
		Certificate string `json:"certificate"` // PEM
		IsVerified  *bool  `json:"isVerified"`
	}
	if err := strictly(d, &want); err != nil {
		return "", nil, err
	}
	if want.Name == "" {
		return "", nil, errors.New("name: is missing")
	}
	var der []byte
	if !d.Absent {
		chain, err := pki.ParseCertificates([]byte(want.Certificate))
		if err != nil {
			return "", nil, errors.New("certificate: " + err.Error())
		}
		if len(chain) != 1 {
			return "", nil, errors.New("certificate: must be one, in PEM")
		}
		der = chain[0].Raw
	}
	return want.Name, func(ctx context.Context, a *applier) (step, error) {
		return a.planCA(ctx, want.Name, der, want.IsVerified, d.Absent)
	}, nil
}

func (a *applier) planCA(ctx context.Context, name string, der []byte, verified *bool, absent bool) (step, error) {
	have, err := a.management.CACertificate(ctx, name)
	put := func(etag string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.management.PutCACertificate(ctx, name, der, verified, etag)
			return err
		}
	}
	switch {
	case err != nil && !isMissing(err):
		return step{}, err
	case err != nil && absent:
		return step{Action: toNone}, nil
	case err != nil:
		return step{Action: toCreate, do: put("")}, nil
	case absent:
		return step{Action: toDelete, do: func(ctx context.Context) error {
			_, err := a.management.DeleteCACertificate(ctx, name, have.ETag)
			return err
		}}, nil
	}
	members := differencesOfCA(der, verified, have)
	if members == nil {
		return step{Action: toNone}, nil
	}
	return step{Action: toUpdate, Members: members, do: put(have.ETag)}, nil
}

func differencesOfCA(der []byte, verified *bool, have *dpsjson.CACertificate) (members []string) {
	if !bytes.Equal(der, have.Properties.Certificate) {
		members = append(members, "certificate")
	}
	if verified != nil && *verified != have.Properties.IsVerified {
		members = append(members, "isVerified")
	}
	return members
}

// readHubDocument understands a document about a linked hub.
func readHubDocument(d manifest.Document) (string, planner, error) {
	read := struct {
		provision.LinkedHub
		ConnectionString string `json:"connectionString"`
		Untested         bool   `json:"untested"` // write a connection string that does not work yet
	}{LinkedHub: provision.LinkedHub{Weight: 1, Allocation: true}}
	if err := strictly(d, &read); err != nil {
		return "", nil, err
	}
	want := admin.Link{Host: read.Host, Weight: read.Weight, Allocation: read.Allocation, Latency: read.Latency, ConnectionString: read.ConnectionString, Untested: read.Untested}
	if want.Latency == nil {
		want.Latency = []provision.Latency{} // what is not in the file is not to be there
	}
	if want.Host == "" {
		return "", nil, errors.New("host: is missing")
	}
	return want.Host, func(ctx context.Context, a *applier) (step, error) {
		return a.planHub(ctx, want, d.Absent)
	}, nil
}

// planHub cannot see whether a key has changed: what is told apart is whose key it
// is.
func (a *applier) planHub(ctx context.Context, want admin.Link, absent bool) (step, error) {
	all, err := a.management.Hubs(ctx)
	if err != nil {
		return step{}, err
	}
	i := slices.IndexFunc(all, func(h admin.Hub) bool { return strings.EqualFold(h.Host, want.Host) })
	link := func(ctx context.Context) error {
		_, err := a.management.LinkHub(ctx, want)
		return err
	}
	switch {
	case i < 0 && absent:
		return step{Action: toNone}, nil
	case i < 0:
		return step{Action: toCreate, do: link}, nil
	case absent:
		return step{Action: toDelete, do: func(ctx context.Context) error { return a.management.UnlinkHub(ctx, want.Host) }}, nil
	}
	var members []string
	if want.Weight != all[i].Weight {
		members = append(members, "weight")
	}
	if want.Allocation != all[i].Allocation {
		members = append(members, "allocation")
	}
	if !slices.Equal(want.Latency, all[i].Latency) {
		members = append(members, "latency")
	}
	if want.ConnectionString != "" {
		_, c, err := linkedhub.ParseConnectionString(want.ConnectionString)
		if err != nil {
			return step{}, fmt.Errorf("connectionString: %w", err)
		}
		if c.Policy != all[i].Policy {
			members = append(members, "connectionString")
		}
	}
	if members == nil {
		return step{Action: toNone}, nil
	}
	want.IfMatch = all[i].ETag
	return step{Action: toUpdate, Members: members, do: link}, nil
}
