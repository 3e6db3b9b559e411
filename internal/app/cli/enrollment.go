package cli

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/wire/dpsjson"
)

var individual = entryKind{
	kind: enroll.Individual, command: "enrollment", argument: "ID",
	create: func(ctx context.Context, s *service.Client, e entry) (entry, error) {
		return deref(s.CreateEnrollment(ctx, e))
	},
	read: func(ctx context.Context, s *service.Client, id string) (entry, error) {
		return deref(s.Enrollment(ctx, id))
	},
	update: func(ctx context.Context, s *service.Client, e entry) (entry, error) {
		return deref(s.UpdateEnrollment(ctx, e))
	},
	keys: func(ctx context.Context, s *service.Client, id string) (*dpsjson.AttestationMechanism, error) {
		return s.EnrollmentAttestation(ctx, id)
	},
	remove: func(ctx context.Context, s *service.Client, id, etag string) error {
		return s.DeleteEnrollment(ctx, id, etag)
	},
	list: func(ctx context.Context, s *service.Client) iter.Seq2[entry, error] {
		return values(s.Enrollments(ctx))
	},
	shape:  func(e entry) any { return e },
	decode: dpsjson.DecodeIndividualEnrollment,
	bulk: func(ctx context.Context, s *service.Client, mode dpsjson.BulkMode, items []entry) ([]error, error) {
		return s.BulkEnrollments(ctx, mode, items)
	},
}

// deref returns what a pointer points at, or the zero value with an error.
func deref[T any](p *T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return *p, nil
}

func newEnrollment(t *terminal) *cobra.Command {
	c := parent("enrollment", "Say which devices may come in, one by one", `Individual enrollments: each lets in one device, named by its registration ID, and
says how the device proves that it is the one. An individual enrollment comes
before every group, so a disabled one keeps a single device of a group out.`,
		`  berth enrollment create valve-1 --key
  berth enrollment list`)
	o := newOperator(t, c)
	c.AddCommand(
		individual.newCreate(o, "create ID (--key | --x509 LEAF | --tpm EK)", "Let in one device", `Let in one device. It proves itself in one of three ways:

  --key    a symmetric key that it shares with the service. The service makes two
           (berth enrollment show ID --keys), unless files hold yours
  --x509   a certificate of its own, PEM; self-signed is fine. Its common name is
           the registration ID
  --tpm    its TPM, by the public endorsement key, which is no secret:
           berth device --tpm WHERE --identify prints it

The device then registers under this ID with the ID scope of the server.`,
			`  berth enrollment create valve-1 --key
  berth enrollment create valve-2 --primary-key-file valve-2.key --device-id cellar-valve
  berth enrollment create leaf-1 --x509 leaf.pem --initial-twin twin.json
  berth enrollment create tpm-1 --tpm @ek.b64 --allocation static --reprovision never
  berth enrollment create valve-3 --key --webhook @webhook.url
  berth enrollment create valve-4 --key --expression 'deviceRuntimeContext.payload.hub'`),
		individual.newShow(o, "Show one enrollment", `Show one enrollment, and what became of the device's last registration. Symmetric
keys are secret and shown with --keys alone.`,
			`  berth enrollment show pump-7
  berth enrollment show pump-7 -o json
  berth enrollment show pump-7 --keys=primary`),
		individual.newList(o, "List the enrollments", `List the individual enrollments, ordered by registration ID.`,
			`  berth enrollment list
  berth enrollment list --limit 10 -o json`),
		individual.newUpdate(o, "Change one enrollment", `Change what the flags name in one enrollment; all else stays, keys and certificates
included. The change is made only if nobody else changed it meanwhile.

A new credential counts from the device's next registration on. To roll symmetric
keys replace one of the two, let the devices change over, and then the other;
--key alone makes two new ones at once.`,
			`  berth enrollment update pump-7 --disable
  berth enrollment update pump-7 --enable
  berth enrollment update pump-7 --secondary-key-file new.key
  berth enrollment update pump-7 --x509 leaf.pem --secondary-x509 next.pem`),
		individual.newDelete(o, "Delete one enrollment", `Delete one enrollment. The device keeps its identity at its hub and the record of
its registration, but cannot register again; to keep a device of a group out,
disable its enrollment instead.`,
			`  berth enrollment delete pump-7`),
		newEnrollmentImport(o), newEnrollmentExport(o),
	)
	return c
}
