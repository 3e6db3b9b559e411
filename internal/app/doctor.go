package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/segment"
	"github.com/berth-iot/berth/store/sqlite"
)

// A Status says how bad a finding is.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, and somebody should look at it
	Broken  Status = "broken"
)

// A Finding is what an examination says about one thing.
type Finding struct {
	Status Status `json:"status"`
	About  string `json:"about"` // a file of the data directory, or "clock", "disk", "listener"
	Text   string `json:"text"`
	Fix    string `json:"fix,omitempty"` // a command, where there is one
}

const (
	renewWithin  = 30 * 24 * time.Hour // of a certificate's end
	clockSlack   = time.Minute         // by which a record may be newer than now
	largeLog     = 256 << 20           // bytes; the server cuts its log at a quarter of it
	lowDisk      = 1 << 30             // bytes
	noDisk       = 100 << 20           // bytes
	probeTimeout = 10 * time.Second
)

// Examine looks at a data directory and, when it runs, at its server, and
// changes nothing. What is fine is told too.
func Examine(ctx context.Context, data string, now time.Time) []Finding {
	return examine(ctx, data, now, freeBytes)
}

func examine(ctx context.Context, data string, now time.Time, free func(dir string) (uint64, error)) []Finding {
	e := &examination{data: data, now: now}
	if !e.directory() {
		return e.findings
	}
	e.configuration()
	e.secrets()
	e.database(ctx)
	if e.snapshot != nil {
		defer e.snapshot.Close()
		e.connections()
		e.references()
		e.elsewhere(ctx)
	}
	e.clock()
	e.certificates()
	e.disk(free)
	if e.listener(ctx) {
		e.webhooks(ctx)
	}
	e.mqttListener(ctx)
	e.nats(ctx)
	return e.findings
}

// An examination is what was found so far, and what later checks go by.
type examination struct {
	data     string
	now      time.Time
	config   Config
	key      *soft.Key        // nil when there is none to be had
	snapshot *sqlite.Snapshot // nil when there is none to be had
	hosts    []string         // the names that the server is called by, without ports
	leaves   []*x509.Certificate
	findings []Finding
}

func (e *examination) say(status Status, about, fix, text string, args ...any) {
	e.findings = append(e.findings, Finding{status, about, fmt.Sprintf(text, args...), fix})
}

func (e *examination) fine(about, text string, args ...any) { e.say(OK, about, "", text, args...) }

func (e *examination) path(name string) string { return filepath.Join(e.data, name) }

// fromBackup is how a lost or spoilt file comes back.
func (e *examination) fromBackup(name string) string {
	return fmt.Sprintf("tar -xf BACKUP.tar -C %s %s", e.data, name)
}

// directory reports whether there is anything to look at.
func (e *examination) directory() bool {
	info, err := os.Stat(e.data)
	switch {
	case err != nil:
		e.say(Broken, e.data, "berth restore BACKUP.tar --data "+e.data, "there is no data directory: %v", err)
		return false
	case !info.IsDir():
		e.say(Broken, e.data, "", "is not a directory")
		return false
	}
	if uid, ours := ownedByUs(info); !ours {
		e.say(Broken, e.data, fmt.Sprintf("sudo -u '#%d' berth doctor --data %s", uid, e.data), "belongs to user %d, and this is run by user %d", uid, os.Geteuid())
		return false
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		e.say(Broken, e.data, "chmod 700 "+e.data, "has mode %04o: others can put files in place of yours", perm)
		return true
	}
	e.fine(e.data, "is its owner's alone to write")
	return true
}

// ownedByUs reports whether a file belongs to the user who runs this, and to
// whom it belongs.
func ownedByUs(info fs.FileInfo) (uid int, ours bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, true
	}
	return int(stat.Uid), int(stat.Uid) == os.Geteuid()
}

