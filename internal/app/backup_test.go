package app

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
	"github.com/berth-iot/berth/store/sqlite"
)

// backupDir tells the test binary to begin a backup of that directory into the
// file that is its argument, and to wait in the middle of it.
const backupDir = "BERTH_TEST_BACKUP_DIR"

func TestMain(m *testing.M) {
	if data := os.Getenv(backupDir); data != "" {
		_, _, err := Backup(context.Background(), BackupOptions{Data: data, File: os.Args[1], Progress: func(int64, int64) {
			fmt.Println("writing")
			io.Copy(io.Discard, os.Stdin) // ends with the test, if that does not kill us
			os.Exit(1)
		}}, time.Now())
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// makeData makes a data directory that no server has open.
func makeData(t *testing.T) string {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	if err := Init(t.Context(), InitOptions{Data: data, Hosts: []string{"localhost", "127.0.0.1"}, Listen: "127.0.0.1:0"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	return data
}

func backup(t *testing.T, data string) (file string, m *Manifest) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "backup.tar")
	m, left, err := Backup(t.Context(), BackupOptions{Data: data, File: file, Version: "test"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if left != nil {
		t.Errorf("left out: %q", left)
	}
	return file, m
}

func restore(t *testing.T, file string) (data string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "restored")
	if _, err := Restore(t.Context(), RestoreOptions{File: file, Data: data}); err != nil {
		t.Fatal(err)
	}
	return data
}

// Whatever was acknowledged before a backup began is in what is restored from
// it, and the restored directory serves.
func TestABackupUnderLoadLacksNothing(t *testing.T) {
	config, server, _ := start(t)
	if _, err := server.store.Trim(t.Context(), hub.Retention{Bytes: 2 << 20}); err != nil { // files of 256 KiB
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var acknowledged atomic.Uint64
	enough := make(chan struct{})
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				m := &hub.Message{Hub: "localhost", DeviceID: "d", Enqueued: time.Now(), Body: make([]byte, 2000)}
				if err := server.store.Append(context.Background(), []*hub.Message{m}); err != nil {
					t.Error(err)
					return
				}
				if acknowledged.Add(1) == 500 {
					close(enough)
				}
			}
		})
	}
	<-enough
	before := acknowledged.Load()
	file, m := backup(t, config.Data)
	stop()
	load.Wait()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive has mode %v, %v", info.Mode(), err)
	}
	if m.IDScope != config.IDScope || m.Version != "test" {
		t.Errorf("the manifest is %+v", m)
	}
	data := restore(t, file)
	store := openRestored(t, data)
	last, err := store.LastSequence(t.Context())
	if err != nil || last < before {
		t.Errorf("%d messages were acknowledged before the backup; the last one restored is %d, %v", before, last, err)
	}
	all, err := store.Read(t.Context(), "localhost", 0, int(last)+1)
	if err != nil || len(all) != int(last) {
		t.Errorf("%d messages of %d were restored, %v", len(all), last, err)
	}
}

