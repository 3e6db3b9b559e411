package cli

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

var group = entryKind{
	kind: enroll.Group, command: "group", argument: "NAME",
	create: func(ctx context.Context, s *service.Client, e entry) (entry, error) {
		return entryOf(s.CreateGroup(ctx, e.AsGroup()))
	},
	read: func(ctx context.Context, s *service.Client, id string) (entry, error) {
		return entryOf(s.Group(ctx, id))
	},
	update: func(ctx context.Context, s *service.Client, e entry) (entry, error) {
		return entryOf(s.UpdateGroup(ctx, e.AsGroup()))
	},
	keys: func(ctx context.Context, s *service.Client, id string) (*dpsjson.AttestationMechanism, error) {
		return s.GroupAttestation(ctx, id)
	},
	remove: func(ctx context.Context, s *service.Client, id, etag string) error {
		return s.DeleteGroup(ctx, id, etag)
	},
	list: func(ctx context.Context, s *service.Client) iter.Seq2[entry, error] {
		return func(yield func(entry, error) bool) {
			for g, err := range s.Groups(ctx) {
				if !yield(entryOf(g, err)) {
					return
				}
			}
		}
	},
	shape: func(e entry) any { return e.AsGroup() },
	decode: func(line []byte) (entry, error) {
		g, err := dpsjson.DecodeEnrollmentGroup(line)
		return entryOf(&g, err)
	},
	bulk: func(ctx context.Context, s *service.Client, mode dpsjson.BulkMode, items []entry) ([]error, error) {
		groups := make([]dpsjson.EnrollmentGroup, len(items))
		for i, e := range items {
			groups[i] = e.AsGroup()
		}
		return s.BulkGroups(ctx, mode, groups)
	},
}

func entryOf(g *dpsjson.EnrollmentGroup, err error) (entry, error) {
	if err != nil {
		return entry{}, err
	}
	return g.AsIndividual(), nil
}

func newGroup(t *terminal) *cobra.Command {
	c := parent("group", "Say which devices may come in, many at once", `Enrollment groups: each lets in every device whose certificate comes from one CA, or
whose key is derived from the group's, or whose TPM comes from a vendor or a reel.
The devices need not be enrolled one by one.`,
		`  berth group create plant --x509 ca.pem
  berth group list`)
	o := newOperator(t, c)
	c.AddCommand(
		group.newCreate(o, "create NAME (--key | --x509 CA | --ca-reference NAME | --tpm-roots FILE | --trust-store | --tpm-list FILE)", "Let in a whole group of devices", `Let in every device that proves itself in one of these ways:

  --x509   by a certificate from this CA, root or intermediate, PEM. The leaf's
           common name is the registration ID, and the device presents the
           certificates between
  --ca-reference
           likewise, by a CA whose certificate the service keeps under a name, and
           whose key somebody proved to have: see berth ca. It is looked up when a
           device comes
  --key    by a key derived from the group's: HMAC-SHA256 of the registration ID
           under the group key. Derive it in the factory; whoever has the group's
           key is every device
  --tpm-roots
           by a TPM whose endorsement key has a certificate below a vendor's root.
           --tpm-manufacturer, --tpm-model and --tpm-firmware-oldest choose among
           the vendor's TPMs. The device shows its certificate
  --trust-store
           likewise, by the vendors' roots that the server keeps for all groups:
           see berth trust. --trust-vendor chooses among them
  --tpm-list
           by a TPM whose endorsement key is on a list, as of a reel

A device of a TPM group registers under the name of its endorsement key, the one
that all SDKs derive. Whatever vouches for the key, the TPM must prove to hold it.

Of several CAs above one device the nearest enrolled one decides.`,
			`  berth group create plant --x509 ca.pem --hub hub.example.com
  berth group create lines --ca-reference plant
  berth group create test-bench --key
  berth group create gateways --tpm-roots vendor.pem --tpm-manufacturer INTC --tpm-model PTT
  berth group create sensors --tpm-roots vendor.pem --tpm-firmware-oldest IFX/SLB9670=id:00070055
  berth group create machines --trust-store --trust-vendor Infineon --tpm-manufacturer IFX
  berth group create lot-5 --tpm-list reel.csv
  berth group create rig-tpms --test-roots swtpm.pem --tpm-intermediates swtpm-issuer.pem
  berth group create test-rig --primary-key-file rig.key --disable`),
		group.newShow(o, "Show one group", `Show one group. Symmetric keys are secret and shown with --keys alone.`,
			`  berth group show fleet
  berth group show fleet --keys`),
		group.newList(o, "List the groups", `List the enrollment groups, ordered by name.`,
			`  berth group list
  berth group list -o json`),
		group.newUpdate(o, "Change one group", `Change what the flags name in one group; all else stays, keys and certificates
included. The change is made only if nobody else changed it meanwhile. Devices
that are at home at a hub stay there until they register again.`,
			`  berth group update fleet --disable
  berth group update fleet --enable
  berth group update fleet --allocation static --reprovision reset
  berth group update fleet --expression @allocate.cel
  berth group update reel-1 --tpm-list reel.csv`),
		group.newDelete(o, "Delete one group", `Delete one group. Its devices keep their identities at their hubs and the records
of their registrations, but cannot register again.`,
			`  berth group delete fleet`),
		newGroupImport(o), newGroupExport(o),
	)
	return c
}
