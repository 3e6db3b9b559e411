package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// An importRate says how fast enrollments can be made.
type importRate struct {
	server    *server
	way       string
	key       string // in the JSON results
	perSecond float64
	cpuEach   time.Duration // of the server
}

// importers is how many calls an import through the API makes at a time, what
// "berth enrollment import" does where it is not told.
const importers = 8

// importRates imports enrollments with symmetric keys into the smallest server
// of each engine, when all else is measured.
func (b *bencher) importRates(ctx context.Context) error {
	done := map[string]bool{}
	for _, s := range b.places {
		if done[s.engine] || b.imports == 0 {
			continue
		}
		done[s.engine] = true
		for _, way := range []struct {
			key, name string
			do        func(context.Context, *server) error
		}{
			{"bulk", "bulk calls of ten, 8 at a time", b.importInBulk},
			{"command", "berth enrollment import of a CSV file", b.importByCommand},
		} {
			b.progress("%s: importing %d more, %s", s.spec, b.imports, way.name)
			before, err := s.quiet()
			if err != nil {
				return err
			}
			began := time.Now()
			if err := way.do(ctx, s); err != nil {
				return fmt.Errorf("importing, %s: %w", way.name, err)
			}
			took := time.Since(began)
			after, err := s.quiet()
			if err != nil {
				return err
			}
			b.rates = append(b.rates, importRate{
				server: s, way: way.name, key: way.key,
				perSecond: float64(b.imports) / took.Seconds(), cpuEach: (after - before) / time.Duration(b.imports),
			})
		}
	}
	return nil
}

func (b *bencher) importInBulk(ctx context.Context, s *server) error {
	n := b.imports
	calls := (n + dpsjson.MaxBulkItem - 1) / dpsjson.MaxBulkItem
	return concurrently(ctx, importers, calls, func(ctx context.Context, call int) error {
		var items []dpsjson.IndividualEnrollment
		for i := call * dpsjson.MaxBulkItem; i < min(n, (call+1)*dpsjson.MaxBulkItem); i++ {
			key, err := device.GenerateSymmetricKey(rand.Reader, keySize)
			if err != nil {
				return err
			}
			items = append(items, dpsjson.IndividualEnrollment{
				RegistrationID: individualID("bulk", i),
				Attestation: &dpsjson.AttestationMechanism{Type: dpsjson.AttestationSymmetricKey, SymmetricKey: &dpsjson.SymmetricKeys{
					PrimaryKey: dpsjson.Key{SymmetricKey: key}, SecondaryKey: dpsjson.Key{SymmetricKey: key},
				}},
			})
		}
		outcomes, err := s.operator.BulkEnrollments(ctx, dpsjson.BulkCreate, items)
		return errors.Join(append(outcomes, err)...)
	})
}

func (b *bencher) importByCommand(ctx context.Context, s *server) error {
	var text strings.Builder
	text.WriteString("registrationId,attestation,primaryKey\n")
	for i := range b.imports {
		key, err := device.GenerateSymmetricKey(rand.Reader, keySize)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s,symmetricKey,%s\n", individualID("command", i), key.Base64())
	}
	file := filepath.Join(s.dir, "devices.csv")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, b.berth, "enrollment", "import", file, "--data", s.data, "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var report struct{ Created int }
	if err := json.Unmarshal(out, &report); err != nil {
		return err
	}
	if report.Created != b.imports {
		return fmt.Errorf("%d of %d were created", report.Created, b.imports)
	}
	return nil
}
