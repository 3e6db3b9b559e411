package swtpm_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-iot/berth/hsm/tpm2"
	"github.com/berth-iot/berth/hsm/tpm2/swtpm"
)

func endorsementKey(t *testing.T, where string) []byte {
	t.Helper()
	d, err := tpm2.Open(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ek, err := d.EndorsementKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ek
}

func start(t *testing.T, dir string) *swtpm.Instance {
	t.Helper()
	i, err := swtpm.Start(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Stop() })
	return i
}

func TestStateSurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "start")
	first := start(t, dir)
	ek := endorsementKey(t, first.Address())
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ek, endorsementKey(t, start(t, dir).Address())) {
		t.Error("the EK changed")
	}
}

func TestLongDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	i := start(t, dir)
	endorsementKey(t, i.Address())
	path := strings.TrimPrefix(i.Address(), "unix:")
	if len(path) > 107 {
		t.Errorf("the socket's path has %d octets", len(path))
	}
	if err := i.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
		t.Errorf("the socket's directory was left behind: %v", err)
	}
}

func TestOneDirectoryOneTPM(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir)
	if i, err := swtpm.Start(t.Context(), dir); err == nil {
		i.Stop()
		t.Fatal("two software TPMs share one state")
	} else if !strings.Contains(err.Error(), first.Address()) {
		t.Errorf("the error does not name the other: %v", err)
	}
	endorsementKey(t, first.Address())
}

func TestSocketLeftBehind(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "socket"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	endorsementKey(t, start(t, dir).Address())
}

func TestEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	i, err := swtpm.Start(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := i.Stop(); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
	if _, err := swtpm.Start(ctx, t.TempDir()); err == nil {
		t.Error("started with an ended context")
	}
}

func TestFailuresAreExplained(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := swtpm.Start(t.Context(), file); err == nil {
		t.Error("a file became a state directory")
	}
	spoilt := t.TempDir()
	if err := os.WriteFile(filepath.Join(spoilt, "tpm2-00.permall"), []byte("not a TPM's state"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := swtpm.Start(t.Context(), spoilt); err == nil || !strings.Contains(err.Error(), "swtpm") {
		t.Errorf("spoilt state: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := swtpm.Start(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "apt-get install swtpm") {
		t.Errorf("without swtpm: %v", err)
	}
}