// configuration falls back to the defaults, so that the rest can be looked at.
func (e *examination) configuration() {
	c, err := LoadConfig(e.data)
	c.Data = e.data
	if err == nil {
		e.fine(configFile, "has no faults")
	} else {
		fix := e.fromBackup(configFile)
		lines := strings.Split(err.Error(), "\n")
		if len(lines) > 1 { // the first names the file alone
			lines, fix = lines[1:], "${EDITOR:-vi} "+e.path(configFile)
		}
		for _, line := range lines {
			e.say(Broken, configFile, fix, "%s", line)
		}
		if len(c.TLS.Certificates) == 0 {
			c.TLS = DefaultConfig().TLS
		}
	}
	e.config = c
	if _, err := openLinks(c); err != nil {
		e.say(Broken, configFile, "${EDITOR:-vi} "+e.path(configFile), "%v", err)
	}
	for _, h := range c.Hosts {
		e.hosts = append(e.hosts, hub.HostName(h))
	}
}

// secrets checks who can read them.
func (e *examination) secrets() {
	paths := []string{e.path(sealKeyFile), e.path(caKeyFile), e.path(databaseFile), e.path(databaseFile + "-wal"), e.path(databaseFile + "-shm")}
	for _, f := range e.config.TLS.Certificates {
		paths = append(paths, e.config.path(f.Key))
	}
	if f := e.config.Store.PostgresDSNFile; f != "" {
		paths = append(paths, e.config.path(f))
	}
	for _, f := range e.config.NATS.secrets() {
		paths = append(paths, e.config.path(f))
	}
	connections, _ := filepath.Glob(e.path("*.connection")) // the pattern is a good one
	all := true
	for _, path := range append(paths, connections...) {
		info, err := os.Stat(path)
		if err != nil {
			continue // who needs it says so
		}
		if perm := info.Mode().Perm(); perm&0o077 != 0 {
			e.say(Broken, filepath.Base(path), "chmod 600 "+path, "has mode %04o: others can use it", perm)
			all = false
		}
	}
	if all {
		e.fine("secrets", "are their owner's alone to read")
	}
	if _, err := os.Stat(e.path(caKeyFile)); err == nil {
		e.say(Warning, caKeyFile, "mv "+e.path(caKeyFile)+" /SAFE/PLACE/", "is on the server, which does not need it; who has it can pose as the server")
	}
}

