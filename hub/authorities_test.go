package hub_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/attest/x509id"
	"github.com/berth-iot/berth/errs"
	"github.com/berth-iot/berth/hub"
)

// An issuer has a key and a certificate of it.
type issuer struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// issue makes a certificate under by, or a self-signed one where by is nil. adjust
// may be nil.
func (by *issuer) issue(t *testing.T, cn string, adjust func(*x509.Certificate)) *issuer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn},
		NotBefore: t0.AddDate(0, -1, 0), NotAfter: t0.AddDate(0, 1, 0), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if adjust != nil {
		adjust(template)
	}
	parent, signer := template, k
	if by != nil {
		parent, signer = by.Certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{c, k}
}

func asCA(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

func expired(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = t0.AddDate(-1, 0, 0), t0.Add(-time.Second)
}
func notYetValid(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = t0.Add(time.Second), t0.AddDate(1, 0, 0)
}

func chainOf(all ...*issuer) (chain []*x509.Certificate) {
	for _, c := range all {
		chain = append(chain, c.Certificate)
	}
	return chain
}

// caDevice is a device, and caModule one of its modules, that a CA vouches for.
var (
	caDevice = &hub.Identity{Place: hub.Place{Hub: host, ID: "d1"}, GenerationID: "638", Auth: hub.Authentication{Type: hub.AuthCertificateAuthority}}
	caModule = &hub.Identity{Place: hub.Place{Hub: host, ID: "d1", Module: "m1"}, GenerationID: "639", Auth: hub.Authentication{Type: hub.AuthCertificateAuthority}}
	noneOf   = &hub.Identity{Place: hub.Place{Hub: host, ID: "d1"}, GenerationID: "638", Auth: hub.Authentication{Type: hub.AuthNone}}
)

func trusting(cas ...*issuer) (all []x509id.Authority) {
	for _, ca := range cas {
		all = append(all, x509id.Authority{Name: ca.Subject.CommonName, Certificate: ca.Certificate})
	}
	return all
}

func judgeTrusting(authorities []x509id.Authority, d *hub.Identity, at hub.Place, c attest.Credential) attest.Verdict {
	return hub.AuthenticateDevice(hub.Attempt{
		Host: testHost, At: at, Identity: d, Device: caDevice, Policies: policies, Authorities: authorities, Credential: c, Now: t0,
	})
}

func TestCertificatesOfAuthorities(t *testing.T) {
	var self *issuer
	root := self.issue(t, "root", asCA)
	other := self.issue(t, "other", asCA)
	impostor := self.issue(t, "root", asCA) // has the name of the root, and not its key
	oldRoot := self.issue(t, "old root", func(c *x509.Certificate) { asCA(c); expired(c) })
	factory := root.issue(t, "factory", asCA)
	line := factory.issue(t, "line", asCA)
	leafCA := root.issue(t, "no CA", nil)
	narrow := root.issue(t, "narrow", func(c *x509.Certificate) { asCA(c); c.MaxPathLenZero = true })
	elsewhere := root.issue(t, "elsewhere", func(c *x509.Certificate) {
		asCA(c)
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"pumps.example"}
	})
	expiredCA := root.issue(t, "expired", func(c *x509.Certificate) { asCA(c); expired(c) })
	both := trusting(root, other)
	device, module := caDevice.Place, caModule.Place

	for name, c := range map[string]struct {
		at    hub.Place
		trust []x509id.Authority
		chain []*x509.Certificate
	}{
		"signed by the root":                      {device, both, chainOf(root.issue(t, "d1", nil))},
		"with the root presented":                 {device, both, chainOf(root.issue(t, "d1", nil), root)},
		"an intermediate":                         {device, both, chainOf(factory.issue(t, "d1", nil), factory)},
		"two intermediates, in another order":     {device, both, chainOf(line.issue(t, "d1", nil), factory, line)},
		"an intermediate that is itself trusted":  {device, trusting(factory), chainOf(factory.issue(t, "d1", nil))},
		"no extended key usage":                   {device, both, chainOf(root.issue(t, "d1", func(c *x509.Certificate) { c.ExtKeyUsage = nil }))},
		"any extended key usage":                  {device, both, chainOf(root.issue(t, "d1", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }))},
		"a module's name":                         {module, both, chainOf(root.issue(t, "d1/m1", nil))},
		"a second authority":                      {device, both, chainOf(other.issue(t, "d1", nil))},
		"an old authority that is left beside it": {device, trusting(oldRoot, root), chainOf(root.issue(t, "d1", nil))},
	} {
		d := caDevice
		if c.at == module {
			d = caModule
		}
		v := judgeTrusting(c.trust, d, c.at, attest.Credential{Chain: c.chain})
		wantAccepted(t, name, v)
		v = judgeTrusting(c.trust, d, c.at, attest.Credential{Chain: c.chain, Token: token(t, 9, host, t0.Add(time.Hour), "")})
		wantAccepted(t, name+", with some token besides", v)
	}

	for name, c := range map[string]struct {
		at    hub.Place
		d     *hub.Identity
		trust []x509id.Authority
		chain []*x509.Certificate
		check string
	}{
		"an authority that is not trusted":             {device, caDevice, trusting(other), chainOf(root.issue(t, "d1", nil)), "authority"},
		"one that is not, presented":                   {device, caDevice, trusting(other), chainOf(root.issue(t, "d1", nil), root), "authority"},
		"no authorities":                               {device, caDevice, nil, chainOf(root.issue(t, "d1", nil), root), "authority"},
		"self-signed, with the right name":             {device, caDevice, both, chainOf(self.issue(t, "d1", nil)), "authority"},
		"self-signed, before the root":                 {device, caDevice, both, chainOf(self.issue(t, "d1", nil), root), "authority"},
		"signed by its namesake":                       {device, caDevice, both, chainOf(impostor.issue(t, "d1", nil), impostor), "authority"},
		"an intermediate that is not presented":        {device, caDevice, both, chainOf(factory.issue(t, "d1", nil)), "authority"},
		"one of two that is not":                       {device, caDevice, both, chainOf(line.issue(t, "d1", nil), line), "authority"},
		"a trusted leaf behind a stranger's":           {device, caDevice, both, chainOf(self.issue(t, "d1", nil), root.issue(t, "d1", nil)), "authority"},
		"more than anybody has":                        {device, caDevice, both, chainOf(append([]*issuer{root.issue(t, "d1", nil)}, manyOf(root, x509id.MaxChain)...)...), "chain"},
		"another device's":                             {device, caDevice, both, chainOf(root.issue(t, "d2", nil)), "common name"},
		"a name in another case":                       {device, caDevice, both, chainOf(root.issue(t, "D1", nil)), "common name"},
		"a longer name":                                {device, caDevice, both, chainOf(root.issue(t, "d11", nil)), "common name"},
		"no name":                                      {device, caDevice, both, chainOf(root.issue(t, "", nil)), "common name"},
		"the name as an alternative alone":             {device, caDevice, both, chainOf(root.issue(t, "x", func(c *x509.Certificate) { c.DNSNames = []string{"d1"} })), "common name"},
		"the name of its module":                       {device, caDevice, both, chainOf(root.issue(t, "d1/m1", nil)), "common name"},
		"a module with its device's":                   {module, caModule, both, chainOf(root.issue(t, "d1", nil)), "common name"},
		"a module with its own name alone":             {module, caModule, both, chainOf(root.issue(t, "m1", nil)), "common name"},
		"a module with another module's":               {module, caModule, both, chainOf(root.issue(t, "d1/m2", nil)), "common name"},
		"a module with that of another device":         {module, caModule, both, chainOf(root.issue(t, "d2/m1", nil)), "common name"},
		"an expired leaf":                              {device, caDevice, both, chainOf(root.issue(t, "d1", expired)), "path"},
		"a leaf from the future":                       {device, caDevice, both, chainOf(root.issue(t, "d1", notYetValid)), "path"},
		"under an expired intermediate":                {device, caDevice, both, chainOf(expiredCA.issue(t, "d1", nil), expiredCA), "path"},
		"under an expired authority":                   {device, caDevice, trusting(oldRoot), chainOf(oldRoot.issue(t, "d1", nil)), "path"},
		"under a device":                               {device, caDevice, both, chainOf(leafCA.issue(t, "d1", nil), leafCA), "path"},
		"under a CA below one that must not have any":  {device, caDevice, both, chainOf(narrow.issue(t, "sub", asCA).issue(t, "d1", nil), narrow), "authority"},
		"under a CA for other names":                   {device, caDevice, both, chainOf(elsewhere.issue(t, "d1", nil), elsewhere), "name constraints"},
		"for servers":                                  {device, caDevice, both, chainOf(root.issue(t, "d1", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), "path"},
		"itself a CA":                                  {device, caDevice, both, chainOf(root.issue(t, "d1", asCA)), "basic constraints"},
		"no such device":                               {device, nil, both, chainOf(root.issue(t, "d1", nil)), "device"},
		"a device with keys":                           {device, sasDevice, both, chainOf(root.issue(t, "d1", nil)), "authentication type"},
		"a device with pinned certificates":            {device, &hub.Identity{Place: device, Auth: hub.Authentication{Type: hub.AuthSelfSigned, PrimaryThumbprint: attest.Thumbprint(root.Raw)}}, both, chainOf(root.issue(t, "d1", nil), root), "thumbprint"},
		"a device that has no credential":              {device, noneOf, both, chainOf(root.issue(t, "d1", nil)), "authentication type"},
		"a device whose authority is its certificate ": {device, caDevice, both, chainOf(root), "common name"},
	} {
		v := judgeTrusting(c.trust, c.d, c.at, attest.Credential{Chain: c.chain})
		refused := "Unauthorized: the client certificate with SHA-1 thumbprint " + attest.ThumbprintSHA1(c.chain[0].Raw) +
			" and SHA-256 thumbprint " + attest.Thumbprint(c.chain[0].Raw) + " is not registered for this device"
		if v.Accepted() || v.Refusal.Code != errs.CodeDeviceUnauthorized || v.Refusal.Message != refused {
			t.Errorf("%s: accepted, or a stranger can tell it from the others: %v", name, v.Refusal)
			continue
		}
		last := v.Findings[len(v.Findings)-1]
		found := false
		for _, f := range v.Findings {
			found = found || !f.OK && f.Check == c.check
		}
		if last.OK || !found {
			t.Errorf("%s: the findings do not end with what is wrong, or %s is not among them: %+v", name, c.check, v.Findings)
		}
	}

	// A token proves nothing of a device that a CA vouches for, and a good
	// certificate nothing when it is disabled.
	wantRefused(t, "a token", judgeTrusting(both, caDevice, device, attest.Credential{Token: token(t, 1, host, t0.Add(time.Hour), "")}),
		errs.CodeUnauthorizedAccess, "authentication type", "Unauthorized: ")
	off := *caDevice
	off.Disabled = true
	v := hub.AuthenticateDevice(hub.Attempt{Host: testHost, At: module, Identity: caModule, Device: &off, Authorities: both,
		Credential: attest.Credential{Chain: chainOf(root.issue(t, "d1/m1", nil))}, Now: t0})
	wantRefused(t, "a module of a disabled device", v, errs.CodeDeviceDisabled, "status", "The device is disabled")
}

