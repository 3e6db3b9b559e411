package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berth-iot/berth/wire/dpsjson"
)

// defaultWebhookVersion is the newest api-version that functions are written for.
const defaultWebhookVersion = "2021-10-01"

// allocationSettings are what the command line says about how an enrollment's
// devices get their hub.
type allocationSettings struct {
	policy, webhook, version, expression string
}

func (s *allocationSettings) flags(c *cobra.Command, f *pflag.FlagSet) {
	f.StringVar(&s.policy, "allocation", "", "`policy` that chooses the hub: hashed, geoLatency, static or custom (default: the service's)")
	f.StringVar(&s.webhook, "webhook", "", "custom allocation: the `URL` to ask, or @FILE with it: there is often a key in it")
	f.StringVar(&s.version, "webhook-api-version", defaultWebhookVersion, "`version` of the webhook's requests: YYYY-MM-DD, 2018-09-01-preview or later")
	f.StringVar(&s.expression, "expression", "", "custom allocation: the CEL `expression` to choose by, or @FILE with it")
	complete(c, "allocation", "hashed", "geoLatency", "static", "custom")
}

// applyAllocation changes in e what flags were given for. Who names a webhook or
// an expression means custom allocation by it.
func (t *terminal) applyAllocation(c *cobra.Command, s allocationSettings, e *entry) error {
	given := c.Flags().Changed
	byWebhook, byExpression := given("webhook"), given("expression")
	if given("allocation") {
		if err := e.AllocationPolicy.UnmarshalText([]byte(s.policy)); err != nil {
			return usageError{fmt.Errorf("--allocation: %q is not known; hashed, geoLatency, static and custom are", s.policy)}
		}
		if e.AllocationPolicy != dpsjson.AllocationCustom {
			e.CustomAllocationDefinition = nil
		}
	}
	switch {
	case byWebhook && byExpression:
		return usageError{errors.New("--webhook and --expression exclude each other")}
	case (byWebhook || byExpression) && given("allocation") && e.AllocationPolicy != dpsjson.AllocationCustom:
		return usageError{fmt.Errorf("--webhook and --expression are for --allocation custom, not %s", e.AllocationPolicy)}
	case byExpression:
		source, err := t.textOrFile("--expression", s.expression)
		if err != nil {
			return err
		}
		e.AllocationPolicy, e.CustomAllocationDefinition = dpsjson.AllocationCustom, &dpsjson.CustomAllocationDefinition{Expression: source}
	case byWebhook:
		address, err := t.textOrFile("--webhook", s.webhook)
		if err != nil {
			return err
		}
		e.AllocationPolicy = dpsjson.AllocationCustom
		e.CustomAllocationDefinition = &dpsjson.CustomAllocationDefinition{WebhookURL: address, APIVersion: s.version}
	case given("webhook-api-version"):
		if e.CustomAllocationDefinition == nil || e.CustomAllocationDefinition.WebhookURL == "" {
			return usageError{errors.New("--webhook-api-version is for --webhook URL")}
		}
		changed := *e.CustomAllocationDefinition
		changed.APIVersion = s.version
		e.CustomAllocationDefinition = &changed
	}
	if e.AllocationPolicy == dpsjson.AllocationCustom && e.CustomAllocationDefinition == nil {
		return usageError{errors.New("--allocation custom needs --webhook URL or --expression TEXT")}
	}
	return nil
}

// textOrFile returns what was given for a flag, or the text of the file that it
// names behind an @.
func (t *terminal) textOrFile(flag, text string) (string, error) {
	file, ok := strings.CutPrefix(text, "@")
	if !ok {
		return text, nil
	}
	b, err := t.read(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// allocationRows say how the hub is chosen. Keys in a webhook's query are not
// shown.
func allocationRows(e entry) [][]string {
	rows := [][]string{{"Allocation", allocation(e)}}
	d := e.CustomAllocationDefinition
	switch {
	case d == nil:
	case d.Expression != "":
		rows = append(rows, []string{"  Expression", printable(d.Expression)})
	default:
		rows = append(rows, []string{"  Webhook", printable(withoutKeys(d.WebhookURL))}, []string{"  API version", d.APIVersion})
	}
	return rows
}

// withoutKeys hides the query of a URL.
func withoutKeys(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(not a URL)"
	}
	if u.RawQuery == "" {
		return u.String()
	}
	u.RawQuery = ""
	return u.String() + "?…"
}
