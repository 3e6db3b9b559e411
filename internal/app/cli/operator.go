package cli

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/internal/app"
)

// connectionVariable is the environment variable of the connection string.
const connectionVariable = "BERTH_CONNECTION_STRING"

// An operator is how the operators' commands reach their server: the flags they
// all have.
type operator struct {
	*terminal
	connectionFile, ca string
	warnings           sync.Mutex // held while one is written
}

// newOperator adds the flags to c and the commands below it.
func newOperator(t *terminal, c *cobra.Command) *operator {
	o := &operator{terminal: t}
	f := c.PersistentFlags()
	f.StringVar(&o.connectionFile, "connection-string-file", "",
		"`file` with the service's connection string (default: $"+connectionVariable+", else service.connection in the data directory)")
	f.StringVar(&o.ca, "ca", "", "PEM `file` of the CA that vouches for the server (default: ca.pem in the data directory, else the system's)")
	return o
}

// service returns the client for enrollments and registrations.
func (o *operator) service() (*service.Client, error) {
	access, options, err := o.access()
	if err != nil {
		return nil, err
	}
	return service.New(access, options)
}

// admin returns the client for what only this server has.
func (o *operator) admin() (*admin.Client, error) {
	access, options, err := o.access()
	if err != nil {
		return nil, err
	}
	return admin.New(access, options)
}

func (o *operator) access() (string, client.HTTP, error) {
	connection, err := o.connectionString()
	if err != nil {
		return "", client.HTTP{}, err
	}
	options, err := o.trust(o.ca)
	options.Attempts = 2 // somebody is waiting
	options.Warn = o.warn
	return connection, options, err
}

// warn passes on what the server warns of. Some commands make several calls at a
// time.
func (o *operator) warn(text string) {
	o.warnings.Lock()
	defer o.warnings.Unlock()
	fmt.Fprintf(o.err, "berth: warning: %s\n", text)
}

func (o *operator) connectionString() (string, error) {
	file := o.connectionFile
	if file == "" {
		if s := os.Getenv(connectionVariable); s != "" {
			return s, nil
		}
		file = filepath.Join(o.data, app.ServiceConnectionFile)
	}
	b, err := o.read(file)
	switch {
	case errors.Is(err, os.ErrNotExist) && o.connectionFile == "":
		return "", fmt.Errorf("no server is known: %s does not exist; name its data directory with --data or $BERTH_DATA, or its connection string with --connection-string-file or $%s", file, connectionVariable)
	case err != nil:
		return "", fmt.Errorf("reading the connection string: %w", err)
	}
	return string(bytes.TrimSpace(b)), nil
}

// remedy returns what to do about an error of talking to a server, or "".
func remedy(err error) string {
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && untrusted != nil {
		return "Name the CA that made the server's certificate: --ca FILE (ca.pem in the server's data directory)."
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "Nothing listens there: start the server with berth serve or berth dev."
	}
	if _, ok := errors.AsType[deviceError](err); ok {
		return "" // a device has no connection string
	}
	if refused, ok := errors.AsType[*client.Error](err); ok {
		switch refused.Status {
		case http.StatusUnauthorized:
			return "The connection string is another server's, or its policy lacks the right: --connection-string-file FILE."
		case http.StatusPreconditionFailed:
			return "Somebody changed it meanwhile: look at it with show, and try again."
		}
		return ""
	}
	return ""
}