func openRestored(t *testing.T, data string) *sqlite.Store {
	t.Helper()
	key, err := soft.Open(filepath.Join(data, sealKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), filepath.Join(data, databaseFile), key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// What is restored is what was backed up: every row, every file, every mode.
func TestWhatIsRestoredIsWhatWasThere(t *testing.T) {
	data := makeData(t)
	if err := os.Remove(filepath.Join(data, caKeyFile)); err != nil { // moved off the server
		t.Fatal(err)
	}
	scope := furnish(t, data, "far.example")
	file, _ := backup(t, data)
	restored := restore(t, file)
	if before, after := dump(t, data), dump(t, restored); before != after {
		t.Errorf("the database was\n%s\nand is\n%s", before, after)
	}
	for _, dir := range []string{data, restored} { // what the engine and the store leave beside the database
		for _, suffix := range []string{"-wal", "-shm", ".lock"} {
			os.Remove(filepath.Join(dir, databaseFile+suffix))
		}
	}
	if before, after := listing(t, data), listing(t, restored); !slices.Equal(before, after) {
		t.Errorf("the files were\n%s\nand are\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	again, _ := backup(t, restored)
	if _, err := os.Stat(again); err != nil {
		t.Error(err)
	}

	// The server that comes up with it can go on: the hub elsewhere opens, and what
	// waits for it is due.
	s := openRestored(t, restored)
	linked, err := s.Linked(t.Context(), scope)
	far := slices.IndexFunc(linked, func(h provision.LinkedHub) bool { return h.Host == "far.example" })
	if err != nil || far < 0 || linked[far].Connection.Key.Base64() != deviceKey {
		t.Errorf("%+v, %v", linked, err)
	}
	due, err := s.DueRegistrations(t.Context(), time.Now().Add(2*time.Hour), 10)
	if err != nil || len(due) != 1 || due[0].ID != "waits" {
		t.Errorf("%+v, %v", due, err)
	}
}

// dump returns every row of every table.
func dump(t *testing.T, data string) string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(data, databaseFile)+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var text strings.Builder
	for _, table := range column(t, db, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name") {
		columns := column(t, db, "SELECT 'quote('||name||')' FROM pragma_table_info('"+table+"')")
		for _, row := range column(t, db, "SELECT concat_ws(' ', "+strings.Join(columns, ", ")+") FROM "+table+" ORDER BY 1") {
			fmt.Fprintf(&text, "%s: %s\n", table, row)
		}
	}
	if !strings.Contains(text.String(), "policy: ") {
		t.Fatalf("this is no database of a server:\n%s", &text)
	}
	return text.String()
}

func column(t *testing.T, db *sql.DB, query string) (values []string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	return values
}

// listing returns the path, mode and content of each file, of the database's
// the path and mode: to close them would take the locks of a server in this process.
func listing(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprint(strings.TrimPrefix(path, dir), " ", info.Mode())
		if !d.IsDir() && !strings.HasPrefix(d.Name(), databaseFile) {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + hex.EncodeToString(b)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestAKilledBackupLeavesNoArchive(t *testing.T) {
	config, server, _ := start(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "backup.tar")
	child := exec.Command(program, file)
	child.Env = append(os.Environ(), backupDir+"="+config.Data)
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	said, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(said).ReadString('\n')
	if line != "writing\n" {
		t.Errorf("the backup said %q, %v", line, err)
	}
	parts := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if now := parts(); len(now) != 1 || now[0] == file {
		t.Errorf("while it is written there is %q", now)
	}
	// Nobody takes the part of a backup that lives, and two do not hinder each other.
	other := filepath.Join(dir, "other.tar")
	if _, _, err := Backup(t.Context(), BackupOptions{Data: config.Data, File: other}, time.Now()); err != nil {
		t.Error(err)
	}
	if now := parts(); len(now) != 2 {
		t.Errorf("beside a second backup there is %q", now)
	}
	child.Process.Kill()
	child.Wait()
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the kill the archive is there: %v", err)
	}
	if err := server.store.Append(t.Context(), []*hub.Message{{Hub: "localhost", DeviceID: "d", Enqueued: time.Now()}}); err != nil {
		t.Errorf("after the kill the server does not write: %v", err)
	}
	if _, _, err := Backup(t.Context(), BackupOptions{Data: config.Data, File: file}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if now := parts(); !slices.Equal(now, []string{file, other}) {
		t.Errorf("after the next backup there is %q", now)
	}
	restore(t, file)
}

func TestBackupRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, data, file string)
		want  string
	}{
		{"an archive that is there", func(t *testing.T, data, file string) { write(t, file, "precious", 0o600) }, "overwrites nothing"},
		{"a directory that is not there", func(t *testing.T, data, file string) { os.RemoveAll(data) }, "berth init --data"},
		{"another server key", func(t *testing.T, data, file string) { newKey(t, data) }, "another server key"},
		{"a key that others can read", func(t *testing.T, data, file string) { os.Chmod(filepath.Join(data, sealKeyFile), 0o644) }, "chmod 600"},
		{"a certificate without its key", func(t *testing.T, data, file string) { os.Remove(filepath.Join(data, serverKeyFile)) }, serverKeyFile},
		{"another certificate's key", func(t *testing.T, data, file string) {
			b, err := os.ReadFile(filepath.Join(data, caKeyFile))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(data, serverKeyFile), string(b), 0o600)
		}, "being renewed"},
		{"a damaged database", func(t *testing.T, data, file string) { damage(t, filepath.Join(data, databaseFile)) }, databaseFile},
		{"no database", func(t *testing.T, data, file string) { os.Remove(filepath.Join(data, databaseFile)) }, databaseFile},
		{"a damaged message", func(t *testing.T, data, file string) { damageMessage(t, data) }, streamDir + "/00000000000000000001.log is damaged at byte"},
		{"no messages", func(t *testing.T, data, file string) { os.RemoveAll(filepath.Join(data, streamDir)) }, streamDir + ": no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, dir := makeData(t), t.TempDir()
			file := filepath.Join(dir, "backup.tar")
			c.spoil(t, data, file)
			before := listing(t, dir)
			_, _, err := Backup(t.Context(), BackupOptions{Data: data, File: file}, time.Now())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if after := listing(t, dir); !slices.Equal(before, after) {
				t.Errorf("it left %q", after)
			}
		})
	}
}

