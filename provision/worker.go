package provision

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// lookEvery is how often a server looks for registrations that are due, with up
	// to half of it added by chance.
	lookEvery = 2 * time.Second
	// maxFound bounds what is read at a time; there is more soon after.
	maxFound  = 256
	moreAfter = 200 * time.Millisecond
	// maxHanded bounds the registrations that wait for a worker in memory. Those
	// beyond it are found due.
	maxHanded = 1024
)

// errStopping is why attempts are cut off when the server stops.
var errStopping = errors.New("the server stops")

// hand gives a registration to a worker at once, where one is free soon.
func (r *Registrar) hand(record *Registration) {
	if record.Pending.Due.After(r.Now()) {
		return
	}
	select {
	case r.handed <- record.ticket():
	default:
	}
}

// ticket is what there is to know of a record to take its lease; a payload may be
// large.
func (r *Registration) ticket() *Registration {
	return &Registration{
		Scope: r.Scope, Key: r.Key, Status: r.Status, OperationID: r.OperationID,
		Pending: &Pending{Due: r.Pending.Due, Lease: r.Pending.Lease},
	}
}

// Run finishes registrations that are under way, those of this Registrar at once
// and those that other servers left behind when they are due, until ctx ends. Then
// it begins no more, lets those that it works on take up to grace, gives the rest
// back for others to finish, and returns.
func (r *Registrar) Run(ctx context.Context, grace time.Duration) {
	working, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var workers sync.WaitGroup
	for range r.Workers {
		workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case record := <-r.handed:
					r.attempt(working, record)
				}
			}
		})
	}
	workers.Go(func() { r.look(ctx) })
	<-ctx.Done()
	timer := time.AfterFunc(grace, func() { stop(errStopping) })
	defer timer.Stop()
	workers.Wait()
}

// attempt is finish for who has nobody to tell.
func (r *Registrar) attempt(ctx context.Context, record *Registration) {
	if ctx.Err() != nil {
		return
	}
	err := r.finish(ctx, record)
	if err != nil && !errors.Is(err, errLost) {
		r.Fault(fmt.Errorf("finishing the registration of %s/%s: %w", record.Scope, record.Key, err))
	}
}

// look hands the workers what is due until ctx ends.
func (r *Registrar) look(ctx context.Context) {
	for {
		due, err := r.Records.DueRegistrations(ctx, r.Now(), maxFound)
		if err != nil && ctx.Err() == nil {
			r.Fault(fmt.Errorf("looking for registrations that are due: %w", err))
		}
		for _, record := range due {
			select {
			case r.handed <- record.ticket():
			case <-ctx.Done():
				return
			}
		}
		wait := r.pause()
		if len(due) == maxFound {
			wait = moreAfter
		}
		pause := time.NewTimer(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// pause keeps servers that were started together from looking together.
func (r *Registrar) pause() time.Duration {
	var chance [8]byte
	if _, err := r.Random.Read(chance[:]); err != nil {
		return lookEvery
	}
	return lookEvery + time.Duration(binary.BigEndian.Uint64(chance[:])%uint64(lookEvery/2))
}
