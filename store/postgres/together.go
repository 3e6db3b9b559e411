package postgres

import (
	"context"
	"errors"
	"sync"
)

// A together is the transaction of Together, as its context carries it: what is
// read and written with that context is read and written here.
type together struct {
	mu  sync.Mutex // held by who uses the rest
	tx  *tx        // nil when it is over
	ctx context.Context
}

// A togetherKey is the key of a together in a context. It is of one store:
// another one has transactions of its own.
type togetherKey struct{ store *Store }

func (s *Store) together(ctx context.Context) *together {
	g, _ := ctx.Value(togetherKey{s}).(*together)
	return g
}

// Together implements provision.Records. What do changes is locked when it is
// read and sent with what it reads next or with the commit; the whole of do is
// repeated when another transaction was faster. What it reads with its own context, it reads in the
// transaction; reading with another one takes one more connection.
func (s *Store) Together(ctx context.Context, do func(context.Context) error) error {
	return s.transact(ctx, func(ctx context.Context, t *tx) error {
		g := &together{tx: t, ctx: ctx}
		defer g.end()
		return do(context.WithValue(ctx, togetherKey{s}, g))
	})
}

// use runs f with the transaction, unless somebody else is using it or it is
// over. f gets the transaction's own context: one that ends sooner would break
// the connection.
func (g *together) use(f func(context.Context, *tx) error) error {
	if !g.mu.TryLock() {
		return errors.New("the store is used by a decision of its own, or by several at once in one transaction")
	}
	defer g.mu.Unlock()
	if g.tx == nil {
		return errors.New("the transaction of this context is over")
	}
	return f(g.ctx, g.tx)
}

// write runs do as a part of the transaction. When it fails halfway, the whole
// transaction does, whatever becomes of the error.
func (g *together) write(do func(context.Context, *tx) error) error {
	return g.use(func(ctx context.Context, t *tx) error {
		began := t.wrote
		err := do(ctx, t)
		if err != nil && t.wrote > began && t.failed == nil {
			t.failed = err
		}
		return err
	})
}

func (g *together) read(q query) error {
	return g.use(func(ctx context.Context, t *tx) error { return t.read(ctx, q) })
}

// end keeps those whose context escaped from the transaction.
func (g *together) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tx = nil
}
