package swtpm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// A CA is the certificate authority of software TPMs: swtpm's local CA, whose
// keys lie in files.
type CA struct{ dir string }

// NewCA returns the CA whose files are in dir, which is created where it is
// missing. The CA is made along with the first TPM.
func NewCA(dir string) (CA, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return CA{}, fmt.Errorf("making a CA of software TPMs: %w", err)
	}
	return CA{dir}, nil
}

// Root returns the PEM file of the CA's root certificate.
func (c CA) Root() string { return filepath.Join(c.dir, "swtpm-localca-rootca-cert.pem") }

// Issuer returns the PEM file of the intermediate that issues the certificates of
// endorsement keys.
func (c CA) Issuer() string { return filepath.Join(c.dir, "issuer.pem") }

// Manufacture makes a TPM the way a plant does: with endorsement keys, RSA-2048
// and ECC P-384, and their certificates in NV memory, beside a platform
// certificate. Its state is in dir, for Start.
func (c CA) Manufacture(ctx context.Context, dir string) error {
	if err := c.manufacture(ctx, dir); err != nil {
		return fmt.Errorf("manufacturing a software TPM: %w", err)
	}
	return nil
}

func (c CA) manufacture(ctx context.Context, dir string) error {
	tool, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return fmt.Errorf("swtpm_localca is not installed; run apt-get install swtpm-tools: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	authority, options, setup := filepath.Join(c.dir, "ca.conf"), filepath.Join(c.dir, "ca.options"), filepath.Join(c.dir, "setup.conf")
	for file, text := range map[string]string{
		authority: fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/key.pem\nissuercert = %[1]s/issuer.pem\ncertserial = %[1]s/serial\n", c.dir),
		options:   "--platform-manufacturer Some\n--platform-version 1\n--platform-model Board\n",
		setup: fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha256\n",
			tool, authority, options),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	args := []string{"--tpm2", "--tpmstate", dir, "--config", setup, "--create-ek-cert", "--create-platform-cert", "--lock-nvram"}
	if os.Geteuid() == 0 {
		args = append(args, "--runas", "root") // or it becomes another user, who may not write here
	}
	out, err := exec.CommandContext(ctx, "swtpm_setup", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
