package sqlite

import (
	"encoding/json"
	"fmt"
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

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// parallel runs f b.N times in all, by workers at once, and reports operations
// a second and CPU time an operation.
func parallel(b *testing.B, workers int, f func(i int) error) {
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

func benchRegistration(i int) *provision.Registration {
	now := time.Unix(1750000000, int64(i))
	return &provision.Registration{
		Scope: testScope, Key: device.RegistrationID(fmt.Sprintf("device-%08x", uint32(i)*2654435761)), ID: fmt.Sprintf("Device-%08x", uint32(i)*2654435761),
		GroupID: "line-1", Attestation: attest.TypeSymmetricKey, Status: provision.Assigned, Substatus: provision.InitialAssignment,
		Hub: "hub-1.example.com", DeviceID: device.ID(fmt.Sprintf("Device-%08x", uint32(i)*2654435761)),
		OperationID: "1.0123456789abcdef.01234567-89ab-4cde-8f01-23456789abcd", ETag: "01234567-89ab-4cde-8f01-23456789abcd",
		Created: now, Updated: now,
	}
}

// BenchmarkRegister is what one registration writes: its record and the
// device's identity and twin.
func BenchmarkRegister(b *testing.B) {
	for _, again := range []bool{false, true} {
		name := "first"
		if again {
			name = "again"
		}
		b.Run(name, func(b *testing.B) {
			s := openTest(b)
			ctx := b.Context()
			key, err := device.NewSymmetricKey(make([]byte, 64))
			if err != nil {
				b.Fatal(err)
			}
			register := func(i int) error {
				if again {
					i %= 1000
				}
				r := benchRegistration(i)
				if err := s.ChangeRegistration(ctx, testScope, r.Key, func(*provision.Registration) (*provision.Registration, error) { return r, nil }); err != nil {
					return err
				}
				return s.Change(ctx, r.Hub, r.DeviceID, func(d *hub.Device, twin *hub.Twin) (*hub.Device, *hub.Twin, error) {
					if d != nil {
						return d, twin, nil
					}
					d = &hub.Device{Hub: r.Hub, ID: r.DeviceID, GenerationID: "638000000000000000", ETag: "MTIzNDU2Nzg5", StatusUpdated: r.Created,
						Auth: hub.Authentication{Type: hub.AuthSAS, Keys: attest.SymmetricKeys{Primary: key, Secondary: key}}}
					twin = &hub.Twin{Tags: json.RawMessage("{}"), Desired: json.RawMessage(`{"interval":60}`), Reported: json.RawMessage("{}"), Version: 2, DesiredVersion: 1, ReportedVersion: 1}
					return d, twin, nil
				})
			}
			if again {
				for i := range 1000 {
					if err := register(i); err != nil {
						b.Fatal(err)
					}
				}
			}
			parallel(b, 64, register)
		})
	}
}

func BenchmarkEntry(b *testing.B) {
	s := openTest(b)
	ctx := b.Context()
	key, err := device.NewSymmetricKey(make([]byte, 64))
	if err != nil {
		b.Fatal(err)
	}
	keyOf := func(i int) device.RegistrationID {
		return device.RegistrationID(fmt.Sprintf("device-%08x", uint32(i%10000)*2654435761))
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < 10000; i += 16 {
				e := &enroll.Entry{Scope: testScope, Kind: enroll.Individual, ID: string(keyOf(i)),
					Attestation: attest.Mechanism{Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: key, Secondary: key}}}
				if err := s.ChangeEntry(ctx, testScope, enroll.Individual, e.Key(), func(*enroll.Entry) (*enroll.Entry, error) { return e, nil }); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.Run("found", func(b *testing.B) {
		parallel(b, 8, func(i int) error {
			_, err := s.Entry(ctx, testScope, enroll.Individual, keyOf(i))
			return err
		})
	})
	b.Run("missing", func(b *testing.B) {
		parallel(b, 8, func(i int) error {
			if _, err := s.Entry(ctx, testScope, enroll.Individual, device.RegistrationID(fmt.Sprintf("stranger-%d", i))); err == nil {
				return fmt.Errorf("found a stranger")
			}
			return nil
		})
	})
}

func BenchmarkAppend(b *testing.B) {
	s := openTest(b)
	body := make([]byte, 200)
	parallel(b, 64, func(i int) error {
		return s.Append(b.Context(), []*hub.Message{{Hub: "hub-1.example.com", DeviceID: "device-1", Enqueued: time.Unix(1750000000, int64(i)),
			System: map[string]string{"connection-device-id": "device-1", "message-source": "Telemetry"}, Body: body}})
	})
}
