package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// Parallel runs f b.N times in all, by workers at once, and reports operations
// a second and this process's CPU time an operation.
func Parallel(b *testing.B, workers int, f func(i int) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	before := cpu()
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e3, "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// scattered is a name that comes nowhere near those of its neighbours.
func scattered(i int) string { return fmt.Sprintf("Device-%08x", uint32(i)*2654435761) }

func benchKeys(b *testing.B, i int) attest.SymmetricKeys {
	bytes := make([]byte, 64)
	copy(bytes, scattered(i))
	primary, err := device.NewSymmetricKey(bytes)
	if err != nil {
		b.Fatal(err)
	}
	bytes[63] = 1
	secondary, err := device.NewSymmetricKey(bytes)
	if err != nil {
		b.Fatal(err)
	}
	return attest.SymmetricKeys{Primary: primary, Secondary: secondary}
}

// BenchmarkRegister is what one registration writes, its record and the device's
// identity with its twin: one after the other, and together.
func BenchmarkRegister(b *testing.B, open func(testing.TB) Store) {
	for _, c := range []struct {
		name            string
		again, together bool
	}{{"first/apart", false, false}, {"first/together", false, true}, {"again/apart", true, false}, {"again/together", true, true}} {
		b.Run(c.name, func(b *testing.B) {
			s := open(b)
			register := func(i int) error {
				if c.again {
					i %= 1000
				}
				do := func(ctx context.Context) error { return benchRegister(ctx, s, i, benchKeys(b, i)) }
				if c.together {
					return s.Together(b.Context(), do)
				}
				return do(b.Context())
			}
			if c.again {
				for i := range 1000 {
					if err := register(i); err != nil {
						b.Fatal(err)
					}
				}
			}
			Parallel(b, 64, register)
		})
	}
}

func benchRegister(ctx context.Context, s Store, i int, keys attest.SymmetricKeys) error {
	id, now := device.ID(scattered(i)), time.Unix(1750000000, int64(i))
	key, err := device.ParseRegistrationID(string(id))
	if err != nil {
		return err
	}
	err = s.Change(ctx, hub.Place{Hub: "hub-1.example.com", ID: id}, func(d *hub.Identity, twin *hub.Twin) (*hub.Identity, *hub.Twin, error) {
		if d != nil {
			return d, twin, nil
		}
		d = &hub.Identity{Place: hub.Place{Hub: "hub-1.example.com", ID: id}, GenerationID: "638000000000000000", ETag: "MTIzNDU2Nzg5", StatusUpdated: now,
			Auth: hub.Authentication{Type: hub.AuthSAS, Keys: keys}}
		twin = &hub.Twin{Tags: json.RawMessage("{}"), Desired: json.RawMessage(`{"interval":60}`), Reported: json.RawMessage("{}"), Version: 2, DesiredVersion: 1, ReportedVersion: 1}
		return d, twin, nil
	})
	if err != nil {
		return err
	}
	return s.ChangeRegistration(ctx, scopeA, key, func(*provision.Registration) (*provision.Registration, error) {
		return &provision.Registration{
			Scope: scopeA, Key: key, ID: string(id), GroupID: "line-1", Attestation: attest.TypeSymmetricKey,
			Status: provision.Assigned, Substatus: provision.InitialAssignment, Hub: "hub-1.example.com", DeviceID: id,
			OperationID: "1.0123456789abcdef.01234567-89ab-4cde-8f01-23456789abcd", ETag: "01234567-89ab-4cde-8f01-23456789abcd",
			Created: now, Updated: now,
		}, nil
	})
}

// BenchmarkImport puts individual enrollments with symmetric keys of their own,
// without asking whether they are and with it.
func BenchmarkImport(b *testing.B, open func(testing.TB) Store) {
	for name, put := range map[string]func(context.Context, Store, *enroll.Entry) error{"any": putEntry, "unshared": putUnshared} {
		b.Run(name, func(b *testing.B) {
			s := open(b)
			Parallel(b, 64, func(i int) error { return put(b.Context(), s, benchEntry(b, i)) })
		})
	}
}

func benchEntry(b *testing.B, i int) *enroll.Entry {
	keys := benchKeys(b, i)
	return &enroll.Entry{Scope: scopeA, Kind: enroll.Individual, ID: scattered(i), ETag: "01234567-89ab-4cde-8f01-23456789abcd",
		Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &keys}}
}

// BenchmarkEntry looks for enrollments, for some that are there and for some
// that are not.
func BenchmarkEntry(b *testing.B, open func(testing.TB) Store) {
	const entries = 10000
	s := open(b)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < entries; i += 16 {
				if err := putEntry(b.Context(), s, benchEntry(b, i)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.Run("found", func(b *testing.B) {
		Parallel(b, 8, func(i int) error {
			key, err := device.ParseRegistrationID(scattered(i % entries))
			if err == nil {
				_, err = s.Entry(b.Context(), scopeA, enroll.Individual, key)
			}
			return err
		})
	})
	b.Run("missing", func(b *testing.B) {
		Parallel(b, 8, func(i int) error {
			if _, err := s.Entry(b.Context(), scopeA, enroll.Individual, device.RegistrationID(fmt.Sprintf("stranger-%d", i))); err == nil {
				return fmt.Errorf("found a stranger")
			}
			return nil
		})
	})
}

// BenchmarkAppend appends messages, in batches of several sizes and by one or
// many at once: messages a second, and CPU time a message.
func BenchmarkAppend(b *testing.B, open func(testing.TB) Store) {
	for _, workers := range []int{1, 64} {
		for _, size := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("workers=%d/batch=%d", workers, size), func(b *testing.B) {
				s, free := open(b), make(chan []*hub.Message, workers)
				for i := range workers {
					free <- telemetry(i, size)
				}
				before := cpu()
				Parallel(b, workers, func(int) error {
					ms := <-free
					defer func() { free <- ms }()
					return s.Append(b.Context(), ms)
				})
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "messages/s")
				b.ReportMetric(float64(cpu()-before)/float64(b.N*size), "cpu-ns/message")
			})
		}
	}
}

// telemetry is what the hub keeps of n messages of 200 bytes.
func telemetry(i, n int) []*hub.Message {
	now := time.Unix(1750000000, int64(i)).UTC()
	ms := make([]*hub.Message, n)
	for j := range ms {
		id := "device-" + strconv.Itoa(j)
		ms[j] = &hub.Message{
			Hub: "hub-1.example.com", DeviceID: device.ID(id), Enqueued: now,
			System: map[string]string{
				"connection-device-id": id, "connection-auth-generation-id": "638000000000000000", "message-source": "Telemetry",
				"connection-auth-method": `{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`,
				"enqueuedtime":           "2025-06-15T15:06:40.0000000Z", "content-type": "application/json", "content-encoding": "utf-8",
			},
			Properties: map[string]string{"line": "7"},
			Body:       make([]byte, 200),
		}
	}
	return ms
}