func TestABackupNamesWhatItLeavesOut(t *testing.T) {
	data, elsewhere := makeData(t), t.TempDir()
	config, err := os.ReadFile(filepath.Join(data, configFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{serverCertFile, serverKeyFile} {
		if err := os.Rename(filepath.Join(data, name), filepath.Join(elsewhere, name)); err != nil {
			t.Fatal(err)
		}
		config = bytes.ReplaceAll(config, []byte(`"`+name+`"`), []byte(`"`+filepath.Join(elsewhere, name)+`"`))
	}
	write(t, filepath.Join(data, configFile), string(config), 0o644)
	_, left, err := Backup(t.Context(), BackupOptions{Data: data, File: filepath.Join(t.TempDir(), "b.tar")}, time.Now())
	if want := []string{filepath.Join(elsewhere, serverCertFile), filepath.Join(elsewhere, serverKeyFile)}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left out %q, %v; want %q", left, err, want)
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T, data string) {
	t.Helper()
	path := filepath.Join(data, sealKeyFile)
	if err := errors.Join(os.Remove(path), soft.Create(path, rand.Reader)); err != nil {
		t.Fatal(err)
	}
}

// damage spoils all but the first two pages of a database.
func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 8192; i < len(b); i++ {
		b[i] ^= 0x5a
	}
	write(t, path, string(b), 0o600)
}

// appendMessages puts messages into a data directory that no server has open.
func appendMessages(t *testing.T, data string) {
	t.Helper()
	s := openRestored(t, data)
	for range 9 {
		if err := s.Append(t.Context(), []*hub.Message{{Hub: "localhost", DeviceID: "d", Enqueued: time.Now(), Body: make([]byte, 100)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// damageMessage puts messages into a data directory and flips a bit in one of
// the first.
func damageMessage(t *testing.T, data string) {
	t.Helper()
	appendMessages(t, data)
	path := filepath.Join(data, streamDir, "00000000000000000001.log")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[300] ^= 4
	write(t, path, string(b), 0o600)
}

// An entry is one of an archive.
type entry struct {
	tar.Header
	content []byte
}

func readArchive(t *testing.T, file string) (entries []entry) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{*h, content})
	}
}

func writeArchive(t *testing.T, entries []entry) (file string) {
	t.Helper()
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(e.content))
		}
		if err := out.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "spoilt.tar")
	write(t, file, b.String(), 0o600)
	return file
}

// agree makes the manifest agree with the entries before it, as whoever forges
// an archive would.
func agree(entries []entry, change func(*Manifest)) []entry {
	var m Manifest
	last := &entries[len(entries)-1]
	if err := json.Unmarshal(last.content, &m); err != nil {
		panic(err)
	}
	m.Files = nil
	for _, e := range entries[:len(entries)-1] {
		sum := sha256.Sum256(e.content)
		m.Files = append(m.Files, ManifestFile{Name: e.Name, Size: int64(len(e.content)), SHA256: hex.EncodeToString(sum[:])})
	}
	if change != nil {
		change(&m)
	}
	last.content, _ = json.Marshal(m)
	return entries
}

