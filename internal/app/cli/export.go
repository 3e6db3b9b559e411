package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/internal/app/cli/roster"
)

// prefetch is how many symmetric keys are fetched at a time.
const prefetch = 16

func newEnrollmentExport(o *operator) *cobra.Command {
	return newExport(o, individual, "Write the enrollments as JSON Lines", `Write all individual enrollments to standard output as JSON Lines, ordered by
registration ID: what berth enrollment import reads. Symmetric keys are secret and
written with --keys alone; without them an import makes new ones. Certificates are
named by their fingerprints, which is all that a service shows of them.`,
		`  berth enrollment export
  berth enrollment export --keys`)
}

func newGroupExport(o *operator) *cobra.Command {
	return newExport(o, group, "Write the groups as JSON Lines", `Write all enrollment groups to standard output as JSON Lines, ordered by name: what
berth group import reads. Symmetric keys are secret and written with --keys alone.
CA certificates are named by their fingerprints, and lists of endorsement keys by
their digests: that is all a service shows of them.`,
		`  berth group export
  berth group export --keys`)
}

func newExport(o *operator, k entryKind, short, long, example string) *cobra.Command {
	var keys bool
	c := &cobra.Command{
		Use: "export", Short: short, Long: long, Example: example,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error { return o.export(c.Context(), k, keys) },
	}
	c.Flags().BoolVar(&keys, "keys", false, "write the symmetric keys, too, which are secret")
	return c
}

func (o *operator) export(ctx context.Context, k entryKind, keys bool) (err error) {
	_, client, err := o.patient()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(o.out)
	defer func() { err = errors.Join(err, out.Flush()) }()
	list := k.list(ctx, client)
	if keys {
		list = roster.WithKeys(ctx, list, target{k, client}.Attestation, prefetch)
	}
	lines, n, named := roster.NewWriter(out), 0, 0
	for e, err := range list {
		if err != nil {
			return fmt.Errorf("after %d: %w", n, err)
		}
		if len((roster.Certificates{}).Complete(e.Attestation)) > 0 {
			named++
		}
		if err := lines.Write(k.shape(roster.Portable(e))); err != nil {
			return err
		}
		n++
	}
	if named > 0 {
		fmt.Fprintf(o.err, "Certificates of %d are named by their fingerprints only: to bring them to another service, import with --certificates.\n", named)
	}
	return nil
}