func (e *examination) database(ctx context.Context) {
	key, err := soft.Open(e.path(sealKeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.say(Broken, sealKeyFile, e.fromBackup(sealKeyFile), "is missing, and cannot be made again")
	case err != nil:
		if info, failed := os.Stat(e.path(sealKeyFile)); failed != nil || info.Mode().Perm()&0o077 == 0 { // or secrets has told
			e.say(Broken, sealKeyFile, e.fromBackup(sealKeyFile), "%v", err)
		}
	default:
		e.key = key
	}
	if e.config.Store.PostgresDSNFile != "" {
		e.fine("database", "is in PostgreSQL, where this does not look")
		return
	}
	restore := fmt.Sprintf("mv %s %s.old && berth restore BACKUP.tar --data %s", e.data, e.data, e.data)
	s, err := sqlite.OpenSnapshot(e.path(databaseFile))
	if err != nil {
		e.say(Broken, databaseFile, restore, "%v", err)
		return
	}
	e.snapshot = s
	if err := s.Check(ctx, false); err != nil {
		e.say(Broken, databaseFile, restore, "%v", err)
		return
	}
	if have, known := s.Schema(); have < known {
		e.say(Warning, databaseFile, "berth backup before-upgrade.tar --data "+e.data, "has schema %d; at its next start the server makes it %d, for which there is no way back", have, known)
	} else {
		e.fine(databaseFile, "is sound, schema %d", have)
	}
	if e.key != nil {
		if err := s.OpensWith(e.key); err != nil {
			e.say(Broken, sealKeyFile, e.fromBackup(sealKeyFile), "is not the key of %s: %v", databaseFile, err)
			e.key = nil
		} else {
			e.fine(sealKeyFile, "opens the database")
		}
	}
	e.stream(ctx, restore)
	e.tenant()
	if info, err := os.Stat(e.path(databaseFile + "-wal")); err == nil && info.Size() > largeLog {
		e.say(Warning, databaseFile+"-wal", "fuser -v "+e.path(databaseFile), "has %d MiB: something reads the database for long, or the server was killed", info.Size()>>20)
	}
}

// stream reads every message.
func (e *examination) stream(ctx context.Context, restore string) {
	if info, err := os.Stat(e.path(streamDir)); err == nil && info.Mode().Perm()&0o077 != 0 {
		e.say(Broken, streamDir, "chmod 700 "+e.path(streamDir), "has mode %04o: others can read telemetry", info.Mode().Perm())
	}
	stream, err := soundStream(ctx, e.snapshot)
	damage, damaged := errors.AsType[*segment.Damage](err)
	switch {
	case damaged:
		e.say(Broken, streamDir, restore, "%v; the server does not read past it. To give up this file and those before it, stop the server and remove them", damage)
	case err != nil:
		e.say(Broken, streamDir, restore, "%v", err)
	case stream != nil:
		bytes, messages := stream.Size()
		names, _ := stream.Files()
		e.fine(streamDir, "is sound, %d messages in %d MiB, files: %d", messages, bytes>>20, len(names))
	}
}

// tenant checks that the configuration and the database are of one server, and
// notes the names of its hubs.
func (e *examination) tenant() {
	scope, err := device.ParseIDScope(e.config.IDScope)
	if err != nil {
		return // configuration has told
	}
	if has, err := e.snapshot.HasScope(scope); err != nil || !has {
		e.say(Broken, configFile, e.fromBackup(configFile), "id_scope %s is not in the database", scope)
		return
	}
	scopes, err := e.snapshot.ListScopes()
	if err == nil {
		err = useEach(scopes, e.snapshot.Linked, e.tenancy)
	}
	for _, s := range scopes {
		e.sharedKeys(s.ID)
	}
	if err != nil {
		e.say(Broken, databaseFile, "", "reading the scopes and their hubs: %v", err)
	}
}

// tenancy notes the names of a scope and of its hubs.
func (e *examination) tenancy(s provision.Scope, linked []provision.LinkedHub) {
	add := func(host string) {
		if name := hub.HostName(host); !slices.Contains(e.hosts, name) {
			e.hosts = append(e.hosts, name)
		}
	}
	for _, h := range s.Hosts {
		add(h)
	}
	for _, l := range linked {
		if l.Connection == nil { // a hub elsewhere has certificates of its own
			add(l.Host)
		}
	}
	if len(linked) > 0 {
		return
	}
	if string(s.ID) == e.config.IDScope {
		e.say(Warning, "hubs", "berth hub link HOST --data "+e.data, "none is linked, so no device can be assigned")
		return
	}
	e.say(Warning, "hubs", fmt.Sprintf("berth scope connection %s --out FILE, then: berth hub link HOST --connection-string-file FILE", s.ID), "none is linked to the scope %s, so no device of it can be assigned", s.ID)
}

// sharedKeys tells of enrollments of a scope that have a key in common.
func (e *examination) sharedKeys(scope device.IDScope) {
	const named = 5
	groups, err := e.snapshot.ListSharedKeys(scope, named+1)
	switch {
	case err != nil:
		e.say(Broken, databaseFile, "", "looking for shared keys in %s: %v", scope, err)
	case len(groups) == 0:
	default:
		var texts []string
		for _, g := range groups[:min(len(groups), named)] {
			texts = append(texts, strings.Join(g, " "))
		}
		if len(groups) > named {
			texts = append(texts, "and more")
		}
		e.say(Warning, "enrollments", "berth scope shared-keys, then give each device a key of its own", "of %s have a symmetric key in common: %s; who opens one such device can speak for the others", scope, strings.Join(texts, "; "))
	}
}

// connections holds the connection strings against the policies.
func (e *examination) connections() {
	if e.key == nil {
		return
	}
	for _, file := range []string{ServiceConnectionFile, HubConnectionFile} {
		f, err := readSmall(e.path(file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // with the operator, where it is better off
		}
		if err == nil {
			err = e.connects(file, string(f.content))
		}
		if err != nil {
			e.say(Broken, file, e.fromBackup(file), "%v", err)
			continue
		}
		e.fine(file, "has the key of its policy")
	}
}

func (e *examination) connects(file, text string) error {
	part := map[string]string{}
	for p := range strings.SplitSeq(strings.TrimSpace(text), ";") {
		name, value, _ := strings.Cut(p, "=")
		part[strings.ToLower(name)] = value
	}
	host := hub.HostName(part["hostname"])
	if !slices.Contains(e.hosts, host) {
		return fmt.Errorf("is for the host %q, which is none of this server", host)
	}
	key, err := device.ParseSymmetricKey(part["sharedaccesskey"])
	if err != nil {
		return errors.New("has no key in it")
	}
	owner := access.HubOwner(host)
	if file == ServiceConnectionFile {
		owner = access.ScopeOwner(device.IDScope(e.config.IDScope))
	}
	policies, err := e.snapshot.Policies(e.key, owner)
	if err != nil {
		return err
	}
	for _, p := range policies {
		if strings.EqualFold(p.Name, part["sharedaccesskeyname"]) {
			if key.Equal(p.Primary) || key.Equal(p.Secondary) {
				return nil
			}
			return fmt.Errorf("the policy %s has another key", p.Name)
		}
	}
	return fmt.Errorf("there is no policy %q", part["sharedaccesskeyname"])
}

// clock compares the machine's with what is known to have been.
func (e *examination) clock() {
	if e.snapshot == nil {
		return
	}
	newest, err := e.snapshot.Newest()
	switch {
	case err != nil:
		e.say(Broken, databaseFile, "", "reading the newest record: %v", err)
	case newest.After(e.now.Add(clockSlack)):
		e.say(Broken, "clock", "timedatectl set-ntp true", "it is %s here, and the newest record was made at %s", e.now.UTC().Format(time.RFC3339), newest.Format(time.RFC3339))
	default:
		e.fine("clock", "is not behind the newest record")
	}
}

func (e *examination) certificates() {
	authorities := x509.NewCertPool()
	if f, err := readSmall(e.path(caCertFile)); err == nil {
		cas, err := pki.ParseCertificates(f.content)
		if err != nil {
			e.say(Broken, caCertFile, e.fromBackup(caCertFile), "%v", err)
		}
		for _, ca := range cas {
			authorities.AddCert(ca)
			e.validity(caCertFile, ca)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		e.say(Broken, caCertFile, e.fromBackup(caCertFile), "%v", err)
	}
	for _, f := range e.config.TLS.Certificates {
		pair, err := tls.LoadX509KeyPair(e.config.path(f.Certificate), e.config.path(f.Key))
		if err != nil {
			e.say(Broken, f.Certificate, e.fromBackup(f.Certificate+" "+f.Key), "%v", err)
			continue
		}
		e.leaves = append(e.leaves, pair.Leaf)
		if e.validity(f.Certificate, pair.Leaf) {
			e.vouched(f.Certificate, pair, authorities)
		}
		e.names(f.Certificate, pair.Leaf)
	}
}

// validity reports whether a certificate is valid now.
func (e *examination) validity(file string, c *x509.Certificate) bool {
	renew := "put a new certificate into " + e.config.path(file) + " and its key beside it; the server takes it within " + reloadInterval.String()
	switch {
	case file == caCertFile:
		renew = "make a CA and server certificates anew, and give " + caCertFile + " to every client before"
	case e.madeHere(c):
		renew = e.renewal()
	}
	left := c.NotAfter.Sub(e.now)
	days := int(left.Hours() / 24)
	switch {
	case e.now.Before(c.NotBefore):
		e.say(Broken, file, "timedatectl set-ntp true", "is valid from %s; is the clock right?", c.NotBefore.Format(time.RFC3339))
		return false
	case left <= 0:
		e.say(Broken, file, renew, "expired on %s", c.NotAfter.Format(time.DateOnly))
		return false
	case left < renewWithin:
		e.say(Warning, file, renew, "expires in %d days, on %s", days, c.NotAfter.Format(time.DateOnly))
	default:
		e.fine(file, "is valid for %d days", days)
	}
	return true
}

// madeHere reports whether the CA that init made issued a certificate.
func (e *examination) madeHere(leaf *x509.Certificate) bool {
	f, err := readSmall(e.path(caCertFile))
	if err != nil {
		return false
	}
	cas, err := pki.ParseCertificates(f.content)
	return err == nil && slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return leaf.CheckSignatureFrom(ca) == nil })
}

// renewal is how a certificate of that CA is made anew.
func (e *examination) renewal() string {
	if _, err := os.Stat(e.path(caKeyFile)); err != nil {
		return "berth certificate renew --ca-key /SAFE/PLACE/" + caKeyFile + " --data " + e.data
	}
	return "berth certificate renew --data " + e.data
}

// vouched checks that clients have reason to believe a certificate.
func (e *examination) vouched(file string, pair tls.Certificate, authorities *x509.CertPool) {
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	for _, roots := range []*x509.CertPool{authorities, nil} { // nil means the system's
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: e.now}); err == nil {
			return
		}
	}
	e.say(Broken, file, "put the CA's certificate into "+e.path(caCertFile)+", and the chain below it into "+e.config.path(file),
		"neither %s nor a CA of the system vouches for it", caCertFile)
}

