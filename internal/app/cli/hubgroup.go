package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client/admin"
)

func newHubGroup(o *operator) *cobra.Command {
	c := parent("group", "See who reads a hub's messages under a name, and how far", `A consumer group is a name under which programs read a hub's messages, one at a time:
berth hub tail --group makes one and reads for it. The server keeps how far it is.`,
		`  berth hub group list`)
	var host string
	hubFlag(c, &host)
	c.AddCommand(newGroupsList(o, &host), newGroupsRemove(o, &host))
	return c
}

func newGroupsList(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the consumer groups of a hub",
		Long:    `List the consumer groups of a hub, how far behind they are, and whether somebody reads.`,
		Example: `  berth hub group list`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				groups, err := api.ConsumerGroups(c.Context(), host)
				if err != nil {
					return unknownHub(err)
				}
				if o.json() {
					return o.printJSON(groups)
				}
				rows := [][]string{{"NAME", "SEQUENCE", "BEHIND", "OLDEST", "LOST", "READER"}}
				for _, g := range groups {
					h, reader, oldest := g.Health, "-", "-"
					if h.Reading {
						reader = "reads"
					}
					if !h.OldestUnread.IsZero() {
						oldest = fmt.Sprint(time.Since(h.OldestUnread).Round(time.Second))
					}
					rows = append(rows, []string{g.Name, strconv.FormatUint(h.Sequence, 10), strconv.FormatUint(h.Lag, 10), oldest, strconv.FormatUint(h.Lost, 10), reader})
				}
				return o.table(rows)
			})
		},
	}
}

func newGroupsRemove(o *operator, host *string) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Forget a consumer group",
		Long:    `Forget a consumer group that nobody reads for, and how far it is.`,
		Example: `  berth hub group remove billing`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return o.atHub(c.Context(), *host, func(api *admin.Client, host string) error {
				if err := api.DeleteConsumerGroup(c.Context(), host, args[0]); err != nil {
					return unknownRouting(err, "group")
				}
				return o.done("removed %s", args[0])
			})
		},
	}
}
