package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/internal/app"
)

func newDoctor(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check a data directory and its server",
		Long: `Check a data directory and, when it runs, its server: who can read the secrets,
whether server.key opens the database and the database is sound, the configuration,
the certificates with their names and ends, the connection strings, the clock, the
disk, and whether the listener is ready. Nothing is changed. Run it on the server's
machine, as the server's user.

Each line has ✓ for what is fine, ! for what somebody should look at and ✗ for what
is broken, with what to do about it. The exit status is 1 when something is broken.`,
		Example: `  berth doctor
  berth doctor -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return t.showFindings(app.Examine(c.Context(), t.data, time.Now()))
		},
	}
}

var marks = map[app.Status]string{app.OK: "✓", app.Warning: "!", app.Broken: "✗"}

func (t *terminal) showFindings(findings []app.Finding) error {
	count := map[app.Status]int{}
	for _, f := range findings {
		count[f.Status]++
	}
	if t.json() {
		err := t.printJSON(struct {
			Data     string        `json:"data"`
			Broken   int           `json:"broken"`
			Warnings int           `json:"warnings"`
			Findings []app.Finding `json:"findings"`
		}{t.data, count[app.Broken], count[app.Warning], findings})
		if err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			fmt.Fprintf(t.out, "%s %s: %s\n", marks[f.Status], printable(f.About), printable(f.Text))
			if f.Fix != "" {
				fmt.Fprintf(t.out, "    %s\n", printable(f.Fix))
			}
		}
	}
	if n := count[app.Broken]; n > 0 {
		return fmt.Errorf("%d of %d checks found something broken", n, len(findings))
	}
	return nil
}