func (e *examination) names(file string, leaf *x509.Certificate) {
	var missing []string
	for _, h := range e.hosts {
		if leaf.VerifyHostname(h) != nil {
			missing = append(missing, h)
		}
	}
	if missing != nil {
		fix := "put a certificate with these names into " + e.config.path(file) + ", or correct hosts in " + e.path(configFile) + " or berth hub list"
		if e.madeHere(leaf) {
			fix = e.renewal()
		}
		e.say(Broken, file, fix,
			"lacks the names %s", strings.Join(missing, ", "))
		return
	}
	e.fine(file, "has the names %s", strings.Join(e.hosts, ", "))
}

func freeBytes(dir string) (uint64, error) {
	var s syscall.Statfs_t
	err := syscall.Statfs(dir, &s)
	return uint64(s.Bavail) * uint64(s.Bsize), err
}

func (e *examination) disk(free func(string) (uint64, error)) {
	n, err := free(e.data)
	fix := "du -xh / | sort -h | tail"
	switch {
	case err != nil:
		e.say(Broken, "disk", "", "%v", err)
	case n < noDisk:
		e.say(Broken, "disk", fix, "has %d MiB left: writes fail soon", n>>20)
	case n < lowDisk:
		e.say(Warning, "disk", fix, "has %d MiB left", n>>20)
	default:
		e.fine("disk", "has %d GiB left", n>>30)
	}
}

