package cli

import (
	"context"
	"errors"

	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/internal/app/cli/manifest"
	"github.com/berth-iot/berth/internal/app/cli/roster"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// readDocument understands a document about an enrollment.
func (k entryKind) readDocument(d manifest.Document) (string, planner, error) {
	if err := strictly(d, k.blank()); err != nil {
		return "", nil, err
	}
	want, err := k.decode(d.Body)
	if err != nil {
		return "", nil, err
	}
	if want.RegistrationID == "" {
		return "", nil, errors.New(k.idMember() + ": is missing")
	}
	if !d.Absent {
		if want.Attestation == nil {
			return "", nil, errors.New("attestation: is missing")
		}
		if err := checkEntry(k.kind, want, false); err != nil {
			return "", nil, err
		}
	}
	return want.RegistrationID, func(ctx context.Context, a *applier) (step, error) {
		return k.planned(ctx, a, want, d.Absent)
	}, nil
}

// planned compares the enrollment that is wanted with the one that is there.
func (k entryKind) planned(ctx context.Context, a *applier, want entry, absent bool) (step, error) {
	have, err := k.read(ctx, a.enrollments, want.RegistrationID)
	missing := isMissing(err)
	switch {
	case err != nil && !missing:
		return step{}, err
	case missing && absent:
		return step{Action: toNone}, nil
	case missing:
		return step{Action: toCreate, do: func(ctx context.Context) error {
			_, err := k.create(ctx, a.enrollments, want)
			return err
		}}, nil
	case absent:
		return step{Action: toDelete, do: func(ctx context.Context) error {
			return k.remove(ctx, a.enrollments, have.RegistrationID, have.ETag)
		}}, nil
	}
	if want.Attestation.SymmetricKey != nil { // what is read of an enrollment hides its keys
		keys, err := k.keys(ctx, a.enrollments, want.RegistrationID)
		if err != nil {
			return step{}, err
		}
		have.Attestation = keys
	}
	members := roster.Differences(want, have)
	if len(members) == 0 {
		return step{Action: toNone}, nil
	}
	want.ETag = have.ETag
	return step{Action: toUpdate, Members: members, do: func(ctx context.Context) error {
		_, err := k.update(ctx, a.enrollments, want)
		return err
	}}, nil
}

// blank returns what a document about an enrollment of the kind is read into.
func (k entryKind) blank() any {
	if k.kind == enroll.Group {
		return new(dpsjson.EnrollmentGroup)
	}
	return new(dpsjson.IndividualEnrollment)
}

func (k entryKind) idMember() string {
	if k.kind == enroll.Group {
		return "enrollmentGroupId"
	}
	return "registrationId"
}
