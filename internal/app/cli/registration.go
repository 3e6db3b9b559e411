package cli

import (
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/wire/dpsjson"
)

func newRegistration(t *terminal) *cobra.Command {
	c := parent("registration", "See where devices were assigned", `Registration records: what came of the last registration of a device that proved
who it is. Why a device was refused is not here: see berth explain.`,
		`  berth registration show unit-1`)
	o := newOperator(t, c)
	c.AddCommand(newRegistrationShow(o), newRegistrationList(o), newRegistrationDelete(o))
	return c
}

func newRegistrationShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show where a device was assigned",
		Long:  `Show where a device was assigned, and when.`,
		Example: `  berth registration show unit-1
  berth registration show unit-1 -o json`,
		Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.service()
			if err != nil {
				return err
			}
			r, err := client.RegistrationState(c.Context(), args[0])
			if err != nil {
				return fmt.Errorf("%w\nWhat happened when it tried, if it did:\n  berth explain %s", err, args[0])
			}
			return o.showRegistration(*r)
		},
	}
}

func newRegistrationList(o *operator) *cobra.Command {
	var group string
	var limit int
	c := &cobra.Command{
		Use:   "list --group NAME",
		Short: "List the devices that came through a group",
		Long: `List the records of the devices that registered through an enrollment group,
ordered by registration ID. The group need not exist any more. The record of an
individual enrollment is in berth enrollment show.`,
		Example: `  berth registration list --group fleet
  berth registration list --group fleet --limit 10 -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if group == "" {
				return usageError{errors.New("registrations are listed by group: --group NAME; berth group list shows them")}
			}
			client, err := o.service()
			if err != nil {
				return err
			}
			found, err := collect(values(client.RegistrationStates(c.Context(), group)), limit)
			if err != nil {
				return err
			}
			return o.showRegistrations(found)
		},
	}
	c.Flags().StringVar(&group, "group", "", "enrollment group by `name`")
	limitFlag(c, &limit)
	return c
}

func newRegistrationDelete(o *operator) *cobra.Command {
	var etag string
	c := &cobra.Command{
		Use:   "delete ID",
		Short: "Forget where a device was assigned",
		Long: `Forget where a device was assigned, so that its next registration is like its
first. Its identity at the hub stays.`,
		Example: `  berth registration delete unit-1`,
		Args:    exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.service()
			if err != nil {
				return err
			}
			if err := client.DeleteRegistrationState(c.Context(), args[0], etag); err != nil {
				return err
			}
			return o.done("deleted registration %s", args[0])
		},
	}
	c.Flags().StringVar(&etag, "etag", "", "delete it only while it has this entity `tag` (default: in any case)")
	return c
}

// values turns a listing of pointers into one of values.
func values[T any](items iter.Seq2[*T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for p, err := range items {
			if !yield(deref(p, err)) {
				return
			}
		}
	}
}

func (t *terminal) showRegistrations(found []dpsjson.RegistrationState) error {
	if t.json() {
		return t.printJSON(found)
	}
	rows := [][]string{{"ID", "STATUS", "HUB", "DEVICE ID", "SUBSTATUS", "UPDATED"}}
	for _, r := range found {
		rows = append(rows, []string{r.RegistrationID, string(r.Status), r.AssignedHub, r.DeviceID, r.Substatus, moment(r.LastUpdatedDateTimeUTC)})
	}
	return t.table(rows)
}

func (t *terminal) showRegistration(r dpsjson.RegistrationState) error {
	if t.json() {
		return t.printJSON(r)
	}
	rows := [][]string{{"Registration ID", r.RegistrationID}, {"Status", string(r.Status)}}
	for _, row := range [][]string{
		{"Hub", r.AssignedHub},
		{"Device ID", r.DeviceID},
		{"Assignment", r.Substatus},
		{"Error", printable(r.ErrorMessage)},
		{"Created", moment(r.CreatedDateTimeUTC)},
		{"Updated", moment(r.LastUpdatedDateTimeUTC)},
		{"ETag", r.ETag},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return t.table(rows)
}
