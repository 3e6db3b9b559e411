package app

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/store/segment"
	"github.com/berth-iot/berth/store/sqlite"
)

const (
	manifestFile   = "manifest.json"
	manifestFormat = "berth-backup-1"

	// streamDir has the messages of the database.
	streamDir = databaseFile + sqlite.StreamSuffix

	// maxSmallFile bounds the files of an archive other than the database and its
	// messages: keys, certificates and settings come nowhere near it.
	maxSmallFile = 4 << 20

	partPattern = ".berth-backup-*"
)

// A Manifest is the last file of an archive, manifest.json: what was backed up,
// and when. It tells a damaged archive from a whole one; it is no signature.
type Manifest struct {
	Format  string         `json:"format"`  // "berth-backup-1"
	Made    time.Time      `json:"made"`    // when the database was as it is in the archive
	Version string         `json:"version"` // of the program that made the archive
	IDScope string         `json:"idScope"`
	Schema  int            `json:"schema"` // the version of the database's schema
	Files   []ManifestFile `json:"files"`  // all others in the archive, in its order
}

// A ManifestFile is one file of an archive.
type ManifestFile struct {
	Name   string `json:"name"` // below the data directory, with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// BackupOptions say what to back up, and where to.
type BackupOptions struct {
	Data    string // the data directory
	File    string // the archive to make; it must not be there yet
	Version string // of this program
	// Progress is told how many bytes of the database and of the messages beside it
	// are written; nil for nobody.
	Progress func(done, total int64)
}

// Backup writes an archive of a data directory, whose server may be running:
// the database as it is at one moment, the messages of a moment later, and the
// files without which they are worth nothing. The archive appears whole or not at all, with mode 0600, and only
// when the server key opens the database, the engine finds it sound and so are
// the messages. Files that berth.toml names outside of the data directory are not in it; left has
// their paths.
func Backup(ctx context.Context, o BackupOptions, now time.Time) (_ *Manifest, left []string, err error) {
	if _, err := os.Lstat(o.File); err == nil {
		return nil, nil, fmt.Errorf("%s is there already; a backup overwrites nothing", o.File)
	}
	if info, err := os.Stat(o.Data); err == nil {
		if uid, ours := ownedByUs(info); !ours {
			return nil, nil, fmt.Errorf("it belongs to user %d; run this as that user: sudo -u '#%d' berth backup", uid, uid)
		}
	}
	config, err := LoadConfig(o.Data)
	if err != nil {
		return nil, nil, err
	}
	if config.Store.PostgresDSNFile != "" {
		return nil, nil, errors.New("this server keeps its data in PostgreSQL: back that up with pg_dump, and copy the data directory beside it")
	}
	key, err := soft.Open(config.path(sealKeyFile))
	if err != nil {
		return nil, nil, err
	}
	small, left, err := smallFiles(config)
	if err != nil {
		return nil, nil, err
	}
	part, err := createPart(filepath.Dir(o.File))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		err = errors.Join(err, part.discard())
	}()

	snapshot, err := sqlite.OpenSnapshot(config.path(databaseFile))
	if err != nil {
		return nil, nil, err
	}
	defer snapshot.Close()
	if err := snapshot.OpensWith(key); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", config.path(databaseFile), err)
	}
	if err := snapshot.Check(ctx, false); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", config.path(databaseFile), err)
	}
	stream, err := soundStream(ctx, snapshot)
	if err != nil {
		return nil, nil, err
	}
	schema, _ := snapshot.Schema()
	buffer := bufio.NewWriterSize(part, 256<<10)
	a := archive{tar: tar.NewWriter(buffer), manifest: Manifest{
		Format: manifestFormat, Made: now.UTC(), Version: o.Version, IDScope: config.IDScope, Schema: schema,
	}}
	for _, f := range small {
		if err := a.add(f.name, f.mode, int64(len(f.content)), func(w io.Writer) error { _, err := w.Write(f.content); return err }); err != nil {
			return nil, nil, err
		}
	}
	p := &progress{total: snapshot.Size(), tell: o.Progress}
	if stream != nil {
		messages, _ := stream.Size()
		p.total += messages
	}
	err = a.add(databaseFile, 0o600, snapshot.Size(), func(w io.Writer) error {
		p.Writer = w
		return snapshot.Copy(ctx, p)
	})
	if err == nil && stream != nil {
		err = a.addStream(ctx, stream, p)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(a.close(), buffer.Flush()); err != nil {
		return nil, nil, err
	}
	if err := part.become(o.File); err != nil {
		return nil, nil, err
	}
	return &a.manifest, left, nil
}

// soundStream returns the messages beside the database, nil where there are none,
// or what is wrong with them.
func soundStream(ctx context.Context, snapshot *sqlite.Snapshot) (*segment.Snapshot, error) {
	stream, err := snapshot.Stream()
	if err != nil || stream == nil {
		return nil, err
	}
	return stream, stream.Check(ctx)
}

