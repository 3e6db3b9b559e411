package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bundle makes files in dir, each a copy of vendor.pem there but those with a
// text.
func bundle(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	vendor, err := os.ReadFile(filepath.Join(dir, "vendor.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			text = string(vendor)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The vendor is read off the folders that bundles sort by, wherever one begins to
// read, and not off a folder where files happen to be.
func TestWhoseCertificatesTheFoldersSay(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := writeCertificates("."); err != nil {
		t.Fatal(err)
	}
	bundle(t, ".", map[string]string{
		"a/Acme/RootCA/root.cer": "", "b/Acme/IntermediateCA/lot.crt": "", "c/Acme/root.pem": "", "d/root.pem": "", "e/Acme/deep/er/root.pem": "",
	})
	for _, c := range []struct{ path, vendor, file string }{
		{"a", "Acme", "Acme/RootCA/root.cer"},
		{"./a/Acme/", "Acme", "RootCA/root.cer"},
		{"a/Acme/RootCA", "Acme", "root.cer"},
		{"a/Acme/RootCA/root.cer", "Acme", "root.cer"},
		{"b", "Acme", "Acme/IntermediateCA/lot.crt"},
		{"b/Acme/IntermediateCA/lot.crt", "Acme", "lot.crt"},
		{"c", "Acme", "Acme/root.pem"},
		{"c/Acme", "", "root.pem"},
		{"c/Acme/root.pem", "", "root.pem"},
		{"d", "", "root.pem"},
		{"vendor.pem", "", "vendor.pem"},
		{"e", "er", "Acme/deep/er/root.pem"},
	} {
		anchors, skipped, err := readBundle(t.Context(), c.path)
		if err != nil || len(anchors) != 1 || len(skipped) != 0 {
			t.Errorf("%s: %d certificates, skipped %v, %v", c.path, len(anchors), skipped, err)
			continue
		}
		if a := anchors[0]; a.Vendor != c.vendor || a.Source != c.file || !a.Root {
			t.Errorf("%s: %q of %q, root is %v", c.path, a.Source, a.Vendor, a.Root)
		}
	}
}

// Nothing of a folder is passed over in silence, and nothing in it can stop or
// fool the reader: no device, no loop of links, no file without end.
func TestFoldersThatHoldOtherThings(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := writeCertificates("."); err != nil {
		t.Fatal(err)
	}
	bundle(t, ".", map[string]string{
		"a/Acme/root.pem": "", "a/Acme/copy.pem": "", "a/readme.txt": "Certificates.\n", "a/empty.cer": " ",
		"a/Acme/large.cer": strings.Repeat("a", 1<<20+1),
	})
	for link, to := range map[string]string{"a/loop": ".", "a/Acme/zero": "/dev/zero", "a/Acme/link.pem": "../../leaf.pem"} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	anchors, skipped, err := readBundle(t.Context(), "a")
	if err != nil || len(anchors) != 1 || anchors[0].Source != "Acme/copy.pem" {
		t.Fatalf("%+v, %v", anchors, err)
	}
	var got []string
	for _, s := range skipped {
		got = append(got, s.Source+": "+s.Reason)
	}
	want := []string{
		"Acme/large.cer: 1048577 bytes: more than 1048576", "Acme/link.pem: not a CA certificate",
		"Acme/root.pem: the same certificate as Acme/copy.pem",
		"empty.cer: neither a DER nor a PEM certificate", "readme.txt: neither a DER nor a PEM certificate",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if err := os.Remove("a/Acme/link.pem"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", "a/Acme/link.pem"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readBundle(t.Context(), "a"); err == nil {
		t.Error("a link to nowhere is passed over")
	}
}

// A cabinet file is unpacked by the program for it, whose place another takes
// here: what matters is what it is told, what it leaves and that nothing stays.
func TestCabinets(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := writeCertificates("."); err != nil {
		t.Fatal(err)
	}
	bundle(t, ".", map[string]string{"TrustedTpm.cab": "MSCF\x00\x00", "-x.cab": "MSCF", "cut.cab": "MSC", "files/Acme/RootCA/root.cer": "", "files/version.txt": "1"})
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("PATH", filepath.Join(here, "bin"))
	if _, _, err := readBundle(t.Context(), "TrustedTpm.cab"); err == nil || !strings.Contains(err.Error(), "apt-get install cabextract") {
		t.Errorf("without the program: %v", err)
	}
	bundle(t, ".", map[string]string{"bin/cabextract": `#!/bin/sh
[ "$1 $2" = "--quiet --directory" ] && [ -d "$3" ] && [ "$#" = 4 ] || { echo "usage: $*"; exit 1; }
case "$4" in */TrustedTpm.cab|*/-x.cab) ;; *) echo "no cabinet"; exit 1;; esac
/bin/cp -r files/. "$3"
`})
	if err := os.Chmod("bin/cabextract", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"TrustedTpm.cab", "-x.cab"} {
		anchors, skipped, err := readBundle(t.Context(), file)
		if err != nil || len(anchors) != 1 || anchors[0].Source != "Acme/RootCA/root.cer" || anchors[0].Vendor != "Acme" || len(skipped) != 1 || skipped[0].Source != "version.txt" {
			t.Errorf("%s: %+v, %v, %v", file, anchors, skipped, err)
		}
	}
	if _, skipped, err := readBundle(t.Context(), "cut.cab"); err != nil || len(skipped) != 1 {
		t.Errorf("half a header: %v, %v", skipped, err)
	}
	bundle(t, ".", map[string]string{"other.cab": "MSCF"})
	if _, _, err := readBundle(t.Context(), "other.cab"); err == nil || !strings.Contains(err.Error(), "no cabinet") {
		t.Errorf("the program's word is lost: %v", err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("%v stays, %v", left, err)
	}
}
