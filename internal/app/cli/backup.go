package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berth-iot/berth/internal/app"
)

func newBackup(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE.tar",
		Short: "Save a server to a file, while it runs",
		Long: `Save a data directory to one archive: the database as it is at this moment, with its
telemetry, berth.toml, server.key, the certificates and their keys, and the connection strings.
The server may run and goes on serving; whatever it acknowledged before is in the
archive. Run it on the server's machine, as the server's user.

The archive is as secret as the server itself. It appears whole or not at all, and
overwrites nothing.`,
		Example: `  berth backup before-upgrade.tar`,
		Args:    exactly("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			progress, end := t.meter("berth.db and messages")
			m, left, err := app.Backup(c.Context(), app.BackupOptions{
				Data: t.data, File: args[0], Version: Version(), Progress: progress,
			}, time.Now())
			end()
			if err != nil {
				return fmt.Errorf("backing up %s: %w", t.data, err)
			}
			for _, path := range left {
				if err := t.done("%s is outside of the data directory and not in the archive: keep a copy of your own.", path); err != nil {
					return err
				}
			}
			return t.showArchive(args[0], m)
		},
	}
}

func newRestore(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE.tar",
		Short: "Make a data directory of a backup",
		Long: `Make a data directory, the one of --data, of an archive that berth backup made. It
appears whole or not at all: only when every file is the one that was saved, the
server key opens the database, and the database and the telemetry are sound. A directory that holds
anything is left alone.

Devices that registered after the backup are taken in again when they next register.`,
		Example: `  berth restore before-upgrade.tar --data ./restored`,
		Args:    exactly("FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			progress, end := t.meter("archive")
			m, err := app.Restore(c.Context(), app.RestoreOptions{File: args[0], Data: t.data, Progress: progress})
			end()
			if err != nil {
				return fmt.Errorf("restoring %s: %w", t.data, err)
			}
			if err := t.showArchive(args[0], m); err != nil || t.json() {
				return err
			}
			if os.Geteuid() == 0 {
				if err := t.done("If the server runs as another user, first: chown -R USER %s", t.data); err != nil {
					return err
				}
			}
			return t.done("Next: berth doctor --data %s\n      berth serve --data %s", t.data, t.data)
		},
	}
}

// showArchive says what is in an archive.
func (t *terminal) showArchive(file string, m *app.Manifest) error {
	if t.json() {
		return t.printJSON(struct {
			File string `json:"file"`
			*app.Manifest
		}{file, m})
	}
	rows := [][]string{{"FILE", "BYTES", "SHA-256"}}
	for _, f := range m.Files {
		rows = append(rows, []string{printable(f.Name), strconv.FormatInt(f.Size, 10), printable(f.SHA256)})
	}
	if err := t.table(rows); err != nil {
		return err
	}
	return t.done("%s: ID scope %s as of %s (a secret)", filepath.Base(file), printable(m.IDScope), m.Made.UTC().Format(time.RFC3339))
}

// meter returns what shows progress to a person at a terminal, in steps of
// one percent, and what ends its line.
func (t *terminal) meter(what string) (tell func(done, total int64), end func()) {
	f, ok := t.err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, func() {}
	}
	shown := int64(-1)
	tell = func(done, total int64) {
		if percent := done * 100 / max(total, 1); percent != shown {
			shown = percent
			fmt.Fprintf(t.err, "\r%s: %d of %d MiB, %d%%", what, done>>20, total>>20, percent)
		}
	}
	end = func() {
		if shown >= 0 {
			fmt.Fprintln(t.err)
		}
	}
	return tell, end
}