func regular(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600}, []byte(content)}
}

func TestRestoreRefuses(t *testing.T) {
	streamFile := path.Join(streamDir, "00000000000000000001.log")
	data := makeData(t)
	appendMessages(t, data)
	good, _ := backup(t, data)
	of := func(entries []entry, name string) *entry {
		return &entries[slices.IndexFunc(entries, func(e entry) bool { return e.Name == name })]
	}
	without := func(entries []entry, name string) []entry {
		return slices.DeleteFunc(entries, func(e entry) bool { return e.Name == name })
	}
	spoilDatabase := func(e []entry, spoil func(path string)) []entry {
		path := filepath.Join(t.TempDir(), databaseFile)
		write(t, path, string(of(e, databaseFile).content), 0o600)
		spoil(path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		of(e, databaseFile).content = b
		return agree(e, nil)
	}
	for _, c := range []struct {
		name  string
		spoil func(e []entry) []entry
		want  string
	}{
		{"one bit of the key", func(e []entry) []entry { of(e, sealKeyFile).content[40] ^= 1; return e }, "server.key: is not what was backed up"},
		{"one bit of the database", func(e []entry) []entry { of(e, databaseFile).content[20000] ^= 1; return e }, "berth.db: is not what was backed up"},
		{"a shorter database", func(e []entry) []entry {
			d := of(e, databaseFile)
			d.content = d.content[:8192]
			return e
		}, "berth.db: is not what was backed up"},
		{"one bit of a message", func(e []entry) []entry { of(e, streamFile).content[300] ^= 1; return e }, streamFile + ": is not what was backed up"},
		{"one bit of a message, and nobody expects another", func(e []entry) []entry {
			of(e, streamFile).content[300] ^= 1
			return agree(e, nil)
		}, "00000000000000000001.log is damaged at byte"},
		{"no messages, and nobody expects any", func(e []entry) []entry { return agree(without(e, streamFile), nil) }, streamDir + ": no such file"},
		{"no configuration", func(e []entry) []entry { return without(e, configFile) }, "berth.toml: is missing"},
		{"no configuration, and nobody expects one", func(e []entry) []entry { return agree(without(e, configFile), nil) }, "berth.toml: is missing"},
		{"no manifest", func(e []entry) []entry { return without(e, manifestFile) }, "ends without its manifest.json after berth.db"},
		{"nothing", func([]entry) []entry { return nil }, "ends without its manifest.json"},
		{"a manifest of the future", func(e []entry) []entry { return agree(e, func(m *Manifest) { m.Format = "berth-backup-2" }) }, `the format is "berth-backup-2"`},
		{"a manifest that is none", func(e []entry) []entry { of(e, manifestFile).content = []byte("{"); return e }, "manifest.json: "},
		{"a file that nobody backed up", func(e []entry) []entry { return append([]entry{regular("extra", "x")}, e...) }, "extra: is not in the manifest.json"},
		{"a file behind the manifest", func(e []entry) []entry { return append(e, regular("extra", "x")) }, "goes on after"},
		{"a file twice", func(e []entry) []entry { return append([]entry{regular(sealKeyFile, "x")}, e...) }, "server.key is in the archive twice"},
		{"a long file", func(e []entry) []entry {
			return append([]entry{regular("long", strings.Repeat("x", maxSmallFile+1))}, e...)
		}, "long has 4194305 bytes"},
		{"many files", func(e []entry) []entry {
			for i := range maxArchived {
				e = append([]entry{regular(fmt.Sprint("f", i), "")}, e...)
			}
			return e
		}, "more than 256 files"},
		{"a path to above", func(e []entry) []entry { return agree(append([]entry{regular("../out", "x")}, e...), nil) }, `"../out" is not a name below`},
		{"a path to above, hidden", func(e []entry) []entry { return agree(append([]entry{regular("a/../../out", "x")}, e...), nil) }, `"a/../../out" is not a name below`},
		{"a path from the root", func(e []entry) []entry { return agree(append([]entry{regular("/out", "x")}, e...), nil) }, `"/out" is not a name below`},
		{"a path that is not clean", func(e []entry) []entry { return agree(append([]entry{regular("a/./b", "x")}, e...), nil) }, `"a/./b" is not a name below`},
		{"a symbolic link", func(e []entry) []entry {
			return append([]entry{{tar.Header{Typeflag: tar.TypeSymlink, Name: "certs", Linkname: "/etc"}, nil}}, e...)
		}, `"certs" is not a regular file`},
		{"a hard link", func(e []entry) []entry {
			return append([]entry{{tar.Header{Typeflag: tar.TypeLink, Name: "p", Linkname: "/etc/passwd"}, nil}}, e...)
		}, `"p" is not a regular file`},
		{"a device", func(e []entry) []entry {
			return append([]entry{{tar.Header{Typeflag: tar.TypeBlock, Name: "disk"}, nil}}, e...)
		}, `"disk" is not a regular file`},
		{"another server's key, forged", func(e []entry) []entry {
			path := filepath.Join(t.TempDir(), sealKeyFile)
			if err := soft.Create(path, rand.Reader); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			of(e, sealKeyFile).content = b
			return agree(e, nil)
		}, "berth.db: its secrets are sealed under another server key"},
		{"a damaged database, forged", func(e []entry) []entry {
			return spoilDatabase(e, func(path string) { damage(t, path) })
		}, "berth.db: "},
		{"a newer database", func(e []entry) []entry {
			return spoilDatabase(e, func(path string) {
				db, err := sql.Open("sqlite", "file:"+path)
				if err != nil {
					t.Fatal(err)
				}
				_, err = db.Exec("PRAGMA user_version = 999")
				if err := errors.Join(err, db.Close()); err != nil {
					t.Fatal(err)
				}
			})
		}, "berth.db: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, writeArchive(t, c.spoil(readArchive(t, good))), c.want)
		})
	}
}

