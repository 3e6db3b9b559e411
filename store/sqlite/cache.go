package sqlite

import "sync"

// maxCached bounds a cache. It is far above what one server is configured
// with, and keeps names that strangers made up from filling the memory.
const maxCached = 4096

// A cache keeps what every registration asks for and operators seldom change.
// Its values are shared: nobody changes them. Forget is called between the
// commit that changed a value and the answer to who changed it, so that they
// never see the old one. The zero value is ready.
type cache[K comparable, V any] struct {
	loading sync.Mutex // held while a value is loaded; taken before mu

	mu     sync.RWMutex // guards the rest
	values map[K]V
	key    K    // of the value that is being loaded
	stale  bool // key was forgotten since loading it began
}

// get returns the value of k, loading it when it is not known. Errors are not
// kept.
func (c *cache[K, V]) get(k K, load func() (V, error)) (V, error) {
	if v, ok := c.lookup(k); ok {
		return v, nil
	}
	c.loading.Lock()
	defer c.loading.Unlock()
	if v, ok := c.lookup(k); ok {
		return v, nil
	}
	c.mu.Lock()
	c.key, c.stale = k, false
	c.mu.Unlock()
	v, err := load()
	if err != nil {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stale {
		c.keep(k, v)
	}
	return v, nil
}

func (c *cache[K, V]) lookup(k K) (V, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.values[k]
	return v, ok
}

func (c *cache[K, V]) keep(k K, v V) {
	if c.values == nil {
		c.values = make(map[K]V)
	}
	for other := range c.values {
		if len(c.values) < maxCached {
			break
		}
		delete(c.values, other)
	}
	c.values[k] = v
}

// forget drops the value of k, also one that is just being loaded.
func (c *cache[K, V]) forget(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.values, k)
	if c.key == k {
		c.stale = true
	}
}
