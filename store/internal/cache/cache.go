// Package cache keeps in memory what is asked for often and seldom changes.
package cache

import (
	"context"
	"errors"
	"sync"
)

// maxKept bounds a cache. It is far above what one server is configured with,
// and keeps names that strangers made up from filling the memory.
const maxKept = 4096

// A Cache keeps what every registration asks for and operators seldom change.
// Its values are shared: nobody changes them. Forget is called between the
// commit that changed a value and the answer to who changed it, so that they
// never see the old one. The zero value is ready.
type Cache[K comparable, V any] struct {
	mu      sync.Mutex // guards the rest
	values  map[K]V
	flights map[K]*flight[V] // those whose values may be kept
}

// A flight is the loading of a value, for everybody who asks meanwhile.
type flight[V any] struct {
	done  chan struct{} // closed when it is over; value and err are set before
	value V
	err   error
}

// Get returns the value of k, loading it when it is not known. Those who ask
// for it at the same time share what one of them loads. Errors are not kept.
func (c *Cache[K, V]) Get(ctx context.Context, k K, load func(context.Context) (V, error)) (V, error) {
	for {
		c.mu.Lock()
		if v, ok := c.values[k]; ok {
			c.mu.Unlock()
			return v, nil
		}
		f, ok := c.flights[k]
		if !ok {
			return c.lead(ctx, k, load)
		}
		c.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return f.value, ctx.Err()
		}
		// That the one who loaded it gave up is no reason for the others to.
		if !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) {
			return f.value, f.err
		}
	}
}

// lead loads the value of k. The caller holds mu, which lead releases.
func (c *Cache[K, V]) lead(ctx context.Context, k K, load func(context.Context) (V, error)) (V, error) {
	if c.flights == nil {
		c.flights, c.values = make(map[K]*flight[V]), make(map[K]V)
	}
	f := &flight[V]{done: make(chan struct{}), err: errors.New("loading panicked")}
	c.flights[k] = f
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.flights[k] == f {
			delete(c.flights, k)
			if f.err == nil {
				c.keep(k, f.value)
			}
		}
		close(f.done)
	}()
	f.value, f.err = load(ctx)
	return f.value, f.err
}

func (c *Cache[K, V]) keep(k K, v V) {
	for other := range c.values {
		if len(c.values) < maxKept {
			break
		}
		delete(c.values, other)
	}
	c.values[k] = v
}

// Forget drops the value of k, also one that is just being loaded: who asks
// from now on is not given it.
func (c *Cache[K, V]) Forget(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.values, k)
	delete(c.flights, k)
}

// Clear forgets every value.
func (c *Cache[K, V]) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.values)
	clear(c.flights)
}