func manyOf(c *issuer, n int) (all []*issuer) {
	for range n {
		all = append(all, c)
	}
	return all
}

// A device without a credential of its own is one that others speak for.
func TestDevicesWithoutACredential(t *testing.T) {
	later := t0.Add(time.Hour)
	wantAccepted(t, "a policy with DeviceConnect", judge(noneOf, "d1", attest.Credential{Token: token(t, 3, host, later, "device")}))
	cert := certificate(t, "d1")
	for name, credential := range map[string]attest.Credential{
		"a policy without it": {Token: token(t, 5, host, later, "service")},
		"a key":               {Token: token(t, 1, host+"/devices/d1", later, "")},
		"a certificate":       {Chain: []*x509.Certificate{cert}},
		"both":                {Chain: []*x509.Certificate{cert}, Token: token(t, 1, host+"/devices/d1", later, "")},
		"nothing":             {},
	} {
		if v := judge(noneOf, "d1", credential); v.Accepted() || v.Refusal.Kind != errs.Denied {
			t.Errorf("%s: %v", name, v.Refusal)
		}
	}
}

// authorityTable says which CAs vouch for the devices of which hub.
type authorityTable map[string][]x509id.Authority

func (a authorityTable) Authorities(_ context.Context, hub string) ([]x509id.Authority, error) {
	return a[hub], nil
}

