package sqlite

import (
	"context"
	"errors"
	"sync"
)

// A together is the transaction of Together, as its context carries it: what is
// read and written with that context is read and written here.
type together struct {
	mu     sync.Mutex // held by who uses the rest
	tx     *tx        // nil when it is over
	failed error      // of a write that left something half done
}

// A togetherKey is the key of a together in a context. It is of one store:
// another one has transactions of its own.
type togetherKey struct{ store *Store }

func (s *Store) together(ctx context.Context) *together {
	g, _ := ctx.Value(togetherKey{s}).(*together)
	return g
}

// Together implements provision.Records. do runs where everything is written,
// so it must not wait for a write with another context: that never begins. What
// it reads with its own context, it reads in the transaction.
func (s *Store) Together(ctx context.Context, do func(context.Context) error) error {
	return s.write(ctx, func(t *tx) error {
		g := &together{tx: t}
		defer g.end()
		err := do(context.WithValue(context.WithoutCancel(ctx), togetherKey{s}, g))
		if err == nil {
			err = g.failed
		}
		return err
	})
}

// use runs f with the transaction, unless somebody else is using it or it is
// over.
func (g *together) use(f func(*tx) error) error {
	if !g.mu.TryLock() {
		return errors.New("the store is used by a decision of its own, or by several at once in one transaction")
	}
	defer g.mu.Unlock()
	if g.tx == nil {
		return errors.New("the transaction of this context is over")
	}
	return f(g.tx)
}

// write runs do as a part of the transaction. When it fails halfway, the whole
// transaction does, whatever becomes of the error.
func (g *together) write(do func(*tx) error) error {
	return g.use(func(t *tx) error {
		began := t.writes
		err := do(t)
		if err != nil && t.writes > began && g.failed == nil {
			g.failed = err
		}
		return err
	})
}

// end keeps those whose context escaped from the transaction.
func (g *together) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tx = nil
}
