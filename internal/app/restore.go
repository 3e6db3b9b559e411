package app

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-iot/berth/hsm/soft"
	"github.com/berth-iot/berth/store/sqlite"
)

const (
	// maxArchived bounds the files of an archive, those with messages aside.
	maxArchived = 256
	// maxStreamFiles bounds those: a terabyte of messages.
	maxStreamFiles = 1 << 14
)

// RestoreOptions say what to restore, and where to.
type RestoreOptions struct {
	File string // an archive of Backup
	Data string // the data directory to make
	// Progress is told how many bytes of the archive are read; nil for nobody.
	Progress func(done, total int64)
}

// Restore makes a data directory of an archive. It appears whole or not at all,
// and only when every file is the one that was backed up, the server key opens
// the database and the engine finds that sound, and so are the messages. An existing directory that
// holds anything is an error.
func Restore(ctx context.Context, o RestoreOptions) (_ *Manifest, err error) {
	if err := refuseOccupied(o.Data); err != nil {
		return nil, err
	}
	f, err := os.Open(o.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	above := filepath.Dir(filepath.Clean(o.Data))
	if err := os.MkdirAll(above, 0o755); err != nil {
		return nil, err
	}
	half, err := os.MkdirTemp(above, ".berth-restore-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(half)

	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	manifest, err := unpack(ctx, f, info.Size(), half, o.Progress)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.File, err)
	}
	if err := proveRestored(ctx, half); err != nil {
		return nil, fmt.Errorf("%s: %w", o.File, err)
	}
	if err := syncTree(half); err != nil {
		return nil, err
	}
	os.Remove(o.Data) // an empty directory may stand there
	if err := os.Rename(half, o.Data); err != nil {
		return nil, err
	}
	return manifest, syncDir(above)
}

func refuseOccupied(data string) error {
	entries, err := os.ReadDir(data)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0:
		data = filepath.Clean(data)
		return fmt.Errorf("%s is in use; stop its server and move it away (mv %s %s.old), or choose another directory", data, data, data)
	}
	return nil
}

// unpack writes the files of an archive of size bytes into the directory at dir,
// and returns its manifest when that agrees with them.
func unpack(ctx context.Context, from io.Reader, size int64, dir string, tell func(done, total int64)) (*Manifest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := unpacking{root: root, size: size, names: map[string]bool{}, progress: progress{total: size, tell: tell}}
	in := tar.NewReader(from)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil, fmt.Errorf("the archive ends without its %s%s: it is not whole, or none of this program", manifestFile, u.after())
		}
		if err != nil {
			return nil, fmt.Errorf("the archive is damaged%s: %w", u.after(), err)
		}
		if h.Name == manifestFile {
			manifest, err := readManifest(in, h)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", manifestFile, err)
			}
			if _, err := in.Next(); err != io.EOF {
				return nil, fmt.Errorf("the archive goes on after its %s", manifestFile)
			}
			return manifest, manifest.check(u.files)
		}
		if err := u.admit(h); err != nil {
			return nil, err
		}
		if err := u.write(ctx, h, in); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// An unpacking is what was written so far.
type unpacking struct {
	root  *os.Root
	size  int64 // of the archive
	files []ManifestFile
	names map[string]bool // of files
	parts int             // of files, those with messages
	progress
}

func (u *unpacking) after() string {
	if len(u.files) == 0 {
		return ""
	}
	return " after " + u.files[len(u.files)-1].Name
}

