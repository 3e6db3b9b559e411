package cli

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/internal/app"
	"github.com/berth-iot/berth/pki"
)

// maxFile is the longest file a command reads: no key, certificate chain or
// twin comes near it.
const maxFile = 1 << 20

// read returns a file named on the command line; - is standard input.
func (t *terminal) read(file string) ([]byte, error) {
	from := t.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", file, err)
	case len(b) > maxFile:
		return nil, fmt.Errorf("%s has more than %d bytes", file, maxFile)
	}
	return b, nil
}

// readKey reads a symmetric key for a flag. Keys come in files alone: what is
// on a command line, every process of the machine can read.
func (t *terminal) readKey(flag, file string) (device.SymmetricKey, error) {
	text, err := t.read(file)
	if errors.Is(err, os.ErrNotExist) {
		return device.SymmetricKey{}, fmt.Errorf("%s takes a file with the key, and there is no such file; - reads the key from standard input", flag)
	}
	if err != nil {
		return device.SymmetricKey{}, fmt.Errorf("%s: %w", flag, err)
	}
	key, err := device.ParseSymmetricKey(string(bytes.TrimSpace(text)))
	if err != nil {
		return device.SymmetricKey{}, fmt.Errorf("%s: the key in %s %w", flag, file, err)
	}
	return key, nil
}

func (t *terminal) readCertificates(flag, file string) ([]*x509.Certificate, error) {
	text, err := t.read(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", flag, file, err)
	}
	return chain, nil
}

// trust says whom to believe that they are the server: the CA in the file
// named, else that of the local server, else the system's.
func (t *terminal) trust(file string) (client.HTTP, error) {
	if file == "" {
		local := filepath.Join(t.data, app.CAFile)
		if _, err := os.Stat(local); err != nil {
			return client.HTTP{}, nil
		}
		file = local
	}
	authorities, err := t.readCertificates("--ca", file)
	if err != nil {
		return client.HTTP{}, err
	}
	roots := x509.NewCertPool()
	for _, c := range authorities {
		roots.AddCert(c)
	}
	return client.HTTP{RootCAs: roots}, nil
}
