package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/provision"
)

// patient makes a data directory for a server on a port of its own.
func patient(t *testing.T) (data string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	data = filepath.Join(t.TempDir(), "data")
	o := InitOptions{Data: data, Hosts: []string{"localhost"}, Hub: "hub.localhost", Listen: l.Addr().String()}
	if err := Init(t.Context(), o, time.Now()); err != nil {
		t.Fatal(err)
	}
	return data
}

// serve runs the server of a data directory until the test ends.
func serve(t *testing.T, data string) {
	t.Helper()
	config, err := LoadConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), config, "test", slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
}

// reissue puts a server certificate for names into a data directory, by its CA
// or by another one.
func reissue(t *testing.T, data string, another bool, names ...string) {
	t.Helper()
	ca, err := pki.NewRoot("Another CA", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !another {
		ca.Certificate, ca.Key = nil, nil
		certificate, err := os.ReadFile(filepath.Join(data, caCertFile))
		if err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(filepath.Join(data, caKeyFile))
		if err != nil {
			t.Fatal(err)
		}
		chain, err := pki.ParseCertificates(certificate)
		if err != nil {
			t.Fatal(err)
		}
		ca.Certificate = chain[0]
		if ca.Key, err = pki.ParseKey(key); err != nil {
			t.Fatal(err)
		}
	}
	certificate, key := filepath.Join(data, serverCertFile), filepath.Join(data, serverKeyFile)
	err = errors.Join(os.Remove(certificate), os.Remove(key), makeServerCertificate(ca, names, nil, time.Now(), certificate, key))
	if err != nil {
		t.Fatal(err)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b)+text, 0o644)
}

func replaceIn(t *testing.T, path, old, next string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s has no %s", path, old)
	}
	write(t, path, strings.ReplaceAll(string(b), old, next), 0o600)
}

