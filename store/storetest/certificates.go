package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

// caCertificate returns one with everything in it.
func caCertificate(scope device.IDScope, name string) *enroll.CACertificate {
	c := filled[*enroll.CACertificate]()
	c.Scope, c.Name = scope, name
	return c
}

func putCACertificate(ctx context.Context, s Store, c *enroll.CACertificate) error {
	return s.ChangeCACertificate(ctx, c.Scope, c.Name, func(*enroll.CACertificate) (*enroll.CACertificate, error) { return c, nil })
}

func deleteCACertificate(ctx context.Context, s Store, scope device.IDScope, name string) error {
	return s.ChangeCACertificate(ctx, scope, name, func(*enroll.CACertificate) (*enroll.CACertificate, error) { return nil, nil })
}

// listsCACertificates wants scope to have exactly these CA certificates.
func listsCACertificates(t *testing.T, s Store, scope device.IDScope, want ...*enroll.CACertificate) {
	t.Helper()
	got, err := s.CACertificates(t.Context(), scope)
	noError(t, err)
	same(t, got, want)
}

var certificateRules = []rule{
	{"a CA certificate is what was put, in every member, under its name in any case", func(t *testing.T, s Store) {
		want := caCertificate(scopeA, "Plant_1.root-CA")
		noError(t, putCACertificate(t.Context(), s, want))
		for _, name := range []string{"Plant_1.root-CA", "plant_1.ROOT-ca"} {
			got, err := s.CACertificate(t.Context(), scopeA, name)
			noError(t, err)
			same(t, got, want)
		}
		listsCACertificates(t, s, scopeA, want)

		empty := &enroll.CACertificate{Scope: scopeA, Name: "PLANT_1.ROOT-CA", Certificate: []byte{}}
		noError(t, putCACertificate(t.Context(), s, empty))
		got, err := s.CACertificate(t.Context(), scopeA, "plant_1.root-ca")
		noError(t, err)
		same(t, got, empty)
		listsCACertificates(t, s, scopeA, empty)
	}},
	{"a missing CA certificate is NotFound, also after it was removed", func(t *testing.T, s Store) {
		missing := func() {
			t.Helper()
			_, err := s.CACertificate(t.Context(), scopeA, "plant")
			isKind(t, err, errs.NotFound)
			listsCACertificates(t, s, scopeA)
		}
		missing()
		noError(t, deleteCACertificate(t.Context(), s, scopeA, "plant"))
		missing()
		noError(t, putCACertificate(t.Context(), s, caCertificate(scopeA, "Plant")))
		noError(t, deleteCACertificate(t.Context(), s, scopeA, "pLANT"))
		missing()
	}},
	{"CA certificates are listed by name without case, one list a scope", func(t *testing.T, s Store) {
		other := caCertificate(scopeB, "b")
		other.Verified = false
		noError(t, putCACertificate(t.Context(), s, other))
		listsCACertificates(t, s, scopeA)
		b, c, a := caCertificate(scopeA, "B"), caCertificate(scopeA, "c"), caCertificate(scopeA, "a_")
		for _, one := range []*enroll.CACertificate{c, b, a} {
			noError(t, putCACertificate(t.Context(), s, one))
		}
		listsCACertificates(t, s, scopeA, a, b, c)
		noError(t, deleteCACertificate(t.Context(), s, scopeA, "b"))
		listsCACertificates(t, s, scopeA, a, c)
		listsCACertificates(t, s, scopeB, other)
		_, err := s.CACertificate(t.Context(), scopeB, "c")
		isKind(t, err, errs.NotFound)
	}},
	{"who decides about a CA certificate sees what is there, and can refuse", func(t *testing.T, s Store) {
		refusal := errors.New("no")
		err := s.ChangeCACertificate(t.Context(), scopeA, "plant", func(old *enroll.CACertificate) (*enroll.CACertificate, error) {
			if old != nil {
				t.Errorf("there is %+v", old)
			}
			return caCertificate(scopeA, "plant"), refusal
		})
		if !errors.Is(err, refusal) {
			t.Errorf("error %v", err)
		}
		want := caCertificate(scopeA, "Plant")
		noError(t, putCACertificate(t.Context(), s, want))
		err = s.ChangeCACertificate(t.Context(), scopeA, "plant", func(old *enroll.CACertificate) (*enroll.CACertificate, error) {
			same(t, old, want)
			old.Verified = false
			return nil, refusal
		})
		if !errors.Is(err, refusal) {
			t.Errorf("error %v", err)
		}
		listsCACertificates(t, s, scopeA, want)
	}},
	{"a CA certificate is not renamed, and is of a scope there is", func(t *testing.T, s Store) {
		for _, next := range []*enroll.CACertificate{caCertificate(scopeA, "other"), caCertificate(scopeB, "plant")} {
			err := s.ChangeCACertificate(t.Context(), scopeA, "plant", func(*enroll.CACertificate) (*enroll.CACertificate, error) { return next, nil })
			isKind(t, err, errs.Internal)
		}
		listsCACertificates(t, s, scopeA)
		isKind(t, putCACertificate(t.Context(), s, caCertificate(nowhere, "plant")), errs.NotFound)
	}},
	{"of two who make a CA certificate at once the second sees the first's", func(t *testing.T, s Store) {
		listsCACertificates(t, s, scopeA)
		var made sync.WaitGroup
		for range 8 {
			made.Go(func() {
				err := s.ChangeCACertificate(t.Context(), scopeA, "plant", func(old *enroll.CACertificate) (*enroll.CACertificate, error) {
					next := &enroll.CACertificate{Scope: scopeA, Name: "plant", Certificate: []byte{}}
					if old != nil {
						next.ETag = old.ETag
					}
					next.ETag += "x"
					return next, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		made.Wait()
		got, err := s.CACertificates(t.Context(), scopeA)
		noError(t, err)
		if len(got) != 1 || got[0].ETag != "xxxxxxxx" {
			t.Errorf("%+v", got)
		}
	}},
}
