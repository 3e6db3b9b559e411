package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hub"
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
and what would change the outcome; and why its hub refused it afterwards: a token
for something else, an expired one, a key or a certificate that is not registered, a
device that is disabled or that there is not.

A device is told little, so that a stranger learns little; the rest is here. Name
the registration ID, the device ID, or the tracking ID that the device logged with
the refusal. The server remembers a bounded number of decisions since it was started
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
			refusals, err := client.Refusals(c.Context(), args[0])
			if err != nil {
				return err
			}
			return t.explain(args[0], decisions, refusals, all)
		},
	}
	o = newOperator(t, c)
	c.Flags().BoolVar(&all, "all", false, "all that is remembered about the device, not the last decision alone")
	return c
}

// A story is what explain has to tell: what the provisioning service decided, or why
// a hub refused a device.
type story struct {
	decision *provision.Decision
	refusal  *hub.Refusal
}

func (s story) when() time.Time {
	if s.refusal != nil {
		return s.refusal.Time
	}
	return s.decision.Time
}

func (s story) write(w io.Writer) error {
	if s.refusal != nil {
		return writeRefusal(w, *s.refusal)
	}
	return writeDecision(w, *s.decision)
}

// MarshalJSON writes the one or the other, as the server answers them.
func (s story) MarshalJSON() ([]byte, error) {
	if s.refusal != nil {
		return json.Marshal(s.refusal)
	}
	return json.Marshal(s.decision)
}

// explain shows what is remembered, the newest of each first: a device that its hub
// refuses may have been provisioned well.
func (t *terminal) explain(id string, decisions []provision.Decision, refusals []hub.Refusal, all bool) error {
	if len(decisions)+len(refusals) == 0 {
		return fmt.Errorf("the server remembers no decision about %s and no hub that refused it: either it never asked this server in this ID scope, or the server was started since, or too many others came after it", id)
	}
	earlier := 0
	if !all {
		earlier = max(len(decisions)-1, 0) + max(len(refusals)-1, 0)
		decisions, refusals = decisions[:min(len(decisions), 1)], refusals[:min(len(refusals), 1)]
	}
	var stories []story
	for i := range decisions {
		stories = append(stories, story{decision: &decisions[i]})
	}
	for i := range refusals {
		stories = append(stories, story{refusal: &refusals[i]})
	}
	slices.SortStableFunc(stories, func(a, b story) int { return b.when().Compare(a.when()) })
	if t.json() {
		return t.printJSON(stories)
	}
	for i, s := range stories {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		if err := s.write(t.out); err != nil {
			return err
		}
	}
	if earlier > 0 {
		fmt.Fprintf(t.err, "\n%d earlier decision(s): berth explain %s --all\n", earlier, id)
	}
	return nil
}

// writeRefusal tells why a hub did not let a device in.
func writeRefusal(w io.Writer, r hub.Refusal) error {
	var b strings.Builder
	who := string(r.DeviceID)
	if r.ModuleID != "" {
		who += "/" + string(r.ModuleID)
	}
	fmt.Fprintf(&b, "%s %s\n", mark(false), printable(who))
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-11s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("When", "%s", r.Time.UTC().Format(time.RFC3339))
	line("Hub", "%s over %s from %s", r.Hub, r.Wire, r.Remote)
	line("Tracking ID", "%s", r.TrackingID)
	if r.Presented != "" {
		line("Presented", "%s", r.Presented)
	}
	for i, f := range r.Findings {
		name := ""
		if i == 0 {
			name = "Found"
		}
		line(name, "%s %s: %s", mark(f.OK), f.Check, f.Detail)
	}
	if r.ErrorCode != 0 {
		line("Outcome", "refused: %s (%d)", r.Outcome, r.ErrorCode)
	} else {
		line("Outcome", "refused: %s", r.Outcome)
	}
	writeFix(&b, r.Fix)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeFix shows what would change an outcome: sentences, and commands that are
// indented more.
func writeFix(b *strings.Builder, fix string) {
	if fix == "" {
		return
	}
	b.WriteString("\nTo change that:\n")
	for step := range strings.Lines(fix) {
		if strings.HasPrefix(step, "berth ") {
			b.WriteString("  ")
		}
		fmt.Fprintf(b, "  %s\n", printable(step))
	}
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
	writeFix(&b, d.Fix)
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