func chmod(mode os.FileMode, name string) func(*testing.T, string) {
	return func(t *testing.T, data string) {
		if err := os.Chmod(filepath.Join(data, name), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, data string) {
		if err := os.Remove(filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func pragma(text string) func(*testing.T, string) {
	return func(t *testing.T, data string) {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(data, databaseFile))
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.Exec("PRAGMA " + text)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// answer listens where the server should, with its certificate, and answers
// every request with status.
func answer(status int) func(*testing.T, string) {
	return func(t *testing.T, data string) {
		config, err := LoadConfig(data)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(config.path(serverCertFile), config.path(serverKeyFile))
		if err != nil {
			t.Fatal(err)
		}
		l, err := tls.Listen("tcp", config.Listen, &tls.Config{Certificates: []tls.Certificate{pair}})
		if err != nil {
			t.Fatal(err)
		}
		s := http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })}
		go s.Serve(l)
		t.Cleanup(func() { s.Close() })
	}
}

func TestTheDoctorFinds(t *testing.T) {
	const day = 24 * time.Hour
	plenty := func(string) (uint64, error) { return 1 << 40, nil }
	left := func(n uint64) func(string) (uint64, error) { return func(string) (uint64, error) { return n, nil } }
	for _, c := range []struct {
		name  string
		plant func(t *testing.T, data string)
		later time.Duration // how long after now the doctor comes
		free  func(string) (uint64, error)
		want  string // "status about: text"
		fix   string
	}{
		{name: "no directory", plant: func(t *testing.T, data string) { os.RemoveAll(data) }, want: "broken DATA: there is no data directory", fix: "berth restore BACKUP.tar --data DATA"},
		{name: "a directory for all to write", plant: chmod(0o777, "."), want: "broken DATA: has mode 0777", fix: "chmod 700 DATA"},

		{name: "a setting that is none", plant: func(t *testing.T, data string) { appendTo(t, filepath.Join(data, configFile), "\n[logg]\n") }, want: "broken berth.toml: logg: is not a setting", fix: "DATA/berth.toml"},
		{name: "no TOML", plant: func(t *testing.T, data string) { write(t, filepath.Join(data, configFile), "=", 0o644) }, want: "broken berth.toml: ", fix: "berth.toml"},
		{name: "no configuration", plant: remove(configFile), want: "broken berth.toml: ", fix: "berth.toml"},
		{name: "another server's configuration", plant: func(t *testing.T, data string) {
			replaceIn(t, filepath.Join(data, configFile), `id_scope = "0ne`, `id_scope = "0neffffffff" #`)
		}, want: "broken berth.toml: id_scope 0neffffffff is not in the database", fix: "tar -xf BACKUP.tar -C DATA berth.toml"},

		{name: "a server key for all to read", plant: chmod(0o644, sealKeyFile), want: "broken server.key: has mode 0644", fix: "chmod 600 DATA/server.key"},
		{name: "a CA key for all to read", plant: chmod(0o604, caKeyFile), want: "broken ca.key: has mode 0604", fix: "chmod 600 DATA/ca.key"},
		{name: "a certificate key for the group to read", plant: chmod(0o640, serverKeyFile), want: "broken tls.key: has mode 0640", fix: "chmod 600 DATA/tls.key"},
		{name: "a connection for all to read", plant: chmod(0o644, HubConnectionFile), want: "broken hub.connection: has mode 0644", fix: "chmod 600 DATA/hub.connection"},
		{name: "a database for all to read", plant: chmod(0o644, databaseFile), want: "broken berth.db: has mode 0644", fix: "chmod 600 DATA/berth.db"},
		{name: "the CA's key", plant: func(*testing.T, string) {}, want: "warning ca.key: is on the server", fix: "mv DATA/ca.key /SAFE/PLACE/"},

		{name: "no server key", plant: remove(sealKeyFile), want: "broken server.key: is missing", fix: "tar -xf BACKUP.tar -C DATA server.key"},
		{name: "a spoilt server key", plant: func(t *testing.T, data string) { write(t, filepath.Join(data, sealKeyFile), "secret", 0o600) }, want: "broken server.key: ", fix: "tar -xf BACKUP.tar"},
		{name: "another server key", plant: newKey, want: "broken server.key: is not the key of berth.db", fix: "tar -xf BACKUP.tar"},
		{name: "no database", plant: remove(databaseFile), want: "broken berth.db: ", fix: "berth restore"},
		{name: "a damaged database", plant: func(t *testing.T, data string) { damage(t, filepath.Join(data, databaseFile)) }, want: "broken berth.db: ", fix: "berth restore"},
		{name: "a newer database", plant: pragma("user_version = 999"), want: "broken berth.db: ", fix: "berth restore"},
		{name: "an older database", plant: pragma("user_version = 2"), want: "warning berth.db: has schema 2", fix: "berth backup before-upgrade.tar --data DATA"},
		{name: "a damaged message", plant: damageMessage, want: "broken berth.db-stream: DATA/berth.db-stream/00000000000000000001.log is damaged at byte ", fix: "berth restore"},
		{name: "no messages", plant: func(t *testing.T, data string) { os.RemoveAll(filepath.Join(data, streamDir)) }, want: "broken berth.db-stream: ", fix: "berth restore"},
		{name: "messages for all to read", plant: chmod(0o755, streamDir), want: "broken berth.db-stream: has mode 0755", fix: "chmod 700 DATA/berth.db-stream"},
		{name: "a long log", plant: func(t *testing.T, data string) {
			write(t, filepath.Join(data, databaseFile+"-wal"), "", 0o600)
			if err := os.Truncate(filepath.Join(data, databaseFile+"-wal"), largeLog+1<<20); err != nil {
				t.Fatal(err)
			}
		}, want: "warning berth.db-wal: has 257 MiB", fix: "fuser -v DATA/berth.db"},
		{name: "no hub", plant: func(t *testing.T, data string) {
			s := openRestored(t, data)
			scopes, err := s.ListScopes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.DeleteLinkedHub(t.Context(), scopes[0].ID, "hub.localhost"); err != nil {
				t.Fatal(err)
			}
		}, want: "warning hubs: none is linked", fix: "berth hub link HOST --data DATA"},

		{name: "another server's connection", plant: func(t *testing.T, data string) {
			b, err := os.ReadFile(filepath.Join(patient(t), ServiceConnectionFile))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(data, ServiceConnectionFile), string(b), 0o600)
		}, want: "broken service.connection: the policy provisioningserviceowner has another key", fix: "tar -xf BACKUP.tar -C DATA service.connection"},
		{name: "a connection of no policy", plant: func(t *testing.T, data string) {
			replaceIn(t, filepath.Join(data, HubConnectionFile), hubOwner, "nobody")
		}, want: `broken hub.connection: there is no policy "nobody"`},
		{name: "a connection to elsewhere", plant: func(t *testing.T, data string) {
			replaceIn(t, filepath.Join(data, HubConnectionFile), "hub.localhost", "hub.example.com")
		}, want: `broken hub.connection: is for the host "hub.example.com"`},
		{name: "a connection without a key", plant: func(t *testing.T, data string) {
			write(t, filepath.Join(data, HubConnectionFile), "HostName=hub.localhost", 0o600)
		}, want: "broken hub.connection: has no key in it"},

		{name: "a clock that went back", plant: func(t *testing.T, data string) {
			m := &hub.Message{Hub: "hub.localhost", DeviceID: "d", Enqueued: time.Now().Add(time.Hour)}
			if err := openRestored(t, data).Append(t.Context(), []*hub.Message{m}); err != nil {
				t.Fatal(err)
			}
		}, want: "broken clock: it is ", fix: "timedatectl set-ntp true"},
		{name: "a clock before the certificate", plant: func(*testing.T, string) {}, later: -365 * day, want: "broken tls.pem: is valid from", fix: "timedatectl set-ntp true"},
		{name: "an expired certificate", plant: func(*testing.T, string) {}, later: pki.LeafLifetime + day, want: "broken tls.pem: expired on", fix: "berth certificate renew --data DATA"},
		{name: "a certificate that expires", plant: func(*testing.T, string) {}, later: pki.LeafLifetime - 20*day - time.Hour, want: "warning tls.pem: expires in 20 days", fix: "berth certificate renew --data DATA"},
		{name: "an expired CA", plant: func(*testing.T, string) {}, later: pki.AuthorityLifetime + day, want: "broken ca.pem: expired on", fix: "anew"},
		{name: "a key of another certificate", plant: func(t *testing.T, data string) {
			b, err := os.ReadFile(filepath.Join(data, caKeyFile))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(data, serverKeyFile), string(b), 0o600)
		}, want: "broken tls.pem: ", fix: "tar -xf BACKUP.tar -C DATA tls.pem tls.key"},
		{name: "a certificate without the host", plant: func(t *testing.T, data string) { reissue(t, data, false, "hub.localhost") }, want: "broken tls.pem: lacks the names localhost", fix: "berth certificate renew --data DATA"},
		{name: "a certificate without a linked hub", plant: func(t *testing.T, data string) {
			s := openRestored(t, data)
			scopes, err := s.ListScopes(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.PutLinkedHub(t.Context(), scopes[0].ID, provision.LinkedHub{Host: "north.example.com:8443", Weight: 1}); err != nil {
				t.Fatal(err)
			}
		}, want: "broken tls.pem: lacks the names north.example.com", fix: "berth certificate renew --data DATA"},
		{name: "a certificate of an unknown CA", plant: func(t *testing.T, data string) { reissue(t, data, true, "localhost", "hub.localhost") }, want: "broken tls.pem: neither ca.pem nor", fix: "DATA/ca.pem"},
		{name: "a CA file that holds none", plant: func(t *testing.T, data string) { write(t, filepath.Join(data, caCertFile), "x", 0o644) }, want: "broken ca.pem: ", fix: "tar -xf BACKUP.tar -C DATA ca.pem"},

		{name: "a full disk", plant: func(*testing.T, string) {}, free: left(5 << 20), want: "broken disk: has 5 MiB left: writes fail soon", fix: "du "},
		{name: "a disk that fills", plant: func(*testing.T, string) {}, free: left(500 << 20), want: "warning disk: has 500 MiB left", fix: "du "},
		{name: "a disk that does not say", plant: func(*testing.T, string) {}, free: func(string) (uint64, error) { return 0, errors.New("gone") }, want: "broken disk: gone"},

		{name: "no server", plant: func(*testing.T, string) {}, want: "warning listener: nothing listens on 127.0.0.1:", fix: "berth serve --data DATA"},
		{name: "a server that is not ready", plant: answer(503), want: "broken listener: /readyz on 127.0.0.1:", fix: "berth serve --data DATA"},
		{name: "a server with the certificate of yesterday", plant: func(t *testing.T, data string) {
			answer(200)(t, data)
			reissue(t, data, false, "localhost", "hub.localhost")
		}, want: "warning listener: 127.0.0.1:", fix: "restart the server"},
		{name: "a server that nobody trusts", plant: func(t *testing.T, data string) {
			reissue(t, data, true, "localhost", "hub.localhost")
			serve(t, data)
		}, want: "broken listener: 127.0.0.1:", fix: "ss -ltnp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := patient(t)
			c.plant(t, data)
			free := plenty
			if c.free != nil {
				free = c.free
			}
			findings := examine(t.Context(), data, time.Now().Add(c.later), free)
			status, rest, _ := strings.Cut(strings.ReplaceAll(c.want, "DATA", data), " ")
			about, text, _ := strings.Cut(rest, ": ")
			for _, f := range findings {
				if string(f.Status) == status && f.About == about && strings.Contains(f.Text, text) && strings.Contains(f.Fix, strings.ReplaceAll(c.fix, "DATA", data)) {
					return
				}
			}
			t.Errorf("not found: %s (%s)\n%s", c.want, c.fix, told(findings))
		})
	}
}