func TestAuthoritiesOfAnotherHubVouchForNobody(t *testing.T) {
	_, m := open(t)
	var self *issuer
	ours, theirs := self.issue(t, "ours", asCA), self.issue(t, "theirs", asCA)
	s := hub.New(hub.Config{
		Registry: m, Stream: m, Queues: m, Presences: m, Configurations: m, Policies: m, Random: rand.Reader, Now: func() time.Time { return t0 },
		Authorities: authorityTable{host: trusting(ours), "hub2.example": trusting(theirs)},
	})
	if _, err := s.PutDevice(t.Context(), owner, placed("d1", ""), hub.DeviceSpec{Auth: hub.Authentication{Type: hub.AuthCertificateAuthority}}, nil); err != nil {
		t.Fatal(err)
	}
	from, err := s.Authenticate(t.Context(), testHost, "d1", "", attest.Credential{Chain: chainOf(ours.issue(t, "d1", nil))}, hub.Approach{})
	if err != nil || from.Method != `{"scope":"device","type":"x509","issuer":"iothub","acceptingIpFilterRule":null}` {
		t.Errorf("ours: %+v, %v", from, err)
	}
	if _, err := s.Authenticate(t.Context(), testHost, "d1", "", attest.Credential{Chain: chainOf(theirs.issue(t, "d1", nil), theirs)}, hub.Approach{}); errs.KindOf(err) != errs.Denied {
		t.Errorf("another hub's: %v", err)
	}
}