// listener asks the server whether it serves, as a client would that trusts
// ca.pem.
func (e *examination) listener(ctx context.Context) bool {
	address, ok := e.address(e.config.Listen)
	if !ok {
		return false // configuration has told, or nobody can know where it is
	}
	serve := "berth serve --data " + e.data
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	transport := e.transport(address)
	var presented []*x509.Certificate
	transport.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error { presented = s.PeerCertificates; return nil }
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+e.hosts[0]+"/readyz", nil)
	if err != nil {
		e.say(Broken, "listener", "", "%v", err)
		return false
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		e.unreachable("listener", address, err)
		return false
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		e.say(Broken, "listener", serve, "/readyz on %s answers %s", address, response.Status)
		return false
	}
	if !slices.ContainsFunc(e.leaves, presented[0].Equal) {
		e.say(Warning, "listener", "restart the server", "%s presents another certificate than the files have now", address)
		return true
	}
	e.fine("listener", "%s is ready, as %s", address, e.hosts[0])
	return true
}

// address is where the server can be reached on this machine, if that can be known.
func (e *examination) address(listen string) (address string, ok bool) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" || len(e.hosts) == 0 {
		return "", false
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), true
}

// transport connects to the server, whatever it is called.
func (e *examination) transport(address string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		TLSClientConfig:   &tls.Config{ServerName: e.hosts[0], RootCAs: e.roots(), Time: func() time.Time { return e.now }},
		DisableKeepAlives: true,
	}
}

func (e *examination) unreachable(about, address string, err error) {
	if errors.Is(err, syscall.ECONNREFUSED) {
		e.say(Warning, about, "berth serve --data "+e.data, "nothing listens on %s", address)
		return
	}
	_, port, _ := net.SplitHostPort(address)
	e.say(Broken, about, fmt.Sprintf("ss -ltnp 'sport = :%s'", port), "%s: %v", address, err)
}

// roots are ca.pem, or the system's CAs where that did not make the certificate.
func (e *examination) roots() *x509.CertPool {
	f, err := readSmall(e.path(caCertFile))
	if err != nil {
		return nil
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(f.content)
	for _, leaf := range e.leaves {
		if _, err := leaf.Verify(x509.VerifyOptions{CurrentTime: e.now}); err == nil {
			return nil
		}
	}
	return roots
}