// admit judges an entry by its header: files below the directory and nothing
// else, each once.
func (u *unpacking) admit(h *tar.Header) error {
	messages := path.Dir(h.Name) == streamDir
	switch {
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("%q is not a regular file", h.Name)
	case !filepath.IsLocal(h.Name) || path.Clean(h.Name) != h.Name || strings.ContainsAny(h.Name, "\\\x00"):
		return fmt.Errorf("%q is not a name below the data directory", h.Name)
	case h.Name != databaseFile && !messages && h.Size > maxSmallFile:
		return fmt.Errorf("%s has %d bytes, and %d are the most", h.Name, h.Size, maxSmallFile)
	case h.Size > u.size:
		return fmt.Errorf("%s has %d bytes, and the archive has %d", h.Name, h.Size, u.size)
	case !messages && len(u.files)-u.parts == maxArchived:
		return fmt.Errorf("the archive has more than %d files", maxArchived)
	case messages && u.parts == maxStreamFiles:
		return fmt.Errorf("the archive has more than %d files of messages", maxStreamFiles)
	case u.names[h.Name]:
		return fmt.Errorf("%s is in the archive twice", h.Name)
	}
	return nil
}

func (u *unpacking) write(ctx context.Context, h *tar.Header, in io.Reader) error {
	if dir := path.Dir(h.Name); dir != "." {
		if err := u.root.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	f, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode)&0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	u.progress.Writer = f
	_, err = io.CopyBuffer(io.MultiWriter(&u.progress, sum), reader(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return in.Read(b)
	}), make([]byte, 256<<10))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the archive ends within it")
	}
	if err != nil {
		return err
	}
	if u.names[h.Name] = true; path.Dir(h.Name) == streamDir {
		u.parts++
	}
	u.files = append(u.files, ManifestFile{Name: h.Name, Size: h.Size, SHA256: hexSum(sum)})
	return errors.Join(f.Sync(), f.Close())
}

type reader func([]byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }

func readManifest(in io.Reader, h *tar.Header) (*Manifest, error) {
	if h.Typeflag != tar.TypeReg || h.Size > maxSmallFile {
		return nil, errors.New("is not a file of a few kilobytes")
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, errors.New("the archive ends within it")
	}
	m := new(Manifest)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, err
	}
	if m.Format != manifestFormat {
		return nil, fmt.Errorf("the format is %q; this program knows %q", m.Format, manifestFormat)
	}
	return m, nil
}

// check returns an error unless the files are those of the manifest.
func (m *Manifest) check(files []ManifestFile) error {
	listed := map[string]ManifestFile{}
	for _, f := range m.Files {
		listed[f.Name] = f
	}
	for _, f := range files {
		want, ok := listed[f.Name]
		switch {
		case !ok:
			return fmt.Errorf("%s: is not in the %s", f.Name, manifestFile)
		case f != want:
			return fmt.Errorf("%s: is not what was backed up (SHA-256 %s of %d bytes; it was %s of %d)", f.Name, f.SHA256, f.Size, want.SHA256, want.Size)
		}
		delete(listed, f.Name)
	}
	for name := range listed {
		return fmt.Errorf("%s: is missing", name)
	}
	for _, name := range []string{configFile, sealKeyFile, databaseFile} {
		if !slices.ContainsFunc(files, func(f ManifestFile) bool { return f.Name == name }) {
			return fmt.Errorf("%s: is missing", name)
		}
	}
	return nil
}

// proveRestored has the restored key open the restored database, the engine read
// all of that, and every message be read.
func proveRestored(ctx context.Context, dir string) error {
	key, err := soft.Open(filepath.Join(dir, sealKeyFile))
	if err != nil {
		return fmt.Errorf("%s: %w", sealKeyFile, err)
	}
	snapshot, err := sqlite.OpenSnapshot(filepath.Join(dir, databaseFile))
	if err != nil {
		return fmt.Errorf("%s: %w", databaseFile, err)
	}
	err = snapshot.OpensWith(key)
	if err == nil {
		err = snapshot.Check(ctx, true)
	}
	if err == nil {
		_, err = soundStream(ctx, snapshot)
	}
	if err := errors.Join(err, snapshot.Close()); err != nil {
		return fmt.Errorf("%s: %w", databaseFile, err)
	}
	// Reading left an empty log, and an index of it that no process shares.
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(filepath.Join(dir, databaseFile+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// syncTree waits until the names in the directories of a tree are on disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(path)
	})
}