// refused restores an archive that must be refused with want, and leave nothing
// behind.
func refused(t *testing.T, file, want string) {
	t.Helper()
	above := t.TempDir()
	_, err := Restore(t.Context(), RestoreOptions{File: file, Data: filepath.Join(above, "data")})
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	if left := listing(t, above); len(left) != 1 {
		t.Errorf("it left %q", left)
	}
}

func TestATruncatedArchiveIsRefused(t *testing.T) {
	file, _ := backup(t, makeData(t))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndexByte(whole, '}') // of the manifest; the rest is padding
	for cut := 0; cut < end; cut += 1777 {
		short := filepath.Join(t.TempDir(), "short.tar")
		write(t, short, string(whole[:cut]), 0o600)
		refused(t, short, "the archive ")
	}
	middle := bytes.Index(whole, []byte("SQLite format 3")) + 10000
	short := filepath.Join(t.TempDir(), "short.tar")
	write(t, short, string(whole[:middle]), 0o600)
	refused(t, short, "berth.db")
}

func TestRestoreLeavesAnOccupiedDirectoryAlone(t *testing.T) {
	config, _, _ := start(t)
	file, _ := backup(t, config.Data)
	before := listing(t, config.Data)
	_, err := Restore(t.Context(), RestoreOptions{File: file, Data: config.Data})
	if err == nil || !strings.Contains(err.Error(), "is in use; stop its server and move it away") {
		t.Errorf("%v", err)
	}
	if after := listing(t, config.Data); len(before) != len(after) {
		t.Errorf("there were %q, and there are %q", before, after)
	}
	empty := t.TempDir()
	if _, err := Restore(t.Context(), RestoreOptions{File: file, Data: empty}); err != nil {
		t.Errorf("into an empty directory: %v", err)
	}
}

func TestABackupIsForTheServersUser(t *testing.T) {
	data, owner := "/", 0
	if os.Geteuid() == 0 {
		data, owner = makeData(t), 4321
		if err := os.Chown(data, owner, -1); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := Backup(t.Context(), BackupOptions{Data: data, File: filepath.Join(t.TempDir(), "b.tar")}, time.Now())
	if want := fmt.Sprintf("belongs to user %d; run this as that user", owner); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}
