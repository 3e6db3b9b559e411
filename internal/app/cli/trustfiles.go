package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-iot/berth/attest/ekcert"
)

// readBundle reads the CA certificates at path: a file with one DER certificate
// or any number in PEM, a folder of such files and folders, or Microsoft's
// TrustedTpm.cab. The names of the files in what is returned are those inside
// path.
func readBundle(ctx context.Context, path string) ([]ekcert.Anchor, []ekcert.Skipped, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if isCabinet, err := hasPrefix(path, info, "MSCF"); err != nil {
		return nil, nil, err
	} else if isCabinet {
		return readCabinet(ctx, path)
	}
	folder := path
	if !info.IsDir() {
		folder = filepath.Dir(path)
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return nil, nil, err
	}
	// The whole path is parsed, for the folder may be one of a vendor.
	var fault error
	anchors, skipped, err := ekcert.ParseAnchors(certificateFiles(path, &fault), time.Now())
	if err = errors.Join(fault, err); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	prefix := strings.TrimSuffix(filepath.ToSlash(folder), "/") + "/"
	for i := range anchors {
		a := &anchors[i]
		a.Source = strings.TrimPrefix(a.Source, prefix)
		if !strings.Contains(a.Source, "/") && !sorted(folder) {
			a.Vendor = "" // the folder is just where the file happens to be
		}
	}
	for i := range skipped {
		skipped[i].Source = strings.TrimPrefix(skipped[i].Source, prefix)
		skipped[i].Reason = strings.ReplaceAll(skipped[i].Reason, prefix, "")
	}
	return anchors, skipped, nil
}

// sorted reports whether a folder is one of those in which bundles keep a
// vendor's certificates.
func sorted(folder string) bool {
	name := filepath.Base(folder)
	return strings.EqualFold(name, "RootCA") || strings.EqualFold(name, "IntermediateCA")
}

// certificateFiles reads the files at and below path. What goes wrong is in
// fault, and ends it.
func certificateFiles(path string, fault *error) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		*fault = filepath.WalkDir(path, func(file string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Stat(file) // which follows links to files
			if err != nil || !info.Mode().IsRegular() {
				return err
			}
			b, err := readSome(file, ekcert.MaxAnchorFile+1)
			if err != nil {
				return err
			}
			if file, err = filepath.Abs(file); err != nil {
				return err
			}
			if !yield(filepath.ToSlash(file), b) {
				return fs.SkipAll
			}
			return nil
		})
	}
}

// readSome reads a file, up to limit bytes of it.
func readSome(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// hasPrefix reports whether path is a file that begins with text.
func hasPrefix(path string, info fs.FileInfo, text string) (bool, error) {
	if !info.Mode().IsRegular() {
		return false, nil
	}
	b, err := readSome(path, int64(len(text)))
	return bytes.Equal(b, []byte(text)), err
}

// readCabinet unpacks a Windows cabinet file with the program for that.
func readCabinet(ctx context.Context, file string) ([]ekcert.Anchor, []ekcert.Skipped, error) {
	program, err := exec.LookPath("cabextract")
	if err != nil {
		return nil, nil, fmt.Errorf("%s is a cabinet file; to unpack it takes a program of its own: apt-get install cabextract", file)
	}
	dir, err := os.MkdirTemp("", "berth-trust-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	if file, err = filepath.Abs(file); err != nil { // no name that looks like an option
		return nil, nil, err
	}
	if out, err := exec.CommandContext(ctx, program, "--quiet", "--directory", dir, file).CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("unpacking %s: %w: %s", file, err, printable(string(out)))
	}
	return readBundle(ctx, dir)
}