// addStream writes the files with messages.
func (a *archive) addStream(ctx context.Context, stream *segment.Snapshot, p *progress) error {
	names, sizes := stream.Files()
	for i, name := range names {
		err := a.add(path.Join(streamDir, name), 0o600, sizes[i], func(w io.Writer) error {
			p.Writer = w
			return stream.Copy(ctx, i, p)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// A smallFile is any file of the data directory but the database and its stream.
type smallFile struct {
	name    string
	mode    fs.FileMode
	content []byte
}

// smallFiles reads what belongs to a server besides its database, and names
// what of it lies elsewhere.
func smallFiles(c Config) (files []smallFile, left []string, err error) {
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return nil, nil, err
	}
	paths := []string{configFile, sealKeyFile}
	for _, f := range c.TLS.Certificates {
		paths = append(paths, f.Certificate, f.Key)
	}
	if c.LinkedHubs.CAFile != "" {
		paths = append(paths, c.LinkedHubs.CAFile)
	}
	required := len(paths)
	paths = append(paths, caCertFile, caKeyFile) // the key is meant to be moved away
	connections, err := filepath.Glob(filepath.Join(c.Data, "*.connection"))
	if err != nil {
		return nil, nil, err
	}
	for i, path := range append(paths, connections...) {
		path = c.path(path)
		name, err := filepath.Rel(c.Data, path)
		if err != nil || !filepath.IsLocal(name) {
			left = append(left, path)
			continue
		}
		if slices.ContainsFunc(files, func(f smallFile) bool { return f.name == filepath.ToSlash(name) }) {
			continue
		}
		f, err := readSmall(path)
		if errors.Is(err, fs.ErrNotExist) && i >= required {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		f.name = filepath.ToSlash(name)
		files = append(files, f)
	}
	return files, left, pairsFit(c, files)
}

// pairsFit notices a certificate that is being renewed just now.
func pairsFit(c Config, files []smallFile) error {
	content := map[string][]byte{}
	for _, f := range files {
		content[filepath.Join(c.Data, filepath.FromSlash(f.name))] = f.content
	}
	for _, f := range c.TLS.Certificates {
		certificate, key := content[c.path(f.Certificate)], content[c.path(f.Key)]
		if certificate == nil || key == nil {
			continue // elsewhere
		}
		if _, err := tls.X509KeyPair(certificate, key); err != nil {
			return fmt.Errorf("the certificate %s and its key: %w; are they being renewed? Try again", f.Certificate, err)
		}
	}
	return nil
}

func readSmall(path string) (smallFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return smallFile{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return smallFile{}, err
	}
	if !info.Mode().IsRegular() {
		return smallFile{}, fmt.Errorf("%s is not a regular file", path)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	switch {
	case err != nil:
		return smallFile{}, err
	case len(content) > maxSmallFile:
		return smallFile{}, fmt.Errorf("%s has more than %d bytes", path, maxSmallFile)
	}
	return smallFile{mode: info.Mode().Perm() & 0o644, content: content}, nil
}

// An archive is being written.
type archive struct {
	tar      *tar.Writer
	manifest Manifest
}

// add writes one file, whose content write writes.
func (a *archive) add(name string, mode fs.FileMode, size int64, write func(io.Writer) error) error {
	if err := a.begin(name, mode, size); err != nil {
		return err
	}
	sum := sha256.New()
	if err := write(io.MultiWriter(a.tar, sum)); err != nil {
		return fmt.Errorf("writing %s into the archive: %w", name, err)
	}
	a.manifest.Files = append(a.manifest.Files, ManifestFile{Name: name, Size: size, SHA256: hexSum(sum)})
	return nil
}

func (a *archive) begin(name string, mode fs.FileMode, size int64) error {
	err := a.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Size: size, ModTime: a.manifest.Made.Truncate(time.Second),
	})
	if err != nil {
		return fmt.Errorf("writing %s into the archive: %w", name, err)
	}
	return nil
}

// close ends the archive with its manifest.
func (a *archive) close() error {
	text, err := json.MarshalIndent(a.manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := a.begin(manifestFile, 0o600, int64(len(text))); err != nil {
		return err
	}
	_, err = a.tar.Write(text)
	return errors.Join(err, a.tar.Close())
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// A part is a file on its way to its name.
type part struct {
	*os.File
	done bool
}

// createPart makes one in the directory where the archive is to be. Whoever
// writes a part holds a lock on it: parts without one are what killed backups
// left behind, with secrets in them, and go.
func createPart(dir string) (*part, error) {
	stale, err := filepath.Glob(filepath.Join(dir, partPattern))
	if err != nil {
		return nil, err
	}
	for _, path := range stale {
		removeUnlocked(path)
	}
	f, err := os.CreateTemp(dir, partPattern)
	if err != nil {
		return nil, err
	}
	p := &part{File: f}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), p.discard())
	}
	return p, nil
}

func removeUnlocked(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		os.Remove(path)
	}
}

// become gives the part its name, once it is on the disk.
func (p *part) become(path string) error {
	if err := p.Sync(); err != nil {
		return err
	}
	if err := os.Rename(p.Name(), path); err != nil {
		return err
	}
	p.done = true
	return errors.Join(p.Close(), syncDir(filepath.Dir(path)))
}

// discard removes a part that did not come to its name.
func (p *part) discard() error {
	if p.done {
		return nil
	}
	return errors.Join(os.Remove(p.Name()), p.Close())
}

// A progress tells how much was written.
type progress struct {
	io.Writer
	done, total int64
	tell        func(done, total int64)
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	if p.done += int64(n); p.tell != nil {
		p.tell(p.done, p.total)
	}
	return n, err
}