func told(findings []Finding) string {
	var text strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&text, "%s %s: %s\n    %s\n", f.Status, f.About, f.Text, f.Fix)
	}
	return text.String()
}

func TestTheDoctorIsForTheServersUser(t *testing.T) {
	data, owner := "/", 0
	if os.Geteuid() == 0 {
		data, owner = patient(t), 4321
		if err := os.Chown(data, owner, -1); err != nil {
			t.Fatal(err)
		}
	}
	findings := Examine(t.Context(), data, time.Now())
	if len(findings) != 1 || findings[0].Status != Broken || findings[0].Fix != fmt.Sprintf("sudo -u '#%d' berth doctor --data %s", owner, data) {
		t.Errorf("found:\n%s", told(findings))
	}
}

// A server that is well has one thing to look at, and nothing is told of what
// is secret.
func TestTheDoctorIsContent(t *testing.T) {
	data := patient(t)
	serve(t, data)
	key, err := os.ReadFile(filepath.Join(data, ServiceConnectionFile))
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(strings.TrimSpace(string(key)), "SharedAccessKey=")
	findings := Examine(t.Context(), data, time.Now())
	asked := false
	for _, f := range findings {
		if f.Status != OK && f.About != caKeyFile && f.About != "disk" { // the machine's own disk may be low
			t.Errorf("%s %s: %s", f.Status, f.About, f.Text)
		}
		if strings.Contains(f.Text+f.Fix, secret) {
			t.Errorf("%s shows a key", f.About)
		}
		asked = asked || f.About == "listener" && strings.Contains(f.Text, "is ready, as localhost")
	}
	if !asked {
		t.Errorf("the listener was not asked:\n%s", told(findings))
	}
}
