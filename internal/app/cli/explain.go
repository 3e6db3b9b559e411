package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/provision"
)

func newExplain(t *terminal) *cobra.Command {
	var o *operator
	var all bool
	c := &cobra.Command{
		Use:   "explain ID|TRACKING-ID",
		Short: "Say why a device was let in or refused",
		Long: `Say why a device was let in or refused: what it presented, which enrollments were
considered and what was found in each, which hub was chosen, what the hub said,
and what would change the outcome.

A device is told little, so that a stranger learns little; the rest is here. Name
the registration ID, or the tracking ID that the device logged with the refusal.
The server remembers a bounded number of decisions since it was started
(provisioning.decisions in berth.toml).`,
		Example: `  berth explain pump-7
  berth explain pump-7 --all
  berth explain pump-7 -o json`,
		Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			decisions, err := client.Decisions(c.Context(), args[0])
			if err != nil {
				return err
			}
			return t.explain(args[0], decisions, all)
		},
	}
	o = newOperator(t, c)
	c.Flags().BoolVar(&all, "all", false, "all that is remembered about the device, not the last decision alone")
	return c
}

// explain shows decisions, which come newest first.
func (t *terminal) explain(id string, decisions []provision.Decision, all bool) error {
	if len(decisions) == 0 {
		return fmt.Errorf("the server remembers no decision about %s: either it never asked this server in this ID scope, or the server was started since, or too many others came after it", id)
	}
	earlier := 0
	if !all {
		decisions, earlier = decisions[:1], len(decisions)-1
	}
	if t.json() {
		return t.printJSON(decisions)
	}
	for i, d := range decisions {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		if err := writeDecision(t.out, d); err != nil {
			return err
		}
	}
	if earlier > 0 {
		fmt.Fprintf(t.err, "\n%d earlier decision(s): berth explain %s --all\n", earlier, id)
	}
	return nil
}

// writeDecision tells the story of one call in the order in which it happened.
func writeDecision(w io.Writer, d provision.Decision) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", mark(d.Accepted), printable(d.RegistrationID))
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-11s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("When", "%s", d.Time.UTC().Format(time.RFC3339))
	line("Call", "%s over %s from %s", d.Call, d.Wire, d.Remote)
	line("Tracking ID", "%s", d.TrackingID)
	line("Presented", "%s", d.Presented)
	if len(d.Considered) == 0 {
		line("Considered", "no enrollment and no group")
	}
	for i, c := range d.Considered {
		name := ""
		if i == 0 {
			name = "Considered"
		}
		line(name, "%s", describeConsidered(c))
		for _, f := range c.Findings {
			line("", "  %s %s: %s", mark(f.OK), f.Check, f.Detail)
		}
	}
	if d.NotShown > 0 {
		line("", "and %d more", d.NotShown)
	}
	if d.Allocation != "" {
		line("Allocation", "%s", d.Allocation)
	}
	if d.Hub != "" {
		line("Hub", "%s", d.Hub)
	}
	if d.ErrorCode != 0 {
		line("Outcome", "%s (%d)", d.Outcome, d.ErrorCode)
	} else {
		line("Outcome", "%s", d.Outcome)
	}
	if d.Cause != "" {
		line("Cause", "%s", d.Cause)
	}
	if d.Fix != "" {
		b.WriteString("\nTo change that:\n")
		for step := range strings.Lines(d.Fix) {
			if strings.HasPrefix(step, "berth ") {
				b.WriteString("  ")
			}
			fmt.Fprintf(&b, "  %s\n", printable(step))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// describeConsidered says which enrollment it was. What was found without any
// is the chain the device presented.
func describeConsidered(c provision.Considered) string {
	switch {
	case c.ID == "":
		return "the presented chain"
	case c.Kind == enroll.Group && c.Decided:
		return "group " + c.ID + ", which governs the device"
	case c.Kind == enroll.Group:
		return "group " + c.ID
	}
	return "enrollment " + c.ID + ", which governs the device"
}

func mark(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}
